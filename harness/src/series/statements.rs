// SPDX-License-Identifier: GPL-2.0-only
//! Mutants of C statements: what a patch adds to code that machine-code mutants do not reach, with one statement wrong.

use std::collections::BTreeSet;
use std::fmt;

/// Statements of more lines than these are not recognised.
const LONGEST: usize = 8;

/// How a statement is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The statement is removed.
    Deleted,
    /// The lines are what they were before the series.
    Reverted,
    /// The condition is the opposite.
    Negated,
    /// The condition always holds.
    Always,
    /// The condition never holds.
    Never,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted",
            Self::Reverted => "as it was before",
            Self::Negated => "condition negated",
            Self::Always => "condition always true",
            Self::Never => "condition never true",
        })
    }
}

/// A mutant: one statement of a file in another form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    pub file: String,
    /// Number of its first line, from 1.
    pub line: usize,
    pub kind: Kind,
    /// The statement in one line, and what takes its place; empty if nothing does.
    pub old: String,
    pub new: String,
    /// The whole file with it.
    pub text: String,
}

/// A hunk of `git diff -U0`: the lines that went, and which lines of the new file came, from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hunk {
    gone: Vec<String>,
    first: usize,
    came: usize,
}

/// The hunks of one file's `git diff -U0`.
fn hunks(diff: &str) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    for line in diff.lines() {
        if let Some(header) = line.strip_prefix("@@ ") {
            let new = header.split(' ').find_map(|word| word.strip_prefix('+'));
            let (first, came) = new.map_or(("1", "1"), |new| new.split_once(',').unwrap_or((new, "1")));
            let number = |text: &str| text.parse::<usize>().unwrap_or(0);
            hunks.push(Hunk { gone: Vec::new(), first: number(first).saturating_sub(1), came: number(came) });
        } else if let Some(hunk) = hunks.last_mut() {
            hunk.gone.extend(line.strip_prefix('-').map(str::to_owned));
        }
    }
    hunks
}

/// The mutants of the statements that `diff`, a `git diff -U0`, adds to the file of this name and new text.
pub fn mutants(file: &str, diff: &str, text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let hunks = hunks(diff);
    let added: BTreeSet<usize> = hunks.iter().flat_map(|h| h.first..h.first + h.came).collect();
    let comments = in_comments(&lines);
    // What goes on from the line before begins no statement.
    let begins = |line: usize| {
        let before = (0..line).rev().find(|l| !comments.contains(l) && !bare(lines[*l]).is_empty());
        before.is_none_or(|l| ends(lines[l]) || !is_inside(lines[l]) || bare(lines[l]).ends_with(':'))
    };
    let is_code =
        |line: &usize| added.contains(line) && !comments.contains(line) && is_inside(lines[*line]) && begins(*line);
    let mut all = Vec::new();
    let mut skip_to = 0;
    for at in (0..lines.len()).filter(is_code) {
        if at < skip_to {
            continue;
        }
        // A statement may take several lines.
        let end = (at..lines.len().min(at + LONGEST)).find(|line| ends(lines[*line])).unwrap_or(at);
        skip_to = end + 1;
        let statement = joined(&lines[at..=end]);
        let change = |kind, new: Option<String>| Mutant {
            file: file.to_owned(),
            line: at + 1,
            kind,
            old: statement.clone(),
            new: new.as_deref().map(str::trim).unwrap_or_default().to_owned(),
            text: replaced(&lines, (at, end), new.into_iter().map(|n| indented(lines[at], lines[end], &n)).collect()),
        };
        if let Some((condition, rest)) = condition(&statement) {
            all.push(change(Kind::Negated, Some(format!("if (!({condition})){rest}"))));
            all.push(change(Kind::Always, Some(format!("if (1){rest}"))));
            all.push(change(Kind::Never, Some(format!("if (0){rest}"))));
        } else if is_deletable(&statement) {
            // An empty statement, because it may be the whole body of an `if`.
            all.push(Mutant { new: String::new(), ..change(Kind::Deleted, Some(";".to_owned())) });
        }
    }
    for hunk in hunks.iter().filter(|h| h.gone.len() == 1 && h.came > 0) {
        let old = &hunk.gone[0];
        // If a comment was added in front, the statement is the last line.
        let at = hunk.first + hunk.came - 1;
        let is_alike = bare(old).chars().last() == bare(lines[at]).chars().last();
        if is_alike && is_inside(old) && is_code(&at) && ends(old) && ends(lines[at]) {
            all.push(Mutant {
                file: file.to_owned(),
                line: at + 1,
                kind: Kind::Reverted,
                old: joined(&lines[at..=at]),
                new: joined(&[old]),
                text: replaced(&lines, (at, at), vec![old.clone()]),
            });
        }
    }
    all
}

/// The lines that are comments, from 0.
fn in_comments(lines: &[&str]) -> BTreeSet<usize> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for (number, line) in lines.iter().enumerate() {
        let starts = line.trim_start().starts_with("/*");
        if inside || starts {
            found.insert(number);
        }
        inside = (inside || starts) && !line.contains("*/");
    }
    found
}

/// Whether a line is inside of a function or a macro: indented, and not for the preprocessor.
fn is_inside(line: &str) -> bool {
    line.starts_with('\t') && !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

/// A line without the backslash of a macro, and without a comment at its end.
fn bare(line: &str) -> &str {
    let line = line.trim_end().trim_end_matches('\\').trim();
    match line.rsplit_once("/*") {
        Some((code, comment)) if comment.ends_with("*/") => code.trim_end(),
        _ => line,
    }
}

fn ends(line: &str) -> bool {
    bare(line).ends_with([';', '{', '}']) || bare(line).starts_with("if (") && bare(line).ends_with(')')
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| bare(line)).collect::<Vec<_>>().join(" ")
}

/// The condition of an `if`, and what follows it.
fn condition(statement: &str) -> Option<(&str, &str)> {
    let inner = statement.strip_prefix("if (")?;
    let mut depth = 1;
    for (at, c) in inner.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some((&inner[..at], &inner[at + 1..]));
        }
    }
    None
}

/// Whether the rest still compiles without it, as a rule: a call, or an assignment to what was declared before.
fn is_deletable(statement: &str) -> bool {
    let Some(body) = statement.strip_suffix(';') else { return false };
    let target = body.split_once(" = ").map(|(target, _)| target);
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_->.[]()&".contains(c));
    match target {
        Some(target) => is_name(target),
        None => body.ends_with(')') && is_name(body.split('(').next().unwrap_or_default()),
    }
}

/// `new` with the indentation of one line, and the backslash of another.
fn indented(first: &str, last: &str, new: &str) -> String {
    let indent: String = first.chars().take_while(|c| c.is_whitespace()).collect();
    let end = if last.trim_end().ends_with('\\') { " \\" } else { "" };
    format!("{indent}{new}{end}")
}

/// The file with other lines in place of some.
fn replaced(lines: &[&str], (first, last): (usize, usize), new: Vec<String>) -> String {
    let before = lines[..first].iter().map(|l| (*l).to_owned());
    let after = lines[last + 1..].iter().map(|l| (*l).to_owned());
    let all: Vec<String> = before.chain(new).chain(after).collect();
    all.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#include <a.h>\n\
void f(void)\n\
{\n\
\tint cpu = g();\n\
\n\
\t/* Why: order();\n\
\t * is meant */\n\
\tsmp_mb();\n\
\tfor_each_cpu_and(i, mask, online) {\n\
\t\tif (unlikely(x(i) != y))\n\
\t\t\tz->word = a(i) +\n\
\t\t\t\t  b;\n\
\t}\n\
\told();\n\
}\n\
#define M(p)\t\\\n\
\tcall(p);\t\\\n\
\tmore(p)\n";

    /// A diff that adds lines FIRST to LAST, numbered from 1, in place of `gone`.
    fn diff(first: usize, last: usize, gone: &[&str]) -> String {
        let gone: String = gone.iter().map(|line| format!("-{line}\n")).collect();
        format!("--- a/f\n+++ b/f\n@@ -1,{} +{first},{} @@ f()\n{gone}", gone.len(), last + 1 - first)
    }

    fn made(diff: &str) -> Vec<(usize, Kind, String, String)> {
        mutants("f.c", diff, TEXT).into_iter().map(|m| (m.line, m.kind, m.old, m.new)).collect()
    }

    #[test]
    fn statements_are_changed_and_comments_are_not() {
        let own = |s: &str| s.to_owned();
        let condition = |kind, new: &str| (10, kind, own("if (unlikely(x(i) != y))"), own(new));
        assert_eq!(
            made(&diff(4, 12, &[])),
            [
                (8, Kind::Deleted, own("smp_mb();"), own("")),
                condition(Kind::Negated, "if (!(unlikely(x(i) != y)))"),
                condition(Kind::Always, "if (1)"),
                condition(Kind::Never, "if (0)"),
                (11, Kind::Deleted, own("z->word = a(i) + b;"), own("")),
            ]
        );
        assert_eq!(made(&diff(17, 17, &[])), [(17, Kind::Deleted, own("call(p);"), own(""))]);
        assert_eq!(made(&diff(1, 3, &[])), []);
        // Not in a function, a line that goes on from the one before, and one with a comment.
        let more = "EXPORT_SYMBOL_GPL(f);\nvoid g(void)\n{\n\ta(b,\n\t  c);\n\td(); /* e */\n\tf();\n}\n";
        let all: Vec<_> = mutants("f.c", &diff(1, 8, &[]), more).into_iter().map(|m| (m.line, m.old)).collect();
        assert_eq!(all, [(4, own("a(b, c);")), (6, own("d();")), (7, own("f();"))]);
        assert_eq!(mutants("f.c", &diff(5, 5, &[]), more), []);
    }

    #[test]
    fn a_line_that_took_another_ones_place_is_reverted() {
        let old = "\tfor_each_cpu(i, mask) {";
        let all = mutants("f.c", &diff(6, 9, &[old]), TEXT);
        let reverted = all.iter().find(|m| m.kind == Kind::Reverted).unwrap();
        assert_eq!((reverted.line, &*reverted.old), (9, "for_each_cpu_and(i, mask, online) {"));
        assert_eq!(reverted.text, TEXT.replace("for_each_cpu_and(i, mask, online)", "for_each_cpu(i, mask)"));
        // Nothing takes the place of a brace.
        let brace = mutants("f.c", &diff(9, 13, &["\told();"]), TEXT);
        assert!(brace.iter().all(|m| m.kind != Kind::Reverted), "{brace:?}");
        // What was there in more lines is not understood.
        assert!(mutants("f.c", &diff(6, 9, &[old, old]), TEXT).iter().all(|m| m.kind != Kind::Reverted));
    }

    #[test]
    fn only_the_statement_differs() {
        let all = mutants("f.c", &diff(1, 18, &[]), TEXT);
        let text = |line, kind| &*all.iter().find(|m| m.line == line && m.kind == kind).unwrap().text;
        assert_eq!(text(8, Kind::Deleted), TEXT.replace("smp_mb();", ";"));
        assert_eq!(text(11, Kind::Deleted), TEXT.replace("z->word = a(i) +\n\t\t\t\t  b;", ";"));
        assert_eq!(text(17, Kind::Deleted), TEXT.replace("call(p);\t", "; "));
        assert_eq!(text(10, Kind::Never), TEXT.replace("unlikely(x(i) != y)", "0"));
    }
}
