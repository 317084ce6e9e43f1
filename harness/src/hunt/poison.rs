// SPDX-License-Identifier: GPL-2.0-only
//! Freed memory that can be recognised: what the kernel fills it with, and which stale uses have met that.

use std::fmt;

use lazymap_console::log::Log;
use serde::Serialize;

use super::trace::Data;

/// Kernel parameters that ask for it: a pattern or zeroes in freed pages, and a pattern in freed objects. A kernel
/// takes those that it was built for (`PAGE_POISONING`, always, `SLUB_DEBUG`); the pattern in pages comes first.
pub const PARAMETERS: &str = "page_poison=1 init_on_free=1 slub_debug=P";

/// `PAGE_POISON` of include/linux/poison.h, in each byte.
const PAGE: u64 = 0xaaaa_aaaa_aaaa_aaaa;
/// `POISON_FREE`, in each byte but an object's last one.
const OBJECT: u64 = 0x6b6b_6b6b_6b6b_6b6b;
/// The same with `POISON_END` behind it.
const OBJECT_END: u64 = 0xa56b_6b6b_6b6b_6b6b;

/// How the kernel's command line begins on the console.
const COMMAND_LINE: &str = "Kernel command line: ";
/// The same for what it did not understand of that.
const UNKNOWN: &str = "Unknown kernel command line parameters ";

/// What a kernel fills freed memory with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Poison {
    /// Pages have a pattern.
    pub pages: bool,
    /// Pages have zeroes, which are less certain to mean anything.
    pub zeroes: bool,
    /// Objects of slabs have a pattern.
    pub objects: bool,
}

/// What a stale use has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Met {
    /// The pattern of a freed page.
    Page,
    /// The pattern of a freed object.
    Object,
    /// Zeroes, as a freed page has; other memory may have them, too.
    Zeroes,
}

impl Met {
    /// What it is, in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "poison of a freed page",
            Self::Object => "poison of a freed object",
            Self::Zeroes => "zeroes, as a freed page has",
        }
    }
}

impl Poison {
    /// What the kernel says on its console; `None` if it was not asked to fill anything.
    pub fn of(log: &Log) -> Option<Self> {
        let (given, unknown) = (words(log, COMMAND_LINE), words(log, UNKNOWN));
        // The list of unknown ones is in quotation marks.
        let unknown = |word: &str| unknown.iter().any(|other| other.trim_matches(['"', ',']) == word);
        let asked = |wanted: &dyn Fn(&str, &str) -> bool| {
            given.iter().any(|word| word.split_once('=').is_some_and(|(name, value)| wanted(name, value)))
        };
        let taken = |wanted: &dyn Fn(&str, &str) -> bool| {
            asked(&|name: &str, value: &str| wanted(name, value) && !unknown(&format!("{name}={value}")))
        };
        let on = |value: &str| matches!(value, "1" | "y" | "on");
        let pages = |name: &str, value: &str| name == "page_poison" && on(value);
        let zeroes = |name: &str, value: &str| name == "init_on_free" && on(value);
        let objects = |name: &str, value: &str| {
            // FLAGS, or FLAGS,SLABS.
            let flags = value.split(',').next().unwrap_or_default();
            ["slub_debug", "slab_debug"].contains(&name) && flags.contains(['P', 'p'])
        };
        if !asked(&pages) && !asked(&zeroes) && !asked(&objects) {
            return None;
        }
        // This one the kernel may know, and not follow.
        let freed =
            log.lines.iter().any(|line| line.text.contains("mem auto-init: ") && line.text.contains("heap free:on"));
        Some(Self { pages: taken(&pages), zeroes: taken(&zeroes) && freed, objects: taken(&objects) })
    }

    /// What a use has met, judging by the eight bytes that it began in.
    pub fn met(self, data: &Data) -> Option<Met> {
        match data.word()? {
            PAGE if self.pages => Some(Met::Page),
            OBJECT | OBJECT_END if self.objects => Some(Met::Object),
            0 if self.zeroes => Some(Met::Zeroes),
            _ => None,
        }
    }
}

/// The words of the lines that begin with `start`, behind that.
fn words<'a>(log: &'a Log, start: &str) -> Vec<&'a str> {
    let lines = log.lines.iter().filter_map(|line| line.text.strip_prefix(start));
    lines.flat_map(|line| line.split_whitespace()).collect()
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.pages, "0xaa in freed pages"),
            (self.zeroes, "zeroes in freed pages"),
            (self.objects, "0x6b in freed objects"),
        ];
        let names: Vec<&str> = all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "Kernel command line: console=ttyS0 page_poison=1 init_on_free=1 slub_debug=P\n";

    fn of(text: &str) -> Option<Poison> {
        Poison::of(&Log::of(text))
    }

    fn data(word: u64, was: u64) -> Data {
        let mut bytes = [0x11; 16];
        bytes[8..].copy_from_slice(&word.to_le_bytes());
        Data { was, now: None, size: 4, bytes: Some(bytes), stored: None }
    }

    #[test]
    fn a_kernel_tells_what_it_fills_freed_memory_with() {
        assert_eq!(of("Linux version 7\nKernel command line: console=ttyS0 quiet\n"), None);
        assert_eq!(of("Kernel command line: page_poison=0 init_on_free=off slub_debug=FZ\n"), None);
        let all = Poison { pages: true, zeroes: false, objects: true };
        assert_eq!(of(KNOWN), Some(all));
        let off = "mem auto-init: stack:off, heap alloc:off, heap free:off\n";
        assert_eq!(of(&format!("{KNOWN}{off}")), Some(all));
        let unknown =
            "Unknown kernel command line parameters \"nokaslr page_poison=1\", will be passed to user space.\n";
        let on = "mem auto-init: stack:off, heap alloc:off, heap free:on\n";
        let zeroes = Poison { pages: false, zeroes: true, objects: true };
        assert_eq!(of(&format!("{KNOWN}{on}{unknown}")), Some(zeroes));
        let nothing =
            "Unknown kernel command line parameters \"page_poison=1 slub_debug=P\", will be passed to user space.\n";
        assert_eq!(of(&format!("{KNOWN}{nothing}")), Some(Poison::default()));
        // A long command line takes several lines; a list of slabs follows the flags.
        let wrapped = "Kernel command line: console=ttyS0 \\\nKernel command line: slab_debug=FZP,dentry\n";
        assert_eq!(of(wrapped), Some(Poison { objects: true, ..Poison::default() }));
        assert_eq!(of("Kernel command line: slab_debug=Z,P\n"), None);
        assert_eq!(all.to_string(), "0xaa in freed pages, 0x6b in freed objects");
    }

    #[test]
    fn a_use_has_met_poison_if_all_eight_bytes_have_it() {
        let (pages, objects) =
            (Poison { pages: true, ..Poison::default() }, Poison { objects: true, ..Poison::default() });
        let zeroes = Poison { zeroes: true, ..Poison::default() };
        assert_eq!(pages.met(&data(PAGE, 0x8000_000c)), Some(Met::Page));
        assert_eq!(pages.met(&data(PAGE, 0x8000_0004)), None, "it is the other word");
        assert_eq!(pages.met(&data(PAGE ^ 1, 0x8000_000c)), None);
        assert_eq!(pages.met(&data(OBJECT, 0x8000_0008)), None);
        assert_eq!(objects.met(&data(OBJECT, 0x8000_0008)), Some(Met::Object));
        assert_eq!(objects.met(&data(OBJECT_END, 0x8000_0008)), Some(Met::Object));
        assert_eq!(objects.met(&data(0, 0x8000_0008)), None);
        assert_eq!(zeroes.met(&data(0, 0x8000_0008)), Some(Met::Zeroes));
        assert_eq!(zeroes.met(&Data { bytes: None, ..data(0, 0) }), None);
    }
}
