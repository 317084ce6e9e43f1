#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Make and touch new mappings at random, while processes and threads start,
# another module and BPF programs are loaded and unloaded, memory is scarce, and
# CPUs go offline and come back. Takes the arguments of the module; without seed=
# the seed is new each time.

. "$(dirname "$0")/functions.sh"

require_allow_crash

cpus=/sys/devices/system/cpu
temporary=
toggler=
storm=
churns=
# The module beside the one that tortures: small, and it executes new code on all CPUs
small=lazy_map_text

# toggle_cpus SEED: take CPUs offline and online, sometimes two at once, in an order
# that the seed decides, until told to end. Writes how often to the file `toggled`.
toggle_cpus()
{
	end=
	trap 'end=yes' TERM
	random=$1
	count=0
	set -- "$cpus"/cpu[0-9]*/online
	while [ -z "$end" ] && [ $# -gt 1 ]; do
		random=$(((random * 1103515245 + 12345) % 2147483648))
		eval "one=\${$((random / 65536 % $# + 1))}"
		eval "other=\${$((random / 256 % $# + 1))}"
		for cpu in "$one" "$other"; do
			echo 0 2> /dev/null > "$cpu" && count=$((count + 1))
		done
		sleep 0.2
		[ $((random / 4096 % 4)) -ne 0 ] || sleep 1
		for cpu in "$one" "$other"; do
			echo 1 2> /dev/null > "$cpu"
		done
	done
	echo "$count" > "$temporary/toggled"
}

# load_small: load the other module, have it execute new code, and unload it
load_small()
{
	insmod "$DIR/test_modules/$small.ko" rounds=1 pages=2 case=executed_in_interrupt &&
		rmmod "$small"
}

# load_programs: load a few BPF programs, and execute them on all CPUs
load_programs()
{
	"$DIR/bpf" rounds=1 pages=1
}

# churn FUNCTION: call it until told to end, or until it fails. Writes how often it
# succeeded to the file FUNCTION.times, what it printed last to FUNCTION.log, and the
# status of a failure to FUNCTION.status.
churn()
{
	end=
	trap 'end=yes' TERM
	times=0
	while [ -z "$end" ]; do
		"$1" > "$temporary/$1.log" 2>&1 || {
			echo $? > "$temporary/$1.status"
			break
		}
		times=$((times + 1))
		# The kernel's log is short, and the other results are in it.
		sleep 0.5
	done
	echo "$times" > "$temporary/$1.times"
}

# report_churn TEST FUNCTION WHAT: the result of a churn that has ended
report_churn()
{
	times=$(cat "$temporary/$2.times" 2> /dev/null)
	status=$(cat "$temporary/$2.status" 2> /dev/null)
	ktap_print_msg "$3: ${times:-unknown}"
	if [ "${times:-0}" -gt 0 ] && [ -z "$status" ]; then
		ktap_test_pass "$1"
		return
	fi
	# The results of a program within are its own.
	sed 's/^/# | /' "$temporary/$2.log" 2> /dev/null
	if [ "${times:-0}" -eq 0 ] && [ "$status" = "$KSFT_SKIP" ]; then
		ktap_test_skip "$1"
	else
		ktap_print_msg "$1: status ${status:-0}"
		ktap_test_fail "$1"
	fi
}

stop()
{
	[ -z "$toggler" ] || kill -TERM "$toggler" 2> /dev/null
	[ -z "$storm" ] || kill -TERM "$storm" 2> /dev/null
	[ -z "$churns" ] || kill -TERM $churns 2> /dev/null
	wait
	# Leave no CPU offline, whatever went wrong.
	for cpu in "$cpus"/cpu[0-9]*/online; do
		[ -e "$cpu" ] || continue
		tries=0
		until echo 1 2> /dev/null > "$cpu" || [ $tries -ge 100 ]; do
			sleep 0.1
			tries=$((tries + 1))
		done
	done
}

ktap_print_header
require_module lazy_map_torture
temporary=$(mktemp -d) || skip_test "no folder for temporary files"
trap 'stop; rm -rf "$temporary"' EXIT
set -- $(arguments_for lazy_map_torture "$@")
[ -n "$(argument seconds "$@")" ] || set -- "$@" seconds=10
[ -n "$(argument seed "$@")" ] ||
	set -- "$@" "seed=$(od -A n -N 3 -t u4 /dev/urandom | tr -d ' ')"
# Half of the free memory, so that the rest is reused all the time.
[ -n "$(argument memory "$@")" ] ||
	set -- "$@" "memory=$(awk '/^MemAvailable:/ { print int($2 / 2048) }' /proc/meminfo)"
seconds=$(argument seconds "$@")
ktap_set_plan 5

toggle_cpus "$(argument seed "$@")" &
toggler=$!
if [ -x "$DIR/fork_storm" ]; then
	"$DIR/fork_storm" "seconds=$seconds" workers=4 > "$temporary/forks" 2>&1 &
	storm=$!
fi
if [ -e "$DIR/test_modules/$small.ko" ]; then
	churn load_small &
	churns="$churns $!"
fi
if [ -x "$DIR/bpf" ]; then
	churn load_programs &
	churns="$churns $!"
fi
run_module lazy_map_torture lazy_map_torture "$@"

if [ -n "$storm" ]; then
	wait "$storm"
	status=$?
	storm=
	sed 's/^/# | /' "$temporary/forks"
	if [ "$status" -eq 0 ]; then
		ktap_test_pass processes_meanwhile
	else
		ktap_test_fail processes_meanwhile
	fi
else
	ktap_print_msg "processes_meanwhile: fork_storm is missing"
	ktap_test_skip processes_meanwhile
fi

stop
toggled=$(cat "$temporary/toggled")
ktap_print_msg "CPUs that went offline: ${toggled:-unknown}"
if [ "${toggled:-0}" -gt 0 ]; then
	ktap_test_pass cpus_come_and_go
elif [ "$(ls -d "$cpus"/cpu[0-9]*/online 2> /dev/null | wc -l)" -gt 1 ]; then
	ktap_test_fail cpus_come_and_go
else
	ktap_print_msg "cpus_come_and_go: this machine has no second CPU, or none can go offline"
	ktap_test_skip cpus_come_and_go
fi

if [ -e "$DIR/test_modules/$small.ko" ]; then
	report_churn modules_meanwhile load_small "times that $small was loaded"
else
	ktap_print_msg "modules_meanwhile: $small.ko is missing"
	ktap_test_skip modules_meanwhile
fi
if [ -x "$DIR/bpf" ]; then
	report_churn programs_meanwhile load_programs "times that BPF programs were loaded"
else
	ktap_print_msg "programs_meanwhile: bpf is missing"
	ktap_test_skip programs_meanwhile
fi
ktap_finished
