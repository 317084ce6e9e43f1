#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs ./workloads on as many CPUs as there are.

exec ./workloads "$(grep -c '^processor' /proc/cpuinfo)"
