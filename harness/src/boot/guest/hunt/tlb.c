// SPDX-License-Identifier: GPL-2.0-only
/*
 * Changes mappings on one hart after another one has used them, and checks what
 * that one sees. The thread moves from hart to hart, and each hart has another
 * process to run in between, so that a page must be fenced for on harts that
 * this address space has left. There is no C library in the guest.
 *
 * Prints for each kind of change how often the old mapping was seen. Exit
 * status: 0, or 1 if it was, or 2 if something is not possible.
 */
#include "guest.h"
#include "pages.h"

#define SIGKILL			9
#define PR_SET_PDEATHSIG	1

#define HERE			((volatile u64 *)0x10000000)
/* in the same page table: it stays, so the table does, and a fence is one for a page or a range */
#define ANCHOR			((volatile u64 *)0x10100000)
/* alone in its page table, which goes with it */
#define ALONE			((volatile u64 *)0x20000000)
#define MOST_HARTS		64
#define ROUNDS			100
/* more than there are ASIDs, if a kernel uses few */
#define SPACES			24

static void map(volatile u64 *at)
{
	map_pages(at, 1);
}

/* Goes on on the hart `owner`, when the one that it leaves has had time to run somebody else. */
static void leave_for(int owner)
{
	pin(owner);
	nap(3000000);
}

/* A hart that has used the page is `user`, the one that changes it `owner`. */
static void use_at(volatile u64 *at, int owner, int user, u64 round)
{
	pin(user);
	map(at);
	*at = round;
	leave_for(owner);
}

static void use(int owner, int user, u64 round)
{
	use_at(HERE, owner, user, round);
}

static u64 replaced_at(volatile u64 *at, int owner, int user, u64 round)
{
	u64 wrong;

	use_at(at, owner, user, round);
	sys(NR_MUNMAP, (long)at, PAGE, 0, 0, 0);
	map(at);
	*at = ~round;
	pin(user);
	wrong = *at != ~round;
	sys(NR_MUNMAP, (long)at, PAGE, 0, 0, 0);
	return wrong;
}

static u64 replaced(int owner, int user, u64 round)
{
	return replaced_at(HERE, owner, user, round);
}

/* a page table, with the only page in it */
static u64 tables(int owner, int user, u64 round)
{
	return replaced_at(ALONE, owner, user, round);
}

/* Other processes have another page at the same address, and sooner or later this one's ASID. */
static u64 apart(int owner, int user, u64 round)
{
	long children[SPACES];
	u64 wrong = 0;

	for (int at = 0; at < SPACES; at++) {
		children[at] = sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0);
		if (children[at] < 0)
			leave(2);
		if (children[at])
			continue;
		pin(at % 2 ? owner : user);
		map(HERE);
		*HERE = round * SPACES + at;
		/* until long after the last one has started */
		for (int look = 0; look < 100; look++) {
			nap(1000000);
			wrong |= *HERE != round * SPACES + at;
		}
		leave(wrong);
	}
	for (int at = 0; at < SPACES; at++) {
		int status = 0;

		sys(NR_WAIT4, children[at], (long)&status, 0, 0, 0);
		wrong |= status != 0;
	}
	return wrong;
}

static u64 unmapped(int owner, int user, u64 round)
{
	u64 wrong;

	use(owner, user, round);
	sys(NR_MUNMAP, (long)HERE, PAGE, 0, 0, 0);
	pin(user);
	wrong = writable(HERE);
	return wrong;
}

/*
 * A range of pages, of which only the ends are in use. They are mapped as one, because the kernel fences for
 * each mapping apart.
 */
static u64 ranges(int owner, int user, u64 round)
{
	volatile u64 *last = HERE + 3 * PAGE / sizeof(*HERE);
	u64 wrong;

	pin(user);
	map_pages(HERE, 4);
	*HERE = round;
	*last = round;
	leave_for(owner);
	sys(NR_MUNMAP, (long)HERE, 4 * PAGE, 0, 0, 0);
	map(last);
	*last = ~round;
	pin(user);
	wrong = *last != ~round;
	sys(NR_MUNMAP, (long)last, PAGE, 0, 0, 0);
	return wrong;
}

static u64 discarded(int owner, int user, u64 round)
{
	u64 wrong;

	use(owner, user, round);
	/* not every kernel has madvise() */
	wrong = sys(NR_MADVISE, (long)HERE, PAGE, MADV_DONTNEED, 0, 0) == 0;
	pin(user);
	wrong = wrong && *HERE != 0;
	sys(NR_MUNMAP, (long)HERE, PAGE, 0, 0, 0);
	return wrong;
}

static u64 protected(int owner, int user, u64 round)
{
	u64 wrong;

	use(owner, user, round);
	sys(NR_MPROTECT, (long)HERE, PAGE, PROT_READ, 0, 0);
	pin(user);
	wrong = writable(HERE);
	sys(NR_MUNMAP, (long)HERE, PAGE, 0, 0, 0);
	return wrong;
}

/* The child must not see what the parent stores after fork(). */
static u64 shared(int owner, int user, u64 round)
{
	int status = 0;
	long child;

	use(owner, user, round);
	child = sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0);
	if (!child) {
		nap(20000000);
		leave(*HERE != round);
	}
	pin(user);
	*HERE = ~round;
	sys(NR_WAIT4, child, (long)&status, 0, 0, 0);
	sys(NR_MUNMAP, (long)HERE, PAGE, 0, 0, 0);
	return status != 0;
}

static const struct {
	const char *what;
	u64 (*test)(int owner, int user, u64 round);
	u64 rounds;
} tests[] = {
	{ "replaced", replaced, ROUNDS },
	{ "unmapped", unmapped, ROUNDS },
	{ "replaced as a range", ranges, ROUNDS },
	{ "discarded", discarded, ROUNDS },
	{ "protected", protected, ROUNDS },
	{ "shared by fork", shared, ROUNDS / 4 },
	{ "kept apart", apart, ROUNDS / 20 },
	{ "replaced with its page table", tables, ROUNDS },
};

void start(void) asm("_start");
void start(void)
{
	u64 mask[MOST_HARTS / 64] = { 0 }, total = 0;
	long children[MOST_HARTS];
	int cpus[MOST_HARTS], harts = 0;

	sys(NR_SCHED_GETAFFINITY, 0, sizeof(mask), (long)mask, 0, 0);
	for (int cpu = 0; cpu < MOST_HARTS; cpu++)
		if (mask[0] >> cpu & 1)
			cpus[harts++] = cpu;
	zero = sys(NR_OPENAT, AT_FDCWD, (long)"/dev/zero", 0, 0, 0);
	if (zero < 0 || harts < 2)
		leave(2);
	map(ANCHOR);
	*ANCHOR = 1;
	for (int at = 0; at < harts; at++) {
		children[at] = sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0);
		if (!children[at]) {
			pin(cpus[at]);
			sys(NR_PRCTL, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
			for (;;)
				nap(1000000);
		}
	}
	for (u64 kind = 0; kind < sizeof(tests) / sizeof(tests[0]); kind++) {
		u64 wrong = 0, rounds = tests[kind].rounds;

		for (u64 round = 1; round <= rounds; round++)
			wrong += tests[kind].test(cpus[round % harts], cpus[(round + 1) % harts], round);
		say("tlb: ");
		say(tests[kind].what);
		say(": ");
		say_number(wrong);
		say(" wrong of ");
		say_number(rounds);
		say("\n");
		total += wrong;
	}
	for (int at = 0; at < harts; at++) {
		sys(NR_KILL, children[at], SIGKILL, 0, 0, 0);
		sys(NR_WAIT4, children[at], 0, 0, 0, 0);
	}
	leave(total != 0);
}
