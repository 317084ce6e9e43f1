// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loads a kernel, and starts it in place of the one that runs. There is no C library in the guest.
 *
 *   kexec kexec IMAGE INITRD COMMAND-LINE	starts it at once, and returns only if that fails
 *   kexec kdump IMAGE INITRD COMMAND-LINE	has it started by the next panic; needs crashkernel=
 *
 * Exit status: 0, or 1 if there is no such file, or 2 if the kernel refuses it, or 3 if it does not start.
 */
#include "guest.h"

/* include/uapi/linux/kexec.h and reboot.h */
#define KEXEC_FILE_ON_CRASH	2
#define REBOOT_MAGIC1		0xfee1dead
#define REBOOT_MAGIC2		672274793
#define REBOOT_CMD_KEXEC	0x45584543

/* The stack as the kernel leaves it: argc, and then argv */
__attribute__((used)) static void start(u64 *stack)
{
	char **argv = (char **)(stack + 1);
	int on_crash, image, initrd;
	u64 length = 0;

	if (stack[0] != 5)
		leave(1);
	/* kdump or kexec */
	on_crash = argv[1][1] == 'd';
	image = sys(NR_OPENAT, AT_FDCWD, (long)argv[2], 0, 0, 0);
	initrd = sys(NR_OPENAT, AT_FDCWD, (long)argv[3], 0, 0, 0);
	if (image < 0 || initrd < 0)
		leave(1);
	/* With the zero byte at its end */
	while (argv[4][length++])
		;
	if (sys(NR_KEXEC_FILE_LOAD, image, initrd, length, (long)argv[4],
		on_crash ? KEXEC_FILE_ON_CRASH : 0) < 0)
		leave(2);
	if (on_crash)
		leave(0);
	sys(NR_REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_CMD_KEXEC, 0, 0);
	leave(3);
}

asm(".globl _start\n"
    "_start:\n"
    "	mv	a0, sp\n"
    "	andi	sp, sp, -16\n"
    "	call	start\n");
