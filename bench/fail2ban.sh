#!/usr/bin/env bash
#
# How fast fsban reads mod_cti's log, counts and decides, beside fail2ban: measured in one run, told as a ratio.
#
#   bench/fail2ban.sh [-l LINES] [-f LINES_FOR_FAIL2BAN] [-a LINES_OF_AN_ADDRESS] [-r ROUNDS]
#
# What is compared is reading, matching and counting. Each address comes four times (-a, 1 to 4), one less than maxretry,
# so nobody is banned and no firewall is touched: what a ban costs is a different question. With -a 1 every line brings a
# new address, the worst case for both.
#
# Both are set up as they are used. fail2ban is a live server with the jail that it has beside mod_cti (backend auto,
# database and log as Debian sets them up); its file is empty when it starts, then all the lines arrive. fsban is "fsban
# replay": the daemon's own parser and policy over a file, with its defaults. Of the same lines both must count the same
# number of failures, or the run fails.
#
# fail2ban gets only the head of the file, because it takes so long; a second is a second. The rounds alternate, figures are
# medians. CPU is user and system time of the one process, after its start for fail2ban, with its start for fsban.
#
# Everything happens in a temporary directory and in network and process namespaces of its own; nothing is left behind.
# FSBAN names a program to measure instead of building it. Exit code: 0 measured, 1 they disagree or something failed, 2
# something is missing or the call is wrong.

set -euo pipefail
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"

lines=1000000
f2b_lines=50000
per_address=4
rounds=3

usage() { sed -n '5p' "$0" | cut -c5- >&2; exit 2; }
missing() { echo "$0: $*" >&2; exit 2; }
fail() { echo "$0: $*" >&2; exit 1; }

# The outer half: find what is needed, make the directory and the namespaces, and clear both away, however it ends.
outer() {
	for tool in fail2ban-server fail2ban-client; do
		command -v "$tool" >/dev/null || missing "there is no $tool. Install fail2ban (Debian: apt-get install fail2ban)"
	done
	for tool in unshare python3 awk; do
		command -v "$tool" >/dev/null || missing "there is no $tool. Install it (Debian: apt-get install util-linux python3 mawk)"
	done
	[ -f /etc/fail2ban/fail2ban.conf ] || missing "there is no /etc/fail2ban/fail2ban.conf: install Debian's fail2ban"
	local namespaces=(unshare --net --pid --fork --kill-child --mount-proc)
	[ "$(id -u)" = 0 ] || namespaces+=(--user --map-root-user)
	"${namespaces[@]}" true 2>/dev/null || missing "cannot make namespaces of our own: run it as root"

	tmp=$(mktemp -d)
	inside=
	trap '[ -z "$inside" ] || kill "$inside" 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	if [ -z "${FSBAN:-}" ]; then
		command -v go >/dev/null || missing "there is no go to build fsban with: install Go, or name a program in FSBAN"
		(cd "$(dirname "$0")/.." && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$tmp/fsban" ./cmd/fsban) || fail "fsban does not build"
	fi
	export FSBAN=${FSBAN:-$tmp/fsban}
	"${namespaces[@]}" "$BASH" "$0" -l "$lines" -f "$f2b_lines" -a "$per_address" -r "$rounds" --inside "$tmp" &
	inside=$!
	local code=0
	wait "$inside" || code=$?
	inside=
	exit "$code"
}

# make_log FILE: mod_cti's log of a busy moment that has just been. A thousand addresses take turns until each has come
# as often as it shall, always with the same user; then come the next thousand.
make_log() {
	local now second
	printf -v now '%(%s)T' -1
	for second in {20..1}; do
		printf '%(%Y-%m-%dT%H:%M:%S)T\n' $((now - second))
	done | awk -v lines="$lines" -v per="$per_address" '
		{ at[NR - 1] = $0 }
		END {
			for (i = 0; i < lines; i++) {
				a = int(i / (1000 * per)) * 1000 + i % 1000
				t = i * 20 / lines
				printf "ip[100.%d.%d.%d] user[%d] at[%s.%06d+0000] Registration failed\n", \
					64 + int(a / 65536), int(a / 256) % 256, a % 256, 1000 + a % 1000, at[int(t)], (t - int(t)) * 1000000
			}
		}' >"$1"
}

configure_fail2ban() {
	local etc=$1
	mkdir -p "$etc/filter.d"
	cp -r /etc/fail2ban/{fail2ban.conf,jail.conf,action.d} /etc/fail2ban/paths-*.conf "$etc/"
	rm -f "$etc"/action.d/*.local
	cat >"$etc/fail2ban.local" <<-END
		[Definition]
		logtarget = $tmp/fail2ban.log
		socket = $tmp/fail2ban.sock
		pidfile = $tmp/fail2ban.pid
		dbfile = $tmp/fail2ban.sqlite3
	END
	cat >"$etc/jail.local" <<-END
		[cti]
		enabled = true
		filter = cti
		action = iptables-allports[name=cti, protocol=all]
		logpath = $tmp/f2b.log
		bantime = 86400
		maxretry = 5
		findtime = 300
		ignoreip = 127.0.0.1/8
		backend = auto
	END
	cat >"$etc/filter.d/cti.conf" <<-'END'
		[Definition]
		failregex = ^ip\[<HOST>\].*
		ignoreregex =
	END
}

client() { fail2ban-client -c "$tmp/etc" -s "$tmp/fail2ban.sock" "$@"; }

# cpu_of PID: its user and system time, in hundredths of a second as the kernel tells it.
cpu_of() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

found() { grep -c '\] Found ' "$tmp/fail2ban.log" || true; }

# measure_fail2ban HEAD: appends "wall cpu rss" to $tmp/f2b.figures, seconds and KiB, and sets counted.
measure_fail2ban() {
	rm -f "$tmp"/fail2ban.{log,sqlite3,pid,sock}
	: >"$tmp/f2b.log"
	fail2ban-server -c "$tmp/etc" -s "$tmp/fail2ban.sock" -p "$tmp/fail2ban.pid" -f start >"$tmp/f2b.out" 2>&1 &
	local server=$! tries=0
	until client status cti >/dev/null 2>&1; do
		tries=$((tries + 1))
		if [ $tries -ge 100 ] || ! kill -0 $server 2>/dev/null; then
			fail "fail2ban does not start: $(cat "$tmp/f2b.out" "$tmp/fail2ban.log" 2>/dev/null | tail -n 5)"
		fi
		sleep 0.2
	done
	sleep 1 # for what it does at its start
	local cpu start end seen=0 last=-1 still=0 rss banned
	cpu=$(cpu_of $server)
	start=$EPOCHREALTIME
	cat "$1" >>"$tmp/f2b.log"
	while [ "$seen" -lt "$f2b_lines" ]; do
		sleep 0.2
		kill -0 $server 2>/dev/null || fail "fail2ban ended after $seen of $f2b_lines failures"
		seen=$(found)
		if [ "$seen" = "$last" ]; then still=$((still + 1)); else still=0; fi
		[ $still -lt 150 ] || break # half a minute without another one: it has done what it will do
		last=$seen
	done
	cpu=$(($(cpu_of $server) - cpu))
	rss=$(awk '/^VmHWM/ { print $2 }' "/proc/$server/status")
	# The last failure's own entry says when it was found, closer than our looking does.
	end=$(grep '\] Found ' "$tmp/fail2ban.log" | tail -n 1 | cut -c1-23 | tr , .)
	end=$(date -d "$end" +%s.%N)
	read -r counted banned < <(client status cti | awk '/Total failed/ { f = $NF } /Total banned/ { print f, $NF }')
	[ "$banned" = 0 ] || fail "fail2ban banned $banned addresses; none was to be banned"
	backend=$(grep -o "Jail 'cti' uses [a-z]*" "$tmp/fail2ban.log" | awk '{ print $NF }')
	client stop >/dev/null 2>&1 || kill $server
	wait $server 2>/dev/null || true
	awk -v s="$start" -v e="$end" -v c="$cpu" -v m="$rss" 'BEGIN { printf "%.3f %.3f %d\n", e - s, c / 100, m }' >>"$tmp/f2b.figures"
}

# measure_fsban FILE NAME: appends "wall cpu rss" to $tmp/NAME.figures, and sets counted.
measure_fsban() {
	python3 - "$tmp/$2.json" "$tmp/$2.figures" "$FSBAN" replay -c "$tmp/fsban.yaml" --json "$1" 2>"$tmp/$2.err" <<-'END' || fail "fsban replay failed: $(tail -n 5 "$tmp/$2.err")"
		import os, sys, time
		out, figures, *command = sys.argv[1:]
		start = time.monotonic()
		pid = os.posix_spawn(command[0], command, os.environ, file_actions=[
		    (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)])
		_, status, used = os.wait4(pid, 0)
		wall = time.monotonic() - start
		with open(figures, "a") as f:
		    print(f"{wall:.3f} {used.ru_utime + used.ru_stime:.3f} {used.ru_maxrss}", file=f)
		sys.exit(status != 0)
	END
	local banned
	read -r counted banned < <(python3 -c '
import json, sys
r = json.load(open(sys.argv[1]))
print(r["attempts"].get("auth_failure", 0), len(r["bans"]))' "$tmp/$2.json")
	[ "$banned" = 0 ] || fail "fsban would ban $banned addresses; none was to be banned"
}

# median NAME COLUMN
median() {
	sort -n -k "$2,$2" "$tmp/$1.figures" | awk -v c="$2" '{ v[NR] = $c } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

report() {
	echo "fsban beside fail2ban $version: lines of mod_cti's log, $per_address of each address, medians of $rounds rounds, $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) at the end"
	awk -v fl="$lines" -v bl="$f2b_lines" -v backend="$backend" \
		-v fw="$(median fsban 1)" -v fc="$(median fsban 2)" -v fm="$(median fsban 3)" \
		-v hw="$(median head 1)" -v hc="$(median head 2)" -v hm="$(median head 3)" \
		-v bw="$(median f2b 1)" -v bc="$(median f2b 2)" -v bm="$(median f2b 3)" '
		function row(what, lines, wall, cpu, rss) {
			printf "  %-8s %9d lines  %9.0f lines/s of CPU  %9.0f lines/s  %6.2f us of CPU a line  %6.1f MiB peak\n", \
				what, lines, lines / cpu, lines / wall, cpu / lines * 1e6, rss / 1024
		}
		BEGIN {
			printf "  lines a second of CPU   %.0f times as many\n", (fl / fc) / (bl / bc)
			printf "  lines a second          %.0f times as many\n", (fl / fw) / (bl / bw)
			printf "  peak memory             %.2f of fail2ban'"'"'s for the same %d lines\n\n", hm / bm, bl
			row("fsban", fl, fw, fc, fm)
			row("fsban", bl, hw, hc, hm)
			row("fail2ban", bl, bw, bc, bm)
			printf "\n  Of the same %d lines both counted %d failures. fail2ban'"'"'s backend: %s.\n", bl, bl, backend
		}'
}

inner() {
	version=$(fail2ban-server --version | sed -n '1s/.* v//p')
	configure_fail2ban "$tmp/etc"
	echo 'firewall: {backend: dry-run}' >"$tmp/fsban.yaml"
	local round counted backend
	for ((round = 1; round <= rounds; round++)); do
		echo "round $round of $rounds" >&2
		make_log "$tmp/all.log"
		head -n "$f2b_lines" "$tmp/all.log" >"$tmp/head.log"
		measure_fsban "$tmp/all.log" fsban
		[ "$counted" = "$lines" ] || fail "fsban counted $counted failures in $lines lines"
		measure_fsban "$tmp/head.log" head
		local by_fsban=$counted
		measure_fail2ban "$tmp/head.log"
		[ "$counted" = "$by_fsban" ] || fail "of the same $f2b_lines lines fsban counted $by_fsban failures, fail2ban $counted"
		[ "$counted" = "$f2b_lines" ] || fail "both counted $counted failures in $f2b_lines lines"
	done
	report
}

tmp=
while [ $# -gt 0 ]; do
	case $1 in
	-l | -f | -a | -r)
		[[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage
		case $1 in -l) lines=$2 ;; -f) f2b_lines=$2 ;; -a) per_address=$2 ;; -r) rounds=$2 ;; esac
		shift 2
		;;
	--inside) tmp=$2 && shift 2 ;;
	*) usage ;;
	esac
done
[ "$f2b_lines" -le "$lines" ] || missing "-f must not be more than -l: fail2ban gets the head of the same file"
[ "$per_address" -le 4 ] || missing "-a must be 1 to 4: with more an address would be banned"
if [ -n "$tmp" ]; then inner; else outer; fi
