/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * M-mode start-up and the way into S- or U-mode and back: run_at() executes a
 * stub below with the MMU on and returns when it traps, as nothing is
 * delegated.
 */
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

/* long run_at(struct visit *v): 0 pc, 8 a0, 16 a1, 24 mpp, out: 32 cause, 40 tval, 48 epc, 56 a0 */
	.section .text
	.globl	run_at
run_at:
	addi	sp, sp, -128
	sd	ra, 0(sp)
	sd	s0, 8(sp)
	sd	s1, 16(sp)
	sd	s2, 24(sp)
	sd	s3, 32(sp)
	sd	s4, 40(sp)
	sd	s5, 48(sp)
	sd	s6, 56(sp)
	sd	s7, 64(sp)
	sd	s8, 72(sp)
	sd	s9, 80(sp)
	sd	s10, 88(sp)
	sd	s11, 96(sp)
	sd	gp, 104(sp)
	sd	tp, 112(sp)
	sd	a0, 120(sp)
	csrw	mscratch, sp
	ld	t0, 0(a0)
	csrw	mepc, t0
	li	t0, 3 << 11
	csrc	mstatus, t0
	ld	t0, 24(a0)
	slli	t0, t0, 11
	csrs	mstatus, t0
	la	s0, frame
	ld	a1, 16(a0)
	ld	a0, 8(a0)
	mret

/*
 * What s0 of a stub is, for the trace: it was called by the code at 0x1004,
 * and that by the code at 0x2008.
 */
	.balign	16
	.dword	last_frame, 0x1004
frame:	.dword	0, 0x2008
last_frame:

	.balign	4
trap:
	csrrw	sp, mscratch, sp
	ld	t0, 120(sp)
	sd	a0, 56(t0)
	csrr	t1, mcause
	sd	t1, 32(t0)
	csrr	t1, mtval
	sd	t1, 40(t0)
	csrr	t1, mepc
	sd	t1, 48(t0)
	ld	ra, 0(sp)
	ld	s0, 8(sp)
	ld	s1, 16(sp)
	ld	s2, 24(sp)
	ld	s3, 32(sp)
	ld	s4, 40(sp)
	ld	s5, 48(sp)
	ld	s6, 56(sp)
	ld	s7, 64(sp)
	ld	s8, 72(sp)
	ld	s9, 80(sp)
	ld	s10, 88(sp)
	ld	s11, 96(sp)
	ld	gp, 104(sp)
	ld	tp, 112(sp)
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
STUB(stub_load)		ld a0, 0(a0); ecall
STUB(stub_store)	sd a1, 0(a0); ecall
STUB(stub_amo)		amoadd.d a0, a1, (a0); ecall
STUB(stub_lr)		lr.d a0, (a0); ecall
STUB(stub_sc)		lr.d t0, (a1); sc.d a0, t0, (a0); ecall
STUB(stub_fetch)	jr a0
STUB(stub_cross)	ld a0, -4(a0); ecall
STUB(stub_satp)		csrw satp, a0; ecall
STUB(stub_satps)	csrr a0, satp; li a1, 9 << 44; xor a1, a0, a1; csrw satp, a1; csrw satp, a0; ecall
STUB(stub_sum)		csrs sstatus, a1; ld a0, 0(a0); csrc sstatus, a1; ecall
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
