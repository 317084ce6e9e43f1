#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Write to new buffers of relay from IPIs and tracepoints on every CPU.

. "$(dirname "$0")/functions.sh"

require_allow_crash
ktap_print_header
require_module lazy_map_relay "have CONFIG_RUST_KSELFTEST_SUPPORT and CONFIG_RELAY"
ktap_set_plan 1
run_module lazy_map_relay lazy_map_relay "$@"
ktap_finished
