#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Execute new BPF programs, and have them read new pages, on all CPUs at once. A
# broken kernel dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program bpf $(arguments_for lazy_map_bpf "$@")
