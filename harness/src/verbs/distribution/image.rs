// SPDX-License-Identifier: GPL-2.0-only
//! The file systems of a distribution, made without root: packages are unpacked here, and installed by the first boot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazymap_console::end::Ending;

use super::NAME;
use crate::boot::drive::Drive;
use crate::boot::initramfs;
use crate::boot::machine::{Boot, Limits, LimitsGiven, Machine};
use crate::boot::models;
use crate::build::kernel::Kernel;
use crate::build::workbench::Workbench;
use crate::ground::error::{Error, Result};
use crate::ground::key::{self, Key};
use crate::ground::progress::Step;
use crate::ground::{cmd, files};
use crate::hunt;
use crate::options::Options;
use crate::source::apt::{self, Fetched};
use crate::source::host;

/// What the distribution consists of, beside what is essential and what these depend on.
const PACKAGES: [&str; 14] = [
    "adduser",
    "bpftool",
    "dbus",
    "initramfs-tools",
    "kmod",
    "libpam-modules",
    "mawk",
    "mount",
    "passwd",
    "python3-minimal",
    "systemd",
    "systemd-sysv",
    "udev",
    "xz-utils",
];
/// What the day's work installs.
const MORE: [&str; 3] = ["bc", "hello", "sqlite3"];

/// The day's work.
pub const DAY: &str = include_str!("../../boot/guest/distribution/day.sh");
const FIRST_BOOT: &str = include_str!("../../boot/guest/distribution/first-boot.sh");
const START: &str = include_str!("../../boot/guest/distribution/start.sh");
const UNIT: (&str, &str) = ("lazymap-day.service", include_str!("../../boot/guest/distribution/lazymap-day.service"));

/// The last thing that the first boot says.
const INSTALLED: &str = "lazymap: first boot done";
/// How what it says begins if it fails.
const FAILED: &str = "lazymap: first boot failed: ";
/// Its kernel parameters: no initrd, because the machine has no tool yet that makes one.
const FIRST_APPEND: &str = "rdinit=/none root=/dev/vda rootwait rw init=/usr/local/sbin/lazymap-first-boot";
/// How long it may take, in seconds: dpkg configures some hundred packages.
const FIRST_LIMITS: LimitsGiven = LimitsGiven { silence: Some(600), total: Some(3600) };
/// Size of the root file system in MiB. What is not used takes no room on the host.
const ROOT_MIB: u64 = 2048;
/// What a file system takes beyond its files: a factor and MiB.
const ROOM: (u64, u64) = (2, 32);
/// Bump this when this file makes something else from the same inputs.
const RECIPE: &str = "1";

/// Programs of the host.
#[derive(Clone, Debug)]
pub struct Tools {
    mke2fs: PathBuf,
    debugfs: PathBuf,
    depmod: PathBuf,
}

impl Tools {
    /// Finds them, and installs what is missing.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find(options: &Options) -> Result<Self> {
        let [mke2fs, debugfs] = host::admin(options, ["mke2fs", "debugfs"], "e2fsprogs").map_err(Error::could_not)?;
        let [depmod] = host::admin(options, ["depmod"], "kmod").map_err(Error::could_not)?;
        Ok(Self { mke2fs, debugfs, depmod })
    }

    /// Makes a file system with everything in `tree`.
    fn make(&self, tree: &Path, label: &str, mib: u64, image: &Path) -> Result<()> {
        files::remove(image)?;
        let mut command = Command::new(&self.mke2fs);
        command.args(["-q", "-F", "-t", "ext4", "-L", label, "-m", "0", "-E", "root_owner=0:0", "-d"]);
        command.arg(tree).arg(image).arg(format!("{mib}M")).env("LC_ALL", "C");
        cmd::output(&mut command).map(drop)
    }

    /// Writes which of the modules below `top` need which.
    ///
    /// # Errors
    /// When depmod fails.
    pub fn depmod(&self, top: &Path, release: &str) -> Result<()> {
        // Versions of depmod differ in where they look.
        let (old, new) = (top.join("lib"), Path::new("usr/lib"));
        if !old.exists() {
            symlink(new, &old).map_err(|e| Error::io("create", &old, e))?;
        }
        for list in ["modules.order", "modules.builtin"] {
            files::write_whole(&top.join("usr/lib/modules").join(release).join(list), "")?;
        }
        cmd::output(Command::new(&self.depmod).arg("-b").arg(top).arg(release).env("LC_ALL", "C")).map(drop)
    }

    /// Copies a file out of a file system.
    fn dump(&self, image: &Path, file: &str, to: &Path) -> Result<()> {
        files::remove(to)?;
        let mut command = Command::new(&self.debugfs);
        command.arg("-R").arg(format!("dump {file} {}", to.display())).arg(image).env("LC_ALL", "C");
        cmd::output(&mut command)?;
        // debugfs also succeeds if there is no such file.
        match fs::metadata(to) {
            Ok(about) if about.len() > 0 => Ok(()),
            _ => Err(Error::could_not(format!("{} has no {file}; see the console beside it", image.display()))),
        }
    }
}

/// The root file system of a suite, and the packages that it is made of.
#[derive(Clone, Debug)]
pub struct Root {
    /// Where it is.
    pub folder: PathBuf,
    /// The file system.
    pub image: PathBuf,
    /// The initrd that it has made.
    pub initrd: PathBuf,
    /// Where the packages are.
    dl: PathBuf,
    own: Fetched,
    more: Fetched,
    key: String,
}

impl Root {
    /// Downloads the packages.
    ///
    /// # Errors
    /// As [`apt::fetch`].
    pub fn fetch(options: &Options, suite: &str, folder: &Path) -> Result<Self> {
        let arch = &options.base.guest.arch;
        let own = apt::fetch_system(&options.out, NAME, suite, &PACKAGES, arch)?;
        let all: Vec<&str> = PACKAGES.into_iter().chain(MORE).collect();
        let all = apt::fetch_system(&options.out, &format!("{NAME}-day"), suite, &all, arch)?;
        let more = all.files.iter().filter(|deb| !own.files.contains(deb)).cloned().collect();
        let more = Fetched { files: more, ..all };
        let mut key = Key::default().text("recipe", RECIPE);
        for (name, text) in [("first boot", FIRST_BOOT), ("start", START), UNIT] {
            key = key.text(name, text);
        }
        for deb in &own.files {
            key = key.text(&deb.name, &deb.sha256);
        }
        let key = key.finish();
        let folder = folder.join(suite);
        let (image, initrd) = (folder.join("root.img"), folder.join("initrd.img"));
        Ok(Self { folder, image, initrd, dl: options.out.join("dl"), own, more, key })
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("stamp")
    }

    /// Whether it is there, and made of these packages.
    pub fn is_fresh(&self) -> bool {
        self.image.exists() && self.initrd.exists() && key::fresh(&self.stamp(), &self.key)
    }

    /// Makes it: unpacks the packages, and boots them on a machine whose harts remember nothing to install them.
    ///
    /// # Errors
    /// When the disk is full, or the first boot does not install all of them.
    pub fn make(&self, bench: &Workbench, kernel: &Kernel, tools: &Tools) -> Result<()> {
        files::remove(&self.stamp())?;
        let tree = self.folder.join("tree");
        files::remove(&tree)?;
        let step = Step::start(format!("unpack {} packages", self.own.files.len()));
        self.unpack(&tree, &step)?;
        let image = self.folder.join("root.img.new");
        tools.make(&tree, "lazymap-root", ROOT_MIB, &image)?;
        files::remove(&tree)?;
        step.finish("unpacked");
        self.first_boot(bench, kernel, &image)?;
        tools.dump(&image, "/boot/initrd.img", &self.initrd)?;
        fs::rename(&image, &self.image).map_err(|e| Error::io("rename", &image, e))?;
        files::write_whole(&self.stamp(), &self.key)
    }

    fn unpack(&self, tree: &Path, step: &Step) -> Result<()> {
        // As debootstrap does it: packages may have files in either.
        for name in ["bin", "lib", "sbin"] {
            let real = tree.join("usr").join(name);
            files::create_dir(&real)?;
            let link = tree.join(name);
            symlink(Path::new("usr").join(name), &link).map_err(|e| Error::io("create", &link, e))?;
        }
        let cache = tree.join("var/cache/lazymap");
        files::create_dir(&cache)?;
        for deb in &self.own.files {
            step.detail(&deb.name);
            let file = self.dl.join(&deb.name);
            apt::unpack(&file, tree)?;
            files::copy(&file, &cache.join(&deb.name))?;
        }
        let program = |name: &str, text: &str| {
            let file = tree.join("usr/local/sbin").join(name);
            files::write_whole(&file, text)?;
            files::make_executable(&file)
        };
        program("lazymap-first-boot", FIRST_BOOT)?;
        program("lazymap-day", START)?;
        let units = tree.join("etc/systemd/system");
        files::write_whole(&units.join(UNIT.0), UNIT.1)?;
        let wants = units.join("multi-user.target.wants");
        files::create_dir(&wants)?;
        let link = wants.join(UNIT.0);
        symlink(Path::new("..").join(UNIT.0), &link).map_err(|e| Error::io("create", &link, e))?;
        files::write_whole(&tree.join("etc/fstab"), "LABEL=lazymap-root / ext4 defaults 0 0\n")?;
        files::write_whole(&tree.join("etc/hostname"), "lazymap\n")
    }

    fn first_boot(&self, bench: &Workbench, kernel: &Kernel, image: &Path) -> Result<()> {
        let machine = Machine::new(models::find("plain")?);
        // An empty one: QEMU gets one at each boot, and `rdinit` names nothing in it.
        let (none, initrd) = (self.folder.join("none"), self.folder.join("none.cpio.gz"));
        files::create_dir(&none)?;
        initramfs::build(&bench.busybox, &none, &initrd)?;
        let console = self.folder.join("first-boot.log");
        let boot = Boot {
            machine: &machine,
            qemu: &bench.qemu.binary,
            property: &bench.options.base.qemu.property,
            firmware: &bench.firmware,
            image: &kernel.image,
            image_stays: true,
            initrd: Some(&initrd),
            append: FIRST_APPEND,
            more: &[],
            drives: &[Drive { file: image, name: "root", kept: true }],
            plugin: None,
            trace: None,
            console: &console,
            limits: bench.options.limits.over(FIRST_LIMITS.over(Limits::default()).times(bench.host().slow)),
        };
        let step = Step::start("install the packages in a first boot");
        let run = boot.run(&mut |line| step.detail(line))?;
        let said = |text: &str| run.log.lines.iter().find(|line| line.text.starts_with(text));
        if said(INSTALLED).is_some() && run.ending == Ending::Exited(0) {
            step.finish("installed");
            return Ok(());
        }
        step.finish("failed");
        let end = run.reading.end.to_string();
        let why = said(FAILED).and_then(|line| line.text.strip_prefix(FAILED)).unwrap_or(&end);
        Err(Error::could_not(format!("the packages cannot be installed: {why}; see {}", console.display())))
    }
}

/// The file system with the day's work.
#[derive(Clone, Debug)]
pub struct Day {
    pub image: PathBuf,
    /// Folder with the kernel's modules, all of them, unpacked.
    pub modules: PathBuf,
}

/// Makes the file system with the day's work: what to do, packages to install, and the kernel's modules.
///
/// # Errors
/// When the disk is full, or there are no modules.
pub fn day(root: &Root, tools: &Tools, modules: &Path, folder: &Path) -> Result<Day> {
    files::remove(folder)?;
    files::write_whole(&folder.join("day.sh"), DAY)?;
    let to = folder.join("modules");
    files::create_dir(&to)?;
    if hunt::copy_modules(modules, &to)? == 0 {
        return Err(Error::usage(format!("{} has no *.ko, *.ko.gz, *.ko.xz or *.ko.zst in it", modules.display())));
    }
    let debs = folder.join("debs");
    files::create_dir(&debs)?;
    for deb in &root.more.files {
        let file = root.dl.join(&deb.name);
        files::copy(&file, &debs.join(&deb.name))?;
    }
    let image = folder.with_extension("img");
    let bytes = size(&to)? + size(&debs)?;
    tools.make(folder, "lazymap-day", (bytes >> 20) * ROOM.0 + ROOM.1, &image)?;
    Ok(Day { image, modules: to })
}

/// Bytes of the files in a folder.
fn size(folder: &Path) -> Result<u64> {
    let wrong = |e| Error::io("read", folder, e);
    let mut sum = 0;
    for entry in fs::read_dir(folder).map_err(wrong)? {
        sum += entry.and_then(|entry| entry.metadata()).map_err(wrong)?.len();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_say_what_is_looked_for() {
        assert!(FIRST_BOOT.contains(&format!("say \"{}\"", INSTALLED.trim_start_matches("lazymap: "))));
        assert!(FIRST_BOOT.contains(&format!("say \"{}$*\"", FAILED.trim_start_matches("lazymap: "))));
        assert!(UNIT.1.contains("/usr/local/sbin/lazymap-day"));
        assert!(FIRST_APPEND.contains("init=/usr/local/sbin/lazymap-first-boot"));
        assert!(START.contains("by-label/lazymap-day"));
    }

    #[test]
    fn a_folder_has_the_size_of_its_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [0; 1000]).unwrap();
        fs::write(dir.path().join("b"), [0; 24]).unwrap();
        assert_eq!(size(dir.path()).unwrap(), 1024);
        assert!(size(&dir.path().join("none")).is_err());
    }
}
