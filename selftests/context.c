// SPDX-License-Identifier: GPL-2.0-only
/*
 * Count user and system time on CPUs without a tick.
 *
 * On such a CPU nothing samples what runs. Time is counted when the kernel is
 * entered from user mode and when it returns, by the same context tracking that
 * tells RCU that the CPU uses no kernel data. An exception entry that misses a
 * transition counts the kernel's time as the user's, or the other way round, so
 * the figures show whether the tracking is right: here for system calls and for
 * page faults.
 */

#include "user.h"

#include <linux/resource.h>

/* Milliseconds for each kind of work on each CPU */
#define DEFAULT_TIME	300

/* CPUs that are tested at most */
#define TESTED		4

/* Bytes that are mapped at once */
#define CHUNK		(64 * PAGE_SIZE)

struct times {
	unsigned long wall;
	unsigned long user;
	unsigned long system;
};

/* Microseconds */
static struct times now(void)
{
	struct __kernel_timespec clock = { 0, 0 };
	struct rusage usage;

	memset(&usage, 0, sizeof(usage));
	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &clock);
	if (syscall(__NR_getrusage, RUSAGE_SELF, &usage))
		ksft_exit_fail_perror("getrusage");
	return (struct times) {
		.wall = clock.tv_sec * 1000000UL + clock.tv_nsec / 1000,
		.user = usage.ru_utime.tv_sec * 1000000UL + usage.ru_utime.tv_usec,
		.system = usage.ru_stime.tv_sec * 1000000UL + usage.ru_stime.tv_usec,
	};
}

/* Long enough that the system calls around it do not count */
static void stay_in_user_mode(void)
{
	for (unsigned int i = 0; i < 1000000; i++)
		asm volatile("" ::: "memory");
}

static char *map_chunk(int flags)
{
	char *chunk = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (chunk == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	return chunk;
}

/* All pages by one system call */
static void make_system_calls(void)
{
	munmap(map_chunk(MAP_POPULATE), CHUNK);
}

/* Each page by a fault */
static void take_page_faults(void)
{
	char *chunk = map_chunk(0);

	for (size_t offset = 0; offset < CHUNK; offset += PAGE_SIZE) {
		chunk[offset] = 1;
		asm volatile("" ::: "memory");
	}
	munmap(chunk, CHUNK);
}

/* What to do, and where its time must be counted */
static const struct kind {
	const char *name;
	void (*work)(void);
	bool in_user_mode;
} kinds[] = {
	{ "user_time_in_user_mode", stay_in_user_mode, true },
	{ "system_time_in_system_calls", make_system_calls, false },
	{ "system_time_in_page_faults", take_page_faults, false },
};

/*
 * Works for @time milliseconds on a CPU without a tick. Other tasks run, too, so not
 * all of it need be counted, but half of it must.
 */
static bool counted(const struct kind *kind, unsigned int cpu, unsigned long time)
{
	struct times start = now(), end;
	unsigned long wall, user, system;

	do {
		kind->work();
		end = now();
		wall = end.wall - start.wall;
	} while (wall < time * 1000);
	user = end.user - start.user;
	system = end.system - start.system;
	ksft_print_msg("%s: CPU %u, microseconds: %lu, user: %lu, system: %lu\n",
		       kind->name, cpu, wall, user, system);
	return (kind->in_user_mode ? user : system) > wall / 2;
}

/**
 * read_cpus() - read a list of CPUs, as in 1-3,5
 * @path: the file
 * @cpus: where to store their numbers
 *
 * Return: their number, at most TESTED; 0 if the list does not exist.
 */
static unsigned int read_cpus(const char *path, unsigned int cpus[TESTED])
{
	char list[256];
	unsigned int count = 0;
	char *next = list;
	int file = open(path, O_RDONLY);
	ssize_t length;

	if (file < 0)
		return 0;
	length = read(file, list, sizeof(list) - 1);
	close(file);
	if (length < 0)
		return 0;
	list[length] = 0;
	while (*next >= '0' && *next <= '9') {
		unsigned long first = strtoul(next, &next, 10), last = first;

		if (*next == '-')
			last = strtoul(next + 1, &next, 10);
		while (first <= last && count < TESTED)
			cpus[count++] = first++;
		if (*next == ',')
			next++;
	}
	return count;
}

/* So that the log of a machine shows that this was not skipped. */
static void log_cpus(unsigned int count)
{
	char line[64];
	int file = open("/dev/kmsg", O_WRONLY);

	if (file < 0)
		return;
	snprintf(line, sizeof(line), "lazy_map_context: time counted on %u CPUs\n", count);
	if (write(file, line, strlen(line)) < 0)
		ksft_print_msg("cannot write to /dev/kmsg: errno %d\n", errno);
	close(file);
}

int main(int argc, char **argv)
{
	unsigned long time = DEFAULT_TIME;
	unsigned int cpus[TESTED];
	unsigned int count, tested = 0;
	bool good[ARRAY_SIZE(kinds)];

	ksft_print_header();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "time", 50, 100000, &time))
			ksft_exit_fail_msg("%s: the argument is time=MILLISECONDS\n", argv[i]);
	}
	count = read_cpus("/sys/devices/system/cpu/nohz_full", cpus);
	if (!count)
		ksft_exit_skip("no CPU without a tick: boot with nohz_full=\n");
	ksft_set_plan(ARRAY_SIZE(kinds));
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++)
		good[i] = true;
	for (unsigned int i = 0; i < count; i++) {
		if (run_on_cpu(cpus[i])) {
			ksft_print_msg("CPU %u: errno %d\n", cpus[i], errno);
			continue;
		}
		for (unsigned int k = 0; k < ARRAY_SIZE(kinds); k++) {
			if (!counted(&kinds[k], cpus[i], time))
				good[k] = false;
		}
		tested++;
	}
	ksft_print_msg("CPUs: %u\n", tested);
	for (unsigned int k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (tested)
			ksft_test_result(good[k], "%s\n", kinds[k].name);
		else
			ksft_test_result_skip("%s\n", kinds[k].name);
	}
	if (tested)
		log_cpus(tested);
	ksft_finished();
}
