#!/usr/bin/env bash
#
# What a ban costs, and what bans cost every packet: fsban's ways beside one rule a ban, in one run, as tables in markdown.
#
#   bench/kernel.sh [-r ROUNDS] [-t TIME_OF_A_PACKET_BENCHMARK]
#
# The figures come from the benchmarks in firewall, each run in user and network namespaces of its own; the host's rules are
# not touched, and no privilege is needed. The rounds alternate, figures are medians of them.
#
# Exit code: 0 measured, 1 something failed, 2 something is missing or the call is wrong.

set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

rounds=3
time=300ms

usage() { sed -n '5p' "$0" | cut -c5- >&2; exit 2; }
missing() { echo "$0: $*" >&2; exit 2; }
fail() { echo "$0: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
	case $1 in
	-r) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage; rounds=$2 ;;
	-t) [[ ${2:-} =~ ^[1-9][0-9]*m?s$ ]] || usage; time=$2 ;;
	*) usage ;;
	esac
	shift 2
done
for tool in go awk ip nft ipset iptables-nft iptables-legacy; do
	command -v "$tool" >/dev/null || missing "there is no $tool. Install it (Debian: apt-get install iproute2 nftables ipset iptables)"
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$(dirname "$0")/../firewall"
go test -c -o "$tmp/bench" . || fail "the benchmarks do not build"

# run BENCHMARK TIME: appends "name unit value" to $tmp/figures, a line for each figure.
run() {
	"$tmp/bench" -test.run '^$' -test.bench "$1" -test.benchtime "$2" >"$tmp/out" 2>&1 || fail "$1: $(cat "$tmp/out")"
	awk '/^Benchmark/ && NF > 2 {
		sub(/^Benchmark/, "", $1); sub(/-[0-9]+$/, "", $1)
		for (i = 3; i < NF; i += 2) print $1, $(i + 1), $i
	}' "$tmp/out" >>"$tmp/figures"
}

for ((round = 1; round <= rounds; round++)); do
	echo "round $round of $rounds" >&2
	run '^BenchmarkBan$' 5000x
	run '^BenchmarkBanOneByOne$' 200x
	run '^BenchmarkBans$/^(nft|nftables)$/^(5000|100000)$' 3x
	run '^BenchmarkBans$/^(nft|nftables)$/^1000000$' 1x
	run '^BenchmarkBansByRules$' 3x
	run '^BenchmarkList$/^(nft|nftables)$/^100000$' 3x
	# A namespace for each: what one leaves behind, empty tables, must not cost the next one's packets.
	for way in no_firewall {ipset,one_rule_a_ban},_iptables-{nft,legacy} nftables; do
		run "^BenchmarkPacket\$/^$way\$" "$time"
	done
	for way in nft legacy nftables; do
		run "^BenchmarkTap\$/^$way\$" "$time"
	done
done

sort -k1,2 -k3,3g "$tmp/figures" | awk -v rounds="$rounds" -v cores="$(nproc)" -v kernel="$(uname -r | cut -d. -f1,2)" \
	-v busy="$(cut -d' ' -f1 /proc/loadavg)" -v iptables="$(iptables --version | cut -d' ' -f2)" \
	-v ipset="$(ipset --version 2>/dev/null | sed -n '1s/,.*//; 1s/ipset //p')" -v nft="$(nft --version | cut -d' ' -f2)" '
	function median(key) {
		if (!(key in n)) { print "no figure: " key >"/dev/stderr"; failed = 1; exit 1 }
		return (value[key, int((n[key] + 1) / 2)] + value[key, int(n[key] / 2) + 1]) / 2
	}
	function us(key) { return median(key) / 1000 }
	function si(x) { return x < 10 ? sprintf("%.1f", x) : sprintf("%.0f", x) }
	function one(what, name,   p50, p99) {
		p50 = us(name " p50-ns"); p99 = us(name " p99-ns")
		printf "| %s | %.2g | %s | %s |\n", what, p50 / us("BanOneByOne/iptables p50-ns"), si(p50), si(p99)
	}
	function many(what, name, count,   t) {
		t = us(name " ns/op")
		printf "| %s | %d | %.2g | %.3f | %s |\n", what, count, t / count / us("BanOneByOne/iptables ns/op"), t / 1e6, si(t / count)
	}
	function packets(what, way, whose,   i, base, t) {
		base = us("Packet/no_firewall ns/op")
		printf "| %s, %s |", whose, what
		for (i = 1; i <= 4; i++) {
			if (whose == "banned" && bans[i] == 0) { printf " |"; continue }
			t = us("Packet/" way "/" bans[i] "/" whose " ns/op")
			printf " %s× (%s) |", t < base * 10 ? sprintf("%.2f", t / base) : sprintf("%.0f", t / base), si(t)
		}
		printf "\n"
	}
	function tap(what, packet,   i, base, t) {
		printf "| %s |", what
		for (i = 1; i <= 3; i++) {
			base = us("Tap/" kinds[i] "/no_tap ns/op")
			t = us("Tap/" kinds[i] "/" packet " ns/op")
			printf " %.2f× (%+.2f) |", t / base, t - base
		}
		printf "\n"
	}
	{ key = $1 " " $2; value[key, ++n[key]] = $3 }
	END {
		if (failed) exit 1
		split("0 1000 10000 50000", bans)
		printf "Linux %s, iptables %s, ipset %s, nftables %s; medians of %d rounds, %d cores, load %s at the end.\n\n", kernel, iptables, ipset, nft, rounds, cores, busy
		print "| one ban | of `iptables -I` | p50 µs | p99 µs |"
		print "|---|---|---|---|"
		one("iptables with ipset", "Ban/nft")
		one("nftables", "Ban/nftables")
		one("rules", "BanOneByOne/rules")
		one("`iptables -I`", "BanOneByOne/iptables")
		print "\n| bans at once | how many | of `iptables -I`, a ban | s | µs a ban |"
		print "|---|---|---|---|---|"
		for (i = 5000; i <= 1000000; i = i == 5000 ? 100000 : i * 10) {
			many("iptables with ipset", "Bans/nft/" i, i)
			many("nftables", "Bans/nftables/" i, i)
		}
		many("rules", "BansByRules", 2000)
		many("`iptables -I`, one by one", "BanOneByOne/iptables", 1)
		print "\n| listing 100,000 bans | s |"
		print "|---|---|"
		printf "| iptables with ipset | %.2f |\n", us("List/nft/100000 ns/op") / 1e6
		printf "| nftables | %.2f |\n", us("List/nftables/100000 ns/op") / 1e6
		printf "\nA packet without any firewall costs %s µs, its sending included. With bans, as a multiple of that (µs):\n\n", si(us("Packet/no_firewall ns/op"))
		print "| packet | 0 bans | 1,000 | 10,000 | 50,000 |"
		print "|---|---|---|---|---|"
		for (i = 1; i <= 2; i++) {
			whose = i == 1 ? "legitimate" : "banned"
			packets("fsban, ipset, iptables-nft", "ipset,_iptables-nft", whose)
			packets("fsban, ipset, iptables-legacy", "ipset,_iptables-legacy", whose)
			packets("fsban, nftables", "nftables", whose)
			packets("one rule a ban, iptables-nft", "one_rule_a_ban,_iptables-nft", whose)
			packets("one rule a ban, iptables-legacy", "one_rule_a_ban,_iptables-legacy", whose)
		}
		split("nft legacy nftables", kinds)
		printf "\nWith the tap nflog and two ports of UDP and TCP, as a multiple of the same packet without the tap (µs more):\n\n"
		print "| packet | iptables-nft | iptables-legacy | nftables |"
		print "|---|---|---|---|"
		tap("media", "media")
		tap("SIP, copied", "SIP")
	}'
