#!/bin/sh
# init.sh ROOT [PROGRAM...]: the inner half of machine.sh.
set -e
root=$1
shift

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

cd "$root"
pivot_root . mnt
umount -l /mnt
[ "$#" -gt 0 ] || set -- /lib/systemd/systemd --log-target=null --show-status=0
exec env -i container=fsban PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
