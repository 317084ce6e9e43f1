// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap cost --machine`: what the patches cost QEMU itself, counted in instructions of the host.
//!
//! One hart boots from the firmware to the panic for lack of an init, under callgrind, in a QEMU without the patches and
//! in the one with them. Instructions drive the guest's clock, and the host's stands still: without that, two runs of
//! the same QEMU differ by 10 %. The QEMU without patches runs twice, which shows how much is noise.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::boot::machine::{APPEND, Machine};
use crate::boot::models;
use crate::build::kernel::Config;
use crate::build::qemu;
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Exit, Result};
use crate::ground::progress::Step;
use crate::ground::table::{self, Align, Cell};
use crate::ground::{cmd, files};
use crate::options::Options;
use crate::source::host;
use crate::trial::report::shown;

/// What all properties off may cost, in percent.
const MOST: f64 = 0.5;
/// Most that two runs of one QEMU may differ, in percent.
const NOISE: f64 = 0.1;
/// Machines that are counted as well if `full` is asked for: one for each mode.
const MODES: [&str; 8] = ["stale", "absent", "line", "late", "late-store", "random", "valid", "valid-all"];
/// The clock that stands still.
const CLOCK: &str = include_str!("still_clock.c");
/// How each boot must end.
const END: &str = "Kernel panic - not syncing";

/// A boot and its instructions.
#[derive(Clone, Debug, Serialize)]
struct Counted {
    name: String,
    instructions: u64,
    /// Beyond the first run without the patches, in percent.
    added: f64,
}

/// What is the same in all boots.
struct Counter {
    valgrind: PathBuf,
    clock: PathBuf,
    firmware: PathBuf,
    image: PathBuf,
    folder: PathBuf,
}

/// Counts, prints a table and the verdict, and writes `out/cost/machine/results.json`; `full` adds each mode of the
/// machine. Each boot takes minutes.
///
/// # Errors
/// When something is missing, cannot be built, or does not boot.
pub fn run(options: &Options, full: bool) -> Result<Exit> {
    if !qemu::is_ours() {
        return Err(Error::usage("cost --machine compares two builds of one source; unset LAZYMAP_QEMU"));
    }
    let valgrind = host::in_path("valgrind");
    let valgrind = valgrind.ok_or_else(|| Error::could_not("valgrind, which counts, is missing; install it"))?;
    let mut lab = Lab::open(options)?;
    let kernel = lab.kernel(&Config::default())?;
    let bare = qemu::bare(options)?;
    let patched = lab.bench.qemu.binary.clone();
    let folder = options.place("cost").join("machine");
    fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let clock = still_clock(&folder)?;
    let firmware = lab.bench.firmware.clone();
    let counter = Counter { valgrind, clock, firmware, image: kernel.image, folder };

    let plain = machine("plain")?;
    let without = [counter.count("without", &bare, &plain)?, counter.count("without-again", &bare, &plain)?];
    let off = counter.count("off", &patched, &plain)?;
    let counted = |name: &str, instructions| {
        let added = percent(instructions, without[0]);
        Counted { name: name.to_owned(), instructions, added }
    };
    let mut all = vec![
        counted("without the patches", without[0]),
        counted("the same again", without[1]),
        counted("all properties off", off),
    ];
    for mode in MODES.iter().filter(|_| full) {
        all.push(counted(mode, counter.count(mode, &patched, &machine(mode)?)?));
    }
    let json = serde_json::to_string_pretty(&all).map_err(|e| Error::could_not(e.to_string()))?;
    files::write_whole(&counter.folder.join("results.json"), json + "\n")?;
    println!("\n{}", text(&all));
    let (exit, verdict) = judged(without, off);
    println!("{verdict}\nConsoles and counts: {}", shown(&options.root, &counter.folder));
    Ok(exit)
}

/// One hart of this model, on which each run executes the same instructions.
fn machine(model: &str) -> Result<Machine> {
    Ok(Machine { harts: 1, icount: true, seed: Some(1), ..Machine::new(models::find(model)?) })
}

/// How much more `count` is than `of`, in percent.
fn percent(count: u64, of: u64) -> f64 {
    (count as f64 / of as f64 - 1.0) * 100.0
}

/// Whether the patches cost too much: by both runs without them, and the one with all properties off.
fn judged(without: [u64; 2], off: u64) -> (Exit, String) {
    let noise = percent(without[1], without[0]).abs();
    if noise > NOISE {
        let why = "two runs of the same QEMU differ";
        return (Exit::CouldNot, format!("not certain: {why} by {noise:.2} %, and may by {NOISE:.2} %"));
    }
    let added = percent(off, without[0]);
    let exit = if added > MOST { Exit::Failed } else { Exit::Pass };
    (
        exit,
        format!("all properties off cost {added:.2} % more instructions of the host; at most {MOST:.2} % are allowed"),
    )
}

fn text(all: &[Counted]) -> String {
    let mut rows: Vec<Vec<Cell>> = vec![["machine", "instructions", "added %"].map(Cell::from).into()];
    rows.extend(all.iter().map(|counted| {
        let numbers = [counted.instructions.to_string(), format!("{:.2}", counted.added)];
        std::iter::once(Cell::from(counted.name.as_str())).chain(numbers.map(Cell::from)).collect()
    }));
    table::text(&[Align::Left, Align::Right, Align::Right], &rows, false)
}

/// Compiles the clock.
fn still_clock(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("still_clock.c"), folder.join("still_clock.so"));
    files::write_whole(&source, CLOCK)?;
    cmd::output(cmd::plain("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source))?;
    Ok(library)
}

impl Counter {
    /// Boots, and returns how many instructions of the host that took.
    fn count(&self, name: &str, qemu: &Path, machine: &Machine) -> Result<u64> {
        let (console, log) =
            (self.folder.join(format!("{name}.log")), self.folder.join(format!("{name}.valgrind.log")));
        let step = Step::start(format!("count {name}"));
        files::remove(&console)?;
        let mut command = cmd::plain(&self.valgrind);
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(qemu).args(machine.arguments());
        command.arg("-bios").arg(&self.firmware).arg("-kernel").arg(&self.image).args(["-append", APPEND]);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial"]);
        command.arg(format!("file:{}", console.display())).env("LD_PRELOAD", &self.clock);
        cmd::logged(&mut command, &log, &step)?;
        let wrong =
            |what: &str, of: &Path| Error::could_not(format!("{} has no `{what}`: the count is void", of.display()));
        let printed = fs::read(&console).map_err(|e| Error::io("read", &console, e))?;
        if !String::from_utf8_lossy(&printed).contains(END) {
            return Err(wrong(END, &console));
        }
        let said = fs::read(&log).map_err(|e| Error::io("read", &log, e))?;
        let count = collected(&String::from_utf8_lossy(&said)).ok_or_else(|| wrong(COLLECTED, &log))?;
        step.finish(&count.to_string());
        Ok(count)
    }
}

/// What callgrind prints before its count.
const COLLECTED: &str = "Collected : ";

fn collected(text: &str) -> Option<u64> {
    let (_, rest) = text.lines().rev().find_map(|line| line.split_once(COLLECTED))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_callgrind() {
        let text = "==7== Events    : Ir\n==7== Collected : 8521144057\n==7== \n==7== I   refs:      8,521,144,057\n";
        assert_eq!(collected(text), Some(8_521_144_057));
        assert_eq!(collected("==7== Collected : \n"), None);
        assert_eq!(collected("qemu: no such file\n"), None);
    }

    #[test]
    fn half_a_percent_is_allowed() {
        let without = [8_486_223_502, 8_486_300_000];
        let (exit, said) = judged(without, 8_521_144_057);
        assert!(exit == Exit::Pass && said.contains("0.41 %"), "{said}");
        let (exit, said) = judged(without, 8_530_000_000);
        assert!(exit == Exit::Failed && said.contains("0.52 %"), "{said}");
        let (exit, said) = judged([8_486_223_502, 8_586_223_502], 8_486_223_502);
        assert!(exit == Exit::CouldNot && said.contains("1.18 %"), "{said}");
    }

    #[test]
    fn the_modes_are_models() {
        for mode in MODES {
            let machine = machine(mode).unwrap();
            assert!(machine.model.stale && machine.harts == 1 && machine.icount, "{mode}");
        }
    }

    #[test]
    fn a_table() {
        let all = [Counted { name: "off".to_owned(), instructions: 7, added: 0.25 }];
        assert_eq!(text(&all), "machine  instructions  added %\noff                 7     0.25\n");
    }
}
