/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the test programs of this folder. They are built with nolibc, so that
 * they also run without a C library, and so that only the test itself uses the
 * registers that it tests.
 */
#ifndef LAZY_MAP_USER_H
#define LAZY_MAP_USER_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/sched.h>

#include <asm/ptrace.h>
#include <asm/sigcontext.h>
#include <asm/signal.h>
#include <asm/siginfo.h>
#include <asm/ucontext.h>

/* exit() of nolibc ends one thread. Here it ends the process, also for kselftest.h. */
static inline void __attribute__((noreturn)) exit_process(int status)
{
	syscall(__NR_exit_group, status);
	__builtin_unreachable();
}

#define exit(status) exit_process(status)

#include "kselftest.h"

#define MAX_CPUS	1024
#define LONG_BITS	(8 * sizeof(unsigned long))
#define PAGE_SIZE	4096UL

/* Signals are delivered with this handler: the kernel's own struct, not a C library's */
typedef void (*siginfo_handler)(int signal, siginfo_t *info, void *context);

/**
 * handle_signal() - install a handler
 * @signal: number of the signal
 * @handler: called with the frame that the kernel builds, or NULL for the default
 * @flags: SA_ONSTACK and the like; SA_SIGINFO is added
 *
 * Return: 0, or -1 with errno set.
 */
static inline int handle_signal(int signal, siginfo_handler handler, unsigned long flags)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = (void *)handler;
	action.sa_flags = SA_SIGINFO | flags;
	return syscall(__NR_rt_sigaction, signal, &action, NULL, sizeof(action.sa_mask));
}

/**
 * run_on_cpu() - confine the calling thread to one CPU
 * @cpu: number of the CPU
 *
 * When it returns without an error, the thread runs there.
 *
 * Return: 0, or -1 with errno set, for example if that CPU is offline.
 */
static inline int run_on_cpu(unsigned int cpu)
{
	unsigned long mask[MAX_CPUS / LONG_BITS];

	memset(mask, 0, sizeof(mask));
	mask[cpu / LONG_BITS] = 1UL << cpu % LONG_BITS;
	return syscall(__NR_sched_setaffinity, 0, sizeof(mask), mask);
}

/**
 * usable_cpus() - list the CPUs that this process may run on
 * @cpus: where to store their numbers, in ascending order
 *
 * Return: their number, 1 to MAX_CPUS, or -1 with errno set.
 */
static inline int usable_cpus(unsigned int cpus[MAX_CPUS])
{
	unsigned long mask[MAX_CPUS / LONG_BITS];
	unsigned int cpu;
	int count = 0;

	memset(mask, 0, sizeof(mask));
	if (syscall(__NR_sched_getaffinity, 0, sizeof(mask), mask) < 0)
		return -1;
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		if (mask[cpu / LONG_BITS] & 1UL << cpu % LONG_BITS)
			cpus[count++] = cpu;
	}
	return count;
}

/* Seconds since some point in time */
static inline long monotonic_seconds(void)
{
	struct __kernel_timespec now = { 0, 0 };

	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
	return now.tv_sec;
}

/* Memory that a process shares with the ones that it forks, NULL if out of memory */
static inline void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/**
 * wait_for_child() - wait until a child has ended
 * @pid: the child
 *
 * Ends the program with one line and KSFT_FAIL if it is not a child.
 *
 * Return: its status, as of waitpid().
 */
static inline int wait_for_child(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			ksft_exit_fail_perror("waitpid");
	}
	return status;
}

/**
 * wait_until_not() - sleep while a word of shared memory has a value
 * @word: what another task changes, with wake() afterwards
 * @value: to wait for the end of
 *
 * Return: the value that it has then.
 */
static inline unsigned int wait_until_not(unsigned int *word, unsigned int value)
{
	unsigned int now;

	while ((now = __atomic_load_n(word, __ATOMIC_ACQUIRE)) == value)
		syscall(__NR_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
	return now;
}

/* Stores to a word of shared memory, and wakes those who wait for that. */
static inline void wake(unsigned int *word, unsigned int value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	syscall(__NR_futex, word, FUTEX_WAKE, 0x7fffffff, NULL, NULL, 0);
}

/**
 * struct thread - a thread of the calling process
 * @tid: its number, 0 when it has ended
 * @stack: what it runs on in user mode
 */
struct thread {
	unsigned int tid;
	char stack[16384] __attribute__((aligned(16)));
};

/* clone(), with a function to call and its argument on the new stack */
long clone_thread(unsigned long flags, void *stack, unsigned int *tid);

asm(".pushsection .text\n"
	"clone_thread:\n"
	"	mv a4, a2\n"		/* stores the child's number, clears it later */
	"	li a3, 0\n"
	"	li a7, 220\n"		/* __NR_clone */
	"	ecall\n"
	"	bnez a0, 1f\n"
	"	ld a1, 0(sp)\n"
	"	ld a0, 8(sp)\n"
	"	jalr a1\n"
	"	li a0, 0\n"
	"	li a7, 93\n"		/* __NR_exit: this thread only */
	"	ecall\n"
	"1:	ret\n"
	".popsection\n");

/**
 * start_thread() - run a function in a thread
 * @thread: its state, in use until end_of_thread()
 * @function: what it calls; the thread ends when it returns
 * @argument: passed to @function
 *
 * Return: 0, or -1 with errno set.
 */
static inline int start_thread(struct thread *thread, void (*function)(void *), void *argument)
{
	const unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
		CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
	void **top = (void **)(thread->stack + sizeof(thread->stack)) - 2;
	long result;

	top[0] = function;
	top[1] = argument;
	result = clone_thread(flags, top, &thread->tid);
	if (result < 0) {
		errno = -result;
		return -1;
	}
	return 0;
}

/* Waits until a thread does not use its user-mode stack any more. */
static inline void end_of_thread(struct thread *thread)
{
	unsigned int tid = __atomic_load_n(&thread->tid, __ATOMIC_ACQUIRE);

	while (tid)
		tid = wait_until_not(&thread->tid, tid);
}

/**
 * parse_number() - read the value of an argument NAME=VALUE
 * @argument: what was given
 * @name: the name that must precede the equals sign
 * @low: smallest legal value
 * @high: largest legal value
 * @value: where to store it
 *
 * Ends the program with one line and KSFT_FAIL if the value is not a number
 * or out of range.
 *
 * Return: true if the argument is the one called @name.
 */
static inline bool parse_number(const char *argument, const char *name, unsigned long low,
				unsigned long high, unsigned long *value)
{
	size_t length = strlen(name);
	char *end;

	if (strncmp(argument, name, length) || argument[length] != '=')
		return false;
	argument += length + 1;
	*value = strtoul(argument, &end, 10);
	if (*argument < '0' || *argument > '9' || *end || *value < low || *value > high)
		ksft_exit_fail_msg("%s=%s: want a number from %lu to %lu\n",
				   name, argument, low, high);
	return true;
}

/* The case that was asked for, NULL for all */
static inline const char **only_case(void)
{
	static const char *name;

	return &name;
}

/* Returns whether an argument is case=NAME, which asks for one case alone. */
static inline bool parse_case(const char *argument)
{
	if (strncmp(argument, "case=", 5))
		return false;
	*only_case() = argument + 5;
	return true;
}

/* Reads the arguments of a program that takes rounds=NUMBER and case=NAME. */
static inline void parse_rounds_and_case(int argc, char **argv, unsigned long *rounds)
{
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "rounds", 1, 1000000, rounds) && !parse_case(argv[i]))
			ksft_exit_fail_msg("%s: arguments are rounds=NUMBER and case=NAME\n",
					   argv[i]);
	}
}

/* Skips a case, and says why. */
static inline void skip_case(const char *test, const char *reason)
{
	ksft_print_msg("%s: skipped: %s\n", test, reason);
	ksft_test_result_skip("%s\n", test);
}

/* For programs that have the kernel map something: it makes the touches, and says nothing. */
static inline void say_uncounted(void)
{
	ksft_print_msg("spurious faults are not counted: the kernel itself makes the touches\n");
}

/* Says that no CPU has tried in vain what is mapped. */
static inline void say_untried(void)
{
	ksft_print_msg("harts that remember only failed accesses are not tested here\n");
}

/* Whether a case is to run */
static inline bool is_wanted(const char *name)
{
	return !*only_case() || !strcmp(*only_case(), name);
}

/*
 * How many cases run of so many. If the name that was asked for is none of theirs,
 * ksft_finished() finds that one is missing.
 */
static inline unsigned int planned(unsigned int cases)
{
	return *only_case() ? 1 : cases;
}

#endif /* LAZY_MAP_USER_H */
