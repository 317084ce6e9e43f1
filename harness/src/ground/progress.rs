// SPDX-License-Identifier: GPL-2.0-only
//! What the user sees while a long step runs: a moving bar on a terminal, plain lines otherwise.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars of all steps: several may run side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Steps print nothing, and neither do checks that passed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Sets whether steps, and checks that passed, print nothing.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Whether what is as expected is not worth a line.
pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A long step; prints when it starts and, at its end, how long it took.
pub struct Step {
    name: String,
    started: Instant,
    bar: ProgressBar,
    plain: bool,
    /// Lines that the step is expected to print; 0 when unknown.
    expected: Cell<u64>,
    ended: Cell<bool>,
}

impl Step {
    /// Announces a step.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let plain = BARS.is_hidden();
        let mut bar = ProgressBar::hidden();
        if quiet() {
        } else if plain {
            eprintln!("  {name} ...");
        } else {
            bar = BARS.add(ProgressBar::no_length());
            style(&bar, "  {spinner} {msg} [{elapsed}]");
            bar.set_message(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { name, started: Instant::now(), bar, plain, expected: Cell::new(0), ended: Cell::new(false) }
    }

    /// Sets about how many lines the step will print, so that the bar can show how far it is.
    pub fn expect_lines(&self, lines: u64) {
        self.measure(lines);
        self.expected.set(lines);
    }

    /// Shows the latest detail, for instance the last line that a build printed; terminals only.
    /// A line that starts with `[3/20]`, as ninja prints them, moves the bar.
    pub fn detail(&self, text: &str) {
        if self.plain || quiet() {
            return;
        }
        if self.expected.get() > 0 {
            // An estimate must not claim to be complete while the step still runs.
            self.bar.set_position((self.bar.position() + 1).min(self.expected.get().saturating_sub(1)));
        } else if let Some((at, of)) = fraction(text) {
            self.measure(of);
            self.bar.set_position(at);
        }
        let text: String = text.chars().take(60).collect();
        self.bar.set_message(format!("{}: {text}", self.name));
    }

    /// Prints a whole line to stderr without disturbing the bar.
    pub fn println(&self, line: &str) {
        BARS.suspend(|| eprintln!("{line}"));
    }

    /// Ends the step; `outcome` is a word or two, such as `done` or `unchanged`.
    pub fn finish(self, outcome: &str) {
        self.ended.set(true);
        self.clear();
        let seconds = self.started.elapsed().as_secs_f64();
        if quiet() {
        } else if self.plain {
            eprintln!("  {}: {outcome} ({seconds:.1} s)", self.name);
        } else {
            self.println(&format!("  ✓ {}: {outcome} ({seconds:.1} s)", self.name));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }

    fn measure(&self, of: u64) {
        if !self.plain && !quiet() && self.bar.length() != Some(of) {
            self.bar.set_length(of);
            style(&self.bar, "  {bar:20} {percent:>3} % {msg} [{elapsed}]");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // A step that fails leaves no half-drawn bar in front of the error's line.
        if !self.ended.get() {
            self.clear();
        }
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// `[3/20] rest` as (3, 20).
fn fraction(text: &str) -> Option<(u64, u64)> {
    let (at, of) = text.strip_prefix('[')?.split_once(']')?.0.split_once('/')?;
    Some((at.trim().parse().ok()?, of.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn ninja_lines_are_fractions() {
        assert_eq!(fraction("[12/1495] Compiling C object x.o"), Some((12, 1495)));
        assert_eq!(fraction("[  OK  ] x"), None);
        assert_eq!(fraction("  CC  x.o"), None);
    }
}
