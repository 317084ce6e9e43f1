// SPDX-License-Identifier: GPL-2.0-only
/*
 * Start and end processes and threads on all CPUs, as fast as possible.
 *
 * Each of them gets a kernel stack, new or used before, and runs on it on whatever
 * CPU the scheduler or the program chooses. Processes are started with fork(), with
 * vfork() and execve(), and threads with clone(). Each one proves that it has done
 * its work. CPUs may go offline and come back in the meantime.
 */

#include "user.h"

#define DEFAULT_SECONDS	3
#define MAX_WORKERS	256

/* What a process that was started by execve() gets instead of arguments */
#define CHILD_ARGUMENT	"--child"

/* The workers count for themselves; the ones that they start count for them as well. */
struct count {
	unsigned long forks;
	unsigned long forked;
	unsigned long executions;
	unsigned long threads;
	unsigned long run_threads;
	unsigned long moves;
	char error[128];
};

static struct count *count;
static unsigned int cpus[MAX_CPUS];
static int cpu_count;
static volatile unsigned long random_state;

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(count->error, sizeof(count->error), format, args);
	va_end(args);
	_exit(KSFT_FAIL);
}

static void add(unsigned long *number)
{
	__atomic_fetch_add(number, 1, __ATOMIC_RELAXED);
}

/* xorshift64: the choices need not be good, only different each time. */
static unsigned long random_number(void)
{
	unsigned long x = random_state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	random_state = x;
	return x;
}

/* To any CPU; it may be offline now, which does not matter. */
static void move(unsigned long number)
{
	if (!run_on_cpu(cpus[number % cpu_count]))
		add(&count->moves);
	else if (errno != EINVAL)
		fail("sched_setaffinity: errno %d", errno);
}

static int exit_code(unsigned long number)
{
	/* Neither success nor the codes of a shell */
	return 10 + number % 100;
}

static void wait_for(pid_t pid, int code)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			fail("waitpid: errno %d", errno);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
		fail("a child ended with status 0x%x, not with exit code %d", status, code);
}

/* A child with a copy of the memory, which it changes */
static void do_fork(unsigned long number)
{
	static unsigned long memory[4 * PAGE_SIZE / sizeof(unsigned long)];
	const unsigned int step = PAGE_SIZE / sizeof(memory[0]);
	pid_t pid;

	for (unsigned int i = 0; i < ARRAY_SIZE(memory); i += step)
		memory[i] = number + i;
	pid = fork();
	if (pid < 0)
		fail("fork: errno %d", errno);
	add(&count->forks);
	if (!pid) {
		move(number >> 8);
		for (unsigned int i = 0; i < ARRAY_SIZE(memory); i += step) {
			if (memory[i] != number + i)
				fail("a child found 0x%lx, not 0x%lx", memory[i], number + i);
			memory[i] = 0;
		}
		add(&count->forked);
		_exit(exit_code(number));
	}
	wait_for(pid, exit_code(number));
	for (unsigned int i = 0; i < ARRAY_SIZE(memory); i += step) {
		if (memory[i] != number + i)
			fail("0x%lx is left of 0x%lx after fork()", memory[i], number + i);
	}
}

/* This program once more, with a number that it returns */
static void do_exec(unsigned long number)
{
	char text[8], argument[] = CHILD_ARGUMENT, name[] = "fork_storm";
	char *argv[] = { name, argument, text, NULL };
	char *envp[] = { NULL };
	pid_t pid;

	snprintf(text, sizeof(text), "%d", exit_code(number));
	pid = vfork();
	if (pid < 0)
		fail("vfork: errno %d", errno);
	if (!pid) {
		execve("/proc/self/exe", argv, envp);
		_exit(1);
	}
	wait_for(pid, exit_code(number));
	add(&count->executions);
}

static void run_thread(void *argument)
{
	move((unsigned long)argument);
	add(&count->run_threads);
}

static void do_threads(unsigned long number)
{
	static struct thread threads[2];

	for (unsigned int i = 0; i < ARRAY_SIZE(threads); i++) {
		if (start_thread(&threads[i], run_thread, (void *)(number >> (8 + 8 * i))))
			fail("clone: errno %d", errno);
		add(&count->threads);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(threads); i++)
		end_of_thread(&threads[i]);
}

static void __attribute__((noreturn)) work(unsigned int worker, long end)
{
	/* Whoever ends the program ends all of it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	random_state = 0x9e3779b97f4a7c15 * (worker + 1);
	while (monotonic_seconds() < end) {
		unsigned long number = random_number();

		move(number >> 32);
		do_fork(number);
		do_threads(number);
		do_exec(number);
	}
	_exit(KSFT_PASS);
}

static bool test(unsigned long seconds, struct count *counts, int workers)
{
	/* The first second may be a short one. */
	const long end = monotonic_seconds() + seconds + 1;
	struct count sum = { 0 };
	pid_t pids[MAX_WORKERS];
	bool good = true;

	for (int i = 0; i < workers; i++) {
		count = &counts[i];
		pids[i] = fork();
		if (pids[i] < 0)
			ksft_exit_fail_perror("fork");
		if (!pids[i])
			work(i, end);
	}
	for (int i = 0; i < workers; i++) {
		int status = wait_for_child(pids[i]);

		if (!WIFEXITED(status) || WEXITSTATUS(status) || counts[i].error[0]) {
			ksft_print_msg("worker %d: %s\n", i,
				       counts[i].error[0] ? counts[i].error : "killed");
			good = false;
		}
		sum.forks += counts[i].forks;
		sum.forked += counts[i].forked;
		sum.executions += counts[i].executions;
		sum.threads += counts[i].threads;
		sum.run_threads += counts[i].run_threads;
		sum.moves += counts[i].moves;
	}
	ksft_print_msg("%d workers, forks: %lu, executions: %lu, threads: %lu, moves: %lu\n",
		       workers, sum.forks, sum.executions, sum.threads, sum.moves);
	ksft_print_msg("touches: %lu\n", sum.forked + sum.executions + sum.run_threads);
	/* fork() counts in both processes. */
	if (sum.forks != 2 * sum.forked || sum.threads != sum.run_threads) {
		ksft_print_msg("%lu of %lu forks and %lu of %lu threads did their work\n",
			       sum.forked, sum.forks / 2, sum.run_threads, sum.threads);
		good = false;
	}
	return good && sum.forked && sum.executions && sum.run_threads;
}

int main(int argc, char **argv)
{
	unsigned long seconds = DEFAULT_SECONDS, workers = 0;
	struct count *counts;

	if (argc == 3 && !strcmp(argv[1], CHILD_ARGUMENT))
		return atoi(argv[2]);
	ksft_print_header();
	say_uncounted();
	say_untried();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "seconds", 1, 100000, &seconds) &&
		    !parse_number(argv[i], "workers", 1, MAX_WORKERS, &workers))
			ksft_exit_fail_msg("%s: arguments are seconds=NUMBER and workers=NUMBER\n",
					   argv[i]);
	}
	cpu_count = usable_cpus(cpus);
	if (cpu_count <= 0)
		ksft_exit_fail_perror("sched_getaffinity");
	if (!workers)
		workers = cpu_count < MAX_WORKERS ? cpu_count : MAX_WORKERS;
	counts = shared_memory(workers * sizeof(*counts));
	if (!counts)
		ksft_exit_fail_perror("cannot have memory");
	ksft_set_plan(1);
	ksft_test_result(test(seconds, counts, workers), "processes_and_threads_on_all_cpus\n");
	ksft_finished();
}
