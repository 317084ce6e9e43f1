#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Harts go offline and come back, with their idle threads and per-CPU memory,
# while programs run.
ls /sys/devices/system/cpu/cpu[1-9]*/online >/dev/null 2>&1 || exit 4
for cpu in $(seq "$(nproc)"); do
	seq 200 | xargs -n 1 true &
done
toggles=0
for round in 1 2 3; do
	for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
		echo 0 >"$online" && echo 1 >"$online" && toggles=$((toggles + 1))
	done
done
wait
echo "toggles: $toggles"
