#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The guest's /init: runs the tests that the kernel command line names, the way
# the kselftest runner does, and switches the machine off.
#
#   lazymap.tests=A,B   files in /lazy_map, in this order; `all` = every test-*.sh
#   lazymap.timeout=N   seconds that a test may take (otherwise what `settings` says)
#   lazymap.online=N,M  CPUs to start before the tests, if maxcpus= kept them off
#   lazymap.hotplug     take CPUs offline and online all the time while tests run
#   lazymap.hibernate   hibernate to /dev/ram0 and resume all the time while tests run
#   lazymap.kexec       start the kernel in /next in place of this one, before the tests
#   lazymap.kdump       the same by a panic; needs crashkernel=
#   lazymap.show=F:W,G  say the first line of file F with the word W, and the bytes of file G
#   lazymap.called=F,G  say from where the kernel calls these functions
#   lazymap.shell       an interactive shell on the console after the tests
#
# Everything is written to /dev/kmsg, one line at a time: what a program writes
# to the terminal gets mixed up with kernel messages, printk() output does not.

PATH=/bin
# This machine exists to run tests that may kill the kernel.
ALLOW_CRASH=1
export PATH ALLOW_CRASH
bb=/bin/busybox
run=/run/lazymap

$bb mkdir -p /proc /sys /dev /tmp /run $run /root /usr
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb --install -s /bin
# Scripts may name their interpreter by any of these paths.
for place in /sbin /usr/bin /usr/sbin; do
	[ -e $place ] || ln -s /bin $place
done

# Errors of this script belong in the log, too.
exec 2>/dev/kmsg

# A record of the kernel's log holds less than 1 KiB; longer writes are refused.
say() {
	text=$1
	while [ ${#text} -gt 800 ]; do
		echo "<6>${text:0:800}" >/dev/kmsg
		text="# ...${text:800}"
	done
	echo "<6>$text" >/dev/kmsg
}

say "lazymap: the guest's init runs"
for mount in debugfs:/sys/kernel/debug tracefs:/sys/kernel/tracing; do
	kind=${mount%%:*}
	grep -qw $kind /proc/filesystems || continue
	mount -t $kind $kind ${mount#*:} || say "# cannot mount $kind on ${mount#*:}"
done

tests=
limit=
shell=
hotplug=
hibernate=
next=
online=
shows=
callees=
for word in $(cat /proc/cmdline); do
	case $word in
	lazymap.tests=*) tests=$(echo "${word#*=}" | tr ',' ' ') ;;
	lazymap.timeout=*) limit=${word#*=} ;;
	lazymap.online=*) online=$(echo "${word#*=}" | tr ',' ' ') ;;
	lazymap.hotplug) hotplug=yes ;;
	lazymap.hibernate) hibernate=yes ;;
	lazymap.kexec | lazymap.kdump) next=${word#*.} ;;
	lazymap.show=*) shows=$(echo "${word#*=}" | tr ',' ' ') ;;
	lazymap.called=*) callees=$(echo "${word#*=}" | tr ',' ' ') ;;
	lazymap.shell) shell=yes ;;
	esac
done
for cpu in $online; do
	echo 1 >"/sys/devices/system/cpu/cpu$cpu/online" || say "# CPU $cpu cannot be started"
done
cd /lazy_map || say "# there is no /lazy_map"
if [ "$tests" = all ]; then
	tests=
	for file in test-*.sh; do
		[ -e "$file" ] && tests="$tests $file"
	done
fi
[ -n "$limit" ] || limit=$(sed -n 's/^timeout=//p' settings 2>/dev/null)
case $limit in
'' | *[!0-9]*) limit=300 ;;
esac

# Sends signal $1 to the session of process $2, which may be gone already, or too
# young to lead a session.
end_session() {
	kill "-$1" "-$2" 2>/dev/null || kill "-$1" "$2" 2>/dev/null
}

# Runs a test in its own session, so that all of it can be ended. Events arrive
# through a pipe: `exit STATUS` from the test, the other words from a watchdog.
# Sets $result to the status or to `timeout`.
run_test() {
	rm -f $run/out $run/event
	mkfifo $run/out $run/event
	exec 3<>$run/event 4<>$run/out

	# Mark the end, because whatever the test leaves running keeps the pipe open.
	end="<end of test $number of $$>"
	while IFS= read -r line <&4; do
		case $line in
		*"$end")
			line=${line%"$end"}
			[ -z "$line" ] || say "# $line"
			break
			;;
		esac
		say "# $line"
	done &
	reader=$!

	(
		setsid "./$1" </dev/null >$run/out 2>&1 3>&- 4>&- &
		echo $! >$run/pid
		wait $! 2>/dev/null
		echo "exit $?" >&3
	) &
	setsid sh -c '
		sleep "$1"; echo timeout >&3
		sleep 5; echo stubborn >&3
		sleep 5; echo stuck >&3' sh "$limit" </dev/null 4>&- &
	watchdog=$!

	result=
	while read -r what status <&3; do
		case $what in
		timeout)
			result=timeout
			end_session TERM "$(cat $run/pid)"
			;;
		stubborn)
			end_session KILL "$(cat $run/pid)"
			;;
		*)
			break
			;;
		esac
	done
	[ -n "$result" ] || result=$status
	end_session KILL $watchdog
	wait $watchdog 2>/dev/null
	end_session KILL "$(cat $run/pid)"
	echo "$end" >&4
	wait $reader 2>/dev/null
	[ "$what" != stuck ] || say "# $1 cannot be ended: it hangs in the kernel"
	exec 3>&- 4>&-
}

# Takes one CPU after the other offline and online until $run/hotplug-stop exists.
# Leaves the number of times in $run/hotplug.
toggle_cpus() {
	count=0
	while [ ! -e $run/hotplug-stop ]; do
		for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
			[ ! -e $run/hotplug-stop ] || break
			# A test may not let one go right now.
			echo 0 2>/dev/null >"$cpu" || { usleep 1000; continue; }
			# Long enough for new mappings to be made in the meantime.
			usleep 20000
			# Nor let one come back; or its hart is still stopping.
			tries=0
			until echo 1 2>/dev/null >"$cpu" || [ $tries -ge 5000 ]; do
				usleep 2000
				tries=$((tries + 1))
			done
			if [ "$(cat "$cpu")" = 1 ]; then
				count=$((count + 1))
			else
				say "# hotplug: $cpu does not come back"
			fi
			usleep 20000
		done
	done
	echo $count >$run/hotplug
}

# Hibernates and resumes until $run/hibernate-stop exists: the kernel writes an image
# of memory to a RAM disk, reads it back in place of memory, and goes on from there.
# Leaves the number of times in $run/hibernate.
hibernate_often() {
	count=0
	if mkswap /dev/ram0 >/dev/null && swapon /dev/ram0 && echo test_resume >/sys/power/disk; then
		while [ ! -e $run/hibernate-stop ]; do
			# It succeeds only for a kernel that has come back from the image.
			echo disk >/sys/power/state && count=$((count + 1))
			sleep 1
		done
	fi
	echo $count >$run/hibernate
}

# Starts the kernel in /next in place of this one, which is busy with new stacks on all
# CPUs, as $1 says: `kexec`, or `kdump` by a panic. That one runs the tests, so this
# returns only if it fails.
start_next() {
	words=
	for word in $(cat /proc/cmdline); do
		case $word in
		lazymap.kexec | lazymap.kdump | crashkernel=*) ;;
		*) words="$words $word" ;;
		esac
	done
	./fork_storm seconds=60 </dev/null >/dev/null 2>&1 &
	sleep 1
	if [ "$1" = kdump ]; then
		/next/kexec kdump /next/Image /next/initramfs.cpio.gz "${words# }" || {
			say "# no kernel for a panic can be loaded: status $?"
			return
		}
		say "lazymap: the next kernel starts"
		echo c >/proc/sysrq-trigger
	else
		say "lazymap: the next kernel starts"
		/next/kexec kexec /next/Image /next/initramfs.cpio.gz "${words# }" ||
			say "# no next kernel can be started: status $?"
	fi
}

# Says what $1 shows of the kernel: FILE:WORD the first line of the file with the
# word, FILE its bytes. Many an option leaves no other trace in the log.
show() {
	file=${1%%:*}
	case $1 in
	*:*) found=$(grep -m 1 -F "${1#*:}" "$file") ;;
	*) found=$(xxd -p "$file" | tr -d '\n') ;;
	esac
	say "lazymap: $found"
}

# Says from where the kernel calls function $1 while a process starts and ends, if
# it does.
called() (
	cd /sys/kernel/tracing || return
	echo "$1" >set_ftrace_filter && echo function >current_tracer || return
	sh -c true
	call=$(grep -m 1 -F " $1 <-" trace)
	echo nop >current_tracer
	echo >set_ftrace_filter
	[ -z "$call" ] || say "lazymap: called: ${call##*: }"
)

say "lazymap: mmu $(sed -n 's/^mmu[[:blank:]]*: //p' /proc/cpuinfo | sort -u)"
[ -z "$next" ] || start_next "$next"
if [ -e /proc/vmcore ]; then
	# Each page of the kernel that has panicked is mapped anew to be read.
	say "lazymap: vmcore: $(head -c 4 /proc/vmcore | xxd -p), $(dd if=/proc/vmcore bs=1M count=64 2>/dev/null | wc -c) bytes"
fi
for shown in $shows; do
	show "$shown"
done
for callee in $callees; do
	called "$callee"
done
say "lazymap: guest ready"
if [ -n "$hotplug" ]; then
	toggle_cpus </dev/null &
	toggler=$!
fi
if [ -n "$hibernate" ]; then
	hibernate_often </dev/null &
	sleeper=$!
fi
if [ -n "$tests" ]; then
	set -- $tests
	say "TAP version 13"
	say "1..$#"
	number=0
	for name in "$@"; do
		number=$((number + 1))
		title="selftests: riscv/lazy_map: $name"
		say "# $title"
		if [ ! -f "$name" ]; then
			say "not ok $number $title # missing"
			continue
		elif [ ! -x "$name" ]; then
			say "not ok $number $title # not executable"
			continue
		fi
		run_test "$name"
		# 2 is not an expected failure here: a shell also exits with 2 if it cannot read its script.
		case $result in
		0) say "ok $number $title" ;;
		4) say "ok $number $title # SKIP" ;;
		timeout) say "not ok $number $title # timeout" ;;
		*) say "not ok $number $title # exit=$result" ;;
		esac
	done
fi
if [ -n "$hotplug" ]; then
	: >$run/hotplug-stop
	wait $toggler
	say "lazymap: hotplug: $(cat $run/hotplug) harts went offline and came back"
fi
if [ -n "$hibernate" ]; then
	: >$run/hibernate-stop
	wait $sleeper
	say "lazymap: hibernated $(cat $run/hibernate) times"
fi
if [ -n "$shell" ]; then
	say "lazymap: a shell; \`exit\` switches the machine off"
	setsid cttyhack sh </dev/console >/dev/console 2>&1
fi
say "lazymap: guest done"
poweroff -f
