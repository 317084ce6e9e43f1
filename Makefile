# SPDX-License-Identifier: GPL-2.0-only
ifneq ($(KERNELRELEASE),)

# Kbuild reads this file too: `make -C KDIR M=$PWD modules` builds the test modules against any
# configured and built kernel that has the series.
obj-m += selftests/test_modules/

else

# Folder for everything generated, the kernel tree to use instead of the distribution's, and the
# kernel version.
OUT ?= out
KSRC ?=
BASE ?=
BUILD ?=
FULL ?=
RUNS ?=
HARTS ?=
MINUTES ?=
SEED ?=

# What `make hunt` hunts: the options of `harness/lazymap hunt`.
HUNT ?= --tree base

# Names of scenarios and controls; all if none is given.
SCENARIO ?=
CONTROL ?=

export LAZYMAP_OUT := $(abspath $(OUT))
export KSRC BASE

# Builds the tool if necessary, then runs it.
LAZYMAP := harness/lazymap

# Variables that a target takes on make's command line. A typo must not run everything that there is:
# any other is refused. All targets take those that docs/environment.md says the tool reads.
EVERYWHERE := OUT KSRC BASE ARGS MAKEFLAGS PATH
takes_check := TIER ONLY SHARD
takes_run := SCENARIO
takes_shell := SCENARIO
takes_controls := CONTROL
takes_torture := SCENARIO MINUTES SEED
takes_hunt := HUNT
takes_bench := RUNS HARTS
takes_cost := FULL
takes_series-check := BUILD
takes_qemu-install := PREFIX DESTDIR

given := $(foreach v,$(.VARIABLES),$(if $(filter command%,$(origin $(v))),$(v)))
read_by_tool := $(shell sed -n 's/^| `\([A-Z_]*\)` .*/\1/p' docs/environment.md)
goals := $(or $(MAKECMDGOALS),help)
ours := $(sort $(foreach g,demo check bench cost run torture controls hunt series series-check shell qemu-install,$(takes_$(g))))
taken := $(foreach g,$(goals),$(takes_$(g)))
unknown := $(filter-out $(EVERYWHERE) $(taken) $(filter-out $(ours),$(read_by_tool)),$(given))
ifneq ($(unknown),)
.PHONY: $(goals)
$(goals):
	@echo 'lazymap: make $(goals) does not take $(firstword $(unknown)); it takes $(or $(taken),no variable of its own), and OUT, KSRC, BASE, ARGS and those in docs/environment.md' >&2; exit 64
else

# Where `make qemu-install` puts the machine model; packagers set DESTDIR.
PREFIX ?=
DESTDIR ?=

.PHONY: help demo check results bench cost run torture controls hunt series series-check kernels qemu qemu-install litmus shell clean distclean

help:
	@echo 'make demo          boot both kernels on both machines and print the results'
	@echo 'make check         run the tests: tool, series, demo, scenarios, controls; the last line counts them'
	@echo 'make check         TIER=ci adds what CI runs, TIER=full everything: hours; ONLY=run,hunt; SHARD=1/4'
	@echo 'make run           run scenarios: SCENARIO="sv39 lockdep", or all; harness/lazymap run --list'
	@echo 'make results       boot what people run with and without the series: the table in docs/results.md; hours'
	@echo 'make torture       map and touch at random for an hour, in turns on several kernels and machines: MINUTES=5 SEED=1'
	@echo 'make controls      run kernels broken on purpose; each must be caught: CONTROL="..."'
	@echo 'make hunt          find where a kernel relies on a missing fence: HUNT="--tree base --scenario kasan-vmalloc"'
	@echo 'make bench         measure what new mappings cost, for several kernels: RUNS=1 HARTS=4 for a quick look'
	@echo 'make cost          count the instructions that the series costs and compare them with harness/cost.toml'
	@echo 'make series        regenerate patches/ from the sources and the commits in the work tree'
	@echo 'make series-check  check patches/: up to date, topics, style; BASE=all; BUILD=1 also boots each patch and topic'
	@echo 'make litmus        run the litmus tests of the protocol with herd7'
	@echo 'make kernels       build only the two kernels and their test modules'
	@echo 'make qemu          build only the machine model'
	@echo 'make qemu-install  install it as PREFIX/bin/qemu-system-riscv64-lazymap: PREFIX=/usr/local'
	@echo 'make shell         boot a guest with a shell on its console: SCENARIO=sv39'
	@echo 'make clean         remove what was built; keep downloads and the kernel tree'
	@echo 'make distclean     remove everything that was generated'
	@echo
	@echo 'KSRC=path   use that kernel tree (git clone or unpacked tarball); never written to'
	@echo 'OUT=path    folder for everything generated [out]'
	@echo 'BASE=7.2    kernel version, one of those in base.toml [7.3; make series: each]; all: for series, series-check'
	@echo
	@echo 'ARGS=...    more options of the tool: ARGS="--junit results.xml --html results.html"'
	@echo
	@echo 'make returns 2 for every failure and names the exit code of the tool in its last line.'
	@echo 'To get that code, call the tool itself: harness/lazymap demo'

# More options of the tool, such as ARGS="--junit results.xml --repeat 5".
ARGS ?=

demo results series kernels qemu litmus:
	@$(LAZYMAP) $@ $(ARGS)

check:
	@$(LAZYMAP) $@ $(if $(TIER),--tier $(TIER)) $(if $(ONLY),--only $(ONLY)) $(if $(SHARD),--shard $(SHARD)) $(ARGS)

shell:
	@$(LAZYMAP) $@ $(SCENARIO) $(ARGS)

BIOS := share/qemu/opensbi-riscv64-generic-fw_dynamic.bin

# Under its own name, so that the system's QEMU is not replaced.
qemu-install:
	@$(if $(PREFIX),,echo 'lazymap: name the folder to install to, as in make qemu-install PREFIX=/usr/local' >&2; exit 64)
	@$(LAZYMAP) qemu
	install -D -m 755 '$(LAZYMAP_OUT)/qemu/bin/qemu-system-riscv64' '$(DESTDIR)$(PREFIX)/bin/qemu-system-riscv64-lazymap'
	@# -bios default looks there; a firmware of another QEMU stays.
	[ -e '$(DESTDIR)$(PREFIX)/$(BIOS)' ] || install -D -m 644 '$(LAZYMAP_OUT)/qemu/$(BIOS)' '$(DESTDIR)$(PREFIX)/$(BIOS)'
	install -D -m 644 docs/machine.md '$(DESTDIR)$(PREFIX)/share/doc/qemu-system-riscv64-lazymap/machine.md'

bench:
	@$(LAZYMAP) $@ $(if $(RUNS),--runs $(RUNS)) $(if $(HARTS),--harts $(HARTS)) $(ARGS)

cost:
	@$(LAZYMAP) $@ $(if $(filter-out 0,$(FULL)),--full) $(ARGS)

run:
	@$(LAZYMAP) $@ $(SCENARIO) $(ARGS)

torture:
	@$(LAZYMAP) $@ $(SCENARIO) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

controls:
	@$(LAZYMAP) $@ $(CONTROL) $(ARGS)

hunt:
	@$(LAZYMAP) $@ $(HUNT) $(ARGS)

series-check:
	@$(LAZYMAP) $@ $(if $(filter-out 0,$(BUILD)),--build) $(ARGS)

clean:
	@$(LAZYMAP) clean

distclean:
	@$(LAZYMAP) clean --all

endif
endif
