/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _ASM_RISCV_LAZY_MAP_H
#define _ASM_RISCV_LAZY_MAP_H

#include <linux/bits.h>
#include <linux/cpumask.h>
#include <linux/sched.h>

/**
 * lazy_map_init_idle() - tell the first task of a hart where the hart's bit is
 * @idle: the task
 * @cpu: number of the CPU that it is going to run on
 *
 * Every other task learns it when it is switched to.
 *
 * Context: Before the hart is started.
 */
static inline void lazy_map_init_idle(struct task_struct *idle, unsigned int cpu)
{
#ifdef CONFIG_RISCV_LAZY_MAP
	idle->thread_info.lazy_map_word = cpumask_bits(&lazy_map_synced) + BIT_WORD(cpu);
#endif
}

#endif /* _ASM_RISCV_LAZY_MAP_H */
