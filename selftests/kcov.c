// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let the kernel write its coverage to buffers that were just made.
 *
 * Instrumented code stores each address that it comes by to the task's buffer,
 * which is in vmalloc, wherever it is: in the handler of the page fault as well. So
 * kcov touches all of the buffer when a task begins to use it, with interrupts
 * disabled. After that the task takes its buffer to all other CPUs, which have never
 * seen it.
 */

#include "primed.h"

#include <sys/ioctl.h>
#include <sys/mount.h>

#include <linux/kcov.h>

#define DEFAULT_ROUNDS	8

/* Words of a buffer: several pages */
#define SIZE		(8 * PAGE_SIZE / sizeof(uint64_t))

/* A buffer of each thread, by its place */
static int buffers[MAX_CPUS];
static uint64_t *memory[MAX_CPUS];
/* Threads that have used theirs in the current round; and those that could not */
static unsigned int used, failed;
/* CPUs on which coverage was stored */
static unsigned long travels;
static bool nothing_stored;

static int open_kcov(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR);

	if (fd < 0 && errno == ENOENT) {
		mount("none", "/sys/kernel/debug", "debugfs", 0, NULL);
		fd = open("/sys/kernel/debug/kcov", O_RDWR);
	}
	return fd;
}

/* Has the kernel fault, which stores coverage of the handler, and counts what is stored. */
static uint64_t stored(uint64_t *words)
{
	__atomic_store_n(&words[0], 0, __ATOMIC_RELAXED);
	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (void *)16);
	return __atomic_load_n(&words[0], __ATOMIC_RELAXED);
}

/* Begins to use a buffer, and takes it to all CPUs, if asked to. */
static void use(int number, bool travel)
{
	uint64_t *words = memory[number];

	if (ioctl(buffers[number], KCOV_ENABLE, KCOV_TRACE_PC)) {
		__atomic_fetch_add(&failed, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&used, 1, __ATOMIC_RELEASE);
		return;
	}
	for (int i = 0; travel && i < cpu_count; i++) {
		int next = (number + i) % cpu_count;

		if (run_on_cpu(cpus[next]))
			continue;
		if (!stored(words))
			__atomic_store_n(&nothing_stored, true, __ATOMIC_RELAXED);
		else
			__atomic_fetch_add(&travels, 1, __ATOMIC_RELAXED);
	}
	ioctl(buffers[number], KCOV_DISABLE, 0);
	stay_on(cpus[number]);
	__atomic_fetch_add(&used, 1, __ATOMIC_RELEASE);
}

/* Set between rounds, for the threads */
static bool travelling;

/* What all CPUs but the first one do all the time */
static void use_once(struct worker *worker)
{
	uint64_t round = read_word(&values->all.round);

	if (round == worker->round)
		return;
	worker->round = round;
	if (round)
		use(worker->number, travelling);
}

static void run(const char *test, unsigned long rounds, bool travel)
{
	const uint64_t areas = read_word(&values->all.areas), in_vain = tried_in_vain();
	static uint64_t round;
	unsigned long done = 0, touches = 0;
	bool right = true;

	travelling = travel;
	travels = 0;
	nothing_stored = false;
	while (right && done < rounds) {
		stay_on(cpus[0]);
		used = 0;
		failed = 0;
		for (int i = 0; i < cpu_count; i++) {
			buffers[i] = open_kcov();
			if (buffers[i] < 0)
				ksft_exit_fail_perror("/sys/kernel/debug/kcov");
			begin_mapping();
			if (ioctl(buffers[i], KCOV_INIT_TRACE, SIZE))
				ksft_exit_fail_perror("KCOV_INIT_TRACE");
			end_mapping();
			memory[i] = map_memory(NULL, SIZE * sizeof(uint64_t), buffers[i]);
			if (!memory[i])
				ksft_exit_fail_perror("mmap of coverage");
		}
		write_word(&values->all.round, ++round);
		/* The others first: this CPU knows the buffers. */
		if (!all_have_come(&used) || failed) {
			ksft_print_msg("threads: %d, done: %u, failed: %u\n", worker_count, used,
				       failed);
			right = false;
		}
		write_word(&values->all.round, 0);
		use(0, travel);
		touches += used - failed;
		for (int i = 0; i < cpu_count; i++) {
			munmap(memory[i], SIZE * sizeof(uint64_t));
			close(buffers[i]);
		}
		done++;
	}
	ksft_print_msg("rounds: %lu\n", done);
	ksft_print_msg("touches: %lu\n", travel ? travels : touches);
	report_mappings(areas, in_vain);
	if (travel && right && nothing_stored && !travels) {
		skip_case(test, "no CONFIG_KCOV_INSTRUMENT_ALL: nothing is instrumented");
		return;
	}
	if (travel && nothing_stored)
		ksft_print_msg("on some CPU nothing was stored\n");
	ksft_test_result(right && touches && (!travel || !nothing_stored), "%s\n", test);
}

int main(int argc, char **argv)
{
	static const char *const tests[] = { "new_coverage_begun", "new_coverage_taken_along" };
	unsigned long rounds = DEFAULT_ROUNDS;
	int fd;

	ksft_print_header();
	parse_rounds_and_case(argc, argv, &rounds);
	fd = open_kcov();
	if (fd < 0)
		ksft_exit_skip("no CONFIG_KCOV, or debugfs cannot be mounted\n");
	close(fd);
	start_workers(use_once);
	ksft_set_plan(planned(2));
	for (unsigned int i = 0; i < 2; i++) {
		if (begins(tests[i]))
			run(tests[i], rounds, i);
	}
	ksft_finished();
}
