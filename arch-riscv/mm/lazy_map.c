// SPDX-License-Identifier: GPL-2.0-only
/*
 * New kernel mappings: tell every hart, interrupt none.
 *
 * The consumer's half is the macro lazy_map_check in kernel/lazy_map.S;
 * Documentation/arch/riscv/lazy-map.rst has the whole story.
 */

#include <linux/cache.h>
#include <linux/cacheflush.h>
#include <linux/cpumask.h>
#include <asm/barrier.h>
#include <asm/lazy_map.h>

/*
 * One bit per possible CPU. Set: the hart has fenced since the last mapping
 * was announced, so a page fault on a kernel address is a genuine one. Clear,
 * which is how every hart starts: it may hold a stale translation and has to
 * fence before it may believe a page fault.
 *
 * Only the hart itself sets its bit, with an AMO, because the word is shared.
 */
struct cpumask lazy_map_synced ____cacheline_aligned_in_smp;

/**
 * flush_cache_vmap() - announce new mappings of kernel addresses
 * @start: first address that is mapped now, in bytes
 * @end: end of the new mappings, exclusive
 *
 * The PTEs have been stored before the call. All kernel addresses are treated
 * alike, whatever they are used for, so the range does not matter. Who passes
 * an address on to another hart afterwards does so with release semantics.
 *
 * Context: Any, including interrupts disabled and NMI. Takes no lock, sends no
 * IPI, executes no sfence.vma; stores nothing if no hart has fenced since the
 * last call.
 */
void flush_cache_vmap(unsigned long start, unsigned long end)
{
	unsigned long *words = cpumask_bits(&lazy_map_synced);
	unsigned int i;

	/*
	 * Orders the stores to the PTEs before the marks, and before the loads
	 * that find a mark already there: an earlier mark is only as good as a
	 * new one if the hart that is about to clear it sees these PTEs.
	 *
	 * Pairs with the amoor.d.aq and the sfence.vma in lazy_map_check and in
	 * lazy_map_switch.
	 */
	smp_mb();

	for (i = 0; i < BITS_TO_LONGS(nr_cpu_ids); i++) {
		if (READ_ONCE(words[i]))
			WRITE_ONCE(words[i], 0);
	}
}
