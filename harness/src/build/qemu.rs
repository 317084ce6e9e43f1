// SPDX-License-Identifier: GPL-2.0-only
//! Fetches, patches and builds the machine model, and checks that it has the property.
//!
//! The unpacked source is a git work tree (its `.git` lies beside it), so that changing a patch only
//! touches and recompiles the files that differ.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::boot::machine::Machine;
use crate::ground::cmd::{self, Ended};
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::Repo;
use crate::ground::key::{self, Key};
use crate::ground::progress::Step;
use crate::options::Options;
use crate::options::base::Base;
use crate::source::apt::{self, Kind};
use crate::source::mailbox::{does_not_apply, patches, patches_key};
use crate::source::{given, host};

/// The emulator's name.
const BINARY: &str = "qemu-system-riscv64";
/// Build the emulator alone, with plugins, and with folders of the host for guests (9p and virtiofs), which
/// need no library. Nothing that needs blobs.
const CONFIGURE: [&str; 13] = [
    "--target-list=riscv64-softmmu",
    "--without-default-features",
    "--enable-tcg",
    "--enable-plugins",
    "--enable-attr",
    "--enable-virtfs",
    "--enable-vhost-user",
    "--enable-fdt=system",
    "--enable-download",
    "--disable-install-blobs",
    "--disable-docs",
    "--disable-tools",
    "--disable-guest-agent",
];
/// A network for guests without any right on the host (`-netdev user`), if the host has the library:
/// pkg-config's name, and the options with it and without.
const SLIRP: (&str, &str, &str) = ("slirp", "--enable-slirp", "--disable-slirp");
/// The same for QEMU's sandbox.
const SECCOMP: (&str, &str, &str) = ("libseccomp", "--enable-seccomp", "--disable-seccomp");
/// What QEMU may not do in its sandbox, as libvirt has it: other programs, other users' rights, other priorities.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// What `-bios default` looks for below the folder of the program.
pub const DEFAULT_BIOS: &str = "share/qemu/opensbi-riscv64-generic-fw_dynamic.bin";

/// A build under way: threads build one after the other.
static BUILDING: Mutex<()> = Mutex::new(());

/// A QEMU with the property.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// `qemu-system-riscv64`.
    pub binary: PathBuf,
    /// The version that it reports.
    pub version: String,
}

impl Qemu {
    /// Checks that QEMU accepts a machine with these CPU properties.
    ///
    /// # Errors
    /// QEMU's message.
    pub fn takes(&self, machine: &Machine) -> Result<(), String> {
        let done =
            self.start(&machine.arguments()).map_err(|e| format!("cannot run {}: {e}", self.binary.display()))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        // The counters of the machine model come after the reason.
        let last = said.lines().rfind(|l| !l.trim().is_empty() && !l.starts_with("x-")).unwrap_or("no message");
        // Drop QEMU's own name at the start.
        let last = last.split_once(": ").map_or(last, |(_, rest)| rest);
        Err(format!("QEMU rejects the machine {machine} (-cpu {}): {last}", machine.cpu()))
    }

    /// Whether it can run in its sandbox: it may have been built without, or the host may not permit it.
    pub fn sandboxes(&self) -> bool {
        let arguments = ["-sandbox", SANDBOX, "-M", "none"].map(str::to_owned);
        self.start(&arguments).is_ok_and(|done| done.status.success())
    }

    /// Creates a machine, but does not run it.
    fn start(&self, arguments: &[String]) -> io::Result<Output> {
        let mut probe = Command::new(&self.binary);
        probe.args(arguments);
        probe.args(["-bios", "none", "-S", "-display", "none", "-serial", "none", "-monitor", "stdio"]);
        cmd::dies_with_us(&mut probe).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = probe.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may have exited by now, with a message.
            let _ = stdin.write_all(b"quit\n");
        }
        child.wait_with_output()
    }
}

/// The QEMU that [`build`] would return, whether or not it exists.
pub fn planned(options: &Options) -> Qemu {
    let asked = env::var_os("LAZYMAP_QEMU").filter(|v| !v.is_empty());
    let binary = asked.map_or_else(|| options.machine_place().join("bin").join(BINARY), PathBuf::from);
    Qemu { binary, version: String::new() }
}

/// Whether QEMU gets `-netdev user` on this host.
pub fn has_slirp() -> bool {
    host::has_library(SLIRP.0)
}

/// Whether the QEMU is built here, and not the one that `LAZYMAP_QEMU` names.
pub fn is_ours() -> bool {
    env::var_os("LAZYMAP_QEMU").is_none_or(|v| v.is_empty())
}

/// Identifies the unpacked source.
#[derive(Serialize, Deserialize)]
struct Unpacked {
    version: String,
    /// Where it comes from: the version that `base.toml` recorded then, or path and contents of the
    /// user's source.
    recorded: String,
    /// SHA-256 of its `.dsc`, or of the user's source.
    sha256: String,
    /// Commit of the source without the project's patches.
    commit: String,
}

/// Builds QEMU with the project's patches, unless that was done before; or takes the one that
/// `LAZYMAP_QEMU` names.
///
/// # Errors
/// When the source cannot be downloaded, a patch does not apply, the build fails, or the result does
/// not have the property; with exit code 64 when the one that is named does not run or lacks it.
pub fn build(options: &Options) -> Result<Qemu> {
    let base = &options.base;
    if let Some(asked) = env::var_os("LAZYMAP_QEMU").filter(|v| !v.is_empty()) {
        // No other try helps, and no other commit.
        return look_at(Path::new(&asked), base, "LAZYMAP_QEMU names it; unset it to have one built")
            .map_err(|error| Error::usage(error.message));
    }
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = options.machine_place();
    let binary = dir.join("bin").join(BINARY);
    let stamp = dir.join("stamp");
    let folder = options.root.join(&base.qemu.patches);
    let patches = patches(&folder)?;
    let step = Step::start(format!("build qemu{}", base.qemu_suffix()));
    let wanted = patches_key(&patches)?;
    let how = format!("{} {}", configuration().join(" "), base.qemu.python.join(" "));
    let key = |unpacked: &Unpacked| {
        Key::default().text("dsc", &unpacked.sha256).text("patches", &wanted).text("how", &how).finish()
    };
    let given = env::var_os("QSRC").filter(|v| !v.is_empty()).map(|v| Given::find(Path::new(&v), base)).transpose()?;
    let recorded = given.as_ref().map_or(&base.qemu.package.version, |given| &given.identity);
    let unpacked = read(&dir).filter(|unpacked| unpacked.recorded == *recorded);
    if let Some(unpacked) = &unpacked
        && binary.exists()
        && key::fresh(&stamp, &key(unpacked))
    {
        step.finish("unchanged");
        return look_at(&binary, base, &format!("remove {} and run again", dir.display()));
    }
    files::remove(&stamp)?;
    host::for_machine(options)?;
    // The library may have come with the packages.
    let how = format!("{} {}", configuration().join(" "), base.qemu.python.join(" "));
    let key = |unpacked: &Unpacked| {
        Key::default().text("dsc", &unpacked.sha256).text("patches", &wanted).text("how", &how).finish()
    };
    let unpacked = match (unpacked, &given) {
        (Some(unpacked), _) => unpacked,
        (None, Some(given)) => given.unpack(&dir)?,
        (None, None) => unpack(&dir, options, base)?,
    };
    let repo = source(&dir);
    apply(&repo, &dir, &unpacked.commit, &patches)?;
    let build = dir.join("build");
    let configured = build.join("lazymap.stamp");
    if !key::fresh(&configured, &how) {
        step.detail("configure");
        configure(&dir, options, base, &step)?;
        files::write_whole(&configured, &how)?;
    }
    let log = options.out.join(format!("log/qemu{}-build.log", base.qemu_suffix()));
    let mut ninja = cmd::plain("ninja");
    ninja.arg("-C").arg(&build).arg(format!("-j{}", options.jobs)).arg(BINARY);
    ccache(&mut ninja, options);
    cmd::logged(&mut ninja, &log, &step)?;
    files::create_dir(&dir.join("bin"))?;
    // Replace the file: the old one may be running.
    let new = dir.join("bin/new");
    fs::copy(build.join(BINARY), &new).map_err(|e| Error::io("write", &new, e))?;
    fs::rename(&new, &binary).map_err(|e| Error::io("write", &binary, e))?;
    let found = look_at(&binary, base, "a patch in patches/ no longer adds it")?;
    files::write_whole(&stamp, key(&unpacked))?;
    step.finish("built");
    Ok(found)
}

/// Builds the selected QEMU without the project's patches, for comparisons, from the source that [`build`] has
/// unpacked and with the same options.
///
/// # Errors
/// When that source is gone, or the build fails.
pub fn bare(options: &Options) -> Result<PathBuf> {
    let place = options.machine_place();
    let unpacked = read(&place).filter(|_| place.join("src.git").exists()).ok_or_else(|| {
        Error::could_not(format!("{} has no source any more; remove it and run again", place.display()))
    })?;
    let dir = place.join("bare");
    let (src, build, stamp) = (dir.join("src"), dir.join("build"), dir.join("stamp"));
    let binary = build.join(BINARY);
    let how = format!("{} {}", configuration().join(" "), options.base.qemu.python.join(" "));
    let wanted = Key::default().text("commit", &unpacked.commit).text("how", &how).finish();
    let step = Step::start("build qemu without the patches");
    if binary.exists() && key::fresh(&stamp, &wanted) {
        step.finish("unchanged");
        return Ok(binary);
    }
    files::remove(&dir)?;
    files::create_dir(&src)?;
    let repo = Repo::at(&src).with("GIT_DIR", place.join("src.git")).with("GIT_WORK_TREE", &src);
    let repo = repo.with("GIT_INDEX_FILE", dir.join("index"));
    repo.run(["read-tree", unpacked.commit.as_str()])?;
    repo.run(["checkout-index", "--all", "--force"])?;
    configure(&dir, options, &options.base, &step)?;
    let mut ninja = cmd::plain("ninja");
    ninja.arg("-C").arg(&build).arg(format!("-j{}", options.jobs)).arg(BINARY);
    ccache(&mut ninja, options);
    cmd::logged(&mut ninja, &options.out.join("log/qemu-bare-build.log"), &step)?;
    files::write_whole(&stamp, wanted)?;
    step.finish("built");
    Ok(binary)
}

/// Checks that a QEMU runs and has the property.
fn look_at(binary: &Path, base: &Base, todo: &str) -> Result<Qemu> {
    let show = binary.display();
    let version = cmd::dies_with_us(Command::new(binary).arg("--version")).output();
    let version = match version {
        Ok(done) if done.status.success() => {
            String::from_utf8_lossy(&done.stdout).lines().next().unwrap_or_default().to_owned()
        }
        Ok(done) => return Err(Error::could_not(format!("{show} does not run ({}); {todo}", done.status))),
        Err(e) => return Err(Error::could_not(format!("{show} does not run: {e}; {todo}"))),
    };
    let device = format!("{}-riscv-cpu,help", Machine::CORE);
    let help = cmd::dies_with_us(Command::new(binary).args(["-M", "virt", "-device", &device])).output();
    let help = help.map_err(|e| Error::could_not(format!("{show} does not run: {e}; {todo}")))?;
    let property = &base.qemu.property;
    let names = |line: &str| line.trim_start().split(['=', ' ']).next() == Some(property.as_str());
    if !String::from_utf8_lossy(&help.stdout).lines().any(names) {
        return Err(Error::could_not(format!(
            "{show} ({version}) has no CPU property {property}: no test of this project can fail on it; {todo}"
        )));
    }
    Ok(Qemu { binary: binary.to_owned(), version })
}

/// The source's repository: its git folder lies beside the work tree `src`, because QEMU's build
/// behaves differently in a checkout.
fn source(dir: &Path) -> Repo {
    Repo::at(dir.join("src")).with("GIT_DIR", dir.join("src.git")).with("GIT_WORK_TREE", dir.join("src"))
}

/// The options of QEMU's `configure` on this host.
fn configuration() -> Vec<&'static str> {
    let optional =
        [SLIRP, SECCOMP].map(|(library, with, without)| if host::has_library(library) { with } else { without });
    CONFIGURE.into_iter().chain(optional).collect()
}

/// Puts the firmware where `-bios default` looks, beside a QEMU that was built here.
///
/// # Errors
/// When it cannot be copied.
pub fn add_firmware(options: &Options, firmware: &Path) -> Result<()> {
    let place = options.machine_place().join(DEFAULT_BIOS);
    let bytes = files::read(firmware)?;
    if fs::read(&place).ok().as_ref() == Some(&bytes) {
        return Ok(());
    }
    files::write_whole(&place, bytes)
}

/// A source of QEMU that the user names with `QSRC`: read, never written.
struct Given {
    path: PathBuf,
    version: String,
    /// Path and contents.
    identity: String,
    sha256: String,
}

impl Given {
    /// Looks at `QSRC`.
    ///
    /// # Errors
    /// When it is neither an unpacked source nor a tarball of one, or of another version (exit code 64).
    fn find(path: &Path, base: &Base) -> Result<Self> {
        let show = path.display();
        let wrong = |why: String| {
            let wanted = &base.qemu.version;
            Error::usage(format!("QSRC={show} {why}; give a folder with QEMU {wanted}.x, or a tarball of it"))
        };
        let about = fs::metadata(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let (version, sha256) = if about.is_dir() {
            let version =
                fs::read_to_string(path.join("VERSION")).map_err(|e| wrong(format!("has no VERSION: {e}")))?;
            (version, given::listing(path)?)
        } else {
            // The first member is the folder with all others.
            let list = cmd::output(cmd::plain("tar").arg("-tf").arg(path))
                .map_err(|e| wrong(format!("cannot be read: {e}")))?;
            let name = list
                .lines()
                .map(|l| l.trim_start_matches("./"))
                .find(|l| l.ends_with("/VERSION") && l.matches('/').count() == 1);
            let name = name.ok_or_else(|| wrong("has no FOLDER/VERSION".to_owned()))?;
            let exact = list.lines().find(|l| l.ends_with(name)).unwrap_or(name);
            (cmd::output(cmd::plain("tar").arg("-xOf").arg(path).arg(exact))?, files::sha256_file(path)?)
        };
        let version = version.trim().to_owned();
        if version != base.qemu.version && !version.starts_with(&format!("{}.", base.qemu.version)) {
            let other = base.every_qemu.iter().find(|qemu| version.starts_with(&format!("{}.", qemu.version)));
            let select = other.map(|qemu| format!(" (those for it are selected with --qemu {})", qemu.version));
            return Err(wrong(format!(
                "is QEMU {version}, and the patches are for {}{}",
                base.qemu.version,
                select.unwrap_or_default()
            )));
        }
        let path = std::path::absolute(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let identity = format!("QSRC {} {sha256}", path.display());
        Ok(Self { path, version, identity, sha256 })
    }

    fn unpack(&self, dir: &Path) -> Result<Unpacked> {
        let src = start_over(dir)?;
        if self.path.is_dir() {
            // Without its repository: QEMU's build behaves differently in one.
            let mut inside = files::list(&self.path)?;
            inside.retain(|path| !path.ends_with(".git"));
            cmd::output(cmd::plain("cp").args(["-a", "-t"]).arg(&src).args(inside))?;
        } else {
            let mut tar = cmd::plain("tar");
            tar.arg("-xf").arg(&self.path).arg("-C").arg(&src).args(["--strip-components=1", "--no-same-owner"]);
            cmd::output(&mut tar)?;
        }
        commit(dir, &self.version, &self.identity, &self.sha256)
    }
}

/// Makes room for another source, and the folder for it.
fn start_over(dir: &Path) -> Result<PathBuf> {
    for part in ["src", "src.git", "build"] {
        files::remove(&dir.join(part))?;
    }
    let src = dir.join("src");
    files::create_dir(&src)?;
    Ok(src)
}

/// Makes the commit of the source that was unpacked.
fn commit(dir: &Path, version: &str, recorded: &str, sha256: &str) -> Result<Unpacked> {
    let repo = source(dir);
    repo.run(["init", "--quiet", "--template=", "-b", "base"])?;
    repo.run(["-c", "core.bigFileThreshold=1", "-c", "core.compression=1", "add", "--all", "--force"])?;
    let files = repo.run(["write-tree"])?;
    let commit = repo.feed(["commit-tree", &files], format!("QEMU {version}\n").as_bytes())?;
    repo.run(["update-ref", "HEAD", &commit])?;
    let (version, recorded, sha256) = (version.to_owned(), recorded.to_owned(), sha256.to_owned());
    let unpacked = Unpacked { version, recorded, sha256, commit };
    files::write_json(&dir.join("unpacked.json"), &unpacked)?;
    Ok(unpacked)
}

fn read(dir: &Path) -> Option<Unpacked> {
    serde_json::from_str(&fs::read_to_string(dir.join("unpacked.json")).ok()?).ok()
}

fn unpack(dir: &Path, options: &Options, base: &Base) -> Result<Unpacked> {
    let package = &base.qemu.package;
    let fetched = apt::fetch(&options.out, package, Kind::Source, &apt::host_arch()?)?;
    let upstream = fetched.version.split_once(':').map_or(fetched.version.as_str(), |(_, v)| v);
    if !upstream.starts_with(&format!("{}.", base.qemu.version)) {
        return Err(Error::could_not(format!(
            "{} {} is not QEMU {}, which the patches are for; correct base.toml",
            package.name, fetched.version, base.qemu.version
        )));
    }
    files::remove(&start_over(dir)?)?;
    let dsc = options.out.join("dl").join(&fetched.main().name);
    // The index is signed, and it has the checksum of the .dsc.
    let mut command = Command::new("dpkg-source");
    command.args(["--no-check", "-x"]).arg(&dsc).arg("src").current_dir(dir).env("LC_ALL", "C");
    cmd::output(&mut command)?;
    commit(dir, &fetched.version, &package.version, &fetched.main().sha256)
}

/// Applies the patches in a separate index, then checks the result out: this leaves unchanged files
/// alone, and a patch that does not apply changes nothing.
fn apply(repo: &Repo, dir: &Path, base: &str, patches: &[PathBuf]) -> Result<()> {
    let index = dir.join("src.git/patched.index");
    files::remove(&index)?;
    let apart = repo.with("GIT_INDEX_FILE", &index);
    apart.run(["read-tree", base])?;
    for patch in patches {
        let args = [OsString::from("apply"), "--cached".into(), "--whitespace=nowarn".into(), patch.into()];
        let done = apart.attempt(args)?;
        if !done.status.success() {
            return Err(does_not_apply(patch, &String::from_utf8_lossy(&done.stderr), base));
        }
    }
    let files = apart.run(["write-tree"])?;
    files::remove(&index)?;
    let commit = repo.feed(["commit-tree", &files, "-p", base], b"with patches\n")?;
    repo.run(["checkout", "--quiet", "--force", "--detach", &commit])?;
    Ok(())
}

fn configure(dir: &Path, options: &Options, base: &Base, step: &Step) -> Result<()> {
    let python = venv(options, base, step)?;
    let build = dir.join("build");
    files::remove(&build)?;
    files::create_dir(&build)?;
    let mut command = cmd::plain("../src/configure");
    command.current_dir(&build).arg(format!("--python={}", python.display()));
    if host::in_path("ccache").is_some() {
        command.arg("--cc=ccache gcc");
    }
    command.args(configuration());
    ccache(&mut command, options);
    let log = options.out.join(format!("log/qemu{}-configure.log", options.base.qemu_suffix()));
    cmd::logged(&mut command, &log, step)
}

/// A Python with the packages that QEMU's configure wants.
fn venv(options: &Options, base: &Base, step: &Step) -> Result<PathBuf> {
    let dir = options.out.join(format!("tools/venv{}", base.qemu_suffix()));
    let python = dir.join("bin/python3");
    let wanted = base.qemu.python.join("\n");
    let stamp = dir.join("stamp");
    if key::fresh(&stamp, &wanted) && python.exists() {
        return Ok(python);
    }
    files::remove(&dir)?;
    // The distribution's python3-venv belongs to the distribution's python3.
    let system = Path::new("/usr/bin/python3");
    let system = if system.exists() { system } else { Path::new("python3") };
    cmd::logged(cmd::plain(system).args(["-m", "venv"]).arg(&dir), &options.out.join("log/venv.log"), step)?;
    let log = options.out.join("log/pip.log");
    let mut pip = cmd::plain(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(&base.qemu.python);
    if let Ended::Badly { tail, what } = cmd::captured(&mut pip, &log, step)? {
        let offline =
            ["NewConnectionError", "Temporary failure", "Name or service", "Network is unreachable", "timed out"];
        let offline = fs::read_to_string(&log).is_ok_and(|text| offline.iter().any(|n| text.contains(n)));
        let why = if offline {
            "no network".to_owned()
        } else {
            tail.iter().find(|l| l.starts_with("ERROR")).cloned().unwrap_or(what)
        };
        return Err(Error::could_not(format!(
            "the Python packages {} cannot be installed: {why}; connect and run again (whole output: {})",
            base.qemu.python.join(" "),
            log.display()
        )));
    }
    files::write_whole(&stamp, wanted)?;
    Ok(python)
}

fn ccache(command: &mut Command, options: &Options) {
    if env::var_os("CCACHE_DIR").is_none() {
        command.env("CCACHE_DIR", options.out.join("ccache"));
    }
    command.env("CCACHE_BASEDIR", &options.out);
}
