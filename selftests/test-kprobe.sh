#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Try to put a kprobe on every instruction of the exception entry and return, of
# the C functions that they call, and of the context switch. A breakpoint there
# traps while the entry cannot handle another trap, before the kernel knows that
# it has left user mode, or on a stack that the hart may not see yet. The same goes
# for the code that announces new mappings: between the store of a PTE and its
# announcement nobody may touch the mapping. Accepted probes are never enabled, so
# even then nothing dies. Functions that are called once the entry is done, like
# handle_page_fault(), may take probes.
#
# The function tracer, which needs no breakpoint, must not know these C functions.

. "$(dirname "$0")/functions.sh"

group=lazy_map_test

# What must refuse probes, and what the function tracer must not know: test and symbol
refused="
no_probe_in_exception_entry handle_exception
no_probe_in_exception_return ret_from_exception
no_probe_in_stack_overflow_entry handle_kernel_stack_overflow
no_probe_in_context_switch __switch_to
no_probe_in_interrupt_handler do_irq
no_probe_in_page_fault_handler do_page_fault
no_probe_in_system_call_handler do_trap_ecall_u
no_probe_in_breakpoint_handler do_trap_break
no_probe_in_irqentry_enter irqentry_enter
no_probe_in_irqentry_exit irqentry_exit
no_probe_in_stack_erasing stackleak_erase_on_task_stack
no_probe_in_vector_nesting_start riscv_v_context_nesting_start
no_probe_in_vector_nesting_end riscv_v_context_nesting_end
no_probe_in_announcement flush_cache_vmap
"
untraceable="
no_tracer_in_interrupt_handler do_irq
no_tracer_in_page_fault_handler do_page_fault
no_tracer_in_system_call_handler do_trap_ecall_u
no_tracer_in_irqentry_enter irqentry_enter
no_tracer_in_irqentry_exit irqentry_exit
no_tracer_in_stack_erasing stackleak_erase_on_task_stack
no_tracer_in_vector_nesting_start riscv_v_context_nesting_start
no_tracer_in_vector_nesting_end riscv_v_context_nesting_end
no_tracer_in_announcement flush_cache_vmap
"

# Both lists of functions are long and slow to read, so each is read once.

# read_ranges SYMBOL...: sets $ranges to lines with the name, the first address, and
# that of the next symbol, from kallsyms
read_ranges()
{
	ranges=$(awk -v symbols="$*" '
		BEGIN { split(symbols, names); for (i in names) wanted[names[i]] = 1 }
		open && $1 != start { while (open) print at[open--], start, $1 }
		$3 in wanted && $2 ~ /[tT]/ { delete wanted[$3]; at[++open] = $3; start = $1 }
		' /proc/kallsyms)
}

# range_of SYMBOL: its first address and that of the next symbol
range_of()
{
	echo "$ranges" | awk -v symbol="$1" '$1 == symbol { print $2, $3 }'
}

# read_traceable SYMBOL...: sets $traceable to those that the function tracer offers
read_traceable()
{
	traceable=$(awk -v symbols="$*" '
		BEGIN { split(symbols, names); for (i in names) wanted[names[i]] = 1 }
		$1 in wanted { print $1 }' "$tracing/available_filter_functions")
}

# symbols_of LIST: the second words of its lines
symbols_of()
{
	echo "$1" | awk '{ print $2 }'
}

# try_range START END: try a probe at every even address. Sets $tried to the number
# of addresses, $accepted to offsets in bytes; leaves these probes in place.
try_range()
{
	tried=0
	accepted=
	address=$((0x$1))
	while [ "$address" -lt $((0x$2)) ]; do
		if printf 'p:%s/at_%x 0x%x\n' $group $((address - 0x$1)) "$address" \
				>> "$tracing/kprobe_events" 2> /dev/null; then
			accepted="$accepted $((address - 0x$1))"
		fi
		tried=$((tried + 1))
		address=$((address + 2))
	done
}

remove_probes()
{
	[ -d "$tracing/events/$group" ] || return
	echo 0 > "$tracing/events/$group/enable"
	echo "-:$group/" >> "$tracing/kprobe_events"
}

# refuses TEST SYMBOL: no address of the symbol may take a probe
refuses()
{
	set -- "$1" "$2" $(range_of "$2")
	if [ -n "$unreliable" ] || [ $# -ne 4 ]; then
		ktap_print_msg "$1: ${unreliable:-no $2 in this kernel}"
		ktap_test_skip "$1"
		return
	fi
	try_range "$3" "$4"
	remove_probes
	ktap_print_msg "$2: accepted: $(count $accepted), checks: $tried"
	if [ "$tried" -eq 0 ] || [ -n "$accepted" ]; then
		ktap_print_msg "$2: accepted at offsets:$accepted"
		ktap_test_fail "$1"
	else
		ktap_test_pass "$1"
	fi
}

# hidden TEST SYMBOL: the function tracer must not offer it
hidden()
{
	set -- "$1" "$2" $(range_of "$2")
	if [ -n "$no_tracer" ] || [ $# -ne 4 ]; then
		ktap_print_msg "$1: ${no_tracer:-no $2 in this kernel}"
		ktap_test_skip "$1"
	elif traceable "$2"; then
		ktap_print_msg "$2 can be traced"
		ktap_test_fail "$1"
	else
		ktap_test_pass "$1"
	fi
}

# traceable SYMBOL: whether the function tracer offers it
traceable()
{
	case " $(echo $traceable) " in
	*" $1 "*) return 0 ;;
	esac
	return 1
}

count()
{
	echo $#
}

ktap_print_header
[ "$(id -u)" -eq 0 ] || skip_test "must be run as root"
require_clean_kernel
for tracing in /sys/kernel/tracing /sys/kernel/debug/tracing none; do
	[ -w "$tracing/kprobe_events" ] && break
done
[ "$tracing" != none ] ||
	skip_test "no kprobe_events: tracefs is not mounted, or no CONFIG_KPROBE_EVENTS"
read_ranges vfs_read __memset $(symbols_of "$refused")
for symbol in handle_exception vfs_read; do
	set -- $(range_of $symbol)
	[ $# -eq 2 ] && [ $((0x$1)) -ne 0 ] || skip_test "no address of $symbol in /proc/kallsyms"
done
trap remove_probes EXIT
remove_probes
ktap_set_plan 26

# A refusal means something only if the same probe is accepted elsewhere, and hit.
try_range "$1" "$(printf %x $((0x$1 + 32)))"
echo 1 > "$tracing/events/$group/enable"
cat /proc/version > /dev/null
hits=$(awk -v "group=$group" '$1 ~ "^(" group ":)?at_" { hits += $2 } END { print hits + 0 }' \
	"$tracing/kprobe_profile")
remove_probes
ktap_print_msg "vfs_read: accepted: $(count $accepted), hits: $hits, checks: $tried"
if [ "$(count $accepted)" -gt 1 ] && [ "$hits" -gt 0 ]; then
	ktap_test_pass probe_in_ordinary_function
else
	ktap_test_fail probe_in_ordinary_function
fi

# As a rule, functions in asm cannot be traced, and the events refuse them for that
# alone. Then a refusal says nothing about kprobes.
unreliable=
set -- $(range_of __memset)
if [ $# -eq 2 ]; then
	try_range "$1" "$(printf %x $((0x$1 + 16)))"
	remove_probes
	ktap_print_msg "__memset: accepted: $(count $accepted), checks: $tried"
fi
if [ $# -eq 2 ] && [ -n "$accepted" ]; then
	ktap_test_pass probe_in_ordinary_asm
else
	unreliable="a kernel without CONFIG_KPROBE_EVENTS_ON_NOTRACE"
	ktap_print_msg "probe_in_ordinary_asm: $unreliable"
	ktap_test_skip probe_in_ordinary_asm
fi

while read -r test symbol; do
	[ -z "$test" ] || refuses "$test" "$symbol"
done << END
$refused
END

# A missing function means something only if others are present.
no_tracer=
if [ ! -r "$tracing/available_filter_functions" ]; then
	no_tracer="a kernel without CONFIG_DYNAMIC_FTRACE"
	ktap_print_msg "tracer_in_ordinary_function: $no_tracer"
	ktap_test_skip tracer_in_ordinary_function
elif read_traceable vfs_read $(symbols_of "$untraceable") && traceable vfs_read; then
	ktap_test_pass tracer_in_ordinary_function
else
	ktap_test_fail tracer_in_ordinary_function
fi

while read -r test symbol; do
	[ -z "$test" ] || hidden "$test" "$symbol"
done << END
$untraceable
END
ktap_finished
