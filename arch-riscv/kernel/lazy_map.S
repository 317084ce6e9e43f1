/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * New kernel mappings, the consumer's half: decide whether a trap was caused
 * by a translation that this hart cached before a PTE became valid. Included
 * by entry.S, as efi-header.S is by head.S. The producer's half is
 * arch/riscv/mm/lazy_map.c.
 */

#ifdef CONFIG_RISCV_LAZY_MAP

/* Set in the codes of all three page faults, and in no other with an address */
#define LAZY_MAP_CAUSE_BIT	8

/*
 * lazy_map_check - retry the trapped instruction if its mapping may be new
 *
 * For handle_exception, after a trap from kernel mode. Nothing but thread_info
 * and the kernel image may be touched: kernel stacks and per-CPU areas are
 * vmalloc'ed, so they are among the things that this hart may not see yet.
 *
 * In:   sscratch = current, tp = any, interrupts disabled
 * Out:  tp = any, everything else as before. Or the macro does not end: the hart
 *	 has fenced, and sret retries the trapped instruction.
 *
 * tp is the only scratch register until a fault on a kernel address is certain;
 * its value waits in sscratch. Then sp and a0 are saved in thread_info:
 *
 *	sp = the cpu, then the hart's bit: sll uses the cpu modulo 64
 *	a0 = the address of the word of lazy_map_synced with that bit, then the
 *	     word as it was before the AMO set the bit
 *
 * The bit is set before the fence. A mapping that is announced in between
 * clears it again, which costs one needless retry; the other way round the
 * announcement would be lost.
 *
 * The AMO also is the load that tests the bit. A plain load could be satisfied
 * too early, before the hart saw the pointer through which it came to the new
 * mapping; a store, and so an AMO, is not executed ahead of the branches and
 * addresses that lead to it.
 *
 * .aq: the walk of the retried access comes after the AMO. Together with
 * sfence.vma it pairs with the smp_mb() in flush_cache_vmap(): an AMO that
 * overwrites a mark is followed by a walk that sees the PTEs which were stored
 * before the mark. The fence is needed even on a core with Svvptc: that bounds
 * how long a PTE may stay invisible, but the next fault would find the bit set
 * and be taken for a genuine one.
 *
 * Cores with SiFive's CIP-453 have Sv39, and do not sign-extend stval when a
 * fetch faults: there the sign is bit 38, for all addresses that are canonical.
 */
.macro lazy_map_check
	csrr	tp, CSR_TVAL
#ifdef CONFIG_ERRATA_SIFIVE_CIP_453
	ALTERNATIVE("nop", "slli tp, tp, 25", SIFIVE_VENDOR_ID,
		    ERRATA_SIFIVE_CIP_453, CONFIG_ERRATA_SIFIVE_CIP_453)
#endif
	bgez	tp, .Llazy_map_done	/* an interrupt, a user address */
	csrr	tp, CSR_CAUSE
	andi	tp, tp, LAZY_MAP_CAUSE_BIT
	beqz	tp, .Llazy_map_done	/* a breakpoint, an access fault ... */

	csrr	tp, CSR_SCRATCH
	REG_S	sp, TASK_TI_KERNEL_SP(tp)
	REG_S	a0, TASK_TI_LAZY_MAP_A0(tp)
	lw	sp, TASK_TI_CPU_NUM(tp)
	/* gp may be anything, so the linker must not make use of it */
	.option push
	.option norelax
	lla	a0, lazy_map_synced
	.option pop
	srli	tp, sp, 6
	slli	tp, tp, 3
	add	a0, a0, tp
	li	tp, 1
	sll	sp, tp, sp
	amoor.d.aq a0, sp, (a0)
	and	sp, sp, a0
	csrrw	tp, CSR_SCRATCH, x0
	REG_L	a0, TASK_TI_LAZY_MAP_A0(tp)
	bnez	sp, .Llazy_map_genuine	/* nothing is new */

	sfence.vma
	REG_L	sp, TASK_TI_KERNEL_SP(tp)
	sret

.Llazy_map_genuine:
	REG_L	sp, TASK_TI_KERNEL_SP(tp)
	csrw	CSR_SCRATCH, tp
.Llazy_map_done:
.endm

#else

.macro lazy_map_check
.endm

#endif /* CONFIG_RISCV_LAZY_MAP */
