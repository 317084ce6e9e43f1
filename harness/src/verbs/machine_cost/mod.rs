// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap cost --machine`: what the patches cost QEMU itself, counted in instructions of the host.
//!
//! One hart boots from the firmware to the panic for lack of an init, under callgrind, in a QEMU without the patches and
//! in the one with them. Instructions drive the guest's clock, and the host's stands still: without that, two runs of
//! the same QEMU differ by 10 %. The QEMU without patches runs twice, which shows how much is noise. Another boot,
//! without callgrind, tells how much memory QEMU needs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
use crate::hunt;
use crate::options::Options;
use crate::source::host;
use crate::trial::report::shown;

/// What all properties off may cost, in percent.
const MOST: f64 = 0.5;
/// Most that two runs of one QEMU may differ, in percent.
const NOISE: f64 = 0.1;
/// Machines that are counted as well if `full` is asked for: one for each mode, with more CPU properties.
const MODES: [(&str, &str); 11] = [
    ("stale", ""),
    ("absent", ""),
    ("line", ""),
    ("late", ""),
    ("late-store", ""),
    ("stale", "x-late-store=own"),
    ("random", ""),
    ("valid", ""),
    ("valid-all", ""),
    ("guest", ""),
    ("mean", ""),
];
/// The function in which harts of one more mode lose their valid translations.
const WINDOW: &str = "handle_exception";
/// The clock that stands still.
const CLOCK: &str = include_str!("still_clock.c");
/// How each boot must end.
const END: &str = "Kernel panic - not syncing";
/// How no boot may end, which panics as well.
const DEATH: &str = "Oops";
/// How long a boot may take without callgrind; with it, about fifty times as long.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often to look whether it has ended.
const TICK: Duration = Duration::from_millis(100);

/// A boot and its instructions.
#[derive(Clone, Debug, Serialize)]
struct Counted {
    name: String,
    instructions: u64,
    /// Beyond the first run without the patches, in percent.
    added: f64,
    /// The most memory that QEMU had, with what it used of the guest's, in KiB.
    memory_kib: u64,
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
    files::create_dir(&folder)?;
    let clock = still_clock(&folder)?;
    let firmware = lab.bench.firmware.clone();
    let counter = Counter { valgrind, clock, firmware, image: kernel.image, folder };

    let plain = machine("plain", "")?;
    let without = [counter.count("without", &bare, &plain)?, counter.count("without-again", &bare, &plain)?];
    let off = counter.count("off", &patched, &plain)?;
    let counted = |name: &str, instructions, memory_kib| {
        let added = percent(instructions, without[0]);
        Counted { name: name.to_owned(), instructions, added, memory_kib }
    };
    let mut all = vec![
        counted("without the patches", without[0], counter.memory("without", &bare, &plain)?),
        counted("the same again", without[1], counter.memory("without-again", &bare, &plain)?),
        counted("all properties off", off, counter.memory("off", &patched, &plain)?),
    ];
    if full {
        let mut modes = Vec::new();
        for (model, more) in MODES {
            modes.push(machine(model, more)?);
        }
        modes.push(hunt::evicting(&machine("stale", "")?, &kernel.vmlinux, WINDOW)?);
        for mode in modes {
            let name = mode.name();
            all.push(counted(&name, counter.count(&name, &patched, &mode)?, counter.memory(&name, &patched, &mode)?));
        }
    }
    files::write_json(&counter.folder.join("results.json"), &all)?;
    println!("\n{}", text(&all));
    let (exit, verdict) = judged(without, off);
    println!("{verdict}\nConsoles and counts: {}", shown(&options.root, &counter.folder));
    Ok(exit)
}

/// One hart of this model with more CPU properties, on which each run executes the same instructions.
fn machine(model: &str, more: &str) -> Result<Machine> {
    let mut model = models::find(model)?;
    if !more.is_empty() {
        model.name = format!("{}-{}", model.name, more.replace('=', "-")).into();
        model.cpu = format!("{},{more}", model.cpu).into();
    }
    Ok(Machine { harts: 1, icount: true, seed: Some(1), ..Machine::new(model) })
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
    let mut rows: Vec<Vec<Cell>> = vec![["machine", "instructions", "added %", "MiB"].map(Cell::from).into()];
    rows.extend(all.iter().map(|counted| {
        let mib = (counted.memory_kib as f64 / 1024.0).round();
        let numbers = [counted.instructions.to_string(), format!("{:.2}", counted.added), mib.to_string()];
        std::iter::once(Cell::from(counted.name.as_str())).chain(numbers.map(Cell::from)).collect()
    }));
    table::text(&[Align::Left, Align::Right, Align::Right, Align::Right], &rows, false)
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
        let (console, log) = (self.file(name, "log"), self.file(name, "valgrind.log"));
        let step = Step::start(format!("count {name}"));
        let mut command = cmd::plain(&self.valgrind);
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(qemu).env("LD_PRELOAD", &self.clock);
        self.boots(&mut command, machine, &console)?;
        cmd::logged(&mut command, &log, &step)?;
        ended(&console)?;
        let count = collected(&files::read_lossy(&log)?).ok_or_else(|| void(COLLECTED, &log))?;
        step.finish(&count.to_string());
        Ok(count)
    }

    /// Boots without callgrind, and returns the most memory that QEMU had, in KiB. It stays when the guest has ended, so
    /// that nothing of its memory is missed.
    fn memory(&self, name: &str, qemu: &Path, machine: &Machine) -> Result<u64> {
        let console = self.file(name, "memory.log");
        let step = Step::start(format!("memory {name}"));
        let mut command = cmd::plain(qemu);
        self.boots(&mut command, machine, &console)?;
        command.arg("-no-shutdown").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = cmd::dies_with_us(&mut command).spawn();
        let mut child = Ends(child.map_err(|e| Error::could_not(format!("cannot run {}: {e}", qemu.display())))?);
        let until = Instant::now() + PATIENCE;
        let status = format!("/proc/{}/status", child.0.id());
        while !files::read_lossy(&console).unwrap_or_default().contains(END) {
            let gone = child.0.try_wait().map_err(|e| Error::could_not(format!("waiting for QEMU: {e}")))?;
            if gone.is_some() || Instant::now() >= until {
                return Err(void(END, &console));
            }
            thread::sleep(TICK);
        }
        // The guest still prints some lines, and QEMU stops.
        thread::sleep(10 * TICK);
        ended(&console)?;
        let told = files::read_text(Path::new(&status))?;
        let memory = peak(&told).ok_or_else(|| void(PEAK, Path::new(&status)))?;
        step.finish(&format!("{memory} KiB"));
        Ok(memory)
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    /// Adds the arguments of QEMU for a boot with this console.
    fn boots(&self, command: &mut Command, machine: &Machine, console: &Path) -> Result<()> {
        files::remove(console)?;
        command.args(machine.arguments());
        command.arg("-bios").arg(&self.firmware).arg("-kernel").arg(&self.image).args(["-append", APPEND]);
        command.args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial"]);
        command.arg(format!("file:{}", console.display()));
        Ok(())
    }
}

/// A process that ends with this value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that a kernel has got as far as it must, and did not die before.
fn ended(console: &Path) -> Result<()> {
    let printed = files::read_lossy(console)?;
    if !printed.contains(END) {
        return Err(void(END, console));
    }
    if printed.contains(DEATH) {
        return Err(Error::could_not(format!("{} has `{DEATH}`: the count is void", console.display())));
    }
    Ok(())
}

fn void(what: &str, of: &Path) -> Error {
    Error::could_not(format!("{} has no `{what}`: the count is void", of.display()))
}

/// How the line in `/proc/PID/status` begins that has the most memory of a process at one time (proc_pid_status(5)).
const PEAK: &str = "VmHWM:";

/// That, in KiB.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(PEAK))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// What callgrind prints before its count.
const COLLECTED: &str = "Collected : ";

fn collected(text: &str) -> Option<u64> {
    let (_, rest) = text.lines().rev().find_map(|line| line.split_once(COLLECTED))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let mut names = Vec::new();
        for (mode, more) in MODES {
            let machine = machine(mode, more).unwrap();
            assert!(machine.model.stale && machine.harts == 1 && machine.icount, "{mode}");
            assert!(machine.cpu().ends_with(more), "{mode} {more}");
            names.push(machine.name());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), MODES.len(), "each has files of its own");
    }

    #[test]
    fn the_most_memory_of_a_process() {
        assert_eq!(peak("Name:\tqemu\nVmPeak:\t 9999 kB\nVmHWM:\t  219136 kB\nVmRSS:\t 7 kB\n"), Some(219_136));
        assert_eq!(peak("VmRSS:\t 7 kB\n"), None);
        assert!(peak(&fs::read_to_string("/proc/self/status").unwrap()).is_some_and(|kib| kib > 100));
    }

    #[test]
    fn a_table() {
        let all = [Counted { name: "off".to_owned(), instructions: 7, added: 0.25, memory_kib: 2000 }];
        assert_eq!(text(&all), "machine  instructions  added %  MiB\noff                 7     0.25    2\n");
    }
}
