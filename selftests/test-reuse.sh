#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Run on kernel stacks of which a hart may hold stale translations. A kernel that
# cannot stand it dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program stack_reuse "$@"
