// SPDX-License-Identifier: GPL-2.0-only
//! Where a kernel keeps what its exception entry uses: found in the machine code itself, because
//! asm-offsets.h is not part of a vmlinux.

use std::collections::{BTreeMap, BTreeSet};

use riscv_isa::Instruction as I;

use super::cpu::{self, Csrs, Memory, Next, Regs, Val};
use super::image::Image;

/// What the interpreter needs to know of a kernel. Offsets are in bytes from the start of task_struct.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Functions of the entry that are interpreted: start, end.
    pub entry: Vec<(u64, u64)>,
    pub vector: u64,
    /// Where handle_exception saves the registers: the end of what it does before.
    pub saves: u64,
    pub exception_return: u64,
    pub switch_to: (u64, u64),
    /// Where a new task that returns to user mode starts, and a kernel thread.
    pub fork: Vec<u64>,
    pub irq_stack_call: Option<u64>,
    /// `irq_stack_ptr`, a per-CPU variable.
    pub irq_stack_ptr: Option<u64>,
    /// Size of pt_regs on the stack.
    pub frame: u64,
    pub kernel_sp: u64,
    pub user_sp: u64,
    pub cpu: u64,
    /// The pointer to the word with the hart's bit, if there is one.
    pub word: Option<u64>,
    /// Slots that only the entry uses, and only for a few instructions.
    pub scratch: BTreeSet<u64>,
    /// log2 of the size of a stack; `None` if stacks are in the linear map.
    pub shift: Option<u32>,
    pub gp: Option<u64>,
    /// Registers of a task that does not run: by register.
    pub saved: BTreeMap<u32, u64>,
    /// The saved user-access flag.
    pub saved_sum: Option<u64>,
    pub switch: Option<Switch>,
    /// flush_cache_vmap(), if it is a function.
    pub announce: Option<(u64, u64)>,
    /// The bitmap: address, size in bytes.
    pub marks: Option<(u64, u64)>,
    /// A bit of it is set if the hart may hold a stale translation, as in mainline; in the series it is clear then.
    pub set_is_marked: bool,
    /// Functions that fence, called before a switch.
    pub syncs: Vec<(u64, u64)>,
    /// `do_irq`, and the handlers of exceptions by cause.
    pub irq: Option<u64>,
    pub handlers: Vec<u64>,
    pub bad_stack: Option<u64>,
}

/// The stretch of the scheduler that always ends in the call of `__switch_to`.
#[derive(Clone, Debug)]
pub struct Switch {
    pub start: u64,
    /// The instructions of the stretch.
    pub code: BTreeSet<u64>,
    /// Where `__switch_to` returns to.
    pub back: u64,
    /// Registers that hold the two tasks at the start.
    pub prev: u32,
    pub next: u32,
    /// Offset of `thread.prev_cpu`.
    pub prev_cpu: Option<u64>,
    /// Registers, by bit, that are read after an instruction was reached, and before they are written.
    pub live: BTreeMap<u64, u32>,
}

/// The bitmap's name: that of 6.12, that of 7.x, ours. A kernel that has two uses the older one still.
const MARKS: [&str; 3] = ["new_vmalloc", "new_valid_map_cpus", OURS];
const OURS: &str = "lazy_map_synced";
/// The functions of the entry.
const ENTRY: [&str; 8] = [
    "handle_exception",
    "ret_from_exception",
    "handle_kernel_stack_overflow",
    "ret_from_fork",
    "ret_from_fork_kernel_asm",
    "ret_from_fork_user_asm",
    "call_on_irq_stack",
    "__switch_to",
];
/// The functions that call `__switch_to`.
const SCHEDULERS: [&str; 2] = ["__schedule", "context_switch"];

/// A decoded stretch of code.
type Code = BTreeMap<u64, (I, u8)>;

fn listing(image: &Image, (start, end): (u64, u64)) -> Code {
    let mut code = Code::new();
    let mut pc = start;
    while pc < end {
        match image.decode(pc) {
            Some((instruction, len)) => {
                code.insert(pc, (instruction, len));
                pc += u64::from(len);
            }
            // Vectors, and what else only C code executes.
            None => {
                let len = image.bytes(pc, 2).map_or(2, |b| if b[0] & 3 == 3 { 4 } else { 2 });
                code.insert(pc, (I::UNIMP, len));
                pc += u64::from(len);
            }
        }
    }
    code
}

impl Layout {
    /// Finds it all in `image`.
    ///
    /// # Errors
    /// With the reason, if a part is not where it should be: then nothing can be said about the kernel.
    pub fn of(image: &Image) -> Result<Self, String> {
        let needed = |name: &str| image.code(name).ok_or_else(|| format!("there is no {name}"));
        let vector = needed("handle_exception")?;
        let switch_to = needed("__switch_to")?;
        // What belongs to the section, labels that look like functions included.
        let mut entry: Vec<(u64, u64)> = ENTRY.iter().filter_map(|name| image.code(name)).collect();
        if let (Some(start), Some(end)) = (image.symbol("__irqentry_text_start"), image.symbol("__irqentry_text_end")) {
            entry = vec![(start.0, end.0)];
        }
        let head = listing(image, vector);
        let branch = head.iter().find_map(|(pc, (i, _))| match i {
            I::BNE { rs1: 4, rs2: 0, offset } => Some(pc.wrapping_add_signed(i64::from(*offset))),
            _ => None,
        });
        let save = branch.ok_or("handle_exception does not test sscratch")?;
        let mut rest = head.range(save..).map(|(_, (i, _))| *i);
        let user_sp = rest.find_map(|i| match i {
            I::SD { rs1: 4, rs2: 2, offset } => Some(offset as u64),
            _ => None,
        });
        let kernel_sp = rest.find_map(|i| match i {
            I::LD { rd: 2, rs1: 4, offset } => Some(offset as u64),
            _ => None,
        });
        let frame = rest.find_map(|i| match i {
            I::ADDI { rd: 2, rs1: 2, imm } if imm < 0 => Some(u64::from(imm.unsigned_abs())),
            _ => None,
        });
        let (user_sp, kernel_sp, frame) = match (user_sp, kernel_sp, frame) {
            (Some(user), Some(kernel), Some(frame)) => (user, kernel, frame),
            _ => return Err("handle_exception does not load the kernel's stack pointer".to_owned()),
        };
        if head.range(save..).any(|(_, (i, _))| matches!(i, I::LD { rd: cpu::GP, rs1: cpu::TP, .. })) {
            return Err("gp points to a shadow call stack, which the model does not have".to_owned());
        }
        let early: Vec<I> = head.range(..save).map(|(_, (i, _))| *i).collect();
        let mut scratch: BTreeSet<u64> = early
            .iter()
            .filter_map(|i| match i {
                I::SD { rs1: 4, offset, .. } => Some(*offset as u64),
                _ => None,
            })
            .collect();
        let word = early.iter().find_map(|i| match i {
            I::LD { rd, rs1: 4, offset } if *rd != 2 && !scratch.contains(&(*offset as u64)) => Some(*offset as u64),
            _ => None,
        });
        scratch.extend([user_sp, kernel_sp]);
        let shift = early.iter().find_map(|i| match i {
            I::SRLI { rd: 2, rs1: 2, shamt } => Some(*shamt),
            _ => None,
        });
        let all: Vec<Code> = entry.iter().map(|range| listing(image, *range)).collect();
        let cpu = all.iter().flat_map(|code| code.values()).find_map(|(i, _)| match i {
            I::LW { rs1: 4, offset, .. } | I::LWU { rs1: 4, offset, .. } => Some(*offset as u64),
            _ => None,
        });
        let (saved, saved_sum) = saved(image, switch_to)?;
        let bitmap = MARKS.into_iter().find(|name| image.symbol(name).is_some());
        let mut layout = Self {
            vector: vector.0,
            saves: save,
            exception_return: needed("ret_from_exception")?.0,
            fork: ["ret_from_fork_user_asm", "ret_from_fork_kernel_asm", "ret_from_fork"]
                .iter()
                .filter_map(|name| image.symbol(name))
                .map(|(at, _)| at)
                .collect(),
            irq_stack_call: image.symbol("call_on_irq_stack").map(|s| s.0),
            irq_stack_ptr: image.symbol("irq_stack_ptr").map(|s| s.0),
            frame,
            kernel_sp,
            user_sp,
            cpu: cpu.ok_or("nothing loads the number of the CPU")?,
            word,
            scratch,
            shift,
            gp: image.symbol("__global_pointer$").map(|s| s.0),
            saved,
            saved_sum,
            switch: None,
            announce: image.code("flush_cache_vmap"),
            marks: bitmap.and_then(|name| image.symbol(name)),
            set_is_marked: bitmap != Some(OURS),
            syncs: Vec::new(),
            irq: image.symbol("do_irq").map(|s| s.0),
            handlers: handlers(image),
            bad_stack: image.symbol("handle_bad_stack").map(|s| s.0),
            entry,
            switch_to,
        };
        layout.find_switch(image)?;
        Ok(layout)
    }

    /// Whether the interpreter executes the code there, and does not take it for C.
    pub fn interprets(&self, pc: u64) -> bool {
        let within = |(start, end): &(u64, u64)| (*start..*end).contains(&pc);
        self.entry.iter().any(within) || self.in_sync(pc) || self.switch.as_ref().is_some_and(|s| s.code.contains(&pc))
    }

    /// Whether `pc` is in what fences at a switch.
    pub fn in_sync(&self, pc: u64) -> bool {
        self.syncs.iter().any(|(start, end)| (*start..*end).contains(&pc))
    }

    /// Whether `pc` is in the exception entry or the context switch.
    pub fn in_entry(&self, pc: u64) -> bool {
        self.entry.iter().any(|(start, end)| (*start..*end).contains(&pc))
    }

    /// All that is interpreted: start, end.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges = self.entry.clone();
        ranges.extend(&self.syncs);
        ranges.extend(self.announce);
        if let Some(switch) = &self.switch {
            let (first, last) = (switch.code.first().copied(), switch.code.last().copied());
            ranges.extend(first.zip(last).map(|(a, b)| (a, b + 4)));
        }
        ranges
    }

    fn find_switch(&mut self, image: &Image) -> Result<(), String> {
        let call = SCHEDULERS.iter().find_map(|name| {
            let range = image.code(name)?;
            let graph = Graph::of(image, range);
            let at = graph.calls.iter().find(|(_, target)| **target == self.switch_to.0).map(|(at, _)| *at)?;
            Some((graph, at))
        });
        let Some((graph, call)) = call else {
            return Err("no scheduler calls __switch_to".to_owned());
        };
        let code = graph.stretch(call).ok_or("the code before the call of __switch_to is not understood")?;
        for pc in &code {
            let Some(target) = graph.calls.get(pc) else { continue };
            let Some(range) = image.function(*target).and_then(|name| image.code(name)) else { continue };
            let body = listing(image, range);
            let fences = body.values().any(|(i, _)| matches!(i, I::SFENCE_VMA { .. }));
            let calls = body.values().any(|(i, _)| is_call(*i));
            // switch_mm() fences for an address space, and is not meant. A sanitizer makes calls anywhere.
            let changes_satp = body.values().any(|(i, _)| matches!(i, I::CSRRW { csr: cpu::SATP, .. }));
            if fences && !changes_satp && (!calls || body.values().any(|(i, _)| cpu::is_amo(*i))) {
                self.syncs.push(range);
            }
        }
        let start = graph.start(&code);
        let (prev, next) = self.tasks(image, &graph, start, call)?;
        let (_, len) = graph.code[&call];
        let live = graph.live(image, &code, call);
        let mut switch = Switch { start, code, back: call + u64::from(len), prev, next, prev_cpu: None, live };
        switch.prev_cpu = self.prev_cpu(image, &graph, &switch, call);
        if switch.prev_cpu.is_none() {
            // Without it nothing tells a task that is new to the hart, and the verdict would be wrong.
            return Err("nothing stores thread.prev_cpu before __switch_to".to_owned());
        }
        self.switch = Some(switch);
        Ok(())
    }

    /// The registers that hold the two tasks at `start`.
    fn tasks(&self, image: &Image, graph: &Graph, start: u64, call: u64) -> Result<(u32, u32), String> {
        const PROBE: u64 = 0x7072_6f62_0000;
        let mut regs = Regs::ZERO;
        for register in 1..32 {
            regs.set(register, Val::named(PROBE + u64::from(register)));
        }
        regs.set(cpu::SP, Val::of(Probe::STACK));
        let at_call = graph.walk(image, start, call, regs, &mut Probe::default())?;
        let which = |register: u32| {
            let value = at_call.get(register);
            u32::try_from(value.bits.wrapping_sub(PROBE)).ok().filter(|r| !value.known && cpu::is_saved(*r))
        };
        which(cpu::A0).zip(which(cpu::A1)).ok_or_else(|| "the tasks of __switch_to are in no register".to_owned())
    }

    /// The offset at which the number of the CPU is stored in the task that is left.
    fn prev_cpu(&self, image: &Image, graph: &Graph, switch: &Switch, call: u64) -> Option<u64> {
        let mut regs = Regs::ZERO;
        for register in 1..32 {
            regs.set(register, Val::named(u64::from(register)));
        }
        for (register, value) in
            [(cpu::SP, Probe::STACK), (cpu::TP, Probe::PREV), (switch.prev, Probe::PREV), (switch.next, Probe::NEXT)]
        {
            regs.set(register, Val::of(value));
        }
        let mut probe = Probe::default();
        probe.words.insert(Probe::PREV + (self.cpu & !7), Val::of(Probe::CPU << ((self.cpu & 7) * 8)));
        graph.walk(image, switch.start, call, regs, &mut probe).ok()?;
        probe.stored.iter().find_map(|(word, value)| {
            let offset = word.checked_sub(Probe::PREV).filter(|o| *o < Probe::SIZE)?;
            if value.bits >> 32 == Probe::CPU {
                return Some(offset + 4);
            }
            (value.bits & u64::from(u32::MAX) == Probe::CPU).then_some(offset)
        })
    }
}

/// What `__switch_to` loads for the next task: offset by register, and the flag's.
type Saved = (BTreeMap<u32, u64>, Option<u64>);

fn saved(image: &Image, (start, end): (u64, u64)) -> Result<Saved, String> {
    let mut regs = Regs::ZERO;
    regs.set(cpu::A0, Val::of(Probe::PREV));
    regs.set(cpu::A1, Val::of(Probe::NEXT));
    regs.set(cpu::SP, Val::of(Probe::STACK));
    regs.set(cpu::TP, Val::of(Probe::PREV));
    let mut csrs = no_csrs();
    let mut probe = Probe::default();
    let (mut loads, mut pc) = (Vec::new(), start);
    while pc < end {
        let (instruction, len) = image.decode(pc).ok_or_else(|| format!("{}: unknown instruction", image.place(pc)))?;
        if let (I::LD { rd, .. }, Some(touch)) = (instruction, cpu::touch(instruction, &regs)) {
            loads.extend(touch.address.bits.checked_sub(Probe::NEXT).filter(|o| *o < Probe::SIZE).map(|o| (rd, o)));
        }
        match cpu::execute(instruction, (pc, len), &mut regs, &mut csrs, &mut probe, true) {
            Ok(Next::Jump(_)) => break,
            // The value of the loaded flag is not known.
            Ok(_) | Err(_) => pc += u64::from(len),
        }
    }
    // s0 is used for the flag first.
    let twice = loads.iter().filter(|(rd, _)| *rd == cpu::S0).count() > 1;
    let flag = loads.iter().find(|(rd, _)| *rd == cpu::S0 && twice).map(|(_, offset)| *offset);
    let saved: BTreeMap<u32, u64> = loads.into_iter().filter(|(_, o)| Some(*o) != flag).collect();
    if !saved.contains_key(&cpu::RA) || !saved.contains_key(&cpu::SP) {
        return Err("__switch_to does not load ra and sp".to_owned());
    }
    Ok((saved, flag))
}

/// The handlers of exceptions, in the order of their causes.
fn handlers(image: &Image) -> Vec<u64> {
    let Some((start, _)) = image.symbol("excp_vect_table") else { return Vec::new() };
    let end = image.symbol("excp_vect_table_end").map_or(start + 20 * 8, |s| s.0);
    (start..end)
        .step_by(8)
        .map_while(|at| image.word(at))
        .take_while(|handler| image.name_at(*handler).is_some())
        .collect()
}

fn no_csrs() -> Csrs {
    let zero = Val::of(0);
    Csrs { status: 0, scratch: zero, epc: zero, cause: zero, tval: zero, vec: 0, ssp: zero }
}

/// Memory without contents that notes what is stored.
#[derive(Default)]
struct Probe {
    words: BTreeMap<u64, Val>,
    stored: BTreeMap<u64, Val>,
}

impl Probe {
    const PREV: u64 = 0xff60_0000_0010_0000;
    const NEXT: u64 = 0xff60_0000_0020_0000;
    const SIZE: u64 = 0x1_0000;
    const STACK: u64 = 0xff20_0000_0010_3000;
    /// A number that nothing else is likely to be.
    const CPU: u64 = 0x2a5c;
}

impl Memory for Probe {
    fn word(&self, address: u64) -> Option<Val> {
        Some(self.words.get(&address).copied().unwrap_or(Val { bits: 0, known: false }))
    }

    fn set_word(&mut self, address: u64, value: Val) -> bool {
        self.words.insert(address, value);
        self.stored.insert(address, value);
        true
    }
}

/// Whether an instruction is a call (psABI: it leaves the return address in ra).
pub fn is_call(instruction: I) -> bool {
    matches!(instruction, I::JAL { rd: 1, .. } | I::JALR { rd: 1, .. })
}

/// Functions that the code in `range` calls, or ends in a jump to.
pub fn calls(image: &Image, range: (u64, u64)) -> BTreeSet<u64> {
    let graph = Graph::of(image, range);
    let leads = graph.next.values().flatten().filter(|to| !(range.0..range.1).contains(*to));
    graph.calls.values().chain(leads).copied().collect()
}

/// Registers that an instruction reads and writes, by bit.
pub fn operands(instruction: I) -> (u32, u32) {
    // The decoder has a field for each operand of each instruction, and no list of them.
    let text = format!("{instruction:?}");
    let bit = |field: &str| {
        let at = text.find(field).map(|at| at + field.len());
        let digits = at.map(|at| text[at..].chars().take_while(char::is_ascii_digit).collect::<String>());
        digits.and_then(|digits| digits.parse::<u32>().ok()).map_or(0, |register| 1 << (register & 31))
    };
    // Registers of floating point are in fields called frd, frs1 ...
    (bit(" rs1: ") | bit(" rs2: ") | bit(" rs3: "), bit(" rd: "))
}

/// A function's instructions, and where they lead.
struct Graph {
    code: Code,
    entry: u64,
    next: BTreeMap<u64, Vec<u64>>,
    /// Targets of direct calls.
    calls: BTreeMap<u64, u64>,
    /// What the kernel does not go on after: BUG() and panic().
    ends: BTreeSet<u64>,
}

impl Graph {
    fn of(image: &Image, range: (u64, u64)) -> Self {
        let code = listing(image, range);
        let (mut next, mut calls, mut ends) = (BTreeMap::<u64, Vec<u64>>::new(), BTreeMap::new(), BTreeSet::new());
        let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
        // Through the register that auipc has loaded.
        let far = |pages: &BTreeMap<u32, u64>, rs1: u32, offset: i32| {
            pages.get(&rs1).map(|page| page.wrapping_add_signed(i64::from(offset)))
        };
        for (&pc, &(instruction, len)) in &code {
            let after = pc + u64::from(len);
            let to = |by: i32| pc.wrapping_add_signed(i64::from(by));
            let leads = match instruction {
                I::AUIPC { rd, imm } => {
                    pages.insert(rd, pc.wrapping_add_signed(i64::from((imm << 12) as i32)));
                    vec![after]
                }
                I::JAL { rd: 0, offset } => vec![to(offset)],
                I::JAL { offset, .. } => {
                    calls.insert(pc, to(offset));
                    vec![after]
                }
                I::JALR { rd: 0, rs1, offset } => far(&pages, rs1, offset).into_iter().collect(),
                I::JALR { rs1, offset, .. } => {
                    let target = far(&pages, rs1, offset);
                    calls.extend(target.map(|target| (pc, target)));
                    if target.is_some_and(|t| image.name_at(t) == Some("panic")) {
                        ends.insert(pc);
                        vec![]
                    } else {
                        vec![after]
                    }
                }
                // BUG() ends here; WARN() is not expected to happen.
                I::EBREAK => {
                    ends.insert(pc);
                    vec![]
                }
                // What UBSAN_TRAP makes of undefined behaviour.
                I::UNIMP if image.is_unimp(pc) => {
                    ends.insert(pc);
                    vec![]
                }
                I::BEQ { offset, .. }
                | I::BNE { offset, .. }
                | I::BLT { offset, .. }
                | I::BGE { offset, .. }
                | I::BLTU { offset, .. }
                | I::BGEU { offset, .. } => vec![after, to(offset)],
                _ => vec![after],
            };
            next.insert(pc, leads);
        }
        // Jumps that the kernel makes of other instructions, or the reverse, at boot.
        for alternative in image.alternatives(range.0, range.1) {
            let patched = image.patched(alternative.old, &alternative.new);
            let mut pc = alternative.old;
            while pc < alternative.old + alternative.new.len() as u64 {
                let Some((instruction, len)) = patched.decode(pc) else { break };
                let after = pc + u64::from(len);
                let leads = next.entry(pc).or_default();
                if let I::JAL { rd: 0, offset } = instruction {
                    leads.push(pc.wrapping_add_signed(i64::from(offset)));
                } else if !leads.contains(&after) {
                    leads.push(after);
                }
                pc = after;
            }
        }
        Self { code, entry: range.0, next, calls, ends }
    }

    fn reachable(&self, from: u64, without: Option<u64>) -> BTreeSet<u64> {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(pc) = left.pop() {
            if Some(pc) != without && self.code.contains_key(&pc) && seen.insert(pc) {
                left.extend(self.next[&pc].iter().copied());
            }
        }
        seen
    }

    /// The longest stretch of code without a loop that every path to `call` goes through from its start,
    /// and that leads nowhere else.
    fn stretch(&self, call: u64) -> Option<BTreeSet<u64>> {
        // All that always leads to the call.
        let mut always: BTreeSet<u64> = self.code.keys().copied().collect();
        loop {
            let before = always.len();
            let now = always.clone();
            always.retain(|pc| {
                let next = &self.next[pc];
                *pc == call || self.ends.contains(pc) || !next.is_empty() && next.iter().all(|n| now.contains(n))
            });
            if always.len() == before {
                break;
            }
        }
        let mut best: Option<BTreeSet<u64>> = None;
        for &start in always.iter().filter(|pc| **pc <= call) {
            if start != call && self.reachable(self.entry, Some(start)).contains(&call) {
                continue;
            }
            let Some(code) = self.without_loops(start, call) else { continue };
            if code.contains(&call) && best.as_ref().is_none_or(|b| b.len() < code.len()) {
                best = Some(code);
            }
        }
        best
    }

    /// What lies between `start` and `end`, unless there is a loop.
    fn without_loops(&self, start: u64, end: u64) -> Option<BTreeSet<u64>> {
        // Depth first; a node that is met while it is open closes a loop.
        let (mut open, mut done) = (BTreeSet::new(), BTreeSet::new());
        let mut stack = vec![(start, false)];
        while let Some((pc, left)) = stack.pop() {
            if left {
                open.remove(&pc);
                done.insert(pc);
                continue;
            }
            if done.contains(&pc) {
                continue;
            }
            if !open.insert(pc) {
                return None;
            }
            stack.push((pc, true));
            if pc == end {
                continue;
            }
            for &next in &self.next[&pc] {
                if open.contains(&next) || !self.code.contains_key(&next) {
                    return None;
                }
                if !done.contains(&next) {
                    stack.push((next, false));
                }
            }
        }
        Some(done)
    }

    /// The registers that are live at each instruction of a stretch that ends in a call.
    fn live(&self, image: &Image, stretch: &BTreeSet<u64>, call: u64) -> BTreeMap<u64, u32> {
        const ARGUMENTS: u32 = 0xff << cpu::A0;
        let kept = (1..32).filter(|r| cpu::is_saved(*r)).fold(0u32, |set, r| set | 1 << r);
        let range = (self.entry, stretch.last().map_or(self.entry, |pc| pc + 4));
        let alternatives = image.alternatives(range.0, range.1);
        let patched: Vec<_> = alternatives.iter().map(|a| (a, image.patched(a.old, &a.new))).collect();
        let of = |pc: &u64| {
            let Some((instruction, _)) = self.code.get(pc) else { return (u32::MAX, 0) };
            // What the decoder does not know may read each register.
            let mut both = if *instruction == I::UNIMP { (u32::MAX, 0) } else { operands(*instruction) };
            // A call reads its arguments, and leaves no other register that its caller could use.
            if is_call(*instruction) {
                both = (both.0 | ARGUMENTS, !kept);
            }
            for (_, image) in patched.iter().filter(|(a, _)| (a.old..a.old + a.new.len() as u64).contains(pc)) {
                let read = match image.decode(*pc) {
                    Some((instruction, _)) if !is_call(instruction) => operands(instruction).0,
                    _ => u32::MAX,
                };
                both = (both.0 | read, 0);
            }
            both
        };
        let operands: BTreeMap<u64, (u32, u32)> = stretch.iter().map(|pc| (*pc, of(pc))).collect();
        let mut live: BTreeMap<u64, u32> = stretch.iter().map(|pc| (*pc, 0)).collect();
        live.insert(call, u32::MAX);
        loop {
            let mut changed = false;
            for pc in stretch.iter().rev().filter(|pc| **pc != call) {
                let after = self.next[pc].iter().fold(0, |set, next| set | live.get(next).copied().unwrap_or(u32::MAX));
                let (read, written) = operands[pc];
                let now = after & !written | read;
                changed |= live.insert(*pc, now) != Some(now);
            }
            if !changed {
                return live;
            }
        }
    }

    /// The first instruction of a stretch: the one that no other of it leads to.
    fn start(&self, code: &BTreeSet<u64>) -> u64 {
        let led: BTreeSet<u64> = code.iter().flat_map(|pc| self.next[pc].iter().copied()).collect();
        code.iter().copied().find(|pc| !led.contains(pc)).unwrap_or_default()
    }

    /// Executes some path from `start` to `call`, with calls of functions left out. Returns the registers.
    fn walk(&self, image: &Image, start: u64, call: u64, regs: Regs, probe: &mut Probe) -> Result<Regs, String> {
        let (mut pc, mut regs, mut csrs) = (start, regs, no_csrs());
        for _ in 0..10_000 {
            if pc == call {
                return Ok(regs);
            }
            let (instruction, len) =
                image.decode(pc).ok_or_else(|| format!("{}: unknown instruction", image.place(pc)))?;
            let after = pc + u64::from(len);
            if self.calls.contains_key(&pc) {
                for register in (1..32).filter(|r| !cpu::is_saved(*r)) {
                    regs.set(register, Val::named(0x6361_6c6c ^ pc ^ u64::from(register)));
                }
                pc = after;
                continue;
            }
            pc = match cpu::execute(instruction, (pc, len), &mut regs, &mut csrs, probe, true) {
                // A number that is too large for a CPU's must not lead to a trap.
                Ok(Next::Jump(to)) if to.known && self.reachable(to.bits, None).contains(&call) => to.bits,
                Ok(Next::Jump(to)) if to.known => after,
                // Either way leads to the call.
                Ok(Next::Jump(_)) => return Err(format!("{}: a jump to nowhere", image.place(pc))),
                Ok(_) | Err(_) => after,
            };
        }
        Err("the code before __switch_to does not end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_read_off_each_form() {
        let bits = |registers: &[u32]| registers.iter().fold(0, |set, r| set | 1 << r);
        for (instruction, read, written) in [
            (I::SD { rs1: 4, rs2: 2, offset: 24 }, bits(&[2, 4]), 0),
            (I::LD { rd: 10, rs1: 4, offset: 0 }, bits(&[4]), bits(&[10])),
            (I::ADD { rd: 5, rs1: 6, rs2: 17 }, bits(&[6, 17]), bits(&[5])),
            (I::BEQ { rs1: 14, rs2: 13, offset: 8 }, bits(&[13, 14]), 0),
            (I::CSRRS { rd: 0, csr: cpu::SSTATUS, rs1: 14 }, bits(&[14]), bits(&[0])),
            (I::JALR { rd: 1, rs1: 13, offset: 0 }, bits(&[13]), bits(&[1])),
            (I::LUI { rd: 28, imm: 1 }, 0, bits(&[28])),
            (I::FSD { rs1: 2, frs2: 8, offset: 0 }, bits(&[2]), 0),
            (I::FLD { frd: 8, rs1: 2, offset: 0 }, bits(&[2]), 0),
        ] {
            assert_eq!(operands(instruction), (read, written), "{instruction:?}");
        }
    }
}
