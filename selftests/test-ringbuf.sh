#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Write new ring buffers of BPF from page faults, interrupts, uprobes, trampolines and
# the scheduler, on all CPUs at once. A broken kernel dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program ringbuf $(arguments_for lazy_map_ringbuf "$@")
