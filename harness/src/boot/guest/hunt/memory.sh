#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Pages are unmapped, protected, moved, split and merged while threads on all harts
# use them, and blocks of memory go offline meanwhile. What the threads count in
# these pages must not be lost.
[ -x ./memory ] || exit 4
[ "$(nproc)" -ge 2 ] || exit 4
./memory &
program=$!
blocks=0
back=0
for state in /sys/devices/system/memory/memory[0-9]*/state; do
	[ -e "$state" ] && kill -0 $program 2>/dev/null || break
	# What the kernel itself uses stays, and so does the block that has it.
	timeout 5 sh -c 'echo offline >"$1"' sh "$state" 2>/dev/null
	[ "$(cat "$state")" = offline ] || continue
	blocks=$((blocks + 1))
	echo online >"$state" && [ "$(cat "$state")" = online ] && back=$((back + 1))
done
wait $program
status=$?
echo "memory blocks: $blocks went offline, $back came back"
[ $status != 0 ] || [ $back = $blocks ] || status=1
exit $status
