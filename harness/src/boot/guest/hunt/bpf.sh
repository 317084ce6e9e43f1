#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# BPF programs that the kernel compiles, each used by all harts as soon as it
# exists, and ring buffers, which are mapped twice.
[ -x ./bpf ] || exit 4
for cpu in $(seq "$(nproc)"); do
	(./bpf; echo $? >"/tmp/bpf.$cpu") &
done
wait
for cpu in $(seq "$(nproc)"); do
	status=$(cat "/tmp/bpf.$cpu")
	[ "$status" = 0 ] || exit "$status"
done
