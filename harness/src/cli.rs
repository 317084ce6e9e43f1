// SPDX-License-Identifier: GPL-2.0-only
//! The command line: verbs, options, exit codes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::base::Base;
use crate::error::{Error, Exit, Result};
use crate::scenario::Which;
use crate::trial::{Outcome, Row};
use crate::workbench::Lab;
use crate::{check, cmd, control, cost, demo, host, hunt, litmus, lock, qemu, scenario, series, workbench};

/// What every verb needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Top of the repository (the folder with `base.toml`).
    pub root: PathBuf,
    /// Where everything generated goes.
    pub out: PathBuf,
    /// The user's kernel tree instead of the distribution's.
    pub ksrc: Option<PathBuf>,
    /// The kernel version that is meant, if it is not the first of `base.toml`.
    pub base: Option<String>,
    /// No version was named: what is about the patches alone is about those of each.
    pub every_base: bool,
    /// Parallel jobs of a build.
    pub jobs: usize,
    /// `series-check` builds every patch of the series alone as well.
    pub build_each: bool,
}

impl Options {
    /// The folder called `name` for what depends on the kernel's version, below `out`.
    pub fn place(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}{}", self.suffix()))
    }

    /// The same for another kernel version of `base.toml`.
    ///
    /// # Errors
    /// When that file is wrong.
    pub fn with_base(&self, version: &str) -> Result<Self> {
        let first = Base::load(&self.root)?.linux.version;
        let base = Some(version.to_owned()).filter(|v| *v != first);
        Ok(Self { base, every_base: false, ..self.clone() })
    }

    /// The same for each version that is meant.
    ///
    /// # Errors
    /// When `base.toml` is wrong.
    pub fn bases(&self) -> Result<Vec<Self>> {
        if !self.every_base {
            return Ok(vec![self.clone()]);
        }
        Base::load(&self.root)?.all.iter().map(|linux| self.with_base(&linux.version)).collect()
    }

    /// What [`Options::place`] adds: nothing, or `-VERSION`.
    pub fn suffix(&self) -> String {
        self.base.as_ref().map(|version| format!("-{version}")).unwrap_or_default()
    }
}

/// Exit codes as `--help` shows them.
const EXIT_CODES: &str = "Exit codes: 0 all as expected; 1 a test failed; 2 something could not be had, \
applied, built or booted; 4 everything was skipped; 64 wrong usage; 130 interrupted";

#[derive(Parser, Debug)]
#[command(name = "lazymap", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Top of the repository [default: the folder with base.toml, from here upwards]
    #[arg(long, global = true, value_name = "DIR", value_parser = path())]
    root: Option<PathBuf>,
    /// Folder for everything generated [default: out in the repository]
    #[arg(long, global = true, value_name = "DIR", value_parser = path(), env = "LAZYMAP_OUT", hide_env_values = true)]
    out: Option<PathBuf>,
    /// A kernel tree to use instead of the distribution's; it is never written to
    #[arg(long, global = true, value_name = "DIR", value_parser = path(), env = "KSRC", hide_env_values = true)]
    ksrc: Option<PathBuf>,
    /// The kernel version whose patches are meant
    #[arg(long, global = true, value_name = "VERSION", env = "BASE", hide_env_values = true)]
    base: Option<String>,
    /// Parallel jobs of a build [default: one per CPU]
    #[arg(long, short, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Sets up what is missing, builds, boots both kernels on both machines, prints the table
    Demo,
    /// The tool's own tests, the checks of the series, the demo's matrix, the scenarios, the controls
    /// and two hunts; the last line counts them
    Check {
        /// Every scenario and every run of a control, not only those that are quick
        #[arg(long)]
        full: bool,
    },
    /// Runs scenarios: other configurations, machines and boot parameters
    Run {
        /// Their names [default: all]
        scenario: Vec<String>,
        /// Lists them and runs none
        #[arg(long)]
        list: bool,
        /// Prints what would be done, with QEMU's command line
        #[arg(long)]
        dry_run: bool,
    },
    /// Counts the instructions that the series costs, and holds them against harness/cost.toml
    Cost {
        /// Also with a bitmap of several words, which takes minutes
        #[arg(long)]
        full: bool,
    },
    /// Runs kernels that are broken on purpose, each of which must be caught
    Controls {
        /// Their names [default: all]
        control: Vec<String>,
        /// Lists them and runs none
        #[arg(long)]
        list: bool,
        /// Prints what would be done, with QEMU's command line
        #[arg(long)]
        dry_run: bool,
    },
    /// Boots a kernel, any kernel, on harts that remember invalid translations, and reports each page
    /// fault that comes of it: who mapped, who touched, and whether the kernel got over it
    #[command(after_help = hunt::EXIT_CODES)]
    Hunt(Box<hunt::Args>),
    /// Writes the patches anew from the sources and the commits in the work tree, for each base or
    /// the one that is named
    Series,
    /// Checks that the patches are up to date, apply and have no style problems
    SeriesCheck {
        /// Also builds the kernel at every patch
        #[arg(long)]
        build: bool,
    },
    /// Builds the two kernels and their test modules, and boots nothing
    Kernels,
    /// Builds the machine model only
    Qemu,
    /// Runs the litmus files of the protocol with herd7, which is fetched if it is not there
    Litmus,
    /// Checks what the host must have, and says what was found
    Host {
        /// Installs nothing, not even as root
        #[arg(long)]
        no_install: bool,
    },
}

/// Ends the tool quietly when nobody reads what it prints any more, as `lazymap demo | head` does;
/// `println!` and `eprintln!` would panic.
fn end_on_closed_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.starts_with("failed printing to std")) {
            std::process::exit(i32::from(Exit::CouldNot as u8));
        }
        usual(info);
    }));
}

/// Runs the tool on the process's arguments.
pub fn main() -> ExitCode {
    end_on_closed_pipe();
    let exit = match parse() {
        Ok(Some((options, verb))) => dispatch(&options, verb),
        Ok(None) => Ok(Exit::Pass as u8),
        Err(error) => Err(error),
    };
    if exit.is_err() {
        // Ctrl-C reaches git and the like at the same moment: it, not their end, is the news.
        thread::sleep(Duration::from_millis(50));
        cmd::park_if_interrupted();
    }
    ExitCode::from(exit.unwrap_or_else(|error| {
        eprintln!("lazymap: {error}");
        error.exit as u8
    }))
}

fn parse() -> Result<Option<(Options, Verb)>> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print!("{e}");
            return Ok(None);
        }
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            return Err(Error::usage("no verb given; `lazymap --help` lists them"));
        }
        Err(e) => {
            let text = e.to_string();
            // A line that ends in a colon needs the one after it.
            let mut lines = text.lines().map(str::trim);
            let mut what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            if what.ends_with(':') {
                what = format!("{what} {}", lines.next().unwrap_or_default());
            }
            return Err(Error::usage(format!("{what}; `lazymap --help` shows what there is")));
        }
    };
    // A variable that is set but empty counts as not set.
    let given = |path: Option<PathBuf>| path.filter(|p| !p.as_os_str().is_empty());
    let root = match given(cli.global.root) {
        Some(root) => absolute(&root)?,
        None => find_root()?,
    };
    let out = match given(cli.global.out) {
        Some(out) => absolute(&out)?,
        None => root.join("out"),
    };
    if out.as_os_str().as_encoded_bytes().iter().any(|b| b.is_ascii_whitespace() || *b == b':') {
        // Kbuild and make cannot do with such a name.
        return Err(Error::usage(format!(
            "{}: no build works in a folder with a blank or colon in its name; \
             check out elsewhere or give another with OUT=",
            out.display()
        )));
    }
    let first = Base::load(&root)?;
    let named = cli.global.base.filter(|b| !b.is_empty());
    let every_base = named.is_none();
    let base = named.filter(|b| *b != first.linux.version);
    if let Some(asked) = &base {
        first.choose(asked)?;
    }
    let ksrc = given(cli.global.ksrc).map(|p| absolute(&p)).transpose()?;
    let jobs = cli.global.jobs.map_or_else(cpus, usize::from);
    let build_each = matches!(cli.verb, Verb::SeriesCheck { build: true });
    Ok(Some((Options { root, out, ksrc, base, every_base, jobs, build_each }, cli.verb)))
}

fn dispatch(options: &Options, verb: Verb) -> Result<u8> {
    let base = Base::of(options)?;
    // What only looks needs neither the lock nor anything in the folder, and a wrong name should not
    // be found out after a download.
    match &verb {
        Verb::Run { scenario, list, dry_run } => {
            let which = Which::Named(scenario.clone());
            match (list, dry_run) {
                (true, _) => return scenario::list(&options.root).map(|()| Exit::Pass as u8),
                (_, true) => return scenario::dry_run(options, &which).map(|()| Exit::Pass as u8),
                _ => scenario::choose(&options.root, &which).map(drop)?,
            }
        }
        Verb::Controls { control, list, dry_run } => {
            let which = Which::Named(control.clone());
            match (list, dry_run) {
                (true, _) => return control::list(&options.root).map(|()| Exit::Pass as u8),
                (_, true) => return control::dry_run(options, &which).map(|()| Exit::Pass as u8),
                _ => control::choose(&options.root, &which).map(drop)?,
            }
        }
        Verb::Cost { .. } => cost::Budget::load(&options.root).map(drop)?,
        Verb::Hunt(args) => hunt::Plan::new(options, args).map(drop)?,
        _ => {}
    }
    cmd::end_on_signals()?;
    let _lock = lock::take(&options.out)?;
    let exit = match verb {
        Verb::Demo => demo::run(&workbench::prepare(options)?.bench)?.exit(),
        Verb::Check { full } => {
            // The tool's own tests need git and the like, too.
            host::for_series(options, &base)?;
            check::run(options, full)?.exit()
        }
        Verb::Run { scenario, .. } => {
            let which = Which::Named(scenario);
            outcome(&scenario::rows(&mut Lab::open(options)?, options, &which)?).exit()
        }
        Verb::Controls { control, .. } => {
            let which = Which::Named(control);
            outcome(&control::rows(&mut Lab::open(options)?, options, &which)?).exit()
        }
        Verb::Cost { full } => {
            let rows = cost::rows(&mut workbench::prepare(options)?, options, full)?;
            let mut outcome = Outcome::default();
            rows.iter().for_each(|row| outcome.count(row.verdict));
            println!("{outcome}");
            outcome.exit()
        }
        Verb::Hunt(args) => hunt::run(options, &hunt::Plan::new(options, &args)?)?,
        Verb::Series => {
            for options in options.bases()? {
                series::regenerate(&options)?;
            }
            Exit::Pass
        }
        Verb::SeriesCheck { .. } => {
            let results = series::check(options)?;
            series::print(&results);
            let failed = results.iter().filter(|r| !r.ok).count();
            println!("{} passed, {failed} failed, 0 skipped", results.len() - failed);
            if failed == 0 { Exit::Pass } else { Exit::Failed }
        }
        Verb::Kernels => {
            for kernel in workbench::kernels(options)?.1.values() {
                println!("{}\t{}\t{}", kernel.name, kernel.commit, kernel.image.display());
            }
            Exit::Pass
        }
        Verb::Qemu => {
            let built = qemu::build(options, &base)?;
            println!("{}\t{}", built.binary.display(), built.version);
            Exit::Pass
        }
        Verb::Litmus => {
            let outcome = litmus::run(options)?;
            println!("{outcome}");
            outcome.exit()
        }
        Verb::Host { no_install } => {
            let host = host::prepare(options, &base, !no_install)?;
            for (tool, version) in host.versions() {
                println!("{tool}\t{version}");
            }
            Exit::Pass
        }
    };
    Ok(exit as u8)
}

/// Counts rows, and prints the count.
fn outcome(rows: &[Row]) -> Outcome {
    let mut outcome = Outcome::default();
    rows.iter().for_each(|row| outcome.count(row.verdict));
    println!("{outcome}");
    outcome
}

/// The nearest folder with a `base.toml`, from the current one upwards.
fn find_root() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::could_not(format!("no current folder: {e}")))?;
    here.ancestors()
        .find(|dir| dir.join("base.toml").is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::usage(format!("{} is in no checkout of the project; give --root", here.display())))
}

/// Unlike clap's own parser of paths takes an empty one, which stands for "not given".
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
