// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap hunt`: finds where a kernel relies on a fence that it did not execute.
//!
//! Boots any kernel on harts that remember invalid translations. QEMU traces each page fault that the
//! page tables do not justify (a *stale hit*), and what led to it. [`trace`] reads that, [`symbols`] and
//! [`layout`] name addresses, [`verdict`] tells the hits that the kernel survived from the one that
//! killed it, and [`report`] and [`html`] show it. [`several`] hunts on several machines, and [`debian`] in all kernels
//! of a distribution.

pub mod debian;
pub mod html;
pub mod image;
pub mod layout;
pub mod poison;
pub mod report;
pub mod several;
pub mod symbols;
pub mod trace;
pub mod verdict;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lazymap_console::end::{self, End, Reading};
use lazymap_console::ktap;
use lazymap_console::log::Log;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use self::layout::Layout;
use self::poison::Poison;
use self::report::{Report, Subject};
use self::symbols::Symbols;
use self::trace::{Story, Trace};
use self::verdict::{Guest, Outcome};
use crate::boot::initramfs;
use crate::boot::kernel_file;
use crate::boot::machine::{BUSY, Boot, Counters, Limits, Machine, Run};
use crate::boot::program;
use crate::build::kernel::{BASE, Config, SERIES};
use crate::build::qemu;
use crate::build::workbench::{self, Lab, Workbench};
use crate::ground::cmd::option_value;
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::ground::pace;
use crate::ground::progress::Step;
use crate::ground::table;
use crate::options::Options;
use crate::source::host;
use crate::trial::control;
use crate::trial::judge;
use crate::trial::plan::{self, GUEST_GRACE};
use crate::trial::record;
use crate::trial::report::shown;
use crate::trial::retry;
use crate::trial::scenario::{self, Kind, MachineFile, Which};

/// What runs in the guest, in this order.
const WORKLOAD: &[(&str, &str)] = &[
    ("modules.sh", include_str!("../boot/guest/hunt/modules.sh")),
    ("fork.sh", include_str!("../boot/guest/hunt/fork.sh")),
    ("tracing.sh", include_str!("../boot/guest/hunt/tracing.sh")),
    ("hotplug.sh", include_str!("../boot/guest/hunt/hotplug.sh")),
    ("bpf.sh", include_str!("../boot/guest/hunt/bpf.sh")),
    ("percpu.sh", include_str!("../boot/guest/hunt/percpu.sh")),
    ("tlb.sh", include_str!("../boot/guest/hunt/tlb.sh")),
    ("memory.sh", include_str!("../boot/guest/hunt/memory.sh")),
    ("together.sh", include_str!("../boot/guest/hunt/together.sh")),
];
/// Programs of the workload in C. Without a compiler for them, the scripts that need them are skipped.
const PROGRAMS: &[(&str, &str)] = &[
    ("bpf", include_str!("../boot/guest/hunt/bpf.c")),
    ("tlb", include_str!("../boot/guest/hunt/tlb.c")),
    ("memory", include_str!("../boot/guest/hunt/memory.c")),
];
/// On every kernel's command line: addresses on the console must be those of the vmlinux and of the
/// trace.
const ALWAYS: &str = "nokaslr no_hash_pointers";
/// Longest silence on the console.
const SILENCE: Duration = Duration::from_secs(120);
/// How much of the raw trace is kept, in bytes.
const MOST_RAW: usize = 64 << 20;

/// What harts must have for `--evict-in`.
const INVALID: &str = "x-cache-invalid=on";
/// QEMU's options that the tool needs for itself, and what to use in their place.
const OWN_OPTIONS: &[(&str, &str)] = &[
    ("cpu", "--model and --cpu"),
    ("smp", "--harts"),
    ("m", "--memory"),
    ("bios", "--bios"),
    ("kernel", "--kernel"),
    ("initrd", "--initrd"),
    ("append", "--append"),
    ("icount", "--replay"),
    ("seed", "--replay"),
    ("D", "the trace in out/hunt"),
    ("d", "the trace in out/hunt"),
    ("trace", "the trace in out/hunt"),
    ("daemonize", "a shell's `&`"),
];

/// Exit codes as `--help` shows them.
pub const EXIT_CODES: &str = "Exit codes: 0 no stale hit killed the kernel; 1 one did; 2 something could not be downloaded, \
built or booted, or the result is uncertain; 64 wrong usage; 130 interrupted";

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A kernel built elsewhere: its Image, Image.gz, vmlinuz.efi or vmlinux
    #[arg(long, value_name = "IMAGE", conflicts_with = "tree")]
    kernel: Option<PathBuf>,
    /// The vmlinux of that kernel, for names of functions; with debug information also for lines
    /// [default: the kernel itself, if it is a vmlinux]
    #[arg(long, value_name = "ELF", requires = "kernel")]
    vmlinux: Option<PathBuf>,
    /// An initramfs to boot, which switches the machine off at its end [default: the tool's own
    /// workload]
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Boot without an initramfs: the kernel mounts a disk (--drive) as its root, and the system there
    /// switches the machine off at its end
    #[arg(long, conflicts_with_all = ["initrd", "workload", "modules"])]
    no_initrd: bool,
    /// A disk of the guest, raw or qcow2; several times for several. What the guest writes is thrown away
    #[arg(long, value_name = "FILE")]
    drive: Vec<PathBuf>,
    /// A firmware in place of OpenSBI, as QEMU's -bios takes it
    #[arg(long, value_name = "FILE")]
    bios: Option<PathBuf>,
    /// A folder with modules of that kernel, which the workload loads and unloads
    #[arg(long, value_name = "DIR", requires = "kernel", conflicts_with_all = ["initrd", "workload"])]
    modules: Option<PathBuf>,
    /// A kernel to build: `base` without any patch, `series`, or the name of a control
    #[arg(long, value_name = "NAME")]
    tree: Option<String>,
    /// The kernels that Debian ships in these suites, downloaded with their symbols (1.2 GB each), on several
    /// machines; prints one table [default suites: trixie, trixie-backports, forky and sid]
    #[arg(long, value_name = "SUITE", num_args = 0..,
          conflicts_with_all = ["kernel", "tree", "model", "evict_in", "replay", "html"])]
    debian: Option<Vec<String>>,
    /// Several machines, and one table of them [default for --debian: stale, valid and window-1 to window-4]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with_all = ["model", "html"])]
    models: Vec<String>,
    /// Put the table of --debian into docs/findings/debian-kernels.md
    #[arg(long, requires = "debian")]
    write: bool,
    /// Use this scenario's configuration and kernel parameters
    #[arg(long, value_name = "NAME", requires = "tree")]
    scenario: Option<String>,
    /// The machine: a name in harness/models.toml, or that and `-sbi`
    #[arg(long, value_name = "NAME", default_value = "stale")]
    model: String,
    /// More CPU properties of QEMU, as NAME=VALUE,NAME=VALUE
    #[arg(long, value_name = "PROPERTIES", default_value = "")]
    cpu: String,
    /// Lose all valid translations before each instruction of this function of the vmlinux, which must not
    /// fault where it cannot take that; slow
    #[arg(long, value_name = "FUNCTION")]
    evict_in: Option<String>,
    /// Number of harts, 1 to 512
    #[arg(long, value_name = "N", default_value_t = Machine::HARTS)]
    harts: u32,
    /// Memory in MiB, at least 128
    #[arg(long, value_name = "MIB", default_value_t = Machine::MEMORY_MIB)]
    memory: u32,
    /// More kernel parameters
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Have the kernel fill freed memory with a pattern, and say which stale uses have met that
    #[arg(long)]
    poison: bool,
    /// A folder with test-*.sh to run in the guest instead of the tool's own workload
    #[arg(long, value_name = "DIR", conflicts_with = "initrd")]
    workload: Option<PathBuf>,
    /// Where the report goes as JSON [default: NAME.json in out/hunt]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the report goes as an HTML page [default: NAME.html in out/hunt]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Repeats to the instruction: the same N, kernel and options give the same run, unless the model
    /// draws at random. Instructions drive the clock, and harts take turns, which is slower
    #[arg(long, value_name = "N")]
    replay: Option<u32>,
    /// Longest run in seconds
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// More arguments for QEMU, such as `-- -device virtio-rng-pci`
    #[arg(last = true, value_name = "ARGUMENT")]
    qemu_arguments: Vec<OsString>,
}

impl Args {
    /// Whether they are for [`debian::run`].
    pub fn is_about_debian(&self) -> bool {
        self.debian.is_some()
    }

    /// Whether they are for [`several::run`], if not for Debian.
    pub fn is_about_several(&self) -> bool {
        !self.models.is_empty()
    }
}

/// Where the kernel comes from.
#[derive(Clone, Debug)]
enum KernelFrom {
    /// Built elsewhere.
    Files { image: PathBuf, vmlinux: Option<PathBuf>, modules: Option<PathBuf> },
    /// Built here.
    Tree { name: String, config: Config },
}

/// What [`run`] does, checked as far as possible without building.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name of its files.
    pub name: String,
    from: KernelFrom,
    machine: Machine,
    evict_in: Option<String>,
    append: String,
    /// What the user has made for the guest, if it is not the tool's own workload.
    guest: Option<Given>,
    firmware: Option<PathBuf>,
    more: Vec<OsString>,
    json: Option<PathBuf>,
    html: Option<PathBuf>,
    limits: Limits,
}

/// What the user wants to run in the guest.
#[derive(Clone, Debug)]
enum Given {
    /// A folder with test-*.sh.
    Folder(PathBuf),
    /// An initramfs.
    Initrd(PathBuf),
    /// What is on a disk.
    Disk,
}

impl Plan {
    /// Checks the command line.
    ///
    /// # Errors
    /// When it makes no sense (exit code 64), in one line.
    pub fn new(options: &Options, args: &Args) -> Result<Self> {
        let usage = |why: String| Error::usage(format!("{why}; `lazymap hunt --help` lists the options"));
        let mut file = MachineFile::named(&args.model);
        (file.harts, file.memory) = (Some(args.harts), Some(args.memory));
        file.cpu = args.cpu.clone();
        file.icount = args.replay.is_some();
        let machine = Machine { seed: args.replay, ..file.machine().map_err(Error::usage)? };
        let qemu = &options.base.qemu;
        if args.replay.is_some() && !qemu.replays {
            let version = &qemu.version;
            return Err(usage(format!(
                "--replay: QEMU {version} does not repeat a run of several harts; leave out --qemu"
            )));
        }
        if !machine.model.stale {
            return Err(usage(format!("harts of the model `{}` remember nothing: no hit is possible", args.model)));
        }
        if args.evict_in.is_some() && !machine.model.cpu.contains(INVALID) {
            return Err(usage(format!("--evict-in needs harts with {INVALID}; the model `{}` has others", args.model)));
        }
        let there = |path: &Option<PathBuf>| match path {
            Some(path) if !path.exists() => Err(Error::usage(format!("{}: no such file", path.display()))),
            _ => Ok(()),
        };
        let paths = [&args.kernel, &args.vmlinux, &args.initrd, &args.modules, &args.workload, &args.bios];
        paths.into_iter().try_for_each(there)?;
        if let Some(bios) = args.bios.as_ref().filter(|bios| !bios.is_file()) {
            return Err(Error::usage(format!("--bios {}: not a file", bios.display())));
        }
        let more = qemu_arguments(&args.drive, &args.qemu_arguments)?;
        let guest = match (&args.initrd, &args.workload) {
            (Some(initrd), _) => Some(Given::Initrd(initrd.clone())),
            (None, Some(folder)) => Some(Given::Folder(folder.clone())),
            (None, None) => args.no_initrd.then_some(Given::Disk),
        };
        if args.no_initrd && args.kernel.is_none() {
            return Err(usage("--no-initrd is for --kernel: kernels of --tree have no drivers for disks".to_owned()));
        }
        if args.no_initrd && more.is_empty() {
            return Err(usage("--no-initrd needs a disk for the kernel to mount, such as --drive FILE".to_owned()));
        }
        let mut append = args.append.trim().to_owned();
        let (from, name) = match (&args.kernel, &args.tree) {
            (None, None) => return Err(usage("no kernel given: --kernel IMAGE, --tree base or --debian".to_owned())),
            (Some(image), _) => {
                // Before anything is downloaded or built.
                let elf = kernel_file::kind(image)? == kernel_file::Kind::Elf;
                let vmlinux = args.vmlinux.clone().or_else(|| elf.then(|| image.clone()));
                if args.evict_in.is_some() && vmlinux.is_none() {
                    return Err(usage("--evict-in needs --vmlinux, which tells where the function is".to_owned()));
                }
                let files = KernelFrom::Files { image: image.clone(), vmlinux, modules: args.modules.clone() };
                (files, file_name(image))
            }
            (None, Some(tree)) => {
                if tree != BASE && tree != SERIES {
                    control::choose(&options.root, &Which::Named(vec![tree.clone()])).map_err(|_| {
                        usage(format!("there is no kernel `{tree}`: it is base, series or the name of a control"))
                    })?;
                }
                let mut config = Config::default();
                let mut name = tree.clone();
                if let Some(asked) = &args.scenario {
                    let found = scenario::choose(&options.root, &Which::Named(vec![asked.clone()]))?;
                    let Some(found) = found.into_iter().next() else {
                        return Err(usage(format!("there is no scenario `{asked}`")));
                    };
                    let Kind::Boot(of) = &found.kind else {
                        return Err(usage(format!("the scenario `{asked}` boots nothing")));
                    };
                    append = format!("{} {append}", of.append).trim().to_owned();
                    config = found.config.clone();
                    name = format!("{name}-{asked}");
                }
                (KernelFrom::Tree { name: tree.clone(), config }, name)
            }
        };
        if args.poison {
            append = format!("{append} {}", poison::PARAMETERS).trim().to_owned();
        }
        let seconds = Duration::from_secs(args.seconds.into());
        let limits = Limits { silence: seconds.min(SILENCE), total: seconds, ..Limits::default() };
        let properties: String = args.cpu.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let properties = if properties.is_empty() { properties } else { format!("-{properties}") };
        let replay = args.replay.map(|seed| format!("-replay-{seed}")).unwrap_or_default();
        let window = args.evict_in.as_ref().map(|function| format!("-in-{}", file_name(Path::new(function))));
        let window = window.unwrap_or_default();
        let files = args.bios.iter().chain(&args.drive).map(|file| format!("-{}", file_name(file)));
        let poison = if args.poison { "-poison" } else { "" };
        let name =
            format!("{name}-{}{window}{properties}{replay}{poison}{}", machine.name(), files.collect::<String>());
        let (firmware, json, html) = (args.bios.clone(), args.json.clone(), args.html.clone());
        let evict_in = args.evict_in.clone();
        Ok(Self { name, from, machine, evict_in, append, guest, firmware, more, json, html, limits })
    }

    fn target(&self, kernel: String, image: PathBuf, vmlinux: Option<PathBuf>, guest: Workload) -> Target {
        let (firmware, more) = (self.firmware.clone(), self.more.clone());
        let (machine, append, limits) = (self.machine.clone(), self.append.clone(), self.limits);
        Target { name: self.name.clone(), kernel, image, vmlinux, guest, machine, append, firmware, more, limits }
    }
}

/// `machine` with harts that lose their valid translations before each instruction of a function of `vmlinux`.
///
/// # Errors
/// When the vmlinux cannot be read, or has no such function (exit code 64).
pub fn evicting(machine: &Machine, vmlinux: &Path, function: &str) -> Result<Machine> {
    let (start, size) = Symbols::load(vmlinux)?.named(function).ok_or_else(|| {
        Error::usage(format!("--evict-in {function}: {} has no function of this name and a size", vmlinux.display()))
    })?;
    let range = format!("x-cache-invalid-evict-in={start:#x}-{:#x}", start + size);
    let mut machine = machine.clone();
    let model = &mut machine.model;
    model.name = format!("{}-in-{function}", model.name).into();
    model.cpu =
        format!("{},svvptc=off,x-cache-invalid-coexist=any,x-cache-invalid-choice=valid,{range}", model.cpu).into();
    Ok(machine)
}

/// The disks and the user's arguments, as QEMU takes them.
///
/// # Errors
/// When a disk cannot be read, or an argument is one that the tool sets (exit code 64).
fn qemu_arguments(disks: &[PathBuf], more: &[OsString]) -> Result<Vec<OsString>> {
    let mut all = Vec::new();
    for disk in disks {
        all.push("-drive".into());
        all.push(drive(disk)?.into());
    }
    for argument in more {
        let option = argument.to_str().and_then(|a| a.strip_prefix('-')).map(|a| a.strip_prefix('-').unwrap_or(a));
        if let Some((option, instead)) = OWN_OPTIONS.iter().find(|(own, _)| option == Some(*own)) {
            return Err(Error::usage(format!("QEMU's -{option} is set by the tool; use {instead} in its place")));
        }
    }
    all.extend_from_slice(more);
    Ok(all)
}

/// QEMU's arguments with a sandbox before them: a kernel, a firmware or a disk may be from anybody, and try to break out
/// of QEMU. A sandbox that the user asks for, or does not want, comes first.
fn sandboxed(more: Vec<OsString>) -> Vec<OsString> {
    if more.iter().any(|argument| argument == "-sandbox" || argument == "--sandbox") {
        return more;
    }
    ["-sandbox", qemu::SANDBOX].map(OsString::from).into_iter().chain(more).collect()
}

/// QEMU's `-drive` for a disk that stays as it is.
fn drive(disk: &Path) -> Result<String> {
    let wrong = |why: &str| Error::usage(format!("--drive {}: {why}; name a raw or qcow2 image", disk.display()));
    let cannot = |e: io::Error| wrong(&format!("cannot be read: {e}"));
    // What repeats the boot runs in another folder.
    let path = disk.canonicalize().map_err(cannot)?;
    let mut magic = Vec::new();
    File::open(&path).and_then(|file| file.take(4).read_to_end(&mut magic)).map_err(cannot)?;
    let format = match magic.as_slice() {
        [] => return Err(wrong("is empty")),
        b"QFI\xfb" => "qcow2",
        _ => "raw",
    };
    let name = path.to_str().ok_or_else(|| wrong("has a name that is not UTF-8"))?;
    Ok(format!("if=virtio,snapshot=on,format={format},file={}", option_value(name)))
}

/// The name of a file, as a part of other files' names.
pub fn file_name(file: &Path) -> String {
    let name = files::name(file);
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect()
}

/// What is hunted.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name of its files.
    pub name: String,
    /// The kernel's name.
    pub kernel: String,
    pub image: PathBuf,
    /// The ELF file with its symbols.
    pub vmlinux: Option<PathBuf>,
    /// What runs in the guest.
    pub guest: Workload,
    pub machine: Machine,
    /// More kernel parameters.
    pub append: String,
    /// The firmware, if it is not the workbench's OpenSBI.
    pub firmware: Option<PathBuf>,
    /// More arguments of QEMU's.
    pub more: Vec<OsString>,
    /// How long it may take.
    pub limits: Limits,
}

/// What runs in the guest.
#[derive(Clone, Debug)]
pub enum Workload {
    /// The user's initramfs.
    Initrd(PathBuf),
    /// A system on a disk: there is no initramfs.
    Disk,
    /// The scripts with these names in a folder.
    Scripts(PathBuf, Vec<String>),
}

/// Hunts, prints the report, and writes it as JSON and HTML.
///
/// # Errors
/// When something cannot be built or booted, or the report cannot be written.
pub fn run(options: &Options, plan: &Plan) -> Result<Exit> {
    let (report, json, html) = hunted(options, plan)?;
    let exit = exit(&report);
    if !options.asked.quiet || exit != Exit::Pass {
        println!("\n{}", report.fitted(table::width()));
    }
    println!("report: {}", shown(&options.root, &html));
    println!("        {}", shown(&options.root, &json));
    Ok(exit)
}

/// Hunts; returns the report, and the files with it as JSON and HTML.
fn hunted(options: &Options, plan: &Plan) -> Result<(Report, PathBuf, PathBuf)> {
    let folder = options.place("hunt");
    files::create_dir(&folder)?;
    let (bench, target) = match &plan.from {
        KernelFrom::Files { image, vmlinux, modules } => {
            let kernel = files::name(image).into_owned();
            let plain = kernel_file::image(image, &folder.join(format!("{}.Image", plan.name)))?;
            image::check(&plain, image, vmlinux.as_deref())?;
            let bench = workbench::without_kernels(options)?;
            let guest = workload(plan, host::clang(&options.base).as_deref(), &folder, modules.as_deref())?;
            (bench, plan.target(kernel, plain, vmlinux.clone(), guest))
        }
        KernelFrom::Tree { name, config } => {
            let mut lab = Lab::open(options)?;
            let (kernel, modules) = match name.as_str() {
                BASE | SERIES => {
                    let (kernel, modules) = lab.with_modules(name, config)?;
                    (kernel, Some(modules))
                }
                _ => (control::kernel(&mut lab, name, config)?, None),
            };
            let guest = workload(plan, Some(lab.clang()), &folder, modules.as_deref())?;
            let target = plan.target(kernel.name, kernel.image, Some(kernel.vmlinux), guest);
            (lab.bench, target)
        }
    };
    let machine = match (&plan.evict_in, &target.vmlinux) {
        (Some(function), Some(vmlinux)) => evicting(&target.machine, vmlinux, function)?,
        _ => target.machine.clone(),
    };
    bench.takes(&machine).map_err(Error::usage)?;
    let more = if bench.qemu.sandboxes() { sandboxed(target.more) } else { target.more };
    let target = Target { machine, more, ..target };
    let report = boot(&bench, &target, &folder)?;
    let json = plan.json.clone().unwrap_or_else(|| folder.join(format!("{}.json", plan.name)));
    let html = plan.html.clone().unwrap_or_else(|| folder.join(format!("{}.html", plan.name)));
    write_json(&report, &json)?;
    write_html(&report, &html)?;
    Ok((report, json, html))
}

/// The exit code that a report stands for.
pub fn exit(report: &Report) -> Exit {
    match report.result {
        Outcome::Survived => Exit::Pass,
        Outcome::Killed { .. } | Outcome::Exposed { .. } | Outcome::Lost { .. } => Exit::Failed,
        Outcome::Incomplete { .. } | Outcome::Uncertain { .. } => Exit::CouldNot,
    }
}

/// Writes a report as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(report: &Report, to: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(|e| Error::could_not(e.to_string()))?;
    fs::write(to, text + "\n").map_err(|e| Error::io("write", to, e))
}

/// Writes a report as a page.
///
/// # Errors
/// When the file cannot be written.
pub fn write_html(report: &Report, to: &Path) -> Result<()> {
    let page = html::page(report).map_err(|e| Error::could_not(e.to_string()))?;
    fs::write(to, page).map_err(|e| Error::io("write", to, e))
}

/// Makes the folder with what runs in the guest; without `clang`, leaves out what is in C.
fn workload(plan: &Plan, clang: Option<&str>, folder: &Path, modules: Option<&Path>) -> Result<Workload> {
    match &plan.guest {
        Some(Given::Initrd(initrd)) => return Ok(Workload::Initrd(initrd.clone())),
        Some(Given::Disk) => return Ok(Workload::Disk),
        Some(Given::Folder(given)) => {
            let names = scenario::tests_in(given)?;
            if names.is_empty() {
                return Err(Error::usage(format!("{} has no test-*.sh to run", given.display())));
            }
            return Ok(Workload::Scripts(given.clone(), names));
        }
        None => {}
    }
    let all = scripts(folder, clang)?;
    if let Some(from) = modules {
        let to = all.join("modules");
        files::create_dir(&to)?;
        if copy_modules(from, &to)? == 0 {
            return Err(Error::usage(format!("{} has no *.ko, *.ko.gz, *.ko.xz or *.ko.zst in it", from.display())));
        }
    }
    Ok(Workload::Scripts(all, WORKLOAD.iter().map(|(name, _)| (*name).to_owned()).collect()))
}

/// Copies the modules in a folder and those below it, unpacked, into one folder; returns how many there are.
///
/// # Errors
/// When one cannot be read, unpacked or written.
pub fn copy_modules(from: &Path, to: &Path) -> Result<usize> {
    let mut count = 0;
    for file in files::list(from)? {
        if file.is_dir() && !file.is_symlink() {
            count += copy_modules(&file, to)?;
        } else if let Some((name, module)) = kernel_file::module(&file)? {
            files::write_whole(&to.join(name), module)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Writes the tool's workload to a folder in `folder`; without `clang`, leaves out what is in C.
///
/// # Errors
/// When the folder cannot be written, or a program cannot be compiled.
pub fn scripts(folder: &Path, clang: Option<&str>) -> Result<PathBuf> {
    let all = folder.join("workload");
    files::remove(&all)?;
    files::create_dir(&all)?;
    for (name, text) in WORKLOAD {
        let file = all.join(name);
        fs::write(&file, text).map_err(|e| Error::io("write", &file, e))?;
        files::make_executable(&file)?;
    }
    if let Some(clang) = clang {
        for (name, text) in PROGRAMS {
            program::compile(clang, text, &all, name)?;
        }
    }
    Ok(all)
}

/// Boots a kernel with tracing, and reports the result. Console, command line and trace go to
/// `FOLDER/NAME.*`.
///
/// A boot that ran into a limit on a host that others kept busy is not certain for this reason alone; it gets one
/// more chance, with limits that fit. The first console is kept as `NAME.try1.log`.
///
/// # Errors
/// When it cannot be booted, the vmlinux cannot be read, or the trace makes no sense.
pub fn boot(bench: &Workbench, target: &Target, folder: &Path) -> Result<Report> {
    files::create_dir(folder)?;
    let symbols = target.vmlinux.as_deref().map(Symbols::load).transpose()?.unwrap_or_default();
    let console = folder.join(format!("{}.log", target.name));
    retry::forget(&console, 1)?;
    let host = bench.host();
    let (report, run) = once(bench, target, folder, &symbols, host)?;
    if bench.options.asked.slow.is_some() || !starved(&report, &run) {
        return Ok(report);
    }
    match retry::with_longer_limits(bench, &target.name, &console, host, run.slowed) {
        Some(longer) => once(bench, target, folder, &symbols, longer).map(|(report, _)| report),
        None => Ok(report),
    }
}

/// Whether a hunt is not certain because of a limit alone, while the host had other work.
fn starved(report: &Report, run: &Run) -> bool {
    let reading = &run.reading;
    let limit = matches!(reading.end, End::Hang(_) | End::Timeout(_));
    let timed_out = |(_, what): &(String, String)| judge::timed_out(what.strip_prefix("fail: "));
    let late = limit || !reading.forbidden.is_empty() || report.subject.workload.iter().any(timed_out);
    let uncertain = matches!(report.result, Outcome::Uncertain { .. } | Outcome::Incomplete { .. });
    uncertain && late && run.slowed >= BUSY && retry::only_slow(reading)
}

/// The kernel parameter that keeps harts which wait for the host's CPUs from being reported as stalled, and the seconds
/// that a part of the workload may take.
///
/// With `icount` the guest's time is virtual: the host does not matter, and must not, as the guest sees both.
fn allowed(machine: &Machine, limits: Limits, host: pace::Host) -> (String, u64) {
    let host = if machine.icount { pace::Host::IDLE } else { host };
    // The kernel's own limit, and the most that it takes: Documentation/RCU/stallwarn.rst.
    let stall = (21.0 * host.slow.max(host.busy)).ceil().min(300.0);
    let stall = if stall > 21.0 { format!(" rcupdate.rcu_cpu_stall_timeout={stall}") } else { String::new() };
    // The guest's clock goes on while others have the host's CPUs.
    let silence = limits.times(host.slow).silence.mul_f64(host.busy);
    (stall, silence.as_secs().saturating_sub(GUEST_GRACE).max(1))
}

/// Boots once.
fn once(
    bench: &Workbench,
    target: &Target,
    folder: &Path,
    symbols: &Symbols,
    host: pace::Host,
) -> Result<(Report, Run)> {
    let name = &target.name;
    let console = folder.join(format!("{name}.log"));
    let limits = target.limits.times(host.slow);
    let (stall, test_seconds) = allowed(&target.machine, target.limits, host);
    let mut append = format!("{ALWAYS}{stall} {}", target.append).trim_end().to_owned();
    let (initrd, guest) = match &target.guest {
        Workload::Initrd(file) => (Some(file.clone()), Guest::Foreign),
        Workload::Disk => (None, Guest::Foreign),
        Workload::Scripts(from, names) => {
            let file = bench.options.out.join("guest").join(format!("hunt-{name}.cpio.gz"));
            initramfs::build(&bench.busybox, from, &file)?;
            append = plan::command_line(&append, names.iter().map(String::as_str), test_seconds);
            (Some(file), Guest::Own)
        }
    };
    let pipe = TracePipe::open(&folder.join(format!("{name}.trace")))?;
    let boot = Boot {
        machine: &target.machine,
        qemu: &bench.qemu.binary,
        property: &bench.options.base.qemu.property,
        firmware: target.firmware.as_ref().unwrap_or(&bench.firmware),
        image: &target.image,
        image_stays: false,
        initrd: initrd.as_deref(),
        append: &append,
        more: &target.more,
        drives: &[],
        plugin: None,
        trace: Some((&pipe.fifo, trace::EVENTS)),
        console: &console,
        limits,
    };
    let started = Utc::now();
    let step = Step::start(format!("hunt in {} on {}", target.kernel, target.machine));
    let command = boot.reproducer();
    let run = boot.run(&mut |line| step.detail(line));
    step.finish(run.as_ref().map_or("not possible".to_owned(), |run| run.reading.end.to_string()).as_str());
    let story = pipe.finish()?.map_err(Error::could_not)?;
    let run = run?;
    let workload: Vec<(String, String)> = ktap::parse(&run.log).cases.iter().map(result).collect();
    let subject = Subject {
        kernel: target.kernel.clone(),
        version: version(&run.log),
        machine: target.machine.name(),
        cpu: target.machine.cpu(),
        harts: target.machine.harts,
        append,
        command,
        seconds: record::tenths(run.log.seconds),
        end: run.reading.end.to_string(),
        workload,
        poison: Poison::of(&run.log),
        ..made(&bench.options, started, &bench.qemu.version)
    };
    Ok((told(subject, &run, &story, symbols, guest), run))
}

/// The report on a finished run.
fn told(subject: Subject, run: &Run, story: &Story, symbols: &Symbols, guest: Guest) -> Report {
    let counters = run.counters.as_ref().map(|counters| counters.as_ref()).map_err(String::as_str);
    told_of(subject, &run.log, &run.reading, counters, story, symbols, guest)
}

/// The report on a console and a trace; `counters` are QEMU's.
fn told_of(
    subject: Subject,
    log: &Log,
    reading: &Reading,
    counters: Result<Option<&Counters>, &str>,
    story: &Story,
    symbols: &Symbols,
    guest: Guest,
) -> Report {
    let death = verdict::death(log, reading);
    let (mut outcome, fates) = verdict::judge(story, reading, death.as_ref(), guest, log);
    let mut note = None;
    if outcome == Outcome::Survived {
        note = death.as_ref().map(|_| "the kernel reported a stale hit on the console, and went on".to_owned());
        let doubt = counted(counters, story).or_else(|| doubts(reading));
        outcome = match (doubt, unfinished(&subject)) {
            (Some(why), _) => Outcome::Uncertain { why },
            (None, Some(why)) => Outcome::Incomplete { why },
            (None, None) => outcome,
        };
    }
    if !matches!(outcome, Outcome::Killed { .. })
        && let Some((of, how)) = verdict::exposure(&story.uses)
            .or_else(|| subject.poison.and_then(|poison| verdict::freed(&story.uses, poison)))
    {
        outcome = Outcome::Exposed { of, how };
    }
    if !matches!(outcome, Outcome::Killed { .. } | Outcome::Exposed { .. })
        && let Ok(Some(counters)) = counters
        && let Some(how) = verdict::lost(counters.gone_tables)
    {
        outcome = Outcome::Lost { how };
    }
    let used = story.hits.iter().flat_map(|hit| [hit.addr, hit.pc, hit.read.as_ref().map_or(hit.addr, |r| r.addr)]);
    let used = used.chain(story.uses.iter().map(|of| of.addr));
    let layout = Layout::new(log, used, symbols.image());
    Report { note, ..report::report(subject, story, (outcome, fates), death, symbols, &layout) }
}

/// The part of a subject that says when, with what and how a report was made; `qemu` is what QEMU says about its
/// version.
pub fn made(options: &Options, started: DateTime<Utc>, qemu: &str) -> Subject {
    Subject {
        started: record::rfc3339(started),
        tool: record::Tool::of(&options.root).to_string(),
        qemu: qemu.to_owned(),
        again: again(&options.asked.command),
        ..Subject::default()
    }
}

/// The report on a console and a trace from elsewhere, about which `subject` says what they do not; what QEMU counted is
/// optional.
///
/// # Errors
/// When the trace makes no sense (exit code 2).
pub fn of_files(
    subject: Subject,
    log: &Log,
    reading: &Reading,
    counters: Option<Counters>,
    trace: &str,
    symbols: &Symbols,
) -> Result<Report> {
    let story = trace::read(trace).map_err(Error::could_not)?;
    let own = log.lines.iter().any(|line| line.text == end::READY);
    let guest = if own { Guest::Own } else { Guest::Foreign };
    // A trace with something in it was switched on; an empty one tells nothing by itself.
    let found = Counters { harts: 0, stale_hits: story.total, fences: 1, gone_tables: 0 };
    let counters = match (&counters, story.total + story.total_uses) {
        (Some(counted), _) => Ok(Some(counted)),
        (None, 1..) => Ok(Some(&found)),
        (None, 0) => Err(NO_HIT),
    };
    let subject = Subject {
        version: version(log),
        machine: "elsewhere".to_owned(),
        end: reading.end.to_string(),
        workload: ktap::parse(log).cases.iter().map(result).collect(),
        poison: Poison::of(log),
        ..subject
    };
    Ok(told_of(subject, log, reading, counters, &story, symbols, guest))
}

/// Why a trace without a hit proves nothing.
pub const NO_HIT: &str = "the trace has no hit: whether there was none, only --counters can tell";

/// Why the trace may not be whole.
fn counted(counters: Result<Option<&Counters>, &str>, story: &Story) -> Option<String> {
    match counters {
        Err(why) => Some(why.to_owned()),
        Ok(None) => Some("QEMU did not count stale hits".to_owned()),
        Ok(Some(counters)) if counters.stale_hits != story.total => {
            Some(format!("QEMU counted {} stale hits and traced {}", counters.stale_hits, story.total))
        }
        Ok(Some(counters)) if counters.fences == 0 => Some("no hart ever fenced".to_owned()),
        Ok(Some(_)) => None,
    }
}

/// Why a console that looks clean may not be.
fn doubts(reading: &Reading) -> Option<String> {
    if let Some(bad) = reading.forbidden.first() {
        return Some(format!("the console has `{}` ({})", bad.text, bad.kind));
    }
    if let Some(odd) = reading.unknown.first() {
        return Some(format!("line {} of the console is an unknown kind of report: `{}`", odd.line, odd.text));
    }
    None
}

/// The part of the workload that did not do all that it should have.
fn unfinished(subject: &Subject) -> Option<String> {
    let (name, what) = subject.workload.iter().find(|(_, what)| what != "pass" && !what.starts_with("skip"))?;
    Some(format!("the workload {name} ended in {what}"))
}

/// The tool's command line for a shell, with the program as people call it.
fn again(command: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c));
        if plain && !word.is_empty() { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words = command.iter().skip(1).map(quoted);
    std::iter::once("harness/lazymap".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A part of the workload and its result.
fn result(case: &ktap::Case) -> (String, String) {
    let name = case.name.rsplit_once(": ").map_or(case.name.as_str(), |(_, name)| name);
    let reason = case.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    (name.to_owned(), format!("{}{reason}", case.status))
}

/// The kernel's first line; empty if the console does not have it.
pub fn version(log: &Log) -> String {
    let mut lines = log.lines.iter().filter(|line| line.text.starts_with("Linux version "));
    lines.next().map(|line| line.text.clone()).unwrap_or_default()
}

/// A pipe that QEMU writes its trace to, read while QEMU runs: a hart that faults forever would fill
/// the disk.
struct TracePipe {
    fifo: PathBuf,
    /// Keeps the pipe open until QEMU has opened it, or never will.
    held: File,
    reader: JoinHandle<Result<Result<Story, String>>>,
}

impl TracePipe {
    /// Makes the pipe; also copies what it reads to `raw`, up to [`MOST_RAW`] bytes.
    fn open(raw: &Path) -> Result<Self> {
        let fifo = raw.with_extension("fifo");
        let cannot = |e: rustix::io::Errno| Error::could_not(format!("cannot make the pipe {}: {e}", fifo.display()));
        match fs::remove_file(&fifo) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &fifo, e)),
            _ => {}
        }
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(cannot)?;
        // Both ends, so that neither open waits for the other.
        let held = File::options().read(true).write(true).open(&fifo).map_err(|e| Error::io("open", &fifo, e))?;
        let source = File::open(&fifo).map_err(|e| Error::io("open", &fifo, e))?;
        let copy = File::create(raw).map_err(|e| Error::io("create", raw, e))?;
        let raw = raw.to_owned();
        let reader = thread::spawn(move || read_pipe(source, copy, &raw));
        Ok(Self { fifo, held, reader })
    }

    /// What came through the pipe, after QEMU has exited.
    fn finish(self) -> Result<Result<Story, String>> {
        drop(self.held);
        let read = self.reader.join().map_err(|_| Error::could_not("the trace could not be read"))?;
        // It is no longer needed, whether or not it can be removed.
        let _ = fs::remove_file(&self.fifo);
        read
    }
}

/// Reads the trace up to its end.
fn read_pipe(source: File, copy: File, raw: &Path) -> Result<Result<Story, String>> {
    let (mut source, mut copy) = (BufReader::with_capacity(1 << 16, source), BufWriter::new(copy));
    let (mut trace, mut line, mut kept) = (Trace::default(), Vec::new(), 0);
    loop {
        line.clear();
        let length = source.read_until(b'\n', &mut line).map_err(|e| Error::io("read", raw, e))?;
        // QEMU may have been killed in the middle of a line.
        if length == 0 || line.last() != Some(&b'\n') {
            break;
        }
        if kept < MOST_RAW {
            copy.write_all(&line).map_err(|e| Error::io("write", raw, e))?;
            kept += length;
        }
        trace.line(String::from_utf8_lossy(&line).trim_end());
    }
    copy.flush().map_err(|e| Error::io("write", raw, e))?;
    Ok(trace.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::models;

    #[test]
    fn a_replay_does_not_show_how_busy_the_host_is() {
        let usual = Machine::new(models::find("stale").unwrap());
        let replay = Machine { icount: true, seed: Some(1), ..usual.clone() };
        let limits = Limits { silence: Duration::from_secs(120), ..Limits::default() };
        let idle = (String::new(), 120 - GUEST_GRACE);
        for (slow, busy) in [(1.0, 1.0), (1.0, 1.01), (2.0, 1.0), (1.3, 8.0)] {
            let host = pace::Host { slow, busy };
            assert_eq!(allowed(&replay, limits, host), idle, "{host:?}");
            assert_eq!(allowed(&usual, limits, host) == idle, slow * busy == 1.0, "{host:?}");
        }
        let (stall, seconds) = allowed(&usual, limits, pace::Host { slow: 2.0, busy: 1.5 });
        assert_eq!((stall.as_str(), seconds), (" rcupdate.rcu_cpu_stall_timeout=42", 360 - GUEST_GRACE));
    }
}
