#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Allocate from vmalloc with interrupts disabled, and read new mappings in a softirq,
# on all CPUs at once. A kernel that makes all CPUs flush for it warns and may
# deadlock.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_irqsoff
ktap_set_plan 1
run_module lazy_map_irqsoff lazy_map_irqsoff "$@"
ktap_finished
