// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loads BPF programs and attaches them to the scheduler, and makes ring buffers.
 * There is no C library in the guest.
 *
 * Exit status: 0, or 4 if the kernel has no BPF, or 1 on an error.
 */
typedef unsigned int u32;
typedef unsigned long u64;

#define NR_CLOSE	57
#define NR_EXIT		93
#define NR_SCHED_YIELD	124
#define NR_BPF		280

#define MAP_CREATE		0
#define PROG_LOAD		5
#define RAW_TRACEPOINT_OPEN	17
#define MAP_TYPE_RINGBUF	27
#define PROG_TYPE_RAW_TRACEPOINT 17

#define ROUNDS		20
#define YIELDS		20
#define INSNS		600

static long sys(long nr, long a, long b, long c)
{
	register long a0 asm("a0") = a;
	register long a1 asm("a1") = b;
	register long a2 asm("a2") = c;
	register long a7 asm("a7") = nr;

	asm volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
	return a0;
}

static void leave(int status)
{
	for (;;)
		sys(NR_EXIT, status, 0, 0);
}

struct insn {
	unsigned char code;
	unsigned char regs;
	short off;
	int imm;
};

struct load {
	u32 type;
	u32 count;
	u64 insns;
	u64 license;
	u64 rest[14];
};

struct attach {
	u64 name;
	u32 program;
	u32 rest[29];
};

struct map {
	u32 type;
	u32 key_size;
	u32 value_size;
	u32 entries;
	u32 rest[28];
};

static struct insn insns[INSNS];
static struct load load;
static struct attach attach;
static struct map map;

static void run(void)
{
	long program, link, buffer;
	int i, round;

	/* r0 = 0; r0 += N; ...; exit: the longer, the more pages of code */
	for (i = 0; i < INSNS; i++)
		insns[i] = (struct insn){ .code = 0x07, .imm = i };
	insns[0] = (struct insn){ .code = 0xb7 };
	insns[INSNS - 2] = (struct insn){ .code = 0xb7 };
	insns[INSNS - 1] = (struct insn){ .code = 0x95 };

	for (round = 0; round < ROUNDS; round++) {
		load.type = PROG_TYPE_RAW_TRACEPOINT;
		load.count = INSNS;
		load.insns = (u64)insns;
		load.license = (u64)"GPL";
		program = sys(NR_BPF, PROG_LOAD, (long)&load, sizeof(load));
		if (program < 0)
			leave(round ? 1 : 4);
		attach.name = (u64)"sched_switch";
		attach.program = program;
		link = sys(NR_BPF, RAW_TRACEPOINT_OPEN, (long)&attach, 16);
		if (link < 0)
			leave(round ? 1 : 4);
		for (i = 0; i < YIELDS; i++)
			sys(NR_SCHED_YIELD, 0, 0, 0);
		sys(NR_CLOSE, link, 0, 0);
		sys(NR_CLOSE, program, 0, 0);

		map.type = MAP_TYPE_RINGBUF;
		map.entries = 16 * 4096;
		buffer = sys(NR_BPF, MAP_CREATE, (long)&map, 72);
		if (buffer >= 0)
			sys(NR_CLOSE, buffer, 0, 0);
	}
	leave(0);
}

void _start(void)
{
	run();
}
