// SPDX-License-Identifier: GPL-2.0-only
/*
 * The registers of a process as others see them: ptrace, signal frames, cores.
 *
 * What the exception entry saves for itself must not show there. The numbers are
 * those of Linux 7.3 for lp64, and are written out here because the headers that
 * the test is built with would change with the kernel:
 *
 *	struct user_regs_struct		arch/riscv/include/uapi/asm/ptrace.h
 *	struct sigcontext		arch/riscv/include/uapi/asm/sigcontext.h
 *	struct ucontext			arch/riscv/include/uapi/asm/ucontext.h
 *	struct rt_sigframe		arch/riscv/kernel/signal.c
 *	struct elf_prstatus		include/linux/elfcore.h
 */

#include <linux/elf.h>
#include <linux/resource.h>
#include <linux/uio.h>
#include <sys/ptrace.h>

#include "user.h"

/* pc, then x1 to x31 */
#define REGS			32
#define REGS_SIZE		256

/* In a signal frame, in bytes: siginfo, and behind it ucontext */
#define FRAME_UCONTEXT		128
#define FRAME_SIZE		1088

/* In ucontext */
#define UC_STACK		16
#define UC_SIGMASK		40
#define UC_REGS			176
#define UC_RESERVED		948
#define UC_END			952
#define UC_SIZE			960

/* In the NT_PRSTATUS note of a core */
#define PRSTATUS_CURSIG		12
#define PRSTATUS_PID		32
#define PRSTATUS_REGS		112
#define PRSTATUS_FPVALID	368
#define PRSTATUS_SIZE		376

/* What asm and C must agree on. x2 is sp, so it is a multiple of 16. */
#define PATTERN			0x5a00c0de00000000
#define PATTERN_STEP		0x0000000100000010
#define STR(x)			#x
#define XSTR(x)			STR(x)

#define CORE_PATTERN		"/proc/sys/kernel/core_pattern"
/* Has the PID in it, or the kernel might append it. */
#define CORE			"/tmp/lazy_map_abi.core.%p"

/* Sets x1 to x31 to the first pattern and stops at first_break, then at second_break. */
void set_all_and_break(void) __attribute__((noreturn));
extern const char first_break[], second_break[];

/* Calls on_break() with the stack pointer that the handler got, and a gp to run with */
void break_handler(int signal, siginfo_t *info, void *context);

asm(".pushsection .text\n"
	".option push\n"
	".option norvc\n"
	".option norelax\n"
	"set_all_and_break:\n"
	".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"
	"	li x\\n, " XSTR(PATTERN) " + \\n * " XSTR(PATTERN_STEP) "\n"
	".endr\n"
	"first_break: ebreak\n"
	"second_break: ebreak\n"
	"break_handler:\n"
	"	mv a3, sp\n"
	"	lla gp, __global_pointer$\n"
	"	tail on_break\n"
	".option pop\n"
	".popsection\n");

/* What the registers contain at first_break */
static unsigned long first_pattern(unsigned int number)
{
	return number ? PATTERN + number * PATTERN_STEP : (unsigned long)first_break;
}

/* What they contain at second_break, after they were changed */
static unsigned long second_pattern(unsigned int number)
{
	return number ? ~first_pattern(number) & ~15UL : (unsigned long)second_break;
}

static unsigned long checks;

static bool same(const char *what, unsigned long is, unsigned long want)
{
	checks++;
	if (is != want)
		ksft_print_msg("%s: 0x%lx, want 0x%lx\n", what, is, want);
	return is == want;
}

static bool same_regs(const char *what, const void *memory, unsigned long (*pattern)(unsigned int))
{
	bool good = true;

	for (unsigned int i = 0; i < REGS; i++) {
		unsigned long is;
		char name[64];

		memcpy(&is, (const char *)memory + i * sizeof(is), sizeof(is));
		snprintf(name, sizeof(name), i ? "%s, x%u" : "%s, pc", what, i);
		good &= same(name, is, pattern(i));
	}
	return good;
}

static unsigned int read32(const void *memory)
{
	unsigned int value;

	memcpy(&value, memory, sizeof(value));
	return value;
}

static unsigned long read64(const void *memory)
{
	unsigned long value;

	memcpy(&value, memory, sizeof(value));
	return value;
}

/* Waits until the child stops with SIGTRAP. */
static bool stopped(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_perror("waitpid");
	if ((status & 0xff) == 0x7f && (status >> 8 & 0xff) == SIGTRAP)
		return true;
	ksft_print_msg("the child did not stop at its breakpoint: status 0x%x\n", status);
	return false;
}

static long regset(int request, pid_t pid, void *buffer, size_t *size)
{
	struct iovec vector = { buffer, *size };
	long result = ptrace(request, pid, (void *)NT_PRSTATUS, &vector);

	*size = vector.iov_len;
	if (result)
		ksft_print_msg("ptrace request 0x%x: errno %d\n", request, errno);
	return result;
}

static bool test_regset(void)
{
	unsigned long regs[4 * REGS];
	bool good = false;
	size_t size;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		set_all_and_break();
	}
	if (!stopped(pid))
		goto out;

	/* More room than needed: the kernel must not touch the rest. */
	memset(regs, 0xee, sizeof(regs));
	size = sizeof(regs);
	if (regset(PTRACE_GETREGSET, pid, regs, &size))
		goto out;
	good = same("size of the register set", size, REGS_SIZE);
	good &= same("behind the register set", regs[REGS], 0xeeeeeeeeeeeeeeee);
	good &= same_regs("read by the tracer", regs, first_pattern);

	memset(regs, 0xee, sizeof(regs));
	size = 2 * sizeof(regs[0]);
	if (regset(PTRACE_GETREGSET, pid, regs, &size))
		goto out;
	good &= same("size of its beginning", size, 2 * sizeof(regs[0]));
	good &= same("x1 of its beginning", regs[1], first_pattern(1));
	good &= same("behind its beginning", regs[2], 0xeeeeeeeeeeeeeeee);

	/* Everything that the tracer writes goes through user mode and back. */
	for (unsigned int i = 0; i < REGS; i++)
		regs[i] = second_pattern(i);
	size = REGS_SIZE;
	if (regset(PTRACE_SETREGSET, pid, regs, &size) ||
	    ptrace(PTRACE_CONT, pid, NULL, NULL) || !stopped(pid)) {
		good = false;
		goto out;
	}
	memset(regs, 0, sizeof(regs));
	size = sizeof(regs);
	if (regset(PTRACE_GETREGSET, pid, regs, &size))
		good = false;
	else
		good &= same_regs("written by the tracer", regs, second_pattern);
out:
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return good;
}

static char signal_stack[32768] __attribute__((aligned(16)));
static bool frames_good = true;

/* Called at both breakpoints; ends the process at the second one. */
void __attribute__((used)) on_break(int signal, siginfo_t *info, void *context, unsigned long sp)
{
	static unsigned int calls;
	unsigned long top = (unsigned long)signal_stack + sizeof(signal_stack);
	unsigned char *uc = context;

	frames_good &= same("number of the signal", signal, SIGTRAP);
	frames_good &= same("siginfo", (unsigned long)info, sp);
	frames_good &= same("ucontext behind siginfo", (unsigned long)uc - sp, FRAME_UCONTEXT);
	frames_good &= same("size of the frame", top - sp, FRAME_SIZE);
	frames_good &= same("si_signo", read32(info), SIGTRAP);
	frames_good &= same("uc_flags", read64(uc), 0);
	frames_good &= same("uc_stack", read64(uc + UC_STACK), (unsigned long)signal_stack);
	/* SIGUSR1 is the signal that is blocked. */
	frames_good &= same("uc_sigmask", read64(uc + UC_SIGMASK), 1UL << (SIGUSR1 - 1));
	frames_good &= same("reserved word", read32(uc + UC_RESERVED), 0);
	frames_good &= same("end of the extensions", read64(uc + UC_END), 0);
	if (!calls++) {
		frames_good &= same_regs("first frame", uc + UC_REGS, first_pattern);
		for (unsigned int i = 0; i < REGS; i++) {
			unsigned long value = second_pattern(i);

			memcpy(uc + UC_REGS + i * sizeof(value), &value, sizeof(value));
		}
		return;
	}
	frames_good &= same_regs("second frame", uc + UC_REGS, second_pattern);
	_exit(frames_good ? KSFT_PASS : KSFT_FAIL);
}

static bool test_signal_frame(void)
{
	const stack_t stack = { signal_stack, 0, sizeof(signal_stack) };
	const unsigned long blocked = 1UL << (SIGUSR1 - 1);
	int status;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		if (syscall(__NR_sigaltstack, &stack, NULL) ||
		    syscall(__NR_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, sizeof(blocked)) ||
		    handle_signal(SIGTRAP, break_handler, SA_ONSTACK | SA_NODEFER))
			ksft_exit_fail_perror("cannot handle SIGTRAP");
		set_all_and_break();
	}
	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_perror("waitpid");
	if (!WIFEXITED(status))
		ksft_print_msg("the child died with status 0x%x\n", status);
	return WIFEXITED(status) && WEXITSTATUS(status) == KSFT_PASS &&
	       same("sizeof(struct ucontext)", sizeof(struct ucontext), UC_SIZE);
}

/* Compares the first NT_PRSTATUS of a core: one thread has one note. */
static bool check_core(const char *path, const unsigned char *core, size_t size, pid_t pid)
{
	const struct elf64_hdr *header = (const void *)core;
	const struct elf64_phdr *segment = (const void *)(core + sizeof(*header));

	if (size < sizeof(*header) + sizeof(*segment) || memcmp(header->e_ident, ELFMAG, SELFMAG)) {
		ksft_print_msg("%s is no core: %lu bytes\n", path, size);
		return false;
	}
	for (unsigned int i = 0; i < header->e_phnum; i++, segment++) {
		const struct elf64_note *note = (const void *)(core + segment->p_offset);
		const unsigned char *status;
		bool good;

		if (segment->p_type != PT_NOTE)
			continue;
		if (segment->p_offset + segment->p_filesz > size) {
			ksft_print_msg("the notes end behind the %lu bytes read\n", size);
			return false;
		}
		status = (const unsigned char *)(note + 1) + (note->n_namesz + 3) / 4 * 4;
		good = same("type of the first note", note->n_type, NT_PRSTATUS);
		good &= same("size of NT_PRSTATUS", note->n_descsz, PRSTATUS_SIZE);
		if (!good)
			return false;
		good &= same("e_machine", header->e_machine, EM_RISCV);
		good &= same("pr_cursig", read32(status + PRSTATUS_CURSIG) & 0xffff, SIGTRAP);
		good &= same("pr_pid", read32(status + PRSTATUS_PID), pid);
		good &= same_regs("pr_reg", status + PRSTATUS_REGS, first_pattern);
		/* Whether the FPU's registers are there is up to the kernel. */
		return good & same("pr_fpvalid", read32(status + PRSTATUS_FPVALID) & ~1U, 0);
	}
	ksft_print_msg("%s has no notes\n", path);
	return false;
}

static bool dump_core(void)
{
	const struct rlimit64 unlimited = { RLIM64_INFINITY, RLIM64_INFINITY };
	static unsigned char core[65536];
	char path[sizeof(CORE) + 16];
	ssize_t size;
	int status;
	pid_t pid;
	int fd;

	pid = fork();
	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		if (syscall(__NR_prlimit64, 0, RLIMIT_CORE, &unlimited, NULL))
			ksft_exit_fail_perror("prlimit");
		set_all_and_break();
	}
	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_perror("waitpid");
	snprintf(path, sizeof(path), "%.*s%d", (int)(sizeof(CORE) - sizeof("%p")), CORE, pid);
	fd = open(path, O_RDONLY);
	if (fd < 0) {
		ksft_print_msg("%s: errno %d; status of the child 0x%x\n", path, errno, status);
		return false;
	}
	size = read(fd, core, sizeof(core));
	close(fd);
	unlink(path);
	if (size < 0)
		ksft_exit_fail_perror(path);
	return check_core(path, core, size, pid);
}

static void test_core(const char *name)
{
	char before[256];
	ssize_t length;
	bool good;
	int fd;

	fd = open(CORE_PATTERN, O_RDWR);
	if (fd < 0) {
		ksft_test_result_code(KSFT_SKIP, name, "no %s: a kernel without CONFIG_COREDUMP",
				      CORE_PATTERN);
		return;
	}
	length = read(fd, before, sizeof(before));
	if (length < 0 || syscall(__NR_pwrite64, fd, CORE, strlen(CORE), 0) != strlen(CORE))
		ksft_exit_fail_perror(CORE_PATTERN);
	good = dump_core();
	if (syscall(__NR_pwrite64, fd, before, length, 0) != length)
		ksft_print_msg("%s is %s now, and was %.*s\n", CORE_PATTERN, CORE, (int)length,
			       before);
	close(fd);
	ksft_test_result(good, "%s\n", name);
}

int main(int argc, char **argv)
{
	ksft_print_header();
	if (argc > 1)
		ksft_exit_fail_msg("%s: there are no arguments\n", argv[1]);
	ksft_set_plan(3);
	ksft_test_result(test_regset(), "registers_seen_by_tracer\n");
	ksft_test_result(test_signal_frame(), "registers_in_signal_frame\n");
	test_core("registers_in_core");
	ksft_print_msg("checks: %lu\n", checks);
	ksft_finished();
}
