// SPDX-License-Identifier: GPL-2.0-only
//! What every verb needs to know, read once at the command line, and where things lie.

pub mod asked;
pub mod base;

use std::path::PathBuf;

use self::asked::Asked;
use self::base::Base;
use crate::boot::machine::LimitsGiven;

/// What every verb needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Top of the repository (the folder with `base.toml`).
    pub root: PathBuf,
    /// Where everything generated goes.
    pub out: PathBuf,
    /// The user's kernel tree instead of the distribution's.
    pub ksrc: Option<PathBuf>,
    /// `base.toml`, with the selected kernel version.
    pub base: Base,
    /// Parallel jobs of a build.
    pub jobs: usize,
    /// Limits of a boot from the environment; these override all others.
    pub limits: LimitsGiven,
    /// What the user asked for besides.
    pub asked: Asked,
}

impl Options {
    /// The folder `name` below `out` for whatever depends on the kernel version.
    pub fn place(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}{}", self.base.suffix()))
    }

    /// The folder of the selected emulator.
    pub fn machine_place(&self) -> PathBuf {
        self.out.join(format!("qemu{}", self.base.qemu_suffix()))
    }

    /// The same options for each emulator of `base.toml` that is not selected.
    pub fn other_machines(&self) -> Vec<Self> {
        let others = self.base.every_qemu.iter().filter(|qemu| qemu.version != self.base.qemu.version);
        others.map(|qemu| Self { base: self.base.with_qemu(qemu), ..self.clone() }).collect()
    }

    /// The same options for each kernel version of `base.toml`.
    pub fn every_base(&self) -> Vec<Self> {
        self.base.all.iter().map(|linux| Self { base: self.base.with(linux), ..self.clone() }).collect()
    }
}
