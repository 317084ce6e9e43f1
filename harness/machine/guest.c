// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of the CPU property x-cache-invalid: a guest without firmware that runs
 * S-mode stubs from M-mode, page by page, and knows at each access whether the
 * model has to let it through.
 *
 * It speaks TAP on the serial port. At its end it prints what the counters of
 * each hart have to be ("expect hart=..."), for the host to compare with what
 * QEMU says. The word at PARAMS, set by the command line, says what the machine
 * is.
 */
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#define UART		((volatile u8 *)0x10000000)
#define TEST_DEVICE	((volatile u32 *)0x100000)
/* not part of the image, so not reloaded by a reset */
#define PARAMS		(*(volatile u64 *)0x80f00000)
#define STAGE		(*(volatile u64 *)0x80f00010)
#define KEPT		((struct counters *)0x80f00020)
#define PARAM_MODEL	1	/* x-cache-invalid=on */
#define PARAM_SVVPTC	2	/* svvptc=on */
#define PARAM_V		4	/* v=on */
#define PARAM_SVINVAL	16	/* svinval=on */
#define PARAM_SPIN	32	/* wait in S-mode for the monitor to look at pages */
#define PARAM_THEAD	8	/* xtheadsync=on */
#define PARAM_GLOBAL	64	/* coexist=global */
#define PARAM_ANY	128	/* coexist=any */
#define PARAM_VALID	256	/* choice=valid */
#define PARAM_RANDOM	512	/* choice=random */
#define PARAM_RATE	1024	/* evict-rate=1 */
/* one bit for each word of evict-at, in the order of `events` */
#define PARAM_EVICT	16

#define V	0x01
#define R	0x02
#define W	0x04
#define X	0x08
#define U	0x10
#define G	0x20
#define A	0x40
#define D	0x80
#define RWX	(V | R | W | X | A | D)

enum { BREAK = 3, FETCH = 12, LOAD = 13, STORE = 15, ECALL_U = 8, ECALL_S = 9 };

struct visit { u64 pc, a0, a1, mpp, cause, tval, epc, ret; };
struct counters { u64 stale, fences, remembered, coexisting, invalid, evictions; };

void run_at(struct visit *v);
void stub_nothing(void), stub_load(void), stub_store(void), stub_amo(void);
void stub_lr(void), stub_sc(void), stub_fetch(void), stub_satp(void);
void stub_sum(void), stub_fof(void), stub_fencei(void), stub_cross(void);
void fence_all(void), fence_va(void), fence_asid(void), fence_va_asid(void);
void fence_sinval(void), fence_winval(void), fence_hvvma(void);
void fence_hgvma(void), fence_hinvalv(void), fence_hinvalg(void);
void fence_thead(void), stub_spin(void), stub_break(void);
void stub_sscratch_set(void), stub_sscratch_swap(void), stub_sscratch_read(void);
void stub_sstatus(void), stub_sepc(void), stub_scause(void);

typedef u64 table[512] __attribute__((aligned(4096)));
static table root, levels[4], l0_a, l0_b, l0_low, low_levels[4];
static u8 pages[4][4096] __attribute__((aligned(4096)));

static struct counters *kept;
static u64 tests, failures, model;
static u64 satp_mode, va_top;

/* hart 1 runs one visit at a time for hart 0 */
static volatile struct { u64 go, satp; struct visit v; } mail;

/* the compiler calls it */
void *memset(void *p, int c, u64 n)
{
	volatile u8 *b = p;

	while (n--)
		*b++ = c;
	return p;
}

static void put(char c)
{
	while (!(UART[5] & 0x20))
		;
	UART[0] = c;
}

static void say(const char *s)
{
	while (*s)
		put(*s++);
}

static void say_hex(u64 v)
{
	say("0x");
	for (int i = 60; i >= 0; i -= 4)
		put("0123456789abcdef"[v >> i & 15]);
}

static void say_dec(u64 v)
{
	if (v > 9)
		say_dec(v / 10);
	put('0' + v % 10);
}

static void check(int ok, const char *what, const char *more)
{
	tests++;
	failures += !ok;
	say(ok ? "ok " : "not ok ");
	say_dec(tests);
	say(" - ");
	say(satp_mode == 8 ? "sv39 " : satp_mode == 9 ? "sv48 " : "sv57 ");
	say(what);
	if (more && *more) {
		say(": ");
		say(more);
	}
	say("\n");
}

static u64 pte(void *pa, u64 flags)
{
	return (u64)pa >> 12 << 10 | flags;
}

static u64 satp(u64 asid)
{
	return satp_mode << 60 | asid << 44 | (u64)root >> 12;
}

static void set_pte(u64 *t, int i, u64 v)
{
	__atomic_store_n(&t[i], v, __ATOMIC_SEQ_CST);
}

static struct visit visit(void (*stub)(void), u64 a0, u64 a1, u64 mpp)
{
	struct visit v = { .pc = (u64)stub, .a0 = a0, .a1 = a1, .mpp = mpp };

	run_at(&v);
	return v;
}

/* one S-mode access; wants cause "want" (and stval) */
static void access(void (*stub)(void), u64 va, u64 want, const char *what)
{
	struct visit v = visit(stub, va, (u64)pages[3], 1);
	int ok = v.cause == want && (want == ECALL_S || v.tval == va);

	check(ok, what, ok ? 0 : "wrong trap");
	if (!ok) {
		say("# cause "); say_dec(v.cause); say(", wanted "); say_dec(want);
		say(", tval "); say_hex(v.tval); say(", va "); say_hex(va);
		say("\n");
	}
}

/* an access that the model makes fault; without the model it goes through */
static void stale(void (*stub)(void), u64 va, u64 cause, const char *what)
{
	access(stub, va, model ? cause : ECALL_S, what);
	kept[0].stale += model;
}

static void fence(void)
{
	visit(fence_all, 0, 0, 1);
	kept[0].fences++;
}

/* a write to satp that changes it empties QEMU's TLB, but is no fence */
static void empty_tlb(void)
{
	visit(stub_satp, satp(3), 0, 1);
	visit(stub_satp, satp(1), 0, 1);
}

/* to be said where the hart takes down a table */
static void remembers(void)
{
	kept[0].remembered++;
}

static u64 page(u64 region, int i)
{
	return region + ((u64)i << 12);
}

/* fence, clear all but page 0 of the table, touch page 0 */
static void fresh(u64 *l0, u64 region)
{
	for (int i = 0; i < 512; i++)
		set_pte(l0, i, 0);
	set_pte(l0, 0, pte(pages[0], RWX));
	fence();
	access(stub_load, region, ECALL_S, "touch the valid neighbour");
	remembers();
}

static void map_region(u64 *top, u64 va, table *lower, int *used, u64 *l0)
{
	u64 *t = top;
	int levels_n = satp_mode - 8 + 3;

	for (int l = levels_n - 1; l > 0; l--) {
		int i = va >> (12 + 9 * l) & 511;

		if (l == 1) {
			t[i] = pte(l0, V);
		} else {
			if (!t[i])
				t[i] = pte(lower[(*used)++], V);
			t = (u64 *)(t[i] >> 10 << 12);
		}
	}
}

static u64 *l1_of(u64 va)
{
	u64 *t = root;

	for (int l = satp_mode - 8 + 2; l > 1; l--)
		t = (u64 *)(t[va >> (12 + 9 * l) & 511] >> 10 << 12);
	return t;
}

static void clear(u64 *t)
{
	for (int i = 0; i < 512; i++)
		t[i] = 0;
}

static void tests_of_mode(u64 mode)
{
	u64 ra, rb, rlow, l;
	int used = 0, used_low = 0;
	struct visit v;

	satp_mode = mode;
	va_top = ~0ul << (12 + 9 * (mode - 8 + 3) - 1);
	ra = va_top;			/* lowest address of the upper half */
	rb = va_top + 0x200000;
	rlow = 0x200000;

	clear(root);
	for (int i = 0; i < 4; i++) {
		clear(levels[i]);
		clear(low_levels[i]);
	}
	map_region(root, ra, levels, &used, l0_a);
	map_region(root, rb, levels, &used, l0_b);
	map_region(root, rlow, low_levels, &used_low, l0_low);
	/* this program, at its own address, in a gigapage */
	l = mode - 8 + 2;
	u64 *t = root;
	for (; l > 2; l--)
		t = (u64 *)(t[0] >> 10 << 12);
	t[2] = 0x80000000ul >> 2 | RWX;
	asm volatile("csrw satp, %0" :: "r"(satp(1)));
	if (__builtin_expect(({ u64 s; asm volatile("csrr %0, satp" : "=r"(s)); s; }) != satp(1), 0)) {
		check(0, "the CPU has this mode", 0);
		return;
	}
	for (int i = 0; i < 4; i++)
		*(u32 *)pages[i] = 0x00000073;	/* ecall, for fetches */

	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "load from a page made valid");
	stale(stub_load, page(ra, 1), LOAD, "load again");
	set_pte(l0_a, 2, pte(pages[1], RWX));
	stale(stub_store, page(ra, 2), STORE, "store");
	set_pte(l0_a, 3, pte(pages[1], RWX));
	stale(stub_amo, page(ra, 3), STORE, "amo");
	set_pte(l0_a, 4, pte(pages[2], RWX));
	stale(stub_fetch, page(ra, 4), FETCH, "fetch");
	set_pte(l0_a, 511, pte(pages[1], RWX));
	stale(stub_lr, page(ra, 511), LOAD, "lr, last page of the table");
	v = visit(stub_cross, page(ra, 1), 0, 1);
	check(v.cause == (model ? LOAD : ECALL_S), "load across into an invalid page", 0);
	kept[0].stale += model;
	v = visit(stub_sum, page(ra, 1), 1 << 18, 1);
	check(v.cause == (model ? LOAD : ECALL_S), "load with SUM", 0);
	kept[0].stale += model;
	asm volatile("csrc sstatus, %0" :: "r"(1 << 18));
	stale(stub_store, page(ra, 1), STORE, "store to the page that a load faulted on");
	*(u32 *)pages[1] = 0x73;
	stale(stub_fetch, page(ra, 1), FETCH, "fetch from it");
	access(stub_load, ra, ECALL_S, "the neighbour is still there");

	/* what must not forget */
	empty_tlb();
	stale(stub_load, page(ra, 1), LOAD, "a write to satp does not forget");
	visit(stub_fencei, 0, 0, 1);
	stale(stub_load, page(ra, 1), LOAD, "fence.i and fence do not forget");
	v = visit(fence_winval, 0, 0, 1);
	check(v.cause == (PARAMS & PARAM_SVINVAL ? ECALL_S : 2), "sfence.w.inval, sfence.inval.ir", 0);
	stale(stub_load, page(ra, 1), LOAD, "sfence.w.inval and sfence.inval.ir do not forget");
	asm volatile("csrw pmpaddr1, %0" :: "r"(-1l));
	stale(stub_load, page(ra, 1), LOAD, "a write to a PMP register does not forget");
	*(u32 *)pages[2] = 0x12000073;	/* sfence.vma */
	set_pte(l0_a, 12, pte(pages[2], RWX | U));
	v = visit((void (*)(void))page(ra, 12), 0, 0, 0);
	check(v.cause == 2, "sfence.vma is illegal in U-mode", 0);
	stale(stub_load, page(ra, 1), LOAD, "and does not forget then");

	/* who is not affected */
	asm volatile("csrs mstatus, %0" :: "r"(1 << 17 | 1 << 11));
	u64 got;
	asm volatile("li t0, 1 << 12; csrc mstatus, t0; ld %0, 0(%1); li t0, 1 << 17; csrc mstatus, t0"
		     : "=r"(got) : "r"(page(ra, 2)) : "t0", "memory");
	check(got == *(u64 *)pages[1], "MPRV load of M-mode", 0);
	/* as it has filled QEMU's TLB */
	empty_tlb();
	*(u32 *)pages[1] = 0x73;
	set_pte(l0_a, 5, pte(pages[1], RWX | U));
	v = visit(stub_load, page(ra, 5), 0, 0);
	/* the stub itself is no user page: use a fetch to see U-mode get there */
	check(v.cause == FETCH, "U-mode cannot run the stub", 0);
	v = visit((void (*)(void))page(ra, 5), 0, 0, 0);
	check(v.cause == ECALL_U, "U-mode fetch", 0);

	/* only what walks */
	set_pte(l0_b, 0, pte(pages[0], RWX));
	set_pte(l0_b, 1, 0);
	set_pte(l0_b, 2, 0);
	set_pte(l0_b, 1, pte(pages[1], RWX));
	access(stub_load, page(rb, 1), ECALL_S, "a table not walked to is not remembered");
	remembers();
	set_pte(l0_b, 2, pte(pages[1], RWX));
	stale(stub_load, page(rb, 2), LOAD, "now it is");

	/* the address space */
	visit(stub_satp, satp(2), 0, 1);
	access(stub_load, page(ra, 1), ECALL_S, "another ASID does not see it");
	remembers();
	visit(stub_satp, satp(1), 0, 1);
	stale(stub_load, page(ra, 1), LOAD, "back in the first one it is still there");
	access(stub_load, page(rb, 1), ECALL_S, "and what was valid, too");

	/* the fences */
	static const struct { void (*stub)(void); const char *what; u64 a1; u64 need; } fences[] = {
		{ fence_all, "sfence.vma x0, x0 forgets", 0, 0 },
		{ fence_va, "sfence.vma va, x0 forgets", 0, 0 },
		{ fence_asid, "sfence.vma x0, asid forgets", 1, 0 },
		{ fence_va_asid, "sfence.vma va, asid forgets", 1, 0 },
		{ fence_sinval, "sinval.vma forgets", 0, PARAM_SVINVAL },
		{ fence_hvvma, "hfence.vvma forgets", 0, 0 },
		{ fence_hgvma, "hfence.gvma forgets", 0, 0 },
		{ fence_hinvalv, "hinval.vvma forgets", 0, PARAM_SVINVAL },
		{ fence_hinvalg, "hinval.gvma forgets", 0, PARAM_SVINVAL },
		{ fence_thead, "th.sfence.vmas forgets", 0, PARAM_THEAD },
	};
	for (u64 i = 0; i < sizeof(fences) / sizeof(fences[0]); i++) {
		if (fences[i].need & ~PARAMS)
			continue;
		fresh(l0_a, ra);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		stale(stub_load, page(ra, 1), LOAD, "before the fence");
		v = visit(fences[i].stub, page(ra, 1), fences[i].a1, 1);
		check(v.cause == ECALL_S, "the fence is no illegal instruction", 0);
		kept[0].fences++;
		kept[1].fences += fences[i].stub == fence_thead;
		access(stub_load, page(ra, 1), ECALL_S, fences[i].what);
		remembers();
		access(stub_store, page(ra, 1), ECALL_S, "store after it");
		access(stub_amo, page(ra, 1), ECALL_S, "amo after it");
		*(u32 *)pages[1] = 0x73;
		access(stub_fetch, page(ra, 1), ECALL_S, "fetch after it");
	}
	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "before the fence in M-mode");
	asm volatile("sfence.vma" ::: "memory");
	kept[0].fences++;
	access(stub_load, page(ra, 1), ECALL_S, "sfence.vma in M-mode forgets");
	remembers();

	/* a walk that fails remembers as well, for the page and its neighbours */
	for (int i = 0; i < 512; i++)
		set_pte(l0_a, i, 0);
	fence();
	access(stub_store, page(ra, 7), STORE, "a genuine fault");
	remembers();
	set_pte(l0_a, 7, pte(pages[1], RWX));
	set_pte(l0_a, 8, pte(pages[1], RWX));
	stale(stub_load, page(ra, 7), LOAD, "the page of a failed walk is remembered");
	stale(stub_load, page(ra, 8), LOAD, "its neighbour is, too");
	set_pte(l0_a, 8, 0);
	empty_tlb();
	access(stub_load, page(ra, 8), LOAD, "invalid again: not a stale hit");

	/* valid at the snapshot */
	fresh(l0_a, ra);
	set_pte(l0_a, 0, 0);
	empty_tlb();
	access(stub_load, page(ra, 0), LOAD, "a page made invalid faults");
	set_pte(l0_a, 0, pte(pages[0], RWX));
	access(stub_load, page(ra, 0), ECALL_S, "what was valid is not remembered as invalid");

	/* the real walk would not have succeeded: no stale hit */
	set_pte(l0_a, 6, pte(pages[1], V | R | A | D));
	access(stub_store, page(ra, 6), STORE, "store to a read-only page");
	stale(stub_load, page(ra, 6), LOAD, "load from it");
	set_pte(l0_a, 9, pte(pages[1], V | W));
	access(stub_load, page(ra, 9), LOAD, "reserved PTE");

	/* no A/D update by an access that faults */
	set_pte(l0_a, 10, pte(pages[1], V | R | W));
	v = visit(stub_store, page(ra, 10), 0, 1);
	check(!model || !(l0_a[10] & (A | D)), "A and D are not set by an access that faults", 0);
	/* a stale hit only where the hardware sets A and D */
	if (model && ({ u64 e; asm volatile("csrr %0, 0x30a" : "=r"(e)); e; }) >> 61 & 1)
		kept[0].stale++;

	/* the lower half */
	for (int i = 0; i < 512; i++)
		set_pte(l0_low, i, 0);
	set_pte(l0_low, 0, pte(pages[0], RWX));
	fence();
	access(stub_load, rlow, ECALL_S, "touch the lower half");
	set_pte(l0_low, 1, pte(pages[1], RWX));
	access(stub_load, page(rlow, 1), ECALL_S, "an address in the lower half is not remembered");

	/* absent tables and huge leaves */
	u64 *l1 = l1_of(ra);
	u64 rhuge = va_top + 0x400000, rabsent = va_top + 0x600000;
	access(stub_load, rhuge, LOAD, "no table");
	access(stub_load, rabsent, LOAD, "no table either");
	set_pte(l1, 2, 0x80000000ul >> 2 | RWX);
	set_pte(l0_b, 1, pte(pages[1], RWX));
	set_pte(l1, 3, pte(l0_b, V));
	access(stub_load, rhuge, ECALL_S, "an invalid huge leaf is not remembered");
	access(stub_load, page(rabsent, 1), ECALL_S, "an absent table is not remembered");
	remembers();

	if (PARAMS & PARAM_V) {
		asm volatile("csrs mstatus, %0" :: "r"(3 << 9));
		fresh(l0_a, ra);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		v = visit(stub_fof, page(ra, 1) - 8, 0, 1);
		check(v.cause == ECALL_S && v.ret == (model ? 8 : 16),
		      "a probing access fails without a trap", 0);
		stale(stub_load, page(ra, 1), LOAD, "the access proper traps");
		v = visit(stub_fof, page(ra, 1), 0, 1);
		check(v.cause == (model ? LOAD : ECALL_S),
		      "the first element of vle8ff traps", 0);
		/* it is an access, not a probe */
		kept[0].stale += model;
		fence();
		v = visit(stub_fof, page(ra, 1) - 8, 0, 1);
		remembers();
		check(v.cause == ECALL_S && v.ret == 16, "nothing to probe after the fence", 0);
	}

	/* many tables at once: all 512 regions with one and the same table */
	fresh(l0_a, ra);
	for (int i = 0; i < 512; i++)
		set_pte(l1, i, pte(l0_a, V));
	int bad = 0;
	for (int i = 1; i < 512; i++)
		bad += visit(stub_load, va_top + i * 0x200000ul, 0, 1).cause != ECALL_S;
	if (model)
		kept[0].remembered += 511;
	check(!bad, "touch 512 tables", 0);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	for (int i = 0; i < 512; i++)
		bad += visit(stub_load, va_top + i * 0x200000ul + 4096, 0, 1).cause !=
			(model ? LOAD : ECALL_S);
	if (model)
		kept[0].stale += 512;
	check(!bad, "512 tables are remembered at once", 0);
	fence();
	for (int i = 0; i < 512; i++)
		bad += visit(stub_load, va_top + i * 0x200000ul + 4096, 0, 1).cause != ECALL_S;
	if (model)
		kept[0].remembered += 512;
	check(!bad, "one fence forgets them all", 0);
	clear(l1);
	l1[0] = pte(l0_a, V);
	fence();

	/* the other hart: what one forgets, the other one does not */
	fresh(l0_a, ra);
	mail.satp = satp(1);
	mail.v = (struct visit){ .pc = (u64)stub_load, .a0 = ra, .mpp = 1 };
	__atomic_store_n(&mail.go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
		;
	check(mail.v.cause == ECALL_S, "hart 1 touches the table", 0);
	kept[1].remembered++;
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "stale on hart 0");
	fence();
	access(stub_load, page(ra, 1), ECALL_S, "not after its fence");
	remembers();
	mail.v = (struct visit){ .pc = (u64)stub_load, .a0 = page(ra, 1), .mpp = 1 };
	__atomic_store_n(&mail.go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
		;
	check(mail.v.cause == (model ? LOAD : ECALL_S), "hart 1 still remembers", 0);
	kept[1].stale += model;
	if (PARAMS & PARAM_THEAD) {
		visit(fence_thead, 0, 0, 1);
		kept[0].fences++;
		kept[1].fences++;
	} else {
		mail.v = (struct visit){ .pc = (u64)fence_all, .mpp = 1 };
		__atomic_store_n(&mail.go, 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
			;
		kept[1].fences++;
	}
	mail.v = (struct visit){ .pc = (u64)stub_load, .a0 = page(ra, 1), .mpp = 1 };
	__atomic_store_n(&mail.go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
		;
	check(mail.v.cause == ECALL_S, "hart 1 forgets at its own fence", 0);
	kept[1].remembered++;
	mail.v = (struct visit){ .pc = (u64)fence_all, .mpp = 1 };
	__atomic_store_n(&mail.go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
		;
	kept[1].fences++;

	/* Svvptc: retrying ends (takes time, so once) */
	if (mode != 8)
		return;
	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	u64 n = 0;
	u64 start, end;
	asm volatile("csrr %0, time" : "=r"(start));
	do {
		n += model;
		v = visit(stub_load, page(ra, 1), 0, 1);
		asm volatile("csrr %0, time" : "=r"(end));
	} while (v.cause == LOAD && end - start < 30000000);
	/* the clock has 10 MHz */
	if (!model)
		check(v.cause == ECALL_S, "no retries", 0);
	else if (PARAMS & PARAM_SVVPTC)
		check(v.cause == ECALL_S && end - start >= 10000000 && end - start < 21000000,
		      "Svvptc: the PTE is used after one to two seconds", 0);
	else
		check(v.cause == LOAD, "no bound without Svvptc", 0);
	/* all were stale hits, but for the last one with Svvptc */
	kept[0].stale += n;
	if (model && (PARAMS & PARAM_SVVPTC))
		kept[0].stale--;
	if (model && (PARAMS & PARAM_SVVPTC))
		kept[0].remembered++;
	fence();
}

/* an access to a page that is remembered as invalid, and valid now */
static void both(void (*stub)(void), u64 va, u64 cause, int valid, const char *what)
{
	kept[0].coexisting++;
	if (valid) {
		access(stub, va, ECALL_S, what);
	} else {
		stale(stub, va, cause, what);
		kept[0].invalid++;
	}
}

static void event_trap_s(void)
{
	check(visit(stub_break, 0, 0, 1).cause == ECALL_S, "trap from S-mode", 0);
}

static void event_trap_u(void)
{
	/* the last page of the table, which is a user's */
	check(visit((void (*)(void))page(va_top, 511), 0, 0, 0).cause == ECALL_S, "trap from U-mode", 0);
}

static void event_sscratch_set(void)
{
	visit(stub_sscratch_set, 0, 0, 1);
}

static void event_sscratch_swap(void)
{
	visit(stub_sscratch_swap, 0, 0, 1);
}

static void event_sstatus(void)
{
	visit(stub_sstatus, 0, 0, 1);
}

static void event_sepc(void)
{
	visit(stub_sepc, 0, 0, 1);
}

/* what is not asked for, and nothing of the kind */
static void event_none(void)
{
	visit(stub_sscratch_read, 0, 0, 1);
	visit(stub_scause, 0, 0, 1);
	/* a trap to M-mode */
	visit(stub_nothing, 0, 0, 1);
}

enum { TRAP_S = 1, TRAP_U = 2, SSCRATCH = 4, SSCRATCH_SET = 8, SSTATUS = 16, SEPC = 32 };

static const struct { void (*happens)(void); const char *what; u64 evicts; } events[] = {
	{ event_trap_s, "a trap from S-mode", TRAP_S },
	{ event_trap_u, "a trap from U-mode", TRAP_U },
	{ event_sscratch_set, "sscratch written", SSCRATCH | SSCRATCH_SET },
	{ event_sscratch_swap, "sscratch swapped", SSCRATCH },
	{ event_sstatus, "sstatus written", SSTATUS },
	{ event_sepc, "sepc written", SEPC },
	{ event_none, "other CSRs written", 0 },
};

/* valid translations beside invalid ones */
static void tests_of_coexistence(u64 mode)
{
	int any = !!(PARAMS & PARAM_ANY), valid = !!(PARAMS & PARAM_VALID), used = 0;
	u64 evict_at = PARAMS >> PARAM_EVICT & 63, ra, pattern = 0, *t = root;

	satp_mode = mode;
	ra = va_top = ~0ul << (12 + 9 * (mode - 8 + 3) - 1);
	clear(root);
	for (int i = 0; i < 4; i++)
		clear(levels[i]);
	for (int i = 0; i < 4; i++)
		clear(low_levels[i]);
	map_region(root, ra, levels, &used, l0_a);
	used = 0;
	map_region(root, 0, low_levels, &used, l0_low);
	for (int l = mode - 8 + 2; l > 2; l--)
		t = (u64 *)(t[0] >> 10 << 12);
	t[2] = 0x80000000ul >> 2 | RWX;
	asm volatile("csrw satp, %0" :: "r"(satp(1)));
	/* breakpoints go to S-mode, which calls for M-mode */
	asm volatile("csrw medeleg, %0; csrw stvec, %1" :: "r"(1 << BREAK), "r"((u64)stub_nothing));

	if (PARAMS & PARAM_RATE) {
		/* each load takes away what it brought; that is, all but those of fresh() count here */
		fresh(l0_a, ra);
		kept[0].evictions++;
		set_pte(l0_a, 1, pte(pages[1], RWX));
		both(stub_load, page(ra, 1), LOAD, 1, "a load evicts when it is done");
		kept[0].evictions++;
		both(stub_load, page(ra, 1), LOAD, 0, "the next one sees what is left");
		both(stub_load, page(ra, 1), LOAD, 0, "so does the one after it");
		access(stub_load, ra, ECALL_S, "a page without an invalid translation");
		kept[0].evictions++;
		fence();
		access(stub_load, page(ra, 1), ECALL_S, "after a fence");
		kept[0].evictions++;
		remembers();
		return;
	}

	if (PARAMS & PARAM_RANDOM) {
		u64 taken = 0;

		fresh(l0_a, ra);
		for (int i = 1; i <= 64; i++) {
			set_pte(l0_a, i, pte(pages[1], RWX));
			if (visit(stub_load, page(ra, i), 0, 1).cause == ECALL_S) {
				pattern |= 1ul << (i - 1);
				taken++;
			}
		}
		kept[0].coexisting += 64;
		kept[0].invalid += 64 - taken;
		kept[0].stale += 64 - taken;
		check(taken > 9 && taken < 55, "each of the two is used sometimes", 0);
		say("pattern "); say_hex(pattern); say("\n");
		fence();
		taken = 0;
		for (int i = 1; i <= 64; i++)
			taken += visit(stub_load, page(ra, i), 0, 1).cause == ECALL_S;
		remembers();
		check(taken == 64, "no choice after a fence", 0);
		return;
	}

	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	set_pte(l0_a, 2, pte(pages[1], RWX | G));
	if (any)
		both(stub_load, page(ra, 1), LOAD, valid, "a page made valid");
	else
		stale(stub_load, page(ra, 1), LOAD, "a page made valid, not a global one");
	both(stub_load, page(ra, 2), LOAD, valid, "a global page");
	if (valid)
		access(stub_load, page(ra, 2), ECALL_S, "the same again");
	else
		both(stub_load, page(ra, 2), LOAD, 0, "the same again");
	set_pte(l0_a, 3, pte(pages[1], RWX | G));
	both(stub_store, page(ra, 3), STORE, valid, "store");
	set_pte(l0_a, 4, pte(pages[1], RWX | G));
	both(stub_amo, page(ra, 4), STORE, valid, "amo");
	set_pte(l0_a, 5, pte(pages[2], RWX | G));
	*(u32 *)pages[2] = 0x73;
	both(stub_fetch, page(ra, 5), FETCH, valid, "fetch");
	empty_tlb();
	both(stub_load, page(ra, 2), LOAD, valid, "what empties QEMU's TLB is no eviction");
	set_pte(l0_a, 2, 0);
	empty_tlb();
	access(stub_load, page(ra, 2), LOAD, "invalid again: nothing to choose from");
	/* a table's G bit is that of all its pages */
	set_pte(l0_a, 6, pte(pages[1], RWX));
	l1_of(ra)[0] |= G;
	both(stub_load, page(ra, 6), LOAD, valid, "a page of a global table");
	l1_of(ra)[0] &= ~(u64)G;
	if (!valid)
		return;

	for (u64 i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		int lost = !!(events[i].evicts & evict_at);

		fresh(l0_a, ra);
		*(u32 *)pages[2] = 0x00100073;	/* ebreak */
		set_pte(l0_a, 511, pte(pages[2], RWX | U | G));
		visit((void (*)(void))page(ra, 511), 0, 0, 0);
		kept[0].evictions += !!(evict_at & TRAP_U);
		set_pte(l0_a, 1, pte(pages[1], RWX | G));
		set_pte(l0_a, 2, pte(pages[1], RWX | G));
		both(stub_load, page(ra, 1), LOAD, 1, "before the event");
		events[i].happens();
		kept[0].evictions += lost;
		if (lost) {
			both(stub_load, page(ra, 1), LOAD, 0, events[i].what);
			both(stub_store, page(ra, 1), STORE, 0, "store after it");
			both(stub_load, page(ra, 2), LOAD, 1, "a page that was not used before it");
			empty_tlb();
			both(stub_load, page(ra, 2), LOAD, 1, "and is still held");
			both(stub_load, page(ra, 1), LOAD, 0, "what was lost stays lost");
			events[i].happens();
			kept[0].evictions++;
			both(stub_load, page(ra, 2), LOAD, 0, "lost the second time");
		} else {
			access(stub_load, page(ra, 1), ECALL_S, events[i].what);
		}
		access(stub_load, ra, ECALL_S, "a page that was valid all the time");
		fence();
		access(stub_load, page(ra, 1), ECALL_S, "after a fence");
		remembers();
		events[i].happens();
		kept[0].evictions += lost;
		access(stub_load, page(ra, 1), ECALL_S, "nothing to lose after a fence");
	}
}

static void stage_of_reset(void)
{
	int used = 0;

	/* as the first stage left it, but for the reset */
	satp_mode = 8;
	va_top = ~0ul << 38;
	clear(root);
	map_region(root, va_top, levels, &used, l0_a);
	root[2] = 0x80000000ul >> 2 | RWX;
	set_pte(l0_a, 0, pte(pages[0], RWX));
	set_pte(l0_a, 1, pte(pages[1], RWX));
	asm volatile("csrw satp, %0" :: "r"(satp(1)));
	access(stub_load, page(va_top, 1), ECALL_S, "a reset forgets");
	remembers();
}

static void expect(u64 hart)
{
	say("expect hart="); say_dec(hart);
	say(" stale_hits="); say_dec(kept[hart].stale);
	say(" fences="); say_dec(kept[hart].fences);
	say(" remembered="); say_dec(kept[hart].remembered);
	say(" coexisting="); say_dec(kept[hart].coexisting);
	say(" chosen_invalid="); say_dec(kept[hart].invalid);
	say(" evictions="); say_dec(kept[hart].evictions);
	say("\n");
}

static void finish(void)
{
	say("1.."); say_dec(tests); say("\n");
	if (!model)
		kept[0] = kept[1] = (struct counters){ 0 };
	expect(0);
	expect(1);
	*TEST_DEVICE = failures ? 1 << 16 | 0x3333 : 0x5555;
	for (;;)
		;
}

void guest_main(u64 hart)
{
	asm volatile("csrw pmpaddr0, %0; csrw pmpcfg0, %1" :: "r"(-1l), "r"(0x1f));
	asm volatile("csrw mideleg, zero; csrw medeleg, zero; csrw mie, zero");

	if (hart) {
		for (;;) {
			struct visit v;

			while (!__atomic_load_n(&mail.go, __ATOMIC_SEQ_CST))
				;
			asm volatile("csrw satp, %0" :: "r"(mail.satp));
			v.pc = mail.v.pc;
			v.a0 = mail.v.a0;
			v.a1 = mail.v.a1;
			v.mpp = mail.v.mpp;
			run_at(&v);
			mail.v.cause = v.cause;
			__atomic_store_n(&mail.go, 0, __ATOMIC_SEQ_CST);
		}
	}

	kept = KEPT;
	/* a reset keeps what is there */
	if (!STAGE)
		for (int i = 0; i < 2; i++)
			kept[i] = (struct counters){ 0 };
	model = PARAMS & PARAM_MODEL;

	if (PARAMS & PARAM_SPIN) {
		int used = 0;

		satp_mode = 8;
		va_top = ~0ul << 38;
		map_region(root, va_top, levels, &used, l0_a);
		map_region(root, va_top + 0x200000, levels, &used, l0_b);
		root[2] = 0x80000000ul >> 2 | RWX;
		*(u64 *)pages[1] = 0x123456789abcdef0;
		asm volatile("csrw satp, %0" :: "r"(satp(1)));
		fresh(l0_a, va_top);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		stale(stub_load, page(va_top, 1), LOAD, "before the monitor");
		set_pte(l0_b, 1, pte(pages[1], RWX));
		expect(0);
		say("spinning\n");
		visit(stub_spin, 0, 0, 1);
	}
	if (PARAMS & (PARAM_GLOBAL | PARAM_ANY)) {
		for (u64 mode = 8; mode <= 10; mode++)
			tests_of_coexistence(mode);
		finish();
	}
	if (!STAGE) {
		STAGE = 1;
		for (u64 mode = 8; mode <= 10; mode++)
			tests_of_mode(mode);
		/* leave something to forget, then reset */
		satp_mode = 8;
		int used = 0;
		va_top = ~0ul << 38;
		clear(root);
		map_region(root, va_top, levels, &used, l0_a);
		root[2] = 0x80000000ul >> 2 | RWX;
		asm volatile("csrw satp, %0" :: "r"(satp(1)));
		fresh(l0_a, va_top);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		stale(stub_load, page(va_top, 1), LOAD, "before the reset");
		say("stage "); say_dec(failures); say(" failed\n");
		KEPT[2].stale = tests;
		KEPT[2].fences = failures;
		*TEST_DEVICE = 0x7777;
		for (;;)
			;
	}
	tests = KEPT[2].stale;
	failures = KEPT[2].fences;
	stage_of_reset();
	finish();
}
