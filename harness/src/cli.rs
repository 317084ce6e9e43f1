// SPDX-License-Identifier: GPL-2.0-only
//! The command line: verbs, options, exit codes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use chrono::Utc;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::boot::machine::LimitsGiven;
use crate::boot::models;
use crate::build::workbench::{self, Lab};
use crate::ground::error::{Error, Exit, Result};
use crate::ground::shard::Shard;
use crate::ground::{cmd, lock, progress, table};
use crate::options::Options;
use crate::options::asked::{self, Asked, Outputs, Select};
use crate::options::base::Base;
use crate::series::check::Checked;
use crate::series::each;
use crate::source::host;
use crate::trial::control;
use crate::trial::outputs::{self, Told};
use crate::trial::record::{Check, Provenance, Tool};
use crate::trial::report::Ran;
use crate::trial::scenario::{self, MachineFile, Tier, Which};
use crate::trial::select::Selection;
use crate::trial::tally::Tally;
use crate::trial::verdict::{Count, Verdict};
use crate::verbs::check::{Part, Plan};
use crate::verbs::demo::{self, Kernels};
use crate::verbs::{
    bench, board, bundle, check, clean, controls, cost, distribution, exhaust, judge, litmus, machine_cost, mutants,
    quilt, results, run, shell, torture,
};
use crate::{hunt, series};

/// Exit codes as `--help` shows them.
const EXIT_CODES: &str = "Exit codes: 0 all as expected; 1 a test failed; 2 something could not be downloaded, \
applied, built or booted, or the verdict is not certain; 4 everything was skipped; 64 wrong usage; 130 interrupted";

#[derive(Parser, Debug)]
#[command(name = "lazymap", version, about, after_help = EXIT_CODES, max_term_width = 80)]
struct Cli {
    #[command(flatten, next_help_heading = "Options of every verb")]
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
    /// A kernel tree to use instead of the distribution's; never written to
    #[arg(long, global = true, value_name = "DIR", value_parser = path(), env = "KSRC", hide_env_values = true)]
    ksrc: Option<PathBuf>,
    /// The kernel version to work with, one of those in base.toml [default: the first]; `all` for
    /// series and series-check
    #[arg(long, global = true, value_name = "VERSION", env = "BASE", hide_env_values = true)]
    base: Option<String>,
    /// The version of QEMU to patch, one of those in base.toml [default: the first]
    #[arg(long, global = true, value_name = "VERSION", env = "LAZYMAP_QEMU_VERSION", hide_env_values = true)]
    qemu: Option<String>,
    /// The version of the firmware, one of those in base.toml [default: the first]
    #[arg(long, global = true, value_name = "VERSION")]
    firmware: Option<String>,
    /// Parallel jobs of a build [default: one per CPU]
    #[arg(long, short, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Stretches the limits of boots by this factor [default: measured, 1 on an idle host]
    #[arg(long, global = true, value_name = "FACTOR", env = "LAZYMAP_SLOW", hide_env_values = true)]
    slow: Option<String>,
    /// For `git bisect run`: exits with 125 where the result is not certain, and ends the bisection
    /// when the command line is wrong
    #[arg(long, global = true)]
    bisect: bool,
    /// Prints only what is not as expected, and the last line
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Sets up what is missing, builds, boots both kernels on both machines, and prints the table
    Demo {
        /// Prints what would be done, with QEMU's command lines
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Runs the tests: the tool, the patches, the machine, the demo's matrix, scenarios, controls and
    /// hunts; the last line counts them
    Check {
        /// How much to run; each tier includes those before it
        #[arg(long, value_enum, default_value_t = Tier::Quick)]
        tier: Tier,
        /// Only these parts [default: all]
        #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
        only: Vec<Part>,
        /// The I-th of N shares of the work, for parallel runs
        #[arg(long, value_name = "I/N", default_value_t)]
        shard: Shard,
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Runs scenarios: other configurations, machines and boot parameters
    Run {
        /// Their names [default: all]
        scenario: Vec<String>,
        /// Lists them and runs nothing
        #[arg(long)]
        list: bool,
        /// Prints what would be done, with QEMU's command line
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Boots the kernels that people run with and without the series, and writes the table in docs/results.md
    Results(results::Args),
    /// Makes and touches mappings at random on one kernel and machine after the other, each time with another
    /// seed, until the time is up or something fails
    Torture(torture::Args),
    /// Measures what new mappings cost in several workloads, and compares kernels
    Bench {
        /// Runs of each kernel on each machine, each with other random numbers; the tables have the median
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
        runs: u32,
        /// Numbers of harts, separated by commas [default: all]
        #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = bench::parse_harts)]
        harts: Vec<u32>,
        /// Continues a run that was interrupted: boots that it finished are not repeated
        #[arg(long)]
        resume: bool,
    },
    /// Counts the instructions that the series costs, and compares them with harness/cost.toml
    Cost {
        /// Also with a bitmap of several words, which takes minutes; with --machine, also each mode
        #[arg(long)]
        full: bool,
        /// What the patches cost QEMU itself while all properties are off, in instructions of the host. Needs
        /// valgrind; takes a quarter of an hour
        #[arg(long)]
        machine: bool,
    },
    /// Runs kernels that are broken on purpose; each one must be caught
    Controls {
        /// Their names [default: all]
        control: Vec<String>,
        /// Lists them and runs nothing
        #[arg(long)]
        list: bool,
        /// Prints what would be done, with QEMU's command line
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Boots any kernel on harts that remember invalid translations, and reports each page
    /// fault that results: who mapped, who touched, and whether the kernel survived it
    #[command(after_help = hunt::EXIT_CODES)]
    Hunt(Box<hunt::Args>),
    /// Boots a whole Debian, which installs packages, starts services, loads modules, on each machine
    Distribution(Box<distribution::Args>),
    /// Interprets the exception entry of built kernels, instruction by instruction, through every
    /// possible fault, interrupt and switch, and reports what goes wrong
    Exhaust(exhaust::Args),
    /// Changes each instruction of the scheme in each likely way, and reports which changes `exhaust` finds
    Mutants(mutants::Args),
    /// Gives the verdict on the console of a run elsewhere: on a board, in LAVA, in a bug report
    #[command(after_help = judge::EXIT_CODES)]
    Judge(Box<judge::Args>),
    /// Writes the patches from the sources and the commits in the work tree, for each base or the
    /// selected one
    Series,
    /// Checks that the patches are up to date, apply as a whole and in topics, and follow the rules;
    /// prints a table of the topics
    SeriesCheck {
        /// Also builds and boots the kernel at every patch, and each topic on what it needs
        #[arg(long)]
        build: bool,
        /// Builds and boots only this part: a patch (`26`), several (`21-34`), or a topic. May be repeated
        #[arg(long, value_name = "PART", requires = "build")]
        only: Vec<each::Pick>,
    },
    /// Adds the series to the unpacked source package of Debian's kernel, as patches for quilt
    Quilt(quilt::Args),
    /// Builds the two kernels and their test modules, and boots nothing
    Kernels,
    /// Builds only the machine model
    Qemu,
    /// Prints QEMU's arguments for a machine, to use with the program that `qemu` builds
    Model {
        /// A name in harness/models.toml, or that and `-sbi` [default: lists names and CPU properties]
        name: Option<String>,
    },
    /// Packs machine, kernel and tests into one archive that runs on other hosts of this architecture
    Bundle {
        /// Where it goes [default: out/bundle/lazymap-bundle.tar.xz]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Packs the tests for a board
    Board {
        /// The folder in which its kernel was built [default: for the kernel that `kernels` builds]
        #[arg(long, value_name = "DIR")]
        build: Option<PathBuf>,
        /// Where they go [default: out/board/kselftest.tar.gz]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Runs the litmus files of the protocol with herd7, which is downloaded if missing
    Litmus,
    /// Boots a guest with the terminal as its console; Ctrl-A X ends it
    Shell {
        /// The scenario whose configuration and machine to use [default: default]
        scenario: Option<String>,
    },
    /// Removes builds and results; downloads and the kernel tree stay
    Clean {
        /// Removes everything that was generated
        #[arg(long)]
        all: bool,
    },
    /// Prints shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the man page
    Man,
    /// Checks what the host must have; prints what was found, and commands to build kernel and tests with it
    Host {
        /// Installs nothing, not even as root
        #[arg(long)]
        no_install: bool,
    },
}

/// Ends the tool quietly when nobody reads its output any more, as in `lazymap demo | head`; `println!`
/// and `eprintln!` would panic.
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
        Ok(Some((options, verb, named))) => dispatch(&options, verb, named),
        Ok(None) => Ok(Exit::Pass as u8),
        Err(error) => Err(error),
    };
    if exit.is_err() {
        // Ctrl-C also ends git and other children: report the interrupt, not their failure.
        thread::sleep(Duration::from_millis(50));
        cmd::park_if_interrupted();
    }
    let code = exit.unwrap_or_else(|error| {
        eprintln!("lazymap: {error}");
        error.exit as u8
    });
    ExitCode::from(if std::env::args_os().any(|word| word == "--bisect") { for_bisect(code) } else { code })
}

/// The exit code for `git bisect run`, to which 1 to 127 mean "bad", except 125, "cannot be tested",
/// and which ends at any other.
fn for_bisect(code: u8) -> u8 {
    const UNTESTABLE: u8 = 125;
    const STOP: u8 = 128;
    match code {
        code if code == Exit::CouldNot as u8 || code == Exit::Skipped as u8 => UNTESTABLE,
        code if code == Exit::Usage as u8 => STOP,
        code => code,
    }
}

/// What `--base` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Nothing: the first kernel, and each where a verb is about the patches alone.
    Nothing,
    /// One kernel.
    One,
    /// Each kernel.
    All,
}

/// The word for each kernel.
const ALL: &str = "all";

fn parse() -> Result<Option<(Options, Verb, Named)>> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.kind() == ErrorKind::DisplayHelp => {
            print!("{e}");
            return Ok(None);
        }
        Err(e) if e.kind() == ErrorKind::DisplayVersion => {
            println!("{}", version());
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
            // A line that ends in a colon is incomplete without the next.
            let mut lines = text.lines().map(str::trim);
            let mut what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            if what.ends_with(':') {
                what = format!("{what} {}", lines.next().unwrap_or_default());
            }
            let todo = match lines.find_map(|line| line.strip_prefix("tip: ")) {
                Some(tip) => tip.replace('\'', "`"),
                None => "`lazymap --help` lists the options".to_owned(),
            };
            return Err(Error::usage(format!("{what}; {todo}")));
        }
    };
    // An empty variable counts as unset.
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
        // Kbuild and make cannot handle such a name.
        return Err(Error::usage(format!(
            "{}: builds do not work in a folder with a blank or colon in its name; \
             check out elsewhere or give another folder with OUT=",
            out.display()
        )));
    }
    if out.exists() && !out.is_dir() {
        return Err(Error::usage(format!("OUT={} is not a folder; name one", out.display())));
    }
    let base = Base::load(&root)?;
    let base = match cli.global.qemu.filter(|version| !version.is_empty()) {
        Some(version) => base.choose_qemu(&version)?,
        None => base,
    };
    let base = match cli.global.firmware.filter(|version| !version.is_empty()) {
        Some(version) if std::env::var_os("LAZYMAP_FIRMWARE").is_some_and(|path| !path.is_empty()) => {
            return Err(Error::usage(format!("--firmware {version}: LAZYMAP_FIRMWARE names one already; unset it")));
        }
        Some(version) => base.choose_firmware(&version)?,
        None => base,
    };
    let ksrc = given(cli.global.ksrc).map(|p| absolute(&p)).transpose()?;
    let (base, named) = match cli.global.base.filter(|b| !b.is_empty()).as_deref() {
        None => (base, Named::Nothing),
        Some(ALL) if !matches!(cli.verb, Verb::Series | Verb::SeriesCheck { .. }) => {
            return Err(Error::usage("BASE=all is for series and series-check; name one kernel or leave BASE out"));
        }
        Some(ALL) if ksrc.is_some() => {
            return Err(Error::usage("KSRC is a tree of one version; leave it out, or name that version with BASE="));
        }
        Some(ALL) => (base, Named::All),
        Some(version) => (base.choose(version)?, Named::One),
    };
    if !base.linux.is_whole() && !matches!(cli.verb, Verb::Series | Verb::SeriesCheck { .. } | Verb::Quilt(_)) {
        return Err(Error::usage(format!(
            "BASE={}: it has a part of the series, which only series, series-check and quilt take; name another kernel",
            base.linux.version
        )));
    }
    let jobs = cli.global.jobs.map_or_else(cpus, usize::from);
    let limits = LimitsGiven::from_env()?;
    let slow = cli.global.slow.filter(|text| !text.is_empty());
    let slow =
        slow.map(|text| asked::slow(&text).map_err(|why| Error::usage(format!("--slow {text}: {why}")))).transpose()?;
    let (select, outputs) = match &cli.verb {
        Verb::Demo { select, outputs, .. }
        | Verb::Run { select, outputs, .. }
        | Verb::Controls { select, outputs, .. } => (select.clone(), outputs.clone()),
        Verb::Check { outputs, .. } | Verb::Torture(torture::Args { outputs, .. }) => {
            (Select::default(), outputs.clone())
        }
        _ => (Select::default(), Outputs::default()),
    };
    let outputs = Outputs {
        junit: outputs.junit.map(|path| absolute(&path)).transpose()?,
        tap: outputs.tap.map(|path| absolute(&path)).transpose()?,
        kcidb: outputs.kcidb.map(|path| absolute(&path)).transpose()?,
        html: outputs.html.map(|path| absolute(&path)).transpose()?,
    };
    outputs.check()?;
    progress::set_quiet(cli.global.quiet);
    let command = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let asked = Asked { command, started: Utc::now(), outputs, select, slow, quiet: cli.global.quiet };
    Ok(Some((Options { root, out, ksrc, base, jobs, limits, asked }, cli.verb, named)))
}

fn dispatch(options: &Options, verb: Verb, named: Named) -> Result<u8> {
    // Verbs that only look need neither the lock nor anything in the folder. A wrong name is
    // reported before anything is downloaded.
    match verb {
        Verb::Demo { dry_run: true, .. } => return demo::dry_run(options).map(|()| Exit::Pass as u8),
        Verb::Run { list: true, .. } => return run::list(&options.root).map(|()| Exit::Pass as u8),
        Verb::Run { scenario, dry_run: true, .. } => {
            return run::dry_run(options, &Which::Named(scenario)).map(|()| Exit::Pass as u8);
        }
        Verb::Controls { list: true, .. } => return controls::list(&options.root).map(|()| Exit::Pass as u8),
        Verb::Controls { control, dry_run: true, .. } => {
            return controls::dry_run(options, &Which::Named(control)).map(|()| Exit::Pass as u8);
        }
        Verb::Exhaust(args) => return exhaust::run(options, &args).map(|exit| exit as u8),
        Verb::Mutants(args) => return mutants::run(options, &args).map(|exit| exit as u8),
        Verb::Judge(args) => return judge::run(options, &args).map(|exit| exit as u8),
        Verb::Quilt(args) => return quilt::run(options, &args).map(|exit| exit as u8),
        Verb::Results(ref args) if args.check => {
            return results::table::check(&options.root).map(|()| Exit::Pass as u8);
        }
        Verb::Results(ref args) if args.table => {
            return results::rewrite(&options.root).map(|()| Exit::Pass as u8);
        }
        Verb::Model { name } => return model(name.as_deref()).map(|()| Exit::Pass as u8),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "lazymap", &mut io::stdout());
            return Ok(Exit::Pass as u8);
        }
        Verb::Man => {
            let page = clap_mangen::Man::new(Cli::command());
            page.render(&mut io::stdout()).map_err(|e| Error::could_not(format!("cannot print the man page: {e}")))?;
            return Ok(Exit::Pass as u8);
        }
        _ => {}
    }
    let work = prepared(options, verb, named)?;
    cmd::end_on_signals()?;
    let _lock = lock::take(&options.out)?;
    work().map(|exit| exit as u8)
}

/// Runs a verb with the lock held; everything that needs no lock has been checked.
type Work<'a> = Box<dyn FnOnce() -> Result<Exit> + 'a>;

fn prepared(options: &Options, verb: Verb, named: Named) -> Result<Work<'_>> {
    Ok(match verb {
        Verb::Demo { .. } => {
            Selection::new(&options.root, &options.asked.select)?;
            Box::new(move || {
                let ran = reported(options, "demo", || {
                    let mut lab = Lab::open(options)?;
                    let kernels = Kernels::build(&mut lab)?;
                    demo::run(&lab.bench, &kernels)
                })?;
                Ok(if options.asked.quiet { printed(ran.count()) } else { ran.count().exit() })
            })
        }
        Verb::Check { tier, only, shard, .. } => {
            let plan = Plan::new(options, tier, &only, shard)?;
            Box::new(move || {
                outputs::start(&options.asked.outputs)?;
                // The tool's own tests need git and other programs, too.
                let done = host::for_series(options).and_then(|_| check::run(options, &plan));
                done.map(|count| count.exit()).map_err(|error| told(options, "check", error))
            })
        }
        Verb::Run { scenario, .. } => {
            let chosen = scenario::choose(&options.root, &Which::Named(scenario))?;
            let chosen = run::narrow(chosen, &Selection::new(&options.root, &options.asked.select)?)?;
            Box::new(move || {
                let ran = reported(options, "run", || run::run(&mut Lab::open(options)?, &chosen))?;
                Ok(printed(ran.count()))
            })
        }
        Verb::Results(args) => {
            let plan = results::Plan::new(options, &args)?;
            Box::new(move || {
                let count = results::run(&mut Lab::open(options)?, &plan)?;
                Ok(printed(count))
            })
        }
        Verb::Torture(args) => {
            let plan = torture::Plan::new(&options.root, &args)?;
            Box::new(move || {
                let ran = reported(options, "torture", || torture::run(&mut Lab::open(options)?, &plan))?;
                Ok(printed(ran.count()))
            })
        }
        Verb::Controls { control, .. } => {
            let chosen = control::choose(&options.root, &Which::Named(control))?;
            let chosen = controls::narrow(chosen, &Selection::new(&options.root, &options.asked.select)?)?;
            Box::new(move || {
                let ran = reported(options, "controls", || controls::run(&mut Lab::open(options)?, &chosen))?;
                Ok(printed(ran.count()))
            })
        }
        Verb::Bench { runs, harts, resume } => Box::new(move || {
            let mut lab = Lab::open(options)?;
            let kernels = Kernels::build(&mut lab)?;
            let checks = bench::run(&mut lab, &kernels, &bench::Plan { runs, harts, resume })?;
            Ok(printed(checks.iter().map(|check| check.verdict).collect()))
        }),
        Verb::Cost { full, machine: true } => Box::new(move || machine_cost::run(options, full)),
        Verb::Cost { full, machine: false } => {
            cost::Budget::load(&options.root)?;
            Box::new(move || {
                let mut lab = Lab::open(options)?;
                let kernels = Kernels::build(&mut lab)?;
                let rows = cost::run(&mut lab, &kernels, full)?;
                Ok(printed(rows.iter().map(|row| row.verdict).collect()))
            })
        }
        Verb::Hunt(args) if args.is_about_debian() => {
            let plan = hunt::debian::Plan::new(options, &args)?;
            Box::new(move || hunt::debian::run(options, &plan))
        }
        Verb::Hunt(args) if args.is_about_several() => {
            let plan = hunt::several::Plan::new(options, &args)?;
            Box::new(move || hunt::several::run(options, &plan))
        }
        Verb::Hunt(args) => {
            let plan = hunt::Plan::new(options, &args)?;
            Box::new(move || hunt::run(options, &plan))
        }
        Verb::Distribution(args) => {
            let plan = distribution::Plan::new(options, &args)?;
            Box::new(move || Ok(printed(distribution::run(options, &plan)?.count())))
        }
        Verb::Series => Box::new(move || {
            let bases = if named == Named::One { vec![options.clone()] } else { options.every_base() };
            bases.iter().try_for_each(series::write::write)?;
            Ok(Exit::Pass)
        }),
        Verb::SeriesCheck { build, only } => {
            let bases = if named == Named::All { options.every_base() } else { vec![options.clone()] };
            each::exist(&only, &bases)?;
            Box::new(move || series_check(options, &bases, build.then_some(&only)))
        }
        Verb::Kernels => Box::new(move || {
            let kernels = Kernels::build(&mut Lab::for_kernels(options)?)?;
            for kernel in [&kernels.preventive, &kernels.series] {
                println!("{}\t{}\t{}", kernel.name, kernel.commit, kernel.image.display());
            }
            Ok(Exit::Pass)
        }),
        Verb::Qemu => Box::new(move || {
            let built = workbench::machine(options)?;
            println!("{}\t{}", built.binary.display(), built.version);
            Ok(Exit::Pass)
        }),
        Verb::Bundle { output } => Box::new(move || {
            println!("{}", bundle::run(options, output.as_deref())?.display());
            Ok(Exit::Pass)
        }),
        Verb::Board { build, output } => Box::new(move || {
            let packed = board::run(options, build.as_deref(), output.as_deref())?;
            let name = packed.file_name().unwrap_or_default().display();
            println!("{}", packed.display());
            println!("on the board, as root: tar -xf {name} && ALLOW_CRASH=1 kselftest/run_kselftest.sh");
            Ok(Exit::Pass)
        }),
        Verb::Litmus => Box::new(move || {
            let mut tally = Tally::default();
            litmus::run(options, &mut tally)?;
            Ok(printed(tally.finish()))
        }),
        Verb::Shell { scenario } => Box::new(move || {
            shell::run(options, scenario.as_deref())?;
            Ok(Exit::Pass)
        }),
        Verb::Clean { all } => Box::new(move || {
            clean::run(options, all)?;
            Ok(Exit::Pass)
        }),
        Verb::Host { no_install } => Box::new(move || {
            let host = host::prepare(options, !no_install)?;
            for (tool, version) in host.versions() {
                println!("{tool}\t{version}");
            }
            println!("\nIn a kernel tree with the series, for hardware or another machine (BUILD is a folder):\n");
            print!("{}", host.commands());
            Ok(Exit::Pass)
        }),
        // Already handled.
        Verb::Completions { .. }
        | Verb::Man
        | Verb::Exhaust(_)
        | Verb::Mutants(_)
        | Verb::Judge(_)
        | Verb::Quilt(_)
        | Verb::Model { .. } => Box::new(|| Ok(Exit::Pass)),
    })
}

/// Checks the series for each of these kernels, and prints one table of all topics.
fn series_check(options: &Options, bases: &[Options], build: Option<&[each::Pick]>) -> Result<Exit> {
    let mut all = Checked::default();
    let ended: Result<()> = bases.iter().try_for_each(|options| {
        let checked = series::check::check(options, build)?;
        series::check::print(&checked.results, options.asked.quiet);
        all.results.extend(checked.results);
        all.topics.extend(checked.topics);
        Ok(())
    });
    // Also if a later kernel is not available.
    if !all.topics.is_empty() && !options.asked.quiet {
        println!("\n{}", series::topics::table(&all.topics, table::width()));
    }
    ended?;
    Ok(printed(all.results.iter().map(|check| check.verdict).collect()))
}

/// Runs a verb, and writes its results in the forms that were asked for, also if it never got as far as
/// booting anything.
fn reported(options: &Options, verb: &str, work: impl FnOnce() -> Result<Ran>) -> Result<Ran> {
    let asked = &options.asked.outputs;
    outputs::start(asked)?;
    let done = work();
    if asked.is_empty() {
        return done;
    }
    match done {
        Ok(ran) => {
            let told = Told { verb, about: &ran.about, parts: std::slice::from_ref(&ran), checks: &[] };
            outputs::write(asked, &options.root, &told)?;
            Ok(ran)
        }
        Err(error) => Err(told(options, verb, error)),
    }
}

/// Writes an error that ended everything as the only result.
fn told(options: &Options, verb: &str, error: Error) -> Error {
    let (part, name) = (verb.to_owned(), "everything is there that is needed to run".to_owned());
    let check = Check { part, name, verdict: Verdict::Error, why: error.message.clone(), seconds: 0.0 };
    let about = Provenance::of(options, None);
    let told = Told { verb, about: &about, parts: &[], checks: &[check] };
    outputs::write(&options.asked.outputs, &options.root, &told).err().unwrap_or(error)
}

/// Prints a count; returns the exit code that it stands for.
fn printed(count: Count) -> Exit {
    println!("{count}");
    count.exit()
}

/// Prints QEMU's arguments for a machine, or lists the models.
fn model(name: Option<&str>) -> Result<()> {
    match name {
        Some(name) => {
            println!("{}", MachineFile::named(name).machine().map_err(Error::usage)?.arguments().join(" "));
        }
        None => models::all()?.iter().for_each(|(name, cpu)| println!("{name}\t{cpu}")),
    }
    Ok(())
}

/// Name, version, and the commit of the checkout that the tool was built in, if that still exists.
fn version() -> String {
    Tool::of(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))).to_string()
}

/// The nearest folder with a `base.toml`, from the current folder upwards.
fn find_root() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::could_not(format!("no current folder: {e}")))?;
    here.ancestors()
        .find(|dir| dir.join("base.toml").is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::usage(format!("{} is not in a checkout of the project; give --root", here.display())))
}

/// Unlike clap's own path parser, takes an empty path, which means "not given".
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::usage(format!("{}: {e}", path.display())))
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
