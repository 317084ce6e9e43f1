// SPDX-License-Identifier: GPL-2.0-only
//! The topics of the series: where each begins and ends, and whether it applies with nothing but the
//! topics that it needs.

use std::ops::Range;
use std::path::PathBuf;

use regex_lite::Regex;

use crate::ground::error::{Error, Result};
use crate::ground::git::Repo;
use crate::ground::table::{self, Align, Cell, Fit};
use crate::options::base::Topic;
use crate::source::mailbox;

/// What a topic that needs nothing stands on.
pub const BARE: &str = "the bare base";

/// A topic, and which patches of a series it is.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What `base.toml` says about it.
    pub topic: &'a Topic,
    /// Its patches, counted from 0.
    pub patches: Range<usize>,
    /// The parts that it needs, and those that they need, in the order of the series.
    pub needs: Vec<usize>,
}

/// A topic that applied: what to build.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Name of the topic.
    pub name: String,
    /// The topic on what it needs, and nothing else.
    pub commit: String,
    /// Whether the topic, or one that it needs, is for stable kernels: a kernel with none of the fixes
    /// does not survive each machine.
    pub fixed: bool,
    /// Whether the topic is without what it needs: then only those of its tests run that run on any kernel.
    pub alone: bool,
}

/// How far a kernel got. Nothing where that was not tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// It compiles.
    pub builds: Option<bool>,
    /// It gets as far as its tests, on each machine.
    pub boots: Option<bool>,
    /// The tests pass wherever they have to.
    pub tests: Option<bool>,
}

/// A line of the table: a topic on a base.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kernel's version.
    pub base: String,
    /// Name of the topic; `all` for the whole series.
    pub topic: String,
    /// The patches, such as `1-6`, counted as in the names of their files.
    pub patches: String,
    /// What it was applied to besides the base.
    pub on: String,
    /// Whether it applied.
    pub applies: Option<bool>,
    /// How far the kernel at its last commit got.
    pub outcome: Outcome,
}

/// Finds the topics in the subjects of a series.
///
/// # Errors
/// When a topic is missing or not where `base.toml` has it, or has a patch of another one.
pub fn cut<'a>(topics: &'a [Topic], subjects: &[String]) -> Result<Vec<Part<'a>>, String> {
    let mut starts = Vec::new();
    for topic in topics {
        let at = topic.first.iter().find_map(|first| subjects.iter().position(|subject| subject == first));
        starts.push(at.ok_or_else(|| {
            format!(
                "no patch has the subject \"{}\", with which the topic {} begins",
                topic.first.join("\" or \""),
                topic.name
            )
        })?);
    }
    if let Some(at) = (1..starts.len()).find(|&at| starts[at] <= starts[at - 1]) {
        return Err(format!("the topic {} begins before {}", topics[at].name, topics[at - 1].name));
    }
    if starts.first() != Some(&0) {
        return Err("the first patch belongs to no topic".to_owned());
    }
    let mut parts: Vec<Part<'a>> = Vec::new();
    for (at, topic) in topics.iter().enumerate() {
        let patches = starts[at]..starts.get(at + 1).copied().unwrap_or(subjects.len());
        let strange = |subject: &&String| !topic.subjects.iter().any(|start| subject.starts_with(start.as_str()));
        if let Some(subject) = subjects[patches.clone()].iter().find(strange) {
            return Err(format!("\"{subject}\" is among the patches of the topic {}", topic.name));
        }
        let mut needs = Vec::new();
        for (other, part) in parts.iter().enumerate().filter(|(_, part)| topic.on.contains(&part.topic.name)) {
            needs.extend(part.needs.iter().copied().chain([other]));
        }
        needs.sort_unstable();
        needs.dedup();
        parts.push(Part { topic, patches, needs });
    }
    Ok(parts)
}

/// Applies the part `at` to `base` with the parts that it needs, and nothing else. `commits` are the
/// whole series.
///
/// # Errors
/// When a patch does not apply.
pub fn apply(
    repo: &Repo,
    base: &str,
    parts: &[Part<'_>],
    at: usize,
    mails: &[PathBuf],
    commits: &[String],
) -> Result<Applied> {
    let part = &parts[at];
    let wanted: Vec<usize> = part.needs.iter().chain([&at]).flat_map(|&part| parts[part].patches.clone()).collect();
    let begins_the_series = wanted.iter().copied().eq(0..wanted.len());
    let last = wanted.last().filter(|_| begins_the_series).and_then(|&last| commits.get(last));
    let commit = match last {
        Some(commit) => commit.clone(),
        None => mailbox::am(repo, base, &wanted.iter().map(|&patch| mails[patch].clone()).collect::<Vec<_>>())?,
    };
    let fixed = part.needs.iter().chain([&at]).any(|&part| parts[part].topic.stable);
    Ok(Applied { name: part.topic.name.clone(), commit, fixed, alone: false })
}

/// Applies a part to `base` without the parts that it needs.
///
/// # Errors
/// When a patch does not apply.
pub fn alone(repo: &Repo, base: &str, part: &Part<'_>, mails: &[PathBuf]) -> Result<Applied> {
    let commit = mailbox::am(repo, base, &mails[part.patches.clone()])?;
    Ok(Applied { name: format!("{}-alone", part.topic.name), commit, fixed: part.topic.stable, alone: true })
}

/// What a part stands on, for a message: [`BARE`], or the names of topics.
pub fn ground(parts: &[Part<'_>], part: &Part<'_>) -> String {
    match part.needs.as_slice() {
        [] => BARE.to_owned(),
        needs => needs.iter().map(|&at| parts[at].topic.name.as_str()).collect::<Vec<_>>().join(" and "),
    }
}

/// Whether the cover letter has an item `N. NAME` for each topic. The numbers of patches that an item
/// gives have to be right if it is written for this kernel.
pub fn in_cover_letter(text: &str, parts: &[Part<'_>], own: bool) -> Result<Result<String, String>> {
    let range = Regex::new(r"\bpatch(?:es)? (\d+)(?: to (\d+))?").map_err(|e| Error::could_not(e.to_string()))?;
    for (at, part) in parts.iter().enumerate() {
        let name = part.topic.name.replace('-', " ");
        let number = format!("{}. ", at + 1);
        let mut items = text.lines().filter_map(|line| line.strip_prefix(&number));
        let Some(item) = items.find(|item| item.to_lowercase().contains(&name)) else {
            return Ok(Err(format!(
                "no item \"{number}\" names the topic {}; add it to the text of the cover letter",
                part.topic.name
            )));
        };
        let Some(said) = range.captures(item).filter(|_| own) else { continue };
        let first = said[1].to_owned();
        let last = said.get(2).map_or_else(|| first.clone(), |last| last.as_str().to_owned());
        let (from, to) = (part.patches.start + 1, part.patches.end);
        if (first, last) != (from.to_string(), to.to_string()) {
            return Ok(Err(format!(
                "it says {} of the topic {}, which is {from} to {to}; correct the text of the cover letter",
                &said[0], part.topic.name
            )));
        }
    }
    Ok(Ok(String::new()))
}

/// The patches of a range, as they are numbered.
pub fn numbers(patches: &Range<usize>) -> String {
    format!("{}-{}", patches.start + 1, patches.end)
}

/// The table of all topics on all bases, made to fit into `width` characters.
pub fn table(rows: &[Row], width: usize) -> String {
    let heading = ["base", "topic", "patches", "on", "applies", "builds", "boots", "tests"];
    let word = |outcome: Option<bool>| match outcome {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    let mut lines: Vec<Vec<Cell>> = vec![heading.map(Cell::from).into()];
    for row in rows {
        let Outcome { builds, boots, tests } = row.outcome;
        let names = [&row.base, &row.topic, &row.patches, &row.on].map(|text| Cell::from(text.as_str()));
        let outcomes = [row.applies, builds, boots, tests].map(|outcome| Cell::from(word(outcome)));
        lines.push(names.into_iter().chain(outcomes).collect());
    }
    table::fitted(&[Align::Left; 8], lines, &Fit::texts(width, &[3]), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, on: &[&str]) -> Topic {
        let on = on.iter().map(|&name| name.to_owned()).collect();
        let first = vec![format!("{name}: old"), format!("{name}: first")];
        let subjects = vec![format!("{name}: ")];
        Topic { name: name.to_owned(), first, subjects, on, list: None, stable: name == "a", alone: false }
    }

    fn subjects(list: &[&str]) -> Vec<String> {
        list.iter().map(|&subject| subject.to_owned()).collect()
    }

    #[test]
    fn topics_are_found_in_order() {
        let topics = [topic("a", &[]), topic("b", &[]), topic("c", &["b"]), topic("d", &["a", "c"])];
        let parts =
            cut(&topics, &subjects(&["a: first", "a: x", "b: old", "b: first", "c: first", "d: first"])).unwrap();
        let found: Vec<_> = parts.iter().map(|p| (numbers(&p.patches), p.needs.clone())).collect();
        let expected = [("1-2", vec![]), ("3-4", vec![]), ("5-5", vec![1]), ("6-6", vec![0, 1, 2])];
        assert_eq!(found, expected.map(|(numbers, needs)| (numbers.to_owned(), needs)));
        assert_eq!(ground(&parts, &parts[3]), "a and b and c");
        assert_eq!(ground(&parts, &parts[1]), "the bare base");
    }

    #[test]
    fn a_topic_out_of_place_is_named() {
        let topics = [topic("a", &[]), topic("b", &[])];
        let why = |list: &[&str]| cut(&topics, &subjects(list)).map(drop).unwrap_err();
        assert_eq!(
            why(&["a: first"]),
            "no patch has the subject \"b: old\" or \"b: first\", with which the topic b begins"
        );
        assert_eq!(why(&["b: first", "a: first"]), "the topic b begins before a");
        assert_eq!(why(&["x", "a: first", "b: first"]), "the first patch belongs to no topic");
        assert_eq!(why(&["a: first", "b: x", "b: first"]), "\"b: x\" is among the patches of the topic a");
        assert_eq!(why(&["a: first", "b: first", "a: x"]), "\"a: x\" is among the patches of the topic b");
    }

    #[test]
    fn the_cover_letter_has_an_item_for_each_topic() {
        let topics = [topic("a", &[]), topic("lazy-map", &[])];
        let parts = cut(&topics, &subjects(&["a: first", "a: x", "lazy-map: first"])).unwrap();
        let ask = |text: &str, own: bool| in_cover_letter(text, &parts, own).unwrap();
        let good = "Text.\n\n1. A, patches 1 to 2, in C\n2. Lazy map: the check, patch 3\n";
        assert!(ask(good, true).is_ok());
        assert!(ask(&good.replace("Lazy map", "The check"), true).unwrap_err().contains("the topic lazy-map"));
        let wrong = good.replace("1 to 2", "1 to 3");
        assert!(ask(&wrong, true).unwrap_err().contains("patches 1 to 3 of the topic a, which is 1 to 2"));
        assert!(ask(&wrong, false).is_ok(), "written for another kernel");
        assert!(ask(&good.replace("patch 3", "patch 4"), true).is_err());
    }
}
