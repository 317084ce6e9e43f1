#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# All at once, on all harts: harts go offline and come back, modules come and go,
# programs start, and threads change the pages that they share.
ls /sys/devices/system/cpu/cpu[1-9]*/online >/dev/null 2>&1 || exit 4
stop=/tmp/together.stop
rm -f $stop

harts() {
	for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
		echo 0 >"$online" && echo 1 >"$online" || return 1
	done
}
modules() {
	loaded=1
	for module in /lazy_map/modules/*.ko; do
		name=$(basename "$module" .ko | tr '-' '_')
		# test_vmalloc never stays loaded, and takes long.
		[ -e $stop ] || [ "$name" = test_vmalloc ] && continue
		insmod "$module" 2>/dev/null && rmmod "$name" && loaded=0
	done
	return $loaded
}
programs() {
	seq 20 | xargs -n 1 true
}

# Does something over and over, and says how often it went well.
again() {
	count=0
	while [ ! -e $stop ]; do
		if "$1"; then count=$((count + 1)); else usleep 10000; fi
	done
	echo "$1: $count"
}

cpus=$(nproc)
if [ -x ./memory ] && [ "$cpus" -ge 2 ]; then
	timeout 30 ./memory &
else
	sleep 15 &
fi
program=$!
# It looks at first which harts there are.
sleep 1
again harts &
again modules &
for cpu in $(seq "$cpus"); do
	again programs &
done
wait $program
status=$?
case $status in
124 | 143) echo "memory: cut off after 30 s"; status=0 ;;
esac
: >$stop
wait
for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
	[ "$(cat "$online")" = 1 ] || echo 1 >"$online" || { echo "$online: does not come back"; status=1; }
done
exit $status
