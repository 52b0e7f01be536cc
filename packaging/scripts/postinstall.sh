#!/bin/sh
# After the files are there. dpkg says "configure" and the version that was there before; rpm says 1 for an install, 2 for
# an upgrade.
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
	useradd --system --gid fsban --home-dir /var/lib/fsban --no-create-home --shell /usr/sbin/nologin --comment "guard of a FreeSWITCH" fsban

# The configuration holds a password: fsban may read it, and nobody else. What an operator has made of it stays.
if [ -e /etc/fsban/config.yaml ] && [ "$(stat -c %U:%G /etc/fsban/config.yaml)" = root:root ]; then
	chgrp fsban /etc/fsban/config.yaml
	chmod 0640 /etc/fsban/config.yaml
fi

if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create fsban.conf || true
fi

# Debian starts what is installed, unless policy-rc.d says no; with rpm it is up to the operator (or to a preset).
mayStart() {
	[ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d fsban restart
}
if command -v deb-systemd-helper >/dev/null; then
	deb-systemd-helper unmask fsban.service >/dev/null || true
	if deb-systemd-helper --quiet was-enabled fsban.service; then
		deb-systemd-helper enable fsban.service >/dev/null || true
	else
		deb-systemd-helper update-state fsban.service >/dev/null || true
	fi
elif [ -n "$new" ] && command -v systemctl >/dev/null; then
	systemctl preset fsban.service >/dev/null 2>&1 || true
fi

# Nobody waits: it is up once FreeSWITCH answers.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	if [ "$1" != configure ]; then
		systemctl --no-block try-restart fsban.service || true
	elif systemctl --quiet is-enabled fsban.service 2>/dev/null && mayStart; then
		systemctl --no-block restart fsban.service || true
	fi
fi
