/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _ASM_RISCV_LAZY_MAP_H
#define _ASM_RISCV_LAZY_MAP_H

#include <linux/bitops.h>
#include <linux/cache.h>
#include <linux/compiler.h>
#include <linux/cpumask.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/cacheflush.h>

#ifdef CONFIG_RISCV_LAZY_MAP

/* Padded, so that nothing else is in a cache line that all harts read */
struct lazy_map_bits {
	struct cpumask cpus;
} ____cacheline_aligned_in_smp;

/**
 * lazy_map_init_idle() - tell the first task of a hart where the hart's bit is
 * @idle: the task
 * @cpu: number of the CPU that it is going to run on
 *
 * Context: Before the hart is started.
 */
static inline void lazy_map_init_idle(struct task_struct *idle, unsigned int cpu)
{
	idle->thread_info.lazy_map_word = cpumask_bits(&lazy_map_synced.cpus) +
					   BIT_WORD(cpu);
}

/**
 * lazy_map_new_hart() - prepare a task for a hart that it did not run on last
 * @prev: the current task
 * @next: the task that this hart is about to switch to
 *
 * Tells the task where the hart's bit is, and makes the hart see the task's stack.
 *
 * The stack was announced before the task could be put on a runqueue. This hart
 * has taken the runqueue's lock since, so the plain load of the bit sees that
 * announcement, or a later fence of this hart.
 *
 * Context: Interrupts disabled, right before the switch, with the lock of the
 * runqueue held.
 */
static __always_inline void lazy_map_new_hart(struct task_struct *prev,
					      struct task_struct *next)
{
	unsigned long *word = prev->thread_info.lazy_map_word;
	unsigned int cpu = smp_processor_id();

	next->thread_info.lazy_map_word = word;
	if (!test_bit(cpu % BITS_PER_LONG, word))
		local_sync_new_mappings();
}

#else

static inline void lazy_map_init_idle(struct task_struct *idle, unsigned int cpu) {}
static __always_inline void lazy_map_new_hart(struct task_struct *prev,
					      struct task_struct *next) {}

#endif /* CONFIG_RISCV_LAZY_MAP */

#endif /* _ASM_RISCV_LAZY_MAP_H */
