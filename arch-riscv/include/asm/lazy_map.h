/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _ASM_RISCV_LAZY_MAP_H
#define _ASM_RISCV_LAZY_MAP_H

#include <linux/cpumask_types.h>

/* Accessed in assembly code. cpumask_var_t would be too complex. */
extern struct cpumask lazy_map_synced;

#endif /* _ASM_RISCV_LAZY_MAP_H */
