#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The main cases for a kernel without the abstractions that the other modules need:
# touches in IPIs and tracepoints, polls of what is being mapped, bad accesses, traps
# on new stacks. A kernel that flushes every hart for a new mapping may overflow a
# stack. One that does not make stacks visible oopses in handle_exception().

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_basic "be a built kernel for riscv64"
ktap_set_plan 1
run_module new_mappings_on_any_kernel lazy_map_basic "$@"
ktap_finished
