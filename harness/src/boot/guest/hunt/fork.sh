#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Programs start on all harts at once: each gets a stack that is new, or that was
# unmapped and mapped again.
count=${FORKS:-400}
for cpu in $(seq "$(nproc)"); do
	seq "$count" | xargs -n 1 true &
done
wait
echo "forks: $(($(nproc) * count))"
