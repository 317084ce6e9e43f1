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

/* Processes that exist at once, so that stacks are mapped and not taken from a cache */
#define MAPPERS		16

#define REG(name)	(KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE | \
			 KVM_REG_RISCV_CORE_REG(name))

/*
 * The guest: s0 counts the calls, s1 those after which the interrupt is pending
 * that the mask asked for. Both are stored to the device, as s0 << 32 | s1.
 */
extern const char guest[], guest_end[];
asm(".pushsection .rodata\n"
	".balign 8\n"
	"guest:\n"
	"	li	s0, 0\n"
	"	li	s1, 0\n"
	"	li	s3, 0x10000000\n"	/* DEVICE */
	"1:	li	s2, 8\n"		/* CALLS */
	"2:	lla	a0, 3f\n"
	"	li	a7, 4\n"		/* send an IPI to the harts of *a0 */
	"	ecall\n"
	"	csrr	t0, sip\n"
	"	andi	t0, t0, 2\n"
	"	srli	t0, t0, 1\n"
	"	add	s1, s1, t0\n"
	"	csrci	sip, 2\n"
	"	addi	s0, s0, 1\n"
	"	addi	s2, s2, -1\n"
	"	bnez	s2, 2b\n"
	"	slli	t0, s0, 32\n"
	"	or	t0, t0, s1\n"
	"	sd	t0, 0(s3)\n"
	"	j	1b\n"
	"	.balign 8\n"
	"3:	.dword	1\n"			/* the guest's only hart */
	"guest_end:\n"
	".popsection\n");

static void set_register(int vcpu, unsigned long id, unsigned long value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (unsigned long)&value };

	if (ioctl(vcpu, KVM_SET_ONE_REG, &reg))
		ksft_exit_fail_perror("KVM_SET_ONE_REG");
}

/* Makes a guest with one hart. Returns the hart, and in @run what it shares. */
static int make_guest(int kvm, struct kvm_run **run)
{
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = MEMORY, .memory_size = PAGE_SIZE,
	};
	char *memory = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	int vcpu;

	if (memory == MAP_FAILED || vm < 0 || size < 0)
		ksft_exit_fail_perror("KVM_CREATE_VM");
	memcpy(memory, guest, guest_end - guest);
	region.userspace_addr = (unsigned long)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		ksft_exit_fail_perror("KVM_SET_USER_MEMORY_REGION");
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

/* Runs a guest on @cpu, and checks all that it says. */
static void __attribute__((noreturn)) run_guest(int kvm, unsigned int cpu, unsigned long rounds)
{
	struct kvm_run *run;
	int vcpu;

	if (run_on_cpu(cpu))
		ksft_exit_fail_perror("sched_setaffinity");
	vcpu = make_guest(kvm, &run);
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
			_exit(KSFT_FAIL);
		}
		memcpy(&said, run->mmio.data, sizeof(said));
		if (said != (calls << 32 | calls)) {
			ksft_print_msg("CPU %u, round %lu: the guest says 0x%lx, want 0x%lx\n",
				       cpu, round, said, calls << 32 | calls);
			_exit(KSFT_FAIL);
		}
	}
	_exit(KSFT_PASS);
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
	unsigned int *running = shared_memory(sizeof(*running));
	unsigned int cpus[MAX_CPUS];
	bool good = true;
	int kvm, count;
	pid_t mapper;

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
	if (count < 0 || !running)
		ksft_exit_fail_perror("sched_getaffinity");
	if (count > MAX_WORKERS)
		count = MAX_WORKERS;
	__atomic_store_n(running, count, __ATOMIC_RELAXED);
	mapper = fork();
	if (mapper < 0)
		ksft_exit_fail_perror("fork");
	if (!mapper) {
		ksft_print_msg("processes started beside the guests: %lu\n", map_stacks(running));
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
				run_guest(kvm, cpus[i], rounds);
			status = guest_process < 0 ? 1 : wait_for_child(guest_process);
			__atomic_fetch_sub(running, 1, __ATOMIC_RELAXED);
			_exit(status ? KSFT_FAIL : KSFT_PASS);
		}
	}
	for (int i = 0; i <= count; i++) {
		int status;

		if (waitpid(-1, &status, 0) < 0)
			ksft_exit_fail_perror("waitpid");
		if (status)
			good = false;
	}
	ksft_print_msg("guests: %d, calls: %lu, checks: %lu\n",
		       count, count * rounds * CALLS, count * rounds);
	return good ? KSFT_PASS : KSFT_FAIL;
}
