#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Use new rings of io_uring on all CPUs at once. A broken kernel dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program io_uring $(arguments_for lazy_map_io_uring "$@")
