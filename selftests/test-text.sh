#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Execute new code on CPUs that have never seen its mapping.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_text
ktap_set_plan 1
run_module lazy_map_text lazy_map_text "$@"
ktap_finished
