// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write BPF ring buffers that are made after the program was attached.
 *
 * That is how BPF tracers work: the program stays where it is, and finds the current
 * ring buffer in a map of maps. Each CPU writes a record to it as soon as it is
 * there, from where the kernel can least afford a fault: from the tracepoint of the
 * page fault, interrupts, uprobes, and trampolines in functions and in the scheduler.
 * The ring buffer is mapped by vmap(), a page that nobody has touched for the lock, one
 * for each position, and the data.
 *
 * What the kernel needs to call a program that is attached to a function or to the
 * scheduler is new as well: it is loaded and attached when all CPUs are on their way.
 */

#include "primed.h"

#include <sys/ioctl.h>

#include <linux/btf.h>
#include <linux/perf_event.h>

#define DEFAULT_ROUNDS	4

/* Nanoseconds and cycles between two interrupts */
#define TIMER_PERIOD	1000000
#define COUNTER_PERIOD	1000000

/* A number of bytes to read, by which programs know reads of this test */
#define READ_SIZE	0x1a2b

/* Error of the kernel that no header has for user space */
#define KERNEL_ENOTSUPP	524

/* What a program writes */
struct record {
	uint64_t round;
	uint64_t cpu;
};

/* What precedes it; two bits of its length say that it is not complete, or not valid. */
struct header {
	uint32_t length;
	uint32_t page;
};

struct entry {
	struct header header;
	struct record record;
};

/* Where programs write */
struct context {
	const char *test;
	/* Makes the calling thread's CPU, or the next one, get there; NULL if it does anyway */
	void (*pass)(int number);
	/* For the program */
	unsigned int type, attach_type;
	/* Attaches it, and returns NULL, or what the kernel lacks. */
	const char *(*attach)(const struct context *context);
	/* Ends that, if there is more to do than to close what is open. */
	void (*detach)(void);
	/* It is attached anew for each ring buffer. */
	bool again;
	/* Several CPUs are needed. */
	bool others;
	/* It is there because of a system call with READ_SIZE as third argument. */
	bool reads;
	/* Type in BTF that the program belongs to */
	const char *btf;
	unsigned int btf_kind;
};

static const struct context *current;
/* Map of maps, with the current ring buffer, if there is one */
static int ring_map;
static int program, attachment, dev_null;
/* Of each CPU, by its place in the list */
static int events[MAX_CPUS];

/* Kernel's BTF, NULL without one */
static const struct btf_header *btf;

static const char *const no_perf = "no CONFIG_PERF_EVENTS";

static const char *find_btf(void)
{
	const size_t most = 64UL << 20;
	int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY);
	char *data;
	size_t size = 0;
	ssize_t more;

	if (btf)
		return NULL;
	if (fd < 0)
		return "no CONFIG_DEBUG_INFO_BTF";
	data = mmap(NULL, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	while ((more = read(fd, data + size, most - size)) > 0)
		size += more;
	close(fd);
	if (more < 0 || size < sizeof(*btf))
		return "/sys/kernel/btf/vmlinux cannot be read";
	btf = (void *)data;
	return NULL;
}

static const char *btf_name(unsigned int offset)
{
	return (const char *)btf + btf->hdr_len + btf->str_off + offset;
}

/* Size of what follows a struct btf_type */
static size_t rest_of(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return 12;
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_DATASEC:
	case BTF_KIND_ENUM64:
		return count * 12;
	case BTF_KIND_ENUM:
	case BTF_KIND_FUNC_PROTO:
		return count * 8;
	default:
		return 0;
	}
}

/* The number of a type of the kernel, 0 if there is none of that name */
static unsigned int find_type(const char *name, unsigned int kind, const struct btf_type **found)
{
	const char *at = (const char *)btf + btf->hdr_len + btf->type_off;
	const char *behind = at + btf->type_len;
	unsigned int id;

	for (id = 1; at + sizeof(**found) <= behind; id++) {
		*found = (const void *)at;
		if (BTF_INFO_KIND((*found)->info) == kind &&
		    !strcmp(btf_name((*found)->name_off), name))
			return id;
		at += sizeof(**found) + rest_of(*found);
	}
	return 0;
}

/* The number of a member of a struct, -1 if there is none of that name */
static int find_member(const struct btf_type *type, const char *name,
		       const struct btf_member **member)
{
	int count = BTF_INFO_VLEN(type->info);

	for (int i = 0; i < count; i++) {
		*member = (const struct btf_member *)(type + 1) + i;
		if (!strcmp(btf_name((*member)->name_off), name))
			return i;
	}
	return -1;
}

/* Bytes from the start of the struct */
static size_t offset_of(const struct btf_member *member)
{
	return BTF_MEMBER_BIT_OFFSET(member->offset) / 8;
}

/* Loads the program, which writes a record once in a round. */
static void load_writer(const struct context *context, unsigned int attach_type, unsigned int id)
{
	struct code code = { .count = 0 };
	unsigned int jump;

	if (context->reads) {
		add(&code, BPF_LDX | BPF_MEM | BPF_DW, 2, 1, 16, 0);
		jump = code.count;
		add(&code, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 0, READ_SIZE);
		leave(&code);
		land(&code, jump);
	}
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_smp_processor_id);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 6, 0, 0, 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 7, 6, 0, 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 7, 0, 0, 1);
	look_up(&code, 8, 7, values_map);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0);
	look_up(&code, 9, 3, values_map);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 9, offsetof(struct for_all, round), 0);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 2, 8, offsetof(struct for_cpu, round), 0);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JNE | BPF_X, 1, 2, 0, 0);
	leave(&code);
	land(&code, jump);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JNE | BPF_K, 1, 0, 0, 0);
	leave(&code);
	land(&code, jump);

	/* struct record */
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 10, 1, -24, 0);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 10, 6, -16, 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0);
	look_up(&code, 1, 3, ring_map);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -24);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, sizeof(struct record));
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 4, 0, 0, BPF_RB_NO_WAKEUP);
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_output);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JNE | BPF_K, 0, 0, 0, 0);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 10, -24, 0);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 8, 1, offsetof(struct for_cpu, round), 0);
	leave(&code);
	land(&code, jump);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 8, offsetof(struct for_cpu, failures), 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, 1);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 8, 1, offsetof(struct for_cpu, failures), 0);
	leave(&code);
	program = load_code(&code, context->type, attach_type, id);
	if (program < 0)
		ksft_exit_fail_perror("BPF_PROG_LOAD");
}

/* Raw tracepoints */

static const char *attach_to_page_faults(const struct context *context)
{
	load_writer(context, 0, 0);
	attachment = attach("page_fault_kernel", program);
	return attachment < 0 ? "no tracepoint page_fault_kernel" : NULL;
}

/* The kernel faults when it stores the time there, and returns an error. */
static void fault(int number)
{
	(void)number;
	syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (void *)16);
}

/**
 * open_event() - count or sample something
 * @attr: what
 * @cpu: where; all tasks there
 *
 * Return: file descriptor, or -1 with errno set.
 */
static int open_event(struct perf_event_attr *attr, unsigned int cpu)
{
	attr->size = sizeof(*attr);
	return syscall(__NR_perf_event_open, attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static void close_and_forget(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void detach(void)
{
	for (int i = 0; i < cpu_count; i++)
		close_and_forget(&events[i]);
	close_and_forget(&attachment);
	close_and_forget(&program);
}

/* A counter on each CPU, which others have to ask for. Returns false with errno set. */
static bool open_events(struct perf_event_attr *attr)
{
	int count = 0, error = 0;

	for (int i = 0; i < cpu_count; i++) {
		events[i] = open_event(attr, cpus[i]);
		if (events[i] >= 0)
			count++;
		else if (errno != ENODEV)	/* offline */
			error = errno;
	}
	errno = error;
	return count && !error;
}

static const char *attach_to_ipis(const struct context *context)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
	};

	load_writer(context, 0, 0);
	attachment = attach("csd_function_entry", program);
	if (attachment < 0)
		return "no tracepoint csd_function_entry";
	return open_events(&attr) ? NULL : no_perf;
}

/* Reads the counter of the next CPU. */
static void interrupt_next(int number)
{
	uint64_t count;
	int event = events[(number + 1) % cpu_count];

	if (event >= 0)
		read(event, &count, sizeof(count));
}

/* Programs that interrupts call */

static const char *attach_to_events(const struct context *context, struct perf_event_attr *attr)
{
	load_writer(context, 0, 0);
	attachment = -1;
	if (!open_events(attr))
		return no_perf;
	for (int i = 0; i < cpu_count; i++) {
		if (events[i] >= 0 && ioctl(events[i], PERF_EVENT_IOC_SET_BPF, program))
			ksft_exit_fail_perror("PERF_EVENT_IOC_SET_BPF");
	}
	return NULL;
}

static const char *attach_to_timers(const struct context *context)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = TIMER_PERIOD,
	};

	return attach_to_events(context, &attr);
}

static const char *attach_to_counters(const struct context *context)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE, .config = PERF_COUNT_HW_CPU_CYCLES,
		.sample_period = COUNTER_PERIOD,
	};

	if (attach_to_events(context, &attr))
		return "no counter that interrupts: no Sscofpmf, or no CONFIG_RISCV_PMU_SBI";
	return NULL;
}

/* Where the uprobe is; called by all threads, and nothing else is at its address. */
static void __attribute__((noinline, aligned(16))) probed(int number)
{
	asm volatile("nop\n\tnop" :: "r" (number) : "memory");
}

/* Finds out where an address of this program is in its file; returns -1 if nowhere. */
static long offset_in_file(unsigned long address)
{
	static char maps[4096];
	int fd = open("/proc/self/maps", O_RDONLY);
	ssize_t more, size = 0;
	char *line = maps;

	if (fd < 0)
		return -1;
	while ((more = read(fd, maps + size, sizeof(maps) - 1 - size)) > 0)
		size += more;
	close(fd);
	while (*line) {
		/* 10000-12000 r-xp 00001000 ... */
		char *next, *newline = strchr(line, '\n');
		unsigned long start = strtoul(line, &next, 16), stop, offset;

		if (*next != '-')
			return -1;
		stop = strtoul(next + 1, &next, 16);
		if (strlen(next) < 6)
			return -1;
		offset = strtoul(next + 6, NULL, 16);
		if (address >= start && address < stop)
			return address - start + offset;
		if (!newline)
			return -1;
		line = newline + 1;
	}
	return -1;
}

static const char *attach_to_uprobe(const struct context *context)
{
	struct perf_event_attr attr = {
		.config1 = (uintptr_t)"/proc/self/exe",
	};
	int fd = open("/sys/bus/event_source/devices/uprobe/type", O_RDONLY);
	long offset = offset_in_file((uintptr_t)probed);
	char number[16] = "";

	if (fd < 0)
		return "no CONFIG_UPROBE_EVENTS";
	if (read(fd, number, sizeof(number) - 1) <= 0)
		ksft_exit_fail_perror("/sys/bus/event_source/devices/uprobe/type");
	close(fd);
	if (offset < 0)
		return "no /proc/self/maps";
	load_writer(context, 0, 0);
	attr.type = strtoul(number, NULL, 10);
	attr.config2 = offset;
	/* One for all: the program is called before the event looks at the CPU. */
	attachment = open_event(&attr, cpus[0]);
	if (attachment < 0)
		ksft_exit_fail_perror("perf_event_open of a uprobe");
	if (ioctl(attachment, PERF_EVENT_IOC_SET_BPF, program))
		ksft_exit_fail_perror("PERF_EVENT_IOC_SET_BPF");
	return NULL;
}

/* Trampolines */

static const char *attach_to_function(const struct context *context)
{
	const struct btf_type *type;
	unsigned int id;
	const char *what = find_btf();

	if (what)
		return what;
	id = find_type(context->btf, context->btf_kind, &type);
	if (!id)
		return "no vfs_read() in the kernel's BTF";
	load_writer(context, context->attach_type, id);
	attachment = attach(NULL, program);
	if (attachment < 0 && (errno == KERNEL_ENOTSUPP || errno == EOPNOTSUPP))
		return "no CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS";
	if (attachment < 0)
		ksft_exit_fail_perror("BPF_RAW_TRACEPOINT_OPEN of a function");
	return NULL;
}

static void read_nothing(int number)
{
	static char buffer[READ_SIZE];

	(void)number;
	read(dev_null, buffer, READ_SIZE);
}

/* A scheduler that does what it does without BPF; it only tells which task runs. */
static const char *attach_to_scheduler(const struct context *context)
{
	const struct btf_type *ops, *value_type;
	const struct btf_member *member;
	const char *what = find_btf();
	union bpf_attr attr;
	int index;
	unsigned int id, value_id, key = 0;
	char *value;
	size_t data, name;

	if (what)
		return what;
	id = find_type(context->btf, context->btf_kind, &ops);
	if (!id)
		return "no CONFIG_SCHED_CLASS_EXT";
	value_id = find_type("bpf_struct_ops_sched_ext_ops", BTF_KIND_STRUCT, &value_type);
	if (!value_id || find_member(value_type, "data", &member) < 0)
		return "no type for values of struct_ops in the kernel's BTF";
	data = offset_of(member);
	if (find_member(ops, "name", &member) < 0)
		return "no name in struct sched_ext_ops";
	name = offset_of(member);
	index = find_member(ops, "running", &member);
	if (index < 0)
		return "no running() in struct sched_ext_ops";

	/* Of a struct_ops, the type of the attachment is the number of the member. */
	load_writer(context, index, id);
	value = mmap(NULL, value_type->size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (value == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	*(unsigned long *)(value + data + offset_of(member)) = program;
	memcpy(value + data + name, "lazy_map", sizeof("lazy_map"));

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_STRUCT_OPS;
	attr.key_size = sizeof(key);
	attr.value_size = value_type->size;
	attr.max_entries = 1;
	attr.btf_vmlinux_value_type_id = value_id;
	attachment = bpf(BPF_MAP_CREATE, &attr);
	if (attachment < 0)
		ksft_exit_fail_perror("BPF_MAP_CREATE of a scheduler");
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = attachment;
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)value;
	if (bpf(BPF_MAP_UPDATE_ELEM, &attr))
		ksft_exit_fail_perror("BPF_MAP_UPDATE_ELEM of a scheduler");
	munmap(value, value_type->size);
	return NULL;
}

static void detach_scheduler(void)
{
	union bpf_attr attr;
	unsigned int key = 0;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = attachment;
	attr.key = (uintptr_t)&key;
	if (bpf(BPF_MAP_DELETE_ELEM, &attr))
		ksft_exit_fail_perror("BPF_MAP_DELETE_ELEM of a scheduler");
	detach();
}

/* Makes the scheduler switch to another task and back. */
static void sleep_shortly(int number)
{
	struct __kernel_timespec little = { 0, 100000 };

	(void)number;
	syscall(__NR_clock_nanosleep, 1 /* CLOCK_MONOTONIC */, 0, &little, NULL);
}

static const struct context contexts[] = {
	{
		.test = "ring_buffer_written_in_page_faults",
		.pass = fault,
		.type = BPF_PROG_TYPE_RAW_TRACEPOINT,
		.attach = attach_to_page_faults,
	}, {
		.test = "ring_buffer_written_in_ipis",
		.pass = interrupt_next,
		.type = BPF_PROG_TYPE_RAW_TRACEPOINT,
		.attach = attach_to_ipis,
		.others = true,
	}, {
		.test = "ring_buffer_written_in_timer_interrupts",
		.type = BPF_PROG_TYPE_PERF_EVENT,
		.attach = attach_to_timers,
	}, {
		.test = "ring_buffer_written_in_counter_interrupts",
		.type = BPF_PROG_TYPE_PERF_EVENT,
		.attach = attach_to_counters,
	}, {
		.test = "ring_buffer_written_in_uprobes",
		.pass = probed,
		.type = BPF_PROG_TYPE_KPROBE,
		.attach = attach_to_uprobe,
	}, {
		.test = "ring_buffer_written_on_entry_to_a_function",
		.pass = read_nothing,
		.type = BPF_PROG_TYPE_TRACING,
		.attach_type = BPF_TRACE_FENTRY,
		.attach = attach_to_function,
		.again = true,
		.reads = true,
		.btf = "vfs_read",
		.btf_kind = BTF_KIND_FUNC,
	}, {
		.test = "ring_buffer_written_on_exit_from_a_function",
		.pass = read_nothing,
		.type = BPF_PROG_TYPE_TRACING,
		.attach_type = BPF_TRACE_FEXIT,
		.attach = attach_to_function,
		.again = true,
		.reads = true,
		.btf = "vfs_read",
		.btf_kind = BTF_KIND_FUNC,
	}, {
		.test = "ring_buffer_written_in_scheduler",
		.pass = sleep_shortly,
		.type = BPF_PROG_TYPE_STRUCT_OPS,
		.attach = attach_to_scheduler,
		.detach = detach_scheduler,
		.again = true,
		.btf = "sched_ext_ops",
		.btf_kind = BTF_KIND_STRUCT,
	},
};

/* What all CPUs but the first one do all the time */
static void go_there(struct worker *worker)
{
	const struct context *context = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
	uint64_t round = read_word(&values->all.round);

	if (!context || !context->pass || !round)
		return;
	/* IPIs are for others, which may need more of them. */
	if (context->others || read_word(&value_of(worker->cpu)->round) != round)
		context->pass(worker->number);
}

/* Bytes of data in a ring buffer: a record of each CPU, and more */
static unsigned int ring_size(void)
{
	unsigned int size = PAGE_SIZE;

	while (size < 2 * sizeof(struct entry) * value_count())
		size *= 2;
	return size;
}

static int new_ring(void)
{
	union bpf_attr attr;
	int ring;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_RINGBUF;
	attr.max_entries = ring_size();
	ring = bpf(BPF_MAP_CREATE, &attr);
	if (ring < 0)
		ksft_exit_fail_perror("BPF_MAP_CREATE of a ring buffer");
	return ring;
}

static int new_ring_map(void)
{
	union bpf_attr attr;
	int example = new_ring(), map;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY_OF_MAPS;
	attr.key_size = sizeof(uint32_t);
	attr.value_size = sizeof(uint32_t);
	attr.max_entries = 1;
	attr.inner_map_fd = example;
	map = bpf(BPF_MAP_CREATE, &attr);
	if (map < 0)
		ksft_exit_fail_perror("BPF_MAP_CREATE of a map of maps");
	close(example);
	return map;
}

/* Lets programs find a ring buffer, or none if @ring is -1. */
static void publish(int ring)
{
	uint32_t key = 0, value = ring;
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = ring_map;
	attr.key = (uintptr_t)&key;
	attr.value = ring < 0 ? 0 : (uintptr_t)&value;
	if (bpf(ring < 0 ? BPF_MAP_DELETE_ELEM : BPF_MAP_UPDATE_ELEM, &attr))
		ksft_exit_fail_perror(ring < 0 ? "BPF_MAP_DELETE_ELEM" :
				      "BPF_MAP_UPDATE_ELEM");
}

/* Waits until each CPU has written; says which has not, but for those that are offline. */
static bool all_have_written(uint64_t round)
{
	const long deadline = monotonic_seconds() + PATIENCE;
	bool right = true;

	for (int i = 0; i < cpu_count; i++) {
		struct for_cpu *value = value_of(cpus[i]);

		while (read_word(&value->round) != round && monotonic_seconds() < deadline) {
			if (current->pass)
				current->pass(0);
		}
		if (read_word(&value->round) == round || run_on_cpu(cpus[i]))
			continue;
		ksft_print_msg("CPU %u has not written; failures: %llu\n", cpus[i],
			       (unsigned long long)read_word(&value->failures));
		right = false;
	}
	stay_on(cpus[0]);
	return right;
}

/* Compares what is in a ring buffer with what the CPUs say that they have written. */
static bool is_right(int ring, uint64_t round, unsigned long *touches)
{
	const size_t size = (2 + 2 * (ring_size() / PAGE_SIZE)) * PAGE_SIZE;
	static bool found[MAX_CPUS];
	uint64_t produced, written = 0;
	const struct entry *entry;
	bool right = true;
	char *memory;

	memory = mmap(NULL, size, PROT_READ, MAP_SHARED, ring, 0);
	if (memory == MAP_FAILED)
		ksft_exit_fail_perror("mmap of a ring buffer");
	memset(found, 0, sizeof(found));
	/* A page for each position, the second one for that of the writers */
	produced = read_word((uint64_t *)(memory + PAGE_SIZE));
	entry = (void *)(memory + 2 * PAGE_SIZE);
	if (produced > ring_size() || produced % sizeof(*entry)) {
		ksft_print_msg("the ring buffer has %llu bytes\n", (unsigned long long)produced);
		produced = 0;
		right = false;
	}
	for (uint64_t i = 0; i < produced / sizeof(*entry); i++, entry++) {
		uint64_t cpu = entry->record.cpu;

		if (entry->header.length != sizeof(struct record) ||
		    entry->record.round != round || cpu >= MAX_CPUS || found[cpu]) {
			ksft_print_msg("record %llu: length 0x%x, round %llu, CPU %llu\n",
				       (unsigned long long)i, entry->header.length,
				       (unsigned long long)entry->record.round,
				       (unsigned long long)cpu);
			right = false;
			continue;
		}
		found[cpu] = true;
		(*touches)++;
	}
	for (unsigned int cpu = 0; cpu + 1 < value_count(); cpu++) {
		if ((read_word(&value_of(cpu)->round) == round) != found[cpu]) {
			ksft_print_msg("CPU %u has%s written, its record is%s there\n", cpu,
				       found[cpu] ? " not" : "", found[cpu] ? "" : " not");
			right = false;
		}
		written += found[cpu];
	}
	munmap(memory, size);
	return right && written;
}

static void run(const struct context *context, unsigned long rounds)
{
	const uint64_t areas = read_word(&values->all.areas), in_vain = tried_in_vain();
	static uint64_t round;
	unsigned long done = 0, touches = 0;
	const char *what = NULL;
	bool right = true;

	if (context->others && cpu_count < 2) {
		skip_case(context->test, "it needs two CPUs");
		return;
	}
	program = -1;
	attachment = -1;
	for (int i = 0; i < cpu_count; i++)
		events[i] = -1;
	if (!context->again)
		what = context->attach(context);
	__atomic_store_n(&current, context, __ATOMIC_RELEASE);
	while (!what && right && done < rounds) {
		int ring;

		stay_on(cpus[0]);
		/* From here on the other CPUs go where they will find the ring buffer. */
		write_word(&values->all.round, ++round);
		begin_mapping();
		ring = new_ring();
		publish(ring);
		if (context->again)
			what = context->attach(context);
		end_mapping();
		if (!what)
			right = all_have_written(round);
		if (context->again && !what && context->detach)
			context->detach();
		else if (context->again)
			detach();
		publish(-1);
		write_word(&values->all.round, 0);
		if (!what)
			right = is_right(ring, round, &touches) && right;
		close(ring);
		done++;
	}
	__atomic_store_n(&current, NULL, __ATOMIC_RELEASE);
	detach();
	if (what) {
		skip_case(context->test, what);
		return;
	}
	ksft_print_msg("ring buffers: %lu\n", done);
	ksft_print_msg("touches: %lu\n", touches);
	report_mappings(areas, in_vain);
	ksft_test_result(right && touches, "%s\n", context->test);
}

int main(int argc, char **argv)
{
	unsigned long rounds = DEFAULT_ROUNDS;
	const char *what;

	ksft_print_header();
	parse_rounds_and_case(argc, argv, &rounds);
	what = missing_for_bpf();
	if (what)
		ksft_exit_skip("%s\n", what);
	dev_null = open("/dev/null", O_RDONLY);
	if (dev_null < 0)
		ksft_exit_fail_perror("/dev/null");
	start_workers(go_there);
	ring_map = new_ring_map();
	ksft_set_plan(planned(ARRAY_SIZE(contexts)));
	for (unsigned int i = 0; i < ARRAY_SIZE(contexts); i++) {
		if (begins(contexts[i].test))
			run(&contexts[i], rounds);
	}
	ksft_finished();
}
