// SPDX-License-Identifier: GPL-2.0-only
/*
 * Enter guests on all CPUs while the kernel maps stacks.
 *
 * For the switch to a guest, and for each access to a guest's memory on the guest's
 * behalf, KVM points stvec at code of its own, which can be in a module. A hart that
 * traps there for a stale translation does not get to the kernel's exception entry:
 * it takes the trap for one of the guest, or cannot fetch the handler and traps for
 * ever.
 *
 * A guest here is a few instructions. With each round it makes a call of SBI v0.1
 * that passes a pointer, which KVM follows with such an access; a device access
 * then leaves the guest.
 *
 * Meanwhile a thread gives the guest another page for one that it reads. Linux has to
 * fence the guest's translations then, or the guest goes on to read a page that is
 * not its own any more.
 *
 * Prints diagnostics alone; test-kvm.sh reports.
 */

#include "user.h"

#include <sys/ioctl.h>

#include <linux/kvm.h>

#define DEFAULT_ROUNDS	2000
#define MAX_WORKERS	64

/* Calls of the guest in a round */
#define CALLS		8

/* Where the guest has its memory, and a device that does not exist, in bytes */
#define MEMORY		0x80000000UL
#define DEVICE		0x10000000UL

/* The page of the guest that is replaced, and how many pages take turns there */
#define REPLACED	(MEMORY + PAGE_SIZE)
#define PAGES		64

/* Between two replacements, in microseconds */
#define PAUSE		100

/* Processes that exist at once, so that stacks are mapped and not taken from a cache */
#define MAPPERS		16

#define REG(name)	(KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE | \
			 KVM_REG_RISCV_CORE_REG(name))

/*
 * What guest and thread tell each other, in memory that stays where it is
 * @published: number in the page that the guest has now, or in one before it
 * @outdated: how often the guest has read a smaller one
 * @met: how many different ones it has read
 */
struct news {
	unsigned long published;
	unsigned long outdated;
	unsigned long met;
};

/* Bits of what the guest says in which it counts interrupts */
#define INTERRUPTS	0xffffffffUL

/* What a call gets that nobody serves; SBI 3.0, chapter "Binary Encoding" */
#define SBI_ERR_NOT_SUPPORTED	(-2UL)

/*
 * The guest: s0 counts the calls, s1 those after which the interrupt is pending
 * that the mask asked for. Both are stored to the device, as s0 << 32 | s1.
 * With each call it reads the page that is replaced; s5 is what it last read there.
 */
extern const char guest[], guest_news[], guest_end[];
asm(".pushsection .rodata\n"
	".option push\n"
	".option norelax\n"		/* gp is not the guest's */
	".balign 8\n"
	"guest:\n"
	"	li	s0, 0\n"
	"	li	s1, 0\n"
	"	li	s3, 0x10000000\n"	/* DEVICE */
	"	li	s4, 0x80001000\n"	/* REPLACED */
	"	li	s5, 0\n"
	"1:	li	s2, 8\n"		/* CALLS */
	"2:	lla	a0, 3f\n"
	"	li	a7, 4\n"		/* send an IPI to the harts of *a0 */
	"	ecall\n"
	"	csrr	t0, sip\n"
	"	andi	t0, t0, 2\n"
	"	srli	t0, t0, 1\n"
	"	add	s1, s1, t0\n"
	"	csrci	sip, 2\n"
	"	lla	t1, guest_news\n"
	"	ld	t2, 0(t1)\n"		/* published */
	"	fence	r, r\n"		/* pairs with the release in replace_page() */
	"	ld	t3, 0(s4)\n"
	"	bgeu	t3, t2, 4f\n"
	"	ld	t2, 8(t1)\n"		/* outdated */
	"	addi	t2, t2, 1\n"
	"	sd	t2, 8(t1)\n"
	"4:	beq	t3, s5, 5f\n"
	"	mv	s5, t3\n"
	"	ld	t2, 16(t1)\n"		/* met */
	"	addi	t2, t2, 1\n"
	"	sd	t2, 16(t1)\n"
	"5:	addi	s0, s0, 1\n"
	"	addi	s2, s2, -1\n"
	"	bnez	s2, 2b\n"
	"	slli	t0, s0, 32\n"
	"	or	t0, t0, s1\n"
	"	sd	t0, 0(s3)\n"
	"	j	1b\n"
	"	.balign 8\n"
	"3:	.dword	1\n"			/* the guest's only hart */
	"guest_news:\n"
	"	.zero	24\n"			/* struct news */
	"guest_end:\n"
	".option pop\n"
	".popsection\n");

/**
 * struct replacer - a thread that replaces a page of a guest
 * @thread: the thread
 * @cpu: where it runs, if it may
 * @page: the guest's page, as this process sees it
 * @pages: those that take turns
 * @news: in the guest's memory
 * @count: pages replaced so far
 */
struct replacer {
	struct thread thread;
	unsigned int cpu;
	char *page;
	char *pages;
	struct news *news;
	unsigned long count;
};

/* What all processes count */
struct counts {
	unsigned int running;
	unsigned long replaced;
	unsigned long met;
};

static void set_register(int vcpu, unsigned long id, unsigned long value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (unsigned long)&value };

	if (ioctl(vcpu, KVM_SET_ONE_REG, &reg))
		ksft_exit_fail_perror("KVM_SET_ONE_REG");
}

static unsigned long get_register(int vcpu, unsigned long id)
{
	unsigned long value;
	struct kvm_one_reg reg = { .id = id, .addr = (unsigned long)&value };

	if (ioctl(vcpu, KVM_GET_ONE_REG, &reg))
		ksft_exit_fail_perror("KVM_GET_ONE_REG");
	return value;
}

/* Gives the guest the next page, which has its number in it, for the one that it has. */
static void replace_page(struct replacer *replacer)
{
	unsigned long number = replacer->count + 1;
	char *next = replacer->pages + number % PAGES * PAGE_SIZE;

	*(unsigned long *)next = number;
	/* An old size of 0 maps shared memory once more. */
	if (syscall(__NR_mremap, next, 0, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    replacer->page) < 0)
		ksft_exit_fail_perror("mremap");
	replacer->count = number;
	/* Pairs with the fence of the guest: who reads the number has the page, too. */
	__atomic_store_n(&replacer->news->published, number, __ATOMIC_RELEASE);
}

static void replace_pages(void *argument)
{
	struct replacer *replacer = argument;

	/* If that CPU has just gone offline, this one will do. */
	run_on_cpu(replacer->cpu);
	for (;;) {
		replace_page(replacer);
		usleep(PAUSE);
	}
}

static void add_memory(int vm, unsigned int slot, unsigned long where, char *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = where, .memory_size = PAGE_SIZE,
		.userspace_addr = (unsigned long)memory,
	};

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		ksft_exit_fail_perror("KVM_SET_USER_MEMORY_REGION");
}

/*
 * Makes a guest with one hart, and what replaces its page. Returns the hart, and in
 * @run what it shares.
 */
static int make_guest(int kvm, struct kvm_run **run, struct replacer *replacer)
{
	char *memory = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	int vcpu;

	if (memory == MAP_FAILED || vm < 0 || size < 0)
		ksft_exit_fail_perror("KVM_CREATE_VM");
	memcpy(memory, guest, guest_end - guest);
	replacer->page = memory + PAGE_SIZE;
	replacer->pages = shared_memory(PAGES * PAGE_SIZE);
	if (!replacer->pages)
		ksft_exit_fail_perror("mmap");
	replacer->news = (struct news *)(memory + (guest_news - guest));
	replace_page(replacer);
	add_memory(vm, 0, MEMORY, memory);
	add_memory(vm, 1, REPLACED, replacer->page);
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		ksft_exit_fail_perror("KVM_CREATE_VCPU");
	*run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (*run == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	set_register(vcpu, REG(regs.pc), MEMORY);
	set_register(vcpu, REG(mode), 1 /* supervisor */);
	return vcpu;
}

/*
 * Runs a guest on @cpu while its page is replaced from @other, and checks all that it
 * says. Ends the process, with the thread.
 */
static void __attribute__((noreturn)) run_guest(int kvm, unsigned int cpu, unsigned int other,
						unsigned long rounds, struct counts *counts)
{
	static struct replacer replacer;
	struct kvm_run *run;
	int vcpu;

	if (run_on_cpu(cpu))
		ksft_exit_fail_perror("sched_setaffinity");
	vcpu = make_guest(kvm, &run, &replacer);
	replacer.cpu = other;
	if (start_thread(&replacer.thread, replace_pages, &replacer))
		ksft_exit_fail_perror("clone");
	for (unsigned long round = 1; round <= rounds; round++) {
		unsigned long said = 0, calls = round * CALLS;

		while (ioctl(vcpu, KVM_RUN, 0)) {
			if (errno != EINTR && errno != EAGAIN)
				ksft_exit_fail_perror("KVM_RUN");
		}
		if (run->exit_reason != KVM_EXIT_MMIO || !run->mmio.is_write ||
		    run->mmio.phys_addr != DEVICE || run->mmio.len != sizeof(said)) {
			ksft_print_msg("CPU %u, round %lu: exit reason %u\n",
				       cpu, round, run->exit_reason);
			exit(KSFT_FAIL);
		}
		memcpy(&said, run->mmio.data, sizeof(said));
		if (!(said & INTERRUPTS) &&
		    get_register(vcpu, REG(regs.a0)) == SBI_ERR_NOT_SUPPORTED) {
			ksft_print_msg("KVM serves no call of SBI v0.1: no CONFIG_RISCV_SBI_V01\n");
			exit(KSFT_SKIP);
		}
		if (said != (calls << 32 | calls)) {
			ksft_print_msg("CPU %u, round %lu: the guest says 0x%lx, want 0x%lx\n",
				       cpu, round, said, calls << 32 | calls);
			exit(KSFT_FAIL);
		}
		if (replacer.news->outdated) {
			ksft_print_msg("CPU %u, round %lu: the guest read a page it had lost\n",
				       cpu, round);
			exit(KSFT_FAIL);
		}
	}
	if (!replacer.news->met) {
		ksft_print_msg("CPU %u: the guest read nothing from its page\n", cpu);
		exit(KSFT_FAIL);
	}
	__atomic_fetch_add(&counts->replaced, __atomic_load_n(&replacer.count, __ATOMIC_RELAXED),
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&counts->met, replacer.news->met, __ATOMIC_RELAXED);
	exit(KSFT_PASS);
}

/* Starts processes that end at once, while guests run. Returns their number. */
static unsigned long map_stacks(const unsigned int *running)
{
	unsigned long forks = 0;

	while (__atomic_load_n(running, __ATOMIC_RELAXED)) {
		pid_t pids[MAPPERS];

		for (int i = 0; i < MAPPERS; i++) {
			pids[i] = fork();
			if (pids[i] < 0)
				ksft_exit_fail_perror("fork");
			if (!pids[i])
				_exit(KSFT_PASS);
			forks++;
		}
		for (int i = 0; i < MAPPERS; i++)
			wait_for_child(pids[i]);
	}
	return forks;
}

int main(int argc, char **argv)
{
	unsigned long rounds = DEFAULT_ROUNDS;
	struct counts *counts = shared_memory(sizeof(*counts));
	unsigned int cpus[MAX_CPUS];
	bool good = true, skipped = false;
	int kvm, count;
	pid_t mapper;

	say_uncounted();
	say_untried();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "rounds", 1, 1000000, &rounds))
			ksft_exit_fail_msg("%s: the argument is rounds=NUMBER\n", argv[i]);
	}
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0) {
		ksft_print_msg("/dev/kvm: errno %d\n", errno);
		return KSFT_SKIP;
	}
	count = usable_cpus(cpus);
	if (count < 0 || !counts)
		ksft_exit_fail_perror("sched_getaffinity");
	if (count > MAX_WORKERS)
		count = MAX_WORKERS;
	__atomic_store_n(&counts->running, count, __ATOMIC_RELAXED);
	mapper = fork();
	if (mapper < 0)
		ksft_exit_fail_perror("fork");
	if (!mapper) {
		ksft_print_msg("processes started beside the guests: %lu\n",
			       map_stacks(&counts->running));
		_exit(KSFT_PASS);
	}
	for (int i = 0; i < count; i++) {
		pid_t worker = fork();

		if (worker < 0)
			ksft_exit_fail_perror("fork");
		if (!worker) {
			pid_t guest_process = fork();
			int status;

			if (!guest_process)
				run_guest(kvm, cpus[i], cpus[(i + 1) % count], rounds, counts);
			status = guest_process < 0 ? 1 : wait_for_child(guest_process);
			__atomic_fetch_sub(&counts->running, 1, __ATOMIC_RELAXED);
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : KSFT_FAIL);
		}
	}
	for (int i = 0; i <= count; i++) {
		int status;

		if (waitpid(-1, &status, 0) < 0)
			ksft_exit_fail_perror("waitpid");
		if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
			skipped = true;
		else if (status)
			good = false;
	}
	if (good && skipped)
		return KSFT_SKIP;
	ksft_print_msg("guests: %d, calls: %lu, checks: %lu\n",
		       count, count * rounds * CALLS, count * rounds);
	ksft_print_msg("pages of guests replaced: %lu, read by them: %lu\n",
		       counts->replaced, counts->met);
	return good ? KSFT_PASS : KSFT_FAIL;
}
