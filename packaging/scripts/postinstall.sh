#!/bin/sh
# Runs after the files were installed. dpkg passes "configure" and the version before, if any; rpm passes 1 for an installation, 2
# for an upgrade.
set -e

case "$1" in
configure) new=; [ -n "$2" ] || new=1 ;;
1) new=1 ;;
2) new= ;;
*) exit 0 ;;
esac

for group in fsban fsban-reader fsban-admin; do
	getent group "$group" >/dev/null || groupadd --system "$group"
done
getent passwd fsban >/dev/null ||
	useradd --system --gid fsban --home-dir /var/lib/fsban --no-create-home --shell /usr/sbin/nologin --comment "fsban daemon" fsban

# The configuration contains a password: only root and fsban may read it. Owner and mode set by an operator stay.
if [ -e /etc/fsban/config.yaml ] && [ "$(stat -c %U:%G /etc/fsban/config.yaml)" = root:root ]; then
	chgrp fsban /etc/fsban/config.yaml
	chmod 0640 /etc/fsban/config.yaml
fi

if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create fsban.conf || true
fi

# Debian starts an installed service, unless policy-rc.d forbids it; with rpm the operator or a preset decides.
mayStart() {
	[ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d fsban restart
}
if command -v deb-systemd-helper >/dev/null; then
	for unit in fsban.service fsban-sets.service; do
		deb-systemd-helper unmask $unit >/dev/null || true
		if deb-systemd-helper --quiet was-enabled $unit; then
			deb-systemd-helper enable $unit >/dev/null || true
		else
			deb-systemd-helper update-state $unit >/dev/null || true
		fi
	done
elif [ -n "$new" ] && command -v systemctl >/dev/null; then
	systemctl preset fsban.service fsban-sets.service >/dev/null 2>&1 || true
fi

# Do not wait for the start: it takes as long as the bans need to be in force.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	if [ "$1" != configure ]; then
		systemctl --no-block try-restart fsban.service || true
	elif systemctl --quiet is-enabled fsban.service 2>/dev/null && mayStart; then
		systemctl --no-block restart fsban.service || true
	fi
fi
