// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap shell`: a guest to type commands in, on any machine.

use crate::boot::initramfs;
use crate::boot::machine::Boot;
use crate::build::workbench::Lab;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::trial::run;
use crate::trial::scenario::{self, DEFAULT, Kind, Which};

/// Tells the guest's init to start a shell instead of switching the machine off.
const WORD: &str = "lazymap.shell";

/// Builds the kernel of a scenario and boots it with the terminal as its console. Ctrl-A X ends QEMU.
///
/// # Errors
/// When the scenario does not exist or boots nothing (exit code 64), or something cannot be built.
pub fn run(options: &Options, name: Option<&str>) -> Result<()> {
    let name = name.unwrap_or(DEFAULT);
    let found = scenario::choose(&options.root, &Which::Named(vec![name.to_owned()]))?;
    let Some((config, Kind::Boot(trial))) = found.first().map(|s| (&s.config, &s.kind)) else {
        return Err(Error::usage(format!("the scenario `{name}` boots nothing; `lazymap run --list` lists them")));
    };
    let mut trial = trial.as_ref().clone();
    trial.tests.clear();
    trial.append = format!("{} {WORD}", trial.append).trim().to_owned();
    let mut lab = Lab::open(options)?;
    lab.bench.takes(&trial.machine).map_err(Error::usage)?;
    let kernel = lab.kernel(config)?;
    let folder = options.place("shell");
    files::create_dir(&folder)?;
    let initrd = folder.join(format!("{name}.cpio.gz"));
    initramfs::build(&lab.bench.busybox, &kernel.selftests, &initrd)?;
    Step::start(format!("boot {} on {}; Ctrl-A X ends it", kernel.name, trial.machine)).finish("starting");
    let append = trial.command_line(&lab.bench);
    let firmware = lab.bench.firmware_for(trial.firmware.as_deref())?;
    let more = if trial.efi { lab.bench.efi()?.arguments() } else { Vec::new() };
    let console = folder.join("console.log");
    let qemu = run::qemu(&lab.bench, &trial, &kernel, &firmware, &append, &initrd, &console);
    Boot { more: &more, ..qemu }.interactive()
}
