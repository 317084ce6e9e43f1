#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Boots a kernel on harts that remember invalid translations, and counts the results of its tests.
set -u

usage() {
	cat <<'END'
usage: run.sh [OPTION]... [TEST]...

Boots the kernel of this bundle and runs tests in it: the named ones, or `all`, or by default test-ipi.sh
test-stack.sh test-trace.sh.

  --cpu PROPERTIES  what harts do, QEMU's CPU properties [@CPU@]; `plain`: what stock QEMU's do
  --kernel FILE     another kernel, an Image; the tests' modules are for the bundle's own
  --initrd FILE     another initramfs, which must switch the machine off at the end; no results are counted
  --append WORDS    more for the kernel's command line
  --harts N         number of harts [4]
  --seconds N       longest run [900]
  --console FILE    where the console goes, too [console.log]
  --shell           a shell in the guest, on this terminal; Ctrl-A X ends it
  --version         QEMU's version

Exit codes: 0 all tests passed; 1 one failed, or the kernel died; 2 the boot did not finish; 4 all were
skipped; 64 wrong usage. They come from the tests' results alone: `lazymap judge --console FILE` reads the rest of
the console as well.
END
}

die() {
	echo "run.sh: $*" >&2
	exit 64
}

here=$(cd "$(dirname "$0")" && pwd) || exit 2
# Its own libraries and loader: nothing of this host is needed but the kernel. Replaces the (sub)shell.
qemu() {
	exec "$here/lib/loader" --library-path "$here/lib" "$here/bin/qemu-system-riscv64" "$@"
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
	--version) qemu --version ;;
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
	qemu "$@" -serial mon:stdio -append "$append lazymap.shell"
fi
[ -z "$own" ] || append="$append lazymap.tests=${tests:-test-ipi.sh,test-stack.sh,test-trace.sh}"

results=$(mktemp -d) || exit 2
trap 'rm -rf "$results"' EXIT
mkfifo "$results/console" || exit 2
tee "$console" <"$results/console" &
qemu "$@" -serial stdio -append "$append" </dev/null >"$results/console" 2>"$results/stderr" &
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

tr -d '\r' <"$console" | sed 's/^\[ *[0-9.]*\] //' | awk '
	/^1\.\.[0-9]+$/ && !planned { planned = substr($0, 4) + 0 }
	/^ok [0-9]+ selftests: .*# SKIP/ { skipped++; next }
	/^ok [0-9]+ selftests: / { passed++ }
	/^not ok [0-9]+ selftests: / { failed++ }
	/^Kernel panic - / { dead = 1 }
	/^lazymap: guest done$/ { ended = 1 }
	END {
		printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
		if (failed || dead) exit 1
		if (!ended || !planned || passed + skipped != planned) exit 2
		if (!passed) exit 4
	}'
