/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * New kernel mappings, the consumer's half: decide whether a trap was caused
 * by a translation that this hart cached before a PTE became valid. Included
 * by entry.S; the producer's half is arch/riscv/mm/lazy_map.c.
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
 * In:   tp = current, sp saved in TASK_TI_KERNEL_SP(tp), interrupts disabled
 * Out:  sp = what was saved; everything else as before. Or the macro does not
 *	 end: the hart has fenced, and sret retries the trapped instruction.
 *
 * sp is the only scratch register until a fault on a kernel address is certain.
 * Then a0 and a1 are saved in their thread_info slots:
 *
 *	a1 = cpu, then the cpu's bit in its word: sll uses cpu modulo 64
 *	a0 = the word's address: lazy_map_synced + cpu / 64 * 8
 *	sp = the word as it was before the AMO set the bit
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
 */
.macro lazy_map_check
	csrr	sp, CSR_TVAL
	bgez	sp, .Llazy_map_done	/* an interrupt, a user address */
	csrr	sp, CSR_CAUSE
	andi	sp, sp, LAZY_MAP_CAUSE_BIT
	beqz	sp, .Llazy_map_done	/* a breakpoint, an access fault ... */

	REG_S	a0, TASK_TI_LAZY_MAP_A0(tp)
	REG_S	a1, TASK_TI_LAZY_MAP_A1(tp)
	lw	a1, TASK_TI_CPU_NUM(tp)
	/* gp may be anything here, so the linker must not use it */
.option push
.option norelax
	lla	a0, lazy_map_synced
.option pop
	srli	sp, a1, 6
	slli	sp, sp, 3
	add	a0, a0, sp
	li	sp, 1
	sll	a1, sp, a1
	amoor.d.aq sp, a1, (a0)
	and	sp, sp, a1
	REG_L	a0, TASK_TI_LAZY_MAP_A0(tp)
	REG_L	a1, TASK_TI_LAZY_MAP_A1(tp)
	bnez	sp, .Llazy_map_done	/* nothing is new: a genuine fault */

	sfence.vma
	REG_L	sp, TASK_TI_KERNEL_SP(tp)
	csrw	CSR_SCRATCH, x0
	sret

.Llazy_map_done:
	REG_L	sp, TASK_TI_KERNEL_SP(tp)
.endm

#else

.macro lazy_map_check
.endm

#endif /* CONFIG_RISCV_LAZY_MAP */
