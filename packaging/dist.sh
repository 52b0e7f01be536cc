#!/usr/bin/env bash
# Build the distribution for each of ARCHS into a directory (dist): static binaries, archives, deb and rpm, bills of
# materials, the licences of all components, and SHA256SUMS. The build is reproducible: the same commit and Go version give
# the same bytes on every machine.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
# Later versions need modules that the public module proxy does not serve.
NFPM=${NFPM:-$GO run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2}
CYCLONEDX=${CYCLONEDX:-$GO run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0}
ARCHS=${ARCHS:-amd64 arm64}
VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
out=$(realpath -m "${1:-dist}")

# The revision is set here, because Go reads it from some kinds of checkouts only.
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
umask 022
PKGVERSION=$(packaging/version.sh "$VERSION")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export PKGVERSION SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out"/fsban* "$out"/SHA256SUMS
ldflags="-s -w -X main.version=$VERSION -X main.commit=$(git rev-parse HEAD 2>/dev/null || true)"

for program in fsban fsban-demo; do
	env -u GOOS -u GOARCH "$GO" run -tags docs -ldflags "$ldflags" "./cmd/$program" "$work"
done
gzip -9 -n "$work"/man/*.1

for arch in $ARCHS; do
	name=fsban_${PKGVERSION}_linux_$arch
	GOOS=linux GOARCH=$arch GOAMD64=v1 "$GO" build -ldflags "$ldflags" -o "$work/fsban" ./cmd/fsban
	GOOS=linux GOARCH=$arch GOAMD64=v1 "$GO" build -ldflags "$ldflags" -o "$work/fsban-demo" ./cmd/fsban-demo
	install -m 755 "$work/fsban" "$out/$name"
	$CYCLONEDX bin -json -output-version 1.5 -std -noserial -notimestamp -licenses -assert-licenses -version "$PKGVERSION" \
		-output "$work/bill.json" "$work/fsban" 2>"$work/log" || { cat "$work/log"; exit 1; }
	"$GO" run ./packaging/sbom -modules "$("$GO" env GOMODCACHE)" -goroot "$("$GO" env GOROOT)" \
		-texts "$work/licenses.txt" <"$work/bill.json" >"$out/$name.cdx.json"
	install -m 644 "$work/licenses.txt" "$out/$name.licenses.txt"

	tree=$work/$name
	mkdir -p "$tree/packaging" "$tree/dashboards/rules"
	install -m 755 "$work/fsban" "$work/fsban-demo" "$tree/"
	cp -r README.md README.zh-CN.md SECURITY.md CHANGELOG.md LICENSE config.example.yaml docs "$work/man" "$work/completion" "$work/licenses.txt" "$tree/"
	cp -r dashboards/{README.md,fsban.json,prometheus.yml,provisioning} "$tree/dashboards/"
	cp dashboards/rules/*.rules.yaml "$tree/dashboards/rules/"
	cp packaging/{fsban.service,fsban-sets.service,fsban.tmpfiles,config.yaml,logrotate.example} "$tree/packaging/"
	tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w -c "$name" |
		gzip -9 -n >"$out/$name.tar.gz"

	for kind in deb rpm; do
		ARCH=$arch WORK=$work $NFPM package --config packaging/nfpm.yaml --packager "$kind" --target "$out/" >"$work/log" || { cat "$work/log"; exit 1; }
	done
done
(cd "$out" && sha256sum fsban* >SHA256SUMS)
ls -l "$out"
