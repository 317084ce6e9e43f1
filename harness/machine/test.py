#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Test of the machine model: test.py QEMU FOLDER

Builds the guest into FOLDER, runs it on every machine, and compares its counts with QEMU's. Prints a
line `ok NAME` or `not ok NAME` for each, and at last how many these are as `1..N`; the exit status is 1
if one is not ok.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
QEMU, OUT = sys.argv[1:]
FLAGS = ("--target=riscv64-unknown-elf -march=rv64imac_zicsr_zifencei -mabi=lp64 -mcmodel=medany "
         "-mno-relax -nostdlib -ffreestanding -fno-builtin -O1 -Wall -Wextra").split()
CLANG = next(filter(shutil.which, ["clang-22", "clang"]), "clang")

os.makedirs(OUT, exist_ok=True)
subprocess.run([CLANG, *FLAGS, "-fuse-ld=lld", "-T", f"{HERE}/guest.ld", f"{HERE}/start.S", f"{HERE}/guest.c",
                "-o", f"{OUT}/guest.elf"], check=True)
os.chdir(OUT)

MODEL, SVVPTC, VECTOR, THEAD, SVINVAL = 1, 2, 4, 8, 16
GLOBAL, ANY, VALID, RANDOM, RATE = 64, 128, 256, 512, 1024
EVENTS = ["trap-s", "trap-u", "sscratch", "sscratch-set", "sstatus", "sepc"]
ONE = ["-icount", "shift=0"]


def beside(coexist, choice, params, more="", extra=()):
    """Valid translations beside invalid ones."""
    cpu = f"rv64,x-cache-invalid=on,x-cache-invalid-coexist={coexist},x-cache-invalid-choice={choice}{more}"
    return cpu, params | MODEL | SVVPTC | (ANY if coexist == "any" else GLOBAL), list(extra)


def evict_at(events, extra=()):
    bits = sum(1 << (16 + EVENTS.index(e)) for e in events)
    return beside("any", "valid", VALID | bits, ",x-cache-invalid-evict-at=" + "+".join(events), extra)


RUNS = [  # -cpu, params, extra
    ("rv64,v=on,svinval=on", SVVPTC | VECTOR | SVINVAL, []),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", MODEL | SVVPTC | VECTOR | SVINVAL, []),
    ("rv64,x-cache-invalid=on,svvptc=off", MODEL, []),
    ("rv64,x-cache-invalid=on,svade=on,svadu=off", MODEL | SVVPTC, []),
    ("rv64,x-cache-invalid=on,xtheadsync=on,priv_spec=v1.12.0,svvptc=off", MODEL | THEAD, []),
    ("max,x-cache-invalid=on", MODEL | SVVPTC | VECTOR | SVINVAL, []),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", MODEL | SVVPTC | VECTOR | SVINVAL, ["-accel", "tcg,thread=single"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", MODEL | SVVPTC | VECTOR | SVINVAL, ["-icount", "shift=0"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", MODEL | SVVPTC | VECTOR | SVINVAL, ["-accel", "tcg,one-insn-per-tb=on"]),
    beside("any", "invalid", 0),
    beside("global", "invalid", 0),
    beside("any", "valid", VALID),
    beside("global", "valid", VALID),
    *(evict_at([event]) for event in EVENTS),
    evict_at(EVENTS),
    evict_at(EVENTS, ONE),
    beside("any", "valid", VALID | RATE, ",x-cache-invalid-evict-rate=1"),
    beside("any", "valid", VALID | RATE, ",x-cache-invalid-evict-rate=1", ONE),
    beside("any", "random", RANDOM),
    beside("any", "random", RANDOM, "", ONE),
    beside("any", "random", RANDOM, ",x-cache-invalid-seed=1"),
]
bad = done = 0
patterns = []


def result(ok, name, more=""):
    global bad, done
    bad += not ok
    done += 1
    print("ok" if ok else "not ok", name, more, flush=True)


for cpu, params, extra in RUNS:
    name = " ".join([cpu] + extra)
    cmd = [QEMU, "-M", "virt", "-cpu", cpu, "-smp", "2", "-m", "256M", "-display", "none",
           "-monitor", "none", "-serial", "stdio", "-bios", "none", "-kernel", "guest.elf",
           "-device", f"loader,addr=0x80f00000,data={params},data-len=8"] + extra
    try:
        p = subprocess.run(cmd, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as e:
        result(False, name, "# timeout\n" + (e.stdout or b"")[-2000:].decode() + (e.stderr or b"").decode())
        continue
    out = p.stdout.splitlines()
    ok = sum(l.startswith("ok ") for l in out)
    not_ok = [l for l in out if l.startswith("not ok") or l.startswith("# ")]
    plan = [l for l in out if l.startswith("1..")]
    want = [l[7:] for l in out if l.startswith("expect ")]
    lines = [l for l in p.stderr.splitlines() if l.startswith("x-cache-invalid: ")]
    got = [l[17:] for l in lines if " hart=" in l]
    errs = []
    if p.returncode or not_ok:
        errs.append(f"exit {p.returncode}; " + "; ".join(not_ok))
    if not plan or plan[0] != f"1..{ok + len([l for l in not_ok if l[0] == 'n'])}":
        errs.append(f"plan {plan}, ok {ok}")
    if params & MODEL:
        if want != got:
            errs.append(f"counters: wanted {want}, got {got}")
        num = [list(map(int, re.findall(r"=(\d+)", l))) for l in got]
        tot = [list(map(int, re.findall(r"=(\d+)", l))) for l in lines if " total " in l]
        if tot != [[len(num)] + [sum(c) for c in list(zip(*num))[1:]]]:
            errs.append(f"total {tot}")
    elif p.stderr:
        errs.append("stderr: " + p.stderr)
    if params & RANDOM:
        patterns.append([l for l in out if l.startswith("pattern ")])
    result(not errs, name, " ".join([f"# {ok} checks,", *lines[-1:]]))
    for e in errs:
        print("    " + e[:1500])

# The same seed makes the same choices, another one others.
ok = len(patterns) == 3 and len(patterns[0]) == 3 and patterns[0] == patterns[1] != patterns[2]
result(ok, "seed", "" if ok else f"# {patterns}")

# The monitor sees what memory holds, and leaves no trace of having looked.
p = subprocess.Popen([QEMU, "-M", "virt", "-cpu", "rv64,x-cache-invalid=on", "-smp", "2", "-m", "256M",
                      "-display", "none", "-serial", "file:spin.log", "-monitor", "stdio", "-bios", "none",
                      "-kernel", "guest.elf", "-device", "loader,addr=0x80f00000,data=33,data-len=8"],
                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
for _ in range(100):
    time.sleep(0.1)
    log = open("spin.log").read()
    if "spinning" in log:
        break
time.sleep(0.2)
out, err = p.communicate("x /1gx 0xffffffc000001000\nx /1gx 0xffffffc000201000\nquit\n", timeout=20)
want = re.search("expect (hart=0 .*)", log).group(1)
ok = out.count("0x123456789abcdef0") == 2 and f"x-cache-invalid: {want}\n" in err and "not ok" not in log
result(ok, "monitor", "" if ok else out + err + log)

# SIGTERM and SIGINT
for sig in ("SIGTERM", "SIGINT"):
    p = subprocess.Popen([QEMU, "-M", "virt", "-cpu", "rv64,x-cache-invalid=on", "-smp", "3", "-bios", "none",
                          "-display", "none", "-serial", "none", "-monitor", "none"], stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    p.send_signal(getattr(signal, sig))
    err = p.communicate(timeout=20)[1]
    ok = err.count("x-cache-invalid: hart=") == 3 and err.count("x-cache-invalid: total harts=3 ") == 1
    result(ok, sig, "" if ok else err)

# Who may not have it
ON = "rv64,x-cache-invalid=on,x-cache-invalid-"
for cpu, accel, msg in (("rv32,x-cache-invalid=on", "tcg", "'x-cache-invalid' requires a 64-bit CPU"),
                        (ON + "coexist=some", "tcg", "'x-cache-invalid-coexist' has unknown value 'some', "
                         "not one of none, global, any"),
                        (ON + "coexist=any,x-cache-invalid-choice=bad", "tcg", "'x-cache-invalid-choice' has unknown "
                         "value 'bad', not one of invalid, valid, random"),
                        (ON + "choice=valid", "tcg", "'x-cache-invalid-choice=valid' requires "
                         "'x-cache-invalid-coexist' to be global or any"),
                        (ON + "evict-at=sepc+trap", "tcg", "'x-cache-invalid-evict-at' has unknown value 'trap', "
                         "not one of trap-s, trap-u, sscratch, sscratch-set, sstatus, sepc"),
                        (ON + "evict-at=sepc+", "tcg", "'x-cache-invalid-evict-at' has unknown value ''"),
                        ("rv64,x-cache-invalid-evict-at=sepc", "tcg",
                         "'x-cache-invalid-evict-at' requires 'x-cache-invalid'"),
                        ("rv64,x-cache-invalid-seed=1", "tcg", "'x-cache-invalid-seed' requires 'x-cache-invalid'"),
                        ("rv64,x-cache-invalid=on", "qtest", "'x-cache-invalid' requires TCG acceleration")):
    p = subprocess.run([QEMU, "-M", "virt", "-cpu", cpu, "-accel", accel, "-display", "none", "-bios", "none"],
                       capture_output=True, text=True, timeout=20)
    ok = p.returncode == 1 and msg in p.stderr
    result(ok, f"{cpu} {accel}", "" if ok else "# " + p.stderr.strip())
print(f"1..{done}")
sys.exit(bool(bad))
