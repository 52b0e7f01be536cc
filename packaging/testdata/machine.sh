#!/bin/sh
# machine.sh ROOT WORK [PROGRAM...]: a machine of its own on top of the directory ROOT, which stays as it is. Processes,
# mounts, network and control groups are its own; what it writes is in memory, and goes with it. WORK is a directory for
# mount points. The content of the directory FILES, if set, is put into the root. It runs PROGRAM, or else systemd, as process 1.
# Call it in a mount namespace of its own.
set -e
root=$1 work=$2
shift 2

mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/over" "$work/root" "$work/cgroup"
mount -t overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/over" overlay "$work/root"
[ -z "$FILES" ] || cp -r "$FILES/." "$work/root/"
mount -t cgroup2 cgroup2 "$work/cgroup"
group=$work/cgroup/fsban-test-$$
mkdir "$group"
cp "$(dirname "$0")/init.sh" "$work/init.sh"

echo "machine: mounted"
(
	echo 0 >"$group/cgroup.procs"
	exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh "$work/init.sh" "$work/root" "$@"
) || echo "machine: ended with $?"
find "$group" -depth -type d -exec rmdir {} +
