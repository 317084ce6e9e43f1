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

# skip_test REASON: end the script, nothing of it can run here
skip_test()
{
	ktap_skip_all "$@"
	exit "$KSFT_SKIP"
}

# require_module NAME: skip unless NAME.ko was built and may be loaded
require_module()
{
	[ "$(id -u)" -eq 0 ] || skip_test "must be run as root"
	[ -e "$DIR/test_modules/$1.ko" ] ||
		skip_test "$1.ko is missing: build with KDIR= set to a kernel with CONFIG_RUST"
}

# require_tracepoint SYSTEM NAME: skip if tracefs tells that there is no such event
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

# run_module TEST NAME [PARAMETER=VALUE...]: one test case, with the module's
# own ones as subtests. The module loads only if it passes.
run_module()
{
	local test="$1" module="$2" status start log totals
	shift 2

	# The kernel's log is not ours to clear: print what follows this line.
	module_runs=$((module_runs + 1))
	start="$module: start of test $$.$module_runs"
	echo "$start" > /dev/kmsg
	insmod "$DIR/test_modules/$module.ko" "$@"
	status=$?
	# Some insmod try again in another way, so the tests may have run twice.
	log="$(dmesg | sed -n "/$start\$/,\$s/^\(\[[^]]*\] *\)*$module: //p" |
	       sed -e 1d -e '/^# Totals: /q')"
	echo "$log" | sed -E -e 's/^(KTAP |1\.\.|ok |not ok |# )/  \1/' -e t -e 's/^/# /'
	totals="$(echo "$log" | grep '^# Totals: ')"
	if [ "$status" -ne 0 ]; then
		case "$totals" in
		*" pass:0 fail:0 "*) ktap_test_skip "$test" ;;
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
