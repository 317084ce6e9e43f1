#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# A day's work on a distribution: installs packages, makes users, loads modules, starts services, compresses, forks,
# traces. The results go to the kernel's log as KTAP.
#
#   day.sh        does what lazymap.tests= on the kernel's command line names, and switches the machine off
#   day.sh NAME   does one thing

PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
DEBIAN_FRONTEND=noninteractive
LC_ALL=C
export PATH HOME DEBIAN_FRONTEND LC_ALL
here=/run/lazymap
work=/var/tmp/lazymap
tracing=/sys/kernel/tracing

checks=0

# Runs a command that must succeed.
check() {
	if ! "$@"; then
		echo "failed: $*"
		exit 1
	fi
	checks=$((checks + 1))
}

# Many programs start and end.
fork() {
	for number in $(seq "$1"); do
		/bin/true &
		[ $((number % 16)) -ne 0 ] || wait
	done
	wait
}

do_boot() {
	state=$(systemctl is-system-running --wait)
	echo "the system is $state"
	systemctl --failed --plain --no-legend
	check [ "$state" = running ]
	check systemctl --quiet is-active multi-user.target
}

do_packages() {
	check dpkg --install "$here"/debs/*.deb
	check sh -c 'hello >hello.out && grep -qi "hello, world" hello.out'
	echo '2^200' | bc >bc.out
	check [ "$(cat bc.out)" = 1606938044258990275541962092341162602522202993782792835301376 ]
	# All pages of a table are read and written.
	sqlite3 day.db 'create table t (n integer, s text);
		with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000)
		insert into t select n, hex(n * n) from c;
		create index i on t (s); select sum(n) from t;' >sqlite.out
	check [ "$(cat sqlite.out)" = 200010000 ]
	check sh -c 'sqlite3 day.db "pragma integrity_check" | grep -qx ok'
	for name in hello bc sqlite3; do
		check dpkg --verify $name
	done
	check dpkg --purge hello
	check [ ! -e /usr/bin/hello ]
}

do_users() {
	check groupadd daily
	for number in 1 2 3; do
		check useradd --create-home --shell /bin/sh --groups daily day$number
		check runuser -l day$number -c 'id -nG | grep -qw daily && echo work >file'
		check [ "$(stat -c %U /home/day$number/file)" = day$number ]
		check usermod --comment "day $number" day$number
		check userdel --remove day$number
		check [ ! -e /home/day$number ]
	done
	check groupdel daily
}

do_modules() {
	to=/usr/lib/modules/$(uname -r)
	mkdir -p "$to/kernel"
	check cp "$here"/modules/*.ko "$to/kernel"
	touch "$to/modules.order" "$to/modules.builtin"
	check depmod
	count=0
	for round in 1 2 3; do
		for name in loop overlay squashfs virtio-rng; do
			[ -e "$to/kernel/$name.ko" ] || continue
			check modprobe $name
			check grep -q "^$(echo $name | tr - _) " /proc/modules
			if [ $name = loop ]; then
				check truncate -s 1M disk
				device=$(losetup --find --show disk)
				check dd if=/dev/urandom of="$device" bs=64k count=16 conv=fsync status=none
				check losetup --detach "$device"
				udevadm settle
			fi
			check modprobe --remove $name
			count=$((count + 1))
		done
	done
	echo "$count times"
	check [ $count -ge 6 ]
}

do_services() {
	for number in $(seq 10); do
		check systemd-run --quiet --wait --collect true
	done
	check systemd-run --quiet --wait --collect -p DynamicUser=yes -p PrivateTmp=yes -p ProtectSystem=strict \
		-p NoNewPrivileges=yes -p MemoryMax=64M -p TasksMax=8 -p IPAddressDeny=any sh -c 'echo work >/tmp/file'
	check systemd-run --quiet --unit=lazymap-long sleep 600
	check systemctl --quiet is-active lazymap-long.service
	check systemctl stop lazymap-long.service
	check systemctl daemon-reload
	check systemctl restart systemd-udevd.service
	check udevadm settle
	check systemctl restart systemd-journald.service
	logger "the day's work writes to the journal"
	journalctl --sync
	check sh -c 'journalctl --boot --quiet --no-pager | grep -q "the day.s work writes"'
}

do_compress() {
	check tar -C /usr -cf all.tar bin
	check gzip -1 -k all.tar
	check sh -c 'gzip -dc all.tar.gz | cmp - all.tar'
	check xz -0 -T4 -k all.tar
	check sh -c 'xz -dc all.tar.xz | cmp - all.tar'
	check rm all.tar all.tar.gz all.tar.xz
}

do_programs() {
	fork 300
	cat >work.py <<'PYTHON'
import os
total = 0
for number in range(200):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        data = bytearray(1 << 20)
        data[::4096] = bytes([number & 255]) * 256
        os.write(writer, bytes([data[-4096]]))
        os._exit(0)
    total += os.read(reader, 1)[0]
    os.close(reader)
    os.close(writer)
    os.waitpid(child, 0)
print(total)
PYTHON
	check sh -c 'python3 work.py >python.out'
	check [ "$(cat python.out)" = 19900 ]
	# Perl, with a pipe to each child.
	perl -e 'for my $n (1 .. 100) { open(my $c, "-|", "echo $n") or die; $sum += <$c>; close $c } print "$sum\n"' \
		>perl.out
	check [ "$(cat perl.out)" = 5050 ]
}

do_tracing() {
	[ -e $tracing/current_tracer ] || mount -t tracefs tracefs $tracing
	[ -e $tracing/current_tracer ] || { echo "the kernel cannot trace"; exit 4; }
	check sh -c "echo function >$tracing/current_tracer"
	fork 50
	check sh -c "echo nop >$tracing/current_tracer"
	check sh -c "echo 1 >$tracing/events/sched/sched_switch/enable"
	fork 50
	check grep -q sched_switch $tracing/trace
	check sh -c "echo 0 >$tracing/events/sched/sched_switch/enable"
	if [ -e $tracing/kprobe_events ]; then
		check sh -c "echo p:lazymap/day do_exit >$tracing/kprobe_events"
		check sh -c "echo 1 >$tracing/events/lazymap/day/enable"
		fork 50
		check grep -q ' day: ' $tracing/trace
		check sh -c "echo 0 >$tracing/events/lazymap/day/enable"
		check sh -c "echo -:lazymap/day >>$tracing/kprobe_events"
	fi
	echo >$tracing/trace
}

do_bpf() {
	# Of systemd, to limit what the service may do.
	check systemd-run --quiet --unit=lazymap-bpf -p DevicePolicy=strict -p IPAddressDeny=any sleep 600
	check sh -c 'bpftool prog list | grep -q cgroup_'
	check bpftool map create /sys/fs/bpf/day type hash key 4 value 8 entries 4096 name day
	for number in $(seq 0 63); do
		bpftool map update pinned /sys/fs/bpf/day key "$number" 0 0 0 value "$number" 0 0 0 0 0 0 0 || exit 1
	done
	check sh -c 'bpftool map lookup pinned /sys/fs/bpf/day key 63 0 0 0 | grep -Eqi "63|3f"'
	check rm /sys/fs/bpf/day
	check systemctl stop lazymap-bpf.service
}

do_failed() {
	failed=$(systemctl --failed --plain --no-legend)
	echo "$failed"
	check [ -z "$failed" ]
}

if [ -n "${1-}" ]; then
	mkdir -p $work
	cd $work || exit 1
	"do_$1"
	echo "checks: $checks"
	exit 0
fi

say() {
	echo "<6>$1" >/dev/kmsg
}

tests=
limit=300
for word in $(cat /proc/cmdline); do
	case $word in
	lazymap.tests=*) tests=$(echo "${word#*=}" | tr ',' ' ') ;;
	lazymap.timeout=*) limit=${word#*=} ;;
	esac
done
say "lazymap: mmu $(sed -n 's/^mmu[[:blank:]]*: //p' /proc/cpuinfo | sort -u)"
say "lazymap: $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release), $(dpkg-query --show | wc -l) packages"
say "lazymap: guest ready"
set -- $tests
say "TAP version 13"
say "1..$#"
number=0
for name in "$@"; do
	number=$((number + 1))
	title="selftests: distribution: $name"
	say "# $title"
	timeout -k 10 "$limit" sh $here/day.sh "$name" >/run/day.out 2>&1 </dev/null
	status=$?
	# What went wrong is at the end.
	lines=30
	[ $status -ne 0 ] || lines=3
	tail -n $lines /run/day.out | cut -c 1-400 | while IFS= read -r line; do
		say "# $line"
	done
	case $status in
	0) say "ok $number $title" ;;
	4) say "ok $number $title # SKIP" ;;
	124 | 137) say "not ok $number $title # timeout" ;;
	*) say "not ok $number $title # exit=$status" ;;
	esac
done
say "lazymap: guest done"
systemctl poweroff
