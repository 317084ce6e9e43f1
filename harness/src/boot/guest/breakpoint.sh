#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Executes breakpoints in kernel mode: a kprobe inside the function behind read().

cd /sys/kernel/tracing || exit 1
# Not on its first instructions: a kprobe there uses ftrace and no breakpoint.
for offset in 16 18 20 22 24 26 28 30 32; do
	echo "p:lazymap_cost/read vfs_read+$offset" >>kprobe_events 2>/dev/null && break
done
echo 1 >events/lazymap_cost/enable || exit 1
for round in 1 2 3 4 5 6 7 8; do
	read -r line </proc/version
done
echo 0 >events/lazymap_cost/enable
hits=$(awk '/read/ { hits += $2 } END { print hits + 0 }' kprobe_profile)
echo '-:lazymap_cost/read' >>kprobe_events
echo "hits: $hits"
[ "$hits" -gt 0 ]
