// SPDX-License-Identifier: GPL-2.0-only
//! What harts do in each phase of a boot, independent of QEMU.
//!
//! The guest says where a phase begins and ends, with `slti x0, x0, N`: the specification leaves that
//! instruction, which has no effect, for custom use. It begins phase N, or ends the one under way if N is 0.

use std::fmt::Write as _;
use std::ops::Range;

use crate::count;

/// The parsed arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `handle_exception`.
    pub entry: Range<u64>,
    /// `flush_cache_vmap()`.
    pub announce: u64,
    /// A function that sends an interrupt to one hart, if the kernel does that itself.
    pub send: u64,
    /// The function that calls the SBI.
    pub sbi: u64,
    /// A function that is called for each new task.
    pub new_task: u64,
    /// A function that is called for each task that migrates.
    pub migrate: u64,
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
        let mut missing = vec!["entry", "announce", "send", "sbi", "new-task", "migrate", "out"];
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is not NAME=VALUE"))?;
            match name {
                "entry" => all.entry = count::range(value)?,
                "announce" => all.announce = count::address(value)?,
                "send" => all.send = count::address(value)?,
                "sbi" => all.sbi = count::address(value)?,
                "new-task" => all.new_task = count::address(value)?,
                "migrate" => all.migrate = count::address(value)?,
                "out" if !value.is_empty() => value.clone_into(&mut all.out),
                _ => return Err(format!("unknown argument `{word}`")),
            }
            missing.retain(|m| *m != name);
        }
        if missing.is_empty() { Ok(all) } else { Err(format!("no argument {}", missing.join(", "))) }
    }
}

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `sfence.vma` and `sinval.vma`, in whatever mode.
    Fences,
    /// `sret` in the trap entry: a spurious fault, or one that had to be retried to know.
    Absorbed,
    /// Calls of `flush_cache_vmap()`.
    Announcements,
    /// Interrupts sent to other harts, one for each.
    Ipis,
    /// Fences that the SBI was asked for, one for each hart.
    RemoteFences,
    /// Tasks that were started.
    NewTasks,
    /// Tasks that moved to another hart.
    Migrations,
}

/// Their names in the file, in the order of [`Counter`].
pub const NAMES: [&str; 7] =
    ["fences", "absorbed", "announcements", "ipis", "remote-fences", "new-tasks", "migrations"];

/// The counters of a hart.
pub type Counts = [u64; NAMES.len()];

/// What an instruction is, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `sfence.vma` or `sinval.vma`.
    Fence,
    /// `sret`.
    Sret,
    /// The beginning of a phase, or the end of one if it is 0.
    Mark(u32),
    /// Another.
    Other,
}

/// What the instruction with this code is.
pub fn kind(code: u32) -> Kind {
    match code {
        0x1020_0073 => Kind::Sret,
        _ if code & 0xfe00_7fff == 0x1200_0073 || code & 0xfe00_7fff == 0x1600_0073 => Kind::Fence,
        _ if code & 0x000f_ffff == 0x0000_2013 => Kind::Mark(code >> 20),
        _ => Kind::Other,
    }
}

/// What a call of the SBI does to other harts: a counter, and how many harts. The arguments are in `a0`,
/// `a1` and `a7`; `others` is the number of harts but this one. (RISC-V SBI Specification, chapters "IPI Extension" and
/// "RFENCE Extension".)
pub fn sbi(a0: u64, a1: u64, a7: u64, others: u64) -> Option<(Counter, u64)> {
    let counter = match a7 {
        0x0073_5049 => Counter::Ipis,
        0x5246_4e43 => Counter::RemoteFences,
        _ => return None,
    };
    let harts = if a1 == u64::MAX { others } else { u64::from(a0.count_ones()) };
    Some((counter, harts))
}

/// What was counted up to some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Instructions of all harts. One that traps counts, and so do those that follow it in its block of
    /// QEMU's.
    pub instructions: u64,
    /// The counters of each hart.
    pub harts: Vec<Counts>,
}

impl Now {
    /// What was counted since `before`; some harts may have started later.
    fn since(&self, before: &Self) -> Self {
        let none = Counts::default();
        let of = |(at, now): (usize, &Counts)| {
            let before = before.harts.get(at).unwrap_or(&none);
            std::array::from_fn(|counter| now[counter] - before[counter])
        };
        let harts = self.harts.iter().enumerate().map(of).collect();
        Self { instructions: self.instructions - before.instructions, harts }
    }
}

/// The phases so far.
#[derive(Clone, Debug, Default)]
pub struct Phases {
    under_way: Option<(u32, Now)>,
    done: Vec<(u32, Now)>,
    /// What went wrong first.
    wrong: Option<String>,
}

impl Phases {
    /// A mark was executed when this was counted.
    pub fn mark(&mut self, number: u32, now: Now) {
        let wrong = match (self.under_way.take(), number) {
            (None, 0) => Some("a phase ends that did not begin".to_owned()),
            (None, _) => {
                self.under_way = Some((number, now));
                None
            }
            (Some((phase, before)), 0) => {
                self.done.push((phase, now.since(&before)));
                None
            }
            (Some((phase, _)), _) => Some(format!("phase {number} begins in phase {phase}")),
        };
        self.wrong = self.wrong.take().or(wrong);
    }

    /// The file: for each phase and for the whole run a line with the instructions and one for each hart,
    /// and a last line that shows that the file is complete.
    pub fn text(&self, total: &Now) -> String {
        let mut text = "lazymap-phases 1\n".to_owned();
        for (phase, counted) in &self.done {
            lines(&mut text, &format!("phase={phase}"), counted);
        }
        lines(&mut text, "total", total);
        let unfinished = self.under_way.as_ref().map(|(phase, _)| format!("phase {phase} did not end"));
        text += &match self.wrong.clone().or(unfinished) {
            Some(why) => format!("wrong {why}\n"),
            None => "end\n".to_owned(),
        };
        text
    }
}

fn lines(text: &mut String, what: &str, counted: &Now) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{what} instructions={}", counted.instructions);
    for (hart, counts) in counted.harts.iter().enumerate() {
        let _ = write!(text, "{what} hart={hart}");
        for (name, count) in NAMES.iter().zip(counts) {
            let _ = write!(text, " {name}={count}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_checked() {
        let words = ["entry=100:200", "announce=300", "send=400", "sbi=500", "new-task=600", "migrate=700", "out=f"];
        let all = Arguments::parse(words).unwrap();
        assert_eq!((all.entry, all.announce, all.send, all.sbi), (0x100..0x200, 0x300, 0x400, 0x500));
        assert_eq!((all.new_task, all.migrate, all.out.as_str()), (0x600, 0x700, "f"));
        for gone in words {
            let name = gone.split('=').next().unwrap();
            let left = words.into_iter().filter(|word| *word != gone);
            assert_eq!(Arguments::parse(left).unwrap_err(), format!("no argument {name}"));
        }
        for wrong in ["speed=1", "sbi", "sbi=x", "entry=1", "out="] {
            assert!(Arguments::parse(words.into_iter().chain([wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn instructions_that_matter_are_known() {
        // sfence.vma; sfence.vma a0, a1; sinval.vma a0, a1; sret
        for (code, is) in [
            (0x1200_0073, Kind::Fence),
            (0x12b5_0073, Kind::Fence),
            (0x16b5_0073, Kind::Fence),
            (0x1020_0073, Kind::Sret),
            // slti x0, x0, 0; slti x0, x0, 9
            (0x0000_2013, Kind::Mark(0)),
            (0x0090_2013, Kind::Mark(9)),
            // addi x0, x0, 0; slti a0, x0, 1; slti x0, a0, 1; sfence.w.inval; hfence.vvma; wfi
            (0x0000_0013, Kind::Other),
            (0x0010_2513, Kind::Other),
            (0x0015_2013, Kind::Other),
            (0x1800_0073, Kind::Other),
            (0x2200_0073, Kind::Other),
            (0x1050_0073, Kind::Other),
        ] {
            assert_eq!(kind(code), is, "{code:x}");
        }
    }

    #[test]
    fn calls_of_the_sbi_name_harts() {
        assert_eq!(sbi(0b101, 0, 0x0073_5049, 3), Some((Counter::Ipis, 2)));
        assert_eq!(sbi(0b1110, 0, 0x5246_4e43, 3), Some((Counter::RemoteFences, 3)));
        assert_eq!(sbi(0, u64::MAX, 0x5246_4e43, 7), Some((Counter::RemoteFences, 7)));
        // The timer.
        assert_eq!(sbi(1, 0, 0x5449_4d45, 3), None);
    }

    #[test]
    fn a_phase_has_what_happened_in_it() {
        let now = |instructions, fences: &[u64]| {
            let counts = |fences: &u64| {
                let mut counts = Counts::default();
                counts[Counter::Fences as usize] = *fences;
                counts
            };
            Now { instructions, harts: fences.iter().map(counts).collect() }
        };
        let mut phases = Phases::default();
        phases.mark(2, now(100, &[7]));
        phases.mark(0, now(150, &[7, 1]));
        phases.mark(3, now(200, &[8, 1]));
        phases.mark(0, now(201, &[9, 1]));
        let text = phases.text(&now(300, &[9, 1]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[10], lines.len()), ("lazymap-phases 1", "end", 11));
        assert_eq!(lines[1], "phase=2 instructions=50");
        assert!(lines[2].starts_with("phase=2 hart=0 fences=0 absorbed=0 "), "{text}");
        assert!(lines[3].starts_with("phase=2 hart=1 fences=1 "), "{text}");
        assert!(lines[5].starts_with("phase=3 hart=0 fences=1 "), "{text}");
        assert_eq!(lines[7], "total instructions=300");
        assert!(lines[8].starts_with("total hart=0 fences=9 "), "{text}");
        assert!(lines[8].ends_with(" new-tasks=0 migrations=0"), "{text}");
    }

    #[test]
    fn marks_that_make_no_sense_are_told() {
        let last = |marks: &[u32]| {
            let mut phases = Phases::default();
            marks.iter().for_each(|number| phases.mark(*number, Now::default()));
            phases.text(&Now::default()).lines().last().unwrap().to_owned()
        };
        assert_eq!(last(&[]), "end");
        assert_eq!(last(&[1, 0, 1, 0]), "end");
        assert_eq!(last(&[0, 1, 0]), "wrong a phase ends that did not begin");
        assert_eq!(last(&[1, 2, 0]), "wrong phase 2 begins in phase 1");
        assert_eq!(last(&[1, 0, 2]), "wrong phase 2 did not end");
    }
}
