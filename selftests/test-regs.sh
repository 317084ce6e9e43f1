#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Fill all registers, access a new mapping, and compare. A kernel that changes
# what it must preserve fails or dies.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_regs
ktap_set_plan 1
run_module lazy_map_regs lazy_map_regs "$@"
ktap_finished
