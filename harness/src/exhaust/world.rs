// SPDX-License-Identifier: GPL-2.0-only
//! The hart among its adversaries: what may happen at each instruction, and what must hold.
//!
//! One hart executes the kernel's own instructions. C code is a stub that may do whatever C code may do.
//! A second hart executes flush_cache_vmap(), step by step where the two share memory. docs/exhaust.md
//! describes the model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::quality::FixedState;
use riscv_isa::Instruction as I;

use super::cpu::{self, Access, Csrs, Memory, Next, Regs, Touch, Val};
use super::image::Image;
use super::layout::{Layout, is_call};

const PAGE: u64 = 4096;
/// The two tasks' task_structs, in the linear map.
const TASKS: [u64; 2] = [0xff60_0000_1000_0000, 0xff60_0000_1002_0000];
const TASK_SIZE: u64 = 0x8000;
/// Where their stacks are, in vmalloc memory, and the IRQ stack: see [`World::stack`].
const STACKS: [u64; 2] = [0xff20_0000_0100_0000, 0xff20_0000_0200_0000];
const IRQ_STACK: u64 = 0xff20_0000_0400_0000;
/// Mappings that are made while the kernel runs.
const DATA: u64 = 0xff20_0000_0800_0000;
/// Never mapped.
const NOWHERE: u64 = 0xff20_0000_0c00_0040;
/// The other hart's task and stack, of which nothing is remembered wrongly.
const OTHER_TASK: u64 = 0xff60_0000_1008_0000;
const OTHER_STACK: u64 = 0xff20_0000_0300_0000;
const OTHER_SIZE: u64 = 0x8000;

/// Bits of other harts in the bitmap, at the start.
const OTHER_BITS: u64 = 0x5555_5555_aaaa_aaab;

/// Bytes after the bitmap of which the contents are not known.
const BESIDE: u64 = 0x400;

/// Addresses that stand for places in C code: where a body is, where it touches something, where it has
/// called call_on_irq_stack(), and the function that it passes to it.
const BODY: u64 = 0xffff_ffff_f000_0000;
const TOUCHES: u64 = BODY + 0x1000;
const BAD_LOAD: u64 = BODY + 0x1800;
const BAD_STORE: u64 = BODY + 0x1808;
const FROM_IRQ_STACK: u64 = BODY + 0x2000;
const ON_IRQ_STACK: u64 = BODY + 0x3000;
/// Where the other hart's call returns to, and where it marks by contract.
const OTHER_DONE: u64 = BODY + 0x4000;
const OTHER_MARKS: u64 = BODY + 0x5000;

const USER_PC: u64 = 0x12_3456;
const USER_ADDRESS: u64 = 0x7654_3210;
/// sstatus as a user program leaves it: floating point and vectors in use.
const USER_STATUS: u64 = cpu::SPIE | cpu::SIE | cpu::FS | cpu::VS | cpu::UXL;

/// Pages that the hart may remember as invalid.
pub const PAGES: [&str; 4] = ["top page of the new stack", "next page of the new stack", "new page A", "new page B"];
const ON_STACK: u8 = 0b0011;

/// Limits of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Traps that may be nested because C code takes an exception or an interrupt; faults on stale
    /// translations come on top.
    pub depth: u8,
    /// Mappings that the other hart makes.
    pub mappings: u8,
    /// The hart keeps its stale translations for one fault in one of the four windows, where it does the most harm.
    /// That leaves paths out, and with them so many states that each window of a broken kernel comes within reach.
    pub patient: bool,
}

/// Where the search starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    pub cpu: u32,
    /// The hart's bit is set at the start.
    pub marked: bool,
    pub newcomer: Newcomer,
}

/// The task that is new to the hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Newcomer {
    /// It has not run yet and starts at this function.
    Forked(u64),
    /// It slept on another hart, in the kernel.
    Migrated,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The instruction is executed; its access succeeds.
    Go,
    /// The hart uses a translation from before the page was mapped.
    Stale,
    /// A timer interrupt, or an external one.
    Interrupt(bool),
    /// The other hart stores PTEs, and calls flush_cache_vmap().
    Map(u8),
    /// The other hart goes on.
    Other,
    /// A branch on a value that is not known.
    Branch(bool),
    /// An SC that succeeds or fails.
    Sc(bool),
    /// C code returns.
    Return,
    TouchLoad(u8),
    TouchStore(u8),
    TouchFetch(u8),
    /// C code accesses what is not mapped, by a load or a fetch.
    Genuine(bool),
    UserAccess,
    Breakpoint,
    AccessFault,
    EnableIrqs,
    /// C code uses more of its stack.
    Descend,
    Overflow,
    Switch,
    IrqStack,
    Syscall,
    UserFault,
}

/// Why a trap was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The translation was stale.
    Spurious(u8),
    /// Nothing is mapped there.
    Genuine,
    /// A breakpoint, a system call ...
    Other,
    Interrupt,
}

/// A stretch in which a trap cannot be handled (lazy-map.rst): 1 to 4; 0 elsewhere.
pub type Window = u8;

/// A trap that has not been returned from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Trap {
    pc: u64,
    user: bool,
    regs: Regs,
    /// sstatus before and after.
    status: (u64, u64),
    scratch: Val,
    cause: u64,
    tval: u64,
    kind: Kind,
    /// A handler in C has been called.
    handled: bool,
    /// sstatus or sepc have been restored.
    restored: bool,
    window: Window,
    /// Hash of what an absorbed fault must not change.
    memory: u64,
}

/// A C function that has been called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Body {
    back: u64,
    at_entry: Regs,
    /// Where its stack ends, and how far it has descended.
    sp: u64,
    descended: u8,
    function: u64,
    /// pt_regs, of a handler of traps.
    frame: Option<u64>,
    irqs_at_return: bool,
}

/// What a task has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Begun {
    Trap(Box<Trap>),
    Body(Box<Body>),
    /// Switched away; registers at the call of `__switch_to`, once it is reached.
    Switched(Option<Box<Regs>>, bool),
    /// In call_on_irq_stack(), called with these registers.
    IrqStack(Box<Regs>),
}

/// The other hart in flush_cache_vmap().
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Other {
    mapping: u8,
    regs: Regs,
    pc: u64,
    /// It has called C code, or branched on a value that is not known: what it does depends on more than the model
    /// has.
    guessed: bool,
}

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    regs: Regs,
    csrs: Csrs,
    pc: u64,
    user: bool,
    memory: BTreeMap<u64, Val>,
    /// Pages, by bit: may be remembered as invalid; mapped; may be touched.
    stale: u8,
    mapped: u8,
    known: u8,
    /// Mappings made so far, by bit: the stack, A, B.
    made: u8,
    task: usize,
    begun: [Vec<Begun>; 2],
    other: Option<Other>,
    /// Faults absorbed since the last announcement.
    retries: u8,
    /// The choice at this instruction has been made.
    granted: bool,
    /// Registers, sstatus, and mappings made so far, at the call of what fences at a switch, while it runs.
    fencing: Option<Box<(Regs, u64, u8)>>,
    cpu: u32,
}

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Violation {
    pub window: Window,
    /// Which property: a short name.
    pub property: &'static str,
    /// In words.
    pub what: String,
    /// The function that the hart was in.
    pub place: u64,
}

/// Where a run stops.
#[derive(Debug)]
pub enum Stop {
    Choose(Vec<Choice>),
    Broken(Violation),
    /// Nothing follows: the kernel has reported a bug of somebody else.
    End,
    /// The model does not cover it.
    Unknown(String),
}

/// What a trace is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A step in words, with the address of the instruction.
    Said(u64, String),
    Trap {
        user: bool,
    },
    Wrote(u32),
    Used(u8),
    Fault(u8, Window),
    Fence,
}

/// One kernel, one set of bounds.
#[derive(Debug)]
pub struct World<'a> {
    pub image: &'a Image,
    pub layout: &'a Layout,
    pub bounds: Bounds,
    /// Filled while a trace is replayed.
    pub trace: RefCell<Option<Vec<Event>>>,
}

/// Memory during an instruction.
struct View<'a, 'b> {
    world: &'a World<'b>,
    words: &'a mut BTreeMap<u64, Val>,
}

impl Memory for View<'_, '_> {
    fn word(&self, address: u64) -> Option<Val> {
        self.world.word(self.words, address)
    }

    fn set_word(&mut self, address: u64, value: Val) -> bool {
        let image = self.world.image;
        if self.world.word(self.words, address).is_none() || image.contains(address) && !image.is_writable(address) {
            return false;
        }
        self.words.insert(address, value);
        true
    }
}

/// The name of a value that C code or a user program left in a register.
fn name(who: u64, register: u32) -> Val {
    spread(0x5a00_0000 + (who << 8) + u64::from(register))
}

/// A name of which no part is that of another one: an access that is too narrow does not keep it.
fn spread(number: u64) -> Val {
    Val::named(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The name of a register that a function keeps and that is not the same in both, if there is one.
fn changed(before: &Regs, after: &Regs) -> Option<&'static str> {
    let register = (1..32).filter(|r| cpu::is_saved(*r)).find(|r| before.get(*r) != after.get(*r))?;
    Some(cpu::NAMES[register as usize])
}

/// The registers that a function keeps; the others are zero.
fn kept(regs: &Regs) -> Regs {
    let mut only = Regs::ZERO;
    for register in (1..32).filter(|r| cpu::is_saved(*r)) {
        only.set(register, regs.get(register));
    }
    only
}

/// Whether `address` is one of the `size` bytes from `start` on.
pub(super) fn within(address: u64, start: u64, size: u64) -> bool {
    address.wrapping_sub(start) < size
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = |p: &u8| PAGES[usize::from(*p) % PAGES.len()];
        match self {
            Self::Go => f.write_str("goes on"),
            Self::Stale => f.write_str("uses a stale translation"),
            Self::Interrupt(false) => f.write_str("timer interrupt"),
            Self::Interrupt(true) => f.write_str("external interrupt"),
            Self::Map(0) => f.write_str("another hart maps the stack of a new task, and calls flush_cache_vmap()"),
            Self::Map(n) => write!(f, "another hart maps {}, and calls flush_cache_vmap()", page(&(n + 1))),
            Self::Other => f.write_str("the other hart goes on"),
            Self::Branch(taken) => write!(f, "branch on an unknown value, {}taken", if *taken { "" } else { "not " }),
            Self::Sc(well) => f.write_str(if *well { "SC succeeds" } else { "SC fails" }),
            Self::Return => f.write_str("C code returns"),
            Self::TouchLoad(p) => write!(f, "C code loads from {}", page(p)),
            Self::TouchStore(p) => write!(f, "C code stores to {}", page(p)),
            Self::TouchFetch(p) => write!(f, "C code jumps to {}", page(p)),
            Self::Genuine(false) => f.write_str("C code loads from an address that is not mapped"),
            Self::Genuine(true) => f.write_str("C code jumps to an address that is not mapped"),
            Self::UserAccess => f.write_str("C code faults on a user address"),
            Self::Breakpoint => f.write_str("C code meets a breakpoint"),
            Self::AccessFault => f.write_str("C code takes an access fault"),
            Self::EnableIrqs => f.write_str("C code enables interrupts"),
            Self::Descend => f.write_str("C code uses more of its stack"),
            Self::Overflow => f.write_str("C code overflows its stack"),
            Self::Switch => f.write_str("C code switches to the other task"),
            Self::IrqStack => f.write_str("C code calls call_on_irq_stack()"),
            Self::Syscall => f.write_str("the program makes a system call"),
            Self::UserFault => f.write_str("the program faults on a kernel address"),
        }
    }
}

impl<'a> World<'a> {
    /// A world without a trace.
    pub fn new(image: &'a Image, layout: &'a Layout, bounds: Bounds) -> Self {
        Self { image, layout, bounds, trace: RefCell::new(None) }
    }

    fn stack_size(&self) -> u64 {
        1 << self.layout.shift.unwrap_or(14)
    }

    /// The lower end of a task's stack: aligned to twice its size, and to no more.
    fn stack(&self, task: usize) -> u64 {
        STACKS[task] + 2 * self.stack_size()
    }

    /// The lower end of the IRQ stack.
    fn irq_stack_start(&self) -> u64 {
        IRQ_STACK + 2 * self.stack_size()
    }

    fn top(&self, task: usize) -> u64 {
        self.stack(task) + self.stack_size()
    }

    /// Bytes of a mapping's pages.
    fn pages_of(mapping: u8) -> u8 {
        match mapping {
            0 => ON_STACK,
            n => 1 << (n + 1),
        }
    }

    fn page_address(&self, page: u8) -> u64 {
        match page {
            0 => self.top(1) - PAGE,
            1 => self.top(1) - 2 * PAGE,
            n => DATA + u64::from(n) * PAGE,
        }
    }

    /// The page that `address` is on, if it is one of those that may be stale.
    fn page(&self, address: u64) -> Option<u8> {
        (0..PAGES.len() as u8).find(|p| within(address, self.page_address(*p), PAGE))
    }

    fn word(&self, words: &BTreeMap<u64, Val>, address: u64) -> Option<Val> {
        if let Some(value) = words.get(&address) {
            return Some(*value);
        }
        if let Some(word) = self.image.word(address) {
            // Nobody knows what lies beside the bitmap.
            let beside = self.layout.marks.is_some_and(|(start, size)| within(address, start + size, BESIDE));
            return Some(if beside { spread(address) } else { Val::of(word) });
        }
        let stack = |start| within(address, start, self.stack_size());
        let exists = TASKS.iter().any(|t| within(address, *t, TASK_SIZE))
            || [0, 1].iter().any(|task| stack(self.stack(*task)))
            || stack(self.irq_stack_start())
            || within(address, OTHER_TASK, TASK_SIZE)
            || within(address, OTHER_STACK, OTHER_SIZE)
            || self.page(address).is_some();
        exists.then(|| Val::named(address))
    }

    fn say(&self, pc: u64, text: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.borrow_mut().as_mut() {
            trace.push(Event::Said(pc, text()));
        }
    }

    fn note(&self, event: Event) {
        if let Some(trace) = self.trace.borrow_mut().as_mut() {
            trace.push(event);
        }
    }

    /// The state at the start: the first task in user mode, the second one not known to the hart.
    ///
    /// # Errors
    /// When the kernel does not get as far as that.
    pub fn start(&self, root: Root) -> Result<State, String> {
        let layout = self.layout;
        let mut state = State {
            regs: user_regs(0),
            csrs: Csrs {
                status: USER_STATUS,
                scratch: Val::of(TASKS[0]),
                epc: Val::named(1),
                cause: Val::named(2),
                tval: Val::named(3),
                vec: layout.vector,
                ssp: Val::of(0),
            },
            pc: USER_PC,
            user: true,
            memory: BTreeMap::new(),
            stale: 0,
            mapped: 0,
            known: 0,
            made: 0,
            task: 0,
            begun: [Vec::new(), Vec::new()],
            other: None,
            retries: 0,
            granted: false,
            fencing: None,
            cpu: root.cpu,
        };
        let mark = self.own_mark(root.cpu);
        for (task, base) in TASKS.iter().enumerate() {
            let mut set = |offset: u64, value: u64| state.memory.insert(base + offset, Val::of(value));
            // What lies beside the number in its word is of no meaning.
            let (at, shift) = (layout.cpu & !7, (layout.cpu & 7) * 8);
            set(at, u64::from(root.cpu) << shift | 0x5a5a_5a5a << (32 - shift));
            set(layout.kernel_sp, self.top(task));
            if let Some((offset, (word, _))) = layout.word.zip(mark).filter(|_| task == 0) {
                set(offset, word);
            }
            if let Some(offset) = layout.switch.as_ref().and_then(|s| s.prev_cpu) {
                // A CPU that the task did not run on, or none.
                let there = if task == 0 { root.cpu } else { u32::MAX - 1 };
                let at = base + offset;
                let old = state.memory.get(&(at & !7)).map_or(0, |v| v.bits);
                let shift = (at & 7) * 8;
                let new = old & !(u64::from(u32::MAX) << shift) | u64::from(there) << shift;
                state.memory.insert(at & !7, Val::of(new));
            }
        }
        if let Some((word, bit)) = mark {
            // The bits of other harts tell whether the hart changes them, and whether an announcement forgets one.
            let others = OTHER_BITS & !bit;
            state.memory.insert(word, Val::of(if root.marked { others | bit } else { others }));
        }
        if let Some((at, _)) = self.image.symbol("nr_cpu_ids") {
            // As few as there may be, so that rounding matters.
            let (word, shift) = (at & !7, (at & 7) * 8);
            let rest = self.image.word(word).unwrap_or(0) & !(u64::from(u32::MAX) << shift);
            state.memory.insert(word, Val::of(rest | u64::from(root.cpu + 1) << shift));
        }
        if let Some(pointer) = layout.irq_stack_ptr {
            state.memory.insert(pointer & !7, Val::of(self.irq_stack_start()));
        }
        self.newcomer(&mut state, root)?;
        self.at_user(&mut state);
        Ok(state)
    }

    /// Prepares the second task, as fork() or the hart that it ran on leaves it.
    fn newcomer(&self, state: &mut State, root: Root) -> Result<(), String> {
        let layout = self.layout;
        let frame = self.top(1) - layout.frame;
        let (regs, status) = (user_regs(1), USER_STATUS & !cpu::SIE | cpu::SPIE);
        let trap = Trap {
            pc: USER_PC,
            user: true,
            regs,
            status: (USER_STATUS, status),
            scratch: Val::of(TASKS[1]),
            cause: 8,
            tval: 0,
            kind: Kind::Other,
            handled: true,
            restored: false,
            window: 0,
            memory: 0,
        };
        state.memory.insert(frame, Val::of(USER_PC));
        for register in 1..32 {
            state.memory.insert(frame + u64::from(register) * 8, regs.get(register));
        }
        for (offset, value) in [(0x100, status), (0x108, 0), (0x110, 8)] {
            state.memory.insert(frame + offset, Val::of(value));
        }
        state.begun[1].push(Begun::Trap(Box::new(trap)));
        let mut saved = Regs::ZERO;
        for register in (1..32).filter(|r| cpu::is_saved(*r)) {
            saved.set(register, name(7, register));
        }
        match root.newcomer {
            Newcomer::Forked(at) => {
                // Until 6.15 one function served processes and kernel threads, whose function is in s0 then.
                saved.set(cpu::S0, Val::of(0));
                saved.set(cpu::RA, Val::of(at));
                saved.set(cpu::SP, Val::of(frame));
            }
            Newcomer::Migrated => {
                let switch = layout.switch.as_ref().ok_or("no switch")?;
                // The handler of its last trap returns to what follows the call in handle_exception.
                let back = self.after_handler().ok_or("handle_exception does not call a handler")?;
                let mut at_entry = Regs::ZERO;
                for register in (1..32).filter(|r| cpu::is_saved(*r)) {
                    at_entry.set(register, name(6, register));
                }
                at_entry.set(cpu::SP, Val::of(frame));
                at_entry.set(cpu::TP, Val::of(TASKS[1]));
                at_entry.set(cpu::GP, Val::of(layout.gp.unwrap_or(0)));
                state.begun[1].push(Begun::Body(Box::new(Body {
                    back,
                    at_entry,
                    sp: frame - 0x80,
                    descended: 0,
                    function: 0,
                    frame: Some(frame),
                    irqs_at_return: false,
                })));
                saved.set(cpu::RA, Val::of(switch.back));
                saved.set(cpu::SP, Val::of(frame - 0x180));
                state.begun[1].push(Begun::Switched(Some(Box::new(saved)), true));
            }
        }
        for (register, offset) in &layout.saved {
            state.memory.insert(TASKS[1] + offset, saved.get(*register));
        }
        for task in TASKS {
            state.memory.extend(layout.saved_sum.map(|offset| (task + offset, Val::of(0))));
        }
        Ok(())
    }

    /// Where handlers of exceptions return to: after the last indirect call of handle_exception.
    fn after_handler(&self) -> Option<u64> {
        let (start, end) = self.image.code("handle_exception")?;
        let (mut pc, mut found) = (start, None);
        while pc < end {
            let Some((instruction, len)) = self.image.decode(pc) else { break };
            pc += u64::from(len);
            if matches!(instruction, I::JALR { rd: 1, offset: 0, .. }) {
                found = Some(pc);
            }
        }
        found
    }

    fn broken(&self, state: &State, property: &'static str, what: impl Into<String>) -> Stop {
        // The first that was met: what follows is its consequence.
        let window = state.begun[state.task].iter().find_map(|b| match b {
            Begun::Trap(trap) if trap.window > 0 => Some(trap.window),
            _ => None,
        });
        Stop::Broken(Violation { window: window.unwrap_or(0), property, what: what.into(), place: state.pc })
    }

    /// Goes on from `state` until there is a choice.
    pub fn run(&self, state: &mut State) -> Stop {
        for _ in 0..4000 {
            if let Some(stop) = self.step(state) {
                return stop;
            }
        }
        self.broken(state, "ends", "4000 instructions without an end")
    }

    fn step(&self, state: &mut State) -> Option<Stop> {
        if state.user {
            return Some(Stop::Choose(self.choices_of_user(state)));
        }
        let pc = state.pc;
        if pc == BODY {
            return Some(Stop::Choose(self.choices_of_body(state)));
        }
        match pc {
            BAD_LOAD => return self.trap(state, Kind::Genuine, cpu::LOAD_FAULT, NOWHERE),
            BAD_STORE => {
                let guard = self.current_stack(state) - 0x20;
                return self.trap(state, Kind::Genuine, cpu::STORE_FAULT, guard);
            }
            NOWHERE => return self.trap(state, Kind::Genuine, cpu::FETCH_FAULT, NOWHERE),
            TOUCHES..BAD_LOAD => return self.touched(state),
            _ => {}
        }
        if pc == FROM_IRQ_STACK {
            return self.back_from_irq_stack(state);
        }
        if let Some(page) = self.page(pc) {
            return self.in_new_text(state, page);
        }
        if !self.layout.interprets(pc) {
            return self.called(state, pc);
        }
        let Some((instruction, len)) = self.image.decode(pc) else {
            if !self.layout.in_entry(pc) && self.image.is_unimp(pc) {
                return Some(Stop::End);
            }
            if !self.layout.in_entry(pc) && self.opaque(state) {
                return None;
            }
            return Some(Stop::Unknown(format!(
                "{}: an instruction that the decoder does not know",
                self.image.place(pc)
            )));
        };
        let touch = cpu::touch(instruction, &state.regs);
        if !state.granted {
            let choices = self.choices_at(state, instruction, touch);
            match choices {
                Err(stop) => return Some(stop),
                Ok(choices) if choices.len() > 1 => return Some(Stop::Choose(choices)),
                Ok(_) => {}
            }
        }
        state.granted = false;
        let in_switch = !self.layout.in_entry(pc);
        if let Some(page) = touch.and_then(|t| self.page(t.address.bits)) {
            self.note(Event::Used(page));
        }
        let marks = touch.filter(|_| self.is_mark(touch)).map(|t| t.address.bits & !7);
        let before = marks.and_then(|word| self.word(&state.memory, word));
        let (mut regs, mut csrs) = (state.regs, state.csrs);
        let mut view = View { world: self, words: &mut state.memory };
        let next = cpu::execute(instruction, (pc, len), &mut regs, &mut csrs, &mut view, in_switch);
        (state.regs, state.csrs) = (regs, csrs);
        let after = pc + u64::from(len);
        if next.is_ok() {
            // The exit executes an SC to drop a reservation.
            let atomic = touch.is_some_and(|t| t.atomic && t.access == Access::Store)
                && !matches!(instruction, I::SC_D { .. } | I::SC_W { .. });
            let ours = !in_switch || self.layout.in_sync(pc);
            if atomic && ours && marks.is_none() && self.layout.marks.is_some() {
                return Some(self.broken(state, "own bit", format!("`{instruction}` is not on the bitmap")));
            }
            if let Some(stop) = self.foreign_bit(state, marks, before) {
                return Some(stop);
            }
        }
        match next {
            Err(why) => return Some(self.refused(state, instruction, touch, why)),
            Ok(Next::On | Next::Wfi) if self.layout.in_sync(pc) && !self.layout.in_sync(after) => {
                return Some(self.broken(state, "control", "what fences at a switch runs off its end"));
            }
            Ok(Next::On | Next::Wfi) => state.pc = after,
            // BUG() or WARN() in the scheduler.
            Ok(Next::Ebreak) if in_switch => return Some(Stop::End),
            Ok(Next::Ebreak) => return Some(self.broken(state, "no trap by itself", "the entry executes ebreak")),
            Ok(Next::Jump(to)) if !to.known => {
                return Some(self.broken(
                    state,
                    "control",
                    "a jump through a register that the kernel does not control",
                ));
            }
            Ok(Next::Jump(to)) => {
                state.pc = to.bits;
                return self.jumped(state, pc, to.bits, instruction);
            }
            Ok(Next::Either(_)) => {
                self.settle(state);
                // The choice comes back as Branch.
                return Some(Stop::Choose(vec![Choice::Branch(true), Choice::Branch(false)]));
            }
            Ok(Next::MaySc(..)) => return Some(Stop::Choose(vec![Choice::Sc(true), Choice::Sc(false)])),
            Ok(Next::Sret) => return self.sret(state),
            Ok(Next::Fence(address)) => {
                state.pc = after;
                self.note(Event::Fence);
                match address {
                    None => state.stale = 0,
                    Some(address) => {
                        state.stale &= self.page(address.bits).map_or(u8::MAX, |p| !(1 << p));
                    }
                }
            }
            Ok(Next::Wrote(csr)) => {
                state.pc = after;
                self.wrote(state, csr, instruction);
            }
        }
        None
    }

    /// The word of the bitmap with the bit of a CPU, and that bit.
    fn own_mark(&self, cpu: u32) -> Option<(u64, u64)> {
        self.layout.marks.map(|(first, _)| (first + u64::from(cpu / 64) * 8, 1 << (cpu % 64)))
    }

    /// Whether an access to the bitmap has changed another bit than the hart's own.
    fn foreign_bit(&self, state: &State, word: Option<u64>, before: Option<Val>) -> Option<Stop> {
        let (word, before) = (word?, before?);
        let after = self.word(&state.memory, word)?;
        let (own_word, bit) = self.own_mark(state.cpu)?;
        let own = if word == own_word { bit } else { 0 };
        let changed = if after.known && before.known { after.bits ^ before.bits } else { u64::MAX };
        (after != before && changed & !own != 0)
            .then(|| self.broken(state, "own bit", "a hart changes the bit of another hart"))
    }

    /// Vector and FP instructions of C code: what they compute is not known.
    fn opaque(&self, state: &mut State) -> bool {
        /// OP-V, LOAD-FP, STORE-FP, OP-FP.
        const OPCODES: [u8; 4] = [0x57, 0x07, 0x27, 0x53];
        let Some(bytes) = self.image.bytes(state.pc, 4).filter(|b| OPCODES.contains(&(b[0] & 0x7f))) else {
            return false;
        };
        if matches!(bytes[0] & 0x7f, 0x57 | 0x53) {
            let rd = u32::from(bytes[1] & 15) << 1 | u32::from(bytes[0] >> 7);
            state.regs.set(rd, Val::named(state.pc));
        }
        state.pc += 4;
        true
    }

    fn wrote(&self, state: &mut State, csr: u32, instruction: I) {
        self.note(Event::Wrote(if matches!(instruction, I::CSRRW { rd, .. } if rd != 0) { 0 } else { csr }));
        if (csr == cpu::SEPC || csr == cpu::SSTATUS)
            && let Some(Begun::Trap(trap)) = state.begun[state.task].last_mut()
            && trap.handled
        {
            trap.restored = true;
        }
    }

    fn refused(&self, state: &State, instruction: I, touch: Option<Touch>, why: String) -> Stop {
        let user = touch.is_some_and(|t| !t.address.known);
        if user {
            return self.broken(state, "control", format!("`{instruction}`: {why}"));
        }
        if touch.is_some() {
            return self.broken(state, "only what exists", format!("`{instruction}`: {why}"));
        }
        if self.layout.in_entry(state.pc) && why.starts_with("sstatus") {
            return self.broken(state, "sstatus", why);
        }
        Stop::Unknown(format!("{}: {why}", self.image.place(state.pc)))
    }

    /// Whether the two harts share what the instruction accesses.
    fn shared(&self, instruction: I, touch: Option<Touch>) -> bool {
        matches!(instruction, I::SFENCE_VMA { .. }) || self.is_mark(touch)
    }

    /// Whether an access is to the bitmap.
    fn is_mark(&self, touch: Option<Touch>) -> bool {
        let Some((start, size)) = self.layout.marks else { return false };
        touch.is_some_and(|t| t.address.known && within(t.address.bits, start, size.max(8)))
    }

    fn choices_at(&self, state: &State, instruction: I, touch: Option<Touch>) -> Result<Vec<Choice>, Stop> {
        let mut choices = vec![Choice::Go];
        if let Some(touch) = touch.filter(|t| t.address.known) {
            let address = touch.address.bits;
            if let Some(page) = self.page(address) {
                if state.mapped & 1 << page == 0 {
                    return Err(self.broken(state, "only what exists", format!("{address:#x} is not mapped yet")));
                }
                if self.may_be_stale(state, page) {
                    choices.push(Choice::Stale);
                }
            }
        }
        if self.shared(instruction, touch) {
            self.others(state, &mut choices);
        }
        if state.csrs.status & cpu::SIE != 0 && self.nested(state) < self.bounds.depth {
            choices.push(Choice::Interrupt(true));
        }
        Ok(choices)
    }

    /// Whether the hart may use a stale translation of `page` at this instruction.
    fn may_be_stale(&self, state: &State, page: u8) -> bool {
        let harmed = || state.begun[state.task].iter().any(|b| matches!(b, Begun::Trap(trap) if trap.window > 0));
        state.stale & 1 << page != 0 && !(self.bounds.patient && (self.window(state) == 0 || harmed()))
    }

    /// What the other hart may do now.
    fn others(&self, state: &State, choices: &mut Vec<Choice>) {
        if state.other.is_some() {
            choices.push(Choice::Other);
        } else if state.made.count_ones() < u32::from(self.bounds.mappings) {
            // The second page is only told from the first by its turn.
            let pages = [0u8, 1, 2].into_iter().filter(|m| state.made & 1 << m == 0);
            choices.extend(pages.filter(|m| *m < 2 || state.made & 2 != 0).map(Choice::Map));
        }
    }

    fn nested(&self, state: &State) -> u8 {
        state.begun[state.task].iter().filter(|b| matches!(b, Begun::Trap(_))).count() as u8
    }

    fn choices_of_user(&self, state: &State) -> Vec<Choice> {
        let mut choices = vec![Choice::Syscall, Choice::UserFault, Choice::Interrupt(false)];
        self.others(state, &mut choices);
        choices
    }

    fn choices_of_body(&self, state: &State) -> Vec<Choice> {
        let Some(Begun::Body(body)) = state.begun[state.task].last() else { return Vec::new() };
        let mut choices = vec![Choice::Return];
        let own = if state.task == 1 { ON_STACK } else { 0 };
        // C code uses its stack, and what it was told of.
        let reach = if body.descended < 2 { own & 1 } else { own };
        for page in 0..PAGES.len() as u8 {
            let may = state.known & !ON_STACK | reach;
            if may & 1 << page != 0 && self.may_be_stale(state, page) {
                choices.push(Choice::TouchLoad(page));
                choices.push(Choice::TouchStore(page));
                if page >= 2 {
                    choices.push(Choice::TouchFetch(page));
                }
            }
        }
        let enabled = state.csrs.status & cpu::SIE != 0;
        if self.nested(state) < self.bounds.depth {
            choices.extend([Choice::Genuine(false), Choice::Genuine(true), Choice::UserAccess]);
            choices.extend([Choice::Breakpoint, Choice::AccessFault, Choice::Overflow]);
            if enabled {
                choices.extend([Choice::Interrupt(false), Choice::Interrupt(true)]);
            }
        }
        let on_irq_stack = within(body.sp, self.irq_stack_start(), self.stack_size());
        if !enabled && body.frame.is_some() && Some(body.function) != self.layout.irq {
            choices.push(Choice::EnableIrqs);
        }
        if state.task == 1 && body.descended < 2 && !on_irq_stack {
            choices.push(Choice::Descend);
        }
        // What else a sleeping task has begun makes no difference to the entry, so one place is enough.
        let forked = self.layout.fork.contains(&self.function_of(body.back));
        let sleeps = body.frame.is_some() && self.nested(state) == 1 && body.descended == 0 || forked;
        let ready = state.task == 1 || state.known & 1 != 0 && !enabled;
        if ready && sleeps && !on_irq_stack && self.layout.switch.is_some() {
            choices.push(Choice::Switch);
        }
        if Some(body.function) == self.layout.irq && !on_irq_stack && self.layout.irq_stack_call.is_some() {
            choices.push(Choice::IrqStack);
        }
        self.others(state, &mut choices);
        choices
    }

    fn function_of(&self, pc: u64) -> u64 {
        self.image.function(pc).and_then(|name| self.image.symbol(name)).map_or(0, |s| s.0)
    }

    /// Makes a choice.
    pub fn choose(&self, state: &mut State, choice: Choice) -> Option<Stop> {
        self.say(state.pc, || choice.to_string());
        let pc = state.pc;
        match choice {
            Choice::Go => state.granted = true,
            Choice::Stale => return self.stale(state),
            Choice::Interrupt(external) => {
                let cause = cpu::INTERRUPT | if external { 9 } else { 5 };
                return self.trap(state, Kind::Interrupt, cause, 0);
            }
            Choice::Map(mapping) => self.map(state, mapping),
            Choice::Other => return self.other(state),
            Choice::Branch(taken) => self.branch(state, taken),
            Choice::Sc(well) => self.sc(state, well),
            Choice::Return => return self.returns(state),
            Choice::TouchLoad(page) => state.pc = TOUCHES + u64::from(page) * 16,
            Choice::TouchStore(page) => state.pc = TOUCHES + u64::from(page) * 16 + 8,
            Choice::TouchFetch(page) => state.pc = self.page_address(page) + 0x40,
            Choice::Genuine(false) => state.pc = BAD_LOAD,
            Choice::Genuine(true) => state.pc = NOWHERE,
            Choice::UserAccess => return self.trap(state, Kind::Other, cpu::LOAD_FAULT, USER_ADDRESS),
            Choice::Breakpoint => return self.trap(state, Kind::Other, 3, pc),
            Choice::AccessFault => return self.trap(state, Kind::Other, 5, NOWHERE),
            Choice::EnableIrqs => state.csrs.status |= cpu::SIE,
            Choice::Descend => self.descend(state),
            Choice::Overflow => {
                // Into the guard page, where nothing is mapped.
                let stack = self.current_stack(state);
                state.regs.set(cpu::SP, Val::of(stack + 0x10));
                state.pc = BAD_STORE;
            }
            Choice::Switch => return self.switch(state),
            Choice::IrqStack => self.irq_stack(state),
            Choice::Syscall => return self.trap(state, Kind::Other, 8, 0),
            Choice::UserFault => return self.trap(state, Kind::Genuine, cpu::LOAD_FAULT, DATA + 2 * PAGE),
        }
        None
    }

    fn current_stack(&self, state: &State) -> u64 {
        let sp = state.regs.get(cpu::SP).bits;
        if within(sp, self.irq_stack_start(), self.stack_size() + 1) {
            self.irq_stack_start()
        } else {
            self.stack(state.task)
        }
    }

    fn branch(&self, state: &mut State, taken: bool) {
        let Some((instruction, len)) = self.image.decode(state.pc) else { return };
        let offset = match instruction {
            I::BEQ { offset, .. }
            | I::BNE { offset, .. }
            | I::BLT { offset, .. }
            | I::BGE { offset, .. }
            | I::BLTU { offset, .. }
            | I::BGEU { offset, .. } => offset,
            _ => 0,
        };
        let equal = match instruction {
            I::BEQ { rs1, rs2, .. } if taken => Some((rs1, rs2)),
            I::BNE { rs1, rs2, .. } if !taken => Some((rs1, rs2)),
            _ => None,
        };
        if let Some((a, b)) = equal {
            // Compilers go on with either register.
            let (x, y) = (state.regs.get(a), state.regs.get(b));
            let value = if x.known { x } else { y };
            state.regs.set(a, value);
            state.regs.set(b, value);
        }
        state.pc = if taken { state.pc.wrapping_add_signed(i64::from(offset)) } else { state.pc + u64::from(len) };
    }

    fn sc(&self, state: &mut State, well: bool) {
        let Some((I::SC_D { rd, rs1, rs2, .. }, len)) = self.image.decode(state.pc) else { return };
        if well {
            let (address, value) = (state.regs.get(rs1).bits, state.regs.get(rs2));
            View { world: self, words: &mut state.memory }.set_word(address, value);
        }
        state.regs.set(rd, Val::of(u64::from(!well)));
        state.pc += u64::from(len);
    }

    /// A fault because of a stale translation, by the instruction at pc.
    fn stale(&self, state: &mut State) -> Option<Stop> {
        let pc = state.pc;
        let (page, cause, address) = if let Some(page) = self.page(pc) {
            (page, cpu::FETCH_FAULT, pc)
        } else if (TOUCHES..BAD_LOAD).contains(&pc) {
            let page = ((pc - TOUCHES) / 16) as u8;
            let cause = if pc & 8 == 0 { cpu::LOAD_FAULT } else { cpu::STORE_FAULT };
            let within = if page < 2 { PAGE - 0x40 } else { 0x80 };
            (page, cause, self.page_address(page) + within)
        } else {
            let (instruction, _) = self.image.decode(pc)?;
            let touch = cpu::touch(instruction, &state.regs)?;
            let cause = if touch.access == Access::Load { cpu::LOAD_FAULT } else { cpu::STORE_FAULT };
            (self.page(touch.address.bits)?, cause, touch.address.bits)
        };
        self.trap(state, Kind::Spurious(page), cause, address)
    }

    /// In which of the four windows the hart is.
    fn window(&self, state: &State) -> Window {
        if state.user {
            return 0;
        }
        match state.begun[state.task].last() {
            Some(Begun::Trap(trap)) if !trap.handled => {
                if trap.user {
                    4
                } else {
                    1
                }
            }
            Some(Begun::Trap(trap)) if trap.restored => 3,
            _ if state.csrs.scratch != Val::of(0) => 2,
            _ => 0,
        }
    }

    fn trap(&self, state: &mut State, kind: Kind, cause: u64, tval: u64) -> Option<Stop> {
        let window = self.window(state);
        let pc = state.pc;
        if let Kind::Spurious(page) = kind {
            self.note(Event::Fault(page, window));
        }
        self.note(Event::Trap { user: state.user });
        let before = state.csrs.status;
        let status = cpu::status_at_trap(before, state.user);
        let trap = Trap {
            pc,
            user: state.user,
            regs: state.regs,
            status: (before, status),
            scratch: state.csrs.scratch,
            cause,
            tval,
            kind,
            handled: false,
            restored: false,
            window,
            memory: self.protected(state),
        };
        state.csrs.status = status;
        state.csrs.epc = Val::of(pc);
        state.csrs.cause = Val::of(cause);
        state.csrs.tval = Val::of(tval);
        state.user = false;
        state.granted = false;
        state.pc = state.csrs.vec & !3;
        let begun = &mut state.begun[state.task];
        begun.push(Begun::Trap(Box::new(trap)));
        let open = begun.iter().rev().take_while(|b| matches!(b, Begun::Trap(t) if !t.handled)).count();
        if open > 2 {
            return Some(self.broken(
                state,
                "ends",
                "the entry traps again and again before it has saved the registers",
            ));
        }
        None
    }

    /// A hash of what an absorbed fault has to leave alone.
    fn protected(&self, state: &State) -> u64 {
        let mut hasher = FixedState::default().build_hasher();
        for (address, value) in &state.memory {
            let slot = address.wrapping_sub(TASKS[state.task]);
            let other = within(*address, OTHER_STACK, OTHER_SIZE) || within(*address, OTHER_TASK, TASK_SIZE);
            if !self.image.contains(*address) && !other && !self.layout.scratch.contains(&slot) {
                (address, value).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// A jump has been executed at `from`.
    fn jumped(&self, state: &mut State, from: u64, to: u64, instruction: I) -> Option<Stop> {
        match (self.layout.in_sync(from), self.layout.in_sync(to)) {
            (false, true) if state.fencing.is_none() => {
                state.fencing = Some(Box::new((state.regs, state.csrs.status, state.made)))
            }
            (true, false) if !is_call(instruction) => {
                if let Some(stop) = self.after_fence(state, to) {
                    return Some(stop);
                }
            }
            _ => {}
        }
        let (start, end) = self.layout.switch_to;
        if to == start
            && let Some(Begun::Switched(saved @ None, _)) = state.begun[state.task].last_mut()
        {
            let mut regs = Regs::ZERO;
            for register in (1..32).filter(|r| cpu::is_saved(*r) || *r == cpu::RA) {
                // What the scheduler left there does not matter, as long as it is kept.
                if !matches!(register, cpu::RA..=cpu::S0) {
                    state.regs.set(register, name(0x44 + state.task as u64, register));
                }
                regs.set(register, state.regs.get(register));
            }
            *saved = Some(Box::new(regs));
            return None;
        }
        if (start..end).contains(&from) && matches!(instruction, I::JALR { rd: 0, .. }) {
            return self.switched(state);
        }
        None
    }

    /// What must hold when what fences at a switch has returned to `to`.
    fn after_fence(&self, state: &mut State, to: u64) -> Option<Stop> {
        let (before, status, made) = *state.fencing.take()?;
        if self.is_genuine(state) == Some(false) && made == state.made && state.other.is_none() {
            return Some(self.broken(state, "own bit", "what fences at a switch leaves the mark of its hart"));
        }
        if to != before.get(cpu::RA).bits {
            return Some(self.broken(state, "control", "what fences at a switch returns to a wrong place"));
        }
        // A switch has interrupts disabled.
        if state.csrs.status & cpu::SIE != 0 {
            return Some(self.broken(state, "sstatus", "what fences at a switch enables interrupts"));
        }
        if state.csrs.status != status {
            return Some(self.broken(state, "sstatus", "what fences at a switch changes sstatus"));
        }
        let register = changed(&before, &state.regs)?;
        Some(self.broken(state, "registers", format!("what fences at a switch changes {register}")))
    }

    /// `__switch_to` has returned.
    fn switched(&self, state: &mut State) -> Option<Stop> {
        let new = 1 - state.task;
        if !matches!(state.begun[state.task].last(), Some(Begun::Switched(Some(_), _))) {
            return Some(self.broken(state, "control", "__switch_to returns, but nobody has called it"));
        }
        // The scheduler's own frames are gone from the stack when the task goes on.
        let (own, size) = (self.stack(state.task), self.stack_size());
        let sp = state.begun[state.task].iter().rev().find_map(|b| match b {
            Begun::Body(body) => Some(body.sp),
            _ => None,
        });
        if let Some(sp) = sp.filter(|sp| within(*sp, own, size)) {
            state.memory.retain(|address, _| !within(*address, own, size) || *address >= sp);
        }
        state.task = new;
        self.forget_tasks(state);
        if state.regs.get(cpu::TP) != Val::of(TASKS[new]) {
            return Some(self.broken(state, "tp is the task", "__switch_to returns, and tp is not the new task"));
        }
        if let Some(Begun::Switched(saved, irqs)) = state.begun[new].last().cloned() {
            let Some(saved) = saved else {
                return Some(self.broken(state, "control", "a task goes on that did not stop"));
            };
            for register in (1..32).filter(|r| cpu::is_saved(*r) && *r != cpu::TP && *r != cpu::GP) {
                if state.regs.get(register) != saved.get(register) {
                    return Some(self.broken(
                        state,
                        "registers",
                        format!("__switch_to changes {}", cpu::NAMES[register as usize]),
                    ));
                }
            }
            if state.pc != saved.get(cpu::RA).bits {
                return Some(self.broken(state, "control", "__switch_to returns to a wrong place"));
            }
            state.begun[new].pop();
            self.body(state, irqs);
            return None;
        }
        // A task that has not run yet: its registers are what the fork left.
        if !self.layout.fork.contains(&state.pc) {
            return Some(self.broken(state, "control", "a new task starts at a wrong place"));
        }
        let frame = self.top(new) - self.layout.frame;
        if state.regs.get(cpu::SP) != Val::of(frame) {
            return Some(self.broken(state, "registers", "a new task starts with a wrong sp"));
        }
        None
    }

    /// Drops what the scheduler does not look at any more, so that its branches come together again.
    fn settle(&self, state: &mut State) {
        let Some(live) = self.layout.switch.as_ref().and_then(|s| s.live.get(&state.pc)) else { return };
        for register in (1..32).filter(|r| live & 1 << r == 0) {
            state.regs.set(register, name(0x43, register));
        }
        self.forget_tasks(state);
    }

    /// Drops what the scheduler stores in task_structs and the entry does not look at.
    fn forget_tasks(&self, state: &mut State) {
        let layout = self.layout;
        let known = |offset: u64| {
            layout.scratch.contains(&offset)
                || [Some(layout.cpu), layout.word, layout.saved_sum].contains(&Some(offset))
                || layout.saved.values().any(|o| *o == offset)
                || layout.switch.as_ref().and_then(|s| s.prev_cpu).is_some_and(|o| o & !7 == offset)
                || offset == layout.cpu & !7
        };
        state
            .memory
            .retain(|address, _| TASKS.iter().all(|task| !within(*address, *task, TASK_SIZE) || known(address - task)));
    }

    /// Makes the registers what they are in the middle of a C function.
    fn body(&self, state: &mut State, irqs: bool) {
        let depth = state.begun[state.task].len() as u64;
        let Some(Begun::Body(body)) = state.begun[state.task].last() else { return };
        let sp = body.sp;
        let gp = body.at_entry.get(cpu::GP);
        for register in 1..32 {
            state.regs.set(register, name(0x10 + depth, register));
        }
        state.regs.set(cpu::SP, Val::of(sp));
        state.regs.set(cpu::GP, gp);
        state.regs.set(cpu::TP, Val::of(TASKS[state.task]));
        if irqs {
            state.csrs.status |= cpu::SIE;
        } else {
            state.csrs.status &= !cpu::SIE;
        }
        // Trap CSRs hold nothing that C code needs.
        for csr in [&mut state.csrs.epc, &mut state.csrs.cause, &mut state.csrs.tval] {
            *csr = Val::named(4);
        }
        state.csrs.status &= !(cpu::SPP | cpu::SPIE);
        self.forget(state, Some(sp));
        state.pc = BODY;
        state.granted = false;
    }

    /// Drops what is below the stack pointer, and what the entry has left in its slots.
    fn forget(&self, state: &mut State, sp: Option<u64>) {
        let size = self.stack_size();
        let own = self.stack(state.task);
        let irq = sp.is_some_and(|sp| within(sp, self.irq_stack_start(), size));
        let limit = match sp {
            Some(sp) if !irq => sp,
            // On the IRQ stack, the task's own stack is in use further up.
            Some(_) => own,
            None => own + size,
        };
        let irq_limit = if irq { sp.unwrap_or(self.irq_stack_start()) } else { self.irq_stack_start() + size };
        state.memory.retain(|address, _| {
            !(within(*address, own, size) && *address < limit
                || within(*address, self.irq_stack_start(), size) && *address < irq_limit)
        });
        // While sscratch holds the task, the return to user mode still needs its slot.
        let free = state.csrs.scratch == Val::of(0);
        for offset in &self.layout.scratch {
            if free || *offset != self.layout.kernel_sp {
                state.memory.insert(TASKS[state.task] + offset, spread(0x5c0 + offset));
            }
        }
    }

    fn at_user(&self, state: &mut State) {
        for csr in [&mut state.csrs.epc, &mut state.csrs.cause, &mut state.csrs.tval] {
            *csr = Val::named(4);
        }
        self.forget(state, None);
        state.granted = false;
    }

    /// The hart jumps to C code, or calls it.
    fn called(&self, state: &mut State, target: u64) -> Option<Stop> {
        let back = state.regs.get(cpu::RA);
        if self.quiet(state, back) {
            if let Some(stop) = self.called_unmarked(state, back, target) {
                return Some(stop);
            }
            // C code on the way to a switch. What it may do it may do before, too.
            for register in (1..32).filter(|r| !cpu::is_saved(*r)) {
                state.regs.set(register, Val::named(target ^ u64::from(register) ^ 0x7175_6965));
            }
            state.pc = back.bits;
            return None;
        }
        if target != ON_IRQ_STACK && !self.image.contains(target) {
            return Some(self.broken(state, "control", format!("a jump to {target:#x}, where no code is")));
        }
        self.say(target, || {
            format!(
                "calls {}",
                if target == ON_IRQ_STACK {
                    "a function on the IRQ stack".to_owned()
                } else {
                    self.image.place(target)
                }
            )
        });
        let layout = self.layout;
        let is_handler =
            Some(target) == layout.irq || layout.handlers.contains(&target) || Some(target) == layout.bad_stack;
        let open = matches!(state.begun[state.task].last(), Some(Begun::Trap(t)) if !t.handled);
        let mut frame = None;
        if is_handler {
            if !open {
                return Some(self.broken(
                    state,
                    "control",
                    format!("{} is called without a trap", self.image.place(target)),
                ));
            }
            if let Some(stop) = self.handler(state, target) {
                return Some(stop);
            }
            frame = Some(state.regs.get(cpu::A0).bits);
        }
        if state.regs.get(cpu::TP) != Val::of(TASKS[state.task]) {
            return Some(self.broken(state, "tp is the task", "C code is called, and tp is not the current task"));
        }
        let sp = state.regs.get(cpu::SP);
        let on_stack = |base: u64| within(sp.bits.wrapping_sub(1), base, self.stack_size());
        if !sp.known || sp.bits & 15 != 0 || !on_stack(self.stack(state.task)) && !on_stack(self.irq_stack_start()) {
            return Some(self.broken(state, "registers", "C code is called with a wrong sp"));
        }
        if !back.known || !layout.interprets(back.bits) {
            return Some(self.broken(state, "control", "C code is called, and cannot return"));
        }
        let name = self.image.name_at(target).unwrap_or_default();
        let irqs = state.csrs.status & cpu::SIE != 0;
        // schedule_tail() ends with interrupts enabled; what returns to user mode, or from a trap, does not.
        let to_user = name.starts_with("ret_from_fork") || name.ends_with("exit_to_user_mode");
        let irqs_at_return = name == "schedule_tail" || irqs && !is_handler && !to_user;
        let body = Body {
            back: back.bits,
            at_entry: kept(&state.regs),
            sp: sp.bits - 0x80,
            descended: 0,
            function: target,
            frame,
            irqs_at_return,
        };
        state.begun[state.task].push(Begun::Body(Box::new(body)));
        self.body(state, irqs);
        None
    }

    /// What fences at a switch calls C code when the mark is gone and the fence has not been reached. A tracer, or kcov,
    /// that touches there what the hart does not see yet takes a fault that counts as genuine.
    fn called_unmarked(&self, state: &State, back: Val, target: u64) -> Option<Stop> {
        if !self.layout.in_sync(back.bits) || self.is_genuine(state) != Some(true) || state.known & state.stale == 0 {
            return None;
        }
        let what = format!("{} is called when the mark is gone, before the fence", self.image.place(target));
        Some(self.broken(state, "spurious faults are absorbed", what))
    }

    /// Whether the hart's next page fault on a kernel address would be taken for a genuine one, if that is known.
    fn is_genuine(&self, state: &State) -> Option<bool> {
        let (word, bit) = self.own_mark(state.cpu)?;
        let word = self.word(&state.memory, word).filter(|word| word.known)?;
        Some((word.bits & bit == 0) == self.layout.set_is_marked)
    }

    /// Whether C code that returns to `back` is on the way to a switch.
    fn quiet(&self, state: &State, back: Val) -> bool {
        let switch = self.layout.switch.as_ref();
        matches!(state.begun[state.task].last(), Some(Begun::Switched(None, _)))
            && back.known
            && (switch.is_some_and(|s| s.code.contains(&back.bits)) || self.layout.in_sync(back.bits))
    }

    /// A handler of traps is called: everything must be where it belongs.
    fn handler(&self, state: &mut State, target: u64) -> Option<Stop> {
        let layout = self.layout;
        let Some(Begun::Trap(trap)) = state.begun[state.task].last().cloned() else { return None };
        let frame = state.regs.get(cpu::A0);
        if trap.kind != Kind::Interrupt && matches!(trap.kind, Kind::Spurious(_)) && !trap.user {
            let Kind::Spurious(page) = trap.kind else { return None };
            let what = format!("a stale translation of {} is taken for a genuine fault", PAGES[usize::from(page)]);
            return Some(self.broken(state, "spurious faults are absorbed", what));
        }
        let overflow = !trap.user && {
            let stack = if within(trap.regs.get(cpu::SP).bits, self.irq_stack_start(), self.stack_size()) {
                self.irq_stack_start()
            } else {
                self.stack(state.task)
            };
            layout.shift.is_some() && trap.regs.get(cpu::SP).bits < stack + layout.frame
        };
        if Some(target) == layout.bad_stack {
            if !overflow {
                return Some(self.broken(state, "control", "a trap is taken for a stack overflow"));
            }
        } else if overflow {
            return Some(self.broken(state, "control", "a stack overflow is not noticed"));
        }
        let from = if trap.user { self.top(state.task) } else { trap.regs.get(cpu::SP).bits };
        if !overflow && frame != Val::of(from - layout.frame) {
            return Some(self.broken(state, "pt_regs", "pt_regs are not where they should be"));
        }
        let words = |at: u64| self.word(&state.memory, frame.bits.wrapping_add(at));
        for register in 1..32 {
            let found = words(u64::from(register) * 8);
            // On a stack overflow the kernel does not know tp.
            if found != Some(trap.regs.get(register)) && !(overflow && register == cpu::TP) {
                return Some(self.broken(
                    state,
                    "pt_regs",
                    format!("pt_regs have a wrong {}", cpu::NAMES[register as usize]),
                ));
            }
        }
        for (offset, value, name) in [
            (0, trap.pc, "epc"),
            (0x100, trap.status.1, "status"),
            (0x108, trap.tval, "badaddr"),
            (0x110, trap.cause, "cause"),
        ] {
            if words(offset) != Some(Val::of(value)) {
                return Some(self.broken(state, "pt_regs", format!("pt_regs have a wrong {name}")));
            }
        }
        if overflow {
            return Some(Stop::End);
        }
        let right = match trap.cause & cpu::INTERRUPT {
            0 => layout.handlers.get(trap.cause as usize).copied(),
            _ => layout.irq,
        };
        if right != Some(target) {
            return Some(self.broken(
                state,
                "control",
                format!("cause {:#x} is handled by {}", trap.cause, self.image.place(target)),
            ));
        }
        if state.csrs.scratch != Val::of(0) {
            return Some(self.broken(state, "sscratch is 0 in the kernel", "C code is called, and sscratch is not 0"));
        }
        if state.csrs.status & (cpu::SIE | cpu::SUM | cpu::FS | cpu::VS) != 0 {
            return Some(self.broken(state, "sstatus", "C code is called with interrupts, user access or FP enabled"));
        }
        if layout.gp.is_some_and(|gp| state.regs.get(cpu::GP) != Val::of(gp)) {
            return Some(self.broken(state, "registers", "C code is called with a wrong gp"));
        }
        if let Some(Begun::Trap(trap)) = state.begun[state.task].last_mut() {
            trap.handled = true;
            // Only an absorbed fault is held to it.
            trap.memory = 0;
        }
        None
    }

    /// A C function returns.
    fn returns(&self, state: &mut State) -> Option<Stop> {
        let task = state.task;
        let Some(Begun::Body(body)) = state.begun[task].pop() else { return Some(Stop::End) };
        for register in 1..32 {
            let value = if cpu::is_saved(register) { body.at_entry.get(register) } else { name(9, register) };
            state.regs.set(register, value);
        }
        state.pc = body.back;
        let irqs = body.irqs_at_return;
        state.csrs.status = state.csrs.status & !cpu::SIE | if irqs { cpu::SIE } else { 0 };
        // A fault in C code has been repaired, or jumped over.
        if let (Some(frame), Some(Begun::Trap(trap))) = (body.frame, state.begun[task].last_mut())
            && !trap.user
            && trap.kind != Kind::Interrupt
        {
            trap.pc = BODY;
            state.memory.insert(frame, Val::of(BODY));
        }
        None
    }

    fn descend(&self, state: &mut State) {
        let frame = self.layout.frame;
        let boundary = self.top(1) - PAGE;
        let enabled = state.csrs.status & cpu::SIE != 0;
        if let Some(Begun::Body(body)) = state.begun[state.task].last_mut() {
            body.descended += 1;
            // So far that the next frame crosses the boundary; then all the way.
            let new = if body.descended == 1 { (boundary + frame / 2) & !15 } else { boundary - 0x40 };
            body.sp = new.min(body.sp);
        }
        self.body(state, enabled);
    }

    /// C code touches a page, at a made-up pc.
    fn touched(&self, state: &mut State) -> Option<Stop> {
        let page = ((state.pc - TOUCHES) / 16) as u8;
        if self.may_be_stale(state, page) && !state.granted {
            let mut choices = vec![Choice::Go, Choice::Stale];
            self.others(state, &mut choices);
            return Some(Stop::Choose(choices));
        }
        self.note(Event::Used(page));
        state.granted = false;
        state.pc = BODY;
        None
    }

    /// C code has jumped to a page that is new.
    fn in_new_text(&self, state: &mut State, page: u8) -> Option<Stop> {
        if !matches!(state.begun[state.task].last(), Some(Begun::Body(_))) || state.mapped & 1 << page == 0 {
            return Some(self.broken(state, "control", "a jump to where no code is"));
        }
        if self.may_be_stale(state, page) && !state.granted {
            return Some(Stop::Choose(vec![Choice::Go, Choice::Stale]));
        }
        self.note(Event::Used(page));
        state.granted = false;
        state.pc = BODY;
        None
    }

    fn sret(&self, state: &mut State) -> Option<Stop> {
        let (task, epc, status) = (state.task, state.csrs.epc, state.csrs.status);
        let user = status & cpu::SPP == 0;
        let Some(Begun::Trap(trap)) = state.begun[task].last().cloned() else {
            return Some(self.broken(state, "control", "sret without a trap"));
        };
        let pc = state.pc;
        let mode = |user: bool| if user { "user" } else { "supervisor" };
        if user != trap.user {
            return Some(self.broken(
                state,
                "mode",
                format!("sret returns to {} mode, the trap came from {} mode", mode(user), mode(trap.user)),
            ));
        }
        if epc != Val::of(trap.pc) {
            return Some(self.broken(
                state,
                "control",
                format!(
                    "sret returns to {}, the trap came from {}",
                    self.image.place(epc.bits),
                    self.image.place(trap.pc)
                ),
            ));
        }
        for register in 1..32 {
            if state.regs.get(register) != trap.regs.get(register) {
                return Some(self.broken(
                    state,
                    "registers",
                    format!("sret returns with a wrong {}", cpu::NAMES[register as usize]),
                ));
            }
        }
        let after = cpu::status_after_sret(status);
        let kept = cpu::SIE | cpu::SUM | cpu::FS | cpu::VS;
        // In user mode interrupts are enabled whatever SIE says.
        let kept = if user { kept & !cpu::SIE } else { kept };
        if (after ^ trap.status.0) & kept != 0 {
            return Some(self.broken(
                state,
                "sstatus",
                format!("sret returns with sstatus {after:#x} in place of {:#x}", trap.status.0),
            ));
        }
        let scratch = if trap.handled { Val::of(if user { TASKS[task] } else { 0 }) } else { trap.scratch };
        if state.csrs.scratch != scratch {
            return Some(self.broken(state, "sscratch", "sret returns with a wrong sscratch"));
        }
        if user {
            let top = self.word(&state.memory, TASKS[task] + self.layout.kernel_sp);
            if top != Some(Val::of(self.top(task))) {
                return Some(self.broken(
                    state,
                    "thread_info",
                    "kernel_sp is not the top of the stack on return to user mode",
                ));
            }
        }
        if !trap.handled {
            if matches!(trap.kind, Kind::Interrupt | Kind::Other) {
                return Some(self.broken(
                    state,
                    "only page faults on kernel addresses",
                    format!("a trap with cause {:#x} is retried", trap.cause),
                ));
            }
            if self.protected(state) != trap.memory {
                return Some(self.broken(state, "memory", "an absorbed fault has changed the stack or thread_info"));
            }
            state.retries += 1;
            if state.retries > 2 {
                return Some(self.broken(state, "ends", "faults are retried again and again without an announcement"));
            }
            self.say(pc, || "sret: the fault is absorbed".to_owned());
        } else {
            self.say(pc, || format!("sret: back in {} mode", mode(user)));
        }
        state.begun[task].pop();
        // A trap that was absorbed in a window may have done harm that shows later.
        if let Some(Begun::Trap(outer)) = state.begun[task].last_mut() {
            outer.window = outer.window.max(trap.window);
        }
        state.csrs.status = after;
        state.pc = trap.pc;
        state.user = user;
        if user {
            state.csrs.status = USER_STATUS;
            self.at_user(state);
        } else if trap.pc == BODY {
            let irqs = after & cpu::SIE != 0;
            self.body(state, irqs);
        }
        None
    }

    /// C code switches to the other task, or the interrupted return of it.
    fn switch(&self, state: &mut State) -> Option<Stop> {
        let switch = self.layout.switch.as_ref()?;
        let irqs = state.csrs.status & cpu::SIE != 0;
        let (task, new) = (state.task, 1 - state.task);
        let sp = state.regs.get(cpu::SP).bits - 0x180;
        for register in 1..32 {
            state.regs.set(register, name(0x40 + task as u64, register));
        }
        let gp = self.layout.gp.map_or(name(0x41, 3), Val::of);
        for (register, value) in [
            (cpu::SP, Val::of(sp)),
            (cpu::S0, Val::of(sp + 0x180)),
            (cpu::GP, gp),
            (cpu::TP, Val::of(TASKS[task])),
            (switch.prev, Val::of(TASKS[task])),
            (switch.next, Val::of(TASKS[new])),
        ] {
            state.regs.set(register, value);
        }
        state.csrs.status &= !cpu::SIE;
        state.begun[task].push(Begun::Switched(None, irqs));
        state.pc = switch.start;
        None
    }

    /// do_irq() calls call_on_irq_stack().
    fn irq_stack(&self, state: &mut State) {
        let Some(at) = self.layout.irq_stack_call else { return };
        state.regs.set(cpu::RA, Val::of(FROM_IRQ_STACK));
        state.regs.set(cpu::A1, Val::of(ON_IRQ_STACK));
        state.begun[state.task].push(Begun::IrqStack(Box::new(kept(&state.regs))));
        state.pc = at;
    }

    fn back_from_irq_stack(&self, state: &mut State) -> Option<Stop> {
        let Some(Begun::IrqStack(regs)) = state.begun[state.task].pop() else {
            return Some(self.broken(state, "control", "call_on_irq_stack() returns, but nobody has called it"));
        };
        for register in (1..32).filter(|r| cpu::is_saved(*r)) {
            if state.regs.get(register) != regs.get(register) {
                return Some(self.broken(
                    state,
                    "registers",
                    format!("call_on_irq_stack() changes {}", cpu::NAMES[register as usize]),
                ));
            }
        }
        self.body(state, false);
        None
    }

    /// The registers of the other hart where it calls flush_cache_vmap(), but for arguments and return address.
    fn regs_of_other(&self) -> Regs {
        let mut regs = Regs::ZERO;
        for register in 1..32 {
            regs.set(register, name(0x60, register));
        }
        for (register, value) in
            [(cpu::SP, OTHER_STACK + OTHER_SIZE - 0x100), (cpu::GP, self.layout.gp.unwrap_or(0)), (cpu::TP, OTHER_TASK)]
        {
            regs.set(register, Val::of(value));
        }
        regs
    }

    /// The other hart stores PTEs. From now on they are there, and this hart may not know it.
    fn map(&self, state: &mut State, mapping: u8) {
        let pages = Self::pages_of(mapping);
        state.made |= 1 << mapping;
        state.mapped |= pages;
        // Stacks in the linear map have always been there.
        if mapping != 0 || self.layout.shift.is_some() {
            state.stale |= pages;
        }
        state.retries = 0;
        let mut regs = self.regs_of_other();
        let start = if mapping == 0 { self.stack(1) } else { self.page_address(mapping + 1) };
        let end = if mapping == 0 { self.top(1) } else { start + PAGE };
        for (register, value) in [(cpu::RA, OTHER_DONE), (cpu::A0, start), (cpu::A1, end)] {
            regs.set(register, Val::of(value));
        }
        let pc = self.layout.announce.map_or(OTHER_MARKS, |(start, _)| start);
        state.other = Some(Other { mapping, regs, pc, guessed: false });
    }

    /// The other hart executes up to and including its next access to what is shared.
    fn other(&self, state: &mut State) -> Option<Stop> {
        let mut other = state.other.take()?;
        let pages = Self::pages_of(other.mapping);
        for _ in 0..2000 {
            let pc = other.pc;
            if pc == OTHER_DONE {
                if let Some(stop) = self.after_announcement(state, &other) {
                    return Some(stop);
                }
                self.say(pc, || "the other hart has announced the mapping, and passes its address on".to_owned());
                state.known |= pages;
                state.retries = 0;
                state.memory.retain(|address, _| !within(*address, OTHER_STACK, OTHER_SIZE));
                self.others_fence(state);
                return None;
            }
            if pc == OTHER_MARKS {
                if let Some((start, size)) = self.layout.marks {
                    for word in (start..start + size).step_by(8) {
                        state.memory.insert(word, Val::of(u64::MAX));
                    }
                }
                other.pc = OTHER_DONE;
                state.other = Some(other);
                return None;
            }
            if !self.layout.announce.is_some_and(|(start, end)| (start..end).contains(&pc)) {
                other.guessed = true;
                return self.other_calls(state, other);
            }
            let Some((instruction, len)) = self.image.decode(pc) else {
                return Some(Stop::Unknown(format!(
                    "{}: an instruction that the decoder does not know",
                    self.image.place(pc)
                )));
            };
            let touch = cpu::touch(instruction, &other.regs);
            let mut csrs = state.csrs;
            let mut view = View { world: self, words: &mut state.memory };
            let strict = self.layout.marks.is_some();
            let next = cpu::execute(instruction, (pc, len), &mut other.regs, &mut csrs, &mut view, !strict);
            other.pc = match next {
                Ok(Next::Jump(to)) if to.known => to.bits,
                // No value is unknown that matters here; go the way that does more.
                Ok(Next::Either(_)) if strict && !other.guessed => {
                    return Some(self.broken(
                        state,
                        "control",
                        "flush_cache_vmap() depends on what it does not control",
                    ));
                }
                Ok(Next::Either(_)) => {
                    other.guessed = true;
                    pc + u64::from(len)
                }
                Ok(Next::Fence(_) | Next::On | Next::Wrote(_)) => pc + u64::from(len),
                Ok(Next::Jump(_)) => {
                    return Some(self.broken(state, "control", "flush_cache_vmap() jumps through an unknown register"));
                }
                Ok(other) => {
                    return Some(Stop::Unknown(format!("{}: {other:?} on the other hart", self.image.place(pc))));
                }
                Err(why) if touch.is_some() => {
                    return Some(self.broken(state, "only what exists", format!("flush_cache_vmap(): {why}")));
                }
                Err(why) => return Some(Stop::Unknown(format!("{}: {why}", self.image.place(pc)))),
            };
            let end = self.layout.announce.map_or(0, |(_, end)| end);
            if other.pc == pc + u64::from(len) && other.pc >= end {
                return Some(self.broken(state, "control", "flush_cache_vmap() runs off its end"));
            }
            let own = |address| within(address, OTHER_STACK, OTHER_SIZE) || within(address, OTHER_TASK, TASK_SIZE);
            if self.layout.marks.is_some()
                && touch.is_some_and(|t| t.access != Access::Load && !own(t.address.bits))
                && !self.is_mark(touch)
            {
                return Some(self.broken(state, "memory", "flush_cache_vmap() stores outside of the bitmap"));
            }
            if self.is_mark(touch) {
                self.say(pc, || format!("the other hart: {instruction}"));
                state.other = Some(other);
                return None;
            }
        }
        Some(self.broken(state, "ends", "flush_cache_vmap() does not end"))
    }

    /// Some of the harts that do nothing here have fenced, and said so in the bitmap.
    fn others_fence(&self, state: &mut State) {
        let Some((at, bit)) = self.own_mark(state.cpu) else { return };
        let Some(word) = self.word(&state.memory, at).filter(|word| word.known) else { return };
        let fenced = OTHER_BITS & !bit;
        let new = if self.layout.set_is_marked { word.bits & !fenced } else { word.bits | fenced };
        state.memory.insert(at, Val::of(new));
    }

    /// What must hold when flush_cache_vmap() has returned: its caller's registers are as before, and the bits of
    /// all other harts are alike.
    fn after_announcement(&self, state: &State, other: &Other) -> Option<Stop> {
        if let Some(register) = changed(&self.regs_of_other(), &other.regs) {
            return Some(self.broken(state, "registers", format!("flush_cache_vmap() changes {register}")));
        }
        // By contract, if it is not interpreted.
        self.layout.announce.filter(|_| !other.guessed)?;
        let (first, size) = self.layout.marks?;
        let (own_word, bit) = self.own_mark(state.cpu)?;
        for at in (first..=own_word).step_by(8).take_while(|at| *at < first + size) {
            let own = if at == own_word { bit } else { 0 };
            let word = self.word(&state.memory, at)?;
            if !word.known || ![0, !own].contains(&(word.bits & !own)) {
                return Some(self.broken(state, "all harts", "flush_cache_vmap() has left out a hart"));
            }
        }
        None
    }

    /// The other hart calls C code from flush_cache_vmap(). What it calls may be traced, and the tracer may
    /// touch the mapping on any hart.
    fn other_calls(&self, state: &mut State, mut other: Other) -> Option<Stop> {
        if !self.image.contains(other.pc) {
            return Some(self.broken(state, "control", "flush_cache_vmap() jumps to where no code is"));
        }
        let pages = Self::pages_of(other.mapping);
        let name = self.image.name_at(other.pc).unwrap_or_default().to_owned();
        if state.known & pages != pages & !ON_STACK && other.mapping != 0 {
            self.say(other.pc, || {
                format!("the other hart calls {name}(), which can be traced: a tracer passes the address on")
            });
            state.known |= pages;
            state.other = Some(other);
            return None;
        }
        if name.contains("flush_tlb") {
            self.say(other.pc, || format!("{name}() has made every hart fence"));
            state.stale &= !pages;
            self.note(Event::Fence);
        }
        let back = other.regs.get(cpu::RA);
        if !back.known {
            return Some(self.broken(state, "control", "flush_cache_vmap() calls a function that cannot return"));
        }
        for register in (1..32).filter(|r| !cpu::is_saved(*r)) {
            other.regs.set(register, name_of_call(register));
        }
        other.pc = back.bits;
        state.other = Some(other);
        None
    }
}

fn name_of_call(register: u32) -> Val {
    name(0x61, register)
}

fn user_regs(task: u64) -> Regs {
    let mut regs = Regs::ZERO;
    for register in 1..32 {
        regs.set(register, name(2 + task, register));
    }
    regs
}
