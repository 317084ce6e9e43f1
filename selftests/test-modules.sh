#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Say in one place whether the test modules were built. Without them the tests that need
# one are skipped, each for itself, and a run with hardly any test looks clean. With
# REQUIRE_MODULES=1 a missing one is a failure.

. "$(dirname "$0")/functions.sh"

ktap_print_header
set -- $(sed -n 's/^require_module \([a-z_]*\).*/\1/p' "$DIR"/test-*.sh | sort -u)
total=$#
why="KDIR= must be a built kernel for riscv64, with CONFIG_RUST_KSELFTEST_SUPPORT for most"
missing=
for module in "$@"; do
	[ -e "$DIR/test_modules/$module.ko" ] || missing="$missing $module"
done
set -- $missing
[ $# -eq 0 ] || modules_required ||
	skip_test "$# of $total test modules are missing: $why"
ktap_set_plan 1
ktap_print_msg "modules: checks: $total"
if [ $# -eq 0 ] && [ "$total" -gt 0 ]; then
	ktap_test_pass test_modules_are_built
else
	ktap_print_msg "missing: ${missing:- all}: $why"
	ktap_test_fail test_modules_are_built
fi
ktap_finished
