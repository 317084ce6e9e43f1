#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Trap from user mode with addresses of the kernel in tp. A kernel that takes the
# process's tp for its own dies, or changes what is there.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program user_tp "$@"
