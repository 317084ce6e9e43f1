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

# require_allow_crash: first thing in a test that may kill the kernel, so that
# running all tests does no harm
require_allow_crash()
{
	[ "$ALLOW_CRASH" = 1 ] && return
	ktap_print_header
	skip_test "it can crash the machine: set ALLOW_CRASH=1 in the environment if that may be"
}

# require_module NAME [KIND]: skip unless NAME.ko was built and may be loaded. KIND is
# what KDIR= has to be for that, if not a kernel with the abstractions for Rust.
require_module()
{
	[ "$(id -u)" -eq 0 ] || skip_test "must be run as root"
	[ -e "$DIR/test_modules/$1.ko" ] ||
		skip_test "$1.ko is missing: KDIR= must ${2:-have CONFIG_RUST_KSELFTEST_SUPPORT}"
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

# argument NAME [PARAMETER=VALUE...]: the value of a parameter, empty if not given
argument()
{
	local name="$1"
	shift

	for word in "$@"; do
		case "$word" in
		"$name"=*) echo "${word#*=}" ;;
		esac
	done
}

# modules: the names of all test modules that were built
modules()
{
	for file in "$DIR"/test_modules/lazy_map_*.ko; do
		[ -e "$file" ] && basename "$file" .ko
	done
}

# declared_parameters MODULE: the names of a module's parameters
declared_parameters()
{
	tr '\0' '\n' < "$DIR/test_modules/$1.ko" |
		LC_ALL=C sed -n 's/.*parmtype=\([a-z_]*\):.*/\1/p'
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

# require_tracepoint SYSTEM NAME: skip if tracefs shows that the event does not exist
require_tracepoint()
{
	for events in /sys/kernel/tracing/events /sys/kernel/debug/tracing/events; do
		[ -d "$events" ] || continue
		[ -d "$events/$1/$2" ] || skip_test "no tracepoint $2 in this kernel"
		return
	done
}

# run_program NAME [ARGUMENT...]: end the script with a test program, which does
# its own reporting
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

# load_module NAME [PARAMETER=VALUE...]: insmod
load_module()
{
	local module="$1"
	shift
	insmod "$DIR/test_modules/$module.ko" "$@"
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

# log_of NAME: messages by and about a module since mark_log()
log_of()
{
	whole_log | sed -n "s/^\(\[[^]]*\] *\)*$1: //p"
}

# run_module TEST NAME [PARAMETER=VALUE...]: one test case, with the module's
# own ones as subtests. The module loads only if it passes.
run_module()
{
	local test="$1" module="$2" status log totals foreign
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
	if [ "$status" -ne 0 ]; then
		case "$totals/$foreign" in
		*" pass:0 fail:0 "*) ktap_test_skip "$test" ;;
		/?*)
			ktap_print_msg "$test: $module was built for another kernel"
			ktap_test_skip "$test" ;;
		*) ktap_test_fail "$test" ;;
		esac
	elif ! rmmod "$module"; then
		ktap_print_msg "$module cannot be unloaded"
		ktap_test_fail "$test"
	elif ! echo "$totals" | grep -q ' fail:0 '; then
		ktap_print_msg "the log of $module has no totals without failures"
		ktap_test_fail "$test"
	else
		ktap_test_pass "$test"
	fi
}
