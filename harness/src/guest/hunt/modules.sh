#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Modules come and go: new text and data, used by other harts than the one that
# maps them. test_vmalloc maps and touches on all harts, in most of the ways that
# there are, and never stays; per-CPU memory (128) is enough once.
cd /lazy_map/modules 2>/dev/null || exit 4
done=0
maps=1465
for round in 1 2 3 4 5; do
	for module in *.ko; do
		[ -e "$module" ] || exit 4
		name=${module%.ko}
		case $name in
		test_vmalloc)
			insmod "$module" run_test_mask=$maps test_loop_count=20 "nr_threads=$(nproc)" 2>/dev/null
			maps=1337
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
