#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Modules come and go: new text and data, used by other harts than the one that
# maps them. test_vmalloc maps and touches memory on all harts in most possible
# ways, and never stays loaded. With a sanitizer that takes a while.
cd /lazy_map/modules 2>/dev/null || exit 4
start=$(cut -d . -f 1 /proc/uptime)
done=0
for round in 1 2 3 4 5; do
	for module in *.ko; do
		[ -e "$module" ] || exit 4
		[ $(($(cut -d . -f 1 /proc/uptime) - start)) -lt 20 ] || continue
		name=${module%.ko}
		case $name in
		test_vmalloc)
			insmod "$module" run_test_mask=1337 test_loop_count=3 "nr_threads=$(nproc)" 2>/dev/null
			;;
		*)
			insmod "$module" || continue
			rmmod "$(echo "$name" | tr '-' '_')"
			;;
		esac
		done=$((done + 1))
	done
done
echo "modules: $done"
