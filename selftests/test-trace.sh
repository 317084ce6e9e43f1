#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Touch new kernel mappings from tracepoints, as early as they exist. A kernel
# that cannot handle that dies: the loop ends in a kernel stack overflow.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_trace
ktap_set_plan 1
run_module lazy_map_trace lazy_map_trace "$@"
ktap_finished
