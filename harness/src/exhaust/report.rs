// SPDX-License-Identifier: GPL-2.0-only
//! A finding as a reader needs it: what is broken, the steps, and the machine that shows it.

use std::fmt::Write as _;

use serde::Serialize;

use super::image::Image;
use super::layout::Layout;
use super::world::{Event, Newcomer, World};
use super::{Finding, Plan, Verdict, cpu, kvm, search, variants};
use crate::hunt::symbols::Symbols;

/// A machine on which a finding shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Name in `harness/models.toml`, or nothing.
    pub model: Option<&'static str>,
    /// CPU properties, if no model has them.
    pub properties: Option<String>,
    /// Harts that it takes, for a CPU with a high number.
    pub harts: u32,
}

/// A step of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Hexadecimal, because JSON's numbers have 53 bits.
    pub address: String,
    /// `SYMBOL+0xOFFSET`.
    pub place: String,
    /// File and line, if the vmlinux has debug information.
    pub line: Option<String>,
    pub text: String,
}

/// A finding, told.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// 1 to 4, or 0 outside the four windows.
    pub window: u8,
    pub property: &'static str,
    pub what: String,
    pub place: String,
    pub start: String,
    pub steps: Vec<Step>,
    pub setting: Setting,
}

/// What the search of one kernel says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub kernel: String,
    pub clean: bool,
    /// Why nothing can be said.
    pub unknown: Option<String>,
    pub findings: Vec<Told>,
    pub bounds: String,
    pub searches: usize,
    pub states: usize,
    pub choices: usize,
    pub seconds: f64,
    /// Instructions of KVM that were interpreted; nothing if there is no KVM, or it was not given.
    pub kvm: Option<usize>,
}

/// Tells what `verdict` holds.
pub fn report(
    kernel: &str,
    image: &Image,
    layout: &Layout,
    symbols: &Symbols,
    plan: &Plan,
    verdict: &Verdict,
) -> Report {
    Report {
        kernel: kernel.to_owned(),
        clean: verdict.is_clean(),
        unknown: verdict.unknown.clone(),
        findings: verdict.findings.iter().map(|f| told(image, layout, symbols, plan, f)).collect(),
        bounds: bounds(plan),
        searches: verdict.roots,
        states: verdict.states,
        choices: verdict.choices,
        seconds: (verdict.seconds * 1000.0).round() / 1000.0,
        kvm: None,
    }
}

/// Adds what the search of KVM's code says, which is in `code`.
pub fn add_kvm(report: &mut Report, code: &Image, symbols: &Symbols, found: kvm::Found) {
    report.kvm = Some(found.instructions);
    report.unknown = report.unknown.take().or(found.unknown);
    for broken in found.broken {
        let step = |(pc, text): (u64, String)| {
            let (place, line) = (code.place(pc), symbols.line(pc));
            Step { address: format!("{pc:#x}"), place, line, text }
        };
        report.findings.push(Told {
            window: 0,
            property: "KVM",
            what: broken.what,
            place: code.place(broken.place),
            start: format!("a hart calls {}", broken.function),
            steps: broken.steps.into_iter().map(step).collect(),
            setting: Setting {
                model: Some(if broken.stale { "window-5" } else { "plain" }),
                properties: None,
                harts: 4,
            },
        });
    }
    report.clean &= report.unknown.is_none() && report.findings.is_empty();
}

/// The limits of a search, in a line.
pub fn bounds(plan: &Plan) -> String {
    let cpus: Vec<String> = plan.cpus.iter().map(u32::to_string).collect();
    let patient = if plan.bounds.patient { "; patient" } else { "" };
    format!(
        "2 harts, 2 tasks, 4 pages; {} new mappings; traps nested {} deep, stale ones on top; as CPU {}{patient}",
        plan.bounds.mappings,
        plan.bounds.depth,
        cpus.join(" and ")
    )
}

fn told(image: &Image, layout: &Layout, symbols: &Symbols, plan: &Plan, finding: &Finding) -> Told {
    let all = variants(image, layout);
    let patched = all.iter().find(|(applied, _)| *applied == finding.applied).map_or(image, |(_, image)| image);
    let world = World::new(patched, layout, plan.bounds);
    let (events, _) = search::replay(&world, finding.root, &finding.way);
    let root = finding.root;
    let newcomer = match root.newcomer {
        Newcomer::Forked(at) => format!("a new task that starts in {}", image.place(at)),
        Newcomer::Migrated => "a task that slept on another hart".to_owned(),
    };
    let marked = if root.marked { "set" } else { "clear" };
    let mut start = format!("CPU {}, its bit {marked}; {newcomer}", root.cpu);
    if !finding.applied.is_empty() {
        let _ = write!(start, "; alternatives of extension {} applied", finding.applied[0]);
    }
    let setting = setting(&events, finding.violation.window, root.cpu);
    let steps = events.into_iter().filter_map(|event| match event {
        Event::Said(pc, text) => {
            Some(Step { address: format!("{pc:#x}"), place: image.place(pc), line: symbols.line(pc), text })
        }
        _ => None,
    });
    Told {
        window: finding.violation.window,
        property: finding.violation.property,
        what: finding.violation.what.clone(),
        place: image.place(finding.violation.place),
        start,
        steps: steps.collect(),
        setting,
    }
}

/// The machine that makes the same choices: found from what happened between the last access to the page that
/// succeeded and the one that failed.
fn setting(events: &[Event], window: u8, cpu: u32) -> Setting {
    let harts = if cpu < 4 { 4 } else { cpu + 1 };
    let of = |model| Setting { model: Some(model), properties: None, harts };
    let fault = events.iter().rposition(|e| matches!(e, Event::Fault(_, w) if window > 0 && *w == window));
    let fault = fault.or_else(|| events.iter().rposition(|e| matches!(e, Event::Fault(..))));
    let Some(at) = fault else { return of("plain") };
    let Event::Fault(page, _) = events[at] else { return of("plain") };
    // The first of a row of faults.
    let first =
        events[..at].iter().rposition(|e| matches!(e, Event::Used(p) if *p == page) || matches!(e, Event::Fence));
    let Some(used) = first.filter(|u| matches!(events[*u], Event::Used(_))) else { return of("stale") };
    let until =
        events[used..].iter().position(|e| matches!(e, Event::Fault(p, _) if *p == page)).map_or(at, |n| used + n);
    let loses = events[used..until].iter().rev().find_map(|event| match event {
        Event::Trap { user: false } => Some("trap-s"),
        Event::Trap { user: true } => Some("trap-u"),
        Event::Wrote(cpu::SSCRATCH) => Some("sscratch-set"),
        Event::Wrote(cpu::SEPC) => Some("sepc"),
        Event::Wrote(cpu::SSTATUS) => Some("sstatus"),
        Event::Wrote(cpu::STVEC) => Some("stvec"),
        _ => None,
    });
    match loses {
        Some("trap-s") => of("window-1"),
        Some("sscratch-set") => of("window-2"),
        Some("sepc") => of("window-3"),
        Some("trap-u") => of("window-4"),
        Some("stvec") => of("window-5"),
        Some(event) => Setting {
            model: None,
            properties: Some(format!(
                "x-cache-invalid=on,x-cache-invalid-coexist=any,x-cache-invalid-choice=valid,x-cache-invalid-evict-at={event}"
            )),
            harts,
        },
        None => of("random"),
    }
}

impl Setting {
    /// As options of `lazymap hunt` and QEMU.
    pub fn text(&self) -> String {
        let machine = match (self.model, &self.properties) {
            (Some(model), _) => format!("model {model} of harness/models.toml"),
            (None, Some(properties)) => format!("-cpu rv64,{properties}"),
            (None, None) => "any".to_owned(),
        };
        format!("{machine}, {} harts", self.harts)
    }
}

impl Report {
    /// The report as lines; with the steps of each finding if `steps`.
    pub fn text(&self, steps: bool) -> String {
        let mut out = String::new();
        let verdict = match (&self.unknown, self.clean) {
            (Some(_), _) => "not certain",
            (None, true) => "clean",
            (None, false) => "broken",
        };
        let _ = writeln!(
            out,
            "{}: {verdict}; {} states, {} choices, {} searches, {:.2} s ({})",
            self.kernel, self.states, self.choices, self.searches, self.seconds, self.bounds
        );
        if let Some(instructions) = self.kvm {
            let _ = writeln!(out, "  KVM's switch and its reads of guest memory: {instructions} instructions");
        }
        if let Some(why) = &self.unknown {
            let _ = writeln!(out, "  {why}");
        }
        for finding in &self.findings {
            let window = if finding.window > 0 { format!("window {}: ", finding.window) } else { String::new() };
            let _ = writeln!(out, "  {window}{}: {}, in {}", finding.property, finding.what, finding.place);
            let _ = writeln!(out, "    start: {}", finding.start);
            let _ = writeln!(out, "    shown by: {}", finding.setting.text());
            for step in finding.steps.iter().filter(|_| steps) {
                let line = step.line.as_ref().map(|l| format!(" ({l})")).unwrap_or_default();
                let _ = writeln!(out, "      {:<18} {:<32}{line} {}", step.address, step.place, step.text);
            }
        }
        out
    }
}
