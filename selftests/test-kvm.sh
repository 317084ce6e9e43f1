#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Load KVM, and run guests on all CPUs, while the kernel maps stacks and the guests'
# pages are replaced. KVM as a module is what makes a difference for stacks: its code is
# mapped anew each time.

. "$(dirname "$0")/functions.sh"

rounds=3

# load_kvm: by the system's means, or from where the test's kernel was installed with it
load_kvm()
{
	modprobe -q kvm 2> /dev/null || insmod "$DIR/modules/kvm.ko" 2> /dev/null
}

require_allow_crash
ktap_print_header
[ "$(id -u)" -eq 0 ] || skip_test "must be run as root"
require_clean_kernel
[ -x "$DIR/kvm" ] || skip_test "kvm is missing: build with a compiler for riscv64"
if [ ! -c /dev/kvm ]; then
	load_kvm
	[ -c /dev/kvm ] || skip_test "no /dev/kvm: no hypervisor extension, or no CONFIG_KVM"
	rmmod kvm
	ktap_print_msg "kvm is a module"
else
	rounds=1
	ktap_print_msg "kvm is loaded, and stays"
fi
ktap_set_plan $rounds

round=0
while [ $round -lt $rounds ]; do
	round=$((round + 1))
	if [ $rounds -gt 1 ] && ! load_kvm; then
		ktap_print_msg "kvm cannot be loaded again"
		ktap_test_fail "guests_run_$round"
		continue
	fi
	"$DIR/kvm" "$@"
	status=$?
	[ $rounds -eq 1 ] || rmmod kvm || status=1
	case $status in
	0) ktap_test_pass "guests_run_$round" ;;
	"$KSFT_SKIP") ktap_test_skip "guests_run_$round" ;;
	*) ktap_test_fail "guests_run_$round" ;;
	esac
done
ktap_finished
