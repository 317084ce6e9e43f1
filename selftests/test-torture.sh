#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Make and touch new mappings at random, while processes and threads start,
# memory is scarce, and CPUs go offline and come back. Takes the arguments of
# the module; without seed= the seed is new each time.

. "$(dirname "$0")/functions.sh"

require_allow_crash

cpus=/sys/devices/system/cpu
temporary=
toggler=
storm=

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

stop()
{
	[ -z "$toggler" ] || kill -TERM "$toggler" 2> /dev/null
	[ -z "$storm" ] || kill -TERM "$storm" 2> /dev/null
	wait
	# Leave no CPU offline, whatever went wrong.
	for cpu in "$cpus"/cpu[0-9]*/online; do
		[ ! -e "$cpu" ] || echo 1 2> /dev/null > "$cpu"
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
ktap_set_plan 3

toggle_cpus "$(argument seed "$@")" &
toggler=$!
if [ -x "$DIR/fork_storm" ]; then
	"$DIR/fork_storm" "seconds=$seconds" workers=4 > "$temporary/forks" 2>&1 &
	storm=$!
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
ktap_finished
