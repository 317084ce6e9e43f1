/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the test programs that use BPF. They assemble programs and make the
 * system calls themselves: libbpf needs a C library.
 */
#ifndef LAZY_MAP_BPF_H
#define LAZY_MAP_BPF_H

#include "user.h"

#include <linux/bpf.h>

static inline int bpf(int command, union bpf_attr *attr)
{
	return syscall(__NR_bpf, command, attr, sizeof(*attr));
}

/**
 * new_map() - make a map that a process can map, too
 * @type: of the map
 * @value_size: bytes of a value; 0 if the map has no keys either
 * @entries: values, or pages
 * @extra: what depends on the type
 *
 * Return: its file descriptor, or -1 with errno set.
 */
static inline int new_map(unsigned int type, unsigned int value_size, unsigned int entries,
			  unsigned long extra)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = value_size ? sizeof(uint32_t) : 0;
	attr.value_size = value_size;
	attr.max_entries = entries;
	/* Also makes the kernel allocate it with vmalloc, whatever its size. */
	attr.map_flags = BPF_F_MMAPABLE;
	attr.map_extra = extra;
	return bpf(BPF_MAP_CREATE, &attr);
}

/* mmap() of a map, at an address unless that is NULL; returns NULL and sets errno on failure. */
static inline void *map_memory(void *address, size_t size, int fd)
{
	void *memory = mmap(address, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | (address ? MAP_FIXED : 0), fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Attempts to load a program, as many as libbpf makes */
#define MAX_TRIES	5

/* A program under construction */
struct code {
	struct bpf_insn insns[256];
	unsigned int count;
};

static inline void add(struct code *code, unsigned char opcode, unsigned char dst,
		       unsigned char src, short off, int imm)
{
	code->insns[code->count++] = (struct bpf_insn) {
		.code = opcode, .dst_reg = dst, .src_reg = src, .off = off, .imm = imm,
	};
}

/* Makes the jump that was added as instruction number @jump go to the next one to be added. */
static inline void land(struct code *code, unsigned int jump)
{
	code->insns[jump].off = code->count - jump - 1;
}

static inline void load_constant(struct code *code, unsigned char dst, unsigned char kind,
				 uint64_t value)
{
	add(code, BPF_LD | BPF_DW | BPF_IMM, dst, kind, 0, value);
	add(code, 0, 0, 0, 0, value >> 32);
}

/* Ends the program. */
static inline void leave(struct code *code)
{
	add(code, BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
	add(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* dst = what the map has for the 32-bit key in src; or ends the program */
static inline void look_up(struct code *code, unsigned char dst, unsigned char src, int map)
{
	add(code, BPF_STX | BPF_MEM | BPF_W, 10, src, -4, 0);
	load_constant(code, 1, BPF_PSEUDO_MAP_FD, map);
	add(code, BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
	add(code, BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4);
	add(code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem);
	add(code, BPF_JMP | BPF_JNE | BPF_K, 0, 0, 1, 0);
	add(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	add(code, BPF_ALU64 | BPF_MOV | BPF_X, dst, 0, 0, 0);
}

/**
 * load_code() - have a program verified and compiled
 * @code: the program
 * @type: what it will be attached to
 * @attach_type: more about that, or 0
 * @btf_id: type in the kernel's BTF that it belongs to, or 0
 *
 * Return: its file descriptor, or -1 with errno set.
 */
static inline int load_code(const struct code *code, unsigned int type, unsigned int attach_type,
			    unsigned int btf_id)
{
	union bpf_attr attr;
	int program, tries = 0;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = type;
	attr.expected_attach_type = attach_type;
	attr.attach_btf_id = btf_id;
	attr.insns = (uintptr_t)code->insns;
	attr.insn_cnt = code->count;
	attr.license = (uintptr_t)"GPL";
	/* What interrupts the verifier may be a signal of the kernel's own: io_uring has such. */
	do {
		program = bpf(BPF_PROG_LOAD, &attr);
	} while (program < 0 && errno == EAGAIN && ++tries < MAX_TRIES);
	return program;
}

/**
 * attach() - attach a program
 * @tracepoint: its name, or NULL if the program knows by itself what it belongs to
 * @program: file descriptor
 *
 * Return: a file descriptor that keeps the program attached, or -1 with errno set.
 */
static inline int attach(const char *tracepoint, int program)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.raw_tracepoint.name = (uintptr_t)tracepoint;
	attr.raw_tracepoint.prog_fd = program;
	return bpf(BPF_RAW_TRACEPOINT_OPEN, &attr);
}

static inline bool is_compiled(int program)
{
	struct bpf_prog_info info;
	union bpf_attr attr;

	memset(&info, 0, sizeof(info));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = program;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uintptr_t)&info;
	return !bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) && info.jited_prog_len;
}

/* What the kernel lacks for programs at tracepoints, NULL if nothing */
static inline const char *missing_for_bpf(void)
{
	const char *what = NULL;
	struct code nothing;
	int program;

	nothing.count = 0;
	leave(&nothing);
	program = load_code(&nothing, BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0);
	if (program < 0)
		return errno == EINVAL ? "no CONFIG_BPF_EVENTS, or BTF that the kernel refuses"
				       : "no CONFIG_BPF_SYSCALL";
	if (!is_compiled(program))
		what = "programs are not compiled: see CONFIG_BPF_JIT_ALWAYS_ON";
	close(program);
	return what;
}

#endif /* LAZY_MAP_BPF_H */
