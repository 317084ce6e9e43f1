# SPDX-License-Identifier: GPL-2.0-only
"""A machine for kunit.py whose harts cache invalid translations, as `lazymap run kunit` uses it:

    PATH=$LAZYMAP/out/qemu/bin:$PATH LAZYMAP_FIRMWARE=$LAZYMAP/out/guest/fw_dynamic.bin \\
        tools/testing/kunit/kunit.py run --arch=riscv --make_options LLVM=1 \\
        --kunitconfig=rust/kernel --qemu_config=$LAZYMAP/harness/kunit-riscv.py
"""
import os

from ..qemu_config import QemuArchParams

FIRMWARE = os.environ.get("LAZYMAP_FIRMWARE", "/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin")

QEMU_ARCH = QemuArchParams(
    linux_arch="riscv",
    kconfig="""
CONFIG_ARCH_VIRT=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_SERIAL_OF_PLATFORM=y
CONFIG_RISCV_SBI=y
CONFIG_RISCV_APLIC=y
CONFIG_RISCV_IMSIC=y
CONFIG_POWER_RESET=y
CONFIG_POWER_RESET_SYSCON=y
CONFIG_POWER_RESET_SYSCON_POWEROFF=y
""",
    qemu_arch="riscv64",
    kernel_path="arch/riscv/boot/Image",
    kernel_command_line="console=ttyS0",
    extra_qemu_params=[
        "-machine", "virt,aia=aplic-imsic",
        "-cpu", "rv64,x-cache-invalid=on",
        "-smp", "4",
        "-bios", FIRMWARE,
    ],
)
