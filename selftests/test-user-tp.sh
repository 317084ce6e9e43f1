#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Trap from user mode with kernel addresses in tp. A kernel that takes the process's
# tp for its own dies, or changes what is at that address.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program user_tp "$@"
