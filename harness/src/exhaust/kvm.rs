// SPDX-License-Identifier: GPL-2.0-only
//! KVM's switch to a guest, and its reads of guest memory: while stvec points to KVM's own code, a fault because of a
//! stale translation does not get to the kernel's exception entry.
//!
//! Interrupts are disabled there and no other task runs, so paths differ only in branches and in traps of the guest's
//! memory; each is walked to its end. docs/exhaust.md describes the model.

use std::collections::BTreeMap;

use riscv_isa::Instruction as I;

use super::cpu::{self, Csrs, Memory, Next, Regs, Val};
use super::image::Image;
use super::layout::{self, Layout};
use super::world::within;

/// What enters a guest, by SRET or by a call of the SBI.
const SWITCHES: [&str; 2] = ["__kvm_riscv_switch_to", "__kvm_riscv_nacl_switch_to"];
/// What reads a guest's memory as the guest would.
const READ: &str = "kvm_riscv_vcpu_unpriv_read";
/// What the loader of modules calls when text is in place; the first one may be inlined, and consists of the others.
const PROTECTS: [&str; 3] = ["set_memory_rox", "set_memory_ro", "set_memory_x"];
/// Makes every hart fence.
const FLUSHES: [&str; 2] = ["flush_tlb_all", "flush_tlb_kernel_range"];

/// The vcpu, in the linear map, and a stack.
const VCPU: u64 = 0xff60_0000_2000_0000;
const VCPU_SIZE: u64 = 0x8000;
const STACK: u64 = 0xff20_0000_0100_0000;
const STACK_SIZE: u64 = 0x4000;
/// Where the caller wants to know of traps: in its frame.
const TRAP: u64 = STACK + STACK_SIZE - 0x100;
const SP: u64 = STACK + STACK_SIZE - 0x200;
/// Where the functions return to.
const BACK: u64 = 0xffff_ffff_f100_0000;
/// sstatus when they are called, but for SIE.
const STATUS: u64 = cpu::UXL;
/// The most instructions on one path, and on all; a switch has some 150.
const LIMIT: usize = 4000;
const MOST: usize = 100_000;

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub what: String,
    /// The function that was called, and where the hart is.
    pub function: &'static str,
    pub place: u64,
    /// A stale translation was used, rather than a register lost.
    pub stale: bool,
    /// The way there: address and text.
    pub steps: Vec<(u64, String)>,
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub broken: Vec<Broken>,
    /// Instructions that were interpreted.
    pub instructions: usize,
    /// Why nothing can be said.
    pub unknown: Option<String>,
}

/// What a kernel lets be stale where KVM cannot take a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stale {
    text: bool,
    stack: bool,
}

/// Whether the code has KVM's switch in it.
pub fn is_in(image: &Image) -> bool {
    image.symbol(SWITCHES[0]).is_some()
}

/// Searches KVM's code: that of a module, or of the kernel itself if `module` is none.
pub fn search(kernel: &Image, layout: &Layout, module: Option<&Image>) -> Found {
    let mut found = Found::default();
    let flushes = kernel_flushes(kernel);
    if module.is_some() && flushes.is_none() {
        found.unknown = Some(format!("KVM: the kernel has neither {}", PROTECTS.join(" nor ")));
    }
    let stale = Stale {
        // Nobody maps the kernel image anew, and a kernel without a bitmap makes all harts fence.
        text: module.is_some() && layout.marks.is_some() && flushes == Some(false),
        stack: layout.marks.is_some() && layout.shift.is_some() && layout.syncs.is_empty(),
    };
    let mut walker =
        Walker { code: module.unwrap_or(kernel), vector: layout.vector, gp: layout.gp, stale, places: BTreeMap::new() };
    for (name, is_needed) in [(SWITCHES[0], true), (SWITCHES[1], false), (READ, true)] {
        let walked = walker.walk(name, &mut found);
        if !walked && is_needed && found.unknown.is_none() {
            found.unknown = Some(format!("KVM: there is no {name}"));
        }
    }
    found
}

/// Whether changing the permissions of module text makes every hart fence; nothing if no function does that.
fn kernel_flushes(kernel: &Image) -> Option<bool> {
    let known: Vec<u64> = PROTECTS.iter().filter_map(|name| Some(kernel.symbol(name)?.0)).collect();
    let called = |function: &u64| {
        let range = kernel.name_at(*function).and_then(|name| kernel.code(name));
        range.map(|range| layout::calls(kernel, range)).unwrap_or_default()
    };
    let is_flush = |function: &u64| kernel.name_at(*function).is_some_and(|name| FLUSHES.contains(&name));
    // By themselves, or through the helper that they share.
    let flushes = |function: &u64| {
        let direct = called(function);
        direct.iter().any(is_flush) || direct.iter().any(|helper| called(helper).iter().any(is_flush))
    };
    (!known.is_empty()).then(|| known.iter().any(flushes))
}

/// Which part of the code a hart is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Host,
    /// A trap of an access to the guest's memory, by the instruction there.
    Trapped(u64),
    /// Back from the guest.
    Left,
}

#[derive(Clone, Debug)]
struct Hart {
    regs: Regs,
    csrs: Csrs,
    pc: u64,
    words: BTreeMap<u64, Val>,
    phase: Phase,
    /// Where the guest's registers came from; that of x0 is sepc's.
    guest: BTreeMap<u32, u64>,
    steps: Vec<(u64, String)>,
    /// Instructions so far.
    count: usize,
}

struct View<'a> {
    code: &'a Image,
    words: &'a mut BTreeMap<u64, Val>,
}

impl Memory for View<'_> {
    fn word(&self, address: u64) -> Option<Val> {
        if let Some(value) = self.words.get(&address) {
            return Some(*value);
        }
        if within(address, VCPU, VCPU_SIZE) {
            return Some(word_of_vcpu(address));
        }
        if within(address, STACK, STACK_SIZE) {
            return Some(Val::named(address));
        }
        // Nothing is known about data of the kernel.
        self.code
            .word(address)
            .map(|word| if self.code.is_writable(address) { Val::named(address) } else { Val::of(word) })
    }

    fn set_word(&mut self, address: u64, value: Val) -> bool {
        let exists = within(address, VCPU, VCPU_SIZE) || within(address, STACK, STACK_SIZE);
        if exists {
            self.words.insert(address, value);
        }
        exists
    }
}

/// A number that is found in one word of the vcpu, and nowhere else. It is even, as sepc keeps it.
fn word_of_vcpu(address: u64) -> Val {
    Val::of(address.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn of_host(register: u32) -> Val {
    Val::named(0x6b76_6d00 + u64::from(register))
}

fn of_guest(register: u32) -> Val {
    Val::named(0x6775_6573_7400 + u64::from(register))
}

/// The name of a guest's register; sepc's value takes the number of x0.
fn name_of_guest(register: u32) -> &'static str {
    if register == 0 { "pc" } else { cpu::NAMES[register as usize] }
}

/// Loads from a guest's memory (Volume II, "Hypervisor Virtual-Machine Load and Store Instructions"): the register.
fn guest_load(bytes: &[u8]) -> Option<u32> {
    let word = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    // HSV has an odd funct7, and KVM does not use it.
    let is_load =
        word & 0x7f == 0x73 && word >> 12 & 7 == 4 && (0x30..=0x36).contains(&(word >> 25)) && word >> 25 & 1 == 0;
    is_load.then_some(word >> 7 & 31)
}

/// A CSR of a guest, of the hypervisor extension, or what a program may use (scounteren, senvcfg, sstateen0 to 3): no
/// trap of the host depends on it. Gives the register that it is read to.
fn hypervisor_csr(instruction: I) -> Option<u32> {
    let (rd, csr) = match instruction {
        I::CSRRW { rd, csr, .. } | I::CSRRS { rd, csr, .. } | I::CSRRC { rd, csr, .. } => (rd, csr),
        I::CSRRWI { rd, csr, .. } | I::CSRRSI { rd, csr, .. } | I::CSRRCI { rd, csr, .. } => (rd, csr),
        _ => return None,
    };
    matches!(csr, 0x106 | 0x10a | 0x10c..=0x10f | 0x200..=0x2ff | 0x600..=0x6ff).then_some(rd)
}

struct Walker<'a> {
    code: &'a Image,
    vector: u64,
    gp: Option<u64>,
    stale: Stale,
    /// Where the switch by SRET loads a guest's registers from.
    places: BTreeMap<u32, u64>,
}

impl Walker<'_> {
    /// Walks every path of a function from its call to its return; false if there is no such function.
    fn walk(&mut self, name: &'static str, found: &mut Found) -> bool {
        let Some((start, _)) = self.code.symbol(name) else { return false };
        let mut left = vec![self.called(start, name == READ)];
        let status = left[0].csrs.status;
        while let Some(mut hart) = left.pop() {
            if found.instructions > MOST {
                found.unknown = found.unknown.take().or(Some(format!("KVM: {name}: more than {MOST} instructions")));
                break;
            }
            let end = self.path(&mut hart, status, name, &mut left, &mut found.instructions);
            let (what, stale) = match end {
                Ok(()) => {
                    if name == SWITCHES[0] {
                        self.places = hart.guest;
                    }
                    continue;
                }
                Err(Stop::Unknown(why)) => {
                    found.unknown = found.unknown.take().or(Some(why));
                    continue;
                }
                Err(Stop::Stale(what)) => (what, true),
                Err(Stop::Broken(what)) => (what, false),
            };
            // The first instruction that may fault stands for those that follow.
            if !found.broken.iter().any(|b| b.what == what) {
                found.broken.push(Broken { what, function: name, place: hart.pc, stale, steps: hart.steps });
            }
        }
        true
    }

    fn called(&self, pc: u64, irqs: bool) -> Hart {
        let mut regs = Regs::ZERO;
        for register in 1..32 {
            regs.set(register, of_host(register));
        }
        let known = [(cpu::RA, BACK), (cpu::SP, SP), (cpu::A0, VCPU), (cpu::A0 + 3, TRAP)];
        known.iter().for_each(|(register, value)| regs.set(*register, Val::of(*value)));
        self.gp.iter().for_each(|gp| regs.set(cpu::GP, Val::of(*gp)));
        let csrs = Csrs {
            status: STATUS | if irqs { cpu::SIE } else { 0 },
            scratch: Val::of(0),
            epc: Val::named(1),
            cause: Val::named(2),
            tval: Val::named(3),
            vec: self.vector,
            ssp: Val::of(0),
        };
        let (words, guest, steps) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Hart { regs, csrs, pc, words, phase: Phase::Host, guest, steps, count: 0 }
    }

    /// Goes on to the return. Other ways to go are added to `left`.
    fn path(
        &self,
        hart: &mut Hart,
        status: u64,
        name: &str,
        left: &mut Vec<Hart>,
        count: &mut usize,
    ) -> Result<(), Stop> {
        let at_call = self.called(0, false).regs;
        while hart.count < LIMIT {
            let pc = hart.pc;
            if pc == BACK {
                if name != READ && hart.phase != Phase::Left {
                    return Err(Stop::Unknown(format!("KVM: {name} returns without having entered a guest")));
                }
                return self.returned(hart, &at_call, status);
            }
            hart.count += 1;
            *count += 1;
            let unknown = |why: String| Stop::Unknown(format!("KVM: {}: {why}", self.code.place(pc)));
            let known = self.code.decode(pc);
            let touch = known.and_then(|(instruction, _)| cpu::touch(instruction, &hart.regs));
            self.may_fault(hart, touch.map(|t| t.address))?;
            if name == READ && hart.csrs.vec != self.vector && hart.csrs.status & cpu::SIE != 0 {
                return Err(Stop::Broken("interrupts are enabled while stvec points to KVM".to_owned()));
            }
            if let Some(rd) = self.code.bytes(pc, 4).and_then(|bytes| guest_load(&bytes)) {
                let mut trapped = hart.clone();
                self.trap_of_guest(&mut trapped);
                left.push(trapped);
                hart.regs.set(rd, Val::named(pc));
                hart.pc = pc + 4;
                continue;
            }
            let (instruction, len) =
                known.ok_or_else(|| unknown("an instruction that the decoder does not know".to_owned()))?;
            let after = pc + u64::from(len);
            if let Some(rd) = hypervisor_csr(instruction) {
                hart.regs.set(rd, Val::named(pc));
                hart.pc = after;
                continue;
            }
            if instruction == I::ECALL {
                self.enter(hart, false)?;
                continue;
            }
            let mut view = View { code: self.code, words: &mut hart.words };
            let next = cpu::execute(instruction, (pc, len), &mut hart.regs, &mut hart.csrs, &mut view, true);
            hart.pc = match next.map_err(unknown)? {
                Next::On | Next::Wfi => after,
                Next::Wrote(csr) => {
                    if csr == cpu::STVEC {
                        let to = if hart.csrs.vec == self.vector {
                            "the kernel's entry".to_owned()
                        } else {
                            self.code.place(hart.csrs.vec)
                        };
                        hart.steps.push((pc, format!("stvec points to {to}")));
                    }
                    after
                }
                Next::Jump(to) if to.known => to.bits,
                Next::Jump(_) => {
                    return Err(Stop::Broken("a jump through a register that KVM does not control".to_owned()));
                }
                Next::Either(there) => {
                    left.push(Hart { pc: there, ..hart.clone() });
                    after
                }
                Next::Sret => match hart.phase {
                    Phase::Trapped(by) => {
                        if hart.csrs.epc != Val::of(by + 4) {
                            return Err(Stop::Broken(
                                "a trap of the guest's memory returns to a wrong place".to_owned(),
                            ));
                        }
                        hart.steps.push((pc, "the trap of the guest's memory has been noted".to_owned()));
                        hart.phase = Phase::Host;
                        hart.csrs.status = cpu::status_after_sret(hart.csrs.status);
                        by + 4
                    }
                    _ => {
                        self.enter(hart, true)?;
                        continue;
                    }
                },
                other => return Err(unknown(format!("{other:?} in KVM"))),
            };
        }
        Err(Stop::Unknown(format!("KVM: {name}: more than {LIMIT} instructions on one path")))
    }

    /// A fault because of a stale translation, by the instruction at pc, goes where stvec points.
    fn may_fault(&self, hart: &Hart, address: Option<Val>) -> Result<(), Stop> {
        if hart.csrs.vec == self.vector {
            return Ok(());
        }
        let on_stack = |address: Val| within(address.bits, STACK, STACK_SIZE);
        let what = match address {
            _ if self.stale.text => "a stale translation of KVM's text",
            Some(address) if !address.known => {
                let place = self.code.place(hart.pc);
                return Err(Stop::Unknown(format!("KVM: {place}: an access of which the address is not known")));
            }
            Some(address) if on_stack(address) && self.stale.stack => "a stale translation of the stack",
            Some(address) if !on_stack(address) && !within(address.bits, VCPU, VCPU_SIZE) => {
                let (place, bits) = (self.code.place(hart.pc), address.bits);
                return Err(Stop::Unknown(format!("KVM: {place}: an access to {bits:#x}, of which nothing is known")));
            }
            _ => return Ok(()),
        };
        let to = self.code.place(hart.csrs.vec);
        Err(Stop::Stale(format!("{what} is taken for a trap of the guest: stvec points to {to}")))
    }

    fn trap_of_guest(&self, hart: &mut Hart) {
        hart.steps.push((hart.pc, "the access to the guest's memory traps".to_owned()));
        hart.phase = Phase::Trapped(hart.pc);
        hart.csrs.status = cpu::status_at_trap(hart.csrs.status, false);
        (hart.csrs.epc, hart.csrs.cause, hart.csrs.tval) =
            (Val::of(hart.pc), Val::of(cpu::LOAD_FAULT), Val::named(hart.pc));
        hart.pc = hart.csrs.vec & !3;
    }

    /// The guest runs, and leaves by a trap.
    fn enter(&self, hart: &mut Hart, by_sret: bool) -> Result<(), Stop> {
        let wrong = |what: &str| Err(Stop::Broken(format!("the guest is entered with {what}")));
        if hart.phase != Phase::Host {
            return wrong("the state of a guest that has been left");
        }
        if hart.csrs.vec == self.vector || !self.code.contains(hart.csrs.vec) {
            return wrong("stvec at the kernel's entry");
        }
        if hart.csrs.scratch != Val::of(VCPU) {
            return wrong("another sscratch than the vcpu");
        }
        let origin: BTreeMap<u64, u64> =
            (VCPU..VCPU + VCPU_SIZE).step_by(8).map(|address| (word_of_vcpu(address).bits, address)).collect();
        let from = |value: Val| origin.get(&value.bits).filter(|_| value.known).copied();
        // The SBI gets the guest's registers in memory that it shares with KVM. They come back the same way as others.
        if !by_sret {
            hart.guest = self.places.clone();
        }
        for register in (0..32).filter(|_| by_sret) {
            let value = if register == 0 { hart.csrs.epc } else { hart.regs.get(register) };
            let Some(address) = from(value) else {
                return wrong(&format!("a {} that is not its own", name_of_guest(register)));
            };
            hart.guest.insert(register, address);
        }
        let mut places: Vec<u64> = hart.guest.values().copied().collect();
        places.sort_unstable();
        places.dedup();
        if places.len() != hart.guest.len() {
            return wrong("one register in two places");
        }
        hart.steps.push((hart.pc, "enters the guest, which leaves by a trap".to_owned()));
        for register in 1..32 {
            hart.regs.set(register, of_guest(register));
        }
        hart.csrs.epc = of_guest(0);
        (hart.csrs.cause, hart.csrs.tval) = (Val::named(5), Val::named(6));
        hart.csrs.status = STATUS | cpu::SPIE | cpu::FS | cpu::VS;
        hart.phase = Phase::Left;
        hart.pc = hart.csrs.vec & !3;
        Ok(())
    }

    /// What must hold when a function has returned.
    fn returned(&self, hart: &Hart, before: &Regs, status: u64) -> Result<(), Stop> {
        let wrong = |what: &str| Err(Stop::Broken(format!("KVM returns with {what}")));
        if hart.csrs.vec != self.vector {
            return wrong("stvec at its own code");
        }
        if hart.csrs.scratch != Val::of(0) {
            return wrong("a wrong sscratch");
        }
        let kept = cpu::SIE | cpu::SUM | cpu::FS | cpu::VS;
        if (hart.csrs.status ^ status) & kept != 0 {
            return wrong("another sstatus");
        }
        for register in (1..32).filter(|r| cpu::is_saved(*r)) {
            if hart.regs.get(register) != before.get(register) {
                return wrong(&format!("a wrong {}", cpu::NAMES[register as usize]));
            }
        }
        for (register, address) in &hart.guest {
            if hart.words.get(address) != Some(&of_guest(*register)) {
                let name = name_of_guest(*register);
                return wrong(&format!("a guest's {name} that is not saved where it was loaded from"));
            }
        }
        Ok(())
    }
}

/// Where a path ends early.
enum Stop {
    Broken(String),
    /// An access, or the fetch, may use a stale translation.
    Stale(String),
    Unknown(String),
}
