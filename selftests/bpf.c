// SPDX-License-Identifier: GPL-2.0-only
/*
 * Load BPF programs on one CPU, and execute them on all others at once.
 *
 * The description by which the kernel calls a program (struct bpf_prog), and the
 * map that it stores to, are new mappings, which the CPUs see for the first time
 * when they execute it: in a tracepoint of the system call entry, or of the
 * scheduler while it holds its lock. Its text is not: programs share mappings of
 * 2 MiB, for which every CPU was flushed when they were made executable. Each
 * program adds its own number to what it finds for its CPU, and stores the sum. It
 * does so once: the first read is what counts. Until then each CPU spins, and has
 * tried in vain what was mapped: see primed.h.
 *
 * An arena is memory that programs share with a process. It is mapped into the
 * kernel page by page, when the process first touches a page. If a program's
 * access faults, the kernel continues behind it as if it had read 0, by means of
 * the exception table: a kernel that takes a spurious fault for a real one would
 * not even notice, but the program reads a wrong number. The kernel has the pages of
 * an arena in an area that it reserves for it, so where each will be is known.
 */

#include "primed.h"

#define DEFAULT_ROUNDS	8
#define DEFAULT_PAGES	24

/* A system call that does not exist: programs run their test only for this one. */
#define SYSTEM_CALL	0x1a2b3c

/* For each CPU in the map: its result, and the input of its program */
#define WORDS		(PAGE_SIZE / sizeof(uint64_t))
#define RESULT		0
#define INPUT		1

/* Times that a CPU sleeps until the scheduler has executed a program */
#define SLEEPS		1000

/* System calls that a CPU makes until one has executed the program */
#define CALLS		20

/* Where the arena is; its pages have the same offsets within 4 GiB as the kernel's */
#define ARENA		0x100000000UL
#define ARENA_PAGES	512UL

/* Where the first of them is in the kernel's area, of which 4 GiB are for pages: behind a guard */
#define ARENA_GUARD	0x8000UL

struct place {
	const char *tracepoint;
	/* What the tracepoint passes for it, or 0 if programs always run their test */
	int system_call;
};

static const struct place system_calls = { "sys_enter", SYSTEM_CALL };
static const struct place scheduler = { "sched_switch", 0 };

/* Threads that are passing the tracepoint, and that have passed it in this round */
static unsigned int busy, passed;
static const struct place *where;
/* The memory of the map that the program stores to */
static uint64_t *words;
/* What it stored for its last input, 0 without one */
static uint64_t last;
/* By number of the CPU: it was offline when it should have passed the tracepoint */
static bool is_away[MAX_CPUS];

/* Whether the calling thread is still confined to one CPU: not if that went offline. */
static bool is_confined(void)
{
	unsigned int where[MAX_CPUS];

	return usable_cpus(where) == 1;
}

/* Makes the current CPU pass the tracepoint. */
static void pass_tracepoint(unsigned int cpu)
{
	uint64_t *result = &words[cpu * WORDS + RESULT];
	struct __kernel_timespec little = { 0, 200000 };

	/*
	 * A sleep that ends too early does not switch to another task, and a program is
	 * skipped where another task of the CPU has not left it yet.
	 */
	for (int i = 0; i < (where->system_call ? CALLS : SLEEPS); i++) {
		uint64_t found;

		if (!where->system_call || i)
			syscall(__NR_clock_nanosleep, 1 /* CLOCK_MONOTONIC */, 0, &little, NULL);
		if (where->system_call)
			syscall(where->system_call);
		found = __atomic_load_n(result, __ATOMIC_RELAXED);
		if (found && (where->system_call || found != last))
			break;
		/* It was started before its input changed. */
		if (found)
			__atomic_store_n(result, 0, __ATOMIC_RELAXED);
	}
}

/* Makes this CPU pass the tracepoint, if it is online. */
static void pass(unsigned int cpu)
{
	do {
		if (run_on_cpu(cpu)) {
			is_away[cpu] = true;
			return;
		}
		pass_tracepoint(cpu);
	} while (!is_confined());
}

/* What all CPUs but the first one do all the time */
static void pass_once(struct worker *worker)
{
	uint64_t round = read_word(&values->all.round);

	if (!round || round == worker->round)
		return;
	__atomic_fetch_add(&busy, 1, __ATOMIC_SEQ_CST);
	/* It does not wait for a CPU that was offline, and may be over by now. */
	if (__atomic_load_n(&values->all.round, __ATOMIC_SEQ_CST) == round) {
		worker->round = round;
		pass(worker->cpu);
		__atomic_fetch_add(&passed, 1, __ATOMIC_RELEASE);
	}
	__atomic_fetch_sub(&busy, 1, __ATOMIC_RELEASE);
}

/* Makes all CPUs pass a tracepoint, the others before this one; returns whether they have. */
static bool pass_on_all_cpus(const struct place *place)
{
	static uint64_t round;
	bool right;

	where = place;
	memset(is_away, 0, sizeof(is_away));
	__atomic_store_n(&passed, 0, __ATOMIC_RELAXED);
	write_word(&values->all.round, ++round);
	right = all_have_come(&passed);
	if (!right)
		ksft_print_msg("threads: %d, passed: %u\n", worker_count,
			       __atomic_load_n(&passed, __ATOMIC_RELAXED));
	write_word(&values->all.round, 0);
	/* Only then nobody uses the memory of this round any more. */
	while (__atomic_load_n(&busy, __ATOMIC_SEQ_CST))
		syscall(__NR_sched_yield);
	for (int i = 0; i < worker_count; i++) {
		if (workers[i].round != round)
			is_away[workers[i].cpu] = true;
	}
	pass(cpus[0]);
	return right;
}

/**
 * load_program() - have a program verified and compiled
 * @place: where it will be attached
 * @map: for each CPU a page with its input and its result
 * @arena: what the input is an address in, or -1 if it is a number
 * @number: what it adds
 *
 * Return: its file descriptor, or -1 with errno set.
 */
static int load_program(const struct place *place, int map, int arena, uint64_t number)
{
	struct code code;

	code.count = 0;
	if (place->system_call) {
		/* The arguments of a tracepoint are 64-bit words; this is the second one. */
		add(&code, BPF_LDX | BPF_MEM | BPF_DW, 2, 1, 8, 0);
		add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
		add(&code, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 1, place->system_call);
		add(&code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	}
	add(&code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_smp_processor_id);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 6, 0, 0, 0);
	add(&code, BPF_ALU64 | BPF_MUL | BPF_K, 6, 0, 0, WORDS);
	look_up(&code, 7, 6, map);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 3, 7, 0, 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
	add(&code, BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 1, 0);
	add(&code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_K, 6, 0, 0, INPUT - RESULT);
	look_up(&code, 8, 6, map);
	add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 8, 0, 0);
	add(&code, BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
	add(&code, BPF_JMP | BPF_JNE | BPF_K, 1, 0, 1, 0);
	add(&code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	if (arena >= 0) {
		/* Makes the program use the arena. */
		load_constant(&code, 2, BPF_PSEUDO_MAP_FD, arena);
		add(&code, BPF_ALU64 | BPF_MOV | BPF_X, 2, 1, BPF_ADDR_SPACE_CAST, 1);
		add(&code, BPF_LDX | BPF_MEM | BPF_DW, 1, 2, 0, 0);
	}
	load_constant(&code, 2, 0, number);
	add(&code, BPF_ALU64 | BPF_ADD | BPF_X, 1, 2, 0, 0);
	add(&code, BPF_STX | BPF_MEM | BPF_DW, 7, 1, 0, 0);
	leave(&code);
	return load_code(&code, BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0);
}

static uint64_t pattern(uint64_t number)
{
	return (number + 1) * 0x9e3779b97f4a7c15;
}

/* A map with a page for each CPU */
static int page_per_cpu(void)
{
	unsigned int count = (cpus[cpu_count - 1] + 1) * WORDS;
	int map;

	map = new_map(BPF_MAP_TYPE_ARRAY, sizeof(uint64_t), count, 0);
	if (map < 0)
		ksft_exit_fail_perror("BPF_MAP_CREATE");
	words = map_memory(NULL, count * sizeof(uint64_t), map);
	if (!words)
		ksft_exit_fail_perror("mmap");
	return map;
}

static void give_back(int map)
{
	munmap(words, (cpus[cpu_count - 1] + 1) * PAGE_SIZE);
	close(map);
}

/* Without an input, which is 0, programs store nothing. */
static void set_on_all_cpus(unsigned int word, uint64_t value)
{
	for (int i = 0; i < cpu_count; i++)
		__atomic_store_n(&words[cpus[i] * WORDS + word], value, __ATOMIC_SEQ_CST);
}

/*
 * Counts the CPUs that have stored what they should have. Says which have not, but for those that
 * were offline; returns whether there is none.
 */
static bool compare(uint64_t number, bool own_input, unsigned long *touches)
{
	bool right = true;

	for (int i = 0; i < cpu_count; i++) {
		uint64_t found = words[cpus[i] * WORDS + RESULT];
		uint64_t wanted = number + (own_input ? pattern(cpus[i]) : 0);

		if (found == wanted) {
			(*touches)++;
		} else if (found || !is_away[cpus[i]]) {
			ksft_print_msg("CPU %u has stored 0x%llx, not 0x%llx\n", cpus[i],
				       (unsigned long long)found, (unsigned long long)wanted);
			right = false;
		}
	}
	return right;
}

static bool run_programs(const struct place *place, unsigned long rounds)
{
	const uint64_t areas = read_word(&values->all.areas), in_vain = tried_in_vain();
	unsigned long touches = 0, round;

	for (round = 0; round < rounds; round++) {
		uint64_t number = pattern(round << 32);
		int map, program, link;
		bool right;

		stay_on(cpus[0]);
		begin_mapping();
		map = page_per_cpu();
		for (int i = 0; i < cpu_count; i++)
			words[cpus[i] * WORDS + INPUT] = pattern(cpus[i]);
		last = 0;
		program = load_program(place, map, -1, number);
		if (program < 0)
			ksft_exit_fail_perror("BPF_PROG_LOAD");
		link = attach(place->tracepoint, program);
		if (link < 0)
			ksft_exit_fail_perror("BPF_RAW_TRACEPOINT_OPEN");
		end_mapping();
		right = pass_on_all_cpus(place);
		close(link);
		close(program);
		right = compare(number, true, &touches) && right;
		give_back(map);
		if (!right)
			break;
	}
	ksft_print_msg("programs: %lu\n", round);
	ksft_print_msg("touches: %lu\n", touches);
	report_mappings(areas, in_vain);
	return round == rounds;
}

static void test_programs(const char *name, const struct place *place, unsigned long rounds)
{
	if (begins(name))
		ksft_test_result(run_programs(place, rounds), "%s\n", name);
}

/* Makes an arena; @kernel is where the kernel has its first page, or 0 if nobody knows. */
static int new_arena(uint64_t *kernel)
{
	int arena;

	write_word(&values->all.size, 0);
	begin_mapping();
	arena = new_map(BPF_MAP_TYPE_ARENA, 0, ARENA_PAGES, ARENA);
	end_mapping();
	*kernel = 0;
	if (read_word(&values->all.size) >> 32)
		*kernel = read_word(&values->all.address) + ARENA_GUARD;
	return arena;
}

/* Each page of an arena is mapped here, and read by a program on all CPUs. */
static void read_arena(const char *name, const struct place *place, unsigned long pages)
{
	const uint64_t areas = read_word(&values->all.areas), in_vain = tried_in_vain();
	const uint64_t number = pattern(1UL << 48);
	unsigned long touches = 0, found = 0, page;
	int arena, map, program, link;
	uint64_t *memory, kernel;

	if (!begins(name))
		return;
	stay_on(cpus[0]);
	arena = new_arena(&kernel);
	if (arena < 0 && errno == EOPNOTSUPP) {
		skip_case(name, "no arenas in this kernel, or on this CPU: they need Zacas");
		return;
	}
	if (arena < 0 && errno == EINVAL) {
		skip_case(name, "no BPF_MAP_TYPE_ARENA in this kernel");
		return;
	}
	if (arena < 0)
		ksft_exit_fail_perror("BPF_MAP_CREATE of an arena");
	memory = map_memory((void *)ARENA, ARENA_PAGES * PAGE_SIZE, arena);
	if (!memory)
		ksft_exit_fail_perror("mmap of an arena");
	map = page_per_cpu();
	program = load_program(place, map, arena, number);
	if (program < 0)
		ksft_exit_fail_perror("BPF_PROG_LOAD with an arena");

	link = attach(place->tracepoint, program);
	if (link < 0)
		ksft_exit_fail_perror("BPF_RAW_TRACEPOINT_OPEN");
	for (page = 0; page < pages; page++) {
		const uint64_t address = kernel + page * PAGE_SIZE;
		bool right;

		last = page ? number + pattern(page - 1) : 0;
		set_on_all_cpus(INPUT, 0);
		set_on_all_cpus(RESULT, 0);
		stay_on(cpus[0]);
		if (kernel)
			try_in_vain(address, PAGE_SIZE);
		memory[page * WORDS] = pattern(page);
		set_on_all_cpus(INPUT, ARENA + page * PAGE_SIZE);
		right = pass_on_all_cpus(place);
		/* Now it does not matter any more whether this CPU sees it. */
		found += kernel && peek(cpus[0], address);
		if (!compare(number + pattern(page), false, &touches) || !right) {
			ksft_print_msg("at page %lu of the arena\n", page);
			break;
		}
	}
	close(link);
	close(program);
	give_back(map);
	munmap(memory, ARENA_PAGES * PAGE_SIZE);
	close(arena);
	ksft_print_msg("touches: %lu\n", touches);
	ksft_print_msg("pages where they were expected: %lu of %lu\n", found, page);
	report_mappings(areas, in_vain);
	ksft_test_result(page == pages, "%s\n", name);
}

int main(int argc, char **argv)
{
	unsigned long rounds = DEFAULT_ROUNDS, pages = DEFAULT_PAGES;
	const char *what;

	ksft_print_header();
	for (int i = 1; i < argc; i++) {
		if (!parse_number(argv[i], "rounds", 1, 1000000, &rounds) &&
		    !parse_number(argv[i], "pages", 1, ARENA_PAGES, &pages) &&
		    !parse_case(argv[i]))
			ksft_exit_fail_msg("%s: takes rounds=NUMBER, pages=NUMBER, case=NAME\n",
					   argv[i]);
	}
	what = missing_for_bpf();
	if (what)
		ksft_exit_skip("%s\n", what);
	start_workers(pass_once);
	ksft_set_plan(planned(4));
	test_programs("new_program_run_by_system_calls", &system_calls, rounds);
	test_programs("new_program_run_by_scheduler", &scheduler, rounds);
	read_arena("new_arena_page_read_by_system_calls", &system_calls, pages);
	read_arena("new_arena_page_read_by_scheduler", &scheduler, pages);

	ksft_finished();
}
