// SPDX-License-Identifier: GPL-2.0

#include <linux/io.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/vmalloc.h>

#ifdef CONFIG_RUST_KSELFTEST_SUPPORT

#ifdef CONFIG_MMU
__rust_helper void *rust_helper_vmap_kernel(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

/* Other architectures refuse ioremap_prot() of memory that the kernel uses. */
#if defined(CONFIG_HAS_IOMEM) && defined(CONFIG_RISCV)
__rust_helper void __iomem *rust_helper_ioremap_page(struct page *page)
{
	return ioremap_prot(page_to_phys(page), PAGE_SIZE, PAGE_KERNEL);
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

#endif /* CONFIG_RUST_KSELFTEST_SUPPORT */
