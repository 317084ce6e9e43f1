#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# User and system time on CPUs without a tick, which only context tracking counts.

. "$(dirname "$0")/functions.sh"

run_program context "$@"
