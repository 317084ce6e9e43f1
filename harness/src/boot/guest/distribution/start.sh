#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# What lazymap-day.service starts: the day's work, which is on a disk of its own.
mkdir -p /run/lazymap
mount -o ro /dev/disk/by-label/lazymap-day /run/lazymap ||
	echo "<3>lazymap: the disk with the day's work cannot be mounted" >/dev/kmsg
exec sh /run/lazymap/day.sh
