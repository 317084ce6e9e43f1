// SPDX-License-Identifier: GPL-2.0-only
//! Interprets a kernel's exception entry, instruction by instruction, through everything that may happen.

pub mod cpu;
pub mod image;
pub mod kvm;
pub mod layout;
pub mod mutate;
pub mod report;
pub mod search;
pub mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use image::{Alternative, Image};
use layout::Layout;
use search::Limit;
use world::{Bounds, Choice, Newcomer, Root, Violation, World};

/// What is searched, and how far.
#[derive(Clone, Debug)]
pub struct Plan {
    pub bounds: Bounds,
    /// Numbers of the hart's CPU; each is a search of its own.
    pub cpus: Vec<u32>,
    /// How many starts for each CPU, at most: a new task first, then a kernel thread, then one that migrates.
    pub starts: usize,
    /// Also with each set of alternatives applied.
    pub alternatives: bool,
    pub limit: Limit,
}

impl Plan {
    /// What `make check` does: under a minute.
    pub fn quick() -> Self {
        let bounds = Bounds { depth: 1, mappings: 1, patient: false };
        Self {
            bounds,
            cpus: vec![33],
            starts: usize::MAX,
            alternatives: true,
            limit: Limit { states: 1_000_000, first: false },
        }
    }

    /// For a kernel that is known to be broken: its holes, in a few seconds. What is broken outside of the windows needs
    /// a hart that is not patient.
    pub fn broken(patient: bool) -> Self {
        Self {
            bounds: Bounds { depth: 2, mappings: 1, patient },
            starts: 2,
            limit: Limit { states: 400_000, first: false },
            ..Self::quick()
        }
    }

    /// Everything within the usual bounds.
    pub fn full() -> Self {
        Self {
            bounds: Bounds { depth: 2, mappings: 1, patient: false },
            cpus: vec![1, 33],
            starts: usize::MAX,
            alternatives: true,
            limit: Limit { states: 8_000_000, first: false },
        }
    }
}

/// A property that does not hold, and the shortest way there.
#[derive(Clone, Debug)]
pub struct Finding {
    pub violation: Violation,
    pub root: Root,
    /// Alternatives that are applied: none, or those of a hart with these extensions.
    pub applied: Vec<u32>,
    pub way: Vec<Choice>,
}

/// What is known of a kernel after the search.
#[derive(Debug, Default)]
pub struct Verdict {
    /// One for each window and property, with the shortest way.
    pub findings: Vec<Finding>,
    pub states: usize,
    pub choices: usize,
    pub roots: usize,
    pub seconds: f64,
    /// Why nothing can be said.
    pub unknown: Option<String>,
}

impl Verdict {
    /// Nothing was found, and nothing was left out.
    pub fn is_clean(&self) -> bool {
        self.unknown.is_none() && self.findings.is_empty() && self.states > 0
    }
}

/// Sets of alternatives: none, and for each extension that has some in the interpreted code, those.
pub fn variants(image: &Image, layout: &Layout) -> Vec<(Vec<u32>, Image)> {
    let here: Vec<Alternative> = layout
        .ranges()
        .iter()
        .flat_map(|(start, end)| image.alternatives(*start, *end))
        .filter(|a| a.vendor == 0)
        .collect();
    let mut by: BTreeMap<u32, Vec<&Alternative>> = BTreeMap::new();
    here.iter().for_each(|a| by.entry(a.id).or_default().push(a));
    let mut variants = vec![(Vec::new(), image.clone())];
    for (id, alternatives) in by {
        let patched = alternatives.iter().fold(image.clone(), |image, a| image.patched(a.old, &a.new));
        variants.push((vec![id], patched));
    }
    variants
}

/// Searches the machine code of `image` for a violation. `layout` may be that of another image with the same
/// addresses, of which this one is a mutant.
pub fn judge(image: &Image, layout: &Layout, plan: &Plan) -> Verdict {
    let started = Instant::now();
    let mut verdict = Verdict::default();
    let mut best: BTreeMap<(u8, &str), Finding> = BTreeMap::new();
    let mut variants = variants(image, layout);
    if !plan.alternatives {
        variants.truncate(1);
    }
    'all: for (applied, image) in variants {
        let world = World::new(&image, layout, plan.bounds);
        // What a patched instruction changes does not depend on the start.
        let roots = roots(layout, plan);
        let starts = if applied.is_empty() { roots.len() } else { 1 };
        for root in roots.into_iter().take(starts) {
            let found = search::search(&world, root, plan.limit);
            verdict.roots += 1;
            verdict.states += found.states;
            verdict.choices += found.choices;
            for (violation, way) in found.broken {
                let finding = Finding { violation, root, applied: applied.clone(), way };
                let key = (finding.violation.window, finding.violation.property);
                if best.get(&key).is_none_or(|old| finding.way.len() < old.way.len()) {
                    best.insert(key, finding);
                }
            }
            if let Some(why) = found.unknown {
                verdict.unknown = Some(why);
                break 'all;
            }
            if found.cut_off {
                verdict.unknown = Some(format!("more than {} states", plan.limit.states));
                break 'all;
            }
            if plan.limit.first && !best.is_empty() {
                break 'all;
            }
        }
    }
    verdict.findings = best.into_values().collect();
    if plan.bounds.patient && verdict.findings.is_empty() && verdict.unknown.is_none() {
        verdict.unknown = Some("a patient search leaves paths out: that it finds nothing proves nothing".to_owned());
    }
    verdict.seconds = started.elapsed().as_secs_f64();
    verdict
}

/// All starts.
pub fn roots(layout: &Layout, plan: &Plan) -> Vec<Root> {
    let mut newcomers: Vec<Newcomer> = layout.fork.iter().map(|at| Newcomer::Forked(*at)).collect();
    newcomers.push(Newcomer::Migrated);
    let mut roots = Vec::new();
    for &cpu in &plan.cpus {
        let all = newcomers.iter().flat_map(|n| [false, true].map(|marked| Root { cpu, marked, newcomer: *n }));
        roots.extend(all.take(plan.starts));
    }
    roots
}
