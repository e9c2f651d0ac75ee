# Starts a systemd that takes itself for a container's: arguments are a folder
# for what outlives a reboot, the folder with what was installed, the one with
# unpacked packages, and the machine's name. Runs in a node of the lab, with whose network
# the systemd lives; all else is its own.
set -e
state=$1 installed=$2 packages=$3 name=$4

if [ -z "$inside" ]; then
	mkdir -p /run/cgroups
	mount -t cgroup2 cgroup2 /run/cgroups
	mkdir /run/cgroups/$name
	echo $$ >/run/cgroups/$name/cgroup.procs
	echo $$ >/run/machine.pid
	inside=yes exec unshare --mount --uts --ipc --pid --cgroup --fork --kill-child --propagation private sh "$0" "$@"
fi

# The files are this machine's own, with a layer above.
root=/run/machine
mkdir -p $state/files $state/work $root
mount -t overlay overlay -o lowerdir=/,upperdir=$state/files,workdir=$state/work $root
cd $root
if [ ! -e $state/furnished ]; then
	# Of this machine's settings and state there is nothing. Into /usr goes what is unpacked:
	# /lib may be a link.
	rm -rf etc/systemd/system etc/systemd/network etc/systemd/resolved.conf etc/rc?.d etc/netplan etc/network etc/viaduct etc/libvirt/qemu etc/fstab etc/resolv.conf etc/hostname etc/hosts etc/sysctl.d
	rm -rf var/lib var/log var/cache var/tmp
	mkdir -p etc/systemd/system etc/systemd/network etc/netplan var/lib var/log var/cache var/tmp
	tar -C $packages -c . | tar -x --keep-directory-symlink
	tar -C $installed -c . | tar -x --keep-directory-symlink
	ldconfig -r . # netplan looks for its library there
	: >etc/fstab
	: >etc/machine-id
	echo $name >etc/hostname
	echo 127.0.0.1 localhost >etc/hosts
	ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
	# There is no udev in a container, so those who ask it to settle are told that it has.
	printf '#!/bin/sh\n' >usr/bin/udevadm
	chmod 755 usr/bin/udevadm
	# Nobody logs in, and what checks and cleans up has its time.
	for unit in getty.target systemd-logind.service systemd-networkd-wait-online.service systemd-firstboot.service \
		systemd-tmpfiles-clean.timer systemd-udevd.service tmp.mount; do
		ln -s /dev/null etc/systemd/system/$unit
	done
	: >$state/furnished
fi

# The kernel's views, of which only the network's settings can be changed.
mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
cat proc/sys/kernel/random/uuid >$state/boot_id
mount --bind $state/boot_id proc/sys/kernel/random/boot_id
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in null zero full random urandom tty net/tun; do
	: >dev/$device
	mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
hostname $name
mkdir -p run/old
pivot_root . run/old
exec env -i container=viaduct-test PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c '
	umount -l /run/old
	exec /lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=no' </dev/null
