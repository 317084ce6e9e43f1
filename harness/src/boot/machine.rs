// SPDX-License-Identifier: GPL-2.0-only
//! The machine: its QEMU command line, and a run that always ends.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use lazymap_console::end::{self, Ending, Reading};
use lazymap_console::log::Log;
use lazymap_console::printk;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;

use super::drive::Drive;
use super::reproduce::{Reproducer, quote};
use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::pace::Pace;

/// Every guest's kernel command line. With `panic=-1` a panic reboots at once, which
/// ends a QEMU with `-no-reboot`.
pub const APPEND: &str = "console=ttyS0 earlycon panic=-1 oops=panic printk.devkmsg=on loglevel=7";

/// How often a run is polled.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait for output of a process that QEMU left behind.
const DRAIN: Duration = Duration::from_millis(500);

/// How supervisor mode interrupts another hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// Through the harts' IMSICs: remote fences are interrupts that the kernel itself handles.
    Imsic,
    /// Through the SBI: remote fences run in machine mode, where the kernel cannot trace them.
    Sbi,
}

/// What the harts of a machine do with translations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Name in tables and file names.
    pub name: Cow<'static, str>,
    /// CPU properties beyond the CPU's name, as `NAME=VALUE,NAME=VALUE`; may be empty.
    pub cpu: Cow<'static, str>,
    /// Harts may hold stale translations: QEMU counts them, and prints the counters.
    pub stale: bool,
}

/// A machine of QEMU's `virt` kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What its harts do with translations.
    pub model: Model,
    /// QEMU's name of the CPU that its harts are.
    pub core: Cow<'static, str>,
    /// Inter-processor interrupts.
    pub irq: Irq,
    /// Number of harts, at least 1.
    pub harts: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether executed instructions drive the clock, 1 ns each. Then the harts take turns in one
    /// thread of the host: slower, but no lack of the host's CPUs makes them wait for each other.
    pub icount: bool,
    /// The source of all random numbers, with a fixed date. With `icount`, a boot then replays to the
    /// instruction.
    pub seed: Option<u32>,
}

impl Machine {
    /// Default CPU.
    pub const CORE: &str = "rv64";
    /// Default number of harts.
    pub const HARTS: u32 = 4;
    /// Default memory in MiB.
    pub const MEMORY_MIB: u32 = 1024;

    /// A machine of this model with IMSICs, 4 harts of the default CPU, 1 GiB and the host's clock.
    pub fn new(model: Model) -> Self {
        Self {
            model,
            core: Self::CORE.into(),
            irq: Irq::Imsic,
            harts: Self::HARTS,
            memory_mib: Self::MEMORY_MIB,
            icount: false,
            seed: None,
        }
    }

    /// Its name in tables and file names: the model's, with the CPU's if it is another one than usual, and
    /// with `-sbi` if the SBI interrupts harts.
    pub fn name(&self) -> String {
        let mut name = self.model.name.to_string();
        if self.core != Self::CORE {
            name += &format!("-{}", self.core);
        }
        if self.irq == Irq::Sbi {
            name += "-sbi";
        }
        name
    }

    /// QEMU's `-cpu`.
    pub fn cpu(&self) -> String {
        if self.model.cpu.is_empty() { self.core.to_string() } else { format!("{},{}", self.core, self.model.cpu) }
    }

    /// QEMU's arguments for the machine alone.
    pub fn arguments(&self) -> Vec<String> {
        let machine = match self.irq {
            Irq::Imsic => "virt,aia=aplic-imsic",
            Irq::Sbi => "virt",
        };
        let cpu = self.cpu();
        let (harts, memory) = (self.harts.to_string(), format!("{}M", self.memory_mib));
        let seed = self.seed.map(|seed| seed.to_string());
        let mut all = vec!["-M", machine, "-cpu", &cpu, "-smp", &harts, "-m", &memory];
        if self.icount {
            // When all harts are idle, skip to the next timer.
            all.extend(["-icount", "shift=0,sleep=off"]);
        }
        if let Some(seed) = &seed {
            all.extend(["-rtc", "base=2026-01-01,clock=vm", "-seed", seed]);
        }
        all.into_iter().map(str::to_owned).collect()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// How long a run may take. A boot of 4 harts takes 3 s on a quiet machine and a multiple of that
/// on a busy one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest silence on the console.
    pub silence: Duration,
    /// Longest run.
    pub total: Duration,
    /// How long a machine may run on after a panic.
    pub panic: Duration,
    /// How long QEMU may take to exit when asked to.
    pub end: Duration,
}

/// More tests than these get more time.
const MOST_TESTS_BY_DEFAULT: usize = 4;
/// Tests that take more than half of the default limit by themselves.
const SLOW_TESTS: [&str; 2] = ["test-killed.sh", "test-reload.sh"];
/// More harts than these get more time: QEMU has a thread for each, and hosts have fewer CPUs.
const MOST_HARTS_BY_DEFAULT: u32 = 8;

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(60),
            total: Duration::from_secs(240),
            panic: Duration::from_secs(30),
            end: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Limits for a boot of `machine` with these tests.
    pub fn for_boot(tests: &[&str], machine: &Machine) -> Self {
        let slow = tests.len() > MOST_TESTS_BY_DEFAULT || tests.iter().any(|test| SLOW_TESTS.contains(test));
        if slow || machine.harts > MOST_HARTS_BY_DEFAULT {
            Self { silence: Duration::from_secs(240), total: Duration::from_secs(900), ..Self::default() }
        } else {
            Self::default()
        }
    }
}

/// A host that is busier than this shows in a run: limits may have hit because of it.
pub const BUSY: f64 = 1.5;

impl Limits {
    /// The same for a host that is slower by `factor`.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let longer = |time: Duration| time.mul_f64(factor.max(0.0));
        Self { silence: longer(self.silence), total: longer(self.total), panic: longer(self.panic), ..self }
    }
}

/// Limits that a file or the environment sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsGiven {
    /// Longest silence on the console, in seconds, at least 1.
    pub silence: Option<u32>,
    /// Longest run, in seconds, at least 1.
    pub total: Option<u32>,
}

impl LimitsGiven {
    /// Reads `LAZYMAP_SILENCE` and `LAZYMAP_TIMEOUT`.
    ///
    /// # Errors
    /// When one of them is not a positive number (exit code 64).
    pub fn from_env() -> Result<Self> {
        let seconds = |name: &str| {
            let Some(value) = std::env::var_os(name) else { return Ok(None) };
            let value = value.to_string_lossy();
            let seconds = value.trim().parse::<u32>().ok().filter(|s| *s > 0);
            seconds.map(Some).ok_or_else(|| {
                Error::usage(format!("{name}={value} is not a number of seconds; give a positive number"))
            })
        };
        Ok(Self { silence: seconds("LAZYMAP_SILENCE")?, total: seconds("LAZYMAP_TIMEOUT")? })
    }

    /// `usual`, overridden by what is given here.
    pub fn over(self, usual: Limits) -> Limits {
        let or = |given: Option<u32>, usual| given.map_or(usual, |s| Duration::from_secs(s.into()));
        Limits { silence: or(self.silence, usual.silence), total: or(self.total, usual.total), ..usual }
    }
}

/// Everything that a run needs.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    pub machine: &'a Machine,
    /// `qemu-system-riscv64`.
    pub qemu: &'a Path,
    /// The CPU property whose name starts the lines with QEMU's counters.
    pub property: &'a str,
    /// OpenSBI's `fw_dynamic.bin`.
    pub firmware: &'a Path,
    /// The kernel's `Image`.
    pub image: &'a Path,
    /// The image is replaced when it is built anew, and never overwritten: a link to it stays as it is.
    pub image_stays: bool,
    /// The initramfs; without one, the kernel mounts a disk as its root.
    pub initrd: Option<&'a Path>,
    /// What the kernel's command line has beyond [`APPEND`].
    pub append: &'a str,
    /// QEMU's arguments beyond these, such as disks; the last ones on its command line.
    pub more: &'a [OsString],
    /// Disks, which the guest may find in any order.
    pub drives: &'a [Drive<'a>],
    /// A plugin of QEMU's with its arguments, as `-plugin` takes it.
    pub plugin: Option<&'a str>,
    /// Where QEMU's trace goes, and which events it has.
    pub trace: Option<(&'a Path, &'a str)>,
    /// Where the console goes; `.log` is replaced by `.qemu.log` for QEMU's stderr, and left out for the
    /// folder with what repeats the run; see [`super::reproduce`].
    pub console: &'a Path,
    /// How long it may take, less the time in which others had the host's CPUs.
    pub limits: Limits,
}

/// What the machine counted, over all harts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Number of harts that reported.
    pub harts: u64,
    /// Accesses that faulted although the PTE was already valid.
    pub stale_hits: u64,
    /// Fences that made a hart forget.
    pub fences: u64,
    /// Walks that began at a page table which is no longer one; 0 on a machine that holds none.
    pub gone_tables: u64,
}

/// How the line begins that counts what harts used of valid translations.
const VALID_TOTAL: &str = "x-cache-valid: total ";

/// What the machine counted on one hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HartCounters {
    /// Its number.
    pub hart: u64,
    /// Accesses that faulted although the PTE was already valid.
    pub stale_hits: u64,
    /// Fences that made it forget.
    pub fences: u64,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The whole console, with the times of its lines.
    pub log: Log,
    /// What the log means.
    pub reading: Reading,
    /// How QEMU ended.
    pub ending: Ending,
    /// The counters: `None` if the machine is not stale, an error if they are missing or wrong.
    pub counters: Result<Option<Counters>, String>,
    /// The counters of each hart, in order: empty if the machine is not stale.
    pub harts: Result<Vec<HartCounters>, String>,
    /// By how much other work on the host slowed QEMU down, at least 1.
    pub slowed: f64,
}

impl Boot<'_> {
    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.machine_arguments().into_iter().map(OsString::from).collect();
        let files = [("-bios", Some(self.firmware)), ("-kernel", Some(self.image)), ("-initrd", self.initrd)];
        for (option, path) in files {
            if let Some(path) = path {
                all.extend([option.into(), path.into()]);
            }
        }
        let drives = Drive::arguments(self.drives, |drive| drive.file.display().to_string());
        all.extend(drives.into_iter().map(OsString::from));
        if let Some(plugin) = self.plugin {
            all.push("-plugin".into());
            all.push(plugin.into());
        }
        if let Some((path, events)) = self.trace {
            all.extend(["-D".into(), path.into(), "-trace".into(), events.into()]);
        }
        all.push("-append".into());
        all.push(self.command_line().into());
        all.extend_from_slice(self.more);
        all
    }

    /// QEMU's arguments that name no file.
    fn machine_arguments(&self) -> Vec<String> {
        let quiet = ["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"];
        let mut all = self.machine.arguments();
        all.extend(quiet.map(str::to_owned));
        all
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        format!("{APPEND} {}", self.append).trim_end().to_owned()
    }

    /// QEMU's command line, for a shell on this machine.
    pub fn reproducer(&self) -> String {
        let words = std::iter::once(self.qemu.as_os_str().to_owned()).chain(self.arguments());
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Writes what repeats the run anywhere.
    fn keep_reproducer(&self) -> Result<()> {
        let reproducer = Reproducer {
            console: self.console,
            qemu: self.qemu,
            property: self.property,
            arguments: &self.machine_arguments(),
            image: self.image,
            image_stays: self.image_stays,
            initrd: self.initrd,
            firmware: self.firmware,
            more: self.more,
            drives: self.drives,
            plugin: self.plugin,
            trace: self.trace.map(|(_, events)| events),
            append: &self.command_line(),
        };
        reproducer.write()
    }

    /// Boots the machine with the terminal as its console, and waits for QEMU to exit.
    ///
    /// # Errors
    /// When QEMU cannot be started, or fails.
    pub fn interactive(&self) -> Result<()> {
        let mut arguments = self.arguments();
        if let Some(serial) = arguments.iter().position(|a| a == "-serial") {
            // Ctrl-C goes to the guest, Ctrl-A X ends QEMU.
            arguments[serial + 1] = "mon:stdio".into();
        }
        let mut command = Command::new(self.qemu);
        command.args(arguments);
        let status = cmd::dies_with_us(&mut command)
            .status()
            .map_err(|e| Error::could_not(format!("cannot run {}: {e}; `make qemu` builds it", self.qemu.display())))?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::could_not(format!("QEMU ended with {status}"))),
        }
    }

    /// Boots the machine, waits for its end, and ends it at a limit; no QEMU is left behind. Each line
    /// of the console goes to `watch` as it arrives.
    ///
    /// # Errors
    /// When QEMU cannot be started, or a log cannot be written. A guest that fails is not an error.
    pub fn run(&self, watch: &mut dyn FnMut(&str)) -> Result<Run> {
        if let Some(parent) = self.console.parent() {
            files::create_dir(parent)?;
        }
        self.keep_reproducer()?;
        let stderr_path = self.console.with_extension("qemu.log");
        let stderr = File::create(&stderr_path).map_err(|e| Error::io("create", &stderr_path, e))?;
        let console = File::create(self.console).map_err(|e| Error::io("create", self.console, e))?;

        let mut command = Command::new(self.qemu);
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // In its own group: Ctrl-C is for us to handle, and whatever QEMU starts ends with it.
        command.process_group(0);
        cmd::dies_with_us(&mut command);
        let child = command
            .spawn()
            .map_err(|e| Error::could_not(format!("cannot run {}: {e}; `make qemu` builds it", self.qemu.display())))?;
        let pace = Pace::start(child.id());
        let mut watched =
            Watched { child, limits: self.limits, pace, console, path: self.console, log: Arriving::default() };
        let ending = watched.wait(watch);
        watched.end_all();
        let ending = ending?;
        let slowed = watched.pace.slowed();

        let seconds = watched.log.started.elapsed().as_secs_f64();
        let raw = String::from_utf8_lossy(&watched.log.bytes).into_owned();
        let log = Log::new(raw, std::mem::take(&mut watched.log.ends), seconds);
        let stderr = files::read_lossy(&stderr_path)?;
        let reading = end::read(&log, &ending, &stderr);
        let counters = self.count(&stderr);
        let harts = parse_harts(&stderr, self.property);
        Ok(Run { log, reading, ending, counters, harts, slowed })
    }

    /// The counters, which a stale machine must have and no other may have.
    fn count(&self, stderr: &str) -> Result<Option<Counters>, String> {
        let counters = parse_counters(stderr, self.property)?;
        match (self.machine.model.stale, counters) {
            (true, None) => Err(format!("QEMU did not print a line `{}: total`", self.property)),
            (true, Some(c)) if c.harts != u64::from(self.machine.harts) => {
                Err(format!("QEMU counted {} harts of {}", c.harts, self.machine.harts))
            }
            (false, Some(_)) => Err("QEMU counted stale translations on a machine without them".to_owned()),
            _ => Ok(counters),
        }
    }
}

/// Reads the line `PROPERTY: total harts=N stale_hits=N fences=N …` in QEMU's stderr.
///
/// # Errors
/// When there are several, or one lacks a counter.
pub fn parse_counters(stderr: &str, property: &str) -> Result<Option<Counters>, String> {
    let start = format!("{property}: total ");
    let mut totals = stderr.lines().map(str::trim).filter(|line| line.starts_with(&start));
    let Some(total) = totals.next() else { return Ok(None) };
    if totals.next().is_some() {
        return Err(format!("QEMU printed `{start}` more than once"));
    }
    let field = |name: &str| counter(total, name);
    let valid = stderr.lines().map(str::trim).find(|line| line.starts_with(VALID_TOTAL));
    let gone_tables = valid.map_or(Ok(0), |line| counter(line, "tables"))?;
    Ok(Some(Counters {
        harts: field("harts")?,
        stale_hits: field("stale_hits")?,
        fences: field("fences")?,
        gone_tables,
    }))
}

/// Reads the lines `PROPERTY: hart=N stale_hits=N fences=N …` in QEMU's stderr.
///
/// # Errors
/// When a hart has several, or one lacks a counter.
pub fn parse_harts(stderr: &str, property: &str) -> Result<Vec<HartCounters>, String> {
    let start = format!("{property}: hart=");
    let mut harts: Vec<HartCounters> = Vec::new();
    for line in stderr.lines().map(str::trim).filter(|line| line.starts_with(&start)) {
        let field = |name: &str| counter(line, name);
        let counted = HartCounters { hart: field("hart")?, stale_hits: field("stale_hits")?, fences: field("fences")? };
        if harts.iter().any(|other| other.hart == counted.hart) {
            return Err(format!("QEMU printed `{start}{}` more than once", counted.hart));
        }
        harts.push(counted);
    }
    harts.sort_by_key(|counted| counted.hart);
    Ok(harts)
}

/// The counter called `name` in a line of QEMU's.
fn counter(line: &str, name: &str) -> Result<u64, String> {
    let mut values = line.split_whitespace().filter_map(|w| w.strip_prefix(name)?.strip_prefix('='));
    values.next().and_then(|v| v.parse().ok()).ok_or_else(|| format!("no {name} in QEMU's line `{line}`"))
}

/// The console as it arrives.
struct Arriving {
    started: Instant,
    bytes: Vec<u8>,
    ends: Vec<f64>,
    /// Where the incomplete last line begins.
    line: usize,
    /// A kernel has panicked, and no other one has started since.
    panicked: bool,
}

impl Default for Arriving {
    fn default() -> Self {
        Self { started: Instant::now(), bytes: Vec::new(), ends: Vec::new(), line: 0, panicked: false }
    }
}

impl Arriving {
    /// Adds a part, and passes complete lines to `watch`.
    fn add(&mut self, part: &[u8], watch: &mut dyn FnMut(&str)) {
        let now = self.started.elapsed().as_secs_f64();
        for &byte in part {
            self.bytes.push(byte);
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.bytes[self.line..self.bytes.len() - 1]);
                for piece in printk::pieces(&line) {
                    self.panicked |= piece.text.starts_with(end::PANIC);
                    // A panic may be how one kernel starts another.
                    self.panicked &= !end::is_first(piece.text);
                }
                watch(line.trim_end());
                self.line = self.bytes.len();
                self.ends.push(now);
            }
        }
    }
}

/// QEMU while it runs.
struct Watched<'a> {
    child: Child,
    limits: Limits,
    pace: Pace,
    console: File,
    path: &'a Path,
    log: Arriving,
}

impl Watched<'_> {
    /// Reads the console until QEMU exits, ending it at a limit.
    fn wait(&mut self, watch: &mut dyn FnMut(&str)) -> Result<Ending> {
        let parts = self.parts();
        let mut heard = self.pace.passed();
        let mut panicked: Option<Duration> = None;
        let mut exited: Option<(ExitStatus, Instant)> = None;
        loop {
            self.pace.tick();
            match parts.recv_timeout(TICK) {
                Ok(part) => {
                    self.console.write_all(&part).map_err(|e| Error::io("write", self.path, e))?;
                    heard = self.pace.passed();
                    self.log.add(&part, watch);
                    panicked = self.log.panicked.then(|| panicked.unwrap_or(heard));
                }
                // The console is closed: only QEMU itself is left to wait for.
                Err(RecvTimeoutError::Disconnected) => {
                    if exited.is_some() {
                        break;
                    }
                    thread::sleep(TICK);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if exited.is_none() {
                exited = self.try_wait()?.map(|status| (status, Instant::now()));
            }
            if let Some((_, at)) = exited {
                if at.elapsed() >= DRAIN {
                    break;
                }
                continue;
            }
            let now = self.pace.passed();
            let forced = if panicked.is_some_and(|at| now.saturating_sub(at) >= self.limits.panic) {
                Ending::Panicked
            } else if now.saturating_sub(heard) >= self.limits.silence {
                Ending::Silent(self.limits.silence)
            } else if now >= self.limits.total {
                Ending::TimedOut(self.limits.total)
            } else {
                continue;
            };
            self.end()?;
            // The last output before the end is the most interesting.
            while let Ok(part) = parts.recv_timeout(TICK) {
                self.console.write_all(&part).map_err(|e| Error::io("write", self.path, e))?;
                self.log.add(&part, watch);
            }
            return Ok(forced);
        }
        let Some((status, _)) = exited else { return Ok(Ending::Exited(0)) };
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, signal) => Ending::Signal(signal.unwrap_or_default()),
        })
    }

    /// The console in parts; a thread reads it, so that waiting can time out.
    fn parts(&mut self) -> Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel();
        if let Some(mut stdout) = self.child.stdout.take() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                    if sender.send(buffer[..length].to_vec()).is_err() {
                        break;
                    }
                }
            });
        }
        receiver
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::could_not(format!("waiting for QEMU: {e}")))
    }

    /// Asks QEMU to exit, so that it prints its counters, and kills it if it does not.
    fn end(&mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < self.limits.end {
            if self.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(TICK / 5);
        }
        self.end_all();
        Ok(())
    }

    /// Leaves nothing of QEMU behind.
    fn end_all(&mut self) {
        // The group first: it exists as long as any of its processes does, QEMU or not.
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}
