/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the test programs that have the kernel map something and let all CPUs
 * use it.
 *
 * A hart may remember that nothing is mapped at an address only because it has tried
 * that very address. But the kernel decides where a mapping will be. So while one
 * thread has something mapped, a BPF program at the tracepoint alloc_vmap_area gets
 * to know the address, before anything is there. It tells the other threads, of which
 * there is one on each other CPU, and waits. They read there in vain, by means of
 * another program, and go on to spin in user mode. Nobody sleeps until the mapping
 * is used: a CPU may fence when it switches to another task.
 *
 * Without BPF the mappings are made and used all the same.
 */
#ifndef LAZY_MAP_PRIMED_H
#define LAZY_MAP_PRIMED_H

#include "bpf.h"

/* A system call that does not exist: a program reads an address for it. */
#define PEEK		0x1a2b3d

/* Pages at the start of an area that are read in vain */
#define PEEKED_PAGES	8

/* Seconds until a CPU that does not do what it is told is given up */
#define PATIENCE	10

/*
 * Values of the map that the programs share with this process, each of the same size:
 * first one for all CPUs, then one for each CPU.
 */
struct for_all {
	/* Whose mappings matter: process and thread, as bpf_get_current_pid_tgid() has it; or 0 */
	uint64_t creator;
	/* The area that is about to be mapped */
	uint64_t address, size;
	/* Number of areas so far; how often a thread has read in one; and how many threads do */
	uint64_t areas, answers, threads;
	/* For the programs of a test: number of the current round, 0 between rounds */
	uint64_t round;
	uint64_t unused;
};

struct for_cpu {
	/* What to read, and 0 or the error */
	uint64_t address, error;
	/* For the programs of a test: round in which the CPU has done its part; failures */
	uint64_t round, failures;
	uint64_t unused[4];
};

union value {
	struct for_all all;
	struct for_cpu cpu;
};

/* A thread that stays on one CPU, in user mode as far as possible */
struct worker {
	struct thread thread;
	unsigned int cpu;
	/* Its place among the CPUs, from 0 */
	int number;
	/* Areas that it knows, and where it has read in vain */
	uint64_t known, in_vain;
	/* For the test: the round that it has done its part in */
	uint64_t round;
	/* Its CPU is offline. */
	bool is_away;
};

static union value *values;
static int values_map;
static unsigned int cpus[MAX_CPUS];
static int cpu_count;
/* Of the other CPUs: the first CPU is that of the thread that has things mapped. */
static struct worker workers[MAX_CPUS];
static int worker_count;
static unsigned int running;

/* What the threads do all the time, for the test to set before it starts them */
static struct {
	void (*run)(struct worker *worker);
} part;

static inline struct for_cpu *value_of(unsigned int cpu)
{
	return &values[cpu + 1].cpu;
}

static inline uint64_t read_word(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void write_word(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Number of values in the map */
static inline unsigned int value_count(void)
{
	return cpus[cpu_count - 1] + 2;
}

/* Pins the calling thread to a CPU, again if that was offline; false if it is offline now. */
static inline bool stay_on(unsigned int cpu)
{
	unsigned int now = MAX_CPUS;

	syscall(__NR_getcpu, &now, NULL, NULL);
	return now == cpu || !run_on_cpu(cpu);
}

/* Reads an address on the CPU of this thread; returns whether something is mapped there. */
static inline bool peek(unsigned int cpu, uint64_t address)
{
	struct for_cpu *own = value_of(cpu);

	write_word(&own->address, address);
	write_word(&own->error, 0);
	syscall(PEEK);
	return !read_word(&own->error);
}

/* Reads the area that is about to be mapped, if the thread has not done so yet. */
static inline void read_in_vain(struct worker *worker)
{
	struct for_all *all = &values->all;
	uint64_t areas = read_word(&all->areas), address, size;

	if (areas == worker->known)
		return;
	address = read_word(&all->address);
	size = read_word(&all->size);
	for (unsigned int page = 0; page < PEEKED_PAGES && page * PAGE_SIZE < size; page++) {
		if (!peek(worker->cpu, address + page * PAGE_SIZE) && !page)
			worker->in_vain++;
	}
	__atomic_fetch_add(&all->answers, areas - worker->known, __ATOMIC_RELEASE);
	worker->known = areas;
}

static inline void work(void *argument)
{
	struct worker *worker = argument;

	stay_on(worker->cpu);
	__atomic_fetch_add(&running, 1, __ATOMIC_RELEASE);
	for (;;) {
		read_in_vain(worker);
		worker->is_away = !stay_on(worker->cpu);
		if (!worker->is_away)
			part.run(worker);
	}
}

/* From now on areas of the calling thread are read in vain before they are mapped. */
static inline void begin_mapping(void)
{
	uint64_t process = syscall(__NR_getpid), thread = syscall(__NR_gettid);

	write_word(&values->all.creator, process << 32 | thread);
}

static inline void end_mapping(void)
{
	write_word(&values->all.creator, 0);
}

/**
 * try_in_vain() - have all CPUs read where nothing is mapped yet
 * @address: what the caller knows to be mapped next
 * @size: bytes; of more than PEEKED_PAGES pages, only the first ones are read
 *
 * For what is mapped without a new area.
 */
static inline void try_in_vain(uint64_t address, uint64_t size)
{
	const long deadline = monotonic_seconds() + PATIENCE;
	struct for_all *all = &values->all;
	uint64_t areas;

	write_word(&all->address, address);
	write_word(&all->size, size);
	areas = __atomic_add_fetch(&all->areas, 1, __ATOMIC_SEQ_CST);
	for (unsigned int page = 0; page < PEEKED_PAGES && page * PAGE_SIZE < size; page++)
		peek(cpus[0], address + page * PAGE_SIZE);
	while (read_word(&all->answers) < areas * worker_count && monotonic_seconds() < deadline)
		;
}

/* The program that reads an address for PEEK */
static inline int load_peek(void)
{
	struct code code = { .count = 0 };
	unsigned int jump;

	/* The second argument of sys_enter is the number of the system call. */
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 2, 1, 8, 0);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 0, PEEK);
	leave(&code);
	land(&code, jump);
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_smp_processor_id);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 6, 0, 0, 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 6, 0, 0, 1);
	look_up(&code, 7, 6, values_map);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 3, 7, offsetof(struct for_cpu, address), 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 1, 10, 0, 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, -16);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 8);
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 7, 0, offsetof(struct for_cpu, error), 0);
	leave(&code);
	return load_code(&code, BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0);
}

/* The program that gets to know of areas */
static inline int load_announce(void)
{
	struct code code = { .count = 0 };
	unsigned int jump, again, behind[PEEKED_PAGES], out[2];

	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0);
	look_up(&code, 7, 3, values_map);
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_pid_tgid);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 7, offsetof(struct for_all, creator), 0);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JEQ | BPF_X, 0, 1, 0, 0);
	leave(&code);
	land(&code, jump);

	/* Of the arguments of the tracepoint, the last one says that there is no address. */
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 8, 6, 0, 0);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 9, 6, 8, 0);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 6, 40, 0);
	jump = code.count;
	add(&code, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0, 0);
	leave(&code);
	land(&code, jump);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 7, 8, offsetof(struct for_all, address), 0);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 7, 9, offsetof(struct for_all, size), 0);

	/* This CPU reads as well. */
	for (unsigned int page = 0; page < PEEKED_PAGES; page++) {
		behind[page] = code.count;
		add(&code, BPF_JMP | BPF_JLE | BPF_K, 9, 0, 0, page * PAGE_SIZE);
		add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 3, 8, 0, 0);
		add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, page * PAGE_SIZE);
		add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 1, 10, 0, 0);
		add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, -16);
		add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 8);
		add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel);
	}
	for (unsigned int page = 0; page < PEEKED_PAGES; page++)
		land(&code, behind[page]);

	/* Tell the threads, which is ordered because it fetches, and wait for them all. */
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1);
	add(&code, BPF_STX | BPF_ATOMIC | BPF_DW, 7, 1, offsetof(struct for_all, areas),
	    BPF_ADD | BPF_FETCH);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, 1);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 8, 7, offsetof(struct for_all, threads), 0);
	add(&code, BPF_ALU64 | BPF_MUL | BPF_X, 8, 1, 0, 0);
	again = code.count;
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 7, offsetof(struct for_all, answers), 0);
	out[0] = code.count;
	add(&code, BPF_JMP | BPF_JGE | BPF_X, 1, 8, 0, 0);
	/* Within a limit: it would not be a BPF program otherwise. */
	out[1] = code.count;
	add(&code, BPF_JMP | BPF_JCOND, 0, BPF_MAY_GOTO, 0, 0);
	add(&code, BPF_JMP | BPF_JA, 0, 0, 0, 0);
	code.insns[code.count - 1].off = (int)again - (int)code.count;
	land(&code, out[0]);
	land(&code, out[1]);
	leave(&code);
	return load_code(&code, BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0);
}

/**
 * start_workers() - start a thread on each CPU but the first one, where the caller stays
 * @what: what they do all the time
 *
 * Prints why, if addresses cannot be tried in vain.
 */
static inline void start_workers(void (*what)(struct worker *worker))
{
	static union value without_bpf[MAX_CPUS + 1];
	const char *missing = missing_for_bpf();
	int peek = -1, announce = -1;

	say_uncounted();
	part.run = what;
	cpu_count = usable_cpus(cpus);
	if (cpu_count < 0)
		ksft_exit_fail_perror("sched_getaffinity");
	stay_on(cpus[0]);
	values = without_bpf;
	if (!missing) {
		values_map = new_map(BPF_MAP_TYPE_ARRAY, sizeof(union value), value_count(), 0);
		if (values_map < 0)
			ksft_exit_fail_perror("BPF_MAP_CREATE");
		values = map_memory(NULL, value_count() * sizeof(union value), values_map);
		if (!values)
			ksft_exit_fail_perror("mmap");
		/* EINVAL is what a kernel says that lacks what they need. */
		peek = load_peek();
		announce = peek < 0 ? peek : load_announce();
		if (announce < 0 && errno != EINVAL)
			ksft_exit_fail_perror("BPF_PROG_LOAD");
		if (peek < 0 || attach("sys_enter", peek) < 0)
			missing = "no program can be attached to sys_enter";
		else if (announce < 0 || attach("alloc_vmap_area", announce) < 0)
			missing = "no program can be attached to alloc_vmap_area";
	}
	if (missing)
		ksft_print_msg("no address is tried in vain: %s\n", missing);

	for (int i = 1; i < cpu_count; i++) {
		struct worker *worker = &workers[worker_count];

		worker->cpu = cpus[i];
		worker->number = i;
		if (start_thread(&worker->thread, work, worker))
			ksft_exit_fail_perror("clone");
		worker_count++;
	}
	while (__atomic_load_n(&running, __ATOMIC_ACQUIRE) < (unsigned int)worker_count)
		syscall(__NR_sched_yield);
	write_word(&values->all.threads, worker_count);
}

/* Waits until as many threads as there are on CPUs that are online have counted themselves. */
static inline bool all_have_come(const unsigned int *count)
{
	const long deadline = monotonic_seconds() + PATIENCE;

	for (;;) {
		unsigned int wanted = 0;

		for (int i = 0; i < worker_count; i++)
			wanted += !__atomic_load_n(&workers[i].is_away, __ATOMIC_RELAXED);
		if (__atomic_load_n(count, __ATOMIC_ACQUIRE) >= wanted)
			return true;
		if (monotonic_seconds() >= deadline)
			return false;
	}
}

/* Areas of which a CPU has read the first page in vain, summed up over the other CPUs */
static inline uint64_t tried_in_vain(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < worker_count; i++)
		sum += workers[i].in_vain;
	return sum;
}

/**
 * report_mappings() - print how often CPUs have tried a new area in vain
 * @areas: value of values->all.areas when the test case began
 * @in_vain: value of tried_in_vain() when it began
 */
static inline void report_mappings(uint64_t areas, uint64_t in_vain)
{
	areas = read_word(&values->all.areas) - areas;
	in_vain = tried_in_vain() - in_vain;
	ksft_print_msg("new areas: %llu\n", (unsigned long long)areas);
	ksft_print_msg("tried in vain before: %llu of %llu areas and CPUs\n",
		       (unsigned long long)in_vain, (unsigned long long)areas * worker_count);
	if (!in_vain)
		say_untried();
}

/* Whether a test case is to run; names it in the output. */
static inline bool begins(const char *test)
{
	if (!is_wanted(test))
		return false;
	ksft_print_msg("%s: started\n", test);
	return true;
}

#endif /* LAZY_MAP_PRIMED_H */
