#!/bin/sh
# Runs before the files are removed. dpkg passes "remove", "upgrade" and others; rpm passes 0 for a removal, 1 for an upgrade.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the old daemon runs until the new one replaces it
esac

if [ -d /run/systemd/system ]; then
	systemctl stop fsban.service fsban-sets.service || true
fi

if [ "$1" = 0 ]; then
	# rpm has no purge, and without the program nothing could end the bans.
	if command -v systemctl >/dev/null; then
		systemctl --no-reload disable fsban.service fsban-sets.service >/dev/null 2>&1 || true
	fi
	/usr/bin/fsban teardown || echo "fsban: teardown failed, rules may remain in the kernel" >&2
	exit 0
fi

# Bans stay in force after a removal, and end with a purge. The purge needs the program, so keep a copy.
if (umask 077 && mkdir -p /var/lib/fsban-removed) && cp /usr/bin/fsban /var/lib/fsban-removed/fsban; then
	echo "fsban: bans stay in force until they expire. To end all of them now: /var/lib/fsban-removed/fsban teardown, or purge the package"
fi
