#!/bin/sh
# Before the files go. dpkg says "remove", "upgrade" and others; rpm says 0 for the last one, 1 for an upgrade.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the old daemon goes on until the new one takes its place
esac

if [ -d /run/systemd/system ]; then
	systemctl stop fsban.service || true
fi

if [ "$1" = 0 ]; then
	# rpm knows no purge: nothing of fsban would be left to end a ban with.
	if command -v systemctl >/dev/null; then
		systemctl --no-reload disable fsban.service >/dev/null 2>&1 || true
	fi
	/usr/bin/fsban teardown || echo "fsban: rules may be left in the kernel" >&2
	exit 0
fi

# The bans stay in force when fsban is removed, and go when it is purged. Then its program is gone, so keep it.
if (umask 077 && mkdir -p /var/lib/fsban-removed) && cp /usr/bin/fsban /var/lib/fsban-removed/fsban; then
	echo "fsban: bans stay in force until they end. All of them end with: /var/lib/fsban-removed/fsban teardown, or a purge"
fi
