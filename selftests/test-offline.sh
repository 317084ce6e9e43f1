#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Ask all CPUs to fence while some of them go offline, and come back.

. "$(dirname "$0")/functions.sh"

require_allow_crash
run_program offline_fences $(arguments_for offline_fences "$@")
