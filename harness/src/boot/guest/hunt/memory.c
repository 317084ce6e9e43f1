// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads on all harts share an address space, and check what they see in its
 * pages while these are changed: by the threads themselves, who hand the pages
 * around, or by the kernel, which moves, splits, collapses and merges them.
 * There is no C library in the guest.
 *
 * Prints for each part how often a thread saw what it should not. Exit status:
 * 0, or 1 if there was such a case, or 2 if something is not possible that each
 * kernel must be able to do.
 */
#include "guest.h"
#include "pages.h"

#define O_WRONLY		1
#define CLONE_VM		0x100
#define CLONE_FS		0x200
#define CLONE_FILES		0x400
#define MREMAP_MAYMOVE_FIXED	3
#define MADV_MERGEABLE		12
#define MADV_HUGEPAGE		14
#define MADV_COLLAPSE		25

#define MOST_THREADS		16
#define STACK_WORDS		512

/* pages that go from thread to thread, and where they may be in between */
#define SLOTS			24
#define SLOTS_AT		0x10000000ul
#define SPARE_AT		0x18000000ul
/* how often each is handed on */
#define TURNS			100
#define KINDS			5

/* pages in which threads count: two huge ones */
#define PAGES			1024
#define PAGES_AT		0x40000000ul
#define HUGE_PAGES		512
/* pages of which every second one is unmapped again, so that there is a reason to move others */
#define HOLES_AT		0x50000000ul
#define HOLES			4096
/* rounds in which the kernel is asked to move or collapse pages */
#define ROUNDS			10

static u64 stacks[MOST_THREADS][STACK_WORDS] __attribute__((aligned(16)));
static int cpus[MOST_THREADS];
static u64 threads;
static u64 wrong[MOST_THREADS];

static u64 load(const u64 *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void store(u64 *at, u64 value)
{
	__atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/*
 * As clone(): a new thread with this stack calls the function at its top with the word above it, and must not
 * return. The result is that of the system call in the old one.
 */
long start_thread(long flags, u64 *stack);
asm(".pushsection .text\n"
    ".globl start_thread\n"
    "start_thread:\n"
    "	li	a2, 0\n"
    "	li	a3, 0\n"
    "	li	a4, 0\n"
    "	li	a7, 220\n"
    "	ecall\n"
    "	bnez	a0, 1f\n"
    "	ld	t0, 0(sp)\n"
    "	ld	a0, 8(sp)\n"
    "	jr	t0\n"
    "1:	ret\n"
    ".popsection\n");

/* Runs `work` on each hart while `meanwhile`, if there is any, runs here; returns how often it went wrong. */
static u64 on_all(void (*work)(u64 me), void (*meanwhile)(void))
{
	long children[MOST_THREADS];
	u64 all = 0;

	for (u64 me = 0; me < threads; me++) {
		u64 *top = &stacks[me][STACK_WORDS - 2];

		top[0] = (u64)work;
		top[1] = me;
		wrong[me] = 0;
		children[me] = start_thread(CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, top);
		if (children[me] < 0)
			leave(2);
	}
	if (meanwhile)
		meanwhile();
	for (u64 me = 0; me < threads; me++) {
		int status = 0;

		sys(NR_WAIT4, children[me], (long)&status, 0, 0, 0);
		all += load(&wrong[me]) + (status != 0);
	}
	return all;
}

static u64 turns[SLOTS];

static volatile u64 *page(u64 base, u64 number)
{
	return (volatile u64 *)(base + number * PAGE);
}

/* What is in slot `slot` after turn `turn`. */
static u64 left_in(u64 slot, u64 turn)
{
	return (turn + 1) << 16 | slot;
}

static void move(u64 from, u64 to)
{
	if (sys(NR_MREMAP, from, PAGE, PAGE, MREMAP_MAYMOVE_FIXED, to) != (long)to)
		leave(2);
}

/* Changes a slot that another thread has had; each change takes effect on all harts before it ends. */
static u64 change(u64 slot, u64 turn)
{
	volatile u64 *at = page(SLOTS_AT, slot), *spare = page(SPARE_AT, slot);
	u64 expected = turn ? left_in(slot, turn - 1) : 0;
	u64 bad = *at != expected;

	switch ((slot + turn + turn / threads) % KINDS) {
	case 0:
		sys(NR_MUNMAP, (long)at, PAGE, 0, 0, 0);
		map_pages(at, 1);
		bad += *at != 0;
		break;
	case 1:
		/* not every kernel has madvise() */
		if (sys(NR_MADVISE, (long)at, PAGE, MADV_DONTNEED, 0, 0) == 0)
			bad += *at != 0;
		break;
	case 2:
		sys(NR_MPROTECT, (long)at, PAGE, PROT_READ, 0, 0);
		bad += writable(at);
		bad += *at != expected;
		sys(NR_MPROTECT, (long)at, PAGE, PROT_READ | PROT_WRITE, 0, 0);
		break;
	case 3:
		move((u64)at, (u64)spare);
		bad += *spare != expected;
		move((u64)spare, (u64)at);
		bad += *at != expected;
		break;
	}
	*at = left_in(slot, turn);
	return bad;
}

static void hand_around(u64 me)
{
	int left = 1;

	pin(cpus[me]);
	while (left) {
		left = 0;
		for (u64 slot = 0; slot < SLOTS; slot++) {
			u64 turn = load(&turns[slot]);

			if (turn == TURNS)
				continue;
			left = 1;
			if (turn % threads != me)
				continue;
			wrong[me] += change(slot, turn);
			store(&turns[slot], turn + 1);
		}
		sys(NR_SCHED_YIELD, 0, 0, 0, 0, 0);
	}
	leave(0);
}

static u64 counts[PAGES];
static u64 stop, hold;

/* Pages in which nobody has counted are equal. */
static u64 counted(u64 number)
{
	return counts[number] ? counts[number] << 16 | number : 1;
}

/* The last page of each huge one is for those who split it. */
static int is_free(u64 number)
{
	return number % HUGE_PAGES == HUGE_PAGES - 1;
}

/* Checks and counts on in each `threads`th page. */
static void count(u64 me)
{
	pin(cpus[me]);
	while (!load(&stop)) {
		for (u64 number = me; number < PAGES; number += threads) {
			volatile u64 *at = page(PAGES_AT, number);

			if (is_free(number))
				continue;
			wrong[me] += *at != counted(number);
			if (load(&hold))
				continue;
			counts[number]++;
			*at = counted(number);
		}
		sys(NR_SCHED_YIELD, 0, 0, 0, 0, 0);
	}
	leave(0);
}

static long write_file(const char *path, const char *text)
{
	long fd = sys(NR_OPENAT, AT_FDCWD, (long)path, O_WRONLY, 0, 0), done;
	long length = 0;

	if (fd < 0)
		return fd;
	while (text[length])
		length++;
	done = sys(NR_WRITE, fd, (long)text, length, 0, 0);
	sys(NR_CLOSE, fd, 0, 0, 0, 0);
	return done;
}

static char text[16384];

/* The number behind `name` in a file; at its start if there is no name; 0 if the file is not there. */
static u64 number_in(const char *path, const char *name)
{
	long fd = sys(NR_OPENAT, AT_FDCWD, (long)path, 0, 0, 0), length = 0, got;
	u64 number = 0;
	char *at = text;

	if (fd < 0)
		return 0;
	while (length < (long)sizeof(text) - 1 &&
	       (got = sys(NR_READ, fd, (long)text + length, sizeof(text) - 1 - length, 0, 0)) > 0)
		length += got;
	text[length] = 0;
	sys(NR_CLOSE, fd, 0, 0, 0, 0);
	while (*at) {
		const char *of = name;
		char *from = at;

		while (*of && *from == *of) {
			from++;
			of++;
		}
		if (!*of) {
			while (*from >= '0' && *from <= '9')
				number = number * 10 + (*from++ - '0');
			return number;
		}
		while (*at && *at++ != '\n')
			;
	}
	return 0;
}

static u64 moved(void)
{
	return number_in("/proc/vmstat", "pgmigrate_success ");
}

static u64 done;

static void compact(void)
{
	u64 before = moved();

	for (int round = 0; round < ROUNDS; round++) {
		write_file("/proc/sys/vm/compact_memory", "1");
		nap(20000000);
	}
	done = moved() - before;
}

/* Splits by a protection of one page, and makes whole again. */
static void split(void)
{
	for (int round = 0; round < ROUNDS; round++) {
		for (u64 huge = 0; huge < PAGES; huge += HUGE_PAGES) {
			volatile u64 *start = page(PAGES_AT, huge), *last = page(PAGES_AT, huge + HUGE_PAGES - 1);

			sys(NR_MPROTECT, (long)last, PAGE, PROT_READ, 0, 0);
			nap(5000000);
			sys(NR_MPROTECT, (long)last, PAGE, PROT_READ | PROT_WRITE, 0, 0);
			done += sys(NR_MADVISE, (long)start, HUGE_PAGES * PAGE, MADV_COLLAPSE, 0, 0) == 0;
			nap(5000000);
		}
	}
}

/* Waits until the kernel has merged pages, and has the threads write to them then. */
static void merge(void)
{
	for (int look = 0; look < 100 && !done; look++) {
		nap(50000000);
		done = number_in("/sys/kernel/mm/ksm/pages_sharing", "");
	}
	store(&hold, 0);
	nap(200000000);
	/* merges nothing any more, and gives each its own page */
	write_file("/sys/kernel/mm/ksm/run", "2");
}

static void (*changes)(void);

static void change_and_stop(void)
{
	changes();
	store(&stop, 1);
}

/* Has the threads count while `meanwhile` changes what is below, `done` times; returns how often they went wrong. */
static u64 while_counted(long advice, void (*meanwhile)(void))
{
	u64 all;

	done = 0;
	stop = 0;
	changes = meanwhile;
	map_pages(page(PAGES_AT, 0), PAGES);
	/* without it, what follows is not possible, and `done` stays 0 */
	if (advice && sys(NR_MADVISE, PAGES_AT, PAGES * PAGE, advice, 0, 0) < 0)
		return 0;
	for (u64 number = 0; number < PAGES; number++) {
		counts[number] = 0;
		*page(PAGES_AT, number) = counted(number);
	}
	all = on_all(count, change_and_stop);
	for (u64 number = 0; number < PAGES; number++)
		all += !is_free(number) && *page(PAGES_AT, number) != counted(number);
	sys(NR_MUNMAP, PAGES_AT, PAGES * PAGE, 0, 0, 0);
	return all;
}

/* Returns `bad`, for the sum. */
static u64 report(const char *what, u64 bad, const char *of, u64 times)
{
	say("memory: ");
	say(what);
	say(": ");
	say_number(bad);
	say(" wrong; ");
	say(of);
	say(": ");
	say_number(times);
	say("\n");
	return bad;
}

void start(void) asm("_start");
void start(void)
{
	u64 mask = 0, total = 0, bad;

	sys(NR_SCHED_GETAFFINITY, 0, sizeof(mask), (long)&mask, 0, 0);
	for (int cpu = 0; cpu < 64 && threads < MOST_THREADS; cpu++)
		if (mask >> cpu & 1)
			cpus[threads++] = cpu;
	zero = sys(NR_OPENAT, AT_FDCWD, (long)"/dev/zero", 0, 0, 0);
	if (zero < 0 || threads < 2)
		leave(2);

	map_pages(page(SLOTS_AT, 0), SLOTS);
	total += report("handed around", on_all(hand_around, 0), "turns", SLOTS * TURNS);

	map_pages(page(HOLES_AT, 0), HOLES);
	for (u64 number = 0; number < HOLES; number++)
		*page(HOLES_AT, number) = number;
	for (u64 number = 0; number < HOLES; number += 2)
		sys(NR_MUNMAP, (long)page(HOLES_AT, number), PAGE, 0, 0, 0);
	bad = while_counted(0, compact);
	for (u64 number = 1; number < HOLES; number += 2)
		bad += *page(HOLES_AT, number) != number;
	total += report("moved", bad, "pages", done);

	bad = while_counted(MADV_HUGEPAGE, split);
	total += report("split", bad, "collapsed", done);

	write_file("/sys/kernel/mm/ksm/pages_to_scan", "2000");
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "10");
	write_file("/sys/kernel/mm/ksm/run", "1");
	hold = 1;
	bad = while_counted(MADV_MERGEABLE, merge);
	total += report("merged", bad, "pages", done);
	leave(total != 0);
}
