#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Load and unload each module again and again, while processes are started, and check
# for leaks: memory, mappings, probes. The argument is times=NUMBER.

. "$(dirname "$0")/functions.sh"

require_allow_crash

times=$(argument times $(arguments_for lazy_map_reload "$@"))
times=${times:-1}
case "$times" in
*[!0-9]* | 0)
	echo "$0: times=$times is not a number above 0" >&2
	exit "$KSFT_FAIL" ;;
esac

# Some pages are always in flight, and caches grow. A leak that happens every time
# adds up to more.
tolerance_kib=$((512 + times * 4))

# load_all MODULE...: each once
load_all()
{
	for module in "$@"; do
		mark_log "$module"
		log=$(load_module "$module" $(quick_parameters "$module") 2>&1) || {
			ktap_print_msg "$module does not load: $log"
			log_of "$module" | sed 's/^/# /'
			return 1
		}
		# Reading the log takes longer than some modules run.
		if [ "$loads" -lt "$#" ]; then
			log=$(log_of "$module")
			touches=$((touches + $(echo "$log" |
				awk '/^# touches: / { sum += $3 } END { print sum + 0 }')))
			met=$(spurious_in "$log")
			spurious=$((spurious + ${met:-0}))
		fi
		rmmod "$module" || return 1
		loads=$((loads + 1))
	done
}

# run_rounds NUMBER MODULE...: each module that many times, while processes are started
run_rounds()
{
	local rounds="$1" status=0
	shift

	rm -f "$temporary/stop"
	if [ -x "$DIR/fork_storm" ]; then
		while [ ! -e "$temporary/stop" ]; do
			"$DIR/fork_storm" seconds=1 workers=2
		done > /dev/null 2>&1 &
	fi
	round=0
	while [ "$round" -lt "$rounds" ] && [ "$status" -eq 0 ]; do
		load_all "$@" || status=1
		round=$((round + 1))
	done
	end_load
	return "$status"
}

end_load()
{
	echo > "$temporary/stop"
	wait
}

ktap_print_header
require_module lazy_map_ipi
names=$(modules)
temporary=$(mktemp -d) || skip_test "no folder for temporary files"
trap 'end_load; rm -rf "$temporary"' EXIT
touches=0
spurious=0
loads=0
ktap_set_plan 4

# After some rounds, one-time allocations are done, and caches have grown to what
# the load needs.
warm_up=$((times < 10 ? 1 : times / 10))
run_rounds "$warm_up" $names > /dev/null
kmemleak=/sys/kernel/debug/kmemleak
[ -w "$kmemleak" ] && echo clear 2> /dev/null > "$kmemleak" || kmemleak=
before=$(kernel_kib)
left_before=$(left_behind)
touches=0
loads=0

run_rounds "$times" $names
status=$?
ktap_print_msg "times: $round, loads: $loads"
ktap_print_msg "touches: $touches"
ktap_print_msg "spurious faults: $spurious"
count_spurious $spurious
if [ "$status" -eq 0 ] && [ "$touches" -gt 0 ]; then
	ktap_test_pass loaded_and_unloaded
else
	ktap_test_fail loaded_and_unloaded
fi

after=$(kernel_kib)
ktap_print_msg "KiB of the kernel's before: $before, after: $after, allowed: $tolerance_kib more"
if has_quarantine; then
	ktap_print_msg "no_memory_lost: KASAN keeps what has been freed in quarantine"
	ktap_test_skip no_memory_lost
elif [ "$after" -le $((before + tolerance_kib)) ]; then
	ktap_test_pass no_memory_lost
else
	ktap_test_fail no_memory_lost
fi

if [ -n "$kmemleak" ]; then
	# An object that is found twice in a row is not just in flight.
	for _ in 1 2; do
		sleep 5
		echo scan > "$kmemleak"
	done
	grep -e lazy_map -e rust -A 8 "$kmemleak" | sed 's/^/# /'
	if grep -q -e lazy_map -e rust "$kmemleak"; then
		ktap_test_fail no_leak_found
	else
		ktap_test_pass no_leak_found
	fi
else
	ktap_print_msg "no_leak_found: no CONFIG_DEBUG_KMEMLEAK"
	ktap_test_skip no_leak_found
fi

# What the kernel does not list calls code that is gone: calls to other CPUs and bad
# accesses would show it.
left_after=$(left_behind)
if load_all lazy_map_genuine lazy_map_ipi && [ "$left_after" = "$left_before" ]; then
	ktap_test_pass nothing_left_behind
else
	echo "$left_before" | sed 's/^/# before: /'
	echo "$left_after" | sed 's/^/# after: /'
	ktap_test_fail nothing_left_behind
fi
ktap_finished
