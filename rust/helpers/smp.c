// SPDX-License-Identifier: GPL-2.0

#include <linux/cpu.h>
#include <linux/irqflags.h>
#include <linux/preempt.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>

__rust_helper bool rust_helper_in_task(void)
{
	return in_task();
}

__rust_helper bool rust_helper_irqs_disabled(void)
{
	return irqs_disabled();
}

#ifndef CONFIG_SMP
__rust_helper void rust_helper_smp_call_function(smp_call_func_t func, void *info, int wait)
{
	smp_call_function(func, info, wait);
}
#endif

__rust_helper void *rust_helper_try_get_task_stack(struct task_struct *task)
{
	return try_get_task_stack(task);
}

__rust_helper void rust_helper_put_task_stack(struct task_struct *task)
{
	put_task_stack(task);
}

#ifndef CONFIG_HOTPLUG_CPU
__rust_helper void rust_helper_cpu_hotplug_disable(void)
{
	cpu_hotplug_disable();
}

__rust_helper void rust_helper_cpu_hotplug_enable(void)
{
	cpu_hotplug_enable();
}

__rust_helper void rust_helper_cpus_read_lock(void)
{
	cpus_read_lock();
}

__rust_helper void rust_helper_cpus_read_unlock(void)
{
	cpus_read_unlock();
}
#endif
