// SPDX-License-Identifier: GPL-2.0
/*
 * Touches new kernel mappings from IPIs and tracepoints and while they are made,
 * traps on new stacks, and makes bad accesses, on any kernel for riscv64 from 6.6 on.
 *
 * The other test modules use abstractions of the kernel crate that only a kernel
 * with CONFIG_RUST_KSELFTEST_SUPPORT has. This one is for all kernels without: those
 * before the abstractions, those that gcc has built, and each one that a bisection
 * comes across. It is in C because Rust's bindings differ from one kernel to the
 * next, and many kernels have none. It uses nothing but symbols that 6.6 exports.
 *
 * A test has to know an address before anything is mapped there: then each hart can
 * try it in vain, and remembers that it is not mapped if it is able to, whatever
 * part of the page table it keeps. vm_map_ram() makes that possible: on one CPU, it
 * hands out the pages of a block one after the other. An address that is not what
 * was expected does not count.
 *
 * Accesses are listed in the exception table, so a kernel that reports a fault on
 * a valid mapping fails a case and survives. A kernel that cannot handle the fault
 * at all overflows a stack in touched_from_tracepoint, or oopses or loses a hart in
 * trapped_on_new_stack: that a case has started is the last that it says then.
 *
 * Loading the module runs the tests. Their results are in the kernel's log.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/stringify.h>
#include <linux/thread_info.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>

#include <asm/asm-extable.h>
#include <asm/csr.h>
#include <asm/ptrace.h>

/* Value of the first word of a page; the rest is 0 */
#define MAGIC 0x6c617a796d6170ULL

/* Pages of a mapping that is only read */
#define READ_PAGES 4
/* Pages of a mapping that has room for a stack, wherever it begins */
#define STACK_PAGES (4 * THREAD_SIZE / PAGE_SIZE)

/*
 * How often to map until enough mappings are where they are expected: the first one
 * of a block is not, and a CPU may go offline in between.
 */
#define ATTEMPTS(rounds) (4 * (rounds) + 16)

/*
 * How often to wait a millisecond or two: after each turn of the CPUs, and for those
 * that are offline
 */
#define PAUSES(rounds) (2 * (rounds) + 4000)

/* As many mappings in a row that call all CPUs, and the next one is expected to do so, too */
#define ENOUGH 4

static unsigned int rounds = 64;
static unsigned int patience = 20;
static char *only;

static int set_in_range(const char *value, const struct kernel_param *param,
			unsigned int least, unsigned int most)
{
	return param_set_uint_minmax(value, param, least, most) ? -EINVAL : 0;
}

static int set_rounds(const char *value, const struct kernel_param *param)
{
	return set_in_range(value, param, 1, 10000);
}

static int set_patience(const char *value, const struct kernel_param *param)
{
	return set_in_range(value, param, 1, 3600);
}

static int set_only(const char *value, const struct kernel_param *param);

static const struct kernel_param_ops rounds_ops = { .set = set_rounds, .get = param_get_uint };
static const struct kernel_param_ops patience_ops = { .set = set_patience, .get = param_get_uint };
static const struct kernel_param_ops only_ops = { .set = set_only };

module_param_cb(rounds, &rounds_ops, &rounds, 0444);
__MODULE_PARM_TYPE(rounds, "uint");
MODULE_PARM_DESC(rounds, "New mappings, and bad accesses on each CPU, in each case (1 to 10000, default 64)");
module_param_cb(patience, &patience_ops, &patience, 0444);
__MODULE_PARM_TYPE(patience, "uint");
MODULE_PARM_DESC(patience, "Seconds without progress after which a case hangs (1 to 3600, default 20)");
module_param_cb(case, &only_ops, NULL, 0);
__MODULE_PARM_TYPE(case, "charp");
/* No pattern: glob_match() is not in each kernel */
MODULE_PARM_DESC(case, "Name of the only case to run (default all)");

/* What a case did, and what went wrong */
static atomic_t progress, touches, spurious, raced, missed, wrong;
static atomic_t failures;
/* Of all cases: spurious faults, and mappings during which every CPU was called */
static unsigned int all_spurious, all_called;
/* To be interrupted: an insmod that was killed */
static bool stop;
/* A thread hangs: this module can never be unloaded */
static bool stuck;
/* Why the case cannot run here */
static const char *reason;

/* A failed case goes on, but only the first few reasons are printed */
#define fail(fmt, ...) do {					\
	if (atomic_inc_return(&failures) <= 8)			\
		pr_info("# " fmt "\n", ##__VA_ARGS__);		\
} while (0)

/* What a case returns that cannot run here */
static int skip(const char *why)
{
	reason = why;
	return -EOPNOTSUPP;
}

/**
 * load() - read a word where a fault may be reported
 * @address: a multiple of 8
 * @value: the word, if it could be read
 * @trapped: whether the load took a trap, reported or not
 *
 * A trap that returns sets sstatus.SPIE, whatever the kernel did about it, so that
 * a clear bit before the load tells whether there was one. For that no other
 * trap may come in between: interrupts are disabled.
 *
 * Return: whether the word was read, rather than reported.
 */
static noinline notrace bool load(unsigned long address, u64 *value, bool *trapped)
{
	unsigned long flags, status, read = 0;
	u64 word = 0;

	local_irq_save(flags);
	asm volatile("	csrc	" __stringify(CSR_STATUS) ", %[spie]\n"
		     "1:	ld	%[word], 0(%[address])\n"
		     "	li	%[read], 1\n"
		     "2:	csrr	%[status], " __stringify(CSR_STATUS) "\n"
		     _ASM_EXTABLE(1b, 2b)
		     : [word] "+&r" (word), [read] "+&r" (read), [status] "=&r" (status)
		     : [address] "r" (address), [spie] "r" (SR_SPIE)
		     : "memory");
	local_irq_restore(flags);

	*value = word;
	*trapped = status & SR_SPIE;
	return read;
}

/* Reads the first word of each of some pages that are mapped */
static notrace void touch(unsigned long address, unsigned int pages)
{
	unsigned int page;
	bool trapped;
	u64 value;

	for (page = 0; page < pages; page++, address += PAGE_SIZE) {
		if (!load(address, &value, &trapped)) {
			atomic_inc(&missed);
			continue;
		}
		atomic_inc(&touches);
		if (trapped)
			atomic_inc(&spurious);
		if (value != MAGIC + page)
			atomic_inc(&wrong);
	}
}

static_assert(STACK_PAGES >= READ_PAGES);

/* Mappings of one CPU, all of the same pages, at addresses in a row */
struct row {
	unsigned int count;
	struct page *pages[STACK_PAGES];
	void **mapped;
	unsigned int used;
	/* Where the next one is expected, or 0 */
	unsigned long next;
};

static void row_free(struct row *row)
{
	unsigned int i;

	for (i = 0; i < row->used; i++)
		vm_unmap_ram(row->mapped[i], row->count);
	kvfree(row->mapped);
	for (i = 0; i < row->count && row->pages[i]; i++)
		__free_page(row->pages[i]);
	kfree(row);
}

/* @count: pages of each mapping, a power of 2; @most: mappings */
static struct row *row_new(unsigned int count, unsigned int most)
{
	struct row *row = kzalloc(sizeof(*row), GFP_KERNEL);
	unsigned int i;

	if (!row)
		return NULL;
	row->count = count;
	row->mapped = kvcalloc(most, sizeof(*row->mapped), GFP_KERNEL);
	if (!row->mapped)
		goto free;
	for (i = 0; i < count; i++) {
		row->pages[i] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!row->pages[i])
			goto free;
		*(u64 *)page_address(row->pages[i]) = MAGIC + i;
	}
	return row;
free:
	row_free(row);
	return NULL;
}

/**
 * row_map() - make the next mapping
 * @row: where
 *
 * Context: Task that stays on one CPU. May sleep.
 *
 * Return: its address, 0 if there is no memory.
 */
static unsigned long row_map(struct row *row)
{
	void *new = vm_map_ram(row->pages, row->count, NUMA_NO_NODE);

	if (!new)
		return 0;
	row->mapped[row->used++] = new;
	row->next = (unsigned long)new + row->count * PAGE_SIZE;
	return (unsigned long)new;
}

static void report_primed(unsigned int primed, unsigned int mapped)
{
	pr_info("# mappings tried in vain before: %u of %u\n", primed, mapped);
	if (primed < rounds)
		fail("%u mappings were where they were expected, not %u", primed, rounds);
}

/* Whether something is mapped there: somebody else's memory or device, for example */
static bool is_mapped(unsigned long address)
{
	return !is_vmalloc_addr((void *)address) || vmalloc_to_page((void *)address);
}

/*
 * Tries all pages in vain where the next mapping of a row is expected; @info points to
 * the row. Behind the last one of a block they belong to somebody else, or to nobody.
 * For on_each_cpu().
 */
static void prime(void *info)
{
	struct row *row = info;
	unsigned int page;
	bool trapped;
	u64 value;

	for (page = 0; page < row->count; page++) {
		unsigned long address = row->next + page * PAGE_SIZE;

		if (!is_mapped(address))
			load(address, &value, &trapped);
	}
}

/* Moves the current kernel thread to a CPU */
static int move_to(unsigned int cpu)
{
	return set_cpus_allowed_ptr(current, cpumask_of(cpu));
}

static void report(void)
{
	pr_info("# touches: %d\n", atomic_read(&touches));
	pr_info("# spurious faults: %d\n", atomic_read(&spurious));
	if (atomic_read(&raced))
		pr_info("# faults at the time of the store: %d\n", atomic_read(&raced));
	if (atomic_read(&missed))
		fail("%d accesses to valid mappings were reported as bad", atomic_read(&missed));
	if (atomic_read(&wrong))
		fail("%d words are not what was written", atomic_read(&wrong));
	if (!atomic_read(&touches))
		fail("nothing was touched");
}

/*
 * In handlers of IPIs
 */

static void touch_last(void *info)
{
	struct row *row = info;

	touch((unsigned long)row->mapped[row->used - 1], row->count);
}

static int touched_from_ipi(unsigned int here)
{
	struct row *row = row_new(READ_PAGES, ATTEMPTS(rounds));
	unsigned int primed = 0;

	if (!row)
		return -ENOMEM;
	while (primed < rounds && row->used < ATTEMPTS(rounds) && !READ_ONCE(stop)) {
		unsigned long expected = row->next, address;

		if (expected)
			on_each_cpu(prime, row, 1);
		address = row_map(row);
		if (!address) {
			fail("no memory for a mapping");
			break;
		}
		primed += address == expected;
		on_each_cpu(touch_last, row, 1);
		atomic_inc(&progress);
	}
	report_primed(primed, row->used);
	report();
	row_free(row);
	return 0;
}

/*
 * Polled while it is mapped
 */

/* Where the pollers read, or 0; the same once they are told that it is mapped */
static unsigned long polled, announced;
/* Pollers that have tried @polled in vain, and those that are done with it */
static atomic_t tries, answers;

static int poll(void *unused)
{
	unsigned long address, current_one = 0, last = 0;
	bool tried = false, absorbed = false;
	bool read, trapped, told;
	u64 value;

	while (!kthread_should_stop()) {
		address = smp_load_acquire(&polled);	/* pairs with poll_round() */
		if (!address || address == last || READ_ONCE(stuck)) {
			usleep_range(20, 40);
			continue;
		}
		if (address != current_one) {
			current_one = address;
			tried = false;
			absorbed = false;
		}
		told = smp_load_acquire(&announced) == address;	/* pairs with poll_round() */
		read = load(address, &value, &trapped);
		if (!told) {
			absorbed |= read && trapped;
			if (!read && !tried)
				atomic_inc(&tries);
			tried |= !read;
			cond_resched();
			continue;
		}
		if (read) {
			atomic_inc(&touches);
			/* Whether a fault came before the store or after it cannot be told */
			if (trapped)
				atomic_inc(&spurious);
			else if (absorbed)
				atomic_inc(&raced);
			if (value != MAGIC)
				atomic_inc(&wrong);
		} else {
			atomic_inc(&missed);
		}
		last = address;
		atomic_inc(&answers);
	}
	return 0;
}

/*
 * If a hart sees the mark before the PTE, and fences in between, it may remember the
 * PTE as invalid, and its mark is gone. Each failed try of a marked hart makes it
 * fence.
 *
 * Return: 1 if each poller tried in vain before, 0 if not, or an error.
 */
static int poll_round(struct row *row, int pollers)
{
	unsigned long expected = row->next, address;

	/* Behind the last one of a block is somebody else's memory, or nothing */
	if (expected && is_mapped(expected))
		expected = 0;
	if (expected) {
		atomic_set(&tries, 0);
		atomic_set(&answers, 0);
		smp_store_release(&polled, expected);	/* pairs with poll() */
		while (atomic_read(&tries) < pollers && !is_mapped(expected) && !READ_ONCE(stop))
			usleep_range(20, 40);
	}
	address = row_map(row);
	if (!address)
		return -ENOMEM;
	if (address != expected || atomic_read(&tries) < pollers) {
		WRITE_ONCE(polled, 0);
		return 0;
	}
	smp_store_release(&announced, address);	/* pairs with poll() */
	while (atomic_read(&answers) < pollers && !READ_ONCE(stop))
		usleep_range(20, 40);
	return 1;
}

static int polled_while_mapped(unsigned int here)
{
	struct task_struct **threads = kcalloc(nr_cpu_ids, sizeof(*threads), GFP_KERNEL);
	struct row *row = row_new(READ_PAGES, ATTEMPTS(rounds));
	unsigned int cpu, primed = 0;
	int pollers = 0, result = 0;

	if (!threads || !row) {
		result = -ENOMEM;
		goto free;
	}
	polled = 0;
	announced = 0;
	for_each_online_cpu(cpu) {
		struct task_struct *thread;

		if (cpu == here)
			continue;
		thread = kthread_create(poll, NULL, "lazy_map_poll/%u", cpu);
		if (IS_ERR(thread)) {
			result = PTR_ERR(thread);
			break;
		}
		kthread_bind(thread, cpu);
		threads[pollers++] = thread;
		wake_up_process(thread);
	}
	if (!pollers && !result)
		result = skip("it takes two CPUs");
	while (!result && primed < rounds && row->used < ATTEMPTS(rounds) && !READ_ONCE(stop)) {
		int done = poll_round(row, pollers);

		if (done < 0)
			result = done;
		else
			primed += done;
		atomic_inc(&progress);
	}
	while (pollers)
		kthread_stop(threads[--pollers]);
	if (!result) {
		report_primed(primed, row->used);
		report();
	}
free:
	if (row)
		row_free(row);
	kfree(threads);
	return result;
}

/*
 * In probes of tracepoints
 */

#ifdef CONFIG_TRACEPOINTS
struct search {
	const char *name;
	struct tracepoint *found;
};

static void compare(struct tracepoint *tracepoint, void *data)
{
	struct search *search = data;

	if (!strcmp(tracepoint->name, search->name))
		search->found = tracepoint;
}

static struct tracepoint *find_tracepoint(const char *name)
{
	struct search search = { .name = name };

	for_each_kernel_tracepoint(compare, &search);
	return search.found;
}

/* What the probes touch: 0, or an address */
static unsigned long target;
/* Calls by another CPU, or by the same, since the start */
static atomic_t calls;

/*
 * The probes play a tracer with a buffer that is so new that not each hart sees it
 * yet. Both may run while row_map() has not returned, so they look for the PTE.
 */
static notrace void touch_target(void)
{
	unsigned long address = smp_load_acquire(&target);	/* pairs with aim() */

	if (address && vmalloc_to_page((void *)address))
		touch(address, 1);
}

static void probe_call(void *data, smp_call_func_t function, call_single_data_t *csd)
{
	atomic_inc(&calls);
	touch_target();
}

static void probe_fault(void *data, unsigned long address, struct pt_regs *regs,
			unsigned long cause)
{
	touch_target();
}

/* Lets the probes touch what was written to before, or nothing if 0 */
static void aim(unsigned long address)
{
	smp_store_release(&target, address);	/* pairs with touch_target() */
}

#ifdef CONFIG_DYNAMIC_FTRACE
/* Where the page fault has no tracepoint, its handler can be traced */
static void notrace trace_fault(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
				struct ftrace_regs *regs)
{
	touch_target();
}

static struct ftrace_ops trace_ops = { .func = trace_fault };
static const char traced[] = "handle_page_fault";

static bool trace_fault_handler(void)
{
	if (ftrace_set_filter(&trace_ops, (unsigned char *)traced, strlen(traced), 1))
		return false;
	if (!register_ftrace_function(&trace_ops))
		return true;
	ftrace_free_filter(&trace_ops);
	return false;
}

static void untrace_fault_handler(void)
{
	unregister_ftrace_function(&trace_ops);
	ftrace_free_filter(&trace_ops);
}
#else
static bool trace_fault_handler(void) { return false; }
static void untrace_fault_handler(void) {}
#endif

static void no_function(void *info)
{
}

static void all_rounds_traced(struct row *row)
{
	unsigned int told = 0, primed = 0, early = 0;
	int others = num_online_cpus() - 1;

	while (primed < rounds && row->used < ATTEMPTS(rounds) && !READ_ONCE(stop)) {
		unsigned long expected = row->next, address;
		int before;

		aim(0);
		if (expected)
			on_each_cpu(prime, row, 1);
		/*
		 * Between the store to a PTE and its announcement no kernel promises
		 * anything, unless it is just calling each CPU because of it.
		 */
		if (told >= ENOUGH) {
			aim(expected);
			early++;
		}
		before = atomic_read(&calls);
		address = row_map(row);
		if (!address) {
			fail("no memory for a mapping");
			break;
		}
		told = atomic_read(&calls) - before >= others ? told + 1 : 0;
		primed += address == expected;
		aim(address);
		/* A CPU that was not called because of the mapping touches it now */
		before = atomic_read(&touches) + atomic_read(&missed);
		smp_call_function(no_function, NULL, 1);
		if (atomic_read(&touches) + atomic_read(&missed) == before)
			fail("no probe touched mapping %u", row->used);
		atomic_inc(&progress);
	}
	aim(0);
	report_primed(primed, row->used);
	pr_info("# mappings during which every CPU was called: %u\n", early);
	all_called += early;
}

static int touched_from_tracepoint(unsigned int here)
{
	struct tracepoint *call = find_tracepoint("csd_function_entry");
	struct tracepoint *fault = find_tracepoint("page_fault_kernel");
	bool traced_instead = false;
	struct row *row;
	int error;

	if (!call || num_online_cpus() < 2)
		return skip("it takes two CPUs and the tracepoint csd_function_entry");
	row = row_new(READ_PAGES, ATTEMPTS(rounds));
	if (!row)
		return -ENOMEM;
	atomic_set(&calls, 0);
	error = tracepoint_probe_register(call, probe_call, NULL);
	if (error)
		goto free;
	if (fault)
		error = tracepoint_probe_register(fault, probe_fault, NULL);
	else
		traced_instead = trace_fault_handler();
	if (error)
		goto unregister;
	pr_info("# page faults are seen by: %s\n", fault ? "tracepoint page_fault_kernel" :
		traced_instead ? "function tracer in handle_page_fault()" : "nobody");
	all_rounds_traced(row);
	if (fault)
		tracepoint_probe_unregister(fault, probe_fault, NULL);
	else if (traced_instead)
		untrace_fault_handler();
unregister:
	tracepoint_probe_unregister(call, probe_call, NULL);
	tracepoint_synchronize_unregister();
	if (!error)
		report();
free:
	row_free(row);
	return error;
}
#else
static int touched_from_tracepoint(unsigned int here)
{
	return skip("a kernel without CONFIG_TRACEPOINTS");
}
#endif

/*
 * On a new stack
 */

/**
 * trap_on() - trap on another stack, and come back
 * @stack: what the stack pointer is for that long
 *
 * The load from user address 0 faults, and the exception table makes execution
 * continue behind it.
 *
 * Context: Interrupts disabled, so that the task stays on its CPU and nothing else
 * uses the stack. The trap and its handler may use half a THREAD_SIZE of it.
 */
static noinline void trap_on(unsigned long stack)
{
	unsigned long old;

	asm volatile("	mv	%[old], sp\n"
		     "	mv	sp, %[stack]\n"
		     "1:	lb	zero, 0(zero)\n"
		     "2:	mv	sp, %[old]\n"
		     _ASM_EXTABLE(1b, 2b)
		     : [old] "=&r" (old)
		     : [stack] "r" (stack)
		     : "memory");
}

/**
 * new_stack() - map a stack on one CPU and trap on it on another one
 * @row: of stacks, made on @there
 * @here: where to trap
 * @there: where to map
 *
 * Return: 1 if a trap was taken where @here had tried the stack in vain before, 0 if
 * the stack was not where it was expected, or an error.
 */
static int new_stack(struct row *row, unsigned int here, unsigned int there)
{
	unsigned long expected = row->next, address, flags, stack;
	void *saved;
	int error;

	if (expected) {
		error = move_to(here);
		if (error)
			return error;
		prime(row);
	}
	error = move_to(there);
	if (error)
		return error;
	address = row_map(row);
	if (!address)
		return -ENOMEM;
	if (address != expected)
		return 0;
	/* The entry takes an odd multiple of THREAD_SIZE for an overflow */
	stack = ALIGN(address, 2 * THREAD_SIZE) + THREAD_SIZE;
	/* The uppermost page of the stack, where it is mapped as well */
	saved = page_address(row->pages[(stack - address) / PAGE_SIZE - 1]);
	memset(saved, 0, PAGE_SIZE);
	error = move_to(here);
	if (error)
		return error;

	local_irq_save(flags);
	if (smp_processor_id() != here) {
		local_irq_restore(flags);
		return 0;
	}
	trap_on(stack);
	local_irq_restore(flags);

	/* Or nothing was tested */
	return memchr_inv(saved, 0, PAGE_SIZE) ? 1 : -EIO;
}

static int trapped_on_new_stack(unsigned int waiter)
{
	unsigned int cpu = waiter, traps = 0, pauses = 0;
	struct row *row;
	int result = 0;

	if (num_online_cpus() < 2)
		return skip("a thread has to move, and there is one CPU");
	row = row_new(STACK_PAGES, ATTEMPTS(rounds));
	if (!row)
		return -ENOMEM;
	while (traps < rounds && row->used < ATTEMPTS(rounds) && pauses < PAUSES(rounds) &&
	       !READ_ONCE(stop)) {
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
		/*
		 * Whoever waits for this case must not lose its own CPU. The
		 * others may be offline, and come back.
		 */
		if (cpu == waiter) {
			pauses++;
			usleep_range(1000, 2000);
			continue;
		}
		result = new_stack(row, cpu, waiter);
		if (result == -EIO)
			fail("the trap saved no registers on the new stack");
		if (result == -ENOMEM)
			fail("no memory for a mapping");
		if (result == -EIO || result == -ENOMEM)
			break;
		/* Less: the CPU has gone offline */
		if (result > 0) {
			traps++;
		} else if (result < 0) {
			pauses++;
			usleep_range(1000, 2000);
		}
		atomic_inc(&progress);
	}
	atomic_set(&touches, traps);
	pr_info("# touches: %u\n", traps);
	if (traps < rounds)
		fail("%u traps on new stacks, not %u", traps, rounds);
	row_free(row);
	return 0;
}

/*
 * Where nothing is mapped
 */

/* What a CPU finds at an address that is not mapped */
static int bad_accesses(unsigned int cpu)
{
	unsigned int round;
	void *page;
	bool trapped;
	u64 value;

	page = vmalloc(PAGE_SIZE);
	if (!page)
		return -ENOMEM;
	for (round = 0; round < rounds && !READ_ONCE(stop); round++) {
		/* A fault that a new mapping might explain, and one that none explains */
		if (round % 2 == 0)
			vfree(vmalloc(PAGE_SIZE));
		/* The guard page */
		if (load((unsigned long)page + PAGE_SIZE, &value, &trapped))
			fail("CPU %u read an address that is not mapped", cpu);
		else if (!trapped)
			fail("CPU %u did not trap at an address that is not mapped", cpu);
		else
			atomic_inc(&touches);
		atomic_inc(&progress);
	}
	vfree(page);
	return 0;
}

/*
 * Runs all that
 */

struct job {
	int (*function)(unsigned int cpu);
	unsigned int cpu;
	/* Argument of the function */
	unsigned int argument;
	int result;
	bool done;
};

static int job_thread(void *data)
{
	struct job *job = data;

	job->result = move_to(job->cpu) ? -ENODEV : job->function(job->argument);
	smp_store_release(&job->done, true);	/* pairs with run_on() */
	/* Until nobody looks at this thread any more */
	while (!kthread_should_stop())
		usleep_range(1000, 2000);
	return 0;
}

/* Not freed while a thread that hangs may still write to it */
static struct job job;

/**
 * run_on() - run a function in a thread and see whether it gets on
 * @cpu: where the thread starts
 * @function: what it does; increments progress at least every patience seconds
 * @argument: of the function
 *
 * Time is that of the clock and not jiffies, which stand still if they are kept by
 * a CPU that hangs.
 *
 * Return: what the function returns; -ENODEV if the CPU is offline; -ETIMEDOUT if
 * the function hangs, and this module can never be unloaded.
 */
static int run_on(unsigned int cpu, int (*function)(unsigned int cpu), unsigned int argument)
{
	struct task_struct *thread;
	ktime_t since = ktime_get();
	int last = -1;

	job = (struct job){ .function = function, .cpu = cpu, .argument = argument };
	thread = kthread_run(job_thread, &job, "lazy_map_basic");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	while (!smp_load_acquire(&job.done)) {	/* pairs with job_thread() */
		usleep_range(10000, 20000);
		if (signal_pending(current))
			WRITE_ONCE(stop, true);
		if (atomic_read(&progress) != last) {
			last = atomic_read(&progress);
			since = ktime_get();
		} else if (ktime_ms_delta(ktime_get(), since) > patience * 1000LL) {
			WRITE_ONCE(stuck, true);
			__module_get(THIS_MODULE);
			return -ETIMEDOUT;
		}
	}
	kthread_stop(thread);
	return job.result;
}

static int bad_access_reported(unsigned int waiter)
{
	unsigned int cpu;
	int error;

	for_each_online_cpu(cpu) {
		/* If there is no other, a kernel that retries for ever hangs here */
		if (cpu == waiter && num_online_cpus() > 1)
			continue;
		error = run_on(cpu, bad_accesses, cpu);
		if (error == -ETIMEDOUT)
			fail("CPU %u: a bad access is still retried after %u s", cpu, patience);
		if (error && error != -ENODEV)
			return error;
	}
	pr_info("# reported: %d\n", atomic_read(&touches));
	if (!atomic_read(&touches))
		fail("no bad access was made");
	return 0;
}

/* As run_on(), on a CPU that may be offline, and come back */
static int run_on_waiter(unsigned int waiter, int (*function)(unsigned int cpu))
{
	unsigned int pauses = 0;
	int error;

	while ((error = run_on(waiter, function, waiter)) == -ENODEV &&
	       pauses++ < PAUSES(rounds) && !READ_ONCE(stop))
		usleep_range(1000, 2000);
	return error;
}

static int run_touched_from_ipi(unsigned int waiter)
{
	return run_on_waiter(waiter, touched_from_ipi);
}

static int run_polled_while_mapped(unsigned int waiter)
{
	return run_on_waiter(waiter, polled_while_mapped);
}

static int run_touched_from_tracepoint(unsigned int waiter)
{
	return run_on_waiter(waiter, touched_from_tracepoint);
}

static int run_trapped_on_new_stack(unsigned int waiter)
{
	int error = run_on_waiter(waiter, trapped_on_new_stack);

	if (error == -ETIMEDOUT)
		fail("the exception entry does not get over a fault on the stack");
	return error;
}

static const struct {
	const char *name;
	/* Is told which CPU it must not lose */
	int (*run)(unsigned int waiter);
} cases[] = {
	{ "touched_from_ipi", run_touched_from_ipi },
	{ "polled_while_mapped", run_polled_while_mapped },
	{ "touched_from_tracepoint", run_touched_from_tracepoint },
	{ "bad_access_reported", bad_access_reported },
	/* Last, because a hart may be lost */
	{ "trapped_on_new_stack", run_trapped_on_new_stack },
};

static int set_only(const char *value, const struct kernel_param *param)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (sysfs_streq(value, cases[i].name)) {
			only = (char *)cases[i].name;
			return 0;
		}
	}
	return -EINVAL;
}

static int run_cases(unsigned int waiter)
{
	unsigned int passed = 0, failed = 0, skipped = 0, number = 0, i;

	pr_info("KTAP version 1\n");
	pr_info("1..%zu\n", only ? 1 : ARRAY_SIZE(cases));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *name = cases[i].name;
		ktime_t start = ktime_get();
		int error;

		if (only && strcmp(only, name))
			continue;
		number++;
		if (stuck) {
			pr_info("# %s: skipped: a CPU or a thread hangs\n", name);
			pr_info("ok %u %s # SKIP\n", number, name);
			skipped++;
			continue;
		}
		atomic_set(&progress, 0);
		atomic_set(&touches, 0);
		atomic_set(&spurious, 0);
		atomic_set(&raced, 0);
		atomic_set(&missed, 0);
		atomic_set(&wrong, 0);
		atomic_set(&failures, 0);
		reason = NULL;
		/* If this is the last line, the case has killed the machine */
		pr_info("# %s: started\n", name);
		error = cases[i].run(waiter);
		if (READ_ONCE(stop))
			fail("interrupted");
		if (error == -ETIMEDOUT)
			fail("no progress for %u s", patience);
		else if (error && error != -EOPNOTSUPP)
			fail("error %d", error);
		all_spurious += atomic_read(&spurious);
		pr_info("# %s: %lld ms\n", name, ktime_ms_delta(ktime_get(), start));
		if (atomic_read(&failures)) {
			pr_info("not ok %u %s\n", number, name);
			failed++;
		} else if (error) {
			pr_info("# %s: skipped: %s\n", name, reason ?: "not supported");
			pr_info("ok %u %s # SKIP\n", number, name);
			skipped++;
		} else {
			pr_info("ok %u %s\n", number, name);
			passed++;
		}
	}
	/* A kernel that flushes every hart meets none either */
	if (!all_spurious && !all_called)
		pr_info("# 0 spurious faults met: this machine cannot tell\n");
	pr_info("# Totals: pass:%u fail:%u xfail:0 xpass:0 skip:%u error:0\n", passed, failed,
		skipped);
	if (passed + failed == 0)
		return -EOPNOTSUPP;
	return failed ? -EIO : 0;
}

static int __init lazy_map_basic_init(void)
{
	unsigned int waiter;
	cpumask_var_t before;
	int result;

	if (!alloc_cpumask_var(&before, GFP_KERNEL))
		return -ENOMEM;
	/* Its timers must not be on a CPU that a case may lose */
	waiter = raw_smp_processor_id();
	cpumask_copy(before, &current->cpus_mask);
	result = set_cpus_allowed_ptr(current, cpumask_of(waiter));
	if (!result) {
		result = run_cases(waiter);
		set_cpus_allowed_ptr(current, before);
	}
	free_cpumask_var(before);
	/* A thread that hangs needs the text of this module */
	return stuck ? 0 : result;
}

static void __exit lazy_map_basic_exit(void)
{
}

module_init(lazy_map_basic_init);
module_exit(lazy_map_basic_exit);
MODULE_INFO(test, "Y");
MODULE_AUTHOR("lazymap");
MODULE_DESCRIPTION("Touch new kernel mappings, without help from the kernel");
MODULE_LICENSE("GPL");
