// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run on kernel stacks for which a hart may hold stale translations.
 *
 * The exception entry and return access the kernel stack while they cannot handle
 * a page fault. So a hart must not run on a stack that it may not see yet. This
 * program sets up a case in which it might, with process A on CPU Z:
 *
 *  1. A runs on Z. The hart may remember for A's address space that nothing is
 *     mapped where the next kernel stacks are going to be.
 *  2. On CPU Y a new kernel stack S is mapped, and Y takes the fault on it.
 *  3. In the rounds called "reused" a thread of another process B runs on S, on Z.
 *     B is new, so Z remembers nothing for it: there is no fault, but a valid
 *     translation, which serves all address spaces as kernel mappings are global.
 *     The thread goes back to Y and ends there, so S is what Y hands out next.
 *  4. On Y a thread of A gets S, and moves to Z.
 *
 * So far the thread has used only valid translations, if Z prefers these. From now
 * on Z may lose them at any time, so it enters and leaves the kernel in as many
 * ways as it can: system calls, page faults from user mode and from the kernel,
 * interrupts. Nothing here can fail on a hart that does not remember invalid
 * translations. A broken kernel dies.
 */

#include "user.h"

#define DEFAULT_ROUNDS	40

/* The shortest ones: a good part of what they execute is the entry and the return */
#define SYSTEM_CALLS	512

/* Times that a thread goes through its other ways into the kernel */
#define REPEAT		16

/* New pages that it touches each time, and in total */
#define NEW_PAGES	3
#define PAGES		(NEW_PAGES * REPEAT)

/* Long enough for a tick, even with CONFIG_HZ_100 */
#define SPIN_NSEC	12000000

/* What A is told to do, and what it reports */
enum { IDLE, VISIT, RUN_THREAD, QUIT };

struct shared {
	unsigned int command;
	unsigned int cpu;
	/* For B: set when its threads are on their stacks, and when they may end */
	unsigned int ready;
	unsigned int release;
	unsigned long traps;
	/* Threads that could not be moved, because the CPU is offline now */
	unsigned long unmoved;
	char error[128];
};

static struct shared *shared;
static unsigned int home;

static void __attribute__((format(printf, 1, 2))) complain(const char *format, ...)
{
	va_list args;

	if (shared->error[0])
		return;
	va_start(args, format);
	vsnprintf(shared->error, sizeof(shared->error), format, args);
	va_end(args);
}

/* Moves this thread; returns whether it is there. */
static bool move_to(unsigned int cpu)
{
	if (!run_on_cpu(cpu))
		return true;
	/* Others may take CPUs offline in the meantime. */
	if (errno != EINVAL)
		complain("cannot run on CPU %u: errno %d", cpu, errno);
	shared->unmoved++;
	return false;
}

static unsigned long monotonic_nsec(void)
{
	struct __kernel_timespec now = { 0, 0 };

	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
	return now.tv_sec * 1000000000UL + now.tv_nsec;
}

/* A's pages, which are all new at the beginning of a round */
static char *pages;

/* Step 4: goes through the kernel in all ways, at first without a fence. */
static void use_stack(void *unused)
{
	const pid_t pid = getpid();
	unsigned long start, traps = 0;

	(void)unused;
	if (!move_to(shared->cpu))
		return;
	for (unsigned int i = 0; i < SYSTEM_CALLS; i++) {
		if (getpid() != pid)
			complain("getpid() is not %d any more", pid);
	}
	traps += SYSTEM_CALLS;
	for (unsigned int i = 0; i < REPEAT; i++) {
		char *page = pages + i * NEW_PAGES * PAGE_SIZE;

		/* Page faults from user mode, and from the kernel, after a system call */
		page[i] = i + 1;
		page += PAGE_SIZE;
		if (syscall(__NR_uname, page) || strncmp(page, "Linux", 5))
			complain("uname() gives no result: errno %d", errno);
		traps += 3;
	}
	/* No system calls: only interrupts come. */
	start = monotonic_nsec();
	do {
		for (unsigned int spin = 0; spin < 200000; spin++)
			asm volatile ("" ::: "memory");
		traps++;
	} while (monotonic_nsec() - start < SPIN_NSEC);
	for (unsigned int i = 0; i < REPEAT; i++) {
		char *page = pages + i * NEW_PAGES * PAGE_SIZE;

		if (page[i] != (char)(i + 1))
			complain("a page has lost what was written to it");
		/* Read first: until it is written it is the shared zero page. */
		page += 2 * PAGE_SIZE;
		if (page[i] != 0)
			complain("a new page is not empty");
		page[i] = i + 1;
		traps += 2;
	}
	shared->traps += traps;
}

static void map_pages(void)
{
	if (mmap(pages, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != pages)
		complain("cannot map memory: errno %d", errno);
}

/*
 * After fork(), the first write to a page copies it and makes all harts on which
 * the process has run fence. This must not happen when it matters.
 */
static void own_memory(void *memory, size_t size)
{
	memset(memory, 0xff, size);
	errno = 0;
}

/* Process A: does what it is told. */
static void __attribute__((noreturn)) be_a(void)
{
	static struct thread thread;

	pages = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		complain("cannot map memory: errno %d", errno);
	own_memory(&thread, sizeof(thread));
	for (;;) {
		unsigned int command = wait_until_not(&shared->command, IDLE);

		if (shared->error[0] || command == QUIT)
			_exit(KSFT_PASS);
		if (command == VISIT) {
			/* This makes all harts fence for A, so not in the next step. */
			map_pages();
			if (move_to(shared->cpu)) {
				getpid();
				move_to(home);
			}
		} else if (start_thread(&thread, use_stack, NULL)) {
			complain("cannot start a thread: errno %d", errno);
		} else {
			end_of_thread(&thread);
		}
		wake(&shared->command, IDLE);
	}
}

static bool tell_a(unsigned int command)
{
	wake(&shared->command, command);
	if (command != QUIT)
		wait_until_not(&shared->command, command);
	return !shared->error[0];
}

static void sit(void *unused)
{
	(void)unused;
	wait_until_not(&shared->release, 0);
}

/* Step 3: makes translations of this stack on the other CPU. */
static void use_stack_as_b(void *unused)
{
	(void)unused;
	if (!move_to(shared->cpu))
		return;
	getpid();
	move_to(home);
}

/*
 * Process B: takes all cached stacks of Y, so that the next one is new. Must not
 * end before the thread of A has, because the end of an address space can make
 * other harts fence.
 */
static void __attribute__((noreturn)) be_b(bool reused)
{
	static struct thread sitting[2], thread;

	own_memory(&thread, sizeof(thread));
	for (unsigned int i = 0; i < ARRAY_SIZE(sitting); i++) {
		if (start_thread(&sitting[i], sit, NULL))
			complain("cannot start a thread: errno %d", errno);
	}
	if (reused) {
		unsigned int tid;

		if (start_thread(&thread, use_stack_as_b, NULL)) {
			complain("cannot start a thread: errno %d", errno);
		} else {
			tid = __atomic_load_n(&thread.tid, __ATOMIC_RELAXED);
			end_of_thread(&thread);
			/* Its kernel stack is given back a little later. */
			while (tid && !syscall(__NR_tgkill, getpid(), tid, 0))
				sched_yield();
			sched_yield();
		}
	}
	wake(&shared->ready, 1);
	wait_until_not(&shared->release, 0);
	_exit(KSFT_PASS);
}

static bool run_round(bool reused)
{
	bool good;
	pid_t b;

	if (!tell_a(VISIT))
		return false;
	shared->ready = 0;
	shared->release = 0;
	b = fork();
	if (b < 0)
		ksft_exit_fail_perror("fork");
	if (!b)
		be_b(reused);
	wait_until_not(&shared->ready, 0);
	good = tell_a(RUN_THREAD);
	wake(&shared->release, 1);
	while (waitpid(b, NULL, 0) < 0 && errno == EINTR)
		;
	return good && !shared->error[0];
}

/* One case, in its own process: it has been on no CPU but this one. */
static void run_case(const unsigned int *cpus, int count, unsigned long rounds, bool reused)
{
	bool good = true;
	pid_t a;

	a = fork();
	if (a < 0)
		ksft_exit_fail_perror("fork");
	if (!a)
		be_a();
	for (unsigned long round = 0; good && round < rounds; round++) {
		shared->cpu = cpus[1 + round % (count - 1)];
		good = run_round(reused);
	}
	tell_a(QUIT);
	while (waitpid(a, NULL, 0) < 0 && errno == EINTR)
		;
	_exit(good ? KSFT_PASS : KSFT_FAIL);
}

static bool test(const unsigned int *cpus, int count, unsigned long rounds, bool reused)
{
	int status;
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid)
		run_case(cpus, count, rounds, reused);
	status = wait_for_child(pid);
	ksft_print_msg("touches: %lu\n", shared->traps);
	if (shared->unmoved)
		ksft_print_msg("times that a CPU was offline: %lu\n", shared->unmoved);
	if (shared->error[0])
		ksft_print_msg("%s\n", shared->error);
	if (!shared->traps)
		ksft_print_msg("no thread has run on another CPU\n");
	return WIFEXITED(status) && !WEXITSTATUS(status) && !shared->error[0] && shared->traps;
}

static void test_stacks(const char *name, const unsigned int *cpus, int count,
			unsigned long rounds, bool reused)
{
	if (is_wanted(name))
		ksft_test_result(test(cpus, count, rounds, reused), "%s\n", name);
}

int main(int argc, char **argv)
{
	static unsigned int cpus[MAX_CPUS];
	unsigned long rounds = DEFAULT_ROUNDS;
	int count;

	ksft_print_header();
	say_uncounted();
	say_untried();
	parse_rounds_and_case(argc, argv, &rounds);
	count = usable_cpus(cpus);
	if (count < 0)
		ksft_exit_fail_perror("sched_getaffinity");
	if (count < 2)
		ksft_exit_skip("needs two CPUs\n");
	shared = shared_memory(sizeof(*shared));
	home = cpus[0];
	if (!shared || run_on_cpu(home))
		ksft_exit_fail_perror("cannot have memory, or a CPU");
	ksft_set_plan(planned(2));
	test_stacks("new_stack_used_on_other_cpu", cpus, count, rounds, false);
	test_stacks("reused_stack_used_on_other_cpu", cpus, count, rounds, true);
	ksft_finished();
}
