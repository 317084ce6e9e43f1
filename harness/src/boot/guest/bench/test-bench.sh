#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs ./workloads on as many CPUs as there are, also the long ones with lazymap.long on the kernel
# command line.

long=0
for word in $(cat /proc/cmdline); do
	[ "$word" != lazymap.long ] || long=1
done
# EROFS takes no image in tmpfs.
mkdir ram && mount -t ramfs ram ram && cp erofs.img ram/ || exit 1
exec ./workloads "$(grep -c '^processor' /proc/cpuinfo)" $long
