// SPDX-License-Identifier: GPL-2.0-only
//! Checks the series: up to date, applies as a whole and in topics, style, tags, no sign-off.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::bots;
use super::each::{self, Pick};
use super::rules;
use super::topics::{self, Applied, Outcome, Row};
use super::upstream;
use super::write::{COVER, of_thread, series_files, write_mails};
use crate::ground::error::{Error, Result};
use crate::ground::git::Repo;
use crate::ground::progress::Step;
use crate::ground::{batch, files};
use crate::options::Options;
use crate::source::given::Source;
use crate::source::tree::Tree;
use crate::source::{host, mailbox, weave};
use crate::trial::verdict::Verdict;

/// The check that needs the distribution's patches.
const OWN_FILES: &str = "the files that it changes are the release's own";
/// checkpatch's types that say nothing about this series, each with its reason.
const IGNORED: &str = "harness/checkpatch.ignore";

/// One check of the series.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// Stable name, such as `series: 0003-selftests-riscv-add-lazy_map checkpatch`.
    pub name: String,
    /// Pass, fail or skip.
    pub verdict: Verdict,
    /// Why it did not pass; a note otherwise.
    pub detail: String,
}

impl CheckResult {
    /// Passed or failed; `of` names the kernel unless it is the first.
    fn new(of: &str, name: &str, problem: Result<String, String>) -> Self {
        let verdict = if problem.is_ok() { Verdict::Pass } else { Verdict::Fail };
        Self { name: format!("series{of}: {name}"), verdict, detail: problem.unwrap_or_else(|why| why) }
    }
}

/// What the checks of a series gave.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// All checks.
    pub results: Vec<CheckResult>,
    /// Each topic, and all together.
    pub topics: Vec<Row>,
}

/// Checks the series: up to date, applies as a whole and in topics, checkpatch, rustfmt, kernel-doc,
/// tags; if `build` says so, every patch and every topic builds and boots, or those that it names.
///
/// # Errors
/// When a check could not be made at all.
pub fn check(options: &Options, build: Option<&[Pick]>) -> Result<Checked> {
    let base = &options.base;
    let source = Source::find(options)?;
    let rustfmt = host::for_series(options)?;
    let folder = options.root.join(&base.linux.patches);
    let mails = mailbox::patches(&folder)?;
    if mails.is_empty() {
        return Err(Error::could_not(format!("{} has no patches; run `make series`", folder.display())));
    }
    let mut tree = Tree::base_only(&source, options)?;
    let mut results = Vec::new();
    let of = options.base.suffix().replace('-', " ");
    let mut result = |name: String, problem: Result<String, String>| {
        results.push(CheckResult::new(&of, &name, problem));
    };
    // From nothing, every time: what an earlier run applied proves nothing about the files of now.
    let step = Step::start("git am on the base");
    let applied = mailbox::am(&tree.repo, &tree.base, &mails);
    step.finish(if applied.is_ok() { "applied" } else { "failed" });
    result(
        "git am".to_owned(),
        applied.as_ref().map(|_| format!("on {}", tree.used.from)).map_err(|e| e.message.clone()),
    );
    if applied.is_ok() {
        tree = Tree::open_from(&source, options)?;
        result("patches are what sources and commits give".to_owned(), up_to_date(&mut tree, &folder, options)?);
    }
    let ignored = ignored(&options.root.join(IGNORED))?;
    let step = Step::start("checkpatch");
    let said = batch::side_by_side(&mails, options.jobs, |_| 1, |mail| checkpatch(tree.repo.dir(), mail, &ignored));
    for (mail, said) in mails.iter().zip(said) {
        let name = mailbox::stem(mail);
        result(format!("{name} checkpatch"), said?);
        result(format!("{name} is not signed off"), not_signed(mail)?);
    }
    step.finish("done");
    result("b4 and patchwork can thread the mails".to_owned(), rules::threaded(&folder.join(COVER), &mails)?);
    let clone = match &source {
        Source::Clone { path, .. } => Some(Repo::at(path)),
        Source::Package | Source::Folder { .. } => None,
    };
    result("each Fixes: has digits and subject".to_owned(), rules::fixes_are_whole(&mails, clone.as_ref())?);
    result("each message says how to test it".to_owned(), rules::say_how_to_test(&mails)?);
    let name = "functions in headers are inline, and no driver gets parameters";
    result(name.to_owned(), rules::headers_and_parameters(&mails)?);
    let mut own_files = None;
    let (mut rows, tips) = in_topics(&tree, applied.as_deref().ok(), &folder, &mails, options, &mut result)?;
    if let Ok(tip) = &applied {
        result("the base has the blobs that the patches name".to_owned(), upstream::blobs(options, &tree, &mails)?);
        result("rustfmt".to_owned(), formatted(&tree, tip, &rustfmt)?);
        result("kernel-doc".to_owned(), rules::kernel_doc(&tree, tip)?);
        // Needs the network.
        if build.is_some() && source == Source::Package {
            own_files = Some(match upstream::unchanged(options, &tree, tip) {
                Ok(same) => CheckResult::new(&of, OWN_FILES, same),
                // No fault of the patches.
                Err(error) => {
                    let skipped = CheckResult::new(&of, OWN_FILES, Err(error.message));
                    CheckResult { verdict: Verdict::Skip, ..skipped }
                }
            });
        }
        result("MAINTAINERS gets no orphans".to_owned(), rules::no_orphans(&tree, tip)?);
        if base.linux.is_whole() {
            let lean = rules::switch_is_lean(&tree, tip, &base.switch)?;
            result("the switch touches no header that every file includes".to_owned(), lean);
        }
        bots::check(&mut tree, tip, options, &mut result)?;
        if let Some(only) = build {
            drop(tree);
            let wanted: Vec<_> = tips.iter().flatten().cloned().collect();
            let outcomes = each::each(options, tip, &mails, &wanted, only, &mut result)?;
            let built = rows.iter_mut().zip(&tips).filter(|(_, tip)| tip.is_some()).map(|(row, _)| row);
            built.zip(outcomes).for_each(|(row, outcome)| row.outcome = outcome);
        }
    }
    results.extend(own_files);
    Ok(Checked { results, topics: rows })
}

/// Checks the topics of the series whose tip is `tip`, if it applies. Gives their rows in the table with
/// one for the whole series, and for each what to build if it applied.
fn in_topics(
    tree: &Tree,
    tip: Option<&str>,
    folder: &Path,
    mails: &[PathBuf],
    options: &Options,
    result: &mut dyn FnMut(String, Result<String, String>),
) -> Result<(Vec<Row>, Vec<Option<Applied>>)> {
    let row = |topic: &str, patches: String, on: &str, applies: Option<bool>| Row {
        base: tree.used.version.clone(),
        topic: topic.to_owned(),
        patches,
        on: on.to_owned(),
        applies,
        outcome: Outcome::default(),
    };
    let all = topics::numbers(&(0..mails.len()));
    let all = row("all", all, "-", Some(tip.is_some()));
    // One that is not found was not tried.
    let unknown = |all: Row| -> Vec<Row> {
        let topics = options.base.topics.iter().map(|topic| row(&topic.name, "-".to_owned(), "-", None));
        topics.chain([all]).collect()
    };
    let Some(tip) = tip else { return Ok((unknown(all), Vec::new())) };
    let commits = tree.commits(tip)?;
    let subjects = tree.subjects(&commits)?;
    let whole = Applied { name: all.topic.clone(), commit: tip.to_owned(), fixed: true, alone: false };
    let cut = topics::cut(&options.base.topics, &subjects);
    let names = || options.base.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>().join(", ");
    result("topics are contiguous and in order".to_owned(), cut.as_ref().map(|_| names()).map_err(Clone::clone));
    let Ok(parts) = cut else {
        let rows = unknown(all);
        let tips = rows.iter().map(|row| (row.topic == whole.name).then(|| whole.clone())).collect();
        return Ok((rows, tips));
    };
    let cover = folder.join(COVER);
    let named = match fs::read_to_string(&cover) {
        // One text serves several kernels, with the numbers of the first.
        Ok(text) => {
            let own = options.base.all.iter().find(|linux| linux.cover == options.base.linux.cover);
            let own = own.is_some_and(|first| first.version == options.base.linux.version);
            topics::in_cover_letter(&text, &parts, own)?
        }
        Err(error) => Err(Error::io("read", &cover, error).message),
    };
    result("the cover letter names each topic".to_owned(), named);
    let (mut rows, mut tips) = (Vec::new(), Vec::new());
    let step = Step::start("git am of each topic");
    let goes = |part: &topics::Part| {
        let list = part.topic.list.as_ref();
        list.map(|list| rules::goes_to(tree, list, &mails[part.patches.clone()])).transpose()
    };
    // get_maintainer.pl takes as long as git.
    let (applied, lists) = thread::scope(|scope| {
        let lists = scope.spawn(|| parts.iter().map(goes).collect::<Vec<_>>());
        let apply = |at| topics::apply(&tree.repo, &tree.base, &parts, at, mails, &commits);
        let applied: Vec<_> = (0..parts.len()).map(apply).collect();
        (applied, lists.join())
    });
    let lists = lists.map_err(|_| Error::could_not("the check of the lists has panicked; report this"))?;
    for ((part, applied), goes) in parts.iter().zip(applied).zip(lists) {
        let name = &part.topic.name;
        let ground = topics::ground(&parts, part);
        result(
            format!("topic {name} applies to {ground}"),
            applied.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()),
        );
        for mail in mails[part.patches.clone()].iter().filter(|_| part.topic.stable) {
            result(format!("{} is for stable kernels", mailbox::stem(mail)), rules::for_stable(&rules::message(mail)?));
        }
        if let Some(goes) = goes? {
            result(format!("topic {name} goes to its list"), goes);
        }
        rows.push(row(name, topics::numbers(&part.patches), &ground, Some(applied.is_ok())));
        tips.push(applied.ok());
        if part.topic.alone && !part.needs.is_empty() {
            let applied = topics::alone(&tree.repo, &tree.base, part, mails);
            result(
                format!("topic {name} applies to {} alone", topics::BARE),
                applied.as_ref().map(|_| String::new()).map_err(|e| e.message.clone()),
            );
            rows.push(row(name, topics::numbers(&part.patches), topics::BARE, Some(applied.is_ok())));
            tips.push(applied.ok());
        }
    }
    step.finish("done");
    rows.push(all);
    tips.push(Some(whole));
    Ok((rows, tips))
}

/// Prints one line per check.
pub fn print(results: &[CheckResult], quiet: bool) {
    for result in results.iter().filter(|result| !quiet || result.verdict != Verdict::Pass) {
        let verdict = match result.verdict {
            Verdict::Pass => "ok    ",
            Verdict::Skip => "SKIP  ",
            _ => "FAILED",
        };
        let colon = if result.detail.is_empty() { "" } else { ": " };
        println!("{verdict} {}{colon}{}", result.name, result.detail);
    }
}

/// Whether the files in `folder` are what would be written now.
fn up_to_date(tree: &mut Tree, folder: &Path, options: &Options) -> Result<Result<String, String>> {
    let base = &options.base;
    let tip = match weave::weave(tree, options) {
        Ok(tip) => tip,
        Err(error) => return Ok(Err(error.message)),
    };
    let made = write_mails(tree, &tip, options)?;
    // Another point release has other line numbers and ids; the changes themselves must be the same.
    let exact = tree.base == base.linux.commit;
    let differ = |name: &str| {
        let (one, other) = (fs::read(made.path().join(name)), fs::read(folder.join(name)));
        match (one, other) {
            (Ok(one), Ok(other)) => {
                one != other && (exact && !same_but_functions(&one, &other) || !exact && !same_change(&one, &other))
            }
            _ => true,
        }
    };
    let names: BTreeSet<String> = series_files(made.path())?.into_iter().chain(series_files(folder)?).collect();
    Ok(match names.iter().find(|name| differ(name)) {
        Some(name) => Err(format!("{name} is not what sources and commits give; run `make series`")),
        None if exact => Ok("byte for byte".to_owned()),
        None => Ok(format!("up to line numbers: the base is {}, not the recorded one", tree.used.from)),
    })
}

/// Whether two mails differ at most in the function names behind `@@`, which git takes from
/// patterns that may change between its versions.
fn same_but_functions(one: &[u8], other: &[u8]) -> bool {
    let strip = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(bytes)
            .lines()
            .filter(|l| !of_thread(l))
            .map(|l| match l.strip_prefix("@@ ").and_then(|rest| rest.split_once(" @@")) {
                Some((range, _)) => range.to_owned(),
                None => l.to_owned(),
            })
            .collect()
    };
    strip(one) == strip(other)
}

/// Whether two mails make the same change, wherever it is in the file.
fn same_change(one: &[u8], other: &[u8]) -> bool {
    let strip = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let keep = |l: &&str| {
            !of_thread(l) && !l.starts_with("@@ ") && !l.starts_with("index ") && !l.starts_with("base-commit: ")
        };
        text.lines().filter(keep).map(str::to_owned).collect()
    };
    strip(one) == strip(other)
}

/// The types in the file at `path`: one per line, followed by the reason.
fn ignored(path: &Path) -> Result<Vec<String>> {
    let text = files::read_text(path)?;
    let mut types = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once(char::is_whitespace) {
            Some((name, reason)) if !reason.trim().is_empty() => types.push(name.to_owned()),
            _ => return Err(Error::could_not(format!("{}: {line} has no reason; add one after it", path.display()))),
        }
    }
    Ok(types)
}

/// The kernel's own style check, strict, except for the sign-off.
fn checkpatch(tree: &Path, mail: &Path, ignored: &[String]) -> Result<Result<String, String>> {
    let mut command = Command::new("perl");
    command.arg("scripts/checkpatch.pl").args(["--strict", "--no-signoff", "--terse", "--show-types", "--no-summary"]);
    let ignored: Vec<&str> = match only_selftests(mail)? {
        true => ignored.iter().map(|t| t.strip_prefix(SELFTESTS).unwrap_or(t)).collect(),
        false => ignored.iter().map(String::as_str).filter(|t| !t.starts_with(SELFTESTS)).collect(),
    };
    if !ignored.is_empty() {
        command.args(["--ignore", &ignored.join(",")]);
    }
    command.arg(mail).current_dir(tree).env("LC_ALL", "C").stdin(Stdio::null());
    let done =
        command.output().map_err(|e| Error::could_not(format!("cannot run perl: {e}; install the package perl")))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let complaints: Vec<&str> =
        said.lines().filter(|l| [": ERROR:", ": WARNING:", ": CHECK:"].iter().any(|k| l.contains(k))).collect();
    let place = |line: &&str| {
        let dir = mail.parent().map(|d| format!("{}/", d.display())).unwrap_or_default();
        line.replace(&dir, "")
    };
    Ok(match (done.status.success(), complaints.first()) {
        (true, None) => Ok(String::new()),
        (_, Some(_)) => Err(complaints.iter().map(place).collect::<Vec<_>>().join("; ")),
        // It must not pass by not running.
        (false, None) => {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(Error::could_not(format!(
                "checkpatch.pl failed without a complaint ({}): {}",
                done.status,
                why.lines().next_back().unwrap_or("no message")
            )));
        }
    })
}

/// What is before a type that is ignored in kselftests alone.
const SELFTESTS: &str = "selftests/";

/// Whether a patch changes nothing but kselftests, and MAINTAINERS for them.
fn only_selftests(mail: &Path) -> Result<bool> {
    let text = files::read_lossy(mail)?;
    // Both sides: a file that is removed has no new one.
    let mut files = text.lines().filter_map(|l| l.strip_prefix("--- a/").or_else(|| l.strip_prefix("+++ b/")));
    Ok(files.all(|f| f == "MAINTAINERS" || f.starts_with("tools/testing/selftests/")))
}

/// Only the person who submits the series may sign it off.
fn not_signed(mail: &Path) -> Result<Result<String, String>> {
    let text = files::read_lossy(mail)?;
    Ok(match text.lines().take_while(|l| !l.starts_with("diff --git ")).find(|l| l.starts_with("Signed-off-by:")) {
        Some(line) => Err(format!("it has \"{line}\"; remove it: the submitter adds it")),
        None => Ok(String::new()),
    })
}

/// Runs the kernel's rustfmt check over every Rust file that the series touches.
fn formatted(tree: &Tree, tip: &str, rustfmt: &Path) -> Result<Result<String, String>> {
    let touched = tree.repo.run(["diff", "--name-only", "--no-renames", "--diff-filter=d", &tree.base, tip])?;
    let dir = files::scratch()?;
    let config = dir.path().join(".rustfmt.toml");
    files::write_whole(&config, tree.repo.object("blob", &format!("{tip}:.rustfmt.toml"))?)?;
    let mut files = 0;
    for path in touched.lines().filter(|p| p.ends_with(".rs")) {
        let source = tree.repo.object("blob", &format!("{tip}:{path}"))?;
        // Through stdin, because rustfmt follows the `mod` lines of a file that it has by name.
        let mut command = Command::new(rustfmt);
        command.arg("--check").arg("--config-path").arg(dir.path()).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cannot = |e| Error::could_not(format!("cannot run {}: {e}", rustfmt.display()));
        let mut child = command.spawn().map_err(cannot)?;
        let stdin = child.stdin.take();
        let done = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut s| s.write_all(&source)));
            child.wait_with_output()
        })
        .map_err(cannot)?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            let said = String::from_utf8_lossy(&done.stdout);
            let line = said.lines().next().or(why.lines().next()).unwrap_or("no message");
            return Ok(Err(format!("{path}: {line}; run rustfmt on its source and `make series`")));
        }
        files += 1;
    }
    Ok(Ok(format!("{files} files")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails_are_compared_line_by_line() {
        let one = b"x\n@@ -1,2 +1,2 @@ f()\n-a\n+b\n";
        assert!(same_but_functions(one, b"x\n@@ -1,2 +1,2 @@ g()\n-a\n+b\n"));
        assert!(!same_but_functions(one, b"x\n@@ -2,2 +1,2 @@ f()\n-a\n+b\n"));
        assert!(same_but_functions(one, b"Message-ID: <x@localhost>\nx\n@@ -1,2 +1,2 @@ g()\n-a\n+b\n"));
        assert!(same_change(one, b"x\n@@ -9,2 +9,2 @@ f()\n-a\n+b\n"));
        assert!(!same_change(one, b"x\n@@ -1,2 +1,2 @@ f()\n-a\n+c\n"));
    }

    #[test]
    fn a_patch_of_selftests_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("m");
        let only = |text: &str| {
            fs::write(&mail, text).unwrap();
            only_selftests(&mail).unwrap()
        };
        let test = "--- /dev/null\n+++ b/tools/testing/selftests/riscv/x.c\n@@ -0,0 +1 @@\n+x\n";
        assert!(only(test));
        assert!(only(&format!("{test}--- a/MAINTAINERS\n+++ b/MAINTAINERS\n")));
        assert!(!only(&format!("{test}--- a/mm/x.c\n+++ b/mm/x.c\n")));
        assert!(!only(&format!("{test}--- a/mm/x.c\n+++ /dev/null\n")));
    }

    #[test]
    fn ignored_types_need_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i");
        fs::write(&path, "# comment\n\nA_TYPE  because\n").unwrap();
        assert_eq!(ignored(&path).unwrap(), ["A_TYPE"]);
        fs::write(&path, "A_TYPE\n").unwrap();
        assert!(ignored(&path).unwrap_err().message.contains("no reason"));
    }
}
