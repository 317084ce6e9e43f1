// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of the CPU property x-cache-invalid: a guest without firmware that runs
 * S-mode stubs from M-mode, page by page, and knows at each access whether the
 * model has to let it through. It is compiled for 64 bits (Sv39, Sv48 and Sv57)
 * and for 32 bits (Sv32).
 *
 * It speaks KTAP on the serial port. At its end it prints what the counters of
 * each hart have to be ("expect hart=..."), for the host to compare with what
 * QEMU says. The word at PARAMS, set by the command line, says what the machine
 * is. The host takes its bits from this file: in "#define PARAM_NAME VALUE"
 * VALUE is a number or (1 << NUMBER).
 */
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned char u8;
/* as wide as a register, and so is a PTE */
typedef unsigned long reg;
typedef reg pte_t;

#if __riscv_xlen == 64
#define INDEX_BITS	9
#define SATP_MODE_SHIFT	60
#define SATP_ASID_SHIFT	44
#define ASID_BITS	16
#define VMID_BITS	14
#define FIRST_MODE	8
#define LAST_MODE	10
#define LOAD_REG	"ld"
#define AMO_OR(bit)	"amoor.d." bit
/* funct3 of the AMOCAS that takes two registers: amocas.q, in 32 bits amocas.d */
#define AMOCAS_PAIR	"4"
#else
#define INDEX_BITS	10
#define SATP_MODE_SHIFT	31
#define SATP_ASID_SHIFT	22
#define ASID_BITS	9
#define VMID_BITS	7
#define FIRST_MODE	1
#define LAST_MODE	1
#define LOAD_REG	"lw"
#define AMO_OR(bit)	"amoor.w." bit
#define AMOCAS_PAIR	"3"
#endif
#define PTES		(1 << INDEX_BITS)
/* what a table of the lowest level maps */
#define SPAN		(1ul << (12 + INDEX_BITS))
/* PTEs in 64 bytes */
#define LINE_PTES	(64 / (int)sizeof(pte_t))
#define LEVELS		(satp_mode == 1 ? 2 : (int)satp_mode - 5)
/* where this program is, in Sv32 in the upper half of the addresses */
#define PROGRAM		0x80000000ul
#define PROGRAM_IN_UPPER_HALF	(__riscv_xlen == 32)

#define UART		((volatile u8 *)0x10000000)
#define TEST_DEVICE	((volatile u32 *)0x100000)
/* not part of the image, so not reloaded by a reset */
#define PARAM_ADDRESS	0x80f00000
#define PARAMS		(*(volatile u64 *)PARAM_ADDRESS)
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
#define PARAM_LATE	2048	/* x-late-pte=on instead of x-cache-invalid=on */
#define PARAM_ALL	4096	/* scope=all */
#define PARAM_ACCESS	8192	/* scope=access */
#define PARAM_USER	16384	/* user=on */
#define PARAM_LIFETIME	32768	/* lifetime=1000 */
#define PARAM_QUICK	(1 << 22)	/* leave out what takes seconds */
#define PARAM_VIRTUAL	(1 << 24)	/* time is that of the guest, -icount */
#define PARAM_STORM	(1 << 23)	/* all harts at once, at random */
#define PARAM_CIP_453	(1 << 25)	/* x-cip-453=on */
#define PARAM_HELD	(1 << 16)	/* x-cache-valid=on, if PARAM_MODEL is set, too */
#define PARAM_HELD_WALK	(1 << 17)	/* x-cache-valid-denied=walk */
#define PARAM_HELD_ALL	(1 << 18)	/* x-cache-valid-scope=all */
#define PARAM_SPLIT	(1 << 19)	/* x-cache-valid-split=on */
#define PARAM_NAPOT	(1 << 20)	/* svnapot=on */
#define PARAM_NAPOT_PAGE	(1 << 21)	/* x-cache-valid-napot=page */
#define PARAM_FEW	(1 << 26)	/* x-cache-valid-size=4 */
#define PARAM_SVADE	(1 << 27)	/* svade=on, svadu=off */
#define PARAM_LINE	(1 << 28)	/* scope=line */
#define PARAM_LATE_STORE	(1 << 30)	/* x-late-store=all, if PARAM_MODEL is set, too */
#define PARAM_EVICT_IN	(1 << 29)	/* evict-in=0x201000-0x202000, in Sv32 0xc0401000-0xc0402000 */
/* one bit for each word of evict-at */
#define PARAM_TRAP_S		(1ull << 48)
#define PARAM_TRAP_U		(1ull << 49)
#define PARAM_SSCRATCH		(1ull << 50)
#define PARAM_SSCRATCH_SET	(1ull << 51)
#define PARAM_SSTATUS		(1ull << 52)
#define PARAM_SEPC		(1ull << 53)
#define PARAM_STVEC		(1ull << 54)
#define PARAM_SATP		(1ull << 55)
#define PARAM_SRET		(1ull << 56)
#define PARAM_GUEST		(1ull << 57)	/* x-cache-valid-guest=all or x-cache-invalid-guest=all, if MODEL is set */
#define PARAM_ONLY_VS		(1ull << 58)	/* vs instead of all */
#define PARAM_ONLY_G		(1ull << 59)	/* g */
#define PARAM_APART		(1ull << 44)	/* x-cache-invalid=on and x-cache-valid=on, one of them with -guest=all */
#define PARAM_ZACAS		(1ull << 45)	/* zacas=on */
#define PARAM_ZTSO		(1ull << 46)	/* ztso=on */
#define PARAM_ZICFISS		(1ull << 47)	/* zicfiss=on */
/* where the four bits with the number of harts begin */
#define PARAM_HARTS	40
#define MAX_HARTS	4

#define V	0x01
#define R	0x02
#define W	0x04
#define X	0x08
#define U	0x10
#define G	0x20
#define A	0x40
#define D	0x80
#define RWX	(V | R | W | X | A | D)

enum { FETCH_ACCESS = 1, BREAK = 3, STORE_ACCESS = 7, ECALL_U = 8, ECALL_S = 9, ECALL_VS = 10, FETCH = 12, LOAD = 13,
       STORE = 15, GUEST_FETCH = 20, GUEST_LOAD = 21, GUEST_STORE = 23 };
/* run_at()'s modes besides those of MPP */
enum { VS_MODE = 5 };

struct visit { u64 pc, a0, a1, mpp, cause, tval, epc, ret; };
struct counters { u64 stale, fences, remembered, coexisting, invalid, evictions; };

void run_at(struct visit *v);
void leave_guest(void);
void stub_nothing(void), stub_load(void), stub_store(void), stub_amo(void);
void stub_lr(void), stub_sc(void), stub_fetch(void), stub_satp(void);
void stub_sum(void), stub_fof(void), stub_fencei(void), stub_cross(void);
void fence_all(void), fence_va(void), fence_asid(void), fence_va_asid(void);
void fence_winval(void), fence_hvvma(void), sinval_all(void), sinval_va(void);
void sinval_asid(void), sinval_va_asid(void), sinval_no_w(void);
void sinval_twice(void);
void sinval_no_ir(void), sinval_sfence(void), sinval_many(void);
void stub_satps(void);
void fence_hgvma(void), fence_hinvalv(void), fence_hinvalg(void);
void hvvma_va(void), hvvma_asid(void), hvvma_va_asid(void);
void hgvma_ga(void), hgvma_vmid(void), hgvma_ga_vmid(void);
void hinvalv_va_asid(void), hinvalv_no_ir(void), hinvalv_no_w(void);
void hinvalg_ga_vmid(void), hinvalg_no_ir(void), hinvalg_no_w(void);
void hinval_many(void), stub_hlv(void);
void fence_thead(void), stub_spin(void), stub_break(void);
void stub_sscratch_set(void), stub_sscratch_swap(void), stub_sscratch_read(void);
void stub_sstatus(void), stub_sepc(void), stub_scause(void);
void stub_stvec(void), stub_sret(void), stub_stval(void);
void stub_sspush(void), stub_ssamoswap_w(void), stub_ssamoswap_d(void);

typedef pte_t table[PTES] __attribute__((aligned(4096)));
static table root, root_b, levels[4], l0_a, l0_b, l0_low, low_levels[4];
static u8 pages[4][4096] __attribute__((aligned(4096)));

static struct counters *kept;
/* what x-cache-valid has to count on each hart */
static struct { u64 fences, unmapped, remapped, restricted, upgraded, tables; } kept_valid[MAX_HARTS];
static u64 tests, failures, model;
static u64 satp_mode, va_top;
/* walks that miss a store, on each hart */
static u64 kept_missed[MAX_HARTS];

/* the other harts run one visit at a time for hart 0 */
static volatile struct { reg go; u64 satp; struct visit v; } mails[MAX_HARTS];
static u64 harts;

/* the compiler calls these */
void *memset(void *p, int c, reg n)
{
	volatile u8 *b = p;

	while (n--)
		*b++ = c;
	return p;
}

void *memcpy(void *to, const void *from, reg n)
{
	volatile u8 *b = to;
	const u8 *a = from;

	while (n--)
		*b++ = *a++;
	return to;
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

static void say_dec(reg v)
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
	say(satp_mode == 1 ? "sv32 " : satp_mode == 8 ? "sv39 " : satp_mode == 9 ? "sv48 " : "sv57 ");
	say(what);
	if (more && *more) {
		say(": ");
		say(more);
	}
	say("\n");
}

static pte_t pte(void *pa, pte_t flags)
{
	return (reg)pa >> 12 << 10 | flags;
}

static u64 satp_of(pte_t *top, u64 asid)
{
	return satp_mode << SATP_MODE_SHIFT | asid << SATP_ASID_SHIFT | (reg)top >> 12;
}

static u64 satp(u64 asid)
{
	return satp_of(root, asid);
}

static void set_pte(pte_t *t, int i, pte_t v)
{
	__atomic_store_n(&t[i], v, __ATOMIC_SEQ_CST);
}

/* where the PTE for va is in a table at level l above the lowest */
static int index_of(u64 va, int l)
{
	return va >> (12 + INDEX_BITS * l) & (PTES - 1);
}

/* the table that a PTE leads to */
static pte_t *below(pte_t p)
{
	return (pte_t *)(p >> 10 << 12);
}

static struct visit visit(void (*stub)(void), u64 a0, u64 a1, u64 mpp)
{
	struct visit v = { .pc = (reg)stub, .a0 = a0, .a1 = a1, .mpp = mpp };

	run_at(&v);
	if (mpp == VS_MODE)
		leave_guest();
	return v;
}

/* code in a page that a test has mapped */
static struct visit visit_page(u64 va, u64 mpp)
{
	return visit((void (*)(void))(reg)va, 0, 0, mpp);
}

static u64 now(void)
{
	/* 32 bits of it are enough for seven minutes. */
	reg t;

	asm volatile("csrr %0, time" : "=r"(t));
	return t;
}

/* How long is too long to wait, on a host that may be busy; the clock has 10 MHz. */
#define PATIENCE	600000000

/*
 * Did it take one to two times as long as `least`? Only with virtual time does it have to end in time.
 * What has been started before the hart remembers something, and is over when it has forgotten it,
 * cannot be too short.
 */
static int lasted(u64 ticks, u64 least)
{
	return ticks >= least && (!(PARAMS & PARAM_VIRTUAL) || ticks < 2 * least + 1000);
}

/* one S-mode access; wants cause "want" (and stval) */
static void access(void (*stub)(void), u64 va, u64 want, const char *what)
{
	struct visit v = visit(stub, va, (reg)pages[3], 1);
	int ok = v.cause == want && (want == ECALL_S || v.tval == va);

	if (!ok) {
		say("# cause "); say_dec(v.cause); say(", wanted "); say_dec(want);
		say(", tval "); say_hex(v.tval); say(", va "); say_hex(va);
		say("\n");
	}
	check(ok, what, ok ? 0 : "wrong trap");
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

/* without a CSR of S-mode, as writing one may be what evicts; a change of a PMP register empties it, too */
static void empty_tlb_in_m(void)
{
	asm volatile("csrw pmpaddr1, zero; csrw pmpaddr1, %0" :: "r"(-1l));
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
static void fresh(pte_t *l0, u64 region)
{
	for (int i = 0; i < PTES; i++)
		set_pte(l0, i, 0);
	set_pte(l0, 0, pte(pages[0], RWX));
	fence();
	access(stub_load, region, ECALL_S, "touch the valid neighbour");
	remembers();
}

static void map_region(u64 va, table *lower, int *used, pte_t *l0)
{
	pte_t *t = root;

	for (int l = LEVELS - 1; l > 0; l--) {
		int i = index_of(va, l);

		if (l == 1) {
			t[i] = pte(l0, V);
		} else {
			if (!t[i])
				t[i] = pte(lower[(*used)++], V);
			t = below(t[i]);
		}
	}
}

/* this program at its own address: in a gigapage, in Sv32 in 4 MiB */
static void map_program(void)
{
	int level = LEVELS > 2 ? 2 : 1;
	pte_t *t = root;

	for (int l = LEVELS - 1; l > level; l--)
		t = below(t[0]);
	t[index_of(PROGRAM, level)] = pte((void *)PROGRAM, RWX);
}

/* where the tests begin in the upper half: at its lowest address, in Sv32 behind this program */
static u64 top_of(u64 mode)
{
	return mode == 1 ? 0xc0000000 : ~0ull << (12 + 9 * ((int)mode - 5) - 1);
}

/* the table at level l above the lowest on the way to va */
static pte_t *table_at(u64 va, int l)
{
	pte_t *t = root;

	for (int at = LEVELS - 1; at > l; at--)
		t = below(t[index_of(va, at)]);
	return t;
}

/* from the PTE on that leads to the lowest table for va */
static pte_t *l1_of(u64 va)
{
	return table_at(va, 1) + index_of(va, 1);
}

static void clear(pte_t *t)
{
	for (int i = 0; i < PTES; i++)
		t[i] = 0;
}

/* what hart h does with one visit, while this one waits: the cause of its trap */
static u64 visit_on(u64 h, void (*stub)(void), u64 a0)
{
	mails[h].satp = satp(1);
	mails[h].v = (struct visit){ .pc = (reg)stub, .a0 = a0, .mpp = 1 };
	__atomic_store_n(&mails[h].go, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&mails[h].go, __ATOMIC_SEQ_CST))
		;
	return mails[h].v.cause;
}

/* stale translations that a fence may meet: two pages for two ASIDs, one below a global PTE */
enum { P1A1 = 1, P2A1 = 2, P1A2 = 4, P2A2 = 8, G1A1 = 16, ALL = 31 };
/* what is in rs1 */
enum { NOTHING, P1, G1, NO_ADDRESS };

static const struct row {
	/* the privileged specification, or where it is silent an empty string */
	const char *says;
	const char *what;
	void (*stub)(void);
	u64 rs1, rs2;
	/* what has to be forgotten; everything else may be kept, and is */
	u64 forgets;
	u64 need;
	/* how many fences the instructions count as */
	u64 fences;
	/* tables that the hart reads anew: with rs1 it need not */
	u64 rereads;
} rows[] = {
	{ "If rs1=x0 and rs2=x0 ... The fence also invalidates all address-translation cache entries, for all "
	  "address spaces.",
	  "sfence.vma", fence_all, NOTHING, 0, ALL, 0, 1, 3 },
	{ "If rs1=x0 and rs2!=x0 ... The fence also invalidates all address-translation cache entries matching the "
	  "address space identified by integer register rs2, except for entries containing global mappings.",
	  "sfence.vma x0, 1", fence_asid, NOTHING, 1, P1A1 | P2A1, 0, 1, 1 },
	{ 0, "sfence.vma x0, 2", fence_asid, NOTHING, 2, P1A2 | P2A2, 0, 1, 1 },
	{ 0, "sfence.vma x0, 3", fence_asid, NOTHING, 3, 0, 0, 1, 0 },
	{ "When rs2!=x0, bits SXLEN-1:ASIDMAX of the value held in rs2 are reserved for future standard use. Until their use "
	  "is defined by a standard extension, they should be zeroed by software and ignored by current implementations.",
	  "sfence.vma x0, 1 and a bit above the ASID", fence_asid, NOTHING, 1 | 1 << ASID_BITS, P1A1 | P2A1, 0, 1, 1 },
	{ "If rs1!=x0 and rs2=x0 ... The fence also invalidates all address-translation cache entries that contain "
	  "leaf page table entries corresponding to the virtual address in rs1, for all address spaces.",
	  "sfence.vma page 1", fence_va, P1, 0, P1A1 | P1A2, 0, 1, 0 },
	{ 0, "sfence.vma global page", fence_va, G1, 0, G1A1, 0, 1, 0 },
	{ "If rs1!=x0 and rs2!=x0 ... The fence also invalidates all address-translation cache entries that contain "
	  "leaf page table entries corresponding to the virtual address in rs1 and that match the address space "
	  "identified by integer register rs2, except for entries containing global mappings.",
	  "sfence.vma page 1, 1", fence_va_asid, P1, 1, P1A1, 0, 1, 0 },
	{ 0, "sfence.vma page 1, 2", fence_va_asid, P1, 2, P1A2, 0, 1, 0 },
	{ 0, "sfence.vma global page, 1", fence_va_asid, G1, 1, 0, 0, 1, 0 },
	{ "If the value held in rs1 is not a valid virtual address, then the SFENCE.VMA instruction has no effect.",
	  "sfence.vma no address", fence_va, NO_ADDRESS, 0, 0, 0, 1, 0 },
	{ 0, "sfence.vma no address, 1", fence_va_asid, NO_ADDRESS, 1, 0, 0, 1, 0 },
	{ "The SFENCE.INVAL.IR instruction guarantees that any previous SINVAL.VMA instructions executed by the "
	  "current hart are ordered before subsequent implicit references by that hart to the memory-management "
	  "data structures.",
	  "sinval.vma without sfence.inval.ir", sinval_no_ir, P1, 0, 0, PARAM_SVINVAL, 1, 0 },
	{ "... SINVAL.VMA instructions are only ordered with respect to SFENCE.VMA, SFENCE.W.INVAL, and "
	  "SFENCE.INVAL.IR instructions",
	  "sinval.vma and an unrelated sfence.vma", sinval_sfence, P1, 1, P1A1 | P1A2, PARAM_SVINVAL, 2, 0 },
	{ "The SINVAL.VMA instruction invalidates any address-translation cache entries that an SFENCE.VMA "
	  "instruction with the same values of rs1 and rs2 would invalidate.",
	  "sinval.vma", sinval_all, NOTHING, 0, ALL, PARAM_SVINVAL, 1, 3 },
	{ 0, "sinval.vma page 1", sinval_va, P1, 0, P1A1 | P1A2, PARAM_SVINVAL, 1, 0 },
	{ 0, "sinval.vma x0, 1", sinval_asid, NOTHING, 1, P1A1 | P2A1, PARAM_SVINVAL, 1, 1 },
	{ 0, "sinval.vma page 1, 1", sinval_va_asid, P1, 1, P1A1, PARAM_SVINVAL, 1, 0 },
	{ "When executed in order (but not necessarily consecutively) by a single hart, the sequence SFENCE.W.INVAL, "
	  "SINVAL.VMA, and SFENCE.INVAL.IR has the same effect as a hypothetical SFENCE.VMA instruction",
	  "sfence.w.inval, sinval.vma other, sfence.inval.ir, sinval.vma page 1, sfence.inval.ir", sinval_twice, P1, 0,
	  P1A1 | P1A2, PARAM_SVINVAL, 2, 0 },
	/* The rows above have executed it: that was before the page became valid, so no store is ordered by it. */
	{ "The SFENCE.W.INVAL instruction guarantees that any previous stores already visible to the current RISC-V "
	  "hart are ordered before subsequent SINVAL.VMA instructions executed by the same hart.",
	  "sinval.vma without sfence.w.inval", sinval_no_w, P1, 0, 0, PARAM_SVINVAL, 1, 0 },
	{ "It is always legal to over-fence",
	  "more sinval.vma than the model keeps", sinval_many, P1, 0, ALL, PARAM_SVINVAL, 17, 3 },
	{ "", "sfence.w.inval, sfence.inval.ir", fence_winval, NOTHING, 0, 0, PARAM_SVINVAL, 0, 0 },
	{ "The hypervisor memory-management fence instructions, HFENCE.VVMA and HFENCE.GVMA, perform a function "
	  "similar to SFENCE.VMA, except applying to the VS-level memory-management data structures controlled by "
	  "CSR vsatp (HFENCE.VVMA) or the guest-physical memory-management data structures controlled by CSR hgatp "
	  "(HFENCE.GVMA).",
	  "hfence.vvma", fence_hvvma, NOTHING, 0, 0, 0, 0, 0 },
	{ 0, "hfence.gvma", fence_hgvma, NOTHING, 0, 0, 0, 0, 0 },
	{ 0, "hinval.vvma", fence_hinvalv, NOTHING, 0, 0, PARAM_SVINVAL, 0, 0 },
	{ 0, "hinval.gvma", fence_hinvalg, NOTHING, 0, 0, PARAM_SVINVAL, 0, 0 },
	{ "", "th.sfence.vmas", fence_thead, NOTHING, 0, ALL, PARAM_THEAD, 1, 3 },
	{ "Note that writing satp does not imply any ordering constraints between page-table updates and subsequent "
	  "address translations, nor does it imply any invalidation of address-translation caches.",
	  "satp, another ASID and back", stub_satps, NOTHING, 0, 0, 0, 0, 0 },
	{ "The FENCE.I instruction is used to synchronize the instruction and data streams.",
	  "fence.i and fence", stub_fencei, NOTHING, 0, 0, 0, 0, 0 },
};

/* In Sv32 every number is a valid address. */
static int is_left_out(const struct row *row)
{
	return row->need & ~PARAMS || (row->rs1 == NO_ADDRESS && __riscv_xlen == 32);
}

static void fenced(u64 va, int forgotten, const char *what)
{
	if (forgotten)
		access(stub_load, va, ECALL_S, what);
	else
		stale(stub_load, va, LOAD, what);
}

static void tests_of_fences(u64 ra, u64 rb)
{
	for (u64 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		u64 addresses[] = { 0, page(ra, 1), page(rb, 1), page(ra, 1) ^ 1ull << 62 };

		if (is_left_out(row))
			continue;
		if (row->says && *row->says) {
			say("#   "); say(row->says); say("\n");
		}
		say("# "); say(row->what); say("\n");

		for (int j = 0; j < PTES; j++) {
			set_pte(l0_a, j, 0);
			set_pte(l0_b, j, 0);
		}
		set_pte(l0_a, 0, pte(pages[0], RWX));
		set_pte(l0_b, 0, pte(pages[0], RWX));
		set_pte(l1_of(ra), 1, pte(l0_b, V | G));
		fence();
		visit(stub_load, ra, 0, 1);
		visit(stub_load, rb, 0, 1);
		visit(stub_satp, satp(2), 0, 1);
		visit(stub_load, ra, 0, 1);
		visit(stub_satp, satp(1), 0, 1);
		kept[0].remembered += 3;
		set_pte(l0_a, 1, pte(pages[1], RWX));
		set_pte(l0_a, 2, pte(pages[1], RWX));
		set_pte(l0_b, 1, pte(pages[1], RWX));

		check(visit(row->stub, addresses[row->rs1], row->rs2, 1).cause == ECALL_S, "is executed", 0);
		kept[0].fences += row->fences;
		for (u64 h = 1; h < harts; h++)
			kept[h].fences += row->stub == fence_thead;
		kept[0].remembered += row->rereads;
		fenced(page(ra, 1), row->forgets & P1A1, "page 1, ASID 1");
		fenced(page(ra, 2), row->forgets & P2A1, "page 2, ASID 1");
		fenced(page(rb, 1), row->forgets & G1A1, "global page, ASID 1");
		visit(stub_satp, satp(2), 0, 1);
		fenced(page(ra, 1), row->forgets & P1A2, "page 1, ASID 2");
		fenced(page(ra, 2), row->forgets & P2A2, "page 2, ASID 2");
		visit(stub_satp, satp(1), 0, 1);
		if (row->forgets & P1A1) {
			access(stub_store, page(ra, 1), ECALL_S, "store after it");
			access(stub_amo, page(ra, 1), ECALL_S, "amo after it");
			*(u32 *)pages[1] = 0x73;
			access(stub_fetch, page(ra, 1), ECALL_S, "fetch after it");
		}
	}

	/* what a fence names is read again at once, as it may be at any time */
	fresh(l0_a, ra);
	visit(fence_va, page(ra, 1), 0, 1);
	kept[0].fences++;
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "invalid when fenced for");
	set_pte(l0_a, 0, 0);
	visit(fence_va, page(ra, 0), 0, 1);
	kept[0].fences++;
	set_pte(l0_a, 0, pte(pages[0], RWX));
	stale(stub_load, page(ra, 0), LOAD, "made invalid, and fenced for");
	set_pte(l1_of(ra), 1, pte(l0_b, V));
	fence();
}

/* Do harts set A and D? */
static int sets_ad(void)
{
	reg envcfg;

#if __riscv_xlen == 64
	asm volatile("csrr %0, 0x30a" : "=r"(envcfg));
	return envcfg >> 61 & 1;
#else
	/* menvcfgh */
	asm volatile("csrr %0, 0x31a" : "=r"(envcfg));
	return envcfg >> 29 & 1;
#endif
}

/* what M-mode loads with MPRV, as if it were S-mode */
static reg load_with_mprv(u64 va)
{
	reg got;

	/* A fault goes on behind the load. */
	asm volatile("la t1, 1f; csrrw t1, mtvec, t1; li %0, 0\n"
		     "li t0, 1 << 12; csrc mstatus, t0; li t0, 1 << 17 | 1 << 11; csrs mstatus, t0\n"
		     LOAD_REG " %0, 0(%1)\n.balign 4\n1: li t0, 1 << 17; csrc mstatus, t0; csrw mtvec, t1"
		     : "=&r"(got) : "r"((reg)va) : "t0", "t1", "memory");
	return got;
}

static void tests_of_mode(u64 mode)
{
	u64 ra, rb, rlow;
	int used = 0, used_low = 0;
	struct visit v;
	reg is;

	satp_mode = mode;
	va_top = top_of(mode);
	ra = va_top;
	rb = va_top + SPAN;
	rlow = SPAN;

	clear(root);
	for (int i = 0; i < 4; i++) {
		clear(levels[i]);
		clear(low_levels[i]);
	}
	map_region(ra, levels, &used, l0_a);
	map_region(rb, levels, &used, l0_b);
	map_region(rlow, low_levels, &used_low, l0_low);
	map_program();
	asm volatile("csrw satp, %1; csrr %0, satp" : "=r"(is) : "r"((reg)satp(1)));
	if (is != satp(1)) {
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
	set_pte(l0_a, PTES - 1, pte(pages[1], RWX));
	stale(stub_lr, page(ra, PTES - 1), LOAD, "lr, last page of the table");
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
	v = visit_page(page(ra, 12), 0);
	check(v.cause == 2, "sfence.vma is illegal in U-mode", 0);
	stale(stub_load, page(ra, 1), LOAD, "and does not forget then");

	/* who is not affected */
	check(load_with_mprv(page(ra, 2)) == *(reg *)pages[1], "MPRV load of M-mode", 0);
	/* as it has filled QEMU's TLB */
	empty_tlb();
	*(u32 *)pages[1] = 0x73;
	set_pte(l0_a, 5, pte(pages[1], RWX | U));
	v = visit(stub_load, page(ra, 5), 0, 0);
	/* the stub itself is no user page: use a fetch to see U-mode get there */
	check(v.cause == FETCH, "U-mode cannot run the stub", 0);
	v = visit_page(page(ra, 5), 0);
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

	tests_of_fences(ra, rb);
	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "before the fence in M-mode");
	asm volatile("sfence.vma" ::: "memory");
	kept[0].fences++;
	access(stub_load, page(ra, 1), ECALL_S, "sfence.vma in M-mode forgets");
	remembers();

	/* a walk that fails remembers as well, for the page and its neighbours */
	for (int i = 0; i < PTES; i++)
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
	if (model && sets_ad())
		kept[0].stale++;

	/* the lower half */
	for (int i = 0; i < PTES; i++)
		set_pte(l0_low, i, 0);
	set_pte(l0_low, 0, pte(pages[0], RWX));
	fence();
	access(stub_load, rlow, ECALL_S, "touch the lower half");
	set_pte(l0_low, 1, pte(pages[1], RWX));
	access(stub_load, page(rlow, 1), ECALL_S, "an address in the lower half is not remembered");

	/* absent tables and huge leaves */
	pte_t *l1 = l1_of(ra);
	u64 rhuge = va_top + 2 * SPAN, rabsent = va_top + 3 * SPAN;
	access(stub_load, rhuge, LOAD, "no table");
	access(stub_load, rabsent, LOAD, "no table either");
	set_pte(l1, 2, pte((void *)PROGRAM, RWX));
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

	/* many tables at once: all regions that are left, with one and the same table */
	int n = PTES - index_of(ra, 1), bad = 0;

	fresh(l0_a, ra);
	for (int i = 0; i < n; i++)
		set_pte(l1, i, pte(l0_a, V));
	for (int i = 1; i < n; i++)
		bad += visit(stub_load, va_top + i * SPAN, 0, 1).cause != ECALL_S;
	if (model)
		kept[0].remembered += n - 1;
	check(!bad, "touch many tables", 0);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	for (int i = 0; i < n; i++)
		bad += visit(stub_load, va_top + i * SPAN + 4096, 0, 1).cause !=
			(model ? LOAD : ECALL_S);
	if (model)
		kept[0].stale += n;
	check(!bad, "many tables are remembered at once", 0);
	fence();
	for (int i = 0; i < n; i++)
		bad += visit(stub_load, va_top + i * SPAN + 4096, 0, 1).cause != ECALL_S;
	if (model)
		kept[0].remembered += n;
	check(!bad, "one fence forgets them all", 0);
	for (int i = 1; i < n; i++)
		l1[i] = 0;
	fence();

	/* the other harts: what one forgets, the others do not */
	fresh(l0_a, ra);
	for (u64 h = 1; h < harts; h++) {
		check(visit_on(h, stub_load, ra) == ECALL_S, "another hart touches the table", 0);
		kept[h].remembered++;
	}
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "stale on hart 0");
	fence();
	access(stub_load, page(ra, 1), ECALL_S, "not after its fence");
	remembers();
	for (u64 h = 1; h < harts; h++) {
		check(visit_on(h, stub_load, page(ra, 1)) == (model ? LOAD : ECALL_S),
		      "another hart still remembers", 0);
		kept[h].stale += model;
	}
	if (PARAMS & PARAM_THEAD) {
		visit(fence_thead, 0, 0, 1);
		kept[0].fences++;
	}
	for (u64 h = 1; h < harts; h++) {
		if (!(PARAMS & PARAM_THEAD))
			visit_on(h, fence_all, 0);
		kept[h].fences++;
		check(visit_on(h, stub_load, page(ra, 1)) == ECALL_S,
		      PARAMS & PARAM_THEAD ? "th.sfence.vmas is for all harts" : "another hart forgets at its own fence", 0);
		kept[h].remembered++;
		visit_on(h, fence_all, 0);
		kept[h].fences++;
	}

	/* Svvptc: retrying ends (takes time, so once) */
	if (mode != FIRST_MODE || PARAMS & PARAM_QUICK)
		return;
	u64 tries = 0;
	u64 start = now(), end;
	u64 limit = PARAMS & PARAM_SVVPTC ? PATIENCE : 30000000;

	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	do {
		tries += model;
		v = visit(stub_load, page(ra, 1), 0, 1);
		end = now();
	} while (v.cause == LOAD && end - start < limit);
	if (!model)
		check(v.cause == ECALL_S, "no retries", 0);
	else if (PARAMS & PARAM_SVVPTC)
		check(v.cause == ECALL_S && lasted(end - start, 10000000),
		      "Svvptc: the PTE is used after one to two seconds", 0);
	else
		check(v.cause == LOAD, "no bound without Svvptc", 0);
	/* all were stale hits, but for the last one with Svvptc */
	kept[0].stale += tries;
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
	check(visit_page(page(va_top, PTES - 1), 0).cause == ECALL_S, "trap from U-mode", 0);
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

static void event_stvec(void)
{
	visit(stub_stvec, (reg)stub_nothing, 0, 1);
}

static void event_satp(void)
{
	/* two writes, to another ASID and back */
	visit(stub_satps, 0, 0, 1);
	kept[0].evictions += !!(PARAMS & PARAM_SATP);
}

static void event_sret(void)
{
	/* to S-mode; the write to sepc is an event of its own, one to sstatus would be, too */
	asm volatile("csrs mstatus, %0; csrw sepc, %1" :: "r"(1 << 8), "r"(stub_nothing));
	kept[0].evictions += (PARAMS & (PARAM_SEPC | PARAM_SRET)) == (PARAM_SEPC | PARAM_SRET);
	check(visit(stub_sret, 0, 0, 1).cause == ECALL_S, "sret to S-mode", 0);
}

/* what is not asked for, and nothing of the kind */
static void event_none(void)
{
	visit(stub_sscratch_read, 0, 0, 1);
	visit(stub_scause, 0, 0, 1);
	/* a trap to M-mode */
	visit(stub_nothing, 0, 0, 1);
}

static const struct { void (*happens)(void); const char *what; u64 evicts; } events[] = {
	{ event_trap_s, "a trap from S-mode", PARAM_TRAP_S },
	{ event_trap_u, "a trap from U-mode", PARAM_TRAP_U },
	{ event_sscratch_set, "sscratch written", PARAM_SSCRATCH | PARAM_SSCRATCH_SET },
	{ event_sscratch_swap, "sscratch swapped", PARAM_SSCRATCH },
	{ event_sstatus, "sstatus written", PARAM_SSTATUS },
	{ event_sepc, "sepc written", PARAM_SEPC },
	{ event_stvec, "stvec written", PARAM_STVEC },
	{ event_satp, "satp written", PARAM_SATP },
	{ event_sret, "sepc written, and sret", PARAM_SEPC | PARAM_SRET },
	{ event_none, "other CSRs written", 0 },
};

/* tables for a mode: l0_a lowest in the upper half, this program, l0_low */
static u64 map_all(u64 mode)
{
	int used = 0;

	satp_mode = mode;
	va_top = top_of(mode);
	clear(root);
	for (int i = 0; i < 4; i++) {
		clear(levels[i]);
		clear(low_levels[i]);
	}
	map_region(va_top, levels, &used, l0_a);
	used = 0;
	map_region(SPAN, low_levels, &used, l0_low);
	map_program();
	asm volatile("csrw satp, %0" :: "r"((reg)satp(1)));
	return va_top;
}

static void tests_of_late_pte(u64 ra)
{
	fresh(l0_a, ra);
	for (int i = 1; i <= 6; i++)
		set_pte(l0_a, i, pte(pages[1], RWX));
	/* The trace must not take this for the store that made it valid. */
	set_pte(l0_a, 6, pte(pages[1], RWX | G));
	stale(stub_load, page(ra, 1), LOAD, "the first load comes too early");
	access(stub_load, page(ra, 1), ECALL_S, "the second one does not");
	access(stub_store, page(ra, 1), ECALL_S, "nor does a store");
	empty_tlb();
	access(stub_load, page(ra, 1), ECALL_S, "nor does a walk later on");
	stale(stub_store, page(ra, 2), STORE, "the first store");
	access(stub_store, page(ra, 2), ECALL_S, "the second one");
	stale(stub_amo, page(ra, 3), STORE, "the first amo");
	access(stub_amo, page(ra, 3), ECALL_S, "the second one");
	*(u32 *)pages[1] = 0x73;
	stale(stub_fetch, page(ra, 4), FETCH, "the first fetch");
	access(stub_fetch, page(ra, 4), ECALL_S, "the second one");
	visit(fence_va, page(ra, 5), 0, 1);
	kept[0].fences++;
	access(stub_load, page(ra, 5), ECALL_S, "a fence makes the store visible");
	stale(stub_load, page(ra, 6), LOAD, "not that of another page");
	fence();
	set_pte(l0_a, 7, pte(pages[1], RWX));
	access(stub_load, page(ra, 7), ECALL_S, "no PTE that was not looked at before");
	remembers();
}

static void tests_of_scope_all(u64 ra)
{
	pte_t *l1 = l1_of(ra), *l2 = LEVELS > 2 ? table_at(ra, 2) : 0;
	u64 rhuge = ra + 2 * SPAN, rabsent = ra + 3 * SPAN, rfar = ra + (1ul << 30);

	/* The first fence is fetched by a walk that passes through the root. */
	kept[0].remembered += PROGRAM_IN_UPPER_HALF;
	fresh(l0_a, ra);
	/* fresh() has counted one table of all that the walk passed through */
	kept[0].remembered += LEVELS - 1;
	set_pte(l0_a, 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "a page");

	set_pte(l1, 2, pte((void *)PROGRAM, RWX));
	stale(stub_load, rhuge, LOAD, "a huge page");
	clear(l0_b);
	set_pte(l0_b, 1, pte(pages[1], RWX));
	set_pte(l1, 3, pte(l0_b, V));
	stale(stub_load, page(rabsent, 1), LOAD, "a table that was not there");
	remembers();
	if (l2) {
		clear(low_levels[3]);
		set_pte(low_levels[3], 0, pte(l0_b, V));
		set_pte(l2, index_of(rfar, 2), pte(low_levels[3], V));
		stale(stub_load, page(rfar, 1), LOAD, "a table of tables that was not there");
		kept[0].remembered += 2;
	}

	say("#   If rs1!=x0 and rs2=x0, the fence orders only reads and writes made to leaf page table entries\n");
	visit(fence_va, rhuge, 0, 1);
	access(stub_load, rhuge, ECALL_S, "a huge page is a leaf");
	visit(fence_va, page(rabsent, 1), 0, 1);
	stale(stub_load, page(rabsent, 1), LOAD, "a table is none");
	if (l2) {
		visit(fence_va, page(rfar, 1), 0, 1);
		kept[0].fences++;
		stale(stub_load, page(rfar, 1), LOAD, "a table of tables is none");
	}
	visit(fence_va_asid, page(rabsent, 1), 1, 1);
	stale(stub_load, page(rabsent, 1), LOAD, "nor is it with an ASID");
	kept[0].fences += 3;
	say("#   If software modifies a non-leaf PTE, it should execute SFENCE.VMA with rs1=x0.\n");
	visit(fence_asid, 0, 1, 1);
	kept[0].fences++;
	access(stub_load, page(rabsent, 1), ECALL_S, "a table, fenced for without an address");
	if (l2) {
		access(stub_load, page(rfar, 1), ECALL_S, "a table of tables");
		/* its l1 and l0 */
		kept[0].remembered += 2;
	}
	access(stub_load, page(ra, 1), ECALL_S, "a page");
	/* rabsent's l0, and all on the way to ra */
	kept[0].remembered += 1 + LEVELS;
	if (l2)
		set_pte(l2, index_of(rfar, 2), 0);
	set_pte(l1, 2, 0);
	set_pte(l1, 3, 0);
	fence();
}

static void tests_of_scope_access(u64 ra)
{
	for (int i = 0; i < PTES; i++)
		set_pte(l0_a, i, 0);
	set_pte(l0_a, 0, pte(pages[0], RWX));
	fence();
	access(stub_load, ra, ECALL_S, "touch the valid neighbour");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	access(stub_load, page(ra, 1), ECALL_S, "a page that no access has met is not remembered");
	access(stub_store, page(ra, 2), STORE, "a genuine fault");
	remembers();
	access(stub_load, page(ra, 2), LOAD, "another one");
	set_pte(l0_a, 2, pte(pages[1], RWX));
	set_pte(l0_a, 3, pte(pages[1], RWX));
	stale(stub_load, page(ra, 2), LOAD, "what they met is remembered");
	access(stub_load, page(ra, 3), ECALL_S, "its neighbour is not");
	visit(fence_va, page(ra, 3), 0, 1);
	stale(stub_load, page(ra, 2), LOAD, "nor does a fence for the neighbour matter");
	visit(fence_va, page(ra, 2), 0, 1);
	access(stub_load, page(ra, 2), ECALL_S, "one for the page does");
	kept[0].fences += 2;
	set_pte(l0_a, 4, 0);
	access(stub_load, page(ra, 4), LOAD, "a genuine fault");
	remembers();
	set_pte(l0_a, 4, pte(pages[1], RWX));
	stale(stub_load, page(ra, 4), LOAD, "remembered");
	visit(fence_asid, 0, 1, 1);
	kept[0].fences++;
	access(stub_load, page(ra, 4), ECALL_S, "not after a fence for the ASID");
}

/* the PTEs in the same 64 bytes */
static void tests_of_scope_line(u64 ra)
{
	int next = LINE_PTES, last = PTES - 1;

	fresh(l0_a, ra);
	for (int i = 1; i <= next; i++)
		set_pte(l0_a, i, pte(pages[1], RWX));
	stale(stub_load, page(ra, 1), LOAD, "the next PTE in the line");
	stale(stub_store, page(ra, next - 1), STORE, "the last PTE in the line");
	access(stub_load, page(ra, next), ECALL_S, "the first one in the next line");
	remembers();
	set_pte(l0_a, next + 1, pte(pages[1], RWX));
	stale(stub_load, page(ra, next + 1), LOAD, "that line is remembered now");
	access(stub_load, page(ra, last), LOAD, "a genuine fault, in the last line");
	remembers();
	set_pte(l0_a, last, pte(pages[1], RWX));
	set_pte(l0_a, last - LINE_PTES, pte(pages[1], RWX));
	stale(stub_load, page(ra, last), LOAD, "what it met is remembered");
	access(stub_load, page(ra, last - LINE_PTES), ECALL_S, "the line before the last one");
	remembers();
	visit(fence_va, page(ra, next), 0, 1);
	stale(stub_load, page(ra, next + 1), LOAD, "a fence for a neighbour");
	visit(fence_va, page(ra, next + 1), 0, 1);
	access(stub_load, page(ra, next + 1), ECALL_S, "a fence for the page");
	stale(stub_load, page(ra, 1), LOAD, "another line");
	kept[0].fences += 2;
	empty_tlb();
	stale(stub_load, page(ra, 1), LOAD, "a write to satp does not forget");
	visit(fence_asid, 0, 1, 1);
	kept[0].fences++;
	access(stub_load, page(ra, 1), ECALL_S, "a fence for the ASID");
	access(stub_load, page(ra, last), ECALL_S, "in all lines");
	kept[0].remembered += 2;
	fence();
}

static void tests_of_user(u64 ra)
{
	u64 rlow = SPAN;

	for (int i = 0; i < PTES; i++)
		set_pte(l0_low, i, 0);
	set_pte(l0_low, 0, pte(pages[0], RWX));
	fresh(l0_a, ra);
	access(stub_load, rlow, ECALL_S, "touch the lower half");
	remembers();
	set_pte(l0_low, 1, pte(pages[1], RWX));
	stale(stub_load, page(rlow, 1), LOAD, "S-mode in the lower half");
	*(u32 *)pages[2] = 0x73;
	set_pte(l0_low, 2, pte(pages[2], RWX | U));
	check(visit_page(page(rlow, 2), 0).cause == (model ? FETCH : ECALL_U),
	      "U-mode in the lower half", 0);
	kept[0].stale += model;
	set_pte(l0_a, 2, pte(pages[2], RWX | U));
	check(visit_page(page(ra, 2), 0).cause == (model ? FETCH : ECALL_U),
	      "U-mode in the upper half", 0);
	kept[0].stale += model;
	visit(fence_va, page(rlow, 2), 0, 1);
	kept[0].fences++;
	check(visit_page(page(rlow, 2), 0).cause == ECALL_U, "U-mode after a fence", 0);
	stale(stub_load, page(rlow, 1), LOAD, "S-mode still remembers");
	fence();
	access(stub_load, page(rlow, 1), ECALL_S, "S-mode after a fence");
	remembers();
}

static void tests_of_lifetime(u64 ra)
{
	struct visit v;
	u64 start, end;

	start = now();
	fresh(l0_a, ra);
	set_pte(l0_a, 1, pte(pages[1], RWX));
	do {
		v = visit(stub_load, page(ra, 1), 0, 1);
		end = now();
		kept[0].stale += v.cause == LOAD;
	} while (v.cause == LOAD && end - start < PATIENCE);
	check(v.cause == ECALL_S && lasted(end - start, 10000), "remembered for one to two times the lifetime", 0);
	/* read again when that was over */
	remembers();
}

/* a fetch fault in Sv39 loses the sign of its address, nothing else does */
static void tests_of_cip_453(u64 ra)
{
	u64 cut = satp_mode == 8 ? ~0ull >> 25 : ~0ull;
	struct visit v;

	fresh(l0_a, ra);
	v = visit(stub_fetch, page(ra, 1) + 8, 0, 1);
	check(v.cause == FETCH && v.tval == ((page(ra, 1) + 8) & cut) && v.epc == page(ra, 1) + 8,
	      "fetch from an invalid page", 0);
	asm volatile("csrw medeleg, %0; csrw stvec, %1" :: "r"(1 << FETCH), "r"(stub_stval));
	v = visit(stub_fetch, page(ra, 1) + 8, 0, 1);
	check(v.cause == ECALL_S && v.ret == ((page(ra, 1) + 8) & cut), "the same, to S-mode", 0);
	v = visit_page(page(ra, 1), 0);
	check(v.cause == ECALL_S && v.ret == (page(ra, 1) & cut), "the same, from U-mode", 0);
	asm volatile("csrw medeleg, zero");
	/* there is nothing at this physical address */
	set_pte(l0_a, 2, pte((void *)0x50000, RWX));
	fence();
	v = visit(stub_fetch, page(ra, 2), 0, 1);
	remembers();
	check(v.cause == FETCH_ACCESS && v.tval == (page(ra, 2) & cut), "fetch from where no memory is", 0);
	access(stub_load, page(ra, 1), LOAD, "load from an invalid page");
	access(stub_store, page(ra, 1), STORE, "store");
	access(stub_amo, page(ra, 1), STORE, "amo");
	access(stub_fetch, 0x201000, FETCH, "an address in the lower half has no sign to lose");
	*(u32 *)pages[1] = 0x73;
	set_pte(l0_a, 3, pte(pages[1], RWX));
	v = visit(stub_fetch, page(ra, 3), 0, 1);
	kept[0].stale += model;
	check(model ? v.cause == FETCH && v.tval == (page(ra, 3) & cut) : v.cause == ECALL_S,
	      "fetch from a page made valid", 0);
	fence();
	access(stub_fetch, page(ra, 3), ECALL_S, "after a fence");
	remembers();
}

static void tests_of_kinds(u64 mode)
{
	u64 ra = map_all(mode);

	*(u32 *)pages[0] = 0x73;
	if (PARAMS & PARAM_LATE)
		tests_of_late_pte(ra);
	if (PARAMS & PARAM_ALL)
		tests_of_scope_all(ra);
	if (PARAMS & PARAM_ACCESS)
		tests_of_scope_access(ra);
	if (PARAMS & PARAM_LINE)
		tests_of_scope_line(ra);
	if (PARAMS & PARAM_USER)
		tests_of_user(ra);
	if (PARAMS & PARAM_LIFETIME)
		tests_of_lifetime(ra);
	if (PARAMS & PARAM_CIP_453)
		tests_of_cip_453(ra);
}

/* valid translations beside invalid ones */
static void tests_of_coexistence(u64 mode)
{
	int any = !!(PARAMS & PARAM_ANY), valid = !!(PARAMS & PARAM_VALID);
	u64 ra, pattern = 0;

	ra = map_all(mode);
	kept[0].evictions += !!(PARAMS & PARAM_SATP);
	/* breakpoints go to S-mode, which calls for M-mode */
	asm volatile("csrw medeleg, %0; csrw stvec, %1" :: "r"(1 << BREAK), "r"(stub_nothing));
	kept[0].evictions += !!(PARAMS & PARAM_STVEC);

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

	if (PARAMS & PARAM_EVICT_IN) {
		u64 code = PROGRAM_IN_UPPER_HALF ? ra + SPAN : SPAN;
		pte_t *l0 = PROGRAM_IN_UPPER_HALF ? l0_b : l0_low;

		set_pte(l1_of(code), 0, pte(l0, V));
		*(u32 *)pages[2] = 0x13;	/* nop */
		*(u32 *)(pages[2] + 4) = 0x73;
		fresh(l0_a, ra);
		for (int i = 0; i < 3; i++)
			set_pte(l0, i, pte(pages[2], RWX));
		set_pte(l0_a, 1, pte(pages[1], RWX));
		set_pte(l0_a, 2, pte(pages[1], RWX));
		both(stub_load, page(ra, 1), LOAD, 1, "a page made valid");
		access(stub_fetch, page(code, 0) + 4, ECALL_S, "code before the range");
		kept[0].remembered += PROGRAM_IN_UPPER_HALF;
		access(stub_fetch, page(code, 2), ECALL_S, "code behind it");
		access(stub_load, page(ra, 1), ECALL_S, "nothing is lost");
		access(stub_fetch, page(code, 1) + 4, ECALL_S, "an instruction in the range");
		kept[0].evictions++;
		both(stub_load, page(ra, 1), LOAD, 0, "the page is lost");
		both(stub_load, page(ra, 2), LOAD, 1, "a page that was not used");
		access(stub_fetch, page(code, 1), ECALL_S, "two instructions in the range");
		kept[0].evictions += 2;
		both(stub_load, page(ra, 2), LOAD, 0, "that is lost, too");
		fence();
		access(stub_load, page(ra, 1), ECALL_S, "after a fence");
		remembers();
		return;
	}

	if (PARAMS & PARAM_RANDOM) {
		u64 taken = 0;

		fresh(l0_a, ra);
		for (int i = 1; i <= 64; i++) {
			set_pte(l0_a, i, pte(pages[1], RWX));
			if (visit(stub_load, page(ra, i), 0, 1).cause == ECALL_S) {
				pattern |= 1ull << (i - 1);
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
	empty_tlb_in_m();
	both(stub_load, page(ra, 2), LOAD, valid, "what empties QEMU's TLB is no eviction");
	set_pte(l0_a, 2, 0);
	empty_tlb_in_m();
	access(stub_load, page(ra, 2), LOAD, "invalid again: nothing to choose from");
	/* a table's G bit is that of all its pages */
	set_pte(l0_a, 6, pte(pages[1], RWX));
	l1_of(ra)[0] |= G;
	both(stub_load, page(ra, 6), LOAD, valid, "a page of a global table");
	l1_of(ra)[0] &= ~(pte_t)G;
	if (!valid)
		return;

	for (u64 i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		int lost = !!(events[i].evicts & PARAMS);

		fresh(l0_a, ra);
		*(u32 *)pages[2] = 0x00100073;	/* ebreak */
		set_pte(l0_a, PTES - 1, pte(pages[2], RWX | U | G));
		visit_page(page(ra, PTES - 1), 0);
		kept[0].evictions += !!(PARAMS & PARAM_TRAP_U);
		set_pte(l0_a, 1, pte(pages[1], RWX | G));
		set_pte(l0_a, 2, pte(pages[1], RWX | G));
		both(stub_load, page(ra, 1), LOAD, 1, "before the event");
		events[i].happens();
		kept[0].evictions += lost;
		if (lost) {
			both(stub_load, page(ra, 1), LOAD, 0, events[i].what);
			both(stub_store, page(ra, 1), STORE, 0, "store after it");
			both(stub_load, page(ra, 2), LOAD, 1, "a page that was not used before it");
			empty_tlb_in_m();
			both(stub_load, page(ra, 2), LOAD, 1, "and is still held");
			both(stub_load, page(ra, 1), LOAD, 0, "what was lost stays lost");
			events[i].happens();
			kept[0].evictions++;
			both(stub_load, page(ra, 2), LOAD, 0, "lost the second time");
		} else {
			/* QEMU walks again after a write of satp, and finds both */
			kept[0].coexisting += events[i].happens == event_satp;
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

/*
 * Valid translations that outlive their PTEs
 */

/* tells the pages apart */
static u64 word_of(int i)
{
	return (reg)(0x1111111111111111ull * (i + 1));
}

/* a load that has to get at page i; QEMU's TLB does not help */
static void sees(u64 va, int i, const char *what)
{
	struct visit v;

	empty_tlb_in_m();
	v = visit(stub_load, va + 8, 0, 1);
	if (v.cause != ECALL_S || v.ret != word_of(i)) {
		say("# cause "); say_dec(v.cause); say(", word "); say_hex(v.ret);
		say(", wanted "); say_hex(word_of(i)); say("\n");
	}
	check(v.cause == ECALL_S && v.ret == word_of(i), what, 0);
}

static void faults(void (*stub)(void), u64 va, u64 cause, const char *what)
{
	empty_tlb_in_m();
	access(stub, va, cause, what);
}

/* The PTE is invalid by now. */
static void unmapped(u64 va, int i, const char *what)
{
	if (model)
		sees(va, i, what);
	else
		faults(stub_load, va, LOAD, what);
	kept_valid[0].unmapped += model;
}

/* The PTE is for page j by now. */
static void remapped(u64 va, int i, int j, const char *what)
{
	sees(va, model ? i : j, what);
	kept_valid[0].remapped += model;
}

/* The PTE does not permit it any more. */
static void restricted(void (*stub)(void), u64 va, u64 cause, const char *what)
{
	faults(stub, va, model ? ECALL_S : cause, what);
	kept_valid[0].restricted += model;
}

/* The PTE has not permitted it before. */
static void upgraded(void (*stub)(void), u64 va, u64 cause, const char *what)
{
	int late = model && !(PARAMS & PARAM_HELD_WALK);

	faults(stub, va, late ? cause : ECALL_S, what);
	kept_valid[0].upgraded += late;
}

static void fences(void (*stub)(void), u64 a0, u64 a1)
{
	visit(stub, a0, a1, 1);
	kept_valid[0].fences++;
}

static void write_satp(u64 v)
{
	visit(stub_satp, v, 0, 1);
}

static void spec(const char *sentence)
{
	say("#   "); say(sentence); say("\n");
}

static void tests_of_held_pages(u64 ra)
{
	spec("A consequence of this specification is that an implementation may use any translation for an address "
	     "that was valid at any time since the most recent SFENCE.VMA that subsumes that address.");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	sees(page(ra, 1), 1, "a page");
	set_pte(l0_a, 1, 0);
	unmapped(page(ra, 1), 1, "an unmapped page");
	unmapped(page(ra, 1), 1, "the same again");
	set_pte(l0_a, 1, pte(pages[2], RWX));
	remapped(page(ra, 1), 1, 2, "a page that is another one by now");
	faults(stub_load, page(ra, 2), LOAD, "a page that was never mapped");
	fences(fence_va, page(ra, 2), 0);
	remapped(page(ra, 1), 1, 2, "a fence for another page");
	fences(fence_va, page(ra, 1), 0);
	sees(page(ra, 1), 2, "a fence for the page");
	set_pte(l0_a, 1, pte(pages[0], RWX));
	*(u64 *)(pages[2] + 16) = *(u64 *)(pages[0] + 16) = 0;
	empty_tlb_in_m();
	visit(stub_store, page(ra, 1) + 16, 1, 1);
	kept_valid[0].remapped += model;
	check(*(u64 *)(pages[model ? 2 : 0] + 16) && !*(u64 *)(pages[model ? 0 : 2] + 16),
	      "a store gets to the old page", 0);
	fences(fence_all, 0, 0);

	spec("For the special cases of increasing the permissions on a leaf PTE and changing an invalid PTE to a valid "
	     "leaf, software may choose to execute the SFENCE.VMA lazily. After modifying the PTE but before executing "
	     "SFENCE.VMA, either the new or old permissions will be used.");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	access(stub_store, page(ra, 1) + 16, ECALL_S, "a store");
	set_pte(l0_a, 1, pte(pages[1], V | R | A | D));
	restricted(stub_store, page(ra, 1) + 16, STORE, "a store to a page that is read-only by now");
	restricted(stub_amo, page(ra, 1) + 16, STORE, "amo");
	/* QEMU's TLB, which the load fills, must not let the store through uncounted. */
	sees(page(ra, 1), 1, "a load from a page that is read-only by now");
	access(stub_store, page(ra, 1) + 16, model ? ECALL_S : STORE, "a store right after it");
	kept_valid[0].restricted += model;
	fences(fence_va, page(ra, 1), 0);
	faults(stub_store, page(ra, 1) + 16, STORE, "a store after a fence");
	sees(page(ra, 1), 1, "a load");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	upgraded(stub_store, page(ra, 1) + 16, STORE, "a store to a page that was read-only");
	if (!(PARAMS & PARAM_HELD_WALK))
		upgraded(stub_fetch, page(ra, 1), FETCH, "a fetch from a page that was not executable");
	fences(fence_va, page(ra, 1), 0);
	faults(stub_store, page(ra, 1) + 16, ECALL_S, "a store after a fence");
	faults(stub_fetch, page(ra, 1), ECALL_S, "a fetch after a fence");
	fences(fence_all, 0, 0);

	/* who sets A and D depends on the CPU */
	set_pte(l0_a, 1, pte(pages[1], RWX));
	access(stub_store, page(ra, 1) + 16, ECALL_S, "a store");
	set_pte(l0_a, 1, pte(pages[1], RWX & ~D));
	if (model) {
		restricted(stub_store, page(ra, 1) + 16, STORE, "a store to a page whose D is cleared");
		check(!(l0_a[1] & D), "D is not set again", 0);
	}
	set_pte(l0_a, 1, pte(pages[1], RWX & ~A & ~D));
	if (model) {
		sees(page(ra, 1), 1, "a load from a page whose A is cleared");
		check(!(l0_a[1] & A), "A is not set again", 0);
	}
	fences(fence_va, page(ra, 1), 0);
	if (PARAMS & PARAM_SVADE) {
		faults(stub_load, page(ra, 1), LOAD, "a load after a fence");
		set_pte(l0_a, 1, pte(pages[1], RWX & ~D));
		sees(page(ra, 1), 1, "a load from a page with A");
		set_pte(l0_a, 1, pte(pages[1], RWX));
		upgraded(stub_store, page(ra, 1) + 16, STORE, "a store to a page whose D is set by now");
	} else {
		sees(page(ra, 1), 1, "a load after a fence");
		check((l0_a[1] & (A | D)) == A, "A is set", 0);
		faults(stub_store, page(ra, 1) + 16, ECALL_S, "a store");
		check(l0_a[1] & D, "D is set for what was held without it", 0);
		fences(fence_va, page(ra, 1), 0);
		set_pte(l0_a, 1, pte(pages[1], RWX & ~D));
		sees(page(ra, 1), 1, "a page without D");
		/* "... the PTE update must be exact": it is compared with memory */
		set_pte(l0_a, 1, 0);
		faults(stub_store, page(ra, 1) + 16, STORE, "D is not set in a PTE that has changed");
	}
	fences(fence_all, 0, 0);
}

static void tests_of_held_spaces(u64 ra)
{
	pte_t *t = root_b;

	spec("Note that writing satp does not imply any ordering constraints between page-table updates and subsequent "
	     "address translations, nor does it imply any invalidation of address-translation caches.");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	sees(page(ra, 1), 1, "a page");
	write_satp(satp(2));
	set_pte(l0_a, 1, 0);
	faults(stub_load, page(ra, 1), LOAD, "another ASID does not have it");
	write_satp(satp(1));
	unmapped(page(ra, 1), 1, "back in the first one");

	spec("When software recycles an ASID (i.e., reassociates it with a different page table), it should first change "
	     "satp to point to the new page table using the recycled ASID, then execute SFENCE.VMA with rs1=x0 and rs2 set "
	     "to the recycled ASID.");
	/* The other address space differs in the table for ra. */
	for (int i = 0; i < PTES; i++)
		root_b[i] = root[i];
	for (int l = LEVELS - 1; l > 0; l--) {
		pte_t *copy = l > 1 ? (l == 2 ? low_levels[2] : l == 3 ? low_levels[3] : levels[3]) : l0_b;
		pte_t *from = below(t[index_of(ra, l)]);

		for (int i = 0; i < PTES; i++)
			copy[i] = l > 1 ? from[i] : 0;
		t[index_of(ra, l)] = pte(copy, V);
		t = copy;
	}
	set_pte(l0_b, 1, pte(pages[2], RWX));
	write_satp(satp_of(root_b, 1));
	remapped(page(ra, 1), 1, 2, "an ASID that has got another table");
	fences(fence_asid, 0, 2);
	remapped(page(ra, 1), 1, 2, "a fence for another ASID");
	fences(fence_asid, 0, 1);
	sees(page(ra, 1), 2, "a fence for the ASID");
	write_satp(satp(1));
	fences(fence_all, 0, 0);

	spec("Similarly, for a given virtual address, any global translation since the last subsuming SFENCE.VMA might be "
	     "used, regardless of both ASID and virtual-address width.");
	set_pte(l0_a, 1, pte(pages[1], RWX | G));
	sees(page(ra, 1), 1, "a global page");
	set_pte(l0_a, 1, 0);
	write_satp(satp(2));
	unmapped(page(ra, 1), 1, "another ASID has a global page");
	fences(fence_asid, 0, 2);
	unmapped(page(ra, 1), 1, "a fence for the ASID is none for it");
	fences(fence_va_asid, page(ra, 1), 2);
	unmapped(page(ra, 1), 1, "nor is one for the address and the ASID");
	fences(fence_va, page(ra, 1), 0);
	faults(stub_load, page(ra, 1), LOAD, "one for the address is");
	write_satp(satp(1));
	fences(fence_all, 0, 0);
}

/* leaf PTEs at level l, and what lies inside and outside of them */
static void tests_of_held_superpages(u64 ra, int l)
{
	u64 size = 1ull << (12 + INDEX_BITS * l);
	pte_t *t = table_at(ra, l);
	/* the index of ra at this level, plus 5 and 6 */
	int i = index_of(ra, l) + 5;
	reg base = l <= 2 ? PROGRAM : 0;
	u64 in = ra + 5 * size - base, out = in + size;

	say("# leaf PTEs at level "); say_dec(l); say("\n");
	set_pte(t, i, pte((void *)base, RWX));
	set_pte(t, i + 1, pte((void *)base, RWX));
	sees(in + (reg)pages[1], 1, "a superpage");
	sees(out + (reg)pages[1], 1, "its neighbour");
	set_pte(t, i, 0);
	set_pte(t, i + 1, 0);
	unmapped(in + (reg)pages[1], 1, "an unmapped superpage");
	unmapped(in + (reg)pages[2], 2, "another page of it");
	spec("If rs1!=x0 and rs2=x0 ... The fence also invalidates all address-translation cache entries that contain leaf "
	     "page table entries corresponding to the virtual address in rs1, for all address spaces.");
	fences(fence_va, in + (reg)pages[3], 0);
	faults(stub_load, in + (reg)pages[1], LOAD, "after a fence for an address inside");
	faults(stub_load, in + (reg)pages[2], LOAD, "another page after it");
	unmapped(out + (reg)pages[1], 1, "the neighbour is still there");
	/* the first and the last page */
	fences(fence_va, out + base - 4096, 0);
	unmapped(out + (reg)pages[1], 1, "after a fence for the page before it");
	fences(fence_va, out + base + size, 0);
	unmapped(out + (reg)pages[1], 1, "after a fence for the page behind it");
	fences(fence_va, out + base, 0);
	faults(stub_load, out + (reg)pages[1], LOAD, "after a fence for its first page");
	set_pte(t, i, pte((void *)base, RWX));
	sees(in + (reg)pages[1], 1, "a superpage");
	set_pte(t, i, 0);
	fences(fence_va, in + base + size - 4096, 0);
	faults(stub_load, in + (reg)pages[1], LOAD, "after a fence for its last page");
	fences(fence_all, 0, 0);
}

static void tests_of_held_splits(u64 ra)
{
	pte_t *l1 = l1_of(ra);
	u64 rb = ra + 2 * SPAN;
	int at = index_of((reg)pages[1], 0);

	/* split: the new table has another page in one place */
	clear(l0_b);
	set_pte(l1, 2, pte((void *)PROGRAM, RWX));
	sees(rb + ((reg)pages[1] & (SPAN - 1)), 1, "a superpage");
	set_pte(l0_b, at, pte(pages[2], RWX));
	set_pte(l1, 2, pte(l0_b, V));
	remapped(page(rb, at), 1, 2, "a superpage that was split");
	fences(fence_va, page(rb, at), 0);
	sees(page(rb, at), 2, "after a fence");

	/* merge: the page that was used is held, others not */
	spec("In a conventional TLB design, it is possible for multiple entries to match a single address if, for example, "
	     "a page is upgraded to a superpage without first clearing the original non-leaf PTE's valid bit and executing "
	     "an SFENCE.VMA with rs1=x0. In this case, a similar remark applies: it is unpredictable whether the old "
	     "non-leaf PTE or the new leaf PTE is used, but the behavior is otherwise well defined.");
	set_pte(l1, 2, pte((void *)PROGRAM, RWX));
	remapped(page(rb, at), 2, 1, "a page that is in a superpage by now");
	if (model && (PARAMS & PARAM_HELD_ALL)) {
		faults(stub_load, page(rb, at + 1), LOAD, "the old table has no other page");
		kept_valid[0].tables++;
	} else {
		sees(page(rb, at + 1), 2, "another page of the superpage");
	}
	fences(fence_all, 0, 0);
	sees(page(rb, at), 1, "after a fence");
	set_pte(l1, 2, 0);
	fences(fence_all, 0, 0);
}

/* page tables that the hart still walks */
static void tests_of_held_tables(u64 ra)
{
	pte_t *l1 = l1_of(ra);
	u64 rb = ra + 2 * SPAN;
	int all = model && (PARAMS & PARAM_HELD_ALL);

	clear(l0_b);
	for (int i = 0; i < 8; i++)
		set_pte(l0_b, i, pte(pages[1], RWX));
	set_pte(l1, 2, pte(l0_b, V));
	sees(page(rb, 0), 1, "a page");
	set_pte(l1, 2, 0);
	unmapped(page(rb, 0), 1, "a page of a table that is gone");
	if (all) {
		sees(page(rb, 1), 1, "another page of a table that is gone");
		kept_valid[0].tables++;
		spec("If rs1!=x0 and rs2=x0, the fence orders only reads and writes made to leaf page table entries "
		     "corresponding to the virtual address in rs1");
		fences(fence_va, page(rb, 2), 0);
		sees(page(rb, 2), 1, "a fence for an address is none for a table");
		kept_valid[0].tables++;
		fences(fence_va_asid, page(rb, 3), 1);
		sees(page(rb, 3), 1, "nor is it with an ASID");
		kept_valid[0].tables++;
	} else {
		faults(stub_load, page(rb, 1), LOAD, "another page of a table that is gone");
	}
	spec("If software modifies a non-leaf PTE, it should execute SFENCE.VMA with rs1=x0.");
	fences(fence_asid, 0, 1);
	faults(stub_load, page(rb, 4), LOAD, "a fence without an address");
	fences(fence_all, 0, 0);
}

/* What each fence forgets, and what it does not */
static void tests_of_held_fences(u64 ra, u64 rb)
{
	for (u64 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		u64 addresses[] = { 0, page(ra, 1), page(rb, 1), page(ra, 1) ^ 1ull << 62 };

		if (is_left_out(row))
			continue;
		if (row->says && *row->says)
			spec(row->says);
		say("# "); say(row->what); say("\n");
		set_pte(l0_a, 1, pte(pages[1], RWX));
		set_pte(l0_a, 2, pte(pages[2], RWX));
		set_pte(l0_b, 1, pte(pages[1], RWX));
		set_pte(l1_of(ra), 1, pte(l0_b, V | G));
		fences(fence_all, 0, 0);
		sees(page(ra, 1), 1, "page 1");
		sees(page(ra, 2), 2, "page 2");
		sees(page(rb, 1), 1, "a page below a global PTE");
		write_satp(satp(2));
		sees(page(ra, 1), 1, "page 1, ASID 2");
		sees(page(ra, 2), 2, "page 2, ASID 2");
		write_satp(satp(1));
		set_pte(l0_a, 1, 0);
		set_pte(l0_a, 2, 0);
		set_pte(l0_b, 1, 0);

		check(visit(row->stub, addresses[row->rs1], row->rs2, 1).cause == ECALL_S, "is executed", 0);
		kept_valid[0].fences += row->fences;
#define KEPT_BY(bit, va, i, what) \
	do { \
		if (row->forgets & (bit)) \
			faults(stub_load, va, LOAD, what); \
		else \
			unmapped(va, i, what); \
	} while (0)
		KEPT_BY(P1A1, page(ra, 1), 1, "page 1, ASID 1");
		KEPT_BY(P2A1, page(ra, 2), 2, "page 2, ASID 1");
		KEPT_BY(G1A1, page(rb, 1), 1, "global page, ASID 1");
		write_satp(satp(2));
		KEPT_BY(P1A2, page(ra, 1), 1, "page 1, ASID 2");
		KEPT_BY(P2A2, page(ra, 2), 2, "page 2, ASID 2");
		write_satp(satp(1));
		if (row->stub == sinval_no_ir)
			visit(fence_winval, 0, 0, 1);
	}
	set_pte(l1_of(ra), 1, 0);
	fences(fence_all, 0, 0);
}

static void tests_of_held_napot(u64 ra)
{
	pte_t *l0 = l0_a;

	if (!(PARAMS & PARAM_NAPOT))
		return;
	/* 64 KiB of this program */
	spec("Implicit reads of NAPOT page table entries may create address-translation cache entries mapping a + j*PTESIZE "
	     "to a copy of pte ... for any or all j such that j >> napot_bits = vpn[i] >> napot_bits");
	reg base = (reg)pages & ~0xfffful, at = ((reg)pages[1] & 0xffff) >> 12;
	/* the size is in the PPN: 64 KiB */
	for (int i = 16; i < 32; i++)
		set_pte(l0, i, 1ull << 63 | pte((void *)(base | 0x8000), RWX));
	sees(page(ra, 16 + at), 1, "a page of a Svnapot range");
	for (int i = 16; i < 32; i++)
		set_pte(l0, i, 0);
	unmapped(page(ra, 16 + at), 1, "the same page, unmapped");
	faults(stub_load, page(ra, 16 + (at + 1) % 16), model ? ECALL_S : LOAD, "a page that was not used");
	kept_valid[0].unmapped += model;
	faults(stub_load, page(ra, 15), LOAD, "the page before the range");
	faults(stub_load, page(ra, 32), LOAD, "the page behind it");
	fences(fence_va, page(ra, 15), 0);
	fences(fence_va, page(ra, 32), 0);
	unmapped(page(ra, 16 + at), 1, "after fences for these");
	fences(fence_va, page(ra, 16 + (at + 1) % 16), 0);
	faults(stub_load, page(ra, 16 + (at + 1) % 16), LOAD, "after a fence for a page of the range");
	if (PARAMS & PARAM_NAPOT_PAGE)
		unmapped(page(ra, 16 + at), 1, "another page of it");
	else
		faults(stub_load, page(ra, 16 + at), LOAD, "another page of it");
	fences(fence_va, page(ra, 16 + at), 0);
	faults(stub_load, page(ra, 16 + at), LOAD, "a fence for that page");
	fences(fence_all, 0, 0);
}

/* fetches and loads do not share what they hold */
static void tests_of_held_split(u64 ra)
{
	int apart = model && (PARAMS & PARAM_SPLIT);

	*(u32 *)pages[1] = 0x00100073;	/* ebreak */
	*(u32 *)pages[2] = 0x00000073;	/* ecall */
	set_pte(l0_a, 1, pte(pages[1], RWX));
	sees(page(ra, 1), 1, "a load");
	set_pte(l0_a, 1, pte(pages[2], RWX));
	faults(stub_fetch, page(ra, 1), model && !apart ? BREAK : ECALL_S, "a fetch from what only a load has used");
	kept_valid[0].remapped += model && !apart;
	remapped(page(ra, 1), 1, 2, "a load again");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	faults(stub_fetch, page(ra, 1), apart ? ECALL_S : BREAK, "a fetch that is held by now");
	kept_valid[0].remapped += apart;
	sees(page(ra, 1), 1, "a load from the old page, which is the new one");
	fences(fence_va, page(ra, 1), 0);
	faults(stub_fetch, page(ra, 1), BREAK, "a fetch after a fence");
	*(u32 *)pages[1] = 0x73;
	fences(fence_all, 0, 0);
}

/* pages of S-mode's shadow stack, whose PTE has neither R nor X */
static void tests_of_held_shadow_stacks(u64 ra)
{
	u64 top = page(ra, 1) + 32;

	/* menvcfg.SSE */
	asm volatile("csrs 0x30a, %0" :: "r"(1 << 3));
	spec("Memory mapped as an SS page cannot be written to by instructions other than SSAMOSWAP.W/D, SSPUSH, and "
	     "C.SSPUSH. Attempts will raise a store/AMO access-fault exception. ... However, the shadow stack is readable by "
	     "all instructions that only load from memory.");
	set_pte(l0_a, 1, pte(pages[1], V | W | A | D));
	access(stub_sspush, top, ECALL_S, "a push");
	sees(page(ra, 1), 1, "a load from the stack");
	empty_tlb_in_m();
	access(stub_sspush, top, ECALL_S, "a push again");
	faults(stub_store, page(ra, 1) + 16, STORE_ACCESS, "a store");
	faults(stub_amo, page(ra, 1) + 16, STORE_ACCESS, "amo");
	faults(stub_fetch, page(ra, 1), FETCH_ACCESS, "a fetch");
	set_pte(l0_a, 1, 0);
	if (!model) {
		faults(stub_load, page(ra, 1), LOAD, "a load from an unmapped stack");
	} else if (PARAMS & PARAM_HELD_WALK) {
		/* The accesses that were denied have made the hart walk. */
		faults(stub_load, page(ra, 1), LOAD, "what was denied is not held");
	} else {
		unmapped(page(ra, 1), 1, "a load from an unmapped stack");
		empty_tlb_in_m();
		access(stub_sspush, top, ECALL_S, "a push to an unmapped stack");
		kept_valid[0].unmapped++;
	}
	fences(fence_va, page(ra, 1), 0);

	/* the page of a stack that was an ordinary page */
	set_pte(l0_a, 1, pte(pages[1], RWX));
	access(stub_store, page(ra, 1) + 16, ECALL_S, "a store to an ordinary page");
	set_pte(l0_a, 1, pte(pages[1], V | W | A | D));
	sees(page(ra, 1), 1, "a load from a page that is a stack's by now");
	restricted(stub_store, page(ra, 1) + 16, STORE_ACCESS, "a store to it");
	fences(fence_va, page(ra, 1), 0);
	faults(stub_store, page(ra, 1) + 16, STORE_ACCESS, "a store after a fence");
	fences(fence_all, 0, 0);
	asm volatile("csrc 0x30a, %0" :: "r"(1 << 3));
}

static void tests_of_held_few(u64 ra)
{
	int taken = 0;

	for (int i = 1; i <= 64; i++)
		set_pte(l0_a, i, pte(pages[1], RWX));
	for (int i = 1; i <= 64; i++)
		visit(stub_load, page(ra, i), 0, 1);
	for (int i = 1; i <= 64; i++)
		set_pte(l0_a, i, 0);
	empty_tlb_in_m();
	for (int i = 1; i <= 64; i++)
		taken += visit(stub_load, page(ra, i), 0, 1).cause == ECALL_S;
	kept_valid[0].unmapped += taken;
	check(taken >= 1 && taken <= 4, "no more than four are held", 0);
	fences(fence_all, 0, 0);
}

static void tests_of_held(u64 mode)
{
	u64 ra = map_all(mode), rb = ra + SPAN;

	asm volatile("sfence.vma" ::: "memory");
	kept_valid[0].fences++;
	for (int i = 0; i < 4; i++) {
		*(u32 *)pages[i] = 0x73;
		*(u64 *)(pages[i] + 8) = word_of(i);
	}
	for (int i = 0; i < PTES; i++)
		set_pte(l0_a, i, 0);
	if (PARAMS & PARAM_FEW) {
		tests_of_held_few(ra);
		return;
	}
	if (PARAMS & PARAM_SSCRATCH) {
		set_pte(l0_a, 1, pte(pages[1], RWX));
		sees(page(ra, 1), 1, "a page");
		set_pte(l0_a, 1, 0);
		unmapped(page(ra, 1), 1, "an unmapped page");
		event_sscratch_set();
		faults(stub_load, page(ra, 1), LOAD, "after an eviction");
		return;
	}
	if (PARAMS & PARAM_SPLIT) {
		tests_of_held_split(ra);
		return;
	}
	if (PARAMS & PARAM_ZICFISS) {
		tests_of_held_shadow_stacks(ra);
		return;
	}
	tests_of_held_pages(ra);
	tests_of_held_spaces(ra);
	for (int l = 1; l < LEVELS; l++)
		tests_of_held_superpages(ra, l);
	tests_of_held_splits(ra);
	tests_of_held_tables(ra);
	tests_of_held_napot(ra);
	tests_of_held_split(ra);
	if (!(PARAMS & PARAM_HELD_ALL)) {
		clear(l0_b);
		tests_of_held_fences(ra, rb);
	}

	/* the other harts: what one forgets, the others do not */
	spec("If a hart employs an address-translation cache, that cache must appear to be private to that hart.");
	set_pte(l0_a, 1, pte(pages[1], RWX));
	sees(page(ra, 1), 1, "a page");
	for (u64 h = 1; h < harts; h++)
		check(visit_on(h, stub_load, page(ra, 1)) == ECALL_S, "another hart uses it", 0);
	set_pte(l0_a, 1, 0);
	fences(fence_all, 0, 0);
	faults(stub_load, page(ra, 1), LOAD, "hart 0 does not have it after its fence");
	for (u64 h = 1; h < harts; h++) {
		/* not what QEMU's TLB has */
		visit_on(h, stub_satps, 0);
		check(visit_on(h, stub_load, page(ra, 1)) == (model ? ECALL_S : LOAD), "another hart still has it", 0);
		kept_valid[h].unmapped += model;
		visit_on(h, fence_all, 0);
		kept_valid[h].fences++;
		check(visit_on(h, stub_load, page(ra, 1)) == LOAD, "not after its own fence", 0);
	}

	/* who is not concerned */
	set_pte(l0_a, 1, pte(pages[1], RWX));
	sees(page(ra, 1), 1, "a page");
	set_pte(l0_a, 1, pte(pages[2], RWX));
	empty_tlb_in_m();
	check(load_with_mprv(page(ra, 1) + 8) == word_of(2), "MPRV load of M-mode", 0);
	remapped(page(ra, 1), 1, 2, "S-mode still has it");
	asm volatile("sfence.vma" ::: "memory");
	kept_valid[0].fences++;
	sees(page(ra, 1), 2, "a fence in M-mode");
}

/*
 * Stores to page tables that walks see late
 */

/* an access whose walk misses a store */
static void missed(void (*stub)(void), u64 va, u64 cause, const char *what)
{
	faults(stub, va, model ? cause : ECALL_S, what);
	kept_missed[0] += model;
}

/* what hart h does, which is told by stores that nothing orders */
static u64 visit_unordered(u64 h, void (*stub)(void), u64 a0)
{
	mails[h].satp = satp(1);
	mails[h].v.pc = (reg)stub;
	mails[h].v.a0 = a0;
	mails[h].v.a1 = 0;
	mails[h].v.mpp = 1;
	mails[h].go = 1;
	while (mails[h].go)
		;
	return mails[h].v.cause;
}

static void tests_of_late_store(u64 mode)
{
	u64 ra = map_all(mode), rb = ra + SPAN;
	volatile pte_t *l0 = l0_a;
	/* Are there stores that other harts miss? */
	u64 others = model && !(PARAMS & PARAM_ZTSO);

	asm volatile("sfence.vma" ::: "memory");
	*(u32 *)pages[1] = 0x73;
	for (int i = 0; i < PTES; i++)
		set_pte(l0_a, i, 0);
	visit(fence_all, 0, 0, 1);

	spec("SFENCE.VMA is used to synchronize updates to in-memory memory-management data structures with current "
	     "execution. Instruction execution causes implicit reads and writes to these data structures; however, these "
	     "implicit references are ordinarily not ordered with respect to explicit loads and stores.");
	for (int i = 0; i < 16; i++)
		set_pte(l0_a, i, pte(pages[1], RWX));
	missed(stub_load, page(ra, 0), LOAD, "the first walk misses an older store");
	faults(stub_load, page(ra, 0), ECALL_S, "the second one does not");
	missed(stub_store, page(ra, 1) + 16, STORE, "a store");
	missed(stub_amo, page(ra, 2) + 16, STORE, "amo");
	missed(stub_fetch, page(ra, 3), FETCH, "a fetch");
	visit(stub_fencei, 0, 0, 1);
	missed(stub_load, page(ra, 8), LOAD, "fence and fence.i do not matter");
	empty_tlb();
	missed(stub_load, page(ra, 9), LOAD, "nor does satp");
	visit(fence_va, page(ra, 10), 0, 1);
	faults(stub_load, page(ra, 10), ECALL_S, "after a fence no walk misses it");
	set_pte(l0_a, 11, pte(pages[2], RWX));
	faults(stub_load, page(ra, 11), ECALL_S, "what was valid before is not late");
	set_pte(l0_a, 12, 0);
	faults(stub_load, page(ra, 12), LOAD, "nor is what becomes invalid");
	for (int i = 13; i < 15; i++) {
		set_pte(l0_a, i, 0);
		set_pte(l0_a, i, pte(pages[1], RWX));
	}
	check(load_with_mprv(page(ra, 13)) == *(reg *)pages[1], "MPRV load of M-mode", 0);
	missed(stub_load, page(ra, 13), LOAD, "it was not the walk that misses the store");
	if (PARAMS & PARAM_THEAD) {
		visit(fence_thead, 0, 0, 1);
		faults(stub_load, page(ra, 14), ECALL_S, "after th.sfence.vmas no walk misses it");
	}

	/* tables, too */
	clear(l0_b);
	set_pte(l0_b, 1, pte(pages[1], RWX));
	set_pte(l1_of(ra), 1, pte(l0_b, V));
	missed(stub_load, page(rb, 1), LOAD, "a page table");
	missed(stub_load, page(rb, 1), LOAD, "the PTE in it");
	faults(stub_load, page(rb, 1), ECALL_S, "both");
	set_pte(l1_of(ra), 1, 0);
	visit(fence_all, 0, 0, 1);

	if (PARAMS & PARAM_ZICFISS) {
		/* menvcfg.SSE; a page of the shadow stack */
		asm volatile("csrs 0x30a, %0" :: "r"(1 << 3));
		set_pte(l0_a, 30, pte(pages[2], V | W | A | D));
		visit(fence_all, 0, 0, 1);
	}

	/* The clock of other runs does not stop for a busy host. */
	for (u64 h = 1; h < harts && PARAMS & PARAM_VIRTUAL; h++) {
		check(visit_on(h, fence_all, 0) == ECALL_S, "another hart", 0);
		l0[20] = pte(pages[1], RWX);
		check(visit_unordered(h, stub_load, page(ra, 20)) == (others ? LOAD : ECALL_S),
		      "another hart sees the younger store first", 0);
		kept_missed[h] += others;
		check(visit_unordered(h, stub_load, page(ra, 20)) == (others ? LOAD : ECALL_S),
		      "and again", 0);
		kept_missed[h] += others;
		spec("A FENCE instruction orders all of the memory accesses in its predecessor set before those in its successor "
		     "set.");
		l0[20] = 0;
		l0[21] = pte(pages[1], RWX);
		asm volatile("fence w, w" ::: "memory");
		check(visit_unordered(h, stub_load, page(ra, 21)) == ECALL_S, "not after fence w, w", 0);
		l0[22] = pte(pages[1], RWX);
		asm volatile("fence r, rw" ::: "memory");
		check(visit_unordered(h, stub_load, page(ra, 22)) == (others ? LOAD : ECALL_S),
		      "fence r, rw orders no stores", 0);
		kept_missed[h] += others;
		reg word = 0;
		asm volatile(AMO_OR("rl") " zero, zero, (%0)" :: "r"(&word) : "memory");
		check(visit_unordered(h, stub_load, page(ra, 22)) == ECALL_S, "not after an AMO that releases", 0);
		l0[23] = pte(pages[1], RWX);
		asm volatile(AMO_OR("aq") " zero, zero, (%0)" :: "r"(&word) : "memory");
		check(visit_unordered(h, stub_load, page(ra, 23)) == (others ? LOAD : ECALL_S),
		      "one that acquires orders none", 0);
		kept_missed[h] += others;
		visit(fence_all, 0, 0, 1);
		check(visit_unordered(h, stub_load, page(ra, 23)) == ECALL_S, "not after sfence.vma", 0);
		if (PARAMS & PARAM_ZACAS) {
			static u64 pair[2] __attribute__((aligned(16)));

			l0[24] = pte(pages[1], RWX);
			asm volatile(".insn r 0x2f, 2, 0x15, a2, %0, zero" :: "r"(&word) : "a2", "memory");
			check(visit_unordered(h, stub_load, page(ra, 24)) == ECALL_S, "not after an AMOCAS that releases", 0);
			l0[25] = pte(pages[1], RWX);
			asm volatile(".insn r 0x2f, " AMOCAS_PAIR ", 0x15, a2, %0, zero" :: "r"(pair) : "a2", "a3", "memory");
			check(visit_unordered(h, stub_load, page(ra, 25)) == ECALL_S, "not after one of two registers", 0);
			l0[26] = pte(pages[1], RWX);
			asm volatile(".insn r 0x2f, 2, 0x16, a2, %0, zero" :: "r"(&word) : "a2", "memory");
			check(visit_unordered(h, stub_load, page(ra, 26)) == (others ? LOAD : ECALL_S),
			      "one that acquires orders none", 0);
			kept_missed[h] += others;
		}
		for (int i = 0; i < __riscv_xlen / 32 && PARAMS & PARAM_ZICFISS; i++) {
			l0[27 + i] = pte(pages[1], RWX);
			check(visit(i ? stub_ssamoswap_d : stub_ssamoswap_w, page(ra, 30), 0, 1).cause == ECALL_S,
			      "a swap on the shadow stack", 0);
			check(visit_unordered(h, stub_load, page(ra, 27 + i)) == ECALL_S, "not after one that releases", 0);
		}
		if (PARAMS & PARAM_THEAD) {
			l0[29] = pte(pages[1], RWX);
			visit_unordered(h, fence_thead, 0);
			check(visit_unordered(h, stub_load, page(ra, 29)) == ECALL_S,
			      "not after th.sfence.vmas, which is for all harts", 0);
		}
		for (int i = 20; i < 30; i++)
			set_pte(l0_a, i, 0);
		visit(fence_all, 0, 0, 1);
	}
	if (PARAMS & PARAM_ZICFISS)
		asm volatile("csrc 0x30a, %0" :: "r"(1 << 3));
}

/*
 * What a hart caches for guests
 *
 * VS-stage: the first pages behind ra are the pages of a window of what is physical for the guest. G-stage: the
 * pages of the window. Everything else is at its own address in both.
 */

/* The root of the G-stage is four times as large; it is not the only one. */
static pte_t g_roots[2][4 * PTES] __attribute__((aligned(16384)));
static table g_lower[10], g_windows[2];

/* Which stages are cached? */
static int models_vs(void)
{
	return model && !(PARAMS & PARAM_ONLY_G);
}

static int models_g(void)
{
	return model && !(PARAMS & PARAM_ONLY_VS);
}

/* where the window begins: at the top of what is physical for a guest, or as far up as a PTE gets */
static u64 window(void)
{
	return 1ull << (satp_mode == 1 ? 33 : satp_mode == 8 ? 40 : satp_mode == 9 ? 49 : 55);
}

/* the PTE of what is physical for a guest */
static pte_t guest_pte(u64 gpa, pte_t flags)
{
	return gpa >> 12 << 10 | flags;
}

/* the PTE at level l of the G-stage, with the tables above it */
static pte_t *g_pte_at(pte_t *top, u64 gpa, int level, int *used)
{
	pte_t *p = &top[gpa >> (12 + INDEX_BITS * (LEVELS - 1)) & (4 * PTES - 1)];

	for (int l = LEVELS - 2; l >= level; l--) {
		if (!*p)
			*p = pte(g_lower[(*used)++], V);
		p = below(*p) + index_of(gpa, l);
	}
	return p;
}

static void enter_root(pte_t *top, u64 asid, u64 vmid)
{
	reg hgatp = satp_mode << SATP_MODE_SHIFT | vmid << SATP_ASID_SHIFT | (reg)top >> 12;

	/* vsatp, hgatp */
	asm volatile("csrw 0x280, %0; csrw 0x680, %1" :: "r"((reg)satp(asid)), "r"(hgatp));
}

static void enter(u64 asid, u64 vmid)
{
	enter_root(g_roots[0], asid, vmid);
}

/* a fence that is executed in this mode, and that counts if its stage is cached */
static void guest_fence(void (*stub)(void), u64 a0, u64 a1, u64 mode, int counts)
{
	visit(stub, a0, a1, mode);
	kept_valid[0].fences += counts;
	kept[0].fences += counts;
}

static void fence_guests(void)
{
	guest_fence(fence_all, 0, 0, 1, model);
	guest_fence(fence_hgvma, 0, 0, 1, models_g());
	for (u64 vmid = 3; vmid > 0; vmid--) {
		enter(1, vmid);
		guest_fence(fence_hvvma, 0, 0, 1, models_vs());
	}
}

/* returns where the guest has the window; HS-mode has l0_b behind that */
static u64 map_guest(u64 mode)
{
	u64 ra = map_all(mode);
	int used = 0, level = LEVELS > 2 ? 2 : 1;

	for (int i = 0; i < 10; i++)
		clear(g_lower[i]);
	for (int r = 0; r < 2; r++) {
		for (int i = 0; i < 4 * PTES; i++)
			g_roots[r][i] = 0;
		clear(g_windows[r]);
		*g_pte_at(g_roots[r], PROGRAM, level, &used) = pte((void *)PROGRAM, RWX | U);
		*g_pte_at(g_roots[r], window(), 1, &used) = pte(g_windows[r], V);
	}
	clear(l0_b);
	set_pte(l1_of(ra), 1, pte(l0_b, V));
	for (int i = 0; i < PTES; i++)
		set_pte(l0_a, i, 0);
	for (int i = 0; i < 4; i++) {
		*(u32 *)pages[i] = 0x73;
		*(u64 *)(pages[i] + 8) = word_of(i);
	}
	fence_guests();
	return ra;
}

/* an access of a guest; wants this cause */
static void guest_access(void (*stub)(void), u64 va, u64 want, const char *what)
{
	struct visit v;

	empty_tlb_in_m();
	v = visit(stub, va, (reg)pages[3], VS_MODE);
	if (v.cause != want) {
		say("# cause "); say_dec(v.cause); say(", wanted "); say_dec(want);
		say(", tval "); say_hex(v.tval); say(", va "); say_hex(va); say("\n");
	}
	check(v.cause == want && (want == ECALL_VS || v.tval == va), what, 0);
}

/* a load that has to get at page i */
static void guest_sees(u64 va, int i, const char *what)
{
	struct visit v;

	empty_tlb_in_m();
	v = visit(stub_load, va + 8, 0, VS_MODE);
	if (v.cause != ECALL_VS || v.ret != word_of(i)) {
		say("# cause "); say_dec(v.cause); say(", word "); say_hex(v.ret);
		say(", wanted "); say_hex(word_of(i)); say("\n");
	}
	check(v.cause == ECALL_VS && v.ret == word_of(i), what, 0);
}

/* a page that one of the stages has no more: if it is held, it is used; if not, this is the cause */
static void guest_held(int held, u64 va, int i, u64 cause, const char *what)
{
	if (held)
		guest_sees(va, i, what);
	else
		guest_access(stub_load, va, cause, what);
	kept_valid[0].unmapped += held;
}

/* a page that is another one by now */
static void guest_remapped(int held, u64 va, int i, int j, const char *what)
{
	guest_sees(va, held ? i : j, what);
	kept_valid[0].remapped += held;
}

/* what is held: page 1 for two ASIDs and two VMIDs, page 2, a global page; of the window pages 3 and 4; HS-mode's */
enum { VS1 = 1, VS2 = 2, VS1A2 = 4, VSG = 8, VS1M2 = 16, G3 = 32, G4 = 64, G3M2 = 128, HS = 256,
       EVERYTHING = 511 };
/* what is in rs1: an address of a guest, or one that is physical for it, without the two lowest bits or with them */
enum { GV1 = 1, GVG, GP3, GP3_WHOLE, GP5 };

static const struct guest_row {
	const char *says;
	const char *what;
	void (*stub)(void);
	/* where it is executed, and what hgatp.VMID is then */
	u64 mode, vmid;
	u64 rs1, rs2;
	u64 forgets;
	u64 need;
	/* how many fences it counts as, for each stage that is cached */
	u64 fences_s, fences_vs, fences_g;
} guest_rows[] = {
	{ "When V=0, ... The instruction orders stores only to HS-level address-translation structures with subsequent "
	  "HS-level address translations.",
	  "sfence.vma", fence_all, 1, 1, NOTHING, 0, HS, 0, 1, 0, 0 },
	{ "The SFENCE.VMA instruction orders stores only to the VS-level address-translation structures with subsequent "
	  "VS-stage address translations for the same virtual machine, i.e., only when hgatp.VMID is the same as when the "
	  "SFENCE.VMA executed.",
	  "sfence.vma of a guest", fence_all, VS_MODE, 1, NOTHING, 0, VS1 | VS2 | VS1A2 | VSG, 0, 0, 1, 0 },
	{ 0, "sfence.vma x0, 1 of a guest", fence_asid, VS_MODE, 1, NOTHING, 1, VS1 | VS2, 0, 0, 1, 0 },
	{ 0, "sfence.vma page 1 of a guest", fence_va, VS_MODE, 1, GV1, 0, VS1 | VS1A2, 0, 0, 1, 0 },
	{ 0, "sfence.vma page 1 of another guest", fence_va, VS_MODE, 2, GV1, 0, VS1M2, 0, 0, 1, 0 },
	{ 0, "sinval.vma page 1, 1 of a guest", sinval_va_asid, VS_MODE, 1, GV1, 1, VS1, PARAM_SVINVAL, 0, 1, 0 },
	{ "The hypervisor memory-management fence instructions, HFENCE.VVMA and HFENCE.GVMA, perform a function "
	  "similar to SFENCE.VMA, except applying to the VS-level memory-management data structures controlled by "
	  "CSR vsatp (HFENCE.VVMA) or the guest-physical memory-management data structures controlled by CSR hgatp "
	  "(HFENCE.GVMA).",
	  "hfence.vvma", fence_hvvma, 1, 1, NOTHING, 0, VS1 | VS2 | VS1A2 | VSG, 0, 0, 1, 0 },
	{ 0, "hfence.gvma", fence_hgvma, 1, 1, NOTHING, 0, G3 | G4 | G3M2, 0, 0, 0, 1 },
	{ "Implicit reads need not be ordered when hgatp.VMID is different than at the time HFENCE.VVMA executed.",
	  "hfence.vvma with another VMID", fence_hvvma, 1, 2, NOTHING, 0, VS1M2, 0, 0, 1, 0 },
	{ 0, "hfence.vvma with a third VMID", fence_hvvma, 1, 3, NOTHING, 0, 0, 0, 0, 1, 0 },
	{ "If operand rs1!=x0, it specifies a single guest virtual address, and if operand rs2!=x0, it specifies a single guest "
	  "address-space identifier (ASID).",
	  "hfence.vvma page 1", hvvma_va, 1, 1, GV1, 0, VS1 | VS1A2, 0, 0, 1, 0 },
	{ 0, "hfence.vvma global page", hvvma_va, 1, 1, GVG, 0, VSG, 0, 0, 1, 0 },
	{ 0, "hfence.vvma x0, 1", hvvma_asid, 1, 1, NOTHING, 1, VS1 | VS2, 0, 0, 1, 0 },
	{ 0, "hfence.vvma x0, 2", hvvma_asid, 1, 1, NOTHING, 2, VS1A2, 0, 0, 1, 0 },
	{ 0, "hfence.vvma page 1, 1", hvvma_va_asid, 1, 1, GV1, 1, VS1, 0, 0, 1, 0 },
	{ 0, "hfence.vvma global page, 1", hvvma_va_asid, 1, 1, GVG, 1, 0, 0, 0, 1, 0 },
	{ "If operand rs1!=x0, it specifies a single guest physical address, shifted right by 2 bits, and if operand rs2!=x0, "
	  "it specifies a single virtual machine identifier (VMID).",
	  "hfence.gvma page 3", hgvma_ga, 1, 1, GP3, 0, G3 | G3M2, 0, 0, 0, 1 },
	{ 0, "hfence.gvma page 3, not shifted", hgvma_ga, 1, 1, GP3_WHOLE, 0, 0, 0, 0, 0, 1 },
	{ 0, "hfence.gvma page 5", hgvma_ga, 1, 1, GP5, 0, 0, 0, 0, 0, 1 },
	{ 0, "hfence.gvma x0, 1", hgvma_vmid, 1, 1, NOTHING, 1, G3 | G4, 0, 0, 0, 1 },
	{ 0, "hfence.gvma x0, 2", hgvma_vmid, 1, 1, NOTHING, 2, G3M2, 0, 0, 0, 1 },
	{ 0, "hfence.gvma x0, 3", hgvma_vmid, 1, 1, NOTHING, 3, 0, 0, 0, 0, 1 },
	{ 0, "hfence.gvma page 3, 1", hgvma_ga_vmid, 1, 1, GP3, 1, G3, 0, 0, 0, 1 },
	{ 0, "hfence.gvma page 3, 2", hgvma_ga_vmid, 1, 1, GP3, 2, G3M2, 0, 0, 0, 1 },
	{ "When rs2!=x0, bits XLEN-1:VMIDMAX of the value held in rs2 are reserved for future standard use. Until their use "
	  "is defined by a standard extension, they should be zeroed by software and ignored by current implementations.",
	  "hfence.gvma x0, 1 and a bit above the VMID", hgvma_vmid, 1, 1, NOTHING, 1 | 1 << VMID_BITS, G3 | G4, 0, 0, 0, 1 },
	{ "HINVAL.VVMA and HINVAL.GVMA have the same semantics as SINVAL.VMA, except that they combine with SFENCE.W.INVAL "
	  "and SFENCE.INVAL.IR to replace HFENCE.VVMA and HFENCE.GVMA, respectively, instead of SFENCE.VMA. In addition, "
	  "HINVAL.GVMA uses VMIDs instead of ASIDs.",
	  "hinval.vvma page 1, 1", hinvalv_va_asid, 1, 1, GV1, 1, VS1, PARAM_SVINVAL, 0, 1, 0 },
	{ 0, "hinval.vvma without sfence.inval.ir", hinvalv_no_ir, 1, 1, NOTHING, 0, 0, PARAM_SVINVAL, 0, 1, 0 },
	{ 0, "hinval.vvma without sfence.w.inval", hinvalv_no_w, 1, 1, GV1, 0, 0, PARAM_SVINVAL, 0, 1, 0 },
	{ 0, "hinval.gvma page 3, 1", hinvalg_ga_vmid, 1, 1, GP3, 1, G3, PARAM_SVINVAL, 0, 0, 1 },
	{ 0, "hinval.gvma without sfence.inval.ir", hinvalg_no_ir, 1, 1, NOTHING, 0, 0, PARAM_SVINVAL, 0, 0, 1 },
	{ 0, "hinval.gvma without sfence.w.inval", hinvalg_no_w, 1, 1, GP3, 0, 0, PARAM_SVINVAL, 0, 0, 1 },
};

static void tests_of_guest_fences(u64 ra)
{
	u64 gp = window(), rb = ra + SPAN;
	pte_t *g = g_windows[0];

	for (u64 i = 0; i < sizeof(guest_rows) / sizeof(guest_rows[0]); i++) {
		const struct guest_row *row = &guest_rows[i];
		u64 addresses[] = { 0, page(ra, 1), page(ra, 5), page(gp, 3) >> 2, page(gp, 3), page(gp, 5) >> 2 };
		u64 kept = (models_vs() ? VS1 | VS2 | VS1A2 | VSG | VS1M2 : 0) | (models_g() ? G3 | G4 | G3M2 : 0) |
			   (model ? HS : 0);
		u64 fences = model * row->fences_s + models_vs() * row->fences_vs + models_g() * row->fences_g;

		if (row->need & ~PARAMS)
			continue;
		if (row->says)
			spec(row->says);
		say("# "); say(row->what); say("\n");
		for (int j = 1; j < 6; j++) {
			set_pte(l0_a, j, guest_pte(page(gp, j), RWX | (j == 5 ? G : 0)));
			/* "The G bit in all G-stage PTEs ... must be ignored by hardware." */
			set_pte(g, j, pte(pages[j & 3], RWX | U | (j == 4 ? G : 0)));
		}
		set_pte(l0_b, 1, pte(pages[1], RWX));
		fence_guests();
		guest_sees(page(ra, 1), 1, "page 1");
		guest_sees(page(ra, 2), 2, "page 2");
		guest_sees(page(ra, 3), 3, "page 3");
		guest_sees(page(ra, 4), 0, "page 4");
		guest_sees(page(ra, 5), 1, "a global page");
		enter(2, 1);
		guest_sees(page(ra, 1), 1, "page 1, ASID 2");
		enter(1, 2);
		guest_sees(page(ra, 1), 1, "page 1, VMID 2");
		guest_sees(page(ra, 3), 3, "page 3, VMID 2");
		sees(page(rb, 1), 1, "a page of HS-mode");
		set_pte(l0_a, 1, 0);
		set_pte(l0_a, 2, 0);
		set_pte(l0_a, 5, 0);
		set_pte(g, 3, 0);
		set_pte(g, 4, 0);
		set_pte(l0_b, 1, 0);

		enter(1, row->vmid);
		check(visit(row->stub, addresses[row->rs1], row->rs2, row->mode).cause ==
		      (row->mode == VS_MODE ? ECALL_VS : ECALL_S), "is executed", 0);
		kept_valid[0].fences += fences;
		kept &= ~row->forgets;
		enter(1, 1);
		guest_held(kept & VS1 ? 1 : 0, page(ra, 1), 1, LOAD, "page 1, unmapped by the guest");
		guest_held(kept & VS2 ? 1 : 0, page(ra, 2), 2, LOAD, "page 2");
		guest_held(kept & VSG ? 1 : 0, page(ra, 5), 1, LOAD, "the global page");
		guest_held(kept & G3 ? 1 : 0, page(ra, 3), 3, GUEST_LOAD, "page 3, unmapped by the host");
		guest_held(kept & G4 ? 1 : 0, page(ra, 4), 0, GUEST_LOAD, "page 4");
		enter(2, 1);
		guest_held(kept & VS1A2 ? 1 : 0, page(ra, 1), 1, LOAD, "page 1, ASID 2");
		enter(1, 2);
		guest_held(kept & VS1M2 ? 1 : 0, page(ra, 1), 1, LOAD, "page 1, VMID 2");
		guest_held(kept & G3M2 ? 1 : 0, page(ra, 3), 3, GUEST_LOAD, "page 3, VMID 2");
		if (kept & HS)
			unmapped(page(rb, 1), 1, "the page of HS-mode");
		else
			faults(stub_load, page(rb, 1), LOAD, "the page of HS-mode");
		if (PARAMS & PARAM_SVINVAL)
			visit(fence_winval, 0, 0, 1);
	}
	fence_guests();
}

/* more than the model keeps, and of several kinds: it forgets all */
static void tests_of_many_hinval(u64 ra)
{
	u64 gp = window(), rb = ra + SPAN;

	if (!(PARAMS & PARAM_SVINVAL) || !models_vs() || !models_g())
		return;
	for (int j = 1; j < 4; j++) {
		set_pte(l0_a, j, guest_pte(page(gp, j), RWX));
		set_pte(g_windows[0], j, pte(pages[j], RWX | U));
	}
	set_pte(l0_b, 1, pte(pages[1], RWX));
	fence_guests();
	guest_sees(page(ra, 1), 1, "page 1");
	guest_sees(page(ra, 3), 3, "page 3");
	sees(page(rb, 1), 1, "a page of HS-mode");
	set_pte(l0_a, 1, 0);
	set_pte(g_windows[0], 3, 0);
	set_pte(l0_b, 1, 0);
	/* rs2 is the address of the guest's page 1 and of HS-mode's */
	guest_fence(hinval_many, page(gp, 5) >> 2, page(ra, 1), 1, 17);
	guest_access(stub_load, page(ra, 1), LOAD, "page 1, after more than the model keeps");
	guest_access(stub_load, page(ra, 3), GUEST_LOAD, "page 3");
	faults(stub_load, page(rb, 1), LOAD, "the page of HS-mode");
	fence_guests();
}

static void tests_of_guest_pages(u64 ra)
{
	u64 gp = window();
	pte_t *g = g_windows[0];
	int vs = models_vs(), on = models_g(), late = on && !(PARAMS & PARAM_HELD_WALK);
	struct visit v;

	for (int j = 1; j < 5; j++) {
		set_pte(l0_a, j, guest_pte(page(gp, j), RWX));
		set_pte(g, j, pte(pages[j & 3], RWX | U));
	}
	guest_sees(page(ra, 1), 1, "a page");
	set_pte(g, 1, pte(pages[2], RWX | U));
	guest_remapped(on, page(ra, 1), 1, 2, "a page that the host has replaced");
	guest_fence(fence_hvvma, 0, 0, 1, vs);
	guest_remapped(on, page(ra, 1), 1, 2, "the same after hfence.vvma");
	/* hstatus.SPVP: as VS-mode */
	asm volatile("csrs 0x600, %0" :: "r"(1 << 8));
	empty_tlb_in_m();
	v = visit(stub_hlv, page(ra, 1) + 8, 0, 1);
	check(v.cause == ECALL_S && (u32)v.ret == (u32)word_of(on ? 1 : 2), "hlv.w sees what the guest does", 0);
	kept_valid[0].remapped += on;
	guest_fence(hgvma_ga, page(gp, 1) >> 2, 0, 1, on);
	guest_sees(page(ra, 1), 2, "after hfence.gvma for the page");

	set_pte(g, 1, pte(pages[2], V | R | X | A | D | U));
	guest_access(stub_store, page(ra, 1) + 16, on ? ECALL_VS : GUEST_STORE, "a page that the host has write-protected");
	kept_valid[0].restricted += on;
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_access(stub_store, page(ra, 1) + 16, GUEST_STORE, "after hfence.gvma");
	guest_sees(page(ra, 1), 2, "a load");
	set_pte(g, 1, pte(pages[2], RWX | U));
	guest_access(stub_store, page(ra, 1) + 16, late ? GUEST_STORE : ECALL_VS, "a page that may be written by now");
	kept_valid[0].upgraded += late;
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_access(stub_store, page(ra, 1) + 16, ECALL_VS, "after hfence.gvma");

	set_pte(l0_a, 1, guest_pte(page(gp, 3), RWX));
	guest_remapped(vs, page(ra, 1), 2, 3, "a page that the guest has replaced");
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_remapped(vs, page(ra, 1), 2, 3, "the same after hfence.gvma");
	guest_fence(hvvma_va, page(ra, 1), 0, 1, vs);
	guest_sees(page(ra, 1), 3, "after hfence.vvma for the page");

	spec("Note that writing hgatp does not imply any ordering constraints between page-table updates and subsequent "
	     "G-stage address translations. If the new virtual machine's guest physical page tables have been modified, or if "
	     "a VMID is reused, it may be necessary to execute an HFENCE.GVMA instruction before or after writing hgatp.");
	set_pte(l0_a, 1, guest_pte(page(gp, 1), RWX));
	guest_fence(fence_hvvma, 0, 0, 1, vs);
	guest_sees(page(ra, 1), 2, "a page");
	set_pte(g_windows[1], 1, pte(pages[3], RWX | U));
	enter(1, 2);
	guest_sees(page(ra, 1), 2, "another VMID");
	set_pte(g, 1, 0);
	enter(1, 3);
	guest_access(stub_load, page(ra, 1), GUEST_LOAD, "one that has never used the page");
	enter(1, 1);
	guest_held(on, page(ra, 1), 2, GUEST_LOAD, "back in the first one");
	enter_root(g_roots[1], 1, 1);
	guest_remapped(on, page(ra, 1), 2, 3, "a VMID that has got another table");
	guest_fence(hgvma_vmid, 0, 2, 1, on);
	guest_remapped(on, page(ra, 1), 2, 3, "hfence.gvma for another VMID");
	guest_fence(hgvma_vmid, 0, 1, 1, on);
	guest_sees(page(ra, 1), 3, "hfence.gvma for the VMID");
	fence_guests();
}

/* Each level of the G-stage, and the addresses in what a PTE there maps; of the root those behind the first quarter */
static void tests_of_guest_superpages(u64 ra)
{
	int on = models_g();

	for (int l = 1; l < LEVELS && l <= 2; l++) {
		u64 size = 1ull << (12 + INDEX_BITS * l), gpa = window() + size;
		int used = 9;
		pte_t *p = g_pte_at(g_roots[0], gpa, l, &used);
		u64 in = gpa + ((reg)pages[1] & (size - 1));

		say("# leaf PTEs of the G-stage at level "); say_dec(l); say("\n");
		set_pte(p, 0, pte((void *)((reg)pages[1] & ~(size - 1)), RWX | U));
		set_pte(l0_a, 1, guest_pte(in, RWX));
		fence_guests();
		guest_sees(page(ra, 1), 1, "a superpage");
		set_pte(p, 0, 0);
		guest_held(on, page(ra, 1), 1, GUEST_LOAD, "an unmapped superpage");
		guest_fence(hgvma_ga, (gpa - 4096) >> 2, 0, 1, on);
		guest_held(on, page(ra, 1), 1, GUEST_LOAD, "after a fence for the page before it");
		guest_fence(hgvma_ga, (gpa + size) >> 2, 0, 1, on);
		guest_held(on, page(ra, 1), 1, GUEST_LOAD, "after one for the page behind it");
		guest_fence(hgvma_ga, (gpa + size - 4096) >> 2, 0, 1, on);
		guest_access(stub_load, page(ra, 1), GUEST_LOAD, "after one for its last page");
	}
}

/* henvcfg.ADUE */
static int sets_ad_in_guests(void)
{
#if __riscv_xlen == 64
	asm volatile("csrs 0x60a, %0" :: "r"(1ul << 61));
#else
	asm volatile("csrs 0x61a, %0" :: "r"(1ul << 29));
#endif
	return sets_ad();
}

/* The host moves a page table of the guest. */
static void tests_of_moved_tables(u64 ra)
{
	u64 rd = ra + 2 * SPAN;
	pte_t *g = g_windows[0], *old = l0_low, *new = low_levels[3];
	int vs = models_vs(), on = models_g();

	clear(old);
	set_pte(old, 1, guest_pte(page(window(), 2), RWX & ~D));
	set_pte(g, 2, pte(pages[2], RWX | U));
	set_pte(g, 6, pte(old, RWX | U));
	set_pte(l1_of(ra), 2, guest_pte(page(window(), 6), V));
	fence_guests();
	guest_sees(page(rd, 1), 2, "a page of a table that is anywhere");
	memcpy(new, old, 4096);
	set_pte(g, 6, pte(new, RWX | U));
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_sees(page(rd, 1), 2, "the same page of a table that was moved");
	if (sets_ad_in_guests()) {
		guest_access(stub_store, page(rd, 1) + 16, ECALL_VS, "a store");
		check((new[1] & D) && !(old[1] & D), "D is set where the table is by now", 0);
	}
	/* What the guest's table says is not known while the host has no page there. */
	set_pte(g, 6, 0);
	guest_fence(fence_hgvma, 0, 0, 1, on);
	if (vs)
		guest_sees(page(rd, 1), 2, "a page of a table that the host has taken away");
	else
		guest_access(stub_load, page(rd, 1), GUEST_LOAD, "a table that the host has taken away");
	set_pte(l1_of(ra), 2, 0);
	fence_guests();
}

static void tests_of_held_guests(u64 mode)
{
	u64 ra = map_guest(mode);

	tests_of_guest_pages(ra);
	tests_of_guest_superpages(ra);
	tests_of_moved_tables(ra);
	if (!(PARAMS & PARAM_HELD_WALK))
		tests_of_guest_fences(ra);
	tests_of_many_hinval(ra);
}

/* an access that faults for what is remembered of a stage */
static void guest_stale(int on, void (*stub)(void), u64 va, u64 cause, const char *what)
{
	guest_access(stub, va, on ? cause : ECALL_VS, what);
	kept[0].stale += on;
}

static void tests_of_invalid_guests(u64 mode)
{
	u64 ra = map_guest(mode), gp = window(), rd = ra + 2 * SPAN;
	pte_t *g = g_windows[0], *old = l0_low, *new = low_levels[3];
	int vs = models_vs(), on = models_g();

	clear(old);
	for (int j = 0; j < 10; j++)
		set_pte(l0_a, j, guest_pte(page(gp, j), RWX));
	set_pte(g, 0, pte(pages[0], RWX | U));
	set_pte(g, 1, pte(pages[1], RWX | U));
	set_pte(g, 12, pte(old, RWX | U));
	set_pte(old, 0, guest_pte(page(gp, 1), RWX));
	set_pte(l1_of(ra), 2, guest_pte(page(gp, 12), V));
	guest_sees(page(ra, 0), 0, "touch the valid neighbour");
	kept[0].remembered += vs + on;

	for (int j = 2; j < 8; j++)
		set_pte(g, j, pte(pages[1], RWX | U));
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "load from a page that the host has made valid");
	guest_stale(on, stub_store, page(ra, 2) + 16, GUEST_STORE, "store");
	guest_stale(on, stub_amo, page(ra, 2) + 16, GUEST_STORE, "amo");
	guest_stale(on, stub_fetch, page(ra, 2), GUEST_FETCH, "fetch");
	guest_fence(fence_all, 0, 0, 1, model);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "after sfence.vma");
	guest_fence(fence_hvvma, 0, 0, 1, vs);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "after hfence.vvma");
	kept[0].remembered += vs;
	guest_fence(fence_all, 0, 0, VS_MODE, vs);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "after sfence.vma of the guest");
	kept[0].remembered += vs;
	guest_fence(hgvma_vmid, 0, 2, 1, on);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "after hfence.gvma x0, 2");
	guest_fence(hgvma_ga, page(gp, 3) >> 2, 0, 1, on);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "after hfence.gvma for the next page");
	guest_access(stub_load, page(ra, 3), ECALL_VS, "the next page");
	guest_fence(hgvma_ga, page(gp, 9) >> 2, 0, 1, on);
	set_pte(g, 9, pte(pages[1], RWX | U));
	guest_stale(on, stub_load, page(ra, 9), GUEST_LOAD, "a page that was invalid when it was fenced for");
	enter(1, 2);
	guest_access(stub_load, page(ra, 2), ECALL_VS, "another VMID");
	kept[0].remembered += vs + on;
	enter(1, 1);
	guest_stale(on, stub_load, page(ra, 2), GUEST_LOAD, "back in the first one");
	guest_fence(hgvma_ga_vmid, page(gp, 2) >> 2, 1, 1, on);
	guest_access(stub_load, page(ra, 2), ECALL_VS, "after hfence.gvma for the page");
	guest_stale(on, stub_load, page(ra, 4), GUEST_LOAD, "another page");
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_access(stub_load, page(ra, 4), ECALL_VS, "after hfence.gvma");
	kept[0].remembered += on;

	/* the guest's own tables */
	for (int j = 10; j < 20; j++)
		set_pte(l0_a, j, guest_pte(page(gp, 1), RWX));
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "load from a page that the guest has made valid");
	guest_stale(vs, stub_store, page(ra, 10) + 16, STORE, "store");
	guest_stale(vs, stub_fetch, page(ra, 10), FETCH, "fetch");
	guest_fence(fence_all, 0, 0, 1, model);
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "after sfence.vma of HS-mode");
	guest_fence(fence_hgvma, 0, 0, 1, on);
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "after hfence.gvma");
	/* for the walk goes on in both stages */
	kept[0].remembered += on;
	enter(1, 2);
	guest_fence(fence_hvvma, 0, 0, 1, vs);
	enter(1, 1);
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "after hfence.vvma for another guest");
	guest_fence(hvvma_asid, 0, 2, 1, vs);
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "after hfence.vvma x0, 2");
	guest_fence(fence_va, page(ra, 11), 0, VS_MODE, vs);
	guest_stale(vs, stub_load, page(ra, 10), LOAD, "after sfence.vma for the next page");
	guest_access(stub_load, page(ra, 11), ECALL_VS, "the next page");
	guest_fence(fence_va_asid, page(ra, 10), 1, VS_MODE, vs);
	guest_access(stub_load, page(ra, 10), ECALL_VS, "after sfence.vma for the page");
	guest_stale(vs, stub_load, page(ra, 12), LOAD, "another page");
	guest_fence(hvvma_va, page(ra, 12), 0, 1, vs);
	guest_access(stub_load, page(ra, 12), ECALL_VS, "after hfence.vvma for the page");
	guest_stale(vs, stub_load, page(ra, 13), LOAD, "a third one");
	guest_fence(fence_hvvma, 0, 0, 1, vs);
	guest_access(stub_load, page(ra, 13), ECALL_VS, "after hfence.vvma");
	kept[0].remembered += vs;

	/* The host moves the guest's table: the guest changes it where it is by now. */
	guest_access(stub_load, page(rd, 0), ECALL_VS, "a page of a table that is anywhere");
	kept[0].remembered += vs;
	memcpy(new, old, 4096);
	set_pte(g, 12, pte(new, RWX | U));
	guest_fence(fence_hgvma, 0, 0, 1, on);
	set_pte(new, 1, guest_pte(page(gp, 1), RWX));
	guest_stale(vs, stub_load, page(rd, 1), LOAD, "a page that was made valid in a table that was moved");
	kept[0].remembered += on;
	guest_fence(fence_va, page(rd, 1), 0, VS_MODE, vs);
	guest_access(stub_load, page(rd, 1), ECALL_VS, "after the guest's fence for it");

	set_pte(l1_of(ra), 2, 0);
	fence_guests();
}

/*
 * All levels of both stages are remembered: the first PTE that matters is in the root of the G-stage, behind its
 * first quarter if addresses have that many bits. In 64 bits HS-mode, which is in the lower half, is not concerned.
 */
static void tests_of_invalid_roots(u64 mode)
{
	u64 ra = map_guest(mode), size = 1ull << (12 + INDEX_BITS * (LEVELS - 1)), gpa = window() + size;
	u64 base = PROGRAM & ~(size - 1);
	int used = 0, apart = satp_mode != 10;
	pte_t *p = g_pte_at(g_roots[0], gpa, LEVELS - 1, &used);

	set_pte(l0_a, 1, guest_pte(gpa + (reg)pages[1] - base, RWX));
	guest_access(stub_load, page(ra, 1), GUEST_LOAD, "no page");
	/* the guest's for ra, the G-stage's for this program, and the quarter of its root */
	kept[0].remembered += LEVELS + (LEVELS - 2) + apart;
	set_pte(p, 0, pte((void *)(reg)base, RWX | U));
	guest_stale(1, stub_load, page(ra, 1), GUEST_LOAD, "a page of the root of the G-stage");
	guest_fence(hgvma_ga, (gpa - 4096) >> 2, 0, 1, 1);
	guest_stale(1, stub_load, page(ra, 1), GUEST_LOAD, "after a fence for the page before it");
	guest_fence(hgvma_ga, (gpa + size - 4096) >> 2, 0, 1, 1);
	guest_sees(page(ra, 1), 1, "after a fence for its last page");
	set_pte(p, 0, 0);
	fence_guests();
}

/* Both caches, only one of which knows guests: a fence for these makes neither forget what it has of S-mode. */
static void tests_of_caches_apart(u64 mode)
{
	static const struct { void (*stub)(void); u64 mode; const char *what; } guest_fences[] = {
		{ fence_hvvma, 1, "hfence.vvma" },
		{ fence_hgvma, 1, "hfence.gvma" },
		{ fence_all, VS_MODE, "sfence.vma of a guest" },
	};
	u64 rb = map_guest(mode) + SPAN;

	for (u64 i = 0; i < sizeof(guest_fences) / sizeof(guest_fences[0]); i++) {
		say("# "); say(guest_fences[i].what); say("\n");
		set_pte(l0_b, 0, pte(pages[0], RWX));
		set_pte(l0_b, 1, 0);
		fence_guests();
		sees(page(rb, 0), 0, "touch the valid neighbour");
		remembers();
		set_pte(l0_b, 0, 0);
		set_pte(l0_b, 1, pte(pages[1], RWX));
		guest_fence(guest_fences[i].stub, 0, 0, guest_fences[i].mode, model);
		stale(stub_load, page(rb, 1), LOAD, "a page made valid");
		unmapped(page(rb, 0), 0, "a page made invalid");
		guest_fence(fence_all, 0, 0, 1, model);
		sees(page(rb, 1), 1, "the first after sfence.vma");
		remembers();
		faults(stub_load, page(rb, 0), LOAD, "the second");
	}
}

static void stage_of_reset(void)
{
	int used = 0;

	/* as the first stage left it, but for the reset */
	satp_mode = FIRST_MODE;
	va_top = top_of(satp_mode);
	clear(root);
	map_region(va_top, levels, &used, l0_a);
	map_program();
	set_pte(l0_a, 0, pte(pages[0], RWX));
	set_pte(l0_a, 1, pte(pages[1], RWX));
	asm volatile("csrw satp, %0" :: "r"((reg)satp(1)));
	access(stub_load, page(va_top, 1), ECALL_S, "a reset forgets");
	remembers();
}

/*
 * All harts map, unmap, load and fence at random, and keep a hash of what they saw and when: for
 * the host to compare two runs.
 */
static volatile u64 hashes[MAX_HARTS];
static volatile reg storms;

static void storm(u64 h)
{
	u64 random = h + 1, hash = 0;

	asm volatile("csrw satp, %0" :: "r"((reg)satp(h + 1)));
	for (int i = 0; i < 3000; i++) {
		u64 t, n;

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		n = random >> 40 & 63;
		if (!(random >> 50 & 3))
			set_pte(l0_a, n, random >> 60 & 1 ? pte(pages[1], RWX | (random >> 61 & 1 ? G : 0)) : 0);
		t = visit(stub_load, page(va_top, n), 0, 1).cause;
		if (t == LOAD && random >> 52 & 1)
			visit(fence_va, page(va_top, n), 0, 1);
		if (!(random >> 53 & 255))
			visit(fence_all, 0, 0, 1);
		hash = (hash ^ t ^ now() << 8) * 0x9e3779b97f4a7c15ull;
		hash ^= hash >> 29;
	}
	hashes[h] = hash;
	__atomic_fetch_add(&storms, 1, __ATOMIC_SEQ_CST);
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

static void expect_valid(u64 hart)
{
	say("expect hart="); say_dec(hart);
	say(" fences="); say_dec(kept_valid[hart].fences);
	say(" unmapped="); say_dec(kept_valid[hart].unmapped);
	say(" remapped="); say_dec(kept_valid[hart].remapped);
	say(" restricted="); say_dec(kept_valid[hart].restricted);
	say(" upgraded="); say_dec(kept_valid[hart].upgraded);
	say(" tables="); say_dec(kept_valid[hart].tables);
	say("\n");
}

static void finish(void)
{
	say("1.."); say_dec(tests); say("\n");
	for (u64 h = 0; h < harts; h++) {
		if (!model)
			kept[h] = (struct counters){ 0 };
		if (PARAMS & PARAM_HELD) {
			expect_valid(h);
		} else if (PARAMS & PARAM_LATE_STORE) {
			say("expect hart="); say_dec(h);
			say(" missed="); say_dec(kept_missed[h]);
			say("\n");
		} else {
			expect(h);
		}
	}
	*TEST_DEVICE = failures ? 1 << 16 | 0x3333 : 0x5555;
	for (;;)
		;
}

void guest_main(unsigned long hart)
{
	asm volatile("csrw pmpaddr0, %0; csrw pmpcfg0, %1" :: "r"(-1l), "r"(0x1f));
	asm volatile("csrw mideleg, zero; csrw medeleg, zero; csrw mie, zero");

	if (hart) {
		for (;;) {
			struct visit v = { 0 };

			while (!__atomic_load_n(&mails[hart].go, __ATOMIC_SEQ_CST))
				;
			if (PARAMS & PARAM_STORM) {
				storm(hart);
				__atomic_store_n(&mails[hart].go, 0, __ATOMIC_SEQ_CST);
				continue;
			}
			asm volatile("csrw satp, %0" :: "r"((reg)mails[hart].satp));
			v.pc = mails[hart].v.pc;
			v.a0 = mails[hart].v.a0;
			v.a1 = mails[hart].v.a1;
			v.mpp = mails[hart].v.mpp;
			run_at(&v);
			mails[hart].v.cause = v.cause;
			__atomic_store_n(&mails[hart].go, 0, __ATOMIC_SEQ_CST);
		}
	}

	kept = KEPT;
	/* a reset keeps what is there */
	if (!STAGE)
		for (int i = 0; i < MAX_HARTS; i++)
			kept[i] = (struct counters){ 0 };
	model = PARAMS & PARAM_MODEL;
	harts = PARAMS >> PARAM_HARTS & 15;

	if (PARAMS & PARAM_SPIN) {
		int used = 0;

		satp_mode = FIRST_MODE;
		va_top = top_of(satp_mode);
		map_region(va_top, levels, &used, l0_a);
		map_region(va_top + SPAN, levels, &used, l0_b);
		map_program();
		*(u64 *)pages[1] = 0x123456789abcdef0;
		asm volatile("csrw satp, %0" :: "r"((reg)satp(1)));
		fresh(l0_a, va_top);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		stale(stub_load, page(va_top, 1), LOAD, "before the monitor");
		set_pte(l0_b, 1, pte(pages[1], RWX));
		expect(0);
		say("spinning\n");
		visit(stub_spin, 0, 0, 1);
	}
	if (PARAMS & PARAM_STORM) {
		map_all(FIRST_MODE);
		for (u64 h = 1; h < harts; h++)
			__atomic_store_n(&mails[h].go, 1, __ATOMIC_SEQ_CST);
		storm(0);
		while (__atomic_load_n(&storms, __ATOMIC_SEQ_CST) < harts)
			;
		for (u64 h = 0; h < harts; h++) {
			say("hash "); say_hex(hashes[h]); say("\n");
		}
		*TEST_DEVICE = 0x5555;
		for (;;)
			;
	}
	/* what follows a reset is part of what was begun before it */
	if (!STAGE)
		say("KTAP version 1\n");
	if (PARAMS & PARAM_LATE_STORE) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_late_store(mode);
		finish();
	}
	if (PARAMS & PARAM_APART) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_caches_apart(mode);
		finish();
	}
	if (PARAMS & PARAM_GUEST) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			if (PARAMS & PARAM_HELD)
				tests_of_held_guests(mode);
			else if (PARAMS & PARAM_ALL)
				tests_of_invalid_roots(mode);
			else
				tests_of_invalid_guests(mode);
		finish();
	}
	if (PARAMS & PARAM_HELD) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_held(mode);
		finish();
	}
	if (PARAMS & (PARAM_GLOBAL | PARAM_ANY)) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_coexistence(mode);
		finish();
	}
	if (PARAMS & (PARAM_LATE | PARAM_ALL | PARAM_ACCESS | PARAM_LINE | PARAM_USER | PARAM_LIFETIME | PARAM_CIP_453)) {
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_kinds(mode);
		finish();
	}
	if (!STAGE) {
		STAGE = 1;
		for (u64 mode = FIRST_MODE; mode <= LAST_MODE; mode++)
			tests_of_mode(mode);
		/* leave something to forget, then reset */
		satp_mode = FIRST_MODE;
		int used = 0;
		va_top = top_of(satp_mode);
		clear(root);
		map_region(va_top, levels, &used, l0_a);
		map_program();
		asm volatile("csrw satp, %0" :: "r"((reg)satp(1)));
		fresh(l0_a, va_top);
		set_pte(l0_a, 1, pte(pages[1], RWX));
		stale(stub_load, page(va_top, 1), LOAD, "before the reset");
		say("stage "); say_dec(failures); say(" failed\n");
		KEPT[MAX_HARTS].stale = tests;
		KEPT[MAX_HARTS].fences = failures;
		*TEST_DEVICE = 0x7777;
		for (;;)
			;
	}
	tests = KEPT[MAX_HARTS].stale;
	failures = KEPT[MAX_HARTS].fences;
	stage_of_reset();
	finish();
}
