// SPDX-License-Identifier: GPL-2.0

#include <linux/cpu.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/relay.h>
#include <linux/vmalloc.h>

#ifdef CONFIG_RUST_KSELFTEST_SUPPORT

#ifdef CONFIG_MMU
__rust_helper void *rust_helper_vmap_kernel(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

/* Other architectures refuse ioremap_prot() of memory that the kernel uses. */
#if defined(CONFIG_HAS_IOMEM) && defined(CONFIG_RISCV)
__rust_helper void __iomem *rust_helper_ioremap_pages(struct page *page, unsigned int order)
{
	return ioremap_prot(page_to_phys(page), PAGE_SIZE << order, PAGE_KERNEL);
}

__rust_helper bool rust_helper_is_mapped_huge(const void *address)
{
	unsigned long addr = (unsigned long)address;
	pgd_t *pgd = pgd_offset_k(addr);
	pud_t *pud = pud_offset(p4d_offset(pgd, addr), addr);

	return pud_leaf(pudp_get(pud)) || pmd_leaf(pmdp_get(pmd_offset(pud, addr)));
}

__rust_helper void *rust_helper_memremap_wb(phys_addr_t start, size_t size)
{
	return memremap(start, size, MEMREMAP_WB);
}

__rust_helper void rust_helper_memunmap_wb(void *address)
{
	memunmap(address);
}
#endif
#endif

__rust_helper void __percpu *rust_helper_alloc_percpu_gfp(size_t size, size_t align, gfp_t gfp)
{
	return __alloc_percpu_gfp(size, align, gfp);
}

__rust_helper void *rust_helper_per_cpu_ptr(void __percpu *ptr, unsigned int cpu)
{
	return per_cpu_ptr(ptr, cpu);
}

#ifdef CONFIG_RELAY
/* With CPUs kept: relay_open() makes no buffer for one that is coming online. */
__rust_helper struct rchan *
rust_helper_relay_open_nameless(size_t size, const struct rchan_callbacks *cb)
{
	guard(cpus_read_lock)();
	return relay_open(NULL, NULL, size, 1, cb, NULL);
}

__rust_helper void rust_helper_relay_write(struct rchan *chan, const void *data, size_t length)
{
	relay_write(chan, data, length);
}
#endif

#endif /* CONFIG_RUST_KSELFTEST_SUPPORT */
