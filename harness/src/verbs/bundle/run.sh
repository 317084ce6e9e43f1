#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Boots a kernel on harts that remember invalid translations, and judges its console as the tool does.
set -u

usage() {
	cat <<'END'
usage: run.sh [OPTION]... [TEST]...

Boots the kernel of this bundle and runs tests in it: the named ones, or `all`, or by default test-ipi.sh
test-stack.sh test-trace.sh.

  --cpu PROPERTIES  what harts do, QEMU's CPU properties [@CPU@]; `plain`: what stock QEMU's do
  --kernel FILE     another kernel, an Image; the tests' modules are for the bundle's own
  --initrd FILE     another initramfs, which must switch the machine off at the end; the console is not judged
  --append WORDS    more for the kernel's command line
  --harts N         number of harts [4]
  --seconds N       longest run [900]
  --console FILE    where the console goes, too [console.log]
  --shell           a shell in the guest, on this terminal; Ctrl-A X ends it
  --version         QEMU's version

Exit codes: 0 all tests passed, and the kernel reported nothing; 1 one failed, or the kernel reported or died of
something; 2 the boot did not finish, or the console does not tell; 4 all were skipped; 64 wrong usage.
END
}

die() {
	echo "run.sh: $*" >&2
	exit 64
}

here=$(cd "$(dirname "$0")" && pwd) || exit 2
# With the bundle's own libraries and loader: nothing of this host is needed but the kernel. Replaces the (sub)shell.
program() {
	program=$1
	shift
	exec "$here/lib/loader" --library-path "$here/lib" "$here/bin/$program" "$@"
}

cpu='@CPU@'
kernel=$here/share/Image
initrd=$here/share/initramfs.cpio.gz
append=
harts=4
seconds=900
console=console.log
shell=
own=yes
tests=
while [ $# -gt 0 ]; do
	case $1 in
	--help | -h) usage; exit 0 ;;
	--version) program qemu-system-riscv64 --version ;;
	--shell) shell=yes; shift; continue ;;
	--cpu | --kernel | --initrd | --append | --harts | --seconds | --console)
		[ $# -gt 1 ] || die "$1 needs a value" ;;
	-*) die "unknown option $1; run.sh --help lists them" ;;
	*) tests=$tests,$1; shift; continue ;;
	esac
	case $1 in
	--cpu) cpu=$2 ;;
	--kernel) kernel=$2 ;;
	--initrd) initrd=$2; own= ;;
	--append) append=$2 ;;
	--harts) harts=$2 ;;
	--seconds) seconds=$2 ;;
	--console) console=$2 ;;
	esac
	shift 2
done
[ -r "$kernel" ] || die "$kernel cannot be read"
[ -r "$initrd" ] || die "$initrd cannot be read"
case $seconds$harts in *[!0-9]*) die "--seconds and --harts take numbers" ;; esac
[ "$cpu" = plain ] && cpu= || cpu=,$cpu
tests=${tests#,}
append="@APPEND@ $append"

set -- -M virt,aia=aplic-imsic -cpu "rv64$cpu" -smp "$harts" -m 1024M -display none -monitor none -no-reboot \
	-bios "$here/share/fw_dynamic.bin" -kernel "$kernel" -initrd "$initrd"
if [ -n "$shell" ]; then
	program qemu-system-riscv64 "$@" -serial mon:stdio -append "$append lazymap.shell"
fi
[ -z "$own" ] || append="$append lazymap.tests=${tests:-test-ipi.sh,test-stack.sh,test-trace.sh}"

results=$(mktemp -d) || exit 2
trap 'rm -rf "$results"' EXIT
mkfifo "$results/console" || exit 2
tee "$console" <"$results/console" &
program qemu-system-riscv64 "$@" -serial stdio -append "$append" </dev/null >"$results/console" 2>"$results/stderr" &
pid=$!
(
	# In its own process, so that the sleep can be ended with it.
	trap 'kill $sleeping; exit' TERM
	sleep "$seconds" &
	sleeping=$!
	wait $sleeping
	kill $pid
) 2>/dev/null &
watchdog=$!
trap 'kill $pid; rm -rf "$results"; exit 130' INT TERM
wait $pid
status=$?
kill $watchdog 2>/dev/null
wait
cat "$results/stderr" >&2
[ -n "$own" ] || exit $status

echo
set --
# What QEMU counted, unless its harts remember nothing.
! grep -q '^x-cache-invalid: total ' "$results/stderr" || set -- --counters "$results/stderr"
(program lazymap --root "$here/share" judge --console "$console" "$@")
