#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Touch new mappings of all producers and sizes on all CPUs.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_shapes
ktap_set_plan 1
run_module lazy_map_shapes lazy_map_shapes "$@"
ktap_finished
