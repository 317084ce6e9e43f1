// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap distribution`: boots a whole distribution, with its initrd and systemd, and has it do a day's work.
//!
//! [`image`] makes the file systems. The kernel is that of the scenario `distribution`, or one that was built elsewhere,
//! such as the distribution's own with the series, see `lazymap quilt`.

mod image;

use std::path::{Path, PathBuf};

use self::image::{Root, Tools};
use crate::boot::drive::Drive;
use crate::boot::kernel_file;
use crate::boot::machine::{Boot, LimitsGiven, Machine};
use crate::boot::{initramfs, reproduce};
use crate::build::kernel::{BASE, Config, Kernel, SERIES};
use crate::build::workbench::{self, Lab, Workbench};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::hunt;
use crate::options::Options;
use crate::trial::expect::Expect;
use crate::trial::plan::Trial;
use crate::trial::report::{self, Done, Ran, shown};
use crate::trial::run;
use crate::trial::scenario::{self, MachineFile, Which};
use crate::trial::seen::Booted;

/// The scenario with the kernel's configuration, and where the results go.
const NAME: &str = "distribution";
/// What the guest does, in this order: the functions `do_*` of `day.sh`.
const TESTS: [&str; 10] =
    ["boot", "packages", "users", "modules", "services", "compress", "programs", "tracing", "bpf", "failed"];
/// The machines: one whose harts remember nothing, to compare with, and those that are hard on the exception entry.
const MODELS: [&str; 6] = ["plain", "stale", "window-1", "window-2", "window-3", "window-4"];
/// Beside the models' own CPU properties: Debian's kernels use vectors.
const CPU: &str = "v=on";
/// Seconds for a boot and all of the work, and the longest silence. The work takes some minutes on two host CPUs.
const LIMITS: LimitsGiven = LimitsGiven { silence: Some(300), total: Some(1800) };
/// Finds the root file system by its label, which the initrd can do, and says nothing in between kernel messages.
const APPEND: &str = "root=LABEL=lazymap-root rw fsck.mode=skip systemd.show_status=no systemd.log_level=notice";
/// Modules that the initrd may need to find the root file system, if they are not built in.
const EARLY: [&str; 11] = [
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_blk",
    "crc16",
    "crc32c_generic",
    "crc32c-cryptoapi",
    "libcrc32c",
    "mbcache",
    "jbd2",
    "ext4",
];

/// What follows the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The machines: names in harness/models.toml, each also with `-sbi` behind it, separated by commas
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values_t = MODELS.map(str::to_owned))]
    model: Vec<String>,
    /// Number of harts, 1 to 512
    #[arg(long, value_name = "N", default_value_t = Machine::HARTS)]
    harts: u32,
    /// Memory in MiB, at least 512
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = Machine::MEMORY_MIB,
        value_parser = clap::value_parser!(u32).range(512..)
    )]
    memory: u32,
    /// Debian's suite: trixie or a later one
    #[arg(long, value_name = "NAME", default_value = "trixie")]
    suite: String,
    /// The kernel to build: with the series, or without any patch
    #[arg(long, value_name = "NAME", default_value = SERIES, value_parser = [SERIES, BASE])]
    tree: String,
    /// A kernel that was built elsewhere: its Image, Image.gz, vmlinuz.efi or vmlinux
    #[arg(long, value_name = "IMAGE", requires = "modules", conflicts_with = "tree")]
    kernel: Option<PathBuf>,
    /// The folder with that kernel's modules
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// More kernel parameters
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    append: String,
}

/// What [`run`] does, checked as far as possible without building.
#[derive(Clone, Debug)]
pub struct Plan {
    machines: Vec<Machine>,
    suite: String,
    from: KernelFrom,
    config: Config,
    append: String,
}

/// Where the kernel comes from.
#[derive(Clone, Debug)]
enum KernelFrom {
    Tree(String),
    Files { image: PathBuf, modules: PathBuf },
}

impl Plan {
    /// Checks the command line.
    ///
    /// # Errors
    /// When it makes no sense (exit code 64).
    pub fn new(options: &Options, args: &Args) -> Result<Self> {
        let machine = |model: &String| {
            let mut file = MachineFile::named(model);
            (file.harts, file.memory, file.cpu) = (Some(args.harts), Some(args.memory), CPU.to_owned());
            file.machine().map_err(Error::usage)
        };
        let machines = args.model.iter().map(machine).collect::<Result<Vec<_>>>()?;
        if args.suite.is_empty() || !args.suite.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            return Err(Error::usage(format!(
                "--suite {}: the name of a suite has lower-case letters only",
                args.suite
            )));
        }
        let from = match (&args.kernel, &args.modules) {
            (Some(image), Some(modules)) => {
                kernel_file::kind(image)?;
                if !modules.is_dir() {
                    return Err(Error::usage(format!("--modules {} is not a folder", modules.display())));
                }
                KernelFrom::Files { image: image.clone(), modules: modules.clone() }
            }
            _ => KernelFrom::Tree(args.tree.clone()),
        };
        let found = scenario::choose(&options.root, &Which::Named(vec![NAME.to_owned()]))?;
        let config = found.into_iter().next().map(|scenario| scenario.config).unwrap_or_default();
        let append = format!("{APPEND} {}", args.append).trim().to_owned();
        Ok(Self { machines, suite: args.suite.clone(), from, config, append })
    }

    /// The trial on a machine.
    fn trial(&self, kernel: &Kernel, machine: &Machine, bench: &Workbench) -> Trial {
        let expect = Expect::on(machine);
        let tests = TESTS.iter().map(|test| ((*test).to_owned(), expect.clone())).collect();
        Trial {
            append: self.append.clone(),
            limits: LIMITS,
            host: bench.host(),
            ..Trial::new(&kernel.name, machine.clone(), tests)
        }
    }
}

/// Boots the distribution on each machine, prints the table, and writes `out/distribution/results.json`.
///
/// # Errors
/// When something cannot be downloaded or built, or QEMU does not take a machine.
pub fn run(options: &Options, plan: &Plan) -> Result<Ran> {
    let tools = Tools::find(options)?;
    let folder = options.place(NAME);
    files::create_dir(&folder)?;
    let root = Root::fetch(options, &plan.suite, &folder)?;
    let (bench, kernel, modules) = kernel(options, plan, &root, &tools)?;
    for machine in &plan.machines {
        bench.takes(machine).map_err(Error::usage)?;
    }
    let release = release(&kernel.image)?;
    let day = image::day(&root, &tools, &modules, &folder.join("day"))?;
    let initrd = initrd(&root, &tools, &day.modules, &release, &folder)?;
    report::start(&folder)?;
    let mut all: Vec<Done> = Vec::new();
    for machine in &plan.machines {
        let trial = plan.trial(&kernel, machine, &bench);
        let console = folder.join(format!("{}.log", trial.name));
        let done = match boot(&bench, &kernel, &trial, &initrd, (root.image.as_path(), day.image.as_path()), &console) {
            Ok(booted) => run::judged(&bench, &trial, &kernel, &booted, 1),
            Err(error) => run::not_booted(&trial, &error, &bench, &folder),
        };
        all.push(done);
    }
    let ran = report::finish(&bench, NAME, &folder, all)?;
    println!("Consoles and results: {}", shown(&options.root, &folder));
    Ok(ran)
}

/// What boots, the kernel, and the folder with its modules. Makes the root file system if it is not there, for which a
/// kernel is needed that has all drivers built in.
fn kernel(options: &Options, plan: &Plan, root: &Root, tools: &Tools) -> Result<(Workbench, Kernel, PathBuf)> {
    if let KernelFrom::Files { image, modules } = &plan.from
        && root.is_fresh()
    {
        return Ok((workbench::without_kernels(options)?, given(image, root)?, modules.clone()));
    }
    let mut lab = Lab::open(options)?;
    if !root.is_fresh() {
        let (installer, _) = lab.with_modules(SERIES, &plan.config)?;
        root.make(&lab.bench, &installer, tools)?;
    }
    match &plan.from {
        KernelFrom::Files { image, modules } => Ok((lab.bench, given(image, root)?, modules.clone())),
        KernelFrom::Tree(name) => {
            let (kernel, modules) = lab.with_modules(name, &plan.config)?;
            Ok((lab.bench, kernel, modules))
        }
    }
}

/// A kernel that was built elsewhere.
fn given(image: &Path, root: &Root) -> Result<Kernel> {
    let name = hunt::file_name(image);
    let image = kernel_file::image(image, &root.folder.join(format!("{name}.Image")))?;
    Ok(Kernel { name, image, vmlinux: PathBuf::new(), selftests: PathBuf::new(), commit: String::new() })
}

/// The version of the kernel in `image`, as its modules' folder is called.
fn release(image: &Path) -> Result<String> {
    let bytes = files::read(image)?;
    version(&bytes).ok_or_else(|| {
        Error::usage(format!("{} does not say its version (`Linux version …`); name another kernel", image.display()))
    })
}

/// The version behind the first `Linux version ` that has one.
fn version(image: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"Linux version ";
    let mut places = image.windows(BEFORE.len()).enumerate().filter(|(_, window)| *window == BEFORE);
    places.find_map(|(at, _)| {
        let rest = &image[at + BEFORE.len()..];
        let end = rest.iter().position(|&b| !b.is_ascii_graphic())?;
        let version = std::str::from_utf8(&rest[..end]).ok()?;
        (version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains('/')).then(|| version.to_owned())
    })
}

/// The distribution's initrd, with those modules in `modules` that it needs for this kernel.
fn initrd(root: &Root, tools: &Tools, modules: &Path, release: &str, folder: &Path) -> Result<PathBuf> {
    let initrd = folder.join("initrd.img");
    files::copy(&root.initrd, &initrd)?;
    let stage = folder.join("initrd");
    files::remove(&stage)?;
    let own = stage.join("usr/lib/modules").join(release);
    let mut any = false;
    for name in EARLY.map(|name| format!("{name}.ko")) {
        let from = modules.join(&name);
        if from.exists() {
            files::write_whole(&own.join("kernel").join(&name), files::read(&from)?)?;
            any = true;
        }
    }
    if any {
        tools.depmod(&stage, release)?;
        initramfs::append(&initrd, &own, &format!("usr/lib/modules/{release}"))?;
    }
    files::remove(&stage)?;
    Ok(initrd)
}

/// Boots the distribution, with its root file system and the day's work.
fn boot(
    bench: &Workbench,
    kernel: &Kernel,
    trial: &Trial,
    initrd: &Path,
    (root, day): (&Path, &Path),
    console: &Path,
) -> Result<Booted> {
    // As for other boots: what it used is beside what repeats it.
    let own = reproduce::folder(console).join(reproduce::INITRD);
    files::write_whole(&own, files::read(initrd)?)?;
    let append = trial.command_line(bench);
    let drives = [("root", root), ("day", day)].map(|(name, file)| Drive { file, name, kept: false });
    let firmware = bench.firmware_for(trial.firmware.as_deref())?;
    let boot = Boot { drives: &drives, ..run::qemu(bench, trial, kernel, &firmware, &append, &own, console) };
    run::ended(format!("boot {NAME} with {} on {}", kernel.name, trial.machine), &boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_its_version() {
        let image = b"..Linux version \0..Linux version %s\0..Linux version 7.3.4-lazymap (x@y) #1\n\0".to_vec();
        assert_eq!(version(&image), Some("7.3.4-lazymap".to_owned()));
        assert_eq!(version(b"Linux version ../x \0"), None);
        assert_eq!(version(b"Linux version 7"), None, "cut off");
        assert_eq!(version(b""), None);
    }

    #[test]
    fn the_guest_has_a_function_for_each_test() {
        for test in TESTS {
            assert!(image::DAY.contains(&format!("\ndo_{test}() {{\n")), "{test}");
        }
        let functions = image::DAY.lines().filter(|line| line.starts_with("do_")).count();
        assert_eq!(functions, TESTS.len());
    }
}
