# SPDX-License-Identifier: GPL-2.0-only
ifneq ($(KERNELRELEASE),)

# Kbuild reads this file too: `make -C KDIR M=$PWD modules` builds the test modules against any
# configured and built kernel that carries the series.
obj-m += selftests/test_modules/

else

# Folder for everything generated, the kernel tree to use instead of the distribution's, and the
# kernel version whose patches are meant.
OUT ?= out
KSRC ?=
BASE ?=
BUILD ?=

export LAZYMAP_OUT := $(abspath $(OUT))
export KSRC BASE

# Builds the tool if need be, then runs it.
LAZYMAP := harness/lazymap

.PHONY: help demo check series series-check kernels qemu litmus clean distclean

help:
	@echo 'make demo          boot both kernels on both machines, and print what happened'
	@echo 'make check         all tests: the tool, the series, the demo; the last line counts them'
	@echo 'make series        write patches/ anew from the sources and the commits in the work tree'
	@echo 'make series-check  check patches/: up to date, applies, style; BUILD=1 builds each patch'
	@echo 'make litmus        run the litmus files of the protocol with herd7'
	@echo 'make kernels       build the two kernels and their test modules only'
	@echo 'make qemu          build the machine model only'
	@echo 'make clean         remove what was built; downloads and the kernel tree stay'
	@echo 'make distclean     remove everything that was generated'
	@echo
	@echo 'KSRC=path   use that kernel tree (git clone or unpacked tarball); it is never written to'
	@echo 'OUT=path    folder for everything generated [out]'
	@echo 'BASE=7.3    kernel version whose patches are meant; there is only one so far'
	@echo
	@echo 'make ends with 2 whatever went wrong, and names the exit code of the tool in its last line.'
	@echo 'To get at that code call the tool itself: harness/lazymap demo'

demo check series kernels qemu litmus:
	@$(LAZYMAP) $@

series-check:
	@$(LAZYMAP) $@ $(if $(filter-out 0,$(BUILD)),--build)

# By name, because OUT may be a folder that holds other things as well.
BUILT := build build-ksrc kernel qemu demo machine log guest
GOTTEN := linux-7.3 linux-ksrc dl apt herd tools ccache harness lock

clean:
	rm -rf $(addprefix $(LAZYMAP_OUT)/,$(BUILT))

distclean:
	@harness/lazymap --may-remove
	rm -rf $(addprefix $(LAZYMAP_OUT)/,$(BUILT) $(GOTTEN))
	@rmdir $(LAZYMAP_OUT) 2>/dev/null || true

endif
