#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Start and end processes and threads on all CPUs, each on its own kernel stack.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program fork_storm "$@"
