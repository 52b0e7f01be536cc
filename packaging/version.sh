#!/bin/sh
# version.sh DESCRIPTION: turn the output of git describe into a version for packages. It is valid for dpkg and rpm, and later
# commits sort later: v1.2.0-rc1 < v1.2.0 < v1.2.0-4-gabc1234.
set -e

d=${1#v}
suffix=
case "$d" in *-dirty) d=${d%-dirty} suffix=.dirty ;; esac
case "$d" in
*-[0-9]*-g[0-9a-f]*) # commits after a tag
	hash=${d##*-g} d=${d%-g*}
	suffix=+${d##*-}.g$hash$suffix d=${d%-*}
	;;
esac
case "$d" in
[0-9]*.*) ;;
*) # no tag: the time of the commit
	date=$(git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S 2>/dev/null || true)
	suffix=~git${date:-0}.${d:-unknown}$suffix d=0.0.0
	;;
esac
case "$suffix" in .dirty) suffix=+dirty ;; esac
printf '%s%s\n' "$d" "$suffix" | sed 's/-/~/'
