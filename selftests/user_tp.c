// SPDX-License-Identifier: GPL-2.0-only
/*
 * Trap into the kernel with a kernel address in tp.
 *
 * When a trap comes from user mode, tp holds what the process put there, and
 * sscratch the kernel's own. Entry code that takes one for the other lets a
 * process choose which memory the kernel uses as its thread_info: the kernel
 * stack and everything else would be the process's to choose.
 *
 * On each CPU a process loads such an address into tp and traps in every way that
 * it can. Its tp and its results must be right, and the memory at the address must
 * not change. The worst address is that of a page of the process itself in the
 * linear map, because the process may write what the kernel would find there.
 */

#include <linux/elf.h>
#include <linux/time_types.h>

#include "user.h"

/* Total for all CPUs, unless rounds are given; each CPU gets some */
#define ALL_ROUNDS	200
#define FEWEST_ROUNDS	5

/* Bytes at the chosen address that are compared, more than a thread_info has */
#define WATCHED		512

/* Timer signals that must have arrived, because each one needs an interrupt */
#define ALARMS		5
#define ALARM_USEC	2000
#define ALARM_SECONDS	20

/* CPUs on which threads use new stacks, beside the first one */
#define THREADS		64

/* An unmapped address of the kernel, in the guard page at the very top */
#define KERNEL_ADDRESS	-2048UL

struct target {
	const char *name;
	unsigned long tp;
	/* Why the address is unknown, NULL if it is known */
	const char *unknown;
	/* Can it be read, and does nobody else change it? */
	bool watched;
	unsigned char before[WATCHED];
};

/* Results of the workers: one per CPU, one for threads */
struct report {
	unsigned long traps;
	/* Set if the CPU was, when the worker wanted to go there */
	bool offline;
	char error[160];
};

static struct target targets[] = {
	{ .name = "zero", .tp = 0 },
	{ .name = "all_ones", .tp = -1UL },
	{ .name = "not_canonical", .tp = 1UL << 62 },
	{ .name = "top_page", .tp = -PAGE_SIZE },
	{ .name = "own_page", .unknown = "not looked up" },
	{ .name = "own_page_as_kernel_sees_it", .unknown = "not looked up" },
	{ .name = "kernel_text", .unknown = "not looked up" },
	{ .name = "init_task", .unknown = "not looked up" },
	{ .name = "kernel_stack", .unknown = "not looked up" },
};

enum { OWN_PAGE = 4, OWN_PAGE_IN_KERNEL, KERNEL_TEXT, INIT_TASK, KERNEL_STACK };

static int kcore = -1;
static unsigned long rounds;

/* A worker's state */
static const struct target *target;
static struct report *report;
static struct {
	int signal;
	unsigned long pc;
	/* Where to go on, 0: at the instruction that called */
	unsigned long next;
} volatile expected;
static volatile unsigned int alarms;

/* Each traps at its first instruction, which has four bytes. */
void trap_load(unsigned long address);
void trap_store(unsigned long address);
void trap_illegal(void);
void trap_break(void);
void trap_fetch(unsigned long address);

asm(".pushsection .text\n"
	".option push\n"
	".option norvc\n"
	".balign 4\n"
	"trap_load: lb zero, 0(a0)\n"
	"	ret\n"
	"trap_store: sb zero, 0(a0)\n"
	"	ret\n"
	"trap_illegal: .4byte 0xc0001073\n"	/* unimp */
	"	ret\n"
	"trap_break: ebreak\n"
	"	ret\n"
	"trap_fetch: jr a0\n"
	".option pop\n"
	".popsection\n");

static unsigned long read_tp(void)
{
	unsigned long tp;

	asm volatile ("mv %0, tp" : "=r" (tp));
	return tp;
}

static void __attribute__((format(printf, 1, 2), noreturn)) fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(report->error, sizeof(report->error), format, args);
	va_end(args);
	_exit(KSFT_FAIL);
}

/* Moves this thread; false if the CPU is offline: others may take it offline. */
static bool go_to(unsigned int cpu)
{
	if (!run_on_cpu(cpu))
		return true;
	if (errno != EINVAL)
		fail("cannot run on CPU %u: errno %d", cpu, errno);
	return false;
}

static void check_tp(const char *after)
{
	unsigned long tp = read_tp();

	if (tp != target->tp)
		fail("tp is 0x%lx after %s, 0x%lx before", tp, after, target->tp);
	__atomic_fetch_add(&report->traps, 1, __ATOMIC_RELAXED);
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	struct user_regs_struct *regs = &((struct ucontext *)context)->uc_mcontext.sc_regs;

	(void)info;
	if (read_tp() != target->tp || regs->tp != target->tp)
		fail("tp is 0x%lx in the handler of signal %d, 0x%lx in its frame, 0x%lx before",
		     read_tp(), signal, regs->tp, target->tp);
	if (signal == SIGALRM) {
		alarms++;
		return;
	}
	if (signal != expected.signal || regs->pc != expected.pc)
		fail("signal %d at 0x%lx, want signal %d at 0x%lx", signal, regs->pc,
		     expected.signal, expected.pc);
	expected.signal = 0;
	regs->pc = expected.next ? expected.next : regs->ra;
}

static void expect(int signal, void *instruction)
{
	expected.pc = (unsigned long)instruction;
	expected.next = expected.pc + 4;
	expected.signal = signal;
}

static void arrived(const char *what)
{
	if (expected.signal)
		fail("no signal %d after %s", expected.signal, what);
	check_tp(what);
}

static void fault_at(unsigned long address)
{
	expect(SIGSEGV, trap_load);
	trap_load(address);
	arrived("a load that faults");

	expect(SIGSEGV, trap_store);
	trap_store(address);
	arrived("a store that faults");

	expect(SIGSEGV, (void *)(address & ~1UL));
	expected.next = 0;
	trap_fetch(address);
	arrived("a fetch that faults");
}

/* Interrupts come from user mode as well. */
static void wait_for_alarms(void)
{
	const long end = monotonic_seconds() + ALARM_SECONDS;

	while (alarms < ALARMS) {
		for (unsigned int spin = 0; spin < 100000; spin++)
			asm volatile ("" ::: "memory");
		if (monotonic_seconds() > end)
			fail("%u timer signals in %d s", alarms, ALARM_SECONDS);
	}
	check_tp("an interrupt");
}

/* Replaces the page there, if any, with an empty one. */
static void renew(volatile char *page)
{
	if (mmap((char *)page, PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
		fail("cannot map memory: errno %d", errno);
}

static void work(unsigned int cpu)
{
	const struct __kernel_old_itimerval often = { { 0, ALARM_USEC }, { 0, ALARM_USEC } };
	const int signals[] = { SIGSEGV, SIGILL, SIGTRAP, SIGALRM };
	const pid_t pid = getpid();
	volatile char *page;

	/* Before signals may come, because they must find it */
	asm volatile ("mv tp, %0" : : "r" (target->tp));

	if (!go_to(cpu)) {
		report->offline = true;
		_exit(KSFT_PASS);
	}
	page = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (page == MAP_FAILED || munmap((char *)page + PAGE_SIZE, PAGE_SIZE))
		fail("cannot map memory: errno %d", errno);
	for (unsigned int i = 0; i < ARRAY_SIZE(signals); i++) {
		if (handle_signal(signals[i], on_signal, SA_RESTART))
			fail("cannot handle signal %d: errno %d", signals[i], errno);
	}
	if (syscall(__NR_setitimer, 0 /* ITIMER_REAL */, &often, NULL))
		fail("setitimer: errno %d", errno);

	for (unsigned long round = 0; round < rounds; round++) {
		if (getpid() != pid)
			fail("getpid() is %d, %d before", getpid(), pid);
		check_tp("a system call");

		expect(SIGILL, trap_illegal);
		trap_illegal();
		arrived("an illegal instruction");

		expect(SIGTRAP, trap_break);
		trap_break();
		arrived("a breakpoint");

		fault_at((unsigned long)page + PAGE_SIZE);
		fault_at(KERNEL_ADDRESS);

		/* A fault that the kernel resolves, and one that it takes itself */
		renew(page);
		if (page[round % PAGE_SIZE])
			fail("a new page is not empty");
		page[round % PAGE_SIZE] = 1;
		check_tp("a page fault");
		renew(page);
		if (syscall(__NR_uname, page) || strncmp((char *)page, "Linux", 5))
			fail("uname() gives no result: errno %d", errno);
		check_tp("a system call that stores to a new page");
	}
	wait_for_alarms();
	_exit(KSFT_PASS);
}

/* Set when all threads have their stacks. */
static unsigned int released;

static void sit(void *unused)
{
	(void)unused;
	wait_until_not(&released, 0);
}

static void work_on_new_stack(void *cpu)
{
	const pid_t pid = getpid();

	/* When it arrives, what the hart knows about the stack may be stale. */
	go_to((unsigned long)cpu);
	for (unsigned long round = 0; round < rounds; round++) {
		if (getpid() != pid)
			fail("getpid() is not %d any more", pid);
		check_tp("a system call");
	}
}

/*
 * If the hart has a stale translation for a kernel stack, the first trap from user
 * mode faults once more while sscratch holds the process's tp. So use threads
 * with new stacks on CPUs that the process has been on before; see
 * stack_reuse.c.
 */
static void __attribute__((noreturn)) work_in_threads(const unsigned int *cpus, int count)
{
	static struct thread sitting[2], threads[THREADS];

	/* A first write copies the page, and makes all CPUs fence: not later. */
	memset(sitting, 0, sizeof(sitting));
	memset(threads, 0, sizeof(threads));
	released = 0;
	errno = 0;
	for (int i = count - 1; i >= 0; i--)
		go_to(cpus[i]);
	asm volatile ("mv tp, %0" : : "r" (target->tp));
	/* These use up the cached kernel stacks. */
	for (unsigned int i = 0; i < ARRAY_SIZE(sitting); i++) {
		if (start_thread(&sitting[i], sit, NULL))
			fail("cannot start a thread: errno %d", errno);
	}
	for (int i = 1; i < count && i <= THREADS; i++) {
		if (start_thread(&threads[i - 1], work_on_new_stack,
				 (void *)(unsigned long)cpus[i]))
			fail("cannot start a thread: errno %d", errno);
	}
	for (int i = 0; i < THREADS; i++)
		end_of_thread(&threads[i]);
	wake(&released, 1);
	_exit(KSFT_PASS);
}

/* Reads segment @number of /proc/kcore; false if it does not exist. */
static bool kernel_segment(unsigned int number, struct elf64_phdr *segment)
{
	struct elf64_hdr header;

	return kcore >= 0 &&
	       syscall(__NR_pread64, kcore, &header, sizeof(header), 0) == sizeof(header) &&
	       number < header.e_phnum &&
	       syscall(__NR_pread64, kcore, segment, sizeof(*segment),
		       header.e_phoff + number * sizeof(*segment)) == sizeof(*segment);
}

/* Reads kernel memory; false if that is not possible. */
static bool read_kernel(unsigned long address, void *buffer, size_t size)
{
	struct elf64_phdr segment;

	for (unsigned int i = 0; kernel_segment(i, &segment); i++) {
		unsigned long offset = address - segment.p_vaddr;

		if (segment.p_type != PT_LOAD || offset > segment.p_memsz ||
		    segment.p_memsz - offset < size)
			continue;
		return syscall(__NR_pread64, kcore, buffer, size,
			       segment.p_offset + offset) == (long)size;
	}
	return false;
}

/* The linear map's address of a physical address, 0 if unknown */
static unsigned long linear_address(unsigned long physical)
{
	struct elf64_phdr segment;
	unsigned long lowest = 0;

	for (unsigned int i = 0; kernel_segment(i, &segment); i++) {
		unsigned long offset = physical - segment.p_paddr;

		if (segment.p_type != PT_LOAD || segment.p_paddr == -1UL ||
		    offset >= segment.p_memsz)
			continue;
		/* The kernel image, which is in both, has the higher addresses. */
		if (!lowest || segment.p_vaddr + offset < lowest)
			lowest = segment.p_vaddr + offset;
	}
	return lowest;
}

/*
 * Calls @wants for each line of a file, which starts with a hexadecimal number,
 * until it returns true. Returns that number, or 0. nolibc's fgets()
 * does a system call for each character, and kallsyms has millions.
 */
static unsigned long find_line(const char *path, bool (*wants)(const char *line, const char *what),
			       const char *what)
{
	static char buffer[16384];
	unsigned long address = 0;
	size_t filled = 0;
	ssize_t got;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	while (!address && (got = read(fd, buffer + filled, sizeof(buffer) - 1 - filled)) > 0) {
		char *line = buffer, *end;

		filled += got;
		buffer[filled] = 0;
		for (; !address && (end = strchr(line, '\n')); line = end + 1) {
			*end = 0;
			if (wants(line, what))
				address = strtoul(line, NULL, 16);
		}
		filled -= line - buffer;
		memmove(buffer, line, filled);
	}
	close(fd);
	return address;
}

static bool is_symbol(const char *line, const char *name)
{
	/* 16 digits, a blank, the kind, a blank, the name */
	return strlen(line) > 19 && !strcmp(line + 19, name);
}

static bool is_stack(const char *line, const char *unused)
{
	(void)unused;
	return strstr(line, "dup_task_struct") || strstr(line, "copy_process") ||
	       strstr(line, "alloc_thread_stack");
}

/* The address of a kernel symbol, 0 if unknown */
static unsigned long kernel_symbol(const char *name)
{
	return find_line("/proc/kallsyms", is_symbol, name);
}

/* The lowest address of a task's stack, 0 if unknown */
static unsigned long kernel_stack(void)
{
	const char *restriction = "/proc/sys/kernel/kptr_restrict";
	unsigned long address;
	char old;
	int fd;

	/* With 1, privileged readers see addresses, with 0 only hashes. */
	fd = open(restriction, O_RDWR);
	if (fd < 0 || read(fd, &old, 1) != 1 || syscall(__NR_pwrite64, fd, "1", 1, 0) != 1)
		return 0;
	address = find_line("/proc/vmallocinfo", is_stack, NULL);
	if (syscall(__NR_pwrite64, fd, &old, 1, 0) != 1)
		ksft_print_msg("%s is 1 now, it was %c\n", restriction, old);
	close(fd);
	return address;
}

static void set_target(unsigned int number, unsigned long tp, bool watched)
{
	targets[number].tp = tp;
	targets[number].unknown = NULL;
	targets[number].watched = watched;
}

static void find_targets(void)
{
	unsigned long address, entry, physical = 0;
	unsigned long *page = shared_memory(PAGE_SIZE);
	unsigned char seen[WATCHED];
	int fd;

	if (!page || syscall(__NR_mlock, page, PAGE_SIZE))
		ksft_exit_fail_perror("cannot have a page");
	set_target(OWN_PAGE, (unsigned long)page, true);
	kcore = open("/proc/kcore", O_RDONLY);

	fd = open("/proc/self/pagemap", O_RDONLY);
	address = (unsigned long)page / PAGE_SIZE * sizeof(entry);
	if (fd < 0 || syscall(__NR_pread64, fd, &entry, sizeof(entry), address) != sizeof(entry) ||
	    !(entry >> 63))
		targets[OWN_PAGE_IN_KERNEL].unknown = "no /proc/self/pagemap";
	else
		physical = (entry & ((1UL << 55) - 1)) * PAGE_SIZE;
	close(fd);
	address = physical ? linear_address(physical) : 0;
	if (physical && !address) {
		targets[OWN_PAGE_IN_KERNEL].unknown = "no /proc/kcore";
	} else if (address) {
		/*
		 * Whatever the kernel takes for its stack from here, it would
		 * save registers to this page.
		 */
		for (unsigned int i = 0; i < PAGE_SIZE / sizeof(*page); i++)
			page[i] = address + PAGE_SIZE / 2;
		if (!read_kernel(address, seen, sizeof(seen)) ||
		    memcmp(seen, page, sizeof(seen)))
			ksft_exit_fail_msg("own page not found at 0x%lx in /proc/kcore\n", address);
		set_target(OWN_PAGE_IN_KERNEL, address, true);
	}

	address = kernel_symbol("handle_exception");
	if (address)
		set_target(KERNEL_TEXT, address, read_kernel(address, seen, sizeof(seen)));
	else
		targets[KERNEL_TEXT].unknown = "no addresses in /proc/kallsyms";
	address = kernel_symbol("init_task");
	if (address)
		set_target(INIT_TASK, address, false);
	else
		targets[INIT_TASK].unknown = "no init_task in /proc/kallsyms";
	address = kernel_stack();
	if (address)
		set_target(KERNEL_STACK, address, false);
	else
		targets[KERNEL_STACK].unknown = "no address of a stack in /proc/vmallocinfo";
}

/* Reads its own addresses directly, all others through the kernel. */
static bool read_target(unsigned char *buffer)
{
	if (target == &targets[OWN_PAGE]) {
		memcpy(buffer, (void *)target->tp, WATCHED);
		return true;
	}
	return read_kernel(target->tp, buffer, WATCHED);
}

/* Waits for a worker; returns whether it is well. */
static bool ended(pid_t pid, const char *name, const struct report *from, unsigned long traps)
{
	int status = wait_for_child(pid);

	if (!WIFEXITED(status) || WEXITSTATUS(status) || from->error[0]) {
		ksft_print_msg("%s: %s\n", name, from->error[0] ? from->error : "killed");
		return false;
	}
	if (from->offline) {
		ksft_print_msg("%s: offline\n", name);
	} else if (from->traps < traps) {
		ksft_print_msg("%s: only %lu traps\n", name, from->traps);
		return false;
	}
	return true;
}

/* One case: all CPUs at once, so that they can mix up each other's */
static bool run_target(struct report *reports, const unsigned int *cpus, int count)
{
	unsigned char after[WATCHED];
	unsigned long traps = 0;
	static pid_t pids[MAX_CPUS];
	bool good = true;

	memset(reports, 0, (count + 1) * sizeof(*reports));
	if (target->watched && !read_target(targets[target - targets].before)) {
		ksft_print_msg("cannot read 0x%lx of the kernel\n", target->tp);
		return false;
	}
	for (int i = 0; i < count; i++) {
		report = &reports[i];
		pids[i] = fork();
		if (pids[i] < 0)
			ksft_exit_fail_perror("fork");
		if (!pids[i])
			work(cpus[i]);
	}
	for (int i = 0; i < count; i++) {
		char name[16];

		snprintf(name, sizeof(name), "CPU %u", cpus[i]);
		good &= ended(pids[i], name, &reports[i], 10 * rounds);
		traps += reports[i].traps;
	}
	if (count > 1) {
		report = &reports[count];
		pids[0] = fork();
		if (pids[0] < 0)
			ksft_exit_fail_perror("fork");
		if (!pids[0])
			work_in_threads(cpus, count);
		good &= ended(pids[0], "threads", report, rounds);
		traps += report->traps;
	}
	if (!traps) {
		ksft_print_msg("there was no trap\n");
		good = false;
	}
	ksft_print_msg("%s: tp 0x%lx, %d CPUs, checks: %lu\n", target->name, target->tp, count,
		       traps);
	if (target->watched) {
		if (!read_target(after) || memcmp(after, target->before, WATCHED)) {
			ksft_print_msg("what is at 0x%lx has changed\n", target->tp);
			good = false;
		}
	}
	return good;
}

int main(int argc, char **argv)
{
	static unsigned int cpus[MAX_CPUS];
	struct report *reports;
	int count;

	ksft_print_header();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "rounds", 1, 1000000, &rounds))
			ksft_exit_fail_msg("%s: the only argument is rounds=NUMBER\n", argv[i]);
	}
	count = usable_cpus(cpus);
	if (count <= 0)
		ksft_exit_fail_perror("sched_getaffinity");
	if (!rounds)
		rounds = count < ALL_ROUNDS / FEWEST_ROUNDS ? ALL_ROUNDS / count : FEWEST_ROUNDS;
	reports = shared_memory((count + 1) * sizeof(*reports));
	if (!reports)
		ksft_exit_fail_perror("cannot have memory");
	find_targets();
	ksft_set_plan(ARRAY_SIZE(targets));
	for (target = targets; target < targets + ARRAY_SIZE(targets); target++) {
		char name[64];

		snprintf(name, sizeof(name), "user_tp_is_%s", target->name);
		if (target->unknown) {
			ksft_test_result_code(KSFT_SKIP, name, "%s", target->unknown);
			continue;
		}
		ksft_test_result(run_target(reports, cpus, count), "%s\n", name);
	}
	ksft_finished();
}
