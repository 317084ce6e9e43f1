// SPDX-License-Identifier: GPL-2.0-only
/*
 * Submit requests through rings of io_uring that the kernel has just mapped.
 *
 * A process can provide the memory of its rings, and of rings of buffers. If that is
 * more than one piece of physical memory, the kernel maps it by vmap(), and uses the
 * mapping in the system calls of all threads. Here each CPU makes its first one as
 * soon as there is a ring, without a context switch in between.
 */

#include "primed.h"

#include <linux/io_uring.h>

#define DEFAULT_ROUNDS	8

/* Requests that fit into the rings: several pages of them */
#define ENTRIES		256
#define RING_SIZE	(16 * PAGE_SIZE)
#define ENTRIES_SIZE	(ENTRIES * sizeof(struct io_uring_sqe))

/* Buffers in their ring: several pages as well */
#define BUFFERS		1024
#define BUFFERS_SIZE	(BUFFERS * sizeof(struct io_uring_buf))
#define BUFFER_SIZE	8
#define GROUP		7

/* A ring, for all threads */
static int ring;
static int dev_zero;
static struct io_uring_params params;
static char *rings;
static struct io_uring_sqe *entries;
static struct io_uring_buf_ring *buffers;
static char *buffer_memory;

/* Requests that were accepted */
static unsigned int accepted, attempts;

/* Submits the next request that is in the ring. */
static void submit(void)
{
	long result = syscall(__NR_io_uring_enter, ring, 1, 0, 0, NULL, 0);

	if (result == 1)
		__atomic_fetch_add(&accepted, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&attempts, 1, __ATOMIC_RELEASE);
}

/* What all CPUs but the first one do all the time */
static void submit_once(struct worker *worker)
{
	uint64_t round = read_word(&values->all.round);

	if (round == worker->round)
		return;
	worker->round = round;
	if (round)
		submit();
}

static char *private_memory(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	return memory;
}

/*
 * Memory that is not one piece: the kernel would use the linear map for that. Pages
 * are allocated when they are written, here with others in between.
 */
static void *scattered_memory(size_t size)
{
	char *memory = private_memory(size), *between = private_memory(size);

	for (size_t offset = 0; offset < size; offset += PAGE_SIZE) {
		memory[offset] = 0;
		between[offset] = 1;
	}
	munmap(between, size);
	return memory;
}

/* Makes a ring; returns false with errno set. */
static bool make_ring(void)
{
	memset(&params, 0, sizeof(params));
	params.flags = IORING_SETUP_NO_MMAP;
	params.cq_off.user_addr = (uintptr_t)rings;
	params.sq_off.user_addr = (uintptr_t)entries;
	ring = syscall(__NR_io_uring_setup, ENTRIES, &params);
	return ring >= 0;
}

static unsigned int *in_ring(unsigned int offset)
{
	return (unsigned int *)(rings + offset);
}

/* Puts requests into the ring: reads into a buffer that the kernel chooses, or nothing to do. */
static void add_requests(int count, bool with_buffers)
{
	for (int i = 0; i < count; i++) {
		struct io_uring_sqe *entry = &entries[i];

		memset(entry, 0, sizeof(*entry));
		entry->user_data = i + 1;
		entry->opcode = IORING_OP_NOP;
		if (with_buffers) {
			entry->opcode = IORING_OP_READ;
			entry->fd = dev_zero;
			entry->len = BUFFER_SIZE;
			entry->flags = IOSQE_BUFFER_SELECT;
			entry->buf_group = GROUP;
		}
		in_ring(params.sq_off.array)[i] = i;
	}
	__atomic_store_n(in_ring(params.sq_off.tail), count, __ATOMIC_RELEASE);
}

/* Gives the kernel a ring of buffers; returns false with errno set. */
static bool add_buffers(int count)
{
	struct io_uring_buf_reg registration;

	memset(&registration, 0, sizeof(registration));
	registration.ring_addr = (uintptr_t)buffers;
	registration.ring_entries = BUFFERS;
	registration.bgid = GROUP;
	if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_PBUF_RING, &registration, 1))
		return false;
	memset(buffer_memory, 0x55, count * BUFFER_SIZE);
	for (int i = 0; i < count; i++) {
		struct io_uring_buf *buffer = &buffers->bufs[i];

		buffer->addr = (uintptr_t)buffer_memory + i * BUFFER_SIZE;
		buffer->len = BUFFER_SIZE;
		buffer->bid = i;
	}
	__atomic_store_n(&buffers->tail, count, __ATOMIC_RELEASE);
	return true;
}

/* Whether a buffer was read into */
static bool is_zero(const char *buffer)
{
	for (int i = 0; i < BUFFER_SIZE; i++) {
		if (buffer[i])
			return false;
	}
	return true;
}

/* Whether each request was completed once, and as it should be */
static bool are_completed(unsigned int count, bool with_buffers)
{
	unsigned int found = __atomic_load_n(in_ring(params.cq_off.tail), __ATOMIC_ACQUIRE);
	const struct io_uring_cqe *completion = (void *)(rings + params.cq_off.cqes);
	static bool seen[MAX_CPUS + 1];
	bool right = true;

	memset(seen, 0, sizeof(seen));
	if (accepted != count || found != count) {
		ksft_print_msg("requests: %u, accepted: %u, completed: %u\n", count, accepted,
			       found);
		right = false;
	}
	for (unsigned int i = 0; i < found && i < count; i++, completion++) {
		unsigned int id = completion->flags >> IORING_CQE_BUFFER_SHIFT;
		bool good = !completion->res;

		if (with_buffers)
			good = completion->res == BUFFER_SIZE &&
			       completion->flags & IORING_CQE_F_BUFFER && id < count &&
			       is_zero(buffer_memory + id * BUFFER_SIZE);
		if (!good || !completion->user_data || completion->user_data > count ||
		    seen[completion->user_data]) {
			ksft_print_msg("completion %u: request %llu, result %d, flags 0x%x\n", i,
				       (unsigned long long)completion->user_data,
				       completion->res, completion->flags);
			right = false;
			continue;
		}
		seen[completion->user_data] = true;
	}
	return right;
}

static void run(const char *test, unsigned long rounds, bool with_buffers)
{
	const uint64_t areas = read_word(&values->all.areas), in_vain = tried_in_vain();
	static uint64_t round;
	unsigned long done = 0, touches = 0;
	bool right = true;

	while (right && done < rounds) {
		stay_on(cpus[0]);
		rings = scattered_memory(RING_SIZE);
		entries = scattered_memory(ENTRIES_SIZE);
		buffers = scattered_memory(BUFFERS_SIZE);
		accepted = 0;
		attempts = 0;
		begin_mapping();
		if (!make_ring())
			ksft_exit_fail_perror("io_uring_setup");
		if (with_buffers && !add_buffers(cpu_count))
			ksft_exit_fail_perror("IORING_REGISTER_PBUF_RING");
		end_mapping();
		add_requests(cpu_count, with_buffers);
		write_word(&values->all.round, ++round);
		/* The others first: this CPU knows the mappings. */
		if (!all_have_come(&attempts)) {
			ksft_print_msg("threads: %d, requests: %u\n", worker_count, attempts);
			right = false;
		}
		write_word(&values->all.round, 0);
		submit();
		right = are_completed(attempts, with_buffers) && right;
		touches += accepted;
		close(ring);
		munmap(rings, RING_SIZE);
		munmap(entries, ENTRIES_SIZE);
		munmap(buffers, BUFFERS_SIZE);
		done++;
	}
	ksft_print_msg("rings: %lu\n", done);
	ksft_print_msg("touches: %lu\n", touches);
	report_mappings(areas, in_vain);
	ksft_test_result(right && touches, "%s\n", test);
}

/* What the kernel lacks, NULL if nothing */
static const char *missing(void)
{
	const int file = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY);
	const char *what = NULL;

	if (file < 0)
		return "no CONFIG_IO_URING";
	close(file);
	rings = scattered_memory(RING_SIZE);
	entries = scattered_memory(ENTRIES_SIZE);
	if (make_ring())
		close(ring);
	else if (errno == EPERM)
		what = "not allowed: see /proc/sys/kernel/io_uring_disabled";
	else if (errno == EINVAL)
		what = "the memory of rings cannot be provided in this kernel";
	else
		ksft_exit_fail_perror("io_uring_setup");
	munmap(rings, RING_SIZE);
	munmap(entries, ENTRIES_SIZE);
	return what;
}

int main(int argc, char **argv)
{
	static const char *const tests[] = { "new_ring_used", "new_ring_of_buffers_used" };
	unsigned long rounds = DEFAULT_ROUNDS;
	const char *what;

	ksft_print_header();
	parse_rounds_and_case(argc, argv, &rounds);
	what = missing();
	if (what)
		ksft_exit_skip("%s\n", what);
	dev_zero = open("/dev/zero", O_RDONLY);
	if (dev_zero < 0)
		ksft_exit_fail_perror("/dev/zero");
	buffer_memory = shared_memory(MAX_CPUS * BUFFER_SIZE);
	if (!buffer_memory)
		ksft_exit_fail_perror("mmap");
	start_workers(submit_once);
	if (cpu_count > ENTRIES)
		ksft_exit_skip("more than %d CPUs\n", ENTRIES);
	ksft_set_plan(planned(2));
	for (unsigned int i = 0; i < 2; i++) {
		if (begins(tests[i]))
			run(tests[i], rounds, i);
	}
	ksft_finished();
}
