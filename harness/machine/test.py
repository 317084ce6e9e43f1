#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Test of the machine model: test.py QEMU FOLDER

Builds the guest into FOLDER, runs it on every machine, and compares its counts with QEMU's. Prints a
line `ok NAME` or `not ok NAME` for each, and at last how many these are as `1..N`; the exit status is 1
if one is not ok.
"""
import concurrent.futures
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
LATE, SCOPE_ALL, SCOPE_ACCESS, USER, LIFETIME = 2048, 4096, 8192, 16384, 32768
QUICK, STORM, VIRTUAL, CIP_453 = 1 << 22, 1 << 23, 1 << 24, 1 << 25
EVENTS = ["trap-s", "trap-u", "sscratch", "sscratch-set", "sstatus", "sepc", "stvec", "satp", "sret"]
ONE = ["-icount", "shift=0"]
ON = "rv64,x-cache-invalid=on,x-cache-invalid-"


def beside(coexist, choice, params, more="", extra=()):
    """Valid translations beside invalid ones."""
    cpu = f"rv64,x-cache-invalid=on,x-cache-invalid-coexist={coexist},x-cache-invalid-choice={choice}{more}"
    return cpu, params | MODEL | SVVPTC | (ANY if coexist == "any" else GLOBAL), list(extra)


def evict_at(events, extra=()):
    bits = sum(1 << (48 + EVENTS.index(e)) for e in events)
    return beside("any", "valid", VALID | bits, ",x-cache-invalid-evict-at=" + "+".join(events), extra)


FULL = MODEL | SVVPTC | VECTOR | SVINVAL
RUNS = [  # -cpu, params, extra
    ("rv64,v=on,svinval=on", SVVPTC | VECTOR | SVINVAL, []),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL, []),
    ("rv64,x-cache-invalid=on,svvptc=off", MODEL, []),
    ("rv64,x-cache-invalid=on,svade=on,svadu=off", MODEL | SVVPTC | QUICK, []),
    ("rv64,x-cache-invalid=on,xtheadsync=on,priv_spec=v1.12.0,svvptc=off", MODEL | THEAD | QUICK, []),
    ("max,x-cache-invalid=on", FULL | QUICK, []),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL | QUICK, ["-accel", "tcg,thread=single"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL | VIRTUAL, ["-icount", "shift=5,sleep=off"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL | QUICK, ["-accel", "tcg,one-insn-per-tb=on"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL | QUICK, ["-smp", "1"]),
    ("rv64,v=on,svinval=on,x-cache-invalid=on", FULL | QUICK, ["-smp", "4"]),
    ("rv64,x-cache-invalid=on,xtheadsync=on,priv_spec=v1.12.0", MODEL | SVVPTC | THEAD | QUICK, ["-smp", "4"]),
    ("rv64,x-late-pte=on", MODEL | LATE, []),
    ("rv64,x-late-pte=on", MODEL | LATE, ["-smp", "4"]),
    ("rv64,x-cache-invalid=on,x-cache-invalid-scope=all", MODEL | SCOPE_ALL, []),
    ("rv64,x-cache-invalid=on,x-cache-invalid-scope=access", MODEL | SCOPE_ACCESS, []),
    ("rv64,x-cache-invalid=on,x-cache-invalid-user=on", MODEL | USER, []),
    ("rv64,x-cache-invalid=on,x-cache-invalid-lifetime=1000", MODEL | LIFETIME, []),
    ("rv64,svvptc=off,x-cache-invalid=on,x-cache-invalid-lifetime=1000", MODEL | LIFETIME | VIRTUAL, ["-icount", "shift=1"]),
    ("rv64,x-cip-453=on", CIP_453, []),
    ("rv64,x-cip-453=on,x-cache-invalid=on", MODEL | CIP_453, []),
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
    # What a guest or QEMU said is no result.
    print("ok" if ok else "not ok", name, more.replace("\n", "\n    "), flush=True)


def boot(run):
    cpu, params, extra = run
    harts = int(extra[1]) if extra[:1] == ["-smp"] else 2
    cmd = [QEMU, "-M", "virt", "-cpu", cpu, "-m", "256M", "-display", "none",
           "-monitor", "none", "-serial", "stdio", "-bios", "none", "-kernel", "guest.elf",
           "-device", f"loader,addr=0x80f00000,data={params | harts << 40},data-len=8", "-smp", str(harts)] + extra
    try:
        return subprocess.run(cmd, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as e:
        return e


pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
for (cpu, params, extra), p in zip(RUNS, pool.map(boot, RUNS)):
    name = " ".join([cpu] + extra)
    if isinstance(p, subprocess.TimeoutExpired):
        said = [(text or b"")[-2000:].decode() for text in (p.stdout, p.stderr)]
        result(False, name, "# timeout\n" + "\n".join(said))
        continue
    out = p.stdout.splitlines()
    ok = sum(l.startswith("ok ") for l in out)
    # After a failure a line says what was seen instead.
    not_ok = [l for i, l in enumerate(out) if "not ok" in (l[:6], out[i - 1][:6] if l[:2] == "# " else "")]
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

# On one host thread, with virtual time, a run is determined by the seed: what each hart saw, and when.
REPLAY = ["-icount", "shift=1,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]


def storm(more, extra=()):
    cpu = ON + "scope=all,x-cache-invalid-coexist=any,x-cache-invalid-choice=random,x-cache-invalid-evict-rate=50" + more
    p = subprocess.run([QEMU, "-M", "virt", "-cpu", cpu, "-smp", "4", "-m", "256M", "-display", "none", "-monitor",
                        "none", "-serial", "stdio", "-bios", "none", "-kernel", "guest.elf", "-device",
                        f"loader,addr=0x80f00000,data={MODEL | STORM | 4 << 40},data-len=8", *REPLAY, *extra],
                       capture_output=True, text=True, timeout=120)
    return p.stdout + p.stderr


def traced(name):
    """The events of a log, each as its name and its fields, with numbers as such."""
    def value(word):
        return word if word in ("load", "store", "fetch") else int(word, 0)
    with open(name, encoding="ascii") as log:
        words = [line.removeprefix("riscv_invalid_cache_").split() for line in log]
    return [(w[0], {k: value(v) for k, v in (field.split("=") for field in w[1:])}) for w in words]


one, again, other = storm(""), storm(""), storm(",x-cache-invalid-seed=1")
ok = one == again != other and one.count("hash ") == 4 and "x-cache-invalid: total harts=4" in one
result(ok, "replay", "# " + one.splitlines()[-1] if ok else "\n".join(["", one, again, other]))

# Whoever looks changes nothing, and sees the same again.
logs = []
for name in ("storm1.log", "storm2.log"):
    logs.append((storm("", ("-D", name, "-trace", "riscv_invalid_cache_stale_*")), open(name).read()))
result(logs[0] == logs[1] and logs[0][0] == one, "replay traced")

# What each stale hit is told with: who made the PTE valid, and that it was after the table was read.
events = traced("storm1.log")
hits = {(e["hart"], e["hit"]): {name: e} for name, e in events if name == "stale_hit"}
for name, e in events:
    hits.get((e["hart"], e["hit"]), {}).setdefault(name, e)
errs = []
for key, e in hits.items():
    if not {"stale_read", "stale_store", "stale_fence"} <= e.keys():
        errs.append(f"{key} lacks a part: {list(e)}")
    elif not e["stale_read"]["time"] <= e["stale_store"]["time"] <= e["stale_hit"]["time"]:
        errs.append(f"{key} is out of order: {e}")
    elif e["stale_store"]["by"] not in range(4):
        errs.append(f"{key} was made valid by nobody: {e}")
    elif e.get("stale_end", e["stale_hit"])["time"] < e["stale_hit"]["time"]:
        errs.append(f"{key} ends before it begins: {e}")
total = int(re.search(r"total .* stale_hits=(\d+)", one).group(1))
others = sum(e["stale_store"]["by"] != hart for (hart, _), e in hits.items())
ended = sum("stale_end" in e for e in hits.values())
# Each hart has met PTEs of its own, and of each other one.
pairs = {(hart, e["stale_store"]["by"]) for (hart, _), e in hits.items()}
errs += [] if len(pairs) == 16 else [f"not every hart made PTEs valid for each: {pairs}"]
if len(hits) != total or others < total // 4 or not total // 4 < ended <= total:
    errs.append(f"{len(hits)} hits of {total}, {others} for PTEs of other harts, {ended} ended")
result(not errs, "trace of 4 harts", "; ".join(errs[:3]))

# One hit in full, with the pc of the access: the stubs are where they were linked to.
nm = subprocess.run([shutil.which("llvm-nm-22") or "llvm-nm", "-n", "guest.elf"], capture_output=True, text=True,
                    check=True).stdout
symbols = {l.split()[2]: int(l.split()[0], 16) for l in nm.splitlines()}
p = subprocess.run([QEMU, "-M", "virt", "-cpu", "rv64,x-late-pte=on", "-smp", "2", "-m", "256M", "-display", "none",
                    "-monitor", "none", "-serial", "stdio", "-bios", "none", "-kernel", "guest.elf", "-D", "trace.log",
                    "-trace", "riscv_invalid_cache_*", "-device",
                    f"loader,addr=0x80f00000,data={MODEL | LATE | 2 << 40},data-len=8"],
                   capture_output=True, text=True, timeout=60)
events = traced("trace.log")
load, store, fence = symbols["stub_load"], symbols["stub_store"], symbols["fence_all"] + 4
at = next(i for i, (name, e) in enumerate(events) if name == "stale_hit")
part = [(name, {k: v for k, v in e.items() if k != "time"}) for name, e in events[at:at + 6]]
table = next(e["table"] for name, e in events if name == "remember")
by = events[at + 2][1]["pc"]
ra = [e.get("ra") for _, e in events[at:at + 6]]
want = [
    ("stale_hit", dict(hart=0, hit=1, mode=1, access="load", addr=0xffffffc000001000, pc=load, ra=ra[0], asid=1,
                       fences=1)),
    ("stale_read", dict(hart=0, hit=1, pc=load, addr=0xffffffc000000000, level=0, fences=1)),
    ("stale_store", dict(hart=0, hit=1, by=0, pc=by, ra=ra[2], pte=table + 8)),
    ("stale_fence", dict(hart=0, hit=1, pc=fence, addr=0, asid=0, flags=0)),
    ("stale_end", dict(hart=0, hit=1, pc=load, fences=0)),
    ("stale_hit", dict(hart=0, hit=2, mode=1, access="store", addr=0xffffffc000002000, pc=store, ra=ra[5], asid=1,
                       fences=1)),
]
told = [name for name, _ in events]
errs = [f"{got} instead of {wanted}" for got, wanted in zip(part, want) if got != wanted]
# It is C that stores PTEs; what follows the stubs is no code of theirs.
errs += [] if symbols["guest_main"] <= by and all(by < v or v <= symbols["guest_main"] for n, v in symbols.items()
                                                  if n.startswith(("stub_", "fence_"))) else [f"stored at {by:#x}"]
# The PTEs of pages 1 to 6 were made valid in one loop, and the last one was stored to again after that.
makers = {e["pc"] for name, e in events if name == "stale_store" and e["pte"] in (table + 8, table + 48)}
errs += [] if makers == {by} else [f"made valid at {makers}"]
errs += [] if all(symbols["guest_main"] <= r for r in (ra[0], ra[2])) else [f"called from {ra}"]
errs += [] if f" stale_hits={told.count('stale_hit')} " in p.stderr else ["hits differ"]
errs += [] if told.count("fence") == int(re.search(r"total.* fences=(\d+)", p.stderr).group(1)) else ["fences differ"]
result(not errs, "trace", "; ".join(errs))

# The monitor sees what memory holds, and leaves no trace of having looked.
p = subprocess.Popen([QEMU, "-M", "virt", "-cpu", "rv64,x-cache-invalid=on", "-smp", "2", "-m", "256M",
                      "-display", "none", "-serial", "file:spin.log", "-monitor", "stdio", "-bios", "none",
                      "-kernel", "guest.elf", "-device", f"loader,addr=0x80f00000,data={33 | 2 << 40},data-len=8"],
                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
for _ in range(600):
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
                          "-display", "none", "-serial", "none", "-monitor", "stdio"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # The prompt: it is up.
    while p.stdout.read(1) not in (")", ""):
        pass
    p.send_signal(getattr(signal, sig))
    err = p.communicate(timeout=20)[1]
    ok = err.count("x-cache-invalid: hart=") == 3 and err.count("x-cache-invalid: total harts=3 ") == 1
    result(ok, sig, "" if ok else err)

# Who may not have it
for cpu, accel, msg in (("rv32,x-cache-invalid=on", "tcg", "'x-cache-invalid' requires a 64-bit CPU"),
                        (ON + "coexist=some", "tcg", "'x-cache-invalid-coexist' has unknown value 'some', "
                         "not one of none, global, any"),
                        (ON + "coexist=any,x-cache-invalid-choice=bad", "tcg", "'x-cache-invalid-choice' has unknown "
                         "value 'bad', not one of invalid, valid, random"),
                        (ON + "choice=valid", "tcg", "'x-cache-invalid-choice=valid' requires "
                         "'x-cache-invalid-coexist' to be global or any"),
                        (ON + "evict-at=sepc+trap", "tcg", "'x-cache-invalid-evict-at' has unknown value 'trap', "
                         "not one of trap-s, trap-u, sscratch, sscratch-set, sstatus, sepc, stvec, satp, sret"),
                        (ON + "evict-at=sepc+", "tcg", "'x-cache-invalid-evict-at' has unknown value ''"),
                        (ON + "scope=none", "tcg", "'x-cache-invalid-scope' has unknown value 'none', "
                         "not one of access, leaf, all"),
                        (ON + "lifetime=19", "tcg", "'x-cache-invalid-lifetime' must be 0 or at least 20"),
                        ("rv64,x-cache-invalid-lifetime=1000", "tcg",
                         "'x-cache-invalid-lifetime' requires 'x-cache-invalid'"),
                        ("rv64,x-cache-invalid-scope=all", "tcg",
                         "'x-cache-invalid-scope' requires 'x-cache-invalid'"),
                        ("rv64,x-cache-invalid-user=on,x-late-pte=on", "tcg",
                         "'x-cache-invalid-user' requires 'x-cache-invalid'"),
                        ("rv64,x-late-pte=on,x-cache-invalid=on", "tcg", "'x-late-pte' excludes 'x-cache-invalid'"),
                        ("rv32,x-late-pte=on", "tcg", "'x-late-pte' requires a 64-bit CPU"),
                        ("rv32,x-cip-453=on", "tcg", "'x-cip-453' requires a 64-bit CPU"),
                        ("rv64,x-cip-453=on", "qtest", "'x-cip-453' requires TCG acceleration"),
                        ("rv64,x-late-pte=on", "qtest", "'x-late-pte' requires TCG acceleration"),
                        ("rv64,x-cache-invalid-what=on", "tcg", "x-cache-invalid-what"),
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
