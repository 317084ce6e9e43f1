// SPDX-License-Identifier: GPL-2.0-only
/*
 * Have all CPUs fence for processes, again and again, while CPUs go offline.
 *
 * Each worker is a process that has been on every CPU, so the kernel thinks that
 * each CPU may have translations of it. It write-protects a page that it has
 * written to, so that the kernel must ask every CPU to fence. A request that
 * reaches a CPU while it stops must not block the requester forever. The kernel
 * uses either IPIs or the SBI.
 *
 * If it uses the SBI, it must not be preempted between choosing the CPUs and the
 * end of the call: one that it has chosen could stop meanwhile. That is seldom hit
 * by chance, so the context of the calls is read from a trace.
 */

#include "user.h"

#include <linux/bpf.h>

#define DEFAULT_SECONDS	3
#define MAX_WORKERS	256

/* Until a CPU that was offline is visited again; most time should go to fences. */
#define ROUNDS		1024

#define MOST_SECONDS_TO_STOP	10

/* A trace buffer of our own */
#define TRACING		"/sys/kernel/tracing"
#define INSTANCE	TRACING "/instances/lazy_map_offline"

/* Remote fences: SBI specification 2.0, chapter 8 */
#define SBI_EXT_RFENCE	"0x52464e43"

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

static bool write_file(const char *path, const char *text)
{
	const ssize_t length = strlen(text);
	int file = open(path, O_WRONLY);
	bool done;

	if (file < 0)
		return false;
	done = write(file, text, length) == length;
	close(file);
	return done;
}

/* Returns whether it was done: some CPUs cannot go offline, and one always stays. */
static bool set_online(unsigned int cpu, bool online)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	return write_file(path, online ? "1" : "0");
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

/* Reads the start of a file, as a string; returns whether there is something. */
static bool read_file(const char *path, char *buffer, size_t size)
{
	size_t length = 0;
	ssize_t done;
	int file = open(path, O_RDONLY);

	if (file < 0)
		return false;
	do {
		done = read(file, buffer + length, size - 1 - length);
		length += done > 0 ? done : 0;
	} while (done > 0 && length < size - 1);
	close(file);
	buffer[length] = 0;
	return length > 0;
}

/*
 * Changes the kernel's text where it may be preempted, so that it asks all CPUs to
 * fence: loads a BPF program, and patches the branch around a tracepoint.
 */
static void change_text(void)
{
	struct bpf_insn insns[2] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr;
	long program;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
	attr.insns = (uintptr_t)insns;
	attr.insn_cnt = 2;
	attr.license = (uintptr_t)"GPL";
	program = syscall(__NR_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (program >= 0)
		close(program);
	write_file(INSTANCE "/events/riscv/sbi_return/enable", "1");
	write_file(INSTANCE "/events/riscv/sbi_return/enable", "0");
}

/*
 * Counts the calls in a trace, and those that could have been preempted. After the
 * CPU's number come five characters. Dots in the first, third and fourth place mean
 * that interrupts are on, that no interrupt is being handled, and that preemption
 * is enabled (Documentation/trace/ftrace.rst).
 */
static void count_calls(char *trace, unsigned int *calls, unsigned int *preemptible)
{
	*calls = 0;
	*preemptible = 0;
	while (*trace) {
		char *end = strchr(trace, '\n');
		char *flags;

		if (!end)
			return;
		*end = 0;
		flags = strstr(trace, "] ");
		if (flags && strlen(flags) > 7 &&
		    strstr(flags, ": sbi_call: ext=" SBI_EXT_RFENCE)) {
			flags += 2;
			++*calls;
			*preemptible += flags[0] == '.' && flags[2] == '.' && flags[3] == '.';
		}
		trace = end + 1;
	}
}

static void test_preemption(const char *name)
{
	static char trace[65536];
	unsigned int calls, preemptible;

	if (!read_file("/proc/version", trace, sizeof(trace)) || !strstr(trace, "PREEMPT")) {
		ksft_test_result_skip("%s: this kernel does not preempt itself\n", name);
		return;
	}
	if (mkdir(INSTANCE, 0700) && errno != EEXIST) {
		ksft_test_result_skip("%s: no " TRACING "/instances\n", name);
		return;
	}
	if (!write_file(INSTANCE "/events/riscv/sbi_call/filter", "ext == " SBI_EXT_RFENCE) ||
	    !write_file(INSTANCE "/events/riscv/sbi_call/enable", "1")) {
		rmdir(INSTANCE);
		ksft_test_result_skip("%s: no event sbi_call in this kernel\n", name);
		return;
	}
	change_text();
	write_file(INSTANCE "/events/riscv/sbi_call/enable", "0");
	if (!read_file(INSTANCE "/trace", trace, sizeof(trace)))
		trace[0] = 0;
	rmdir(INSTANCE);
	count_calls(trace, &calls, &preemptible);
	if (!calls) {
		ksft_test_result_skip("%s: no remote fence was a call of the SBI\n", name);
		return;
	}
	ksft_print_msg("calls of the SBI for remote fences: %u, of which may be preempted: %u\n",
		       calls, preemptible);
	ksft_test_result(!preemptible, "%s\n", name);
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
	ksft_set_plan(2);
	test_preemption("no_preemption_in_remote_fences");
	ksft_test_result(test(seconds, cpu_count < MAX_WORKERS ? cpu_count : MAX_WORKERS, checks),
			 "fences_while_cpus_go_offline\n");
	ksft_finished();
}
