/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For programs of the guest, which has no C library: types, and system calls by their numbers
 * (include/uapi/asm-generic/unistd.h).
 */
typedef unsigned int u32;
typedef unsigned long u64;

#define NR_MKDIRAT		34
#define NR_MOUNT		40
#define NR_OPENAT		56
#define NR_CLOSE		57
#define NR_PIPE2		59
#define NR_READ			63
#define NR_WRITE		64
#define NR_EXIT			93
#define NR_NANOSLEEP		101
#define NR_CLOCK_GETTIME	113
#define NR_SCHED_SETAFFINITY	122
#define NR_SCHED_GETAFFINITY	123
#define NR_SCHED_YIELD		124
#define NR_KILL			129
#define NR_REBOOT		142
#define NR_PRCTL		167
#define NR_MUNMAP		215
#define NR_MREMAP		216
#define NR_CLONE		220
#define NR_EXECVE		221
#define NR_MMAP			222
#define NR_MPROTECT		226
#define NR_MADVISE		233
#define NR_WAIT4		260
#define NR_FINIT_MODULE		273
#define NR_BPF			280
#define NR_KEXEC_FILE_LOAD	294

#define AT_FDCWD		(-100)
#define SIGCHLD			17

/* BPF_MAP_CREATE, and its part of union bpf_attr (include/uapi/linux/bpf.h) */
#define MAP_CREATE		0

struct map {
	u32 type;
	u32 key_size;
	u32 value_size;
	u32 entries;
	u32 rest[28];
};

/* A system call with up to five arguments; a sixth is 0. Returns its result, or an error below 0. */
static long sys(long nr, long a, long b, long c, long d, long e)
{
	register long a0 asm("a0") = a;
	register long a1 asm("a1") = b;
	register long a2 asm("a2") = c;
	register long a3 asm("a3") = d;
	register long a4 asm("a4") = e;
	register long a5 asm("a5") = 0;
	register long a7 asm("a7") = nr;

	asm volatile("ecall" : "+r"(a0)
		     : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
	return a0;
}

/* Ends the program. */
static void leave(int status)
{
	for (;;)
		sys(NR_EXIT, status, 0, 0, 0, 0);
}
