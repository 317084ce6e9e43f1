#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Begin to use new coverage buffers of kcov on all CPUs at once, and take them along to
# the others. A broken kernel dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program kcov $(arguments_for lazy_map_kcov "$@")
