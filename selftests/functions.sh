# SPDX-License-Identifier: GPL-2.0
#
# What the test scripts of this folder have in common. A test is a module that
# runs when it is loaded, and that loads only if it passes.

DIR="$(dirname "$(readlink -f "$0")")"

# Two levels up in the source tree and with TARGETS=riscv/lazy_map, one with
# TARGETS=riscv, which installs all its subfolders into one.
for helpers in "$DIR"/../../kselftest/ktap_helpers.sh \
	       "$DIR"/../kselftest/ktap_helpers.sh "$DIR"/ktap_helpers.sh; do
	if [ -r "$helpers" ]; then
		. "$helpers"
		break
	fi
done
if [ -z "$KSFT_SKIP" ]; then
	echo "$0: ktap_helpers.sh is missing: install kselftest as a whole" >&2
	exit 1
fi

# skip_test REASON: end the script, which cannot run here
skip_test()
{
	ktap_skip_all "$@"
	exit "$KSFT_SKIP"
}

# asked_for NAME: whether NAME is 1 in the environment, or lazy_map.name on the kernel's
# command line, for test runners that set no variables
asked_for()
{
	local value
	eval "value=\$$1"
	[ "$value" = 1 ] && return
	case " $(cat /proc/cmdline) " in
	*" lazy_map.$(echo "$1" | tr "[:upper:]" "[:lower:]")=1 "*) return 0 ;;
	esac
	return 1
}

# require_allow_crash: first thing in a test that may kill the kernel, so that
# running all tests does no harm
require_allow_crash()
{
	asked_for ALLOW_CRASH && return
	ktap_print_header
	skip_test "it can crash the machine: set ALLOW_CRASH=1 in the environment if that may be"
}

# modules_required: whether a missing module is a failure
modules_required()
{
	[ -e "$DIR/require_modules" ] || asked_for REQUIRE_MODULES
}

# require_module NAME [KIND]: skip unless NAME.ko was built and may be loaded; with
# REQUIRE_MODULES=1, fail if it was not built. KIND is what KDIR= has to be for that, if
# not a kernel with the abstractions for Rust.
require_module()
{
	local why
	[ "$(id -u)" -eq 0 ] || skip_test "must be run as root"
	require_clean_kernel
	[ -e "$DIR/test_modules/$1.ko" ] && return
	why="$1.ko is missing: KDIR= must ${2:-have CONFIG_RUST_KSELFTEST_SUPPORT}"
	modules_required || skip_test "$why"
	ktap_set_plan 1
	ktap_print_msg "$why"
	ktap_test_fail "$1"
	ktap_finished
}

# arguments_for MODULE [PARAMETER=VALUE...]: these, plus what the kernel's command
# line has for other parameters of the module, as modprobe does
arguments_for()
{
	local prefix="$1." word
	shift

	for word in $(cat /proc/cmdline); do
		case "$word" in
		"$prefix"*=*) word="${word#"$prefix"}" ;;
		*) continue ;;
		esac
		case " $*" in
		*" ${word%%=*}="*) ;;
		*) echo "$word" ;;
		esac
	done
	[ $# -eq 0 ] || printf '%s\n' "$@"
}

# argument NAME [PARAMETER=VALUE...]: the value of a parameter, empty if not given; the
# last one if it is given twice, as for the kernel
argument()
{
	local name="$1" value=
	shift

	for word in "$@"; do
		case "$word" in
		"$name"=*) value="${word#*=}" ;;
		esac
	done
	echo "$value"
}

# modules: the names of all test modules that were built
modules()
{
	for file in "$DIR"/test_modules/lazy_map_*.ko; do
		[ -e "$file" ] && basename "$file" .ko
	done
}

# declared_parameters MODULE: the names of a module's parameters, without those that are
# strings
declared_parameters()
{
	tr '\0' '\n' < "$DIR/test_modules/$1.ko" |
		LC_ALL=C sed -n -e /:charp/d -e 's/.*parmtype=\([a-z_]*\):.*/\1/p'
}

# quick_parameters MODULE: values that make it do as little as possible
quick_parameters()
{
	for parameter in $(declared_parameters "$1"); do
		case "$parameter" in
		rounds | seconds | areas | mapped | allocated) echo "$parameter=1" ;;
		threads | pages | memory | buffers) echo "$parameter=2" ;;
		size) echo "$parameter=4096" ;;
		esac
	done
}

# run_program NAME [ARGUMENT...]: end the script with a test program, which does
# its own reporting, header included
run_program()
{
	local program="$1"
	shift

	if [ "$(id -u)" -ne 0 ]; then
		ktap_print_header
		skip_test "must be run as root"
	elif [ ! -x "$DIR/$program" ]; then
		ktap_print_header
		skip_test "$program is missing: build with a compiler for riscv64"
	elif [ -n "$(kept_module)" ]; then
		ktap_print_header
		require_clean_kernel
	fi
	exec "$DIR/$program" "$@"
}

module_runs=0

# mark_log MODULE: log_of() prints what follows this mark, because the kernel's log
# is not ours to clear
mark_log()
{
	module_runs=$((module_runs + 1))
	log_start="$1: start of test $$.$module_runs"
	echo "$log_start" > /dev/kmsg
}

# Clean up when a signal ends the script, too: not every shell runs the EXIT trap then.
trap 'exit 143' HUP INT TERM

# load_module NAME [PARAMETER=VALUE...]: insmod. The timeout of kselftest ends the script
# alone: then insmod must not go on by itself. A shell handles a signal only while it
# waits for something in the background.
load_module()
{
	local module="$1" loader= status
	shift
	trap 'end_loader "$loader" "$module"; exit 143' HUP INT TERM
	insmod "$DIR/test_modules/$module.ko" "$@" &
	loader=$!
	wait "$loader"
	status=$?
	trap 'exit 143' HUP INT TERM
	return "$status"
}

# end_loader PID MODULE: end an insmod; give up after 10 s
end_loader()
{
	local times=0

	[ -z "$1" ] || kill -TERM "$1" 2> /dev/null
	while [ $times -lt 100 ] && grep -q "^$2 .* Loading " /proc/modules; do
		sleep 0.1
		times=$((times + 1))
	done
	! grep -q "^$2 .* Live " /proc/modules || rmmod "$2"
}

# whole_log: what the kernel has logged since mark_log()
whole_log()
{
	# A mark that was overwritten is older than the whole log.
	dmesg | awk -v start="$log_start" '
		substr($0, length($0) - length(start) + 1) == start { lines = 0; next }
		{ line[lines++] = $0 }
		END { for (i = 0; i < lines; i++) print line[i] }'
}

# kernel_kib: memory that the kernel has allocated for itself
kernel_kib()
{
	sync
	# Not everything is freed at once: an RCU grace period, lazily unmapped areas.
	sleep 1
	awk '/^(SUnreclaim|VmallocUsed|Percpu|KernelStack|PageTables):/ { sum += $2 }
	     END { print sum + 0 }' /proc/meminfo
}

# has_quarantine: whether KASAN keeps what has been freed. Up to 1/32 of all memory is
# not yet available then, which is more than a leak would be.
has_quarantine()
{
	grep -q ' kasan_quarantine_put$' /proc/kallsyms
}

# left_behind: modules of ours, their threads, mappings (except those of processes), and
# everything that is probed or traced, as far as the kernel tells
left_behind()
{
	local tracing=/sys/kernel/tracing

	[ -d $tracing/events ] || tracing=/sys/kernel/debug/tracing
	sed -n 's/^\(lazy_map_[a-z_]*\) .*/module \1/p' /proc/modules
	# Some are gone before they are read.
	grep -h -e '^rust-call$' -e '^lazy_map' /proc/[0-9]*/comm 2> /dev/null |
		sed 's/^/thread /' | sort | uniq -c
	if [ -r /proc/vmallocinfo ]; then
		awk '{ print $3 }' /proc/vmallocinfo | sed 's/\[.*//' |
			grep -e lazy_map -e rust -e execmem | sort | uniq -c
	fi
	sed 's/^[^ ]* */kprobe /' /sys/kernel/debug/kprobes/list 2> /dev/null
	sed 's/ .*//; s/^/traced /' $tracing/enabled_functions 2> /dev/null
}

# log_of NAME: messages by and about a module since mark_log()
log_of()
{
	whole_log | sed -n "s/^\(\[[^]]*\] *\)*$1: //p"
}

# kept_module: a module that can never be unloaded, because a thread has died in its test
kept_module()
{
	sed -n '/^lazy_map_[a-z_]* [0-9]* [1-9]/{s/ .*//p;q;}' /proc/modules 2> /dev/null
}

# require_clean_kernel: skip if an earlier test has left something behind that cannot be
# undone. Not before the header is printed.
require_clean_kernel()
{
	local kept

	kept=$(kept_module)
	[ -z "$kept" ] || skip_test "$kept has failed before and stays loaded: reboot"
}

# spurious_in LOG: the sum of the spurious faults that cases have counted; nothing if none counts
spurious_in()
{
	echo "$1" | awk '/^# spurious faults: [0-9]/ { sum += $4; some = 1 }
			 END { if (some) print sum }'
}

# count_spurious NUMBER: add to the spurious faults of all tests since the machine was
# booted, if there is a place to note them, and print them. Whether it is 0 or not is
# what tells whether the other results mean anything on this machine.
count_spurious()
{
	local file=/run/lazy_map_spurious_faults total

	[ -w /run ] || return
	total=$(cat "$file" 2> /dev/null)
	total=$((${total:-0} + $1))
	echo "$total" > "$file"
	ktap_print_msg "spurious faults met since boot: $total"
}

# skipped_in LOG: which cases of a module were skipped, and why, on one line
skipped_in()
{
	echo "$1" | awk '
		/^# [a-z0-9_]*: skipped: / {
			name = $2
			sub(/:$/, "", name)
			sub(/^# [a-z0-9_]*: skipped: /, "")
			reason[name] = $0
		}
		/^ok / && / # SKIP/ { skipped[++skips] = $3 }
		/^(not )?ok / { cases++ }
		END {
			if (!skips)
				exit
			printf "%d of %d skipped:", skips, cases
			for (i = 1; i <= skips; i++)
				printf "%s %s (%s)", (i > 1 ? "," : ""), skipped[i],
					reason[skipped[i]]
		}'
}

# run_module TEST NAME [PARAMETER=VALUE...]: one test case, with the module's
# own ones as subtests. The module loads only if it passes. TEST is the module's name
# or another that none of its cases has: parsers of results flatten them.
run_module()
{
	local test="$1" module="$2" status log totals foreign spurious skipped detail
	shift 2

	mark_log "$module"
	load_module "$module" $(arguments_for "$module" "$@")
	status=$?
	# Some versions of insmod try again in another way, so the tests may have run twice.
	log="$(log_of "$module" | sed -e '/^# Totals: /q')"
	case "$log" in
	*"KTAP version"*)
		echo "$log" | sed -E -e 's/^(KTAP |1\.\.|ok |not ok |# )/  \1/' -e t -e 's/^/# /' ;;
	*)
		# Empty, or cut at the start if there were too many messages.
		[ -z "$log" ] || echo "$log" | sed 's/^/# /' ;;
	esac
	totals="$(echo "$log" | grep '^# Totals: ')"
	foreign="$(echo "$log" |
		   grep -m 1 -E '^(Unknown symbol|disagrees about version|version magic)')"
	skipped="$(skipped_in "$log")"
	[ -z "$skipped" ] || ktap_print_msg "$test: $skipped"
	spurious="$(spurious_in "$log")"
	detail=
	if [ -n "$spurious" ]; then
		count_spurious "$spurious"
		detail="$spurious spurious faults met"
		[ "$spurious" -ne 0 ] || detail="$detail: this machine cannot tell"
	fi
	# Without the names and reasons, which were printed above.
	[ -z "$skipped" ] || detail="${detail:+$detail, }${skipped%%:*}"
	if [ "$status" -ne 0 ]; then
		case "$totals/$foreign" in
		*" pass:0 fail:0 "*) ktap_test_skip "$test" ;;
		/?*)
			ktap_print_msg "$test: $module was built for another kernel"
			if modules_required; then
				ktap_test_fail "$test"
			else
				ktap_test_skip "$test"
			fi ;;
		*) ktap_test_fail "$test" ;;
		esac
	elif ! rmmod "$module"; then
		ktap_print_msg "$module cannot be unloaded"
		ktap_test_fail "$test"
	elif ! echo "$totals" | grep -q ' fail:0 '; then
		ktap_print_msg "the log of $module has no totals without failures"
		ktap_test_fail "$test"
	else
		ktap_test_pass "$test${detail:+ # $detail}"
	fi
}
