#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# End the loading of a module in the middle of a long test, in each way in which that
# happens: by a signal for insmod, by SIGKILL, by the timeout of kselftest, which ends the
# script alone. insmod must return soon, the module must be gone with all that it had,
# and the next test must run. Most of it is done to the test that does a bit of
# everything. Others end in their own ways and are ended once each: new code is being
# executed, probes are attached, a module in C looks after its threads by itself.
#
# The argument is times=NUMBER. The signal is SIGTERM: what a shell starts in the
# background ignores that of Ctrl-C, which is no different otherwise.

. "$(dirname "$0")/functions.sh"

module=lazy_map_torture
# It would take so many seconds.
seconds=30
# And has so many tenths of a second to end.
patience=150
# Seconds into the middle of it
middle=1

require_allow_crash
times=$(argument times $(arguments_for lazy_map_killed "$@"))
times=${times:-5}
case "$times" in
*[!0-9]* | 0)
	echo "$0: times=$times is not a number above 0" >&2
	exit "$KSFT_FAIL" ;;
esac
ktap_print_header
require_module $module
temporary=$(mktemp -d) || skip_test "no folder for temporary files"
trap 'end_test; rm -rf "$temporary"' EXIT

# The more, the more pages are in flight.
tolerance_kib=$((512 + (times + 3) * 16))
arguments="seconds=$seconds threads=4 memory=16 seed=1"

# start COMMAND...: in the background, in a process group of its own; its PID and its exit
# status go to files. kill -0 cannot tell whether it has ended: it succeeds until the shell
# waits for it.
start()
{
	rm -f "$temporary/pid" "$temporary/status"
	{
		setsid sh -c 'echo $$ > "$0"; exec "$@"' "$temporary/pid" "$@" \
			> "$temporary/said" 2>&1
		echo $? > "$temporary/status"
	} 2> /dev/null &
}

# now: tenths of a second since boot
now()
{
	local seconds rest

	read -r seconds rest < /proc/uptime
	echo $((${seconds%.*} * 10 + 1${seconds#*.} / 10 - 10))
}

# within TENTHS COMMAND...: wait until the command succeeds; fail if that takes longer
within()
{
	local end=$(($(now) + $1))
	shift
	while ! "$@"; do
		[ "$(now)" -lt "$end" ] || return 1
		sleep 0.1
	done
}

has_ended()
{
	[ -s "$temporary/status" ]
}

# is_busy: whether the test in the module has started, and insmod has not returned
is_busy()
{
	has_ended || log_of $module | grep -q '^# [a-z_]*: start'
}

is_not_loading()
{
	! grep -q "^$module .* Loading " /proc/modules
}

# is_killed: kill what has been started, and what that has started, unless it has ended;
# whether the module has, too
is_killed()
{
	has_ended || [ ! -s "$temporary/pid" ] ||
		kill -KILL "-$(cat "$temporary/pid")" 2> /dev/null
	is_not_loading
}

end_test()
{
	within $((seconds * 20)) is_killed
	! grep -q "^$module .* Live " /proc/modules || rmmod $module
}

# ends SIGNAL COMMAND...: start the command, which loads the module, send the signal to it,
# and say what is wrong if it does not return soon, or does not leave
ends()
{
	local signal="$1" good=yes
	shift

	mark_log $module
	start "$@"
	if ! within 300 is_busy || has_ended; then
		ktap_print_msg "$* has not started, or ended by itself:"
		sed 's/^/# | /' "$temporary/said"
		good=
	else
		sleep $middle
		kill "-$signal" "$(cat "$temporary/pid")"
		if ! within $patience has_ended; then
			ktap_print_msg "$1 has not returned $((patience / 10)) s after SIG$signal"
			good=
		elif [ "$(cat "$temporary/status")" -lt 128 ]; then
			ktap_print_msg "$1 ended with status $(cat "$temporary/status")"
			good=
		elif ! within $patience is_not_loading; then
			ktap_print_msg "$1 has ended, and the module is still loading"
			good=
		fi
	fi
	# So that whatever comes next can start.
	end_test
	met=$(spurious_in "$(log_of $module)")
	spurious=$((spurious + ${met:-0}))
	if grep -q "^$module " /proc/modules; then
		ktap_print_msg "the module stays: $(grep "^$module " /proc/modules)"
		good=
	fi
	[ -n "$good" ]
}

# ends_insmod SIGNAL
ends_insmod()
{
	ends "$1" insmod "$DIR/test_modules/$module.ko" $arguments
}

# report NAME WELL...: the result of a test case, a pass if each of its parts went well
report()
{
	local name="$1" part
	shift

	for part in "$@"; do
		[ "$part" = 0 ] && continue
		ktap_test_fail "$name"
		return
	done
	ktap_test_pass "$name"
}

spurious=0
ktap_set_plan 7
# For tools that read the kernel's log as well
ktap_print_msg "$module: torture fails, as it must"
# The first time, caches grow, and kprobes keep a page for what they execute.
load_module lazy_map_trace case=touched_from_kprobes $(quick_parameters lazy_map_trace) &&
	rmmod lazy_map_trace
for other in lazy_map_text lazy_map_basic; do
	[ -e "$DIR/test_modules/$other.ko" ] || continue
	load_module $other $(quick_parameters $other) && rmmod $other
done
# BPF keeps the memory that it has once had for programs.
[ ! -x "$DIR/bpf" ] || "$DIR/bpf" rounds=1 pages=1 > /dev/null 2>&1
ends_insmod KILL > /dev/null
left_before=$(left_behind)
before=$(kernel_kib)

ends_insmod TERM
report interrupted_insmod_returns $?

bad=0
round=0
while [ $round -lt "$times" ]; do
	ends_insmod KILL || bad=1
	round=$((round + 1))
done
ktap_print_msg "kills: $round, checks: $round"
report killed_insmod_returns $bad

ends TERM "$DIR/test-torture.sh" $arguments
report timeout_ends_the_module_too $?

# has_several_cpus: whether lazy_map_basic has something to do that takes long
has_several_cpus()
{
	case "$(cat /sys/devices/system/cpu/online)" in
	*[,-]*) return 0 ;;
	esac
	return 1
}

# end_other MODULE CASE PARAMETER...: as ends_insmod(), for a case that would take long
end_other()
{
	module="$1"
	if [ ! -e "$DIR/test_modules/$1.ko" ]; then
		ktap_print_msg "$1.ko is missing"
		return
	fi
	ktap_print_msg "$1: $2 fails, as it must"
	shift
	arguments="case=$*"
	ends_insmod TERM || bad=1
}

bad=0
# The machine may be fast.
middle=0.2
end_other lazy_map_text executed_by_running_threads rounds=1000000
end_other lazy_map_trace new_mapping_touched_from_tracepoint rounds=1000000
! has_several_cpus || end_other lazy_map_basic polled_while_mapped rounds=10000
report other_insmods_return $bad

ktap_print_msg "spurious faults: $spurious"
count_spurious $spurious

# is_settled: whether what is freed late, such as memory of BPF programs, is gone. A leak stays.
is_settled()
{
	after=$(kernel_kib)
	left_after=$(left_behind)
	[ "$left_after" = "$left_before" ] && [ "$after" -le $((before + tolerance_kib)) ]
}

within 10 is_settled
if [ "$left_after" = "$left_before" ]; then
	ktap_test_pass killed_modules_leave_nothing
else
	echo "$left_before" | sed 's/^/# before: /'
	echo "$left_after" | sed 's/^/# after: /'
	ktap_test_fail killed_modules_leave_nothing
fi

ktap_print_msg "KiB of the kernel's before: $before, after: $after, allowed: $tolerance_kib more"
if has_quarantine; then
	ktap_print_msg "memory_of_killed_modules_freed: KASAN keeps what has been freed"
	ktap_test_skip memory_of_killed_modules_freed
elif [ "$after" -le $((before + tolerance_kib)) ]; then
	ktap_test_pass memory_of_killed_modules_freed
else
	ktap_test_fail memory_of_killed_modules_freed
fi

# It calls other CPUs. Whatever was left that the kernel does not list runs code that is gone.
"$DIR/test-ipi.sh" $(quick_parameters lazy_map_ipi) > "$temporary/next" 2>&1
status=$?
[ $status -eq 0 ] || sed 's/^/# | /' "$temporary/next"
report next_test_runs $status
ktap_finished
