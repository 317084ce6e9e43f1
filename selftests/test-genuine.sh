#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Access unmapped addresses on every CPU. A kernel that takes
# such a fault for a spurious one retries it forever.

. "$(dirname "$0")/functions.sh"

ktap_print_header
require_module lazy_map_genuine
ktap_set_plan 1
run_module lazy_map_genuine lazy_map_genuine "$@"
ktap_finished
