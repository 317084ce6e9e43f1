// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap hunt --debian`: hunts in the kernels that Debian ships, as they are, on several machines, and makes one table
//! of it.
//!
//! In each suite, `linux-image-riscv64` depends on the current kernel. What a package has that is needed is kept in
//! `out/debian`: the kernel, some of its modules, and its vmlinux, for which the package with the debug symbols is
//! downloaded once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Args;
use super::several::{self, About, Row, Table};
use crate::boot::kernel_file::{self, Kind};
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::options::Options;
use crate::options::base::Package;
use crate::source::apt;

/// The suites, if none is named.
const SUITES: [&str; 4] = ["trixie", "trixie-backports", "forky", "sid"];
/// The machines, if none is named: translations that come too late, that stay too long, and the windows of the exception
/// entry.
const MODELS: [&str; 6] = ["stale", "valid", "window-1", "window-2", "window-3", "window-4"];

/// How names of packages with kernels begin.
const IMAGE: &str = "linux-image-";
/// How names of packages begin on which newer ones depend for the kernel itself.
const BINARY: &str = "linux-binary-";
/// The same for its modules.
const MODULES: &str = "linux-modules-";
/// How names of packages with debug symbols end.
const DEBUG: &str = "-dbg";
/// Kernels in packages: `/boot/vmlinux-RELEASE`, `/usr/lib/modules/RELEASE/vmlinuz` and
/// `/usr/lib/debug/…/vmlinux`.
const KERNELS: &str = "./*vmlinu*";
/// The modules that are taken from them: some dozens that need neither a device nor another module, and print nothing.
const SOME_MODULES: &str = "./*/kernel/fs/nls/*";

/// The page with the table, and the lines between which it is.
const PAGE: &str = "docs/findings/debian-kernels.md";
const BEGIN: &str = "<!-- The table is made by `lazymap hunt --debian --write`; do not edit it. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// What [`run`] does, checked as far as possible without the network.
#[derive(Clone, Debug)]
pub struct Plan {
    suites: Vec<String>,
    models: Vec<String>,
    /// What else was asked for.
    args: Args,
}

impl Plan {
    /// Checks the command line.
    ///
    /// # Errors
    /// When it makes no sense (exit code 64), or the page has no place for the table.
    pub fn new(options: &Options, args: &Args) -> Result<Self> {
        let or = |given: &[String], usual: &[&str]| -> Vec<String> {
            if given.is_empty() { usual.iter().map(|&name| name.to_owned()).collect() } else { given.to_vec() }
        };
        let suites = or(args.debian.as_deref().unwrap_or_default(), &SUITES);
        let models = or(&args.models, &MODELS);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if let Some(suite) = suites.iter().find(|suite| suite.is_empty() || !suite.chars().all(plain)) {
            return Err(Error::usage(format!("--debian {suite}: not the name of a suite; give one such as sid")));
        }
        several::are_models(&models)?;
        if args.write {
            page(&options.root, "")?;
        }
        Ok(Self { suites, models, args: args.clone() })
    }
}

/// A kernel of Debian's.
#[derive(Clone, Debug)]
struct Kernel {
    about: About,
    image: PathBuf,
    /// None if the archive has no package with its debug symbols.
    vmlinux: Option<PathBuf>,
    /// A folder with some of its modules; none if there are none.
    modules: Option<PathBuf>,
}

/// Hunts in each kernel on each machine, prints the table, and writes it to `out/hunt/debian.json` (or where `--json`
/// says) and `debian.md` after each hunt. A kernel that cannot be downloaded or booted is a line of it.
///
/// # Errors
/// When the machine cannot be built, or the table cannot be written.
pub fn run(options: &Options, plan: &Plan) -> Result<Exit> {
    let mut table = Table::new(options, "debian", plan.args.json.as_deref())?;
    for suite in &plan.suites {
        let kernel = kernel(options, suite);
        for model in &plan.models {
            let row = match &kernel {
                Ok(kernel) => row(options, plan, kernel, model, &table.rows),
                Err(error) => Row::failed(&About { suite: suite.clone(), ..About::default() }, model, error),
            };
            table.add(options, row)?;
        }
    }
    if plan.args.write {
        files::write_whole(&options.root.join(PAGE), page(&options.root, &table.markdown())?)?;
    }
    Ok(table.end(options))
}

/// Hunts in a kernel, or repeats what a hunt in the same kernel of another suite has found.
fn row(options: &Options, plan: &Plan, kernel: &Kernel, model: &str, before: &[Row]) -> Row {
    let Kernel { about, image, vmlinux, modules } = kernel;
    if let Some(same) = same(about, model, before) {
        return same;
    }
    let args = Args {
        kernel: Some(image.clone()),
        vmlinux: vmlinux.clone(),
        // A workload of the user's has its own.
        modules: modules.clone().filter(|_| plan.args.workload.is_none()),
        ..plan.args.clone()
    };
    several::hunt(options, &args, model, about)
}

/// The line of a hunt in the same kernel on the same machine, as one of this suite.
fn same(about: &About, model: &str, before: &[Row]) -> Option<Row> {
    let is_same = |row: &&Row| {
        row.report.is_some()
            && row.machine == model
            && (&row.about.kernel, &row.about.version) == (&about.kernel, &about.version)
    };
    before.iter().find(is_same).map(|row| Row { about: about.clone(), ..row.clone() })
}

/// The page with this table.
fn page(root: &Path, table: &str) -> Result<String> {
    let path = root.join(PAGE);
    let old = files::read_text(&path)?;
    files::with_part(PAGE, &old, BEGIN, END, table)
}

/// The current kernel of a suite, downloaded if this version is not there yet.
fn kernel(options: &Options, suite: &str) -> Result<Kernel> {
    let arch = &options.base.guest.arch;
    let newest = |name: &str| apt::newest(&options.out, name, suite, arch);
    let missing = |name: &str| {
        let usual = SUITES.join(", ");
        Error::could_not(format!("{suite} has no {name} for {arch}; name another suite, such as {usual}"))
    };
    let meta = format!("{IMAGE}{arch}");
    let package = newest(&meta)?.and_then(|listed| current(&listed.depends, arch)).ok_or_else(|| missing(&meta))?;
    let listed = newest(&package)?.ok_or_else(|| missing(&package))?;
    let release = package.strip_prefix(IMAGE).unwrap_or(&package).to_owned();
    let version = listed.version;
    let folder = options.out.join("debian").join(format!("{release}_{version}"));
    let image = folder.join(format!("linux-{release}"));
    let modules = folder.join("modules");
    if !image.exists() || !modules.exists() {
        let (packed, some) = (folder.join("packed"), folder.join("some-modules"));
        [&packed, &some, &modules].into_iter().try_for_each(|path| files::remove(path))?;
        files::create_dir(&some)?;
        let holder = |start: &str| listed.depends.iter().find(|name| name.starts_with(start)).unwrap_or(&package);
        // In older suites one package has both.
        for name in BTreeSet::from([holder(BINARY), holder(MODULES)]) {
            let deb = fetch(options, name, suite, &version)?;
            take(&deb, &folder, &[KERNELS, SOME_MODULES], |kind| kind != Kind::Elf, &packed, Some(&some))?;
        }
        if !packed.exists() {
            return Err(Error::could_not(format!("the packages of {package} have no kernel in them; report this")));
        }
        // Once, and not for each hunt.
        if kernel_file::image(&packed, &image)? == packed {
            fs::rename(&packed, &image).map_err(|e| Error::io("write", &image, e))?;
        }
        files::remove(&packed)?;
        // The last step: without it, all is done again.
        fs::rename(&some, &modules).map_err(|e| Error::io("write", &modules, e))?;
    }
    let vmlinux = folder.join("vmlinux");
    let debug = format!("{package}{DEBUG}");
    if !vmlinux.exists() && newest(&debug)?.is_some_and(|listed| listed.version == version) {
        let deb = fetch(options, &debug, suite, &version)?;
        take(&deb, &folder, &[KERNELS], |kind| kind == Kind::Elf, &vmlinux, None)?;
        // A gigabyte, of which nothing else is needed.
        files::remove(&deb)?;
    }
    let vmlinux = Some(vmlinux).filter(|file| file.exists());
    let any = !files::list(&modules)?.is_empty();
    let about = About { suite: suite.to_owned(), kernel: release, version };
    Ok(Kernel { about, image, vmlinux, modules: any.then_some(modules) })
}

/// The package with the kernel, among those that the one for the current kernel depends on.
fn current(depends: &[String], arch: &str) -> Option<String> {
    depends.iter().find(|name| name.starts_with(IMAGE) && name.ends_with(&format!("-{arch}"))).cloned()
}

fn fetch(options: &Options, name: &str, suite: &str, version: &str) -> Result<PathBuf> {
    let (name, suites) = (name.to_owned(), vec![suite.to_owned()]);
    let package = Package { name, suites, version: version.to_owned(), sha256: String::new() };
    let fetched = apt::fetch(&options.out, &package, apt::Kind::Binary, &options.base.guest.arch)?;
    Ok(options.out.join("dl").join(&fetched.main().name))
}

/// Takes the kernel of this kind out of a package, if there is one in it, and modules, if there is a folder for them.
fn take(
    deb: &Path,
    folder: &Path,
    patterns: &[&str],
    of_kind: fn(Kind) -> bool,
    to: &Path,
    modules: Option<&Path>,
) -> Result<()> {
    let unpacked = folder.join("unpacked");
    files::remove(&unpacked)?;
    apt::unpack_some(deb, patterns, &unpacked)?;
    if let Some(file) = find(&unpacked, of_kind)? {
        fs::rename(&file, to).map_err(|e| Error::io("write", to, e))?;
    }
    if let Some(modules) = modules {
        super::copy_modules(&unpacked, modules)?;
    }
    files::remove(&unpacked)
}

/// The first kernel of this kind in a folder and those below it.
fn find(folder: &Path, of_kind: fn(Kind) -> bool) -> Result<Option<PathBuf>> {
    for path in files::list(folder)? {
        // Links lead out of what was unpacked.
        let Ok(is) = fs::symlink_metadata(&path) else { continue };
        if is.is_dir() {
            if let Some(found) = find(&path, of_kind)? {
                return Ok(Some(found));
            }
        } else if is.is_file() && kernel_file::kind(&path).is_ok_and(of_kind) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_kernel_is_what_the_meta_package_depends_on() {
        let depends = ["linux-base-riscv64", "linux-image-7.2.13+deb14-riscv64", "linux-image-7.2.13+deb14-rt"];
        let depends = depends.map(str::to_owned);
        assert_eq!(current(&depends, "riscv64").as_deref(), Some("linux-image-7.2.13+deb14-riscv64"));
        assert_eq!(current(&depends[..1], "riscv64"), None);
        assert_eq!(current(&depends, "amd64"), None);
    }

    #[test]
    fn a_kernel_of_two_suites_is_hunted_in_once() {
        let about = |suite: &str, version: &str| About {
            suite: suite.to_owned(),
            kernel: "7.2.13+deb14-riscv64".to_owned(),
            version: version.to_owned(),
        };
        let failed = Row::failed(&about("forky", "7.2.13-1"), "stale", &Error::could_not("no network"));
        let hunted = Row { report: Some("x.html".to_owned()), ..failed.clone() };
        let (sid, found) = (about("sid", "7.2.13-1"), std::slice::from_ref(&hunted));
        assert_eq!(
            same(&sid, "stale", found).map(|row| (row.about, row.report)),
            Some((sid.clone(), hunted.report.clone()))
        );
        assert!(same(&sid, "valid", found).is_none());
        assert!(same(&about("sid", "7.2.13-2"), "stale", found).is_none());
        // What was not possible is tried again.
        assert!(same(&sid, "stale", &[failed]).is_none());
    }

    #[test]
    fn the_page_of_the_project_has_a_place_for_the_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = page(root, "the table").unwrap();
        assert!(text.contains(&format!("{BEGIN}\nthe table\n{END}")), "{text}");
    }

    #[test]
    fn the_kernel_in_a_folder_is_found_by_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let mut elf = vec![0; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 243;
        let mut image = vec![0; 64];
        image[0x38..0x3c].copy_from_slice(b"RSC\x05");
        files::write_whole(&dir.path().join("boot/vmlinux-gdb.py"), "print()").unwrap();
        files::write_whole(&dir.path().join("boot/vmlinux-7"), image).unwrap();
        files::write_whole(&dir.path().join("usr/lib/vmlinux"), elf).unwrap();
        let name = |found: Option<PathBuf>| found.map(|path| path.strip_prefix(dir.path()).unwrap().to_owned());
        assert_eq!(name(find(dir.path(), |kind| kind == Kind::Elf).unwrap()), Some("usr/lib/vmlinux".into()));
        assert_eq!(name(find(dir.path(), |kind| kind != Kind::Elf).unwrap()), Some("boot/vmlinux-7".into()));
        assert_eq!(name(find(dir.path(), |kind| kind == Kind::Zboot).unwrap()), None);
    }
}
