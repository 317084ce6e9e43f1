// SPDX-License-Identifier: GPL-2.0-only
/*
 * The workloads of `lazymap bench`, one after the other. There is no C library in the guest.
 *
 *   workloads HARTS LONG	runs them on CPUs 0 to HARTS - 1, also the long ones if LONG is 1
 *   workloads			does nothing: what the exec storm executes
 *
 * A HINT instruction before and one after each tell the plugin in QEMU when to count, and a line
 * says which it was, how many things it did, and how long they took by the guest's clock:
 *
 *   phase 2 bpf-maps amount 600 ns 123400
 *
 * Exit status: 0, or 4 if the kernel has no BPF, or 1 if it breaks off.
 */
#include "guest.h"

#define EAGAIN			11
#define PROT_READ_WRITE		3
#define MAP_SHARED_ANONYMOUS	0x21
#define MS_RDONLY		1
#define CLOCK_MONOTONIC		1

#define MAP_TYPE_ARRAY		2
/* From the allocator of pages that are mapped already, and the first that vmalloc() has to map */
#define SMALL_MAP_BYTES		(16 << 10)
#define LARGE_MAP_BYTES		(40 << 10)

#define MAX_HARTS		64
#define CPU_WORDS		16

/* How often each thing is done */
#define FORKS			256
#define EXECS			192
#define BURST			8
#define LOADS			6
#define MESSAGE_BYTES		100
#define FILES			2

/* What all tasks see */
struct shared {
	/* Tasks other than the one that maps go on until this is set */
	volatile u64 done;
	/* How often the tasks on a CPU have met */
	volatile u64 rounds[MAX_HARTS];
};

static struct shared *shared;
static u64 affinity[CPU_WORDS];
static u64 harts;
static char *self;

static void pin(int cpu)
{
	affinity[0] = 1UL << cpu;
	if (sys(NR_SCHED_SETAFFINITY, 0, sizeof(affinity), (long)affinity, 0, 0) < 0)
		leave(1);
}

static long clone_task(void)
{
	long pid = sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0);

	if (pid < 0)
		leave(1);
	return pid;
}

/* Returns the exit status of a child, or 1 if it did not exit by itself */
static int wait_for(long pid)
{
	int status;

	if (sys(NR_WAIT4, pid, (long)&status, 0, 0, 0) < 0 || status & 0x7f)
		return 1;
	return status >> 8 & 0xff;
}

static void must(int status)
{
	if (status)
		leave(status);
}

static void make_pipe(int *ends)
{
	if (sys(NR_PIPE2, (long)ends, 0, 0, 0, 0) < 0)
		leave(1);
}

static void sleep_ms(long ms)
{
	long time[2] = { ms / 1000, ms % 1000 * 1000000 };

	sys(NR_NANOSLEEP, (long)time, 0, 0, 0, 0);
}

static u64 now(void)
{
	u64 time[2];

	if (sys(NR_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)time, 0, 0, 0) < 0)
		leave(1);
	return time[0] * 1000000000 + time[1];
}

static u64 number(const char *text)
{
	u64 value = 0;

	while (*text >= '0' && *text <= '9')
		value = value * 10 + *text++ - '0';
	return value;
}

static char *put(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	return to;
}

static char *put_number(char *to, u64 number)
{
	char digits[24];
	int count = 0;

	do {
		digits[count++] = '0' + number % 10;
		number /= 10;
	} while (number);
	while (count)
		*to++ = digits[--count];
	return to;
}

/*
 * slti with x0 as its destination is a HINT for custom use: it does nothing. The plugin starts to
 * count phase N at the one with N, and stops at the one with 0.
 */
#define MARK(n)		asm volatile("slti x0, x0, %0" : : "i"(n) : "memory")

/* Numbers of the phases, and their names; the tool has the same list */
#define PHASES(X)		\
	X(1, "none")		\
	X(2, "bpf-maps")	\
	X(3, "fork")		\
	X(4, "exec")		\
	X(5, "module")		\
	X(6, "fix-size")	\
	X(7, "full-fit")	\
	X(8, "busy-list")	\
	X(9, "vm-map-ram")	\
	X(10, "erofs")

static u64 began;

static void begin(int phase)
{
	began = now();
	switch (phase) {
#define X(n, name) case n: MARK(n); break;
	PHASES(X)
#undef X
	}
}

static void end(int phase, u64 amount)
{
	char line[120], *to = line;
	const char *name = "";
	u64 took;

	MARK(0);
	took = now() - began;
	switch (phase) {
#define X(n, text) case n: name = text; break;
	PHASES(X)
#undef X
	}
	to = put_number(put(to, "phase "), phase);
	to = put(put(to, " "), name);
	to = put_number(put(to, " amount "), amount);
	to = put_number(put(to, " ns "), took);
	to = put(to, "\n");
	sys(NR_WRITE, 1, (long)line, to - line, 0, 0);
}

/*
 * BPF maps, made and closed on the last CPU. On all others two tasks send a byte to and fro, which is
 * a switch each time. Small maps come first: all the same but that nothing new is mapped.
 */
static struct map map = {
	.type = MAP_TYPE_ARRAY,
	.key_size = 4,
	.entries = 1,
};

static int make_maps(u32 bytes, u64 maps)
{
	u64 i;

	map.value_size = bytes;
	for (i = 0; i < maps; i++) {
		long fd = sys(NR_BPF, MAP_CREATE, (long)&map, sizeof(map), 0, 0);

		if (fd < 0)
			return i ? 1 : 4;
		sys(NR_CLOSE, fd, 0, 0, 0, 0);
	}
	return 0;
}

/* Waits until all tasks but the one that maps have run, so that none is new to its hart */
static void wait_for_rounds(u64 from, u64 to)
{
	for (; from < to; from++) {
		while (shared->rounds[from] < 10)
			sleep_ms(1);
	}
}

static void make_maps_beside(u64 maps)
{
	int status;

	pin(harts - 1);
	status = make_maps(LARGE_MAP_BYTES, 4);
	wait_for_rounds(0, harts - 1);
	if (!status) {
		begin(1);
		status = make_maps(SMALL_MAP_BYTES, maps);
		end(1, maps);
	}
	if (!status) {
		begin(2);
		status = make_maps(LARGE_MAP_BYTES, maps);
		end(2, maps);
	}
	/* Or the pairs would go on for ever */
	shared->done = 1;
	leave(status);
}

static void echo(int from, int to)
{
	char byte;

	while (sys(NR_READ, from, (long)&byte, 1, 0, 0) == 1) {
		if (sys(NR_WRITE, to, (long)&byte, 1, 0, 0) != 1)
			leave(1);
	}
	leave(0);
}

static void pair(int cpu)
{
	int there[2], back[2];
	char byte = 'x';
	long pid;

	pin(cpu);
	make_pipe(there);
	make_pipe(back);
	pid = clone_task();
	if (!pid) {
		/* Its read ends when nobody else can write */
		sys(NR_CLOSE, there[1], 0, 0, 0, 0);
		echo(there[0], back[1]);
	}
	/* Nor does this side wait for one that is gone */
	sys(NR_CLOSE, there[0], 0, 0, 0, 0);
	sys(NR_CLOSE, back[1], 0, 0, 0, 0);
	while (!shared->done) {
		if (sys(NR_WRITE, there[1], (long)&byte, 1, 0, 0) != 1 ||
		    sys(NR_READ, back[0], (long)&byte, 1, 0, 0) != 1)
			leave(1);
		shared->rounds[cpu]++;
	}
	sys(NR_CLOSE, there[1], 0, 0, 0, 0);
	leave(wait_for(pid));
}

static void bpf_maps(void)
{
	u64 maps = 1600 / harts, i;
	long pid;

	/* All other harts execute as many instructions as the one that maps */
	maps = maps > 400 ? 400 : maps < 50 ? 50 : maps;
	shared->done = 0;
	pid = clone_task();
	if (!pid)
		make_maps_beside(maps);
	for (i = 0; i + 1 < harts; i++) {
		if (!clone_task())
			pair(i);
	}
	must(wait_for(pid));
	for (i = 0; i + 1 < harts; i++)
		must(wait_for(-1));
}

/*
 * A storm: tasks on the first half of the CPUs make children in bursts. Of those that only exit every
 * other one migrates to a CPU of the second half first.
 */
static void child(int executes, u64 i)
{
	char *argv[] = { self, 0 }, *envp[] = { 0 };
	u64 makers = (harts + 1) / 2;

	if (executes) {
		sys(NR_EXECVE, (long)self, (long)argv, (long)envp, 0, 0);
		leave(1);
	}
	if (harts > 1 && i % 2)
		pin(makers + i / 2 % (harts - makers));
	leave(0);
}

static void maker(int executes, u64 children)
{
	u64 made = 0, burst, i;

	while (made < children) {
		burst = children - made < BURST ? children - made : BURST;
		for (i = 0; i < burst; i++) {
			if (!clone_task())
				child(executes, made + i);
		}
		for (i = 0; i < burst; i++)
			must(wait_for(-1));
		made += burst;
	}
	leave(0);
}

static void storm(int phase, int executes, u64 children)
{
	u64 makers = (harts + 1) / 2, i;
	int gate[2];
	char byte;

	make_pipe(gate);
	for (i = 0; i < makers; i++) {
		if (clone_task())
			continue;
		pin(i);
		sys(NR_CLOSE, gate[1], 0, 0, 0, 0);
		sys(NR_READ, gate[0], (long)&byte, 1, 0, 0);
		sys(NR_CLOSE, gate[0], 0, 0, 0, 0);
		maker(executes, children / makers);
	}
	sys(NR_CLOSE, gate[0], 0, 0, 0, 0);
	/* Until all of them wait at the gate */
	sleep_ms(20);
	begin(phase);
	sys(NR_CLOSE, gate[1], 0, 0, 0, 0);
	for (i = 0; i < makers; i++)
		must(wait_for(-1));
	end(phase, children / makers * makers);
}

/* test_vmalloc tests while it is loaded, and then says that it should be loaded again */
static void test_vmalloc(const char *parameters)
{
	long fd = sys(NR_OPENAT, AT_FDCWD, (long)"test_vmalloc.ko", 0, 0, 0);

	if (fd < 0 || sys(NR_FINIT_MODULE, fd, (long)parameters, 0, 0, 0) != -EAGAIN)
		leave(1);
	sys(NR_CLOSE, fd, 0, 0, 0, 0);
}

static void modules(int phase, const char *parameters, u64 loads, u64 amount)
{
	u64 i;

	begin(phase);
	for (i = 0; i < loads; i++)
		test_vmalloc(parameters);
	end(phase, amount);
}

/*
 * Messages like those of hackbench: on each CPU but the first, two tasks send to two others. Beside
 * them a kernel thread, which stays on the first CPU, maps and unmaps pages with vm_map_ram().
 */
static void receive(int from)
{
	char message[MESSAGE_BYTES];

	while (sys(NR_READ, from, (long)message, sizeof(message), 0, 0) > 0)
		;
	leave(0);
}

static void send(int cpu, int to)
{
	static char message[MESSAGE_BYTES];

	while (!shared->done) {
		if (sys(NR_WRITE, to, (long)message, sizeof(message), 0, 0) < 0)
			leave(1);
		shared->rounds[cpu]++;
	}
	leave(0);
}

static void group(int cpu)
{
	int channel[2], i;

	pin(cpu);
	make_pipe(channel);
	for (i = 0; i < 4; i++) {
		if (clone_task())
			continue;
		sys(NR_CLOSE, channel[i < 2], 0, 0, 0, 0);
		if (i < 2)
			receive(channel[0]);
		send(cpu, channel[1]);
	}
	/* The receivers end when nobody can write any more */
	sys(NR_CLOSE, channel[0], 0, 0, 0, 0);
	sys(NR_CLOSE, channel[1], 0, 0, 0, 0);
	for (i = 0; i < 4; i++)
		must(wait_for(-1));
	leave(0);
}

/* Starts what is to run on all CPUs but the first, and waits until it does */
static void start_others(void (*task)(int cpu))
{
	u64 i;

	shared->done = 0;
	for (i = 1; i < harts; i++) {
		shared->rounds[i] = 0;
		if (!clone_task())
			task(i);
	}
	wait_for_rounds(1, harts);
}

static void end_others(void)
{
	u64 i;

	shared->done = 1;
	for (i = 1; i < harts; i++)
		must(wait_for(-1));
}

static void messages(void)
{
	/* All other harts execute as many instructions as the one that maps */
	u64 loops = harts > 8 ? harts > 16 ? 100 : 300 : 600;
	char parameters[120], *to = parameters;

	to = put(to, "run_test_mask=1024 nr_pages=16 test_loop_count=");
	*put_number(to, loops) = 0;
	start_others(group);
	modules(9, parameters, 1, loops);
	end_others();
}

static u64 read_whole(const char *path)
{
	static char buffer[64 << 10];
	long fd = sys(NR_OPENAT, AT_FDCWD, (long)path, 0, 0, 0);
	u64 bytes = 0;
	long got;

	if (fd < 0)
		leave(1);
	do {
		got = sys(NR_READ, fd, (long)buffer, sizeof(buffer), 0, 0);
		if (got < 0)
			leave(1);
		bytes += got;
	} while (got);
	sys(NR_CLOSE, fd, 0, 0, 0, 0);
	return bytes;
}

/*
 * Compressed files, read on the first CPU. EROFS maps the pages of each piece with vm_map_ram() to
 * decompress into them. On all other CPUs two tasks send a byte to and fro.
 */
static void compressed_files(void)
{
	char path[] = "erofs/0";
	u64 bytes = 0, i;

	sys(NR_MKDIRAT, AT_FDCWD, (long)"erofs", 0755, 0, 0);
	if (sys(NR_MOUNT, (long)"ram/erofs.img", (long)"erofs", (long)"erofs", MS_RDONLY, 0) < 0)
		leave(1);
	start_others(pair);
	begin(10);
	for (i = 0; i < FILES; i++) {
		path[sizeof(path) - 2] = '0' + i;
		bytes += read_whole(path);
	}
	end(10, bytes >> 10);
	end_others();
}

/* The stack as the kernel leaves it: argc, and then argv */
__attribute__((used)) static void start(u64 *stack)
{
	char **argv = (char **)(stack + 1);

	if (stack[0] == 1)
		leave(0);
	self = argv[0];
	harts = number(argv[1]);
	if (stack[0] != 3 || !harts || harts > MAX_HARTS)
		leave(1);
	shared = (struct shared *)sys(NR_MMAP, 0, 4096, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, -1);
	if ((long)shared < 0)
		leave(1);
	pin(0);
	bpf_maps();
	storm(3, 0, FORKS);
	storm(4, 1, EXECS);
	modules(5, "run_test_mask=8192", LOADS, LOADS);
	modules(6, "run_test_mask=1 test_loop_count=2000", 1, 2000);
	if (number(argv[2])) {
		modules(7, "run_test_mask=2 test_loop_count=1000", 1, 1000);
		modules(8, "run_test_mask=4 test_loop_count=50", 1, 50);
	}
	messages();
	compressed_files();
	leave(0);
}

asm(".globl _start\n"
    "_start:\n"
    "	mv	a0, sp\n"
    "	andi	sp, sp, -16\n"
    "	call	start\n");
