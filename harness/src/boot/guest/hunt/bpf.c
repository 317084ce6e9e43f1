// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loads BPF programs and attaches them to the scheduler, and makes ring buffers.
 * There is no C library in the guest.
 *
 * Exit status: 0, or 4 if the kernel has no BPF, or 1 on an error.
 */
#include "guest.h"

#define PROG_LOAD		5
#define RAW_TRACEPOINT_OPEN	17
#define MAP_TYPE_RINGBUF	27
#define PROG_TYPE_RAW_TRACEPOINT 17

#define ROUNDS		20
#define YIELDS		20
#define INSNS		600

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
		program = sys(NR_BPF, PROG_LOAD, (long)&load, sizeof(load), 0, 0);
		if (program < 0)
			leave(round ? 1 : 4);
		attach.name = (u64)"sched_switch";
		attach.program = program;
		link = sys(NR_BPF, RAW_TRACEPOINT_OPEN, (long)&attach, 16, 0, 0);
		if (link < 0)
			leave(round ? 1 : 4);
		for (i = 0; i < YIELDS; i++)
			sys(NR_SCHED_YIELD, 0, 0, 0, 0, 0);
		sys(NR_CLOSE, link, 0, 0, 0, 0);
		sys(NR_CLOSE, program, 0, 0, 0, 0);

		map.type = MAP_TYPE_RINGBUF;
		map.entries = 16 * 4096;
		buffer = sys(NR_BPF, MAP_CREATE, (long)&map, 72, 0, 0);
		if (buffer >= 0)
			sys(NR_CLOSE, buffer, 0, 0, 0, 0);
	}
	leave(0);
}

void _start(void)
{
	run();
}
