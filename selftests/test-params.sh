#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Load each module with wrong values of each of its parameters. They must be refused
# with EINVAL and a message that names the parameter.

. "$(dirname "$0")/functions.sh"

require_allow_crash

# refused MODULE PARAMETER VALUE: whether the value is refused; prints why not
refused()
{
	local error log
	mark_log "$1"
	error=$(load_module "$1" "$2=$3" 2>&1)
	if [ $? -eq 0 ]; then
		rmmod "$1"
		ktap_print_msg "$1: $2=$3 is accepted"
		return 1
	fi
	case "$error" in
	*[Ii]"nvalid "[ap]*) ;;
	*)
		ktap_print_msg "$1: $2=$3 is refused, but not with EINVAL: $error"
		return 1 ;;
	esac
	log=$(whole_log)
	case "$log" in
	*"\`$3' invalid for parameter \`$2'"*) ;;
	*)
		ktap_print_msg "$1: $2=$3 is refused without a message about $2:"
		echo "$log" | sed 's/^/# /'
		return 1 ;;
	esac
	case "$log" in
	*"KTAP version"*)
		ktap_print_msg "$1: its tests ran with $2=$3"
		return 1 ;;
	esac
}

ktap_print_header
require_module lazy_map_ipi
names=$(modules)
set -- $names
ktap_set_plan $(($# + 1))
for module in $names; do
	test="${module}_refuses_wrong_parameters"
	tried=0
	wrong=
	for parameter in $(declared_parameters "$module"); do
		# Most have a minimum above 0.
		case "$parameter" in
		each | memory | outside | seed) least=-1 ;;
		*) least=0 ;;
		esac
		tried=$((tried + 1))
		refused "$module" "$parameter" "$least" || wrong=yes
		[ "$tried" -eq 1 ] || continue
		# One is too large for any type.
		for value in abc 18446744073709551616; do
			tried=$((tried + 1))
			refused "$module" "$parameter" "$value" || wrong=yes
		done
	done
	ktap_print_msg "$module: wrong values: $tried"
	if [ "$tried" -gt 0 ] && [ -z "$wrong" ]; then
		ktap_test_pass "$test"
	else
		ktap_test_fail "$test"
	fi
done
run_module right_parameters_are_taken lazy_map_ipi $(quick_parameters lazy_map_ipi)
ktap_finished
