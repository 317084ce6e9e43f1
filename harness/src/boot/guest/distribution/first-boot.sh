#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The init of the first boot: installs the packages in /var/cache/lazymap, from which this file system was only
# unpacked, the way debootstrap --second-stage does, and makes an initrd. Then it switches the machine off.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
DEBIAN_FRONTEND=noninteractive
DEBCONF_NONINTERACTIVE_SEEN=true
LC_ALL=C
export PATH HOME DEBIAN_FRONTEND DEBCONF_NONINTERACTIVE_SEEN LC_ALL

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -o remount,rw /
mount -t tmpfs run /run
# A package that asks a question must fail, not wait.
exec </dev/null

say() {
	echo "<6>lazymap: $1" >/dev/kmsg
}

off() {
	sync
	mount -o remount,ro /
	systemctl poweroff --force --force
	# Without systemctl, the end of init ends the machine.
	exit 1
}

# Runs a step; the first one that fails is the last.
step() {
	say "first boot: $1"
	shift
	"$@" || {
		say "first boot failed: $*"
		off
	}
}

# All files belong to the user who made the image.
to_root() {
	find / -xdev \( ! -user 0 -o ! -group 0 \) -exec chown -h 0:0 {} +
}

prepare() {
	touch /var/lib/dpkg/status /var/lib/dpkg/available &&
		# No service starts before there is an init to start it.
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d &&
		chmod 755 /usr/sbin/policy-rc.d || return
	# Some packages need it before mawk has its alternatives.
	[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
}

install() {
	# The users that others refer to come first.
	dpkg --force-depends --force-unsafe-io --install base-passwd_*.deb &&
		dpkg --force-depends --force-unsafe-io --install ./*.deb &&
		dpkg --configure --pending
}

# Nothing may be half installed: the first letter is what is wanted, the second what is.
installed() {
	dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' >/run/packages || return
	! grep -v '^ii ' /run/packages
}

# An initrd for any kernel: which modules it loads is said here, the modules themselves are added for each kernel.
initrd() {
	version=$(uname -r)
	modules=/usr/lib/modules/$version
	mkdir -p "$modules" || return
	touch "$modules/modules.order" "$modules/modules.builtin" "$modules/modules.builtin.modinfo"
	depmod "$version"
	printf 'virtio_mmio\nvirtio_blk\next4\n' >>/etc/initramfs-tools/modules
	printf 'MODULES=list\nCOMPRESS=gzip\nRESUME=none\n' >/etc/initramfs-tools/conf.d/lazymap
	mkinitramfs -o /boot/initrd.img "$version" && [ -s /boot/initrd.img ] && rm -r "$modules"
}

clean() {
	rm -r /var/cache/lazymap /usr/sbin/policy-rc.d
}

cd /var/cache/lazymap || exit 1
step "owner" to_root
step "prepare" prepare
step "install" install
step "check" installed
step "initrd" initrd
cd /
step "clean" clean
say "first boot done"
off
