#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The registers of a process as ptrace, signal frames and cores show them.

. "$(dirname "$0")/functions.sh"

run_program abi "$@"
