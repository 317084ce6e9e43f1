// SPDX-License-Identifier: GPL-2.0-only
//! The results as a page to look at: one file that needs no other, and no scripts.

use std::fmt::Write;
use std::path::Path;

use super::{Suite, Told};
use crate::ground::html::escaped;
use crate::trial::record::{CaseResult, CaseRow};
use crate::trial::report::{Row, repeats, shown};
use crate::trial::verdict::{Count, Verdict};

/// The page; `{…}` stand for what is filled in.
const PAGE: &str = include_str!("page.html");
/// Width of the plots, of the names left of the bars, and of what is right of them, in pixels.
const WIDTH: f64 = 1100.0;
const NAMES: f64 = 360.0;
const GAP: f64 = 90.0;
/// Height of a row of a plot.
const ROW: f64 = 20.0;
/// Lines of a console that are shown in front of and behind what is left out.
const MOST_LINES: usize = 3000;
/// Lines around the deciding one that are shown even then.
const AROUND: usize = 60;

/// The page.
pub fn page(root: &Path, told: &Told<'_>) -> String {
    let suites = told.suites();
    let rows = suites.iter().flat_map(|s| &s.rows).map(|row| row.verdict);
    let count: Count = rows.chain(told.checks.iter().map(|check| check.verdict)).collect();
    let (mut bad, mut boots) = (String::new(), String::new());
    for (at, suite) in suites.iter().enumerate() {
        let failed: Vec<&&Row> = suite.rows.iter().filter(|row| row.verdict != Verdict::Pass).collect();
        for row in &failed {
            let why = escaped(&suite.explained(row));
            let (class, name) = (class(row.verdict), escaped(&full_name(suite, row)));
            let _ = write!(
                bad,
                "<article class=\"{class}\"><h3>{} <a href=\"#boot{at}\">{name}</a></h3>\n<pre>{why}</pre></article>\n",
                row.verdict.name()
            );
        }
        boots += &boot(root, suite, at, !failed.is_empty());
    }
    for check in told.checks.iter().filter(|check| check.verdict != Verdict::Pass) {
        let (class, name, why) = (class(check.verdict), escaped(&check.name), escaped(&check.why));
        let word = check.verdict.name();
        let _ = write!(bad, "<article class=\"{class}\"><h3>{word} {name}</h3>\n<pre>{why}</pre></article>\n");
    }
    let again: Vec<String> = told.parts.iter().flat_map(|part| repeats(&part.rows)).collect();
    if !again.is_empty() {
        let _ = write!(bad, "<h2>Repeated</h2>\n<pre>{}</pre>\n", escaped(&again.join("\n")));
    }
    let state = if count.failed > 0 { "fail" } else { "pass" };
    PAGE.replace("{verb}", &escaped(told.verb))
        .replace("{title}", &escaped(&format!("lazymap {}: {count}", told.verb)))
        .replace("{state}", state)
        .replace("{count}", &escaped(&count.to_string()))
        .replace("{about}", &about(told))
        .replace("{bad}", &bad)
        .replace("{plots}", &plots(&suites))
        .replace("{table}", &table(&suites, told))
        .replace("{boots}", &boots)
}

/// What was run, when, and from what.
fn about(told: &Told<'_>) -> String {
    let about = told.about;
    let tool = &about.tool;
    let commit = tool.commit.as_deref().unwrap_or("unknown commit");
    let modified = if tool.modified { ", modified" } else { "" };
    let mut rows = vec![
        ("command".to_owned(), about.command.join(" ")),
        ("started".to_owned(), format!("{}, took {} s", about.started, about.seconds)),
        ("lazymap".to_owned(), format!("{} ({commit}{modified})", tool.version)),
        ("host".to_owned(), format!("{} CPUs, Linux {}", about.host_cpus, about.host_kernel)),
    ];
    if let Some(part) = told.parts.first() {
        let base = &part.base;
        rows.push((
            "kernel tree".to_owned(),
            format!("Linux {} from {}, commit {}", base.version, base.from, base.commit),
        ));
        rows.extend(part.toolchain.iter().map(|(tool, version)| (tool.clone(), version.clone())));
    }
    rows.extend(about.patches.iter().map(|(folder, hash)| (folder.clone(), format!("hash {hash}"))));
    rows.extend(about.sha256.iter().map(|(name, sum)| (name.clone(), format!("SHA-256 {sum}"))));
    rows.iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value)))
        .collect()
}

/// All tests, with their cases.
fn table(suites: &[Suite<'_>], told: &Told<'_>) -> String {
    let mut text = String::new();
    for (at, suite) in suites.iter().enumerate() {
        for row in &suite.rows {
            let machine = if row.harts > 0 { format!("{}, {} harts", row.machine, row.harts) } else { "-".to_owned() };
            let hits = row.stale_hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string());
            let scenario = row.scenario.as_deref().unwrap_or(suite.part.verb);
            let cases = cases(&row.cases);
            let cells = [scenario, &row.kernel, &machine].map(|cell| format!("<td>{}</td>", escaped(cell))).concat();
            let _ = writeln!(
                text,
                "<tr class=\"{}\">{cells}<td><a href=\"#boot{at}\">{}</a>{cases}</td><td>{}</td><td>{}</td>\
                 <td class=\"v\">{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{hits}</td></tr>",
                class(row.verdict),
                escaped(&row.test),
                escaped(&row.expected),
                escaped(&row.observed),
                row.verdict.name(),
                row.seconds,
            );
        }
    }
    for check in told.checks {
        let cells = [check.part.as_str(), "-", "-", &check.name].map(|c| format!("<td>{}</td>", escaped(c))).concat();
        let _ = writeln!(
            text,
            "<tr class=\"{}\">{cells}<td></td><td>{}</td><td class=\"v\">{}</td><td class=\"n\">{:.1}</td><td></td></tr>",
            class(check.verdict),
            escaped(&check.why),
            check.verdict.name(),
            check.seconds,
        );
    }
    text
}

/// The cases of a test, folded unless one of them is bad.
fn cases(all: &[CaseRow]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let flat: Vec<(String, &CaseRow)> = all.iter().flat_map(CaseRow::flat).collect();
    let bad = |case: &CaseRow| !matches!(case.result, CaseResult::Pass | CaseResult::Skip | CaseResult::Xfail);
    let open = if flat.iter().any(|(_, case)| bad(case)) { " open" } else { "" };
    let number = if flat.len() == 1 { "1 case".to_owned() } else { format!("{} cases", flat.len()) };
    let mut text = format!("<details{open}><summary>{number}</summary><ul>");
    for (path, case) in flat {
        let why = case.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let class = if bad(case) { "fail" } else { "" };
        let line = format!("{path}: {}{why}", case.result.word());
        let _ = write!(text, "<li class=\"{class}\">{}</li>", escaped(&line));
    }
    text + "</ul></details>"
}

/// A bar of a plot.
struct Bar {
    name: String,
    class: &'static str,
    value: f64,
    label: String,
    boot: usize,
}

/// Seconds of each test, and stale hits of each boot.
fn plots(suites: &[Suite<'_>]) -> String {
    let mut seconds = Vec::new();
    let mut hits = Vec::new();
    for (boot, suite) in suites.iter().enumerate() {
        for row in suite.rows.iter().filter(|row| row.harts > 0) {
            let label = format!("{:.1} s", row.seconds);
            seconds.push(Bar {
                name: full_name(suite, row),
                class: class(row.verdict),
                value: row.seconds,
                label,
                boot,
            });
        }
        if let Some(number) = suite.boot.and_then(|boot| boot.stale_hits) {
            let name = format!("{} {}", suite.part.verb, suite.name);
            hits.push(Bar { name, class: "hits", value: number as f64, label: number.to_string(), boot });
        }
    }
    let mut text = String::new();
    for (title, bars, log) in [("Seconds of each test", &seconds, false), ("Stale hits of each boot", &hits, true)] {
        if !bars.is_empty() {
            let open = if bars.len() <= 80 { " open" } else { "" };
            let scale = if log { " <small>logarithmic</small>" } else { "" };
            let plot = plot(title, bars, log);
            let _ = write!(text, "<details{open}><summary><h2>{title}{scale}</h2></summary>\n{plot}</details>\n");
        }
    }
    text
}

fn plot(title: &str, bars: &[Bar], log: bool) -> String {
    let scale = |value: f64| if log { (value + 1.0).log10() } else { value };
    let most = bars.iter().map(|bar| scale(bar.value)).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let height = ROW * bars.len() as f64 + 4.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n");
    for (at, bar) in bars.iter().enumerate() {
        let top = ROW * at as f64 + 2.0;
        let long = scale(bar.value) / most * (WIDTH - NAMES - GAP);
        let (middle, end) = (top + 14.0, NAMES + long + 6.0);
        let _ = writeln!(
            svg,
            "<a href=\"#boot{}\"><text class=\"name\" x=\"{:.0}\" y=\"{middle:.0}\">{}</text>\
             <rect class=\"{}\" x=\"{NAMES:.0}\" y=\"{top:.0}\" width=\"{long:.1}\" height=\"15\"/>\
             <text x=\"{end:.1}\" y=\"{middle:.0}\">{}</text></a>",
            bar.boot,
            NAMES - 8.0,
            escaped(&clipped(&bar.name)),
            bar.class,
            escaped(&bar.label),
        );
    }
    svg + "</svg>\n"
}

/// A name that fits left of a bar.
fn clipped(name: &str) -> String {
    const MOST: usize = 52;
    let length = name.chars().count();
    if length <= MOST {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(length - MOST + 1).collect::<String>())
    }
}

/// A boot: facts, reproducer and console.
fn boot(root: &Path, suite: &Suite<'_>, at: usize, open: bool) -> String {
    let title = escaped(&format!("{} {}", suite.part.verb, suite.name));
    let open = if open { " open" } else { "" };
    let mut text = format!("<details id=\"boot{at}\"{open}><summary>{title}</summary>\n");
    let Some(boot) = suite.boot else {
        return text + "<p>Nothing was booted.</p></details>\n";
    };
    let hits = boot.stale_hits.map_or_else(|| "not counted".to_owned(), |hits| hits.to_string());
    let met = boot.spurious_faults_met.map(|met| format!(", of which the tests met {met}")).unwrap_or_default();
    let facts = [
        ("ended", boot.end.clone()),
        ("started", format!("{}, took {} s", boot.started, boot.seconds)),
        ("kernel", format!("{}, commit {}", boot.kernel, boot.kernel_commit)),
        ("machine", format!("{}: -cpu {}, {} harts, {} MiB", boot.machine, boot.cpu, boot.harts, boot.memory_mib)),
        ("stale hits", hits + &met),
        ("limits", format!("{} s silent, {} s in all", boot.limits.silence, boot.limits.total)),
        ("command line", boot.append.clone()),
        ("to repeat it", format!("sh {}", shown(root, &suite.part.folder.join(&boot.reproduce)))),
    ];
    text += "<table class=\"facts\">\n";
    for (name, value) in facts {
        let _ = writeln!(text, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    text += "</table>\n";
    if let Ok(script) = std::fs::read_to_string(suite.part.folder.join(&boot.reproduce)) {
        let _ = writeln!(text, "<details><summary>reproduce.sh</summary><pre>{}</pre></details>", escaped(&script));
    }
    let deciding = boot.deciding.as_ref().map(|d| d.line);
    let console =
        suite.console().map_or_else(|| "<p>The console cannot be read.</p>".to_owned(), |text| lines(&text, deciding));
    text + &console + "</details>\n"
}

/// A console with the numbers of its lines, the deciding one marked.
fn lines(console: &str, deciding: Option<usize>) -> String {
    let all: Vec<&str> = console.lines().collect();
    let half = MOST_LINES / 2;
    let near = |number: usize| deciding.is_some_and(|d| number.abs_diff(d) <= AROUND);
    let mut text = "<pre class=\"console\">".to_owned();
    if let Some(line) = deciding.and_then(|d| all.get(d.wrapping_sub(1))) {
        let _ = writeln!(
            text,
            "<mark>decided by line {}: {}</mark>",
            deciding.unwrap_or_default(),
            escaped(line.trim_end())
        );
    }
    let mut left_out = 0;
    for (at, line) in all.iter().enumerate() {
        let number = at + 1;
        if at >= half && at + half < all.len() && !near(number) {
            left_out += 1;
            continue;
        }
        if left_out > 0 {
            let _ = writeln!(text, "<i>… {left_out} lines …</i>");
            left_out = 0;
        }
        let line = escaped(line.trim_end());
        let _ = match deciding {
            Some(d) if d == number => writeln!(text, "<mark><i>{number:>5}</i> {line}</mark>"),
            _ => writeln!(text, "<i>{number:>5}</i> {line}"),
        };
    }
    text + "</pre>\n"
}

fn full_name(suite: &Suite<'_>, row: &Row) -> String {
    let of = if row.scenario.is_some() { suite.name.to_owned() } else { format!("{} on {}", row.kernel, row.machine) };
    format!("{} {of}: {}", suite.part.verb, row.test)
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Error | Verdict::Miss => "error",
        Verdict::Skip => "skip",
    }
}
