// SPDX-License-Identifier: GPL-2.0-only
//! `base.toml`: which kernel, QEMU and guest programs the patches are for, and how to get them.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Error, Result};
use crate::ground::toml_file;

/// The whole of `base.toml`, with one of its kernels.
#[derive(Clone, Debug)]
pub struct Base {
    /// The selected kernel.
    pub linux: Linux,
    /// All kernels that there are patches for; the first is the default.
    pub all: Vec<Linux>,
    /// The topics of the selected kernel's series, in order.
    pub topics: Vec<Topic>,
    /// The topics of all kernels.
    every_topic: Vec<Topic>,
    /// Subject of the patch from which on spurious faults are absorbed the new way.
    pub switch: String,
    /// The selected emulator.
    pub qemu: Qemu,
    /// All emulators that there are patches for; the first is the default.
    pub every_qemu: Vec<Qemu>,
    /// Programs that run inside the guest.
    pub guest: Guest,
    /// The selected firmware.
    pub firmware: Package,
    /// What the host needs.
    pub host: Host,
}

/// `base.toml` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    switch: String,
    linux: Vec<Linux>,
    qemu: Vec<Qemu>,
    guest: Guest,
    host: Host,
    topic: Vec<Topic>,
}

/// A kernel that `patches/linux-*` are for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linux {
    /// `VERSION.PATCHLEVEL`, such as `7.3`; any point release of it will do.
    pub version: String,
    /// Folder of the mailbox patches, relative to the repository.
    pub patches: String,
    /// The tree as a distribution package.
    pub package: Package,
    /// Path of the tarball inside the package.
    pub tarball: String,
    /// Id of the base commit that the recorded package gives; `make series` writes it into the patches.
    pub commit: String,
    /// Topics that its series has; all of them if there are none here.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Beginnings of paths in the repository: sources that its series leaves out.
    #[serde(default)]
    pub without: Vec<String>,
    /// The text of the cover letter, relative to the repository; its first line is the subject.
    #[serde(default = "Linux::common_cover")]
    pub cover: String,
    /// What the subjects of its mails begin with, in brackets and before the number.
    #[serde(default = "Linux::common_prefix")]
    pub subject_prefix: String,
    /// Oldest clang that builds this kernel with Rust.
    pub min_clang: String,
    /// Oldest rustc that builds this kernel.
    pub min_rustc: String,
    /// Oldest bindgen that builds this kernel.
    pub min_bindgen: String,
}

impl Linux {
    /// The cover letter of kernels without one of their own.
    fn common_cover() -> String {
        "docs/cover-letter.md".to_owned()
    }

    /// What `git format-patch` begins subjects with by default.
    fn common_prefix() -> String {
        "PATCH".to_owned()
    }

    /// Whether its series has all topics, and so kernels, tests and controls of its own.
    pub fn is_whole(&self) -> bool {
        self.topics.is_empty()
    }

    /// Those of all `topics` that it has, each on what it has of the topics that it needs.
    fn of(&self, topics: &[Topic]) -> Vec<Topic> {
        let has = |name: &String| self.is_whole() || self.topics.contains(name);
        let mut own: Vec<Topic> = topics.iter().filter(|topic| has(&topic.name)).cloned().collect();
        own.iter_mut().for_each(|topic| topic.on.retain(has));
        own
    }
}

/// A contiguous part of the series that can be taken alone, with the topics that it needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name, as the cover letter has it.
    pub name: String,
    /// Subject of its first patch. Where kernels differ, the first of these that the series has.
    pub first: Vec<String>,
    /// How the subjects of its patches begin.
    pub subjects: Vec<String>,
    /// Names of the topics that it needs, which come before it.
    pub on: Vec<String>,
    /// The mailing list that each of its patches goes to, as get_maintainer.pl names it.
    pub list: Option<String>,
    /// It goes to stable kernels, so each of its patches says what it fixes.
    #[serde(default)]
    pub stable: bool,
    /// It applies without what it needs, too, and then what of it runs on any kernel runs.
    #[serde(default)]
    pub alone: bool,
}

/// A QEMU that `patches/qemu-*` are for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// Upstream version prefix, such as `10.0`.
    pub version: String,
    /// Folder of the patches, relative to the repository.
    pub patches: String,
    /// The CPU property that the patches add.
    pub property: String,
    /// The source package; `sha256` is its `.dsc` file's.
    pub package: Package,
    /// Python packages that QEMU's `configure` wants, as pip requirements.
    pub python: Vec<String>,
    /// Whether a run of several harts with `-icount` and a seed repeats to the instruction.
    #[serde(default = "Qemu::replays")]
    pub replays: bool,
}

impl Qemu {
    fn replays() -> bool {
        true
    }
}

/// What is taken from binary packages into the guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Debian's name of the guest's architecture.
    pub arch: String,
    /// A static busybox.
    pub busybox: Package,
    /// Path of busybox inside its package.
    pub busybox_path: String,
    /// OpenSBI, in several versions; the first is the default.
    #[serde(rename = "firmware")]
    pub every_firmware: Vec<Package>,
    /// Path of `fw_dynamic.bin` inside its package.
    pub firmware_path: String,
    /// What starts the kernel through EFI.
    pub efi: Efi,
}

/// EDK2, in images of the flash memory of QEMU's machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efi {
    pub package: Package,
    /// Path inside the package of the image with the code.
    pub code_path: String,
    /// The same for the variables.
    pub variables_path: String,
}

/// What the host needs besides packages.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The version of bindgen-cli to install when the host's is missing or too old.
    pub bindgen: String,
}

/// A distribution package, and the version that the project was last tested with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub name: String,
    /// Suites that may have it, in the order in which they are tried.
    pub suites: Vec<String>,
    pub version: String,
    /// SHA-256 of that version's file.
    pub sha256: String,
}

impl Package {
    /// Its version without an epoch and without what the distribution adds, such as `1.9` of `1.9-1`.
    pub fn upstream(&self) -> &str {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, rest)| rest);
        version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
    }
}

/// What a run actually used, for `results.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct BaseUsed {
    /// The kernel's version, such as `7.3.4`.
    pub version: String,
    /// `package` or `ksrc`.
    pub source: String,
    /// The package and its version, or the path given as `KSRC`.
    pub from: String,
    /// SHA-256 of the package's file; none for a user's tree.
    pub sha256: Option<String>,
    /// The commit that the patches were applied to.
    pub commit: String,
}

impl Base {
    /// Reads `base.toml` in the repository `root`, for the first kernel.
    ///
    /// # Errors
    /// When it is missing (exit code 64), is not TOML, or has unknown or missing fields; the error names line and column.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join("base.toml");
        let text = fs::read_to_string(&path).map_err(|e| {
            let what = format!("cannot read {}: {e}; run in a checkout of the project", path.display());
            if e.kind() == io::ErrorKind::NotFound { Error::usage(what) } else { Error::could_not(what) }
        })?;
        Self::parse(&text, &path)
    }

    /// The same file with another of its kernels.
    #[must_use]
    pub fn with(&self, linux: &Linux) -> Self {
        Self { linux: linux.clone(), topics: linux.of(&self.every_topic), ..self.clone() }
    }

    /// What the names of folders for this kernel end in: nothing for the first kernel of the file,
    /// `-VERSION` for the others.
    pub fn suffix(&self) -> String {
        suffix(self.all.first().map(|linux| &linux.version), &self.linux.version)
    }

    /// The same file with the kernel `version` selected.
    ///
    /// # Errors
    /// When there are no patches for it (exit code 64).
    pub fn choose(self, version: &str) -> Result<Self> {
        match self.all.iter().find(|linux| linux.version == version) {
            Some(linux) => Ok(self.with(linux)),
            None => {
                let have = self.all.iter().map(|linux| linux.version.as_str()).collect::<Vec<_>>().join(" and ");
                Err(Error::usage(format!(
                    "BASE={version}: there are patches for {have} only; leave BASE out or name one of them"
                )))
            }
        }
    }

    /// The same file with another of its emulators.
    #[must_use]
    pub fn with_qemu(&self, qemu: &Qemu) -> Self {
        Self { qemu: qemu.clone(), ..self.clone() }
    }

    /// The same file with the emulator `version` selected.
    ///
    /// # Errors
    /// When there are no patches for it (exit code 64).
    pub fn choose_qemu(self, version: &str) -> Result<Self> {
        match self.every_qemu.iter().find(|qemu| qemu.version == version) {
            Some(qemu) => Ok(self.with_qemu(qemu)),
            None => {
                let have = self.every_qemu.iter().map(|qemu| qemu.version.as_str()).collect::<Vec<_>>().join(" and ");
                Err(Error::usage(format!("--qemu {version}: there are patches for {have} only; name one of them")))
            }
        }
    }

    /// The same file with the firmware `version` selected.
    ///
    /// # Errors
    /// When there is no such firmware (exit code 64).
    pub fn choose_firmware(self, version: &str) -> Result<Self> {
        let found = self.find_firmware(version).cloned();
        let firmware = found.map_err(|why| Error::usage(format!("--firmware {version}: {why}")))?;
        Ok(Self { firmware, ..self })
    }

    /// The firmware of this version, such as `1.9`: the package's without what the distribution adds.
    ///
    /// # Errors
    /// Which ones there are.
    pub fn find_firmware(&self, version: &str) -> Result<&Package, String> {
        let all = &self.guest.every_firmware;
        all.iter().find(|package| package.upstream() == version).ok_or_else(|| {
            let have = all.iter().map(Package::upstream).collect::<Vec<_>>().join(" and ");
            format!("base.toml has the firmware {have} only; name one of them")
        })
    }

    /// The name of a firmware's file: the default's is `fw_dynamic.bin`.
    pub fn firmware_file(&self, package: &Package) -> String {
        match self.guest.every_firmware.first() {
            Some(first) if first.version != package.version => format!("fw_dynamic-{}.bin", package.version),
            _ => "fw_dynamic.bin".to_owned(),
        }
    }

    /// What the names of folders for this emulator end in, as [`Base::suffix`].
    pub fn qemu_suffix(&self) -> String {
        suffix(self.every_qemu.first().map(|qemu| &qemu.version), &self.qemu.version)
    }

    /// Parses the text of a base file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Base::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let file: File = toml_file::parse(text)
            .map_err(|why| Error::could_not(format!("{}{why}; correct the file", path.display())))?;
        let Some(linux) = file.linux.first().cloned() else {
            return Err(Error::could_not(format!("{}has no [[linux]]; correct the file", path.display())));
        };
        let Some(qemu) = file.qemu.first().cloned() else {
            return Err(Error::could_not(format!("{}has no [[qemu]]; correct the file", path.display())));
        };
        let Some(firmware) = file.guest.every_firmware.first().cloned() else {
            return Err(Error::could_not(format!("{}has no [[guest.firmware]]; correct the file", path.display())));
        };
        check_topics(&file.topic)
            .map_err(|why| Error::could_not(format!("{}: {why}; correct the file", path.display())))?;
        let known = |name: &&String| !file.topic.iter().any(|topic| topic.name == **name);
        if let Some(name) = file.linux.iter().flat_map(|linux| &linux.topics).find(known) {
            return Err(Error::could_not(format!(
                "{}: a kernel has the topic {name}, which does not exist; correct the file",
                path.display()
            )));
        }
        Ok(Self {
            topics: linux.of(&file.topic),
            every_topic: file.topic,
            linux,
            all: file.linux,
            switch: file.switch,
            qemu,
            every_qemu: file.qemu,
            guest: file.guest,
            firmware,
            host: file.host,
        })
    }
}

/// What names of folders for the version `selected` end in, if `first` is the file's first one.
fn suffix(first: Option<&String>, selected: &String) -> String {
    if first == Some(selected) { String::new() } else { format!("-{selected}") }
}

/// Each topic has a name of its own, and needs topics before it alone.
fn check_topics(topics: &[Topic]) -> Result<(), String> {
    for (at, topic) in topics.iter().enumerate() {
        let before = |name: &str| topics[..at].iter().any(|other| other.name == name);
        if before(&topic.name) {
            return Err(format!("there are two topics called {}", topic.name));
        }
        if let Some(other) = topic.on.iter().find(|name| !before(name)) {
            return Err(format!("the topic {} needs {other}, which is not a topic before it", topic.name));
        }
    }
    Ok(())
}
