#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The kernel patches its own text through the fixmap, and generates code for
# probes, while programs run on all harts.
cd /sys/kernel/tracing 2>/dev/null && [ -e current_tracer ] || exit 4
storm() {
	for cpu in $(seq "$(nproc)"); do
		seq 50 | xargs -n 1 true &
	done
}
rounds=0
for round in 1 2 3; do
	storm
	if grep -qw function available_tracers; then
		# All functions at once take a busy host too long; these are some hundred.
		if [ -e set_ftrace_filter ]; then
			echo 'vm*' >set_ftrace_filter
			echo 'sched*' >>set_ftrace_filter
		fi
		echo function >current_tracer
		usleep 100000
		echo nop >current_tracer
	fi
	if [ -e kprobe_events ]; then
		echo 'p:hunt/a kernel_clone' >>kprobe_events
		echo 'r:hunt/b kernel_clone' >>kprobe_events
		echo 'p:hunt/c kernel_clone+8' >>kprobe_events 2>/dev/null
		echo 1 >events/hunt/enable
		usleep 200000
		echo 0 >events/hunt/enable
		echo >kprobe_events
	fi
	wait
	echo >trace
	rounds=$((rounds + 1))
done
echo "rounds: $rounds"
