#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Run on kernel stacks for which a hart may hold stale translations. A broken
# kernel dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program stack_reuse $(arguments_for lazy_map_reuse "$@")
