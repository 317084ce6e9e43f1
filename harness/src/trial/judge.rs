// SPDX-License-Identifier: GPL-2.0-only
//! Compares what was seen with what is expected.
//!
//! Anything unexpected is a failure, and what could not be observed is an error; nothing passes because
//! nothing was seen.

use lazymap_console::end::{self, End};
use lazymap_console::ktap::{Status, TIMEOUT};
use lazymap_console::log::Line;

use super::expect::{Expect, Observation, Sign};
use super::met;
use super::plan::Trial;
use super::record;
use super::report::Row;
use super::seen::{BootSeen, TestSeen};
use super::verdict::Verdict;

/// Compares what was seen of a trial's boot with what is expected.
pub fn judge(trial: &Trial, seen: &BootSeen<'_>) -> Vec<Row> {
    let wanted = trial.rows();
    // The end of the boot is the result of the test that was running: the first one without a result,
    // or the last one if the machine went down later.
    let running = seen.tests.iter().position(|t| t.result.is_none()).unwrap_or(wanted.len().saturating_sub(1));
    let stale_hits = seen.counters.as_ref().ok().copied().flatten().map(|c| c.stale_hits);
    let mut rows = Vec::new();
    for (at, (test, expect)) in wanted.into_iter().enumerate() {
        let missing = TestSeen::default();
        let own = seen.tests.get(at).unwrap_or(&missing);
        let Judgement { observed, verdict, why } = match &expect {
            Expect::Caught(observation) => judge_control(observation, trial, seen, own),
            expect => judge_test(expect, seen, own, at, running),
        };
        rows.push(Row {
            scenario: trial.scenario.clone(),
            kernel: trial.kernel.clone(),
            machine: trial.machine.name(),
            harts: trial.machine.harts,
            test,
            expected: expect.name(),
            observed,
            verdict,
            stale_hits,
            seconds: record::tenths(own.seconds),
            console: format!("{}.log", trial.name),
            why,
            repeat: trial.repeat,
            cases: Vec::new(),
        });
    }
    // It is about all tests together, so it needs all of them to have come to their end.
    if let (Some(percent), Some(hits)) = (trial.met, stale_hits)
        && rows.iter().all(|row| row.verdict == Verdict::Pass)
        && let Some(why) = met::too_few(&seen.tests, hits, percent)
        && let Some(last) = rows.last_mut()
    {
        last.verdict = Verdict::Fail;
        last.why.push(why);
    }
    rows
}

/// The judgement of one test.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What was observed, in a word or two.
    pub observed: String,
    pub verdict: Verdict,
    /// Why, if it is not a pass.
    pub why: Vec<String>,
}

fn judge_test(expect: &Expect, seen: &BootSeen<'_>, own: &TestSeen<'_>, at: usize, running: usize) -> Judgement {
    let mut why = Vec::new();
    let overflow = matches!(expect, Expect::StackOverflow);
    let (observed, verdict) = match &seen.end {
        Err(message) => (format!("not run: {message}"), Verdict::Error),
        Ok(end) if at > running => {
            why.push(format!("the boot ended before: {end}"));
            ("not reached".to_owned(), Verdict::Miss)
        }
        Ok(end) if at == running && *end != End::Finished => {
            why.extend(own.running.as_ref().map(|inside| format!("it was in {inside}").replace("in after", "after")));
            why.extend(seen.hint.map(|hint| format!("hint: {hint}")));
            judge_end(overflow, end, seen.ready)
        }
        Ok(_) => judge_result(expect, own, &mut why),
    };
    if verdict != Verdict::Pass {
        return Judgement { observed, verdict, why };
    }
    // It looks good. Whether it is depends on what else was seen.
    let mut failures = Vec::new();
    let mut errors = Vec::new();
    if !overflow {
        failures.extend(
            own.forbidden
                .iter()
                .map(|f| format!("line {} of the console must not be there: {}: {}", f.line, f.kind, f.text)),
        );
        errors.extend(
            own.unknown.iter().map(|f| {
                format!("line {} of the console is an unknown kind of report, {}: {}", f.line, f.kind, f.text)
            }),
        );
    }
    for (name, status) in &seen.others {
        let list = if *status < Status::Miss { &mut failures } else { &mut errors };
        list.push(format!("{name} says {status}, and is none of the tests that were to run"));
    }
    if matches!(expect, Expect::Survive) && own.work.unwrap_or(0) == 0 {
        failures.push("the test reports no touches and no checks".to_owned());
    }
    match &seen.counters {
        Err(what) => errors.push(what.clone()),
        Ok(counters) if !matches!(expect, Expect::Pass) && counters.is_none_or(|c| c.stale_hits == 0) => {
            failures.push(NOTHING_STALE.to_owned());
        }
        Ok(_) => {}
    }
    if let Ok(counters) = &seen.counters {
        errors.extend(met::contradiction(&seen.tests, counters.map(|c| c.stale_hits)));
    }
    errors.extend(doubts(seen));
    let verdict = match (failures.is_empty(), errors.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Error,
        (true, true) => Verdict::Pass,
    };
    why.extend(failures);
    why.extend(errors);
    Judgement { observed, verdict, why }
}

/// Why the results of a boot that ended well may mean nothing.
fn doubts(seen: &BootSeen<'_>) -> Vec<String> {
    let lacking = seen.lacking.iter().map(|l| format!("the console lacks what this scenario must show: {l}"));
    let problem = seen.problem.iter().map(|p| format!("the results cannot be trusted: {p}"));
    lacking.chain(problem).collect()
}

/// The reason for a run without a stale hit.
const NOTHING_STALE: &str = "no stale translation was ever used: this machine proves nothing";

/// Judges a test that was running when the boot ended.
fn judge_end(overflow: bool, end: &End, ready: bool) -> (String, Verdict) {
    let verdict = match end {
        // A kernel that dies on the way to its tests has failed them; anything else that keeps it from
        // reaching them says nothing about them.
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } if !ready => Verdict::Fail,
        _ if !ready => Verdict::Error,
        End::NeverBooted
        | End::NotUnderstood { .. }
        | End::QemuFailed { .. }
        | End::Incomplete { .. }
        | End::Finished => Verdict::Error,
        End::StackOverflow { .. } if overflow => Verdict::Pass,
        End::StackOverflow { .. } | End::Panic { .. } | End::Oops { .. } | End::Hang(_) | End::Timeout(_) => {
            Verdict::Fail
        }
    };
    (described(end, ready), verdict)
}

/// The end of a boot in a word or two, and whether any test was reached.
pub fn described(end: &End, ready: bool) -> String {
    let kernel_failed =
        !matches!(end, End::NeverBooted | End::NotUnderstood { .. } | End::QemuFailed { .. } | End::Incomplete { .. });
    let place = if kernel_failed && !ready { " before any test" } else { "" };
    format!("{end}{place}")
}

/// Judges a test that has its own result, in a boot that ended well or later.
fn judge_result(expect: &Expect, own: &TestSeen<'_>, why: &mut Vec<String>) -> (String, Verdict) {
    let Some((status, reason)) = &own.result else {
        why.push("the guest finished, but this test has no result".to_owned());
        return ("no result".to_owned(), Verdict::Error);
    };
    why.extend(own.failed.iter().cloned());
    let observed = result_text(*status, reason.as_deref());
    let verdict = match (status, expect) {
        (Status::Error, _) => Verdict::Error,
        (Status::Pass, Expect::Pass | Expect::Survive) => Verdict::Pass,
        _ => Verdict::Fail,
    };
    (observed, verdict)
}

/// A result and its reason, as `results.json` has it.
fn result_text(status: Status, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_string(),
    }
}

/// Compares what was seen of a control with what must be seen.
fn judge_control(wanted: &Observation, trial: &Trial, seen: &BootSeen<'_>, own: &TestSeen<'_>) -> Judgement {
    let end = match &seen.end {
        Err(message) => {
            let observed = format!("not run: {message}");
            return Judgement { observed, verdict: Verdict::Error, why: Vec::new() };
        }
        Ok(end) => end,
    };
    let observed = observed(trial, end, seen, own);
    let mut why = Vec::new();
    let uncertain = match end {
        End::NeverBooted | End::NotUnderstood { .. } | End::QemuFailed { .. } => true,
        // A guest without tests ends without results.
        End::Incomplete { .. } => !(seen.ready && trial.at_boot.is_some()),
        _ => false,
    };
    if uncertain {
        return Judgement { observed, verdict: Verdict::Error, why };
    }
    let mut caught = false;
    for sign in &wanted.signs {
        match shows(*sign, wanted, trial, end, seen, own) {
            Ok(()) => caught = true,
            Err(reason) => why.push(format!("no {sign}: {reason}")),
        }
    }
    if !caught {
        return Judgement { observed, verdict: Verdict::Fail, why };
    }
    why = others_failed(wanted, own);
    if !why.is_empty() {
        return Judgement { observed, verdict: Verdict::Fail, why };
    }
    let mut verdict = Verdict::Pass;
    // A kernel that died has results that end in the middle, and need not have shown all that it would.
    if *end == End::Finished && trial.at_boot.is_none() {
        why.extend(doubts(seen));
    }
    if trial.machine.model.stale {
        match &seen.counters {
            Err(what) => why.push(what.clone()),
            Ok(counters) if counters.is_none_or(|c| c.stale_hits == 0) => {
                why.insert(0, NOTHING_STALE.to_owned());
                verdict = Verdict::Fail;
            }
            Ok(_) => {}
        }
    }
    if verdict == Verdict::Pass && !why.is_empty() {
        verdict = Verdict::Error;
    }
    Judgement { observed, verdict, why }
}

/// In which other cases than those that must fail a test failed, or which did not.
fn others_failed(wanted: &Observation, own: &TestSeen<'_>) -> Vec<String> {
    if wanted.fails.is_empty() {
        return Vec::new();
    }
    let is_wanted = |name: &String| wanted.fails.contains(name);
    let failed = |status: Status| status >= Status::Xpass;
    let mut why: Vec<String> = Vec::new();
    for (name, status) in own.cases.iter().filter(|(name, status)| failed(*status) != is_wanted(name)) {
        why.push(format!("{name} says {status}"));
    }
    // What ended the boot or had to be ended has no result, and the rest of the cases has none, either.
    let ended = own.result.as_ref().is_some_and(|(_, reason)| !timed_out(reason.as_deref()));
    if ended {
        let missing = wanted.fails.iter().filter(|name| own.cases.iter().all(|(other, _)| other != *name));
        why.extend(missing.map(|name| format!("{name} has no result")));
    }
    why
}

/// What was observed, in a word or two.
fn observed(trial: &Trial, end: &End, seen: &BootSeen<'_>, own: &TestSeen<'_>) -> String {
    let died = !matches!(end, End::Finished | End::Incomplete { .. });
    match &own.result {
        Some((status, reason)) if !died => result_text(*status, reason.as_deref()),
        _ if seen.ready && trial.at_boot.is_some() => "the tests were reached".to_owned(),
        _ => described(end, seen.ready),
    }
}

/// Whether a sign was seen, or why not.
fn shows(
    sign: Sign,
    wanted: &Observation,
    trial: &Trial,
    end: &End,
    seen: &BootSeen<'_>,
    own: &TestSeen<'_>,
) -> Result<(), String> {
    let at_boot = trial.at_boot.is_some();
    // Next to other signs, boot-death means that the boot dies before it gets to the test.
    let early = at_boot || sign == Sign::BootDeath;
    // The boot ended at the right time: before any test, or while the test was running.
    let in_time = if early { !seen.ready } else { seen.ready && own.result.is_none() };
    let when = || match (early, seen.ready) {
        (true, _) => "the guest got as far as running tests",
        (false, false) => "the guest did not get as far as running tests",
        (false, true) => "the test had ended",
    };
    let death = |right: bool| match (right, in_time) {
        (true, true) => Ok(()),
        (true, false) => Err(when().to_owned()),
        (false, _) => Err(format!("the boot ended in another way: {end}")),
    };
    let symbol = || match &wanted.symbol {
        Some(symbol) if !has_symbol(seen.report, symbol) => Err(format!("{symbol} is not in the report")),
        _ => Ok(()),
    };
    let report = || match &wanted.text {
        Some(text) if !seen.report.iter().any(|line| text.is_match(&line.text)) => {
            Err("nothing in the report matches text".to_owned())
        }
        _ => symbol(),
    };
    let matches = |text: &str| wanted.text.as_ref().is_none_or(|t| t.is_match(text));
    match sign {
        Sign::StackOverflow => death(matches!(end, End::StackOverflow { .. })),
        Sign::Oops => death(matches!(end, End::Oops { .. })).and_then(|()| report()),
        Sign::Panic => {
            let right = matches!(end, End::Panic { headline } if matches(headline));
            death(right).and_then(|()| symbol())
        }
        // Silence has no report.
        Sign::BootDeath if matches!(end, End::Hang(_) | End::Timeout(_)) => death(true),
        Sign::BootDeath => {
            let right = matches!(end, End::StackOverflow { .. } | End::Oops { .. } | End::Panic { .. });
            death(right).and_then(|()| report())
        }
        Sign::Hang => match &own.result {
            // The guest is alive and has ended the test, or has tried to.
            Some((Status::Fail, reason)) if timed_out(reason.as_deref()) => Ok(()),
            _ => death(matches!(end, End::Hang(_) | End::Timeout(_))),
        },
        Sign::Warning => {
            let messages = if at_boot { seen.boot } else { own.messages };
            // What tests and other programs print is no message of the kernel.
            let of_kernel = |m: &Line| m.is_kernels(seen.stamped) && !end::is_result(&m.text);
            let text = |m: &Line| wanted.text.as_ref().is_some_and(|t| t.is_match(&m.text));
            let found = messages.iter().any(|m| of_kernel(m) && text(m));
            if found { Ok(()) } else { Err("no message from that time matches text".to_owned()) }
        }
        Sign::TestFailure => match &own.result {
            Some((Status::Fail, reason)) if !timed_out(reason.as_deref()) => match &wanted.text {
                Some(text) if !own.notes.iter().any(|n| text.is_match(n)) => {
                    Err("nothing that the test printed matches text".to_owned())
                }
                _ => Ok(()),
            },
            _ => Err("the test did not report a failure".to_owned()),
        },
    }
}

/// Whether the guest had to end a test; what ran inside may follow.
pub fn timed_out(reason: Option<&str>) -> bool {
    reason.and_then(|reason| reason.strip_prefix(TIMEOUT)).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// Whether a report says that it happened in a function, or in what that called last. Ignores the call
/// trace, which always has the entry code in it.
fn has_symbol(report: &[Line], symbol: &str) -> bool {
    // Kernels before 5.11 print `epc: `.
    let registers = report.iter().filter_map(|line| line.text.trim_start().split_once(": "));
    let mut places =
        registers.filter(|(name, _)| matches!(name.trim_end(), "epc" | "ra")).map(|(_, place)| place.trim_start());
    places.any(|place| place.strip_prefix(symbol).is_some_and(|rest| rest.starts_with("+0x")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lazymap_console::log::Log;

    #[test]
    fn a_symbol_is_a_whole_name() {
        let has = |line: &str, symbol: &str| has_symbol(&Log::of(line).lines, symbol);
        assert!(has("epc : handle_exception+0xa8/0x130", "handle_exception"));
        assert!(has(" ra : kasan_unpoison+0x1c/0x60", "kasan_unpoison"));
        assert!(has("epc: kasan_unpoison+0x1c/0x60", "kasan_unpoison"));
        assert!(!has("[<ffffffff80012345>] handle_exception+0x1c/0x60", "handle_exception"));
        assert!(!has("epc : do_handle_exception+0xa8/0x130", "handle_exception"));
        assert!(!has("epc : handle_exception_more+0xa8/0x130", "handle_exception"));
    }
}
