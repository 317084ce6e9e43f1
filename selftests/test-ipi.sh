#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Touch new kernel mappings from IPIs on every CPU.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_ipi
ktap_set_plan 1
run_module lazy_map_ipi lazy_map_ipi "$@"
ktap_finished
