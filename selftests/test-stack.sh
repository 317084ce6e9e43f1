#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Trap on a stack with a new page. A broken kernel dies: the exception entry saves
# registers before it can handle another trap.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_stack
ktap_set_plan 1
run_module lazy_map_stack lazy_map_stack "$@"
ktap_finished
