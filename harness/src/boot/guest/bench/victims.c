// SPDX-License-Identifier: GPL-2.0-only
/*
 * Harts that map nothing, beside one that does nothing else. There is no C library in the guest.
 *
 *   victims MAPS ROUNDS
 *
 * On each of CPUs 0 to 2 two tasks send a byte to and fro, which is a switch each time. CPU 3 makes
 * and closes MAPS BPF array maps of 128 KiB, each of which is mapped into vmalloc space. The pairs
 * exchange ROUNDS bytes at least, and go on until the last map is made.
 *
 * Exit status: 0, or 4 if the kernel has no BPF, or 1 if it breaks off.
 */
typedef unsigned int u32;
typedef unsigned long u64;

#define NR_CLOSE		57
#define NR_PIPE2		59
#define NR_READ			63
#define NR_WRITE		64
#define NR_EXIT			93
#define NR_SCHED_SETAFFINITY	122
#define NR_CLONE		220
#define NR_MMAP			222
#define NR_WAIT4		260
#define NR_BPF			280

#define SIGCHLD			17
#define PROT_READ_WRITE		3
#define MAP_SHARED_ANONYMOUS	0x21

#define MAP_CREATE		0
#define MAP_TYPE_ARRAY		2
#define MAP_BYTES		(128 << 10)

#define VICTIMS			3
#define PRODUCER		3
#define CPU_WORDS		16

static long sys(long nr, long a, long b, long c, long d, long e)
{
	register long a0 asm("a0") = a;
	register long a1 asm("a1") = b;
	register long a2 asm("a2") = c;
	register long a3 asm("a3") = d;
	register long a4 asm("a4") = e;
	register long a5 asm("a5") = 0;
	register long a7 asm("a7") = nr;

	asm volatile("ecall" : "+r"(a0)
		     : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7) : "memory");
	return a0;
}

static void leave(int status)
{
	for (;;)
		sys(NR_EXIT, status, 0, 0, 0, 0);
}

/* What all tasks see */
struct shared {
	volatile u64 announced;
	volatile u64 done;
	volatile u64 rounds[VICTIMS];
};

static struct shared *shared;
static u64 affinity[CPU_WORDS];

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

/* Returns the exit status of the child, or 1 if it did not exit by itself */
static int wait_for(long pid)
{
	int status;

	if (sys(NR_WAIT4, pid, (long)&status, 0, 0, 0) != pid || status & 0x7f)
		return 1;
	return status >> 8 & 0xff;
}

struct map {
	u32 type;
	u32 key_size;
	u32 value_size;
	u32 entries;
	u32 rest[28];
};

static struct map map = {
	.type = MAP_TYPE_ARRAY,
	.key_size = 4,
	.value_size = MAP_BYTES,
	.entries = 1,
};

static void producer(u64 maps)
{
	int status = 0;
	u64 i;

	pin(PRODUCER);
	for (i = 0; i < maps; i++) {
		long fd = sys(NR_BPF, MAP_CREATE, (long)&map, sizeof(map), 0, 0);

		if (fd < 0) {
			status = i ? 1 : 4;
			break;
		}
		sys(NR_CLOSE, fd, 0, 0, 0, 0);
		shared->announced = i + 1;
	}
	/* Or the pairs would wait for ever */
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

static void pair(int cpu, u64 rounds)
{
	int there[2], back[2];
	char byte = 'x';
	u64 i;
	long pid;

	pin(cpu);
	if (sys(NR_PIPE2, (long)there, 0, 0, 0, 0) < 0 || sys(NR_PIPE2, (long)back, 0, 0, 0, 0) < 0)
		leave(1);
	pid = clone_task();
	if (!pid) {
		/* Its read ends when nobody else can write */
		sys(NR_CLOSE, there[1], 0, 0, 0, 0);
		echo(there[0], back[1]);
	}
	/* Nor does this side wait for one that is gone */
	sys(NR_CLOSE, there[0], 0, 0, 0, 0);
	sys(NR_CLOSE, back[1], 0, 0, 0, 0);
	for (i = 0; i < rounds || !shared->done; i++) {
		if (sys(NR_WRITE, there[1], (long)&byte, 1, 0, 0) != 1 ||
		    sys(NR_READ, back[0], (long)&byte, 1, 0, 0) != 1)
			leave(1);
	}
	shared->rounds[cpu] = i;
	sys(NR_CLOSE, there[1], 0, 0, 0, 0);
	leave(wait_for(pid));
}

static void print(const char *what, u64 number)
{
	char line[80];
	char digits[24];
	int length = 0, count = 0;

	while (*what)
		line[length++] = *what++;
	do {
		digits[count++] = '0' + number % 10;
		number /= 10;
	} while (number);
	while (count)
		line[length++] = digits[--count];
	line[length++] = '\n';
	sys(NR_WRITE, 1, (long)line, length, 0, 0);
}

static u64 number(const char *text)
{
	u64 value = 0;

	while (*text >= '0' && *text <= '9')
		value = value * 10 + *text++ - '0';
	return value;
}

/* The stack as the kernel leaves it: argc, and then argv */
__attribute__((used)) static void start(u64 *stack)
{
	char **argv = (char **)(stack + 1);
	long victims[VICTIMS], producing;
	u64 maps, rounds, switches = 0;
	int i, status = 0;

	if (stack[0] != 3)
		leave(1);
	maps = number(argv[1]);
	rounds = number(argv[2]);
	shared = (struct shared *)sys(NR_MMAP, 0, 4096, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, -1);
	if ((long)shared < 0)
		leave(1);

	producing = clone_task();
	if (!producing)
		producer(maps);
	for (i = 0; i < VICTIMS; i++) {
		victims[i] = clone_task();
		if (!victims[i])
			pair(i, rounds);
	}
	status = wait_for(producing);
	for (i = 0; i < VICTIMS; i++) {
		if (wait_for(victims[i]))
			status = status ? status : 1;
		switches += 2 * shared->rounds[i];
	}
	print("announcements: ", shared->announced);
	print("switches: ", switches);
	leave(status);
}

asm(".globl _start\n"
    "_start:\n"
    "	mv	a0, sp\n"
    "	andi	sp, sp, -16\n"
    "	call	start\n");
