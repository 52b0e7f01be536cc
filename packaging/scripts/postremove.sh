#!/bin/sh
# Runs after the files were removed. dpkg passes "remove", "purge", "upgrade" and others; rpm passes 0 for a removal, 1 for an upgrade.
set -e

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi

case "$1" in
remove)
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper mask fsban.service fsban-sets.service >/dev/null || true
	fi
	;;
purge)
	if [ -x /var/lib/fsban-removed/fsban ]; then
		/var/lib/fsban-removed/fsban teardown || echo "fsban: teardown failed, rules may remain in the kernel" >&2
	fi
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper purge fsban.service fsban-sets.service >/dev/null || true
		deb-systemd-helper unmask fsban.service fsban-sets.service >/dev/null || true
	fi
	rm -rf /var/lib/fsban /var/lib/fsban-removed /etc/fsban /run/fsban
	# The lock file belongs to iptables: return it to root.
	if [ -e /run/xtables.lock ]; then
		chown root:root /run/xtables.lock && chmod 0600 /run/xtables.lock
	fi
	if getent passwd fsban >/dev/null; then
		userdel fsban || true
	fi
	for group in fsban fsban-reader fsban-admin; do
		if getent group "$group" >/dev/null; then
			groupdel "$group" || true
		fi
	done
	;;
esac
