#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Start and end processes and threads on all CPUs, each on a kernel stack of its own.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program fork_storm "$@"
