// SPDX-License-Identifier: GPL-2.0-only
//! Packages of suites that the machine is not configured for, through private apt roots.
//!
//! A private root is a folder with its own sources, lists and cache: nothing of it reaches the
//! host's own apt. Each package has its own root, so that an index which the mirror is just replacing
//! breaks only that download. The mirror is the host's own; see [`mirror`].

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::base::Package;
use crate::source::host;

/// Keys that sign the distribution's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What a host without apt does instead.
const WITHOUT_APT: &str = "there is no apt-get here; name files of your own in KSRC, LAZYMAP_QEMU or QSRC, \
LAZYMAP_BUSYBOX and LAZYMAP_FIRMWARE";

/// How often to try an index or a file before giving up.
const TRIES: u32 = 3;

/// Pause between two tries, in seconds; `LAZYMAP_RETRY_PAUSE` overrides it (the tests do).
const PAUSE: u64 = 10;

/// What to download of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One `.deb`.
    Binary,
    /// A `.dsc` and the tarballs that it names.
    Source,
    /// The tarball with what the distribution adds to a source, its patches among them.
    Packaging,
}

/// A package whose files are in `out/dl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    pub package: String,
    pub version: String,
    /// What was asked for then, such as the version that `base.toml` recorded; if it is another one now, look again.
    pub recorded: String,
    /// Its files; the `.deb` or `.dsc` comes first.
    pub files: Vec<FetchedFile>,
}

/// One downloaded file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedFile {
    /// Its name in `out/dl`.
    pub name: String,
    /// Its size in bytes, as the index says.
    pub size: u64,
    /// Its SHA-256, as the (signed) index says.
    pub sha256: String,
}

impl Fetched {
    /// The `.deb` or `.dsc`.
    pub fn main(&self) -> &FetchedFile {
        &self.files[0]
    }
}

/// What went wrong between apt and the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    NoNetwork(String),
    /// The index does not match the Release file: the mirror is being updated.
    Inconsistent,
    NotInIndex,
    Gone,
    CutOff,
    WrongChecksum,
    Unsigned,
    NoSpace,
    Other(String),
}

/// Gets `package`, for architecture `arch` (Debian's name), into `out/dl`.
///
/// Files that are already there with the right checksum are used again, without the network. If
/// `package` records no version (an empty text), any version will do; if it records no checksum, that of
/// the signed index is enough.
///
/// # Errors
/// One line for each way in which a download fails; no failure leaves half a file in `out/dl`.
pub fn fetch(out: &Path, package: &Package, kind: Kind, arch: &str) -> Result<Fetched> {
    let dl = out.join("dl");
    let mut note = dl.join(format!("{}.json", package.name));
    // Other versions of a package may be wanted as well, as of QEMU and of the firmware.
    if noted(&note).is_some_and(|have| have.recorded != package.version) {
        note = dl.join(format!("{}-{}.json", package.name, package.version));
    }
    if let Some(have) = present(&dl, &note, &package.version)? {
        return Ok(have);
    }
    let mirror = usable_mirror(&package.name)?;
    let step = Step::start(format!("download {}", package.name));
    let mut last = None;
    for suite in &package.suites {
        let root = Root::create(out, &mirror, suite, kind, arch)?;
        // A suite may have several versions of a source; those of the series that the project knows come first.
        let known = |version: &str| {
            kind != Kind::Source || package.version.is_empty() || series_of(version) == series_of(&package.version)
        };
        let got = match root.get(&package.name, kind, known, &dl, &step) {
            Err(Trouble::NotInIndex) => root.get(&package.name, kind, |_| true, &dl, &step),
            got => got,
        };
        match got {
            Ok(fetched) => {
                check_recorded(package, &fetched, &dl)?;
                let fetched = keep(fetched, &package.version, &note)?;
                step.finish(&fetched.version);
                if !package.version.is_empty() && fetched.version != package.version {
                    eprintln!(
                        "lazymap: note: using {} {}; base.toml was tested with {}",
                        package.name, fetched.version, package.version
                    );
                }
                return Ok(fetched);
            }
            Err(trouble) => last = Some((suite, trouble)),
        }
    }
    let (suite, trouble) =
        last.ok_or_else(|| Error::could_not(format!("base.toml: {} has no suites", package.name)))?;
    Err(Error::could_not(say(&package.name, suite, &trouble)))
}

/// A package as an index lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub version: String,
    /// The names of the packages that it depends on; of alternatives, the first.
    pub depends: Vec<String>,
}

/// The newest version of the package `name` for architecture `arch` that `suite` lists now; `None` if it has none.
///
/// # Errors
/// When the index cannot be downloaded.
pub fn newest(out: &Path, name: &str, suite: &str, arch: &str) -> Result<Option<Listed>> {
    let mirror = usable_mirror(name)?;
    let step = Step::start(format!("look up {name} in {suite}"));
    let root = Root::create(out, &mirror, suite, Kind::Binary, arch)?;
    let listed = match root.newest(name, &out.join("dl"), &step) {
        Ok(listed) => Some(listed),
        Err(Trouble::NotInIndex) => None,
        Err(trouble) => return Err(Error::could_not(say(name, suite, &trouble))),
    };
    step.finish(listed.as_ref().map_or("not there", |listed| listed.version.as_str()));
    Ok(listed)
}

/// The mirror, if this host can download `name` from it.
fn usable_mirror(name: &str) -> Result<String> {
    if host::in_path("apt-get").is_none() {
        return Err(Error::could_not(format!("{name} cannot be downloaded: {WITHOUT_APT}")));
    }
    let mirror = mirror()?;
    if !Path::new(KEYRING).exists() && !local(&mirror) {
        return Err(Error::could_not(format!("{KEYRING} is missing; install debian-archive-keyring")));
    }
    Ok(mirror)
}

/// Gets the packages `wanted` of `suite` for architecture `arch` into `out/dl`, with those that are essential and all
/// that these depend on: what a system consists of. `name` is what the set is called.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_system(out: &Path, name: &str, suite: &str, wanted: &[&str], arch: &str) -> Result<Fetched> {
    let dl = out.join("dl");
    let note = dl.join(format!("{name}-{suite}.json"));
    let recorded = format!("{arch} {}", wanted.join(" "));
    if let Some(have) = present(&dl, &note, &recorded)? {
        return Ok(have);
    }
    let mirror = usable_mirror(name)?;
    let step = Step::start(format!("download {name} of {suite}"));
    let root = Root::create(out, &mirror, suite, Kind::Binary, arch)?;
    let debs = root.get_system(wanted, &dl, &step).map_err(|trouble| Error::could_not(say(name, suite, &trouble)))?;
    step.finish(&format!("{} packages", debs.len()));
    let fetched = Fetched { package: name.to_owned(), version: suite.to_owned(), recorded: String::new(), files: debs };
    keep(fetched, &recorded, &note)
}

/// Writes down in `note` what was fetched, and what for.
fn keep(mut fetched: Fetched, recorded: &str, note: &Path) -> Result<Fetched> {
    recorded.clone_into(&mut fetched.recorded);
    files::write_json(note, &fetched)?;
    Ok(fetched)
}

/// Gets what the distribution adds to the source `name`: a tarball with `debian/`. `of` is the package with
/// the version that it should be of, and the suites. If that one is gone from the pool, takes the newest
/// one that is left with the same upstream series, such as 7.2.
///
/// # Errors
/// As [`fetch`], or when none is left.
pub fn packaging(out: &Path, of: &Package, name: &str) -> Result<Fetched> {
    let dl = out.join("dl");
    let note = dl.join(format!("{name}-{}.json", of.version));
    if let Some(have) = present(&dl, &note, &of.version)? {
        return Ok(have);
    }
    let mirror = usable_mirror(name)?;
    let arch = host_arch()?;
    let step = Step::start(format!("download what the distribution adds to {name}"));
    let series = series_of(&of.version);
    let mut last = format!("base.toml: {} has no suites", of.name);
    for suite in &of.suites {
        let root = Root::create(out, &mirror, suite, Kind::Packaging, &arch)?;
        // The very version if it is there, else the newest.
        let exact = root.get(name, Kind::Packaging, |version| version == of.version, &dl, &step);
        match exact.or_else(|_| root.get(name, Kind::Packaging, |version| series_of(version) == series, &dl, &step)) {
            Ok(fetched) => {
                step.finish(&fetched.version);
                return keep(fetched, &of.version, &note);
            }
            Err(trouble) => last = say(&format!("{name} {series}"), suite, &trouble),
        }
    }
    Err(Error::could_not(last))
}

/// `7.2` of the version `7.2.13-1`.
fn series_of(version: &str) -> &str {
    let end = version.match_indices(['.', '~', '-']).nth(1).map_or(version.len(), |(at, _)| at);
    &version[..end]
}

/// What an earlier run has written down.
fn noted(note: &Path) -> Option<Fetched> {
    serde_json::from_str(&fs::read_to_string(note).ok()?).ok()
}

/// The files that an earlier run fetched for the same, if all of them are there and whole.
fn present(dl: &Path, note: &Path, recorded: &str) -> Result<Option<Fetched>> {
    let Some(have) = noted(note) else { return Ok(None) };
    if have.recorded != recorded {
        return Ok(None);
    }
    for file in &have.files {
        if !is_whole(dl, file)? {
            return Ok(None);
        }
    }
    Ok((!have.files.is_empty()).then_some(have))
}

/// Whether a file is in `dl`, and has its checksum.
fn is_whole(dl: &Path, file: &FetchedFile) -> Result<bool> {
    let path = dl.join(&file.name);
    Ok(path.exists() && files::sha256_file(&path)? == file.sha256)
}

/// The version that `base.toml` records must have the checksum that it records.
fn check_recorded(package: &Package, fetched: &Fetched, dl: &Path) -> Result<()> {
    let file = fetched.main();
    if fetched.version == package.version && !package.sha256.is_empty() && file.sha256 != package.sha256 {
        files::remove(&dl.join(&file.name))?;
        return Err(Error::could_not(format!(
            "wrong checksum: {} {} has SHA-256 {}, base.toml says {}; the mirror serves another file under the same \
             version: do not use it, or correct base.toml if you know why",
            package.name, fetched.version, file.sha256, package.sha256
        )));
    }
    Ok(())
}

/// One line for the user.
fn say(name: &str, suite: &str, trouble: &Trouble) -> String {
    match trouble {
        Trouble::NoNetwork(why) => format!("no network: {name} cannot be downloaded ({why}); connect and run again"),
        Trouble::Inconsistent => {
            format!(
                "the mirror's index of {suite} does not match its Release file: the mirror is being updated, and \
                 {name} cannot be found; run again in half an hour"
            )
        }
        Trouble::NotInIndex if name.starts_with("linux-source") => {
            format!("{name} is not in {suite} (any more); give a tree of that version with KSRC=path")
        }
        Trouble::NotInIndex => format!("{name} is not in {suite} (any more); name another suite in base.toml"),
        Trouble::Gone => {
            format!(
                "{name} is gone from the mirror's pool although {suite} lists it; run again in half an hour, when \
                 the index has caught up"
            )
        }
        Trouble::CutOff => format!("the download of {name} was cut off; run again"),
        Trouble::WrongChecksum => {
            format!(
                "the downloaded {name} has a wrong checksum and was deleted; run again, and suspect the \
                 mirror or a proxy if this persists"
            )
        }
        Trouble::Unsigned => {
            format!("the signature of {suite} cannot be verified; update the package debian-archive-keyring")
        }
        Trouble::NoSpace => format!("no space left on the disk for {name}; make room and run again"),
        Trouble::Other(line) => format!("{name} cannot be downloaded: {line}"),
    }
}

/// A private apt root.
struct Root {
    dir: PathBuf,
    options: Vec<String>,
}

/// The roots whose index this process has updated already.
static UPDATED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Root {
    fn create(out: &Path, mirror: &str, suite: &str, kind: Kind, arch: &str) -> Result<Self> {
        let dir = out.join("apt").join(format!("{suite}-{}", if kind == Kind::Binary { arch } else { "source" }));
        for sub in ["lists/partial", "cache/archives/partial", "parts"] {
            let sub = dir.join(sub);
            files::create_dir(&sub)?;
        }
        let status = dir.join("status");
        fs::write(&status, "").map_err(|e| Error::io("write", &status, e))?;
        let types = if kind == Kind::Binary { "deb" } else { "deb-src" };
        // A mirror on this host has no archive signature; its checksums are still verified.
        let trust = if local(mirror) { "Trusted: yes".to_owned() } else { format!("Signed-By: {KEYRING}") };
        let source = format!("Types: {types}\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n{trust}\n");
        let parts = dir.join("parts/lazymap.sources");
        fs::write(&parts, source).map_err(|e| Error::io("write", &parts, e))?;
        let here = dir.clone();
        let dir = dir.display();
        let options = [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={dir}/parts"),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            // apt fails if the host's default release is unknown here.
            "APT::Default-Release=".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State={dir}"),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            // By default, an index that cannot be downloaded is only a warning.
            "APT::Update::Error-Mode=any".to_owned(),
            // The unprivileged user `_apt` may have no access to the folder.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The caller retries; see `patiently`.
            "Acquire::Retries=0".to_owned(),
        ];
        Ok(Self { dir: here, options: options.into_iter().map(|o| format!("-o{o}")).collect() })
    }

    fn run(&self, program: &str, args: &[&str], dir: &Path) -> Result<Output, Trouble> {
        let mut command = Command::new(program);
        command.args(&self.options).args(args).current_dir(dir).env("LC_ALL", "C").stdin(Stdio::null());
        command.output().map_err(|e| Trouble::Other(format!("cannot run {program}: {e}; this needs Debian's apt")))
    }

    /// As [`Self::run`], with a failure passed to `classify`.
    fn ask(&self, program: &str, args: &[&str], dir: &Path, classify: fn(&str) -> Trouble) -> Result<String, Trouble> {
        let done = self.run(program, args, dir)?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&done.stderr));
        Err(classify(&text))
    }

    /// Updates the index and looks a package up.
    fn newest(&self, name: &str, dl: &Path, step: &Step) -> Result<Listed, Trouble> {
        let _updated = self.update(dl, step)?;
        let version = self.versions(name, Kind::Binary, dl)?.swap_remove(0);
        let exact = format!("{name}={version}");
        let text = self.ask("apt-cache", &["show", &exact], dl, |text| classify(text, During::Download))?;
        Ok(Listed { depends: depends(&text), version })
    }

    /// Updates the index and downloads the newest version that is `wanted` and that the pool still has.
    fn get(
        &self,
        name: &str,
        kind: Kind,
        wanted: impl Fn(&str) -> bool,
        dl: &Path,
        step: &Step,
    ) -> Result<Fetched, Trouble> {
        // One download at a time: a download removes what one that was killed has left.
        let _updated = self.update(dl, step)?;
        let versions = self.versions(name, kind, dl)?;
        let mut trouble = Trouble::NotInIndex;
        for version in versions.into_iter().filter(|version| wanted(version)) {
            step.detail(&version);
            match self.download(name, &version, kind, dl) {
                // An older version may still be in the pool.
                Err(Trouble::Gone) => trouble = Trouble::Gone,
                other => return other,
            }
        }
        Err(trouble)
    }

    /// Downloads packages with all that they need; `wanted` are names.
    fn get_system(&self, wanted: &[&str], dl: &Path, step: &Step) -> Result<Vec<FetchedFile>, Trouble> {
        let _updated = self.update(dl, step)?;
        // Nothing is installed in a private root, so this names all of them.
        let mut args = vec!["-q", "-y", "--print-uris", "-oAPT::Install-Recommends=false", "install", "?essential"];
        args.extend(wanted);
        let list = self.ask("apt-get", &args, dl, |text| classify(text, During::Download))?;
        let debs: Vec<FetchedFile> = list.lines().filter_map(uri_line).collect();
        // One that cannot be read is downloaded again.
        let missing = debs.iter().filter(|deb| !is_whole(dl, deb).unwrap_or(false));
        let missing: Vec<FetchedFile> = missing.cloned().collect();
        let pinned: Vec<String> = missing.iter().filter_map(|deb| pinned(&deb.name)).collect();
        if debs.is_empty() || pinned.len() != missing.len() {
            return Err(Trouble::NotInIndex);
        }
        if !missing.is_empty() {
            step.detail(&format!("{} packages", missing.len()));
            let args: Vec<&str> = ["-q", "download"].into_iter().chain(pinned.iter().map(String::as_str)).collect();
            self.bring(&args, part(dl)?.path(), &missing, dl)?;
        }
        Ok(debs)
    }

    /// Updates the index, once in each run of the tool. Nobody else downloads while the result is kept.
    fn update(&self, dl: &Path, step: &Step) -> Result<MutexGuard<'static, BTreeSet<PathBuf>>, Trouble> {
        fs::create_dir_all(dl).map_err(|e| Trouble::Other(format!("{}: {e}", dl.display())))?;
        step.detail("index");
        let mut updated = UPDATED.lock().unwrap_or_else(PoisonError::into_inner);
        if !updated.contains(&self.dir) {
            patiently(|| self.ask("apt-get", &["-q", "update"], dl, |text| classify(text, During::Update)).map(drop))?;
            updated.insert(self.dir.clone());
        }
        Ok(updated)
    }

    /// The versions that the index lists, newest first.
    fn versions(&self, name: &str, kind: Kind, dir: &Path) -> Result<Vec<String>, Trouble> {
        let args: &[&str] = match kind {
            Kind::Binary => &["show", name],
            Kind::Source | Kind::Packaging => &["showsrc", "--only-source", name],
        };
        let done = self.run("apt-cache", args, dir)?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let mut versions: Vec<String> = Vec::new();
        for version in text.lines().filter_map(|l| l.strip_prefix("Version: ")) {
            if !versions.iter().any(|v| v == version) {
                versions.push(version.to_owned());
            }
        }
        // apt orders `show` but not `showsrc`.
        versions.sort_by(|a, b| {
            let newer = Command::new("dpkg").args(["--compare-versions", a, "gt", b]).status();
            if newer.is_ok_and(|s| s.success()) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater }
        });
        if versions.is_empty() { Err(Trouble::NotInIndex) } else { Ok(versions) }
    }

    fn download(&self, name: &str, version: &str, kind: Kind, dl: &Path) -> Result<Fetched, Trouble> {
        let wanted = format!("{name}={version}");
        let args: Vec<&str> = match kind {
            Kind::Binary => vec!["-q", "download", &wanted],
            Kind::Source => vec!["-q", "source", "--download-only", "--only-source", &wanted],
            Kind::Packaging => vec!["-q", "source", "--download-only", "--diff-only", "--only-source", &wanted],
        };
        let part = part(dl)?;
        // In an empty folder: apt does not list a file that already exists.
        let list = {
            let mut list = args.clone();
            list.insert(1, "--print-uris");
            self.ask("apt-get", &list, part.path(), |text| classify(text, During::Download))?
        };
        let mut files: Vec<FetchedFile> = list.lines().filter_map(uri_line).collect();
        files.sort_by_key(|f| !(f.name.ends_with(".dsc") || f.name.ends_with(".deb")));
        if files.is_empty() {
            return Err(Trouble::NotInIndex);
        }
        self.bring(&args, part.path(), &files, dl)?;
        Ok(Fetched { package: name.to_owned(), version: version.to_owned(), recorded: String::new(), files })
    }

    /// Downloads `wanted` with these arguments of apt-get to the folder `part`, and moves them to `dl` once they are
    /// complete and verified.
    fn bring(&self, args: &[&str], part: &Path, wanted: &[FetchedFile], dl: &Path) -> Result<(), Trouble> {
        let io = |e: std::io::Error| Trouble::Other(format!("{}: {e}", dl.display()));
        patiently(|| self.ask("apt-get", args, part, |text| classify(text, During::Download)).map(drop))?;
        for file in wanted {
            let got = found(part, &file.name)?;
            if fs::metadata(&got).map_err(io)?.len() != file.size {
                return Err(Trouble::CutOff);
            }
            if files::sha256_file(&got).map_err(|e| Trouble::Other(e.message))? != file.sha256 {
                return Err(Trouble::WrongChecksum);
            }
        }
        for file in wanted {
            let (got, place) = (found(part, &file.name)?, dl.join(&file.name));
            // apt links to the files of a mirror on this host, and they may go away.
            if got.is_symlink() { fs::copy(&got, &place).map(drop) } else { fs::rename(&got, &place) }.map_err(io)?;
        }
        Ok(())
    }
}

/// A folder for files on their way to `dl`: they get their final names only when they are complete and verified.
fn part(dl: &Path) -> Result<TempDir, Trouble> {
    let io = |e: std::io::Error| Trouble::Other(format!("{}: {e}", dl.display()));
    // Left by a run that was killed.
    for left in fs::read_dir(dl).map_err(io)?.flatten() {
        if left.file_name().to_string_lossy().starts_with(".part-") {
            files::remove(&left.path()).map_err(|e| Trouble::Other(e.message))?;
        }
    }
    tempfile::Builder::new().prefix(".part-").tempdir_in(dl).map_err(io)
}

/// The packages that one depends on, from what `apt-cache show` prints about it.
fn depends(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    line.split(',').filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect()
}

/// `NAME=VERSION` of a package's file, whose name apt has made of both.
fn pinned(file: &str) -> Option<String> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, _arch) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{name}={}", version.replace("%3a", ":").replace("%5f", "_")))
}

/// The downloaded file in `dir`: apt writes an epoch's colon as `%3a`, but not in all its lists.
fn found(dir: &Path, name: &str) -> Result<PathBuf, Trouble> {
    let entries = fs::read_dir(dir).map_err(|e| Trouble::Other(format!("{}: {e}", dir.display())))?;
    let same = |entry: &str| entry.replace("%3a", ":") == name.replace("%3a", ":");
    entries.flatten().find(|e| same(&e.file_name().to_string_lossy())).map(|e| e.path()).ok_or(Trouble::CutOff)
}

/// `'URI' NAME SIZE SHA256:HEX`, as `--print-uris` prints it.
fn uri_line(line: &str) -> Option<FetchedFile> {
    let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace();
    let name = words.next()?.to_owned();
    let size = words.next()?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("SHA256:")?.to_owned();
    Some(FetchedFile { name, size, sha256 })
}

/// Retries what may succeed a moment later.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let pause = env::var("LAZYMAP_RETRY_PAUSE").ok().and_then(|s| s.parse().ok()).unwrap_or(PAUSE);
    for _ in 1..TRIES {
        match attempt() {
            Err(Trouble::NoNetwork(_) | Trouble::Inconsistent | Trouble::CutOff | Trouble::WrongChecksum) => {
                thread::sleep(Duration::from_secs(pause));
            }
            other => return other,
        }
    }
    attempt()
}

/// What apt was doing when it failed: the same message means different things.
#[derive(Clone, Copy, PartialEq, Eq)]
enum During {
    Update,
    Download,
}

/// Tells from apt's messages (in the C locale) what went wrong.
fn classify(text: &str, during: During) -> Trouble {
    let line = |needles: &[&str]| text.lines().find(|l| needles.iter().any(|n| l.contains(n)));
    let any = |needles: &[&str]| line(needles).is_some();
    if any(&["No space left on device", "enough free space"]) {
        return Trouble::NoSpace;
    }
    if any(&["NO_PUBKEY", "is not signed", "no longer signed", "signatures were invalid", "signatures couldn't be"]) {
        return Trouble::Unsigned;
    }
    let unreachable = [
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Cannot initiate the connection",
        "Unable to connect",
        "Network is unreachable",
        "onnection timed out",
        "Connection refused",
        "response from proxy",
    ];
    if let Some(line) = line(&unreachable) {
        let why = line.trim().trim_start_matches("E: ").trim_start_matches("W: ");
        return Trouble::NoNetwork(why.rsplit("  ").next().unwrap_or(why).to_owned());
    }
    if any(&["Hash Sum mismatch"]) {
        return if during == During::Update { Trouble::Inconsistent } else { Trouble::WrongChecksum };
    }
    if any(&["File has unexpected size", "Mirror sync in progress"]) {
        return if during == During::Update { Trouble::Inconsistent } else { Trouble::CutOff };
    }
    if any(&["404  Not Found", "File not found", "does not have a Release file"]) {
        return if during == During::Update { Trouble::NotInIndex } else { Trouble::Gone };
    }
    if any(&[
        "Remote end closed connection",
        "Error reading from server",
        "Connection reset",
        "Connection failed",
        "Read error",
        "Undetermined Error",
    ]) {
        return Trouble::CutOff;
    }
    if any(&["Unable to locate package", "No packages found", "Unable to find a source package", "was not found"]) {
        return Trouble::NotInIndex;
    }
    let last = text.lines().rfind(|l| l.starts_with("E: ")).or_else(|| text.lines().next_back());
    Trouble::Other(last.unwrap_or("apt gave no reason").trim_start_matches("E: ").to_owned())
}

/// Whether a mirror is on this host.
fn local(mirror: &str) -> bool {
    ["file:", "copy:", "http://127.0.0.1:"].iter().any(|p| mirror.starts_with(p))
}

/// The address of the distribution's mirror, from the host's own apt configuration;
/// `LAZYMAP_MIRROR` overrides it.
///
/// # Errors
/// When the host has none, that is, when it does not run Debian.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("LAZYMAP_MIRROR")
        && !mirror.is_empty()
    {
        return Ok(mirror);
    }
    if host::in_path("apt-get").is_none() {
        return Err(Error::could_not(WITHOUT_APT));
    }
    let format = "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let targets = cmd::output(Command::new("apt-get").args(["indextargets", "--format", format]).env("LC_ALL", "C"))?;
    if let Some(uri) = targets.lines().find_map(|l| l.strip_prefix("Packages|Debian|Debian|main|")) {
        return Ok(uri.to_owned());
    }
    // Before the first `apt-get update` apt knows no origins, only where it would look.
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let uris = cmd::output(Command::new("apt-get").args(["update", "--print-uris"]).env("LC_ALL", "C"))?;
    first_mirror(&release, &uris).map_err(Error::could_not)
}

/// The mirror among what `apt-get update --print-uris` prints, on a host with this `/etc/os-release`.
fn first_mirror(release: &str, uris: &str) -> Result<String, String> {
    let field = |name: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"')).filter(|value| !value.is_empty())
    };
    // Ubuntu's mirrors look the same, and have none of it.
    if field("ID") != Some("debian") {
        return Err(format!(
            "this is {}, whose apt sources name no Debian mirror: set LAZYMAP_MIRROR=http://deb.debian.org/debian and \
             install the package debian-archive-keyring",
            field("PRETTY_NAME").or(field("ID")).unwrap_or("a system without /etc/os-release")
        ));
    }
    let codename = field("VERSION_CODENAME").unwrap_or("stable");
    uris.lines()
        .filter_map(|l| l.strip_prefix('\'')?.split_once('\''))
        .find_map(|(uri, _)| uri.strip_suffix(&format!("dists/{codename}/InRelease")))
        .map(str::to_owned)
        .ok_or_else(|| {
            "this machine's apt sources name no Debian mirror (main); add one, or name one in LAZYMAP_MIRROR".to_owned()
        })
}

/// Debian's name of the host's architecture.
///
/// # Errors
/// When dpkg is missing.
pub fn host_arch() -> Result<String> {
    if host::in_path("dpkg").is_none() {
        return Err(Error::could_not(WITHOUT_APT));
    }
    Ok(cmd::output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

/// Unpacks a `.deb` into `dir`.
///
/// # Errors
/// When it is damaged or the disk is full.
pub fn unpack(deb: &Path, dir: &Path) -> Result<()> {
    files::create_dir(dir)?;
    cmd::output(Command::new("dpkg").arg("-x").arg(deb).arg(dir)).map(drop)
}

/// Unpacks only those files of a `.deb` into `dir` whose names match one of `patterns`, in which `*` stands for slashes as
/// well; there need not be any. A package with debug symbols has gigabytes of others.
///
/// # Errors
/// When it is damaged or the disk is full.
pub fn unpack_some(deb: &Path, patterns: &[&str], dir: &Path) -> Result<()> {
    files::create_dir(dir)?;
    let cannot = |why: &dyn std::fmt::Display| Error::could_not(format!("cannot unpack {}: {why}", deb.display()));
    let mut reader = Command::new("dpkg-deb");
    reader.arg("--fsys-tarfile").arg(deb).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut reader = cmd::dies_with_us(&mut reader).spawn().map_err(|e| cannot(&e))?;
    let archive = reader.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = Command::new("tar");
    tar.args(["-x", "--no-same-owner", "--wildcards", "--wildcards-match-slash", "-C"]).arg(dir).args(patterns);
    tar.env("LC_ALL", "C").stdin(archive);
    let unpacked = cmd::dies_with_us(&mut tar).output();
    // With it goes this end of the pipe: if tar has failed, nobody reads on.
    drop(tar);
    let read = reader.wait().map_err(|e| cannot(&e))?;
    let unpacked = unpacked.map_err(|e| cannot(&e))?;
    let said = String::from_utf8_lossy(&unpacked.stderr);
    if unpacked.status.success() || (read.success() && said.contains("Not found in archive")) {
        return if read.success() { Ok(()) } else { Err(cannot(&"it is damaged; remove it and run again")) };
    }
    Err(cannot(&said.lines().next().unwrap_or("tar gives no reason")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_depends_on() {
        let text = "Package: linux-image-7.2\nPre-Depends: linux-base (>= 4.17~)\n\
                    Depends: dracut | initramfs-tools (>= 0.120), linux-binary-7.2 (= 7.2.13-1)\nSize: 1\n";
        assert_eq!(depends(text), ["dracut", "linux-binary-7.2"]);
        assert_eq!(depends("Package: x\n"), Vec::<String>::new());
    }

    #[test]
    fn only_what_is_asked_for_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, deb, to) = (dir.path().join("tree"), dir.path().join("x.deb"), dir.path().join("to"));
        let control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: t <t@localhost>\nDescription: t\n";
        files::write_whole(&tree.join("DEBIAN/control"), control).unwrap();
        files::write_whole(&tree.join("usr/lib/debug/lib/modules/7/vmlinux"), "symbols").unwrap();
        files::write_whole(&tree.join("usr/lib/debug/other.ko"), "others").unwrap();
        cmd::output(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb)).unwrap();
        unpack_some(&deb, &["./boot/*"], &to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        unpack_some(&deb, &["./*vmlinu*", "./none/*"], &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("usr/lib/debug/lib/modules/7/vmlinux")).unwrap(), "symbols");
        assert!(!to.join("usr/lib/debug/other.ko").exists());
        fs::write(&deb, "not a package").unwrap();
        assert!(unpack_some(&deb, &["./*"], &to).unwrap_err().message.contains("x.deb"));
    }

    #[test]
    fn uri_lines() {
        let line = "'http://x/pool/q_1%2bds.dsc' q_1+ds.dsc 12462 SHA256:a4";
        let file = FetchedFile { name: "q_1+ds.dsc".into(), size: 12462, sha256: "a4".into() };
        assert_eq!(uri_line(line), Some(file));
        assert_eq!(uri_line("Need to get 40.2 MB of source archives."), None);
    }

    #[test]
    fn a_file_names_its_version() {
        assert_eq!(pinned("dash_0.5.12-12_riscv64.deb"), Some("dash=0.5.12-12".to_owned()));
        assert_eq!(pinned("mawk_1%3a1.3.4~x+b1_all.deb"), Some("mawk=1:1.3.4~x+b1".to_owned()));
        assert_eq!(pinned("q_1+ds.dsc"), None);
        assert_eq!(pinned("dash.deb"), None);
    }

    #[test]
    fn a_mirror_of_another_distribution_is_none() {
        let uris = "'http://a.example/ubuntu/dists/noble/InRelease' a_noble_InRelease 0 \n\
                    'http://b.example/debian/dists/trixie-updates/InRelease' b 0 \n\
                    'http://b.example/debian/dists/trixie/InRelease' b_trixie_InRelease 0 \n";
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_CODENAME=trixie\nID=debian\n";
        assert_eq!(first_mirror(debian, uris), Ok("http://b.example/debian/".to_owned()));
        let ubuntu = "PRETTY_NAME=\"Ubuntu 24.04.2 LTS\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
        let why = first_mirror(ubuntu, uris).unwrap_err();
        assert!(why.starts_with("this is Ubuntu 24.04.2 LTS,"), "{why}");
        assert!(why.contains("LAZYMAP_MIRROR=") && why.contains("debian-archive-keyring"), "{why}");
        assert!(first_mirror(&debian.replace("=trixie", "=forky"), uris).unwrap_err().contains("LAZYMAP_MIRROR"));
        assert!(first_mirror("", uris).unwrap_err().contains("without /etc/os-release"));
    }

    #[test]
    fn words_of_apt() {
        let size =
            "E: Failed to fetch http://x/Packages.xz  File has unexpected size (1 != 2). Mirror sync in progress?";
        assert_eq!(classify(size, During::Update), Trouble::Inconsistent);
        assert_eq!(classify(size, During::Download), Trouble::CutOff);
        let hash = "E: Failed to fetch http://x/y.deb  Hash Sum mismatch";
        assert_eq!(classify(hash, During::Download), Trouble::WrongChecksum);
        let gone = "E: Failed to fetch http://x/y.deb  404  Not Found [IP: 1.2.3.4 80]";
        assert_eq!(classify(gone, During::Download), Trouble::Gone);
        let dns = "Err:1 http://x trixie InRelease\n  Temporary failure resolving 'x'\nE: Failed";
        assert_eq!(classify(dns, During::Update), Trouble::NoNetwork("Temporary failure resolving 'x'".into()));
        let key = "W: GPG error: http://x trixie InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9";
        assert_eq!(classify(key, During::Update), Trouble::Unsigned);
        assert_eq!(classify("E: Something new", During::Update), Trouble::Other("Something new".into()));
    }
}
