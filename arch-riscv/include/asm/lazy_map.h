/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * New kernel mappings: what has to be visible before it is touched. See
 * Documentation/arch/riscv/lazy-map.rst.
 */
#ifndef _ASM_RISCV_LAZY_MAP_H
#define _ASM_RISCV_LAZY_MAP_H

#include <linux/cpumask.h>
#include <linux/smp.h>

#ifdef CONFIG_RISCV_LAZY_MAP

extern struct cpumask lazy_map_synced;

void lazy_map_sync(void);

/**
 * lazy_map_switch_stack() - make the next task's stack visible to this hart
 *
 * handle_exception() cannot handle a fault on the stack that it is saving
 * registers to, or restoring them from. So a hart must not run on a stack for
 * which it may hold a stale translation.
 *
 * Context: Interrupts disabled, the runqueue's lock held: whoever mapped the
 * stack announced it before the task could be put on a runqueue.
 */
static __always_inline void lazy_map_switch_stack(void)
{
	if (unlikely(!cpumask_test_cpu(smp_processor_id(), &lazy_map_synced)))
		lazy_map_sync();
}

#else

static inline void lazy_map_sync(void) {}
static inline void lazy_map_switch_stack(void) {}

#endif /* CONFIG_RISCV_LAZY_MAP */

#endif /* _ASM_RISCV_LAZY_MAP_H */
