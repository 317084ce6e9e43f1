#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs ./victims with the numbers of lazymap.maps= and lazymap.rounds= on the kernel command line,
# and says which hart makes the maps: the kernel numbers CPUs from the hart that it boots on.

maps=
rounds=
for word in $(cat /proc/cmdline); do
	case $word in
	lazymap.maps=*) maps=${word#*=} ;;
	lazymap.rounds=*) rounds=${word#*=} ;;
	esac
done
[ -n "$maps" ] && [ -n "$rounds" ] || exit 1
awk '/^processor/ { cpu = $3 } /^hart[ \t]*:/ && cpu == 3 { print "producer: " $3 }' /proc/cpuinfo
exec ./victims "$maps" "$rounds"
