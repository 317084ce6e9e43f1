// SPDX-License-Identifier: GPL-2.0-only
/*
 * For LD_PRELOAD: host time goes on by a nanosecond at each look at the clock. QEMU
 * sizes its TLBs by host time, and otherwise no two runs are the same.
 */
#include <sys/time.h>
#include <time.h>

static long long looks;

static long long look(void)
{
	return __atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	now->tv_sec = 1700000000;
	now->tv_nsec = look() % 1000000000;
	return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	(void)zone;
	now->tv_sec = 1700000000;
	now->tv_usec = look() / 1000 % 1000000;
	return 0;
}
