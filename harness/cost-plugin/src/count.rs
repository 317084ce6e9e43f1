// SPDX-License-Identifier: GPL-2.0-only
//! What is counted, independent of QEMU.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::Range;

/// `sstatus.SPP`: the trap came from supervisor mode.
const SPP: u64 = 1 << 8;
/// Addresses from here on are the kernel's.
const KERNEL: u64 = 1 << 63;
/// Longest frame that `flush_cache_vmap()` may have on the stack, in bytes.
const FRAME: u64 = 256;

/// The parsed arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `handle_exception`.
    pub entry: Range<u64>,
    /// `__schedule()`, which switches to the next task.
    pub switch: Range<u64>,
    /// `__switch_to`, which `__schedule()` calls last.
    pub switched: u64,
    /// `flush_cache_vmap()`.
    pub announce: Range<u64>,
    /// The bitmap of marks, if the kernel has one.
    pub marks: Option<Range<u64>>,
    /// Functions that disturb another hart.
    pub sends: Vec<u64>,
    /// The file with the counts.
    pub out: String,
}

impl Arguments {
    /// Reads `NAME=VALUE` words.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut all = Self::default();
        let mut missing = vec!["entry", "switch", "switched", "announce", "sends", "out"];
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is not NAME=VALUE"))?;
            match name {
                "entry" => all.entry = range(value)?,
                "switch" => all.switch = range(value)?,
                "switched" => all.switched = address(value)?,
                "announce" => all.announce = range(value)?,
                "marks" => all.marks = Some(range(value)?),
                "sends" => all.sends = value.split('+').map(address).collect::<Result<_, _>>()?,
                "out" if !value.is_empty() => value.clone_into(&mut all.out),
                _ => return Err(format!("unknown argument `{word}`")),
            }
            missing.retain(|m| *m != name);
        }
        if missing.is_empty() { Ok(all) } else { Err(format!("no argument {}", missing.join(", "))) }
    }
}

pub(crate) fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("`{text}` is not an address"))
}

pub(crate) fn range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once(':').ok_or_else(|| format!("`{text}` is not START:END"))?;
    let range = address(start)?..address(end)?;
    if range.is_empty() { Err(format!("`{text}` is empty")) } else { Ok(range) }
}

/// How the trap entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It called a handler; that call is counted.
    Handler,
    /// It returned from the trap; that `sret` is counted.
    Sret,
}

/// Something that happened, in every detail that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A trap into the trap entry.
    Trap {
        /// `scause`.
        cause: u64,
        /// It came from supervisor mode.
        from_kernel: bool,
        /// `stval` is an address of the kernel.
        kernel_address: bool,
        /// How the entry ended.
        end: End,
        /// Instructions executed in it.
        instructions: u64,
    },
    /// A context switch, from the entry of `__schedule()` to that of `__switch_to`.
    Switch {
        /// Instructions executed in `__schedule()` itself.
        instructions: u64,
    },
    /// A `flush_cache_vmap()`, up to its return.
    Announce {
        /// Every hart was marked before; unknown without a bitmap.
        marked: Option<bool>,
        /// Instructions executed in the function itself.
        instructions: u64,
        /// Stores executed in the function itself, except those to its frame on the stack.
        stores: u64,
        /// How often it disturbed another hart.
        sends: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Trap { cause, from_kernel, kernel_address, end, instructions } => {
                let from = if from_kernel { "kernel" } else { "user" };
                let address = if kernel_address { "kernel" } else { "user" };
                let end = if end == End::Sret { "sret" } else { "handler" };
                write!(f, "trap cause={cause:x} from={from} address={address} end={end} instructions={instructions}")
            }
            Self::Switch { instructions } => write!(f, "switch instructions={instructions}"),
            Self::Announce { marked, instructions, stores, sends } => {
                let marked = marked.map_or("unknown", |m| if m { "yes" } else { "no" });
                write!(f, "announce marked={marked} instructions={instructions} stores={stores} sends={sends}")
            }
        }
    }
}

/// How often each thing happened.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    events: BTreeMap<Event, u64>,
    cut_short: u64,
}

impl Counts {
    /// Adds those of another hart.
    pub fn add(&mut self, other: &Self) {
        for (event, times) in &other.events {
            *self.events.entry(*event).or_default() += times;
        }
        self.cut_short += other.cut_short;
    }

    /// The file: a line per event, and a last line that shows that the file is complete.
    pub fn text(&self) -> String {
        let mut text = "lazymap-cost 1\n".to_owned();
        for (event, times) in &self.events {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{event} times={times}");
        }
        let _ = writeln!(text, "end cut-short={}", self.cut_short);
        text
    }
}

/// A trap entry in progress.
#[derive(Clone, Copy, Debug)]
struct Trap {
    cause: u64,
    from_kernel: bool,
    kernel_address: bool,
    instructions: u64,
}

/// A `flush_cache_vmap()` in progress.
#[derive(Clone, Copy, Debug)]
struct Announce {
    marked: Option<bool>,
    back: u64,
    stack: u64,
    instructions: u64,
    stores: u64,
    sends: u64,
}

/// What a hart is in the middle of, and what it has done so far.
///
/// Whatever a trap interrupts is not counted: only undisturbed executions are.
#[derive(Clone, Debug, Default)]
pub struct Hart {
    trap: Option<Trap>,
    switch: Option<u64>,
    announce: Option<Announce>,
    /// What it did.
    pub counts: Counts,
}

impl Hart {
    /// Whether it is in the middle of something.
    pub fn active(&self) -> bool {
        self.trap.is_some() || self.switch.is_some() || self.announce.is_some()
    }

    /// It is about to execute the first instruction of the trap entry, with these CSRs.
    pub fn trap(&mut self, cause: u64, status: u64, tval: u64) {
        let under_way = u64::from(self.trap.is_some()) + u64::from(self.switch.is_some());
        self.counts.cut_short += under_way + u64::from(self.announce.is_some());
        (self.switch, self.announce) = (None, None);
        let (from_kernel, kernel_address) = (status & SPP != 0, tval >= KERNEL);
        self.trap = Some(Trap { cause, from_kernel, kernel_address, instructions: 0 });
    }

    /// It is about to execute the first instruction of `__schedule()`. Forgets a `__schedule()` that
    /// found no other task to switch to.
    pub fn switch(&mut self) {
        self.switch = Some(0);
    }

    /// It is about to execute the first instruction of `flush_cache_vmap()`, with these registers.
    pub fn announce(&mut self, marked: Option<bool>, back: u64, stack: u64) {
        self.announce = Some(Announce { marked, back, stack, instructions: 0, stores: 0, sends: 0 });
    }

    /// It is about to execute an instruction of the trap entry.
    pub fn in_entry(&mut self, sret: bool) {
        let Some(trap) = &mut self.trap else { return };
        trap.instructions += 1;
        if sret {
            self.end_trap(End::Sret);
        }
    }

    /// It is about to execute an instruction of `__schedule()`.
    pub fn in_switch(&mut self) {
        self.switch = self.switch.map(|n| n + 1);
    }

    /// It is about to execute an instruction of `flush_cache_vmap()`.
    pub fn in_announce(&mut self) {
        if let Some(announce) = &mut self.announce {
            announce.instructions += 1;
        }
    }

    /// An instruction of `flush_cache_vmap()` stored to an address.
    pub fn store(&mut self, address: u64) {
        if let Some(announce) = &mut self.announce
            && !(announce.stack.saturating_sub(FRAME)..announce.stack).contains(&address)
        {
            announce.stores += 1;
        }
    }

    /// It is about to execute the first instruction of a function that disturbs another hart.
    pub fn send(&mut self) {
        if let Some(announce) = &mut self.announce {
            announce.sends += 1;
        }
    }

    /// It is about to execute the instruction at an address to which it jumped.
    pub fn arrive(&mut self, address: u64, arguments: &Arguments) {
        // `trap` reports traps; they are not an end.
        if address == arguments.entry.start {
            return;
        }
        if !arguments.entry.contains(&address) {
            self.end_trap(End::Handler);
        }
        if address == arguments.switched
            && let Some(instructions) = self.switch.take()
        {
            self.count(Event::Switch { instructions });
        }
        if let Some(Announce { marked, instructions, stores, sends, .. }) =
            self.announce.take_if(|announce| announce.back == address)
        {
            self.count(Event::Announce { marked, instructions, stores, sends });
        }
    }

    fn end_trap(&mut self, end: End) {
        if let Some(Trap { cause, from_kernel, kernel_address, instructions }) = self.trap.take() {
            self.count(Event::Trap { cause, from_kernel, kernel_address, end, instructions });
        }
    }

    fn count(&mut self, event: Event) {
        *self.counts.events.entry(event).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [&str; 7] = [
        "entry=100:200",
        "switch=0x200:0x300",
        "switched=2000",
        "announce=300:400",
        "marks=8000:8008",
        "sends=500+600",
        "out=f",
    ];

    fn arguments() -> Arguments {
        Arguments::parse(WORDS).unwrap()
    }

    fn lines(hart: &Hart) -> Vec<String> {
        hart.counts.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_read_and_checked() {
        let all = arguments();
        assert_eq!((all.entry, all.switch, all.announce), (0x100..0x200, 0x200..0x300, 0x300..0x400));
        assert_eq!(all.switched, 0x2000);
        assert_eq!((all.marks, all.sends, all.out.as_str()), (Some(0x8000..0x8008), vec![0x500, 0x600], "f"));
        let without = |name: &str| Arguments::parse(WORDS.into_iter().filter(|w| !w.starts_with(name)));
        assert_eq!(without("marks").unwrap().marks, None);
        for name in ["entry", "switch=", "switched", "announce", "sends", "out"] {
            assert_eq!(without(name).unwrap_err(), format!("no argument {}", name.trim_end_matches('=')));
        }
        for wrong in ["speed=1", "entry", "entry=1", "entry=2:2", "entry=x:y", "sends=", "out="] {
            assert!(Arguments::parse(WORDS.into_iter().chain([wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_trap_ends_in_a_handler_or_in_sret() {
        let mut hart = Hart::default();
        hart.trap(13, SPP, KERNEL);
        hart.in_entry(false);
        // A branch within the entry is not an end.
        hart.arrive(0x180, &arguments());
        hart.in_entry(true);
        assert!(!hart.active());
        hart.trap(1 << 63 | 5, 0, 0);
        hart.in_entry(false);
        hart.arrive(0x5000, &arguments());
        // The way back through the entry does not belong to a trap.
        hart.in_entry(false);
        let all = [
            "lazymap-cost 1",
            "trap cause=d from=kernel address=kernel end=sret instructions=2 times=1",
            "trap cause=8000000000000005 from=user address=user end=handler instructions=1 times=1",
            "end cut-short=0",
        ];
        assert_eq!(lines(&hart), all);
    }

    #[test]
    fn what_a_trap_cuts_short_is_not_counted() {
        let mut hart = Hart::default();
        hart.switch();
        hart.in_switch();
        hart.arrive(0x100, &arguments());
        hart.trap(15, SPP, KERNEL);
        hart.in_entry(false);
        hart.arrive(0x100, &arguments());
        hart.trap(15, SPP, KERNEL);
        hart.in_entry(true);
        hart.in_switch();
        hart.arrive(0x5000, &arguments());
        let all = [
            "lazymap-cost 1",
            "trap cause=f from=kernel address=kernel end=sret instructions=1 times=1",
            "end cut-short=2",
        ];
        assert_eq!(lines(&hart), all);
    }

    #[test]
    fn an_announcement_lasts_until_it_is_back() {
        let (mut hart, arguments) = (Hart::default(), arguments());
        hart.announce(Some(true), 0x7000, 0x9000);
        hart.in_announce();
        hart.store(0x9000 - 8); // its frame
        hart.store(0x8000);
        hart.arrive(0x6000, &arguments);
        hart.send();
        hart.arrive(0x7000, &arguments);
        hart.send();
        hart.store(0x8000);
        let all = ["lazymap-cost 1", "announce marked=yes instructions=1 stores=1 sends=1 times=1", "end cut-short=0"];
        assert_eq!(lines(&hart), all);
    }

    #[test]
    fn a_switch_lasts_until_the_last_call() {
        let (mut hart, arguments) = (Hart::default(), arguments());
        for _ in 0..2 {
            // Nothing to switch to.
            hart.switch();
            hart.in_switch();
            hart.arrive(0x7000, &arguments);
            hart.switch();
            hart.in_switch();
            // It calls another function.
            hart.arrive(0x5000, &arguments);
            hart.arrive(0x280, &arguments);
            hart.in_switch();
            hart.arrive(0x2000, &arguments);
            // The next task returns from there.
            hart.arrive(0x290, &arguments);
            hart.in_switch();
        }
        let mut sum = hart.counts.clone();
        sum.add(&hart.counts);
        assert_eq!(sum.text(), "lazymap-cost 1\nswitch instructions=2 times=4\nend cut-short=0\n");
    }
}
