/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * M-mode start-up and the way into S- or U-mode and back: run_at() executes a
 * stub below with the MMU on and returns when it traps, as nothing is
 * delegated.
 */
#if __riscv_xlen == 64
#define L		ld
#define S		sd
#define LR		lr.d
#define SC		sc.d
#define AMOADD		amoadd.d
#define WORD		.dword
#define WORD_SIZE	8
#define ASID_SHIFT	44
#else
#define L		lw
#define S		sw
#define LR		lr.w
#define SC		sc.w
#define AMOADD		amoadd.w
#define WORD		.word
#define WORD_SIZE	4
#define ASID_SHIFT	22
#endif

	.option	norvc
	.section .text.start, "ax"
	.globl	_start
_start:
	csrr	t0, mhartid
	li	t1, 4
	bgeu	t0, t1, 2f
	la	sp, stacks
	li	t1, 16384
	addi	t2, t0, 1
	mul	t1, t1, t2
	add	sp, sp, t1
	la	t1, trap
	csrw	mtvec, t1
	mv	a0, t0
	tail	guest_main
2:	wfi
	j	2b

/*
 * void run_at(struct visit *v): 0 pc, 8 a0, 16 a1, 24 mpp, out: 32 cause, 40 tval, 48 epc, 56 a0. With
 * 32-bit registers these are the lower halves. mpp is 4 more for a guest. There are QEMUs whose MPV cannot be
 * written, so SRET gets there.
 */
	.section .text
	.globl	run_at
run_at:
	addi	sp, sp, -128
	S	ra, 0(sp)
	S	s0, 8(sp)
	S	s1, 16(sp)
	S	s2, 24(sp)
	S	s3, 32(sp)
	S	s4, 40(sp)
	S	s5, 48(sp)
	S	s6, 56(sp)
	S	s7, 64(sp)
	S	s8, 72(sp)
	S	s9, 80(sp)
	S	s10, 88(sp)
	S	s11, 96(sp)
	S	gp, 104(sp)
	S	tp, 112(sp)
	S	a0, 120(sp)
	csrw	mscratch, sp
	L	t0, 0(a0)
	csrw	mepc, t0
	li	t0, 3 << 11
	csrc	mstatus, t0
	L	t0, 24(a0)
	andi	t1, t0, 4
	bnez	t1, run_guest
	slli	t0, t0, 11
	csrs	mstatus, t0
	la	s0, frame
	L	a1, 16(a0)
	L	a0, 8(a0)
	mret
run_guest:
	L	t1, 0(a0)
	csrw	sepc, t1
	/* SPV of hstatus, SPP of mstatus */
	li	t1, 1 << 7
	csrs	0x600, t1
	li	t1, 1 << 8
	csrc	mstatus, t1
	andi	t0, t0, 1
	slli	t0, t0, 8
	csrs	mstatus, t0
	la	s0, frame
	L	a1, 16(a0)
	L	a0, 8(a0)
	sret

/* After a trap of a guest: MRET to M-mode clears MPV. */
	.globl	leave_guest
leave_guest:
	li	t0, 3 << 11
	csrs	mstatus, t0
	csrw	mepc, ra
	mret

/*
 * What s0 of a stub is, for the trace: it was called by the code at 0x1004,
 * and that by the code at 0x2008.
 */
	.balign	16
	.space	16 - 2 * WORD_SIZE
	WORD	last_frame, 0x1004
frame:	.space	16 - 2 * WORD_SIZE
	WORD	0, 0x2008
last_frame:

	.balign	4
trap:
	csrrw	sp, mscratch, sp
	L	t0, 120(sp)
	S	a0, 56(t0)
	csrr	t1, mcause
	S	t1, 32(t0)
	csrr	t1, mtval
	S	t1, 40(t0)
	csrr	t1, mepc
	S	t1, 48(t0)
	L	ra, 0(sp)
	L	s0, 8(sp)
	L	s1, 16(sp)
	L	s2, 24(sp)
	L	s3, 32(sp)
	L	s4, 40(sp)
	L	s5, 48(sp)
	L	s6, 56(sp)
	L	s7, 64(sp)
	L	s8, 72(sp)
	L	s9, 80(sp)
	L	s10, 88(sp)
	L	s11, 96(sp)
	L	gp, 104(sp)
	L	tp, 112(sp)
	addi	sp, sp, 128
	ret

/* Stubs for S- and U-mode: a0 is the address, a1 a second operand. */
#define STUB(name) .globl name; .balign 4; name:
STUB(stub_spin)		j stub_spin
STUB(stub_nothing)	ecall
STUB(stub_break)	ebreak
STUB(stub_sscratch_set)	csrw sscratch, a0; ecall
STUB(stub_sscratch_swap) csrrw a0, sscratch, a0; ecall
STUB(stub_sscratch_read) csrr a0, sscratch; ecall
STUB(stub_sstatus)	csrs sstatus, a1; ecall
STUB(stub_sepc)		csrw sepc, a0; ecall
STUB(stub_stvec)	csrw stvec, a0; ecall
STUB(stub_sret)		sret
STUB(stub_scause)	csrw scause, a0; ecall
/* a handler: what stval says */
STUB(stub_stval)	csrr a0, stval; ecall
STUB(stub_load)		L a0, 0(a0); ecall
STUB(stub_store)	S a1, 0(a0); ecall
STUB(stub_amo)		AMOADD a0, a1, (a0); ecall
STUB(stub_lr)		LR a0, (a0); ecall
/* sspush ra, with a0 as the top of the stack; ssamoswap.w.rl, ssamoswap.d.rl */
STUB(stub_sspush)	csrw 0x011, a0; .4byte 0xce104073; ecall
STUB(stub_ssamoswap_w)	.insn r 0x2f, 2, 0x25, x0, a0, x0; ecall
STUB(stub_ssamoswap_d)	.insn r 0x2f, 3, 0x25, x0, a0, x0; ecall
STUB(stub_sc)		LR t0, (a1); SC a0, t0, (a0); ecall
STUB(stub_fetch)	jr a0
STUB(stub_cross)	L a0, -WORD_SIZE / 2(a0); ecall
STUB(stub_satp)		csrw satp, a0; ecall
STUB(stub_satps)	csrr a0, satp; li a1, 9 << ASID_SHIFT; xor a1, a0, a1; csrw satp, a1; csrw satp, a0; ecall
STUB(stub_sum)		csrs sstatus, a1; L a0, 0(a0); csrc sstatus, a1; ecall
/* The fences; those with operands get an address (a0) or an ASID (a1). */
/* not the first instruction of its block, for the trace to get that right */
STUB(fence_all)		nop; sfence.vma; ecall
STUB(fence_va)		sfence.vma a0, zero; ecall
STUB(fence_asid)	sfence.vma zero, a1; ecall
STUB(fence_va_asid)	sfence.vma a0, a1; ecall
#define W_INVAL			.insn r 0x73, 0, 0x0c, x0, x0, x0
#define INVAL_IR		.insn r 0x73, 0, 0x0c, x0, x0, x1
#define SINVAL(rs1, rs2)	.insn r 0x73, 0, 0x0b, x0, rs1, rs2
STUB(sinval_all)	W_INVAL; SINVAL(x0, x0); INVAL_IR; ecall
STUB(sinval_va)		W_INVAL; SINVAL(a0, x0); INVAL_IR; ecall
STUB(sinval_asid)	W_INVAL; SINVAL(x0, a1); INVAL_IR; ecall
STUB(sinval_va_asid)	W_INVAL; SINVAL(a0, a1); INVAL_IR; ecall
STUB(sinval_no_w)	SINVAL(a0, x0); INVAL_IR; ecall
STUB(sinval_no_ir)	W_INVAL; SINVAL(a0, x0); ecall
/* a1 is the address of nothing that matters */
STUB(sinval_sfence)	W_INVAL; SINVAL(a0, x0); sfence.vma a1, zero; ecall
STUB(sinval_twice)	W_INVAL; SINVAL(a1, x0); INVAL_IR; SINVAL(a0, x0); INVAL_IR; ecall
STUB(sinval_many)	W_INVAL
	.rept 17
	SINVAL(a0, x0)
	.endr
	INVAL_IR; ecall
STUB(fence_winval)	W_INVAL; INVAL_IR; ecall
STUB(fence_hvvma)	.insn r 0x73, 0, 0x11, x0, x0, x0; ecall
STUB(fence_hgvma)	.insn r 0x73, 0, 0x31, x0, x0, x0; ecall
STUB(fence_hinvalv)	.insn r 0x73, 0, 0x13, x0, x0, x0; ecall
STUB(fence_hinvalg)	.insn r 0x73, 0, 0x33, x0, x0, x0; ecall
#define HFENCE_VVMA(rs1, rs2)	.insn r 0x73, 0, 0x11, x0, rs1, rs2
#define HFENCE_GVMA(rs1, rs2)	.insn r 0x73, 0, 0x31, x0, rs1, rs2
#define HINVAL_VVMA(rs1, rs2)	.insn r 0x73, 0, 0x13, x0, rs1, rs2
#define HINVAL_GVMA(rs1, rs2)	.insn r 0x73, 0, 0x33, x0, rs1, rs2
STUB(hvvma_va)		HFENCE_VVMA(a0, x0); ecall
STUB(hvvma_asid)	HFENCE_VVMA(x0, a1); ecall
STUB(hvvma_va_asid)	HFENCE_VVMA(a0, a1); ecall
STUB(hgvma_ga)		HFENCE_GVMA(a0, x0); ecall
STUB(hgvma_vmid)	HFENCE_GVMA(x0, a1); ecall
STUB(hgvma_ga_vmid)	HFENCE_GVMA(a0, a1); ecall
STUB(hinvalv_va_asid)	W_INVAL; HINVAL_VVMA(a0, a1); INVAL_IR; ecall
STUB(hinvalv_no_ir)	W_INVAL; HINVAL_VVMA(x0, x0); ecall
STUB(hinvalv_no_w)	HINVAL_VVMA(a0, x0); INVAL_IR; ecall
STUB(hinvalg_ga_vmid)	W_INVAL; HINVAL_GVMA(a0, a1); INVAL_IR; ecall
STUB(hinvalg_no_ir)	W_INVAL; HINVAL_GVMA(x0, x0); ecall
STUB(hinvalg_no_w)	HINVAL_GVMA(a0, x0); INVAL_IR; ecall
/* each invalidates something else */
STUB(hinval_many)	W_INVAL; SINVAL(a1, x0); HINVAL_VVMA(a1, x0)
	.rept 15
	HINVAL_GVMA(a0, x0)
	.endr
	INVAL_IR; ecall
/* hlv.w */
STUB(stub_hlv)		.insn r 0x73, 4, 0x34, a0, a0, x0; ecall
STUB(fence_thead)	.insn r 0x0b, 0, 0x02, x0, a0, a1; ecall
STUB(stub_fencei)	fence.i; fence; ecall
	.option	arch, +v
/* loads 16 bytes, the last 8 of which are on the page a0 + 8 */
STUB(stub_fof)
	li	a1, 16
	vsetvli	a1, a1, e8, m1, ta, ma
	vle8ff.v v0, (a0)
	csrr	a0, vl
	ecall

	.bss
	.balign	16
	.globl	stacks
stacks:	.space	4 * 16384
