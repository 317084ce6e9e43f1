// SPDX-License-Identifier: GPL-2.0-only
/*
 * Have all CPUs fence for processes, again and again, while CPUs go offline.
 *
 * Each worker is a process that has been on every CPU, so the kernel thinks that
 * each CPU may have translations of it. It write-protects a page that it has
 * written to, so that the kernel must ask every CPU to fence. A request that
 * reaches a CPU while it stops must not block the requester forever. The kernel
 * uses either IPIs or the SBI.
 */

#include "user.h"

#define DEFAULT_SECONDS	3
#define MAX_WORKERS	256

/* Until a CPU that was offline is visited again; most time should go to fences. */
#define ROUNDS		1024

#define MOST_SECONDS_TO_STOP	10

static unsigned int cpus[MAX_CPUS];
static int cpu_count;

/* Offline CPUs are left out; they get their turn in another round. */
static void visit_all_cpus(void)
{
	unsigned long all[MAX_CPUS / LONG_BITS];

	for (int i = 0; i < cpu_count; i++)
		run_on_cpu(cpus[i]);
	/* The kernel logs a message if a bound CPU goes offline. */
	memset(all, 0xff, sizeof(all));
	syscall(__NR_sched_setaffinity, 0, sizeof(all), all);
}

static int protect(void *page, unsigned long protection)
{
	return syscall(__NR_mprotect, page, PAGE_SIZE, protection);
}

static void __attribute__((noreturn)) work(unsigned long *checks, long end)
{
	unsigned long *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		_exit(KSFT_FAIL);
	while (monotonic_seconds() < end) {
		visit_all_cpus();
		for (unsigned long i = 0; i < ROUNDS; i++) {
			__atomic_store_n(page, i, __ATOMIC_RELAXED);
			if (protect(page, PROT_READ) ||
			    __atomic_load_n(page, __ATOMIC_RELAXED) != i ||
			    protect(page, PROT_READ | PROT_WRITE))
				_exit(KSFT_FAIL);
			__atomic_fetch_add(checks, 1, __ATOMIC_RELAXED);
		}
	}
	_exit(KSFT_PASS);
}

/* Returns whether it was done: some CPUs cannot go offline, and one always stays. */
static bool set_online(unsigned int cpu, bool online)
{
	char path[64];
	bool done;
	int file;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	file = open(path, O_WRONLY);
	if (file < 0)
		return false;
	done = write(file, online ? "1" : "0", 1) == 1;
	close(file);
	return done;
}

/*
 * A CPU is reported dead shortly before its hart has stopped, and a hart that has
 * not stopped cannot be started.
 */
static bool bring_back(unsigned int cpu)
{
	const long end = monotonic_seconds() + MOST_SECONDS_TO_STOP;

	while (!set_online(cpu, true)) {
		if (monotonic_seconds() > end)
			return false;
		usleep(10000);
	}
	return true;
}

static bool test(unsigned long seconds, unsigned int workers, unsigned long *checks)
{
	/* The first second may be a short one. */
	const long end = monotonic_seconds() + seconds + 1;
	unsigned long offline = 0;
	pid_t pids[MAX_WORKERS];
	bool good = true;

	for (unsigned int i = 0; i < workers; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			ksft_exit_fail_perror("fork");
		if (!pids[i])
			work(checks, end);
	}
	for (int i = 0; monotonic_seconds() < end; i = (i + 1) % cpu_count) {
		if (!set_online(cpus[i], false))
			continue;
		offline++;
		if (!bring_back(cpus[i])) {
			ksft_print_msg("CPU %u does not come back\n", cpus[i]);
			good = false;
		}
	}
	for (unsigned int i = 0; i < workers; i++) {
		int status = wait_for_child(pids[i]);

		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			ksft_print_msg("worker %u: status %#x\n", i, status);
			good = false;
		}
	}
	ksft_print_msg("%u workers, CPUs that went offline: %lu, checks: %lu\n",
		       workers, offline, *checks);
	return good && *checks && offline;
}

static bool can_go_offline(void)
{
	for (int i = 0; i < cpu_count; i++) {
		if (set_online(cpus[i], true))
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	unsigned long seconds = DEFAULT_SECONDS;
	unsigned long *checks;

	ksft_print_header();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "seconds", 1, 100000, &seconds))
			ksft_exit_fail_msg("%s: the argument is seconds=NUMBER\n", argv[i]);
	}
	cpu_count = usable_cpus(cpus);
	if (cpu_count <= 0)
		ksft_exit_fail_perror("sched_getaffinity");
	if (cpu_count < 2 || !can_go_offline())
		ksft_exit_skip("this machine has no second CPU, or none can go offline\n");
	checks = shared_memory(sizeof(*checks));
	if (!checks)
		ksft_exit_fail_perror("cannot have memory");
	ksft_set_plan(1);
	ksft_test_result(test(seconds, cpu_count < MAX_WORKERS ? cpu_count : MAX_WORKERS, checks),
			 "fences_while_cpus_go_offline\n");
	ksft_finished();
}
