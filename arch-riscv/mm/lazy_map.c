// SPDX-License-Identifier: GPL-2.0-only
/*
 * New kernel mappings: tell every hart, interrupt none.
 *
 * The consumer's half is the macro lazy_map_check in kernel/lazy_map.S;
 * Documentation/arch/riscv/lazy-map.rst has the whole story.
 */

#include <linux/bitops.h>
#include <linux/cache.h>
#include <linux/cacheflush.h>
#include <linux/cpumask.h>
#include <linux/kprobes.h>
#include <linux/smp.h>
#include <asm/barrier.h>
#include <asm/lazy_map.h>
#include <asm/tlbflush.h>

/*
 * One bit per possible CPU. Set: the hart has fenced since the last mapping
 * was announced, so a page fault on a kernel address is a genuine one. Clear,
 * which is how every hart starts: it may hold a stale translation and has to
 * fence before it may believe a page fault.
 *
 * Only the hart itself sets its bit, with an AMO, because the word is shared.
 * All harts read it, so nothing else is in its cache lines.
 */
struct cpumask lazy_map_synced __cacheline_aligned_in_smp;

/**
 * flush_cache_vmap() - announce new mappings of kernel addresses
 * @start: first address that is mapped now, in bytes
 * @end: end of the new mappings, exclusive
 *
 * The PTEs have been stored before the call. All kernel addresses are treated
 * alike, whatever they are used for, so the range does not matter. Whoever
 * passes an address on to another hart afterwards does so with release
 * semantics.
 *
 * Context: Any, including interrupts disabled and NMI. Takes no lock, sends no
 * IPI, executes no sfence.vma; stores nothing if no hart has fenced since the
 * last call. Cannot be probed or traced: a tracer that touches the mapping here
 * finds no mark yet, and its fault is fatal.
 */
notrace void flush_cache_vmap(unsigned long start, unsigned long end)
{
	unsigned long *words = cpumask_bits(&lazy_map_synced);
	unsigned int i;

	/*
	 * Orders the stores to the PTEs before the marks, and before the loads
	 * that find a mark already there: an earlier mark is only as good as a
	 * new one if the hart that is about to clear it sees these PTEs.
	 *
	 * Pairs with the amoor.d.aq and the sfence.vma in lazy_map_check, and
	 * with test_and_set_bit_lock() and the fence in
	 * local_sync_new_mappings().
	 */
	smp_mb();

	for (i = 0; i < BITS_TO_LONGS(nr_cpu_ids); i++) {
		if (READ_ONCE(words[i]))
			WRITE_ONCE(words[i], 0);
	}
}
NOKPROBE_SYMBOL(flush_cache_vmap);

/**
 * local_sync_new_mappings() - make this hart see all kernel mappings so far
 *
 * Does at once what the hart does at its next page fault on a kernel address
 * otherwise, for code that must not take one: executes a fence if a mapping was
 * made since the last one. That the mappings in question have been announced
 * must be known to the hart, through a lock or another acquire: then the plain
 * load of the bit sees that announcement, or a later fence of this hart.
 *
 * Context: Interrupts disabled. Cannot be probed or traced. A fault that a handler
 * or a tracer takes between the AMO and the fence would be fatal.
 */
notrace void local_sync_new_mappings(void)
{
	unsigned long *words = cpumask_bits(&lazy_map_synced);
	unsigned int cpu = smp_processor_id();

	if (test_bit(cpu, words))
		return;

	/*
	 * Acquire, and then a fence, in this order, for the reasons given at
	 * lazy_map_check. Pairs with the smp_mb() in flush_cache_vmap().
	 */
	if (!test_and_set_bit_lock(cpu, words))
		local_flush_tlb_all();
}
NOKPROBE_SYMBOL(local_sync_new_mappings);
