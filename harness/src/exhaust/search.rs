// SPDX-License-Identifier: GPL-2.0-only
//! The search through all states, breadth first, so that the first counterexample is the shortest.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::iter;

use foldhash::quality::FixedState;
use foldhash::{HashSet, HashSetExt};

use super::world::{Choice, Event, Root, State, Stop, Violation, World};

/// What a search has found.
#[derive(Debug, Default)]
pub struct Found {
    /// States at which there was a choice, or that were the last.
    pub states: usize,
    /// Choices that were made.
    pub choices: usize,
    /// The shortest way to each violation.
    pub broken: BTreeMap<Violation, Vec<Choice>>,
    /// What the model does not cover: nothing can be said then.
    pub unknown: Option<String>,
    /// The limit was reached before the end.
    pub cut_off: bool,
}

/// How a search ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub states: usize,
    /// Stop at the first violation.
    pub first: bool,
}

/// States are remembered by a 64-bit hash. Among a million states the chance that two share one is 3 in 10^8.
fn key(state: &State) -> u64 {
    FixedState::default().hash_one(state)
}

/// Visits every state that can be reached from `root`.
pub fn search(world: &World<'_>, root: Root, limit: Limit) -> Found {
    let mut found = Found::default();
    let start = match world.start(root) {
        Ok(state) => state,
        Err(why) => return Found { unknown: Some(why), ..found },
    };
    let mut seen = HashSet::new();
    // Parent and choice of each state, to find the way back.
    let mut steps: Vec<(u32, Choice)> = Vec::new();
    let mut queue: VecDeque<(u32, State, Vec<Choice>)> = VecDeque::new();
    let mut arrive = |mut state: State,
                      parent: u32,
                      choice: Choice,
                      found: &mut Found,
                      queue: &mut VecDeque<_>,
                      steps: &mut Vec<_>,
                      stop: Option<Stop>| {
        let stop = stop.unwrap_or_else(|| world.run(&mut state));
        match stop {
            Stop::Choose(choices) => {
                if seen.insert(key(&state)) {
                    found.states += 1;
                    steps.push((parent, choice));
                    queue.push_back((steps.len() as u32 - 1, state, choices));
                }
            }
            Stop::End => {}
            Stop::Unknown(why) => found.unknown = found.unknown.take().or(Some(why)),
            Stop::Broken(violation) => {
                found.broken.entry(violation).or_insert_with(|| way(steps, parent, choice));
            }
        }
    };
    arrive(start, u32::MAX, Choice::Go, &mut found, &mut queue, &mut steps, None);
    while let Some((at, state, choices)) = queue.pop_front() {
        if found.states >= limit.states {
            found.cut_off = true;
            break;
        }
        // The last choice needs no copy.
        for (mut next, choice) in iter::repeat_n(state, choices.len()).zip(choices) {
            found.choices += 1;
            let stop = world.choose(&mut next, choice);
            arrive(next, at, choice, &mut found, &mut queue, &mut steps, stop);
        }
        // A kernel in which all four windows are open has nothing more to show.
        let all = (1..=4).all(|window| found.broken.keys().any(|v| v.window == window));
        if all || limit.first && !found.broken.is_empty() || found.unknown.is_some() {
            break;
        }
    }
    found
}

/// The choices from the root on.
fn way(steps: &[(u32, Choice)], mut at: u32, last: Choice) -> Vec<Choice> {
    let mut way = vec![last];
    while let Some((parent, choice)) = steps.get(at as usize) {
        way.push(*choice);
        at = *parent;
    }
    // The root was not chosen.
    way.pop();
    way.reverse();
    way
}

/// Repeats the choices of `way`, and returns what happens on it.
pub fn replay(world: &World<'_>, root: Root, way: &[Choice]) -> (Vec<Event>, Option<Violation>) {
    let Ok(mut state) = world.start(root) else { return (Vec::new(), None) };
    world.trace.replace(Some(Vec::new()));
    let mut end = None;
    world.run(&mut state);
    for choice in way {
        let stop = world.choose(&mut state, *choice).unwrap_or_else(|| world.run(&mut state));
        if let Stop::Broken(violation) = stop {
            end = Some(violation);
            break;
        }
    }
    (world.trace.take().unwrap_or_default(), end)
}
