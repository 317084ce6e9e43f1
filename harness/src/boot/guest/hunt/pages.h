/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For programs that change pages which other harts have used. They come after guest.h.
 */
#define PROT_READ		1
#define PROT_WRITE		2
#define MAP_PRIVATE_ANON_FIXED	0x32
#define MADV_DONTNEED		4
#define EFAULT			14

#define PAGE			4096ul

static void say(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	sys(NR_WRITE, 1, (long)text, length, 0, 0);
}

static void say_number(u64 number)
{
	char digits[24];
	int at = sizeof(digits) - 1;

	digits[at] = 0;
	do {
		digits[--at] = '0' + number % 10;
		number /= 10;
	} while (number);
	say(digits + at);
}

/* long enough for the hart to run somebody else */
static void nap(long nanoseconds)
{
	long time[2] = { 0, nanoseconds };

	sys(NR_NANOSLEEP, (long)time, 0, 0, 0, 0);
}

static void pin(int cpu)
{
	u64 mask = 1ul << cpu;

	/* harts may go offline for a moment */
	for (int tries = 0; sys(NR_SCHED_SETAFFINITY, 0, sizeof(mask), (long)&mask, 0, 0) < 0; tries++) {
		if (tries == 1000)
			leave(2);
		nap(1000000);
	}
}

static void map_pages(volatile u64 *at, u64 pages)
{
	long got = sys(NR_MMAP, (long)at, pages * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE_ANON_FIXED, -1);

	if (got != (long)at)
		leave(2);
}

/* /dev/zero */
static int zero;

/* Can the kernel store to this address on behalf of this process? */
static int writable(volatile u64 *at)
{
	long done = sys(NR_READ, zero, (long)at, 8, 0, 0);

	if (done != 8 && done != -EFAULT)
		leave(2);
	return done == 8;
}
