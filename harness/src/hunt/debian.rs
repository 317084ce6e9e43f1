// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap hunt --debian`: hunts in the kernels that Debian ships, as they are, on several machines, and makes one table
//! of it.
//!
//! In each suite, `linux-image-riscv64` depends on the current kernel. What a package has that is needed is kept in
//! `out/debian`: the kernel, and its vmlinux, for which the package with the debug symbols is downloaded once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::Serialize;

use super::report::{Place, Report};
use super::verdict::Outcome;
use super::{Args, exit, hunted};
use crate::boot::kernel_file::{self, Kind};
use crate::build::workbench;
use crate::ground::error::{Error, Exit, Result};
use crate::ground::files;
use crate::ground::table::{self, Align, Cell};
use crate::options::Options;
use crate::options::base::Package;
use crate::source::apt;
use crate::trial::record::{self, Tool};
use crate::trial::report::shown;
use crate::trial::scenario::MachineFile;

/// The suites, if none is named.
const SUITES: [&str; 3] = ["trixie", "trixie-backports", "sid"];
/// The machines, if none is named: translations that come too late, that stay too long, and the windows of the exception
/// entry.
const MODELS: [&str; 6] = ["stale", "valid", "window-1", "window-2", "window-3", "window-4"];

/// How names of packages with kernels begin.
const IMAGE: &str = "linux-image-";
/// How names of packages begin on which newer ones depend for the kernel itself.
const BINARY: &str = "linux-binary-";
/// How names of packages with debug symbols end.
const DEBUG: &str = "-dbg";
/// Kernels in packages: `/boot/vmlinux-RELEASE`, `/usr/lib/modules/RELEASE/vmlinuz` and
/// `/usr/lib/debug/…/vmlinux`.
const PATTERN: &str = "./*vmlinu*";

/// The page with the table, and the lines between which it is.
const PAGE: &str = "docs/findings/debian-kernels.md";
const BEGIN: &str = "<!-- The table is made by `lazymap hunt --debian --write`; do not edit it. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// Version of the table's schema: bump it when a field changes its meaning or is removed.
const SCHEMA: u32 = 1;

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
        for model in &models {
            let machine = MachineFile::named(model).machine().map_err(Error::usage)?;
            if !machine.model.stale {
                return Err(Error::usage(format!(
                    "harts of the model `{model}` remember nothing: no hit is possible; name another in --models"
                )));
            }
        }
        if args.write {
            page(&options.root, "")?;
        }
        Ok(Self { suites, models, args: args.clone() })
    }
}

/// A kernel of Debian's.
#[derive(Clone, Debug)]
struct Kernel {
    suite: String,
    /// What `uname -r` prints, such as `6.12.117+deb13-riscv64`.
    release: String,
    /// The version of its package.
    version: String,
    image: PathBuf,
    /// None if the archive has no package with its debug symbols.
    vmlinux: Option<PathBuf>,
}

/// A hunt's line in the table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    suite: String,
    /// Its release; empty if no kernel could be downloaded.
    kernel: String,
    /// The version of its package.
    version: String,
    machine: String,
    /// In a few words; with the place where it died, if it did.
    result: String,
    /// Page faults that the page tables did not justify; none if nothing was booted.
    hits: Option<usize>,
    /// Translations that were used after the page tables had changed.
    uses: Option<usize>,
    /// The exit code of `lazymap hunt`.
    exit: u8,
    /// The page with the whole report.
    report: Option<String>,
}

impl Row {
    fn of(kernel: &Kernel, model: &str, report: &Report, html: String) -> Self {
        Self {
            result: said(report),
            hits: Some(report.counts.hits),
            uses: Some(report.counts.uses),
            exit: exit(report) as u8,
            report: Some(html),
            ..Self::failed(Some(kernel), &kernel.suite, model, &Error::could_not(""))
        }
    }

    /// The line of a hunt that did not take place.
    fn failed(kernel: Option<&Kernel>, suite: &str, model: &str, error: &Error) -> Self {
        let (release, version) = kernel.map(|of| (of.release.clone(), of.version.clone())).unwrap_or_default();
        Self {
            suite: suite.to_owned(),
            kernel: release,
            version,
            machine: model.to_owned(),
            result: error.message.clone(),
            hits: None,
            uses: None,
            exit: error.exit as u8,
            report: None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let number = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let (suite, kernel) = (self.suite.clone(), format!("{} {}", self.kernel, self.version).trim().to_owned());
        let (hits, uses) = (number(self.hits), number(self.uses));
        [suite, kernel, self.machine.clone(), self.result.clone(), hits, uses, self.exit.to_string()]
    }
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
struct Table {
    /// Version of this schema.
    schema: u32,
    /// When the first hunt began, as RFC 3339 has it.
    started: String,
    tool: String,
    qemu: String,
    /// The command that makes it anew.
    command: String,
    rows: Vec<Row>,
}

/// The heads of its columns.
const HEADS: [&str; 7] = ["suite", "kernel", "machine", "result", "hits", "uses", "exit"];

impl Table {
    /// For a terminal of this width.
    fn text(&self, width: usize) -> String {
        let mut rows: Vec<Vec<Cell>> = vec![HEADS.into_iter().map(Cell::from).collect()];
        rows.extend(self.rows.iter().map(|row| row.cells().into_iter().map(Cell::from).collect()));
        let (left, right) = (Align::Left, Align::Right);
        table::fitted(&[left, left, left, left, right, right, right], rows, &[1, 3], width)
    }

    /// For a page.
    fn markdown(&self) -> String {
        let mut text = format!("| {} |\n|{}\n", HEADS.join(" | "), "---|".repeat(HEADS.len()));
        for row in &self.rows {
            let cells = row.cells().map(|cell| cell.replace('|', "\\|").replace('\n', " "));
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        let day = self.started.split('T').next().unwrap_or_default();
        text.push_str(&format!("\nSince {day}, with {}, {}: `{}`\n", self.tool, self.qemu, self.command));
        text
    }
}

/// Hunts in each kernel on each machine, prints the table, and writes it to `out/hunt/debian.json` (or where `--json`
/// says) and `debian.md` after each hunt. A kernel that cannot be downloaded or booted is a line of it.
///
/// # Errors
/// When the machine cannot be built, or the table cannot be written.
pub fn run(options: &Options, plan: &Plan) -> Result<Exit> {
    let folder = options.place("hunt");
    let json = plan.args.json.clone().unwrap_or_else(|| folder.join("debian.json"));
    let mut table = Table {
        schema: SCHEMA,
        started: record::rfc3339(Utc::now()),
        tool: Tool::of(&options.root).to_string(),
        qemu: workbench::without_kernels(options)?.qemu.version,
        command: super::again(&options.asked.command),
        rows: Vec::new(),
    };
    for suite in &plan.suites {
        let kernel = kernel(options, suite);
        for model in &plan.models {
            let row = match &kernel {
                Ok(kernel) => hunt(options, plan, kernel, model),
                Err(error) => Row::failed(None, suite, model, error),
            };
            if !options.asked.quiet || row.exit != Exit::Pass as u8 {
                println!("{}", row.cells().join("  "));
            }
            table.rows.push(row);
            let text = serde_json::to_string_pretty(&table).map_err(|e| Error::could_not(e.to_string()))?;
            files::write_whole(&json, text + "\n")?;
            files::write_whole(&folder.join("debian.md"), table.markdown())?;
        }
    }
    if plan.args.write {
        files::write_whole(&options.root.join(PAGE), page(&options.root, &table.markdown())?)?;
    }
    if !options.asked.quiet {
        println!("\n{}", table.text(table::width()));
    }
    println!("table: {}", shown(&options.root, &json));
    Ok(together(table.rows.iter().map(|row| row.exit)))
}

/// The exit code of all hunts: a kernel that dies counts only if nothing is uncertain.
fn together(exits: impl Iterator<Item = u8>) -> Exit {
    let all: BTreeSet<u8> = exits.collect();
    match all.last() {
        Some(0) => Exit::Pass,
        Some(1) => Exit::Failed,
        _ => Exit::CouldNot,
    }
}

/// One hunt.
fn hunt(options: &Options, plan: &Plan, kernel: &Kernel, model: &str) -> Row {
    let args = Args {
        kernel: Some(kernel.image.clone()),
        vmlinux: kernel.vmlinux.clone(),
        model: model.to_owned(),
        debian: None,
        models: Vec::new(),
        write: false,
        json: None,
        ..plan.args.clone()
    };
    match super::Plan::new(options, &args).and_then(|plan| hunted(options, &plan)) {
        Ok((report, _, html)) => Row::of(kernel, model, &report, shown(&options.root, &html)),
        Err(error) => Row::failed(Some(kernel), &kernel.suite, model, &error),
    }
}

/// The result of a hunt in a few words.
fn said(report: &Report) -> String {
    let at = |place: &Place| match &place.line {
        Some(line) => format!("{} ({line})", place.at),
        None => place.at.clone(),
    };
    match &report.result {
        Outcome::Survived => "survived".to_owned(),
        Outcome::Killed { .. } => match report.killer() {
            Some(hit) => format!("**killed** at {}", at(&hit.touch)),
            None => "**killed**".to_owned(),
        },
        Outcome::Exposed { of, .. } => {
            let found = report.uses.iter().find(|found| found.index == *of);
            let store = found.and_then(|found| found.store.as_ref());
            let by = store.map(|store| format!(", changed by {}", at(store))).unwrap_or_default();
            format!("**stale translation used**{by}")
        }
        Outcome::Lost { how } => format!("**page tables used that are gone**: {how}"),
        Outcome::Incomplete { why } => format!("survived, but the workload is incomplete: {why}"),
        Outcome::Uncertain { why } => format!("not certain: {why}"),
    }
}

/// The page with this table.
fn page(root: &Path, table: &str) -> Result<String> {
    let path = root.join(PAGE);
    let old = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
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
    if !image.exists() {
        let holder = listed.depends.iter().find(|name| name.starts_with(BINARY)).unwrap_or(&package);
        let deb = fetch(options, holder, suite, &version)?;
        if !take(&deb, &folder, |kind| kind != Kind::Elf, &image)? {
            return Err(Error::could_not(format!("{} has no kernel in it; report this", deb.display())));
        }
    }
    let vmlinux = folder.join("vmlinux");
    let debug = format!("{package}{DEBUG}");
    if !vmlinux.exists() && newest(&debug)?.is_some_and(|listed| listed.version == version) {
        let deb = fetch(options, &debug, suite, &version)?;
        take(&deb, &folder, |kind| kind == Kind::Elf, &vmlinux)?;
        // A gigabyte, of which nothing else is needed.
        files::remove(&deb)?;
    }
    let vmlinux = Some(vmlinux).filter(|file| file.exists());
    Ok(Kernel { suite: suite.to_owned(), release, version, image, vmlinux })
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

/// Takes the kernel of this kind out of a package; false if there is none in it.
fn take(deb: &Path, folder: &Path, of_kind: fn(Kind) -> bool, to: &Path) -> Result<bool> {
    let unpacked = folder.join("unpacked");
    files::remove(&unpacked)?;
    apt::unpack_some(deb, PATTERN, &unpacked)?;
    let found = find(&unpacked, of_kind)?;
    if let Some(file) = &found {
        fs::rename(file, to).map_err(|e| Error::io("write", to, e))?;
    }
    files::remove(&unpacked)?;
    Ok(found.is_some())
}

/// The first kernel of this kind in a folder and those below it.
fn find(folder: &Path, of_kind: fn(Kind) -> bool) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut entries: Vec<fs::DirEntry> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links lead out of what was unpacked.
        let Ok(is) = entry.file_type() else { continue };
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

    fn a_kernel() -> Kernel {
        Kernel {
            suite: "sid".to_owned(),
            release: "7.2.13+deb14-riscv64".to_owned(),
            version: "7.2.13-1".to_owned(),
            image: PathBuf::new(),
            vmlinux: None,
        }
    }

    #[test]
    fn the_current_kernel_is_what_the_meta_package_depends_on() {
        let depends = ["linux-base-riscv64", "linux-image-7.2.13+deb14-riscv64", "linux-image-7.2.13+deb14-rt"];
        let depends = depends.map(str::to_owned);
        assert_eq!(current(&depends, "riscv64").as_deref(), Some("linux-image-7.2.13+deb14-riscv64"));
        assert_eq!(current(&depends[..1], "riscv64"), None);
        assert_eq!(current(&depends, "amd64"), None);
    }

    #[test]
    fn the_worst_exit_code_counts() {
        let of = |exits: &[u8]| together(exits.iter().copied());
        assert_eq!(of(&[0, 0]), Exit::Pass);
        assert_eq!(of(&[0, 1, 0]), Exit::Failed);
        assert_eq!(of(&[0, 1, 2]), Exit::CouldNot);
        assert_eq!(of(&[0, 64]), Exit::CouldNot);
        assert_eq!(of(&[]), Exit::CouldNot);
    }

    #[test]
    fn the_table_as_text_and_as_a_page() {
        let error = Error::could_not("a|b\nc");
        let mut killed = Row::failed(Some(&a_kernel()), "sid", "window-1", &error);
        (killed.result, killed.hits, killed.uses, killed.exit) = ("**killed**".to_owned(), Some(7), Some(0), 1);
        let rows = vec![killed, Row::failed(None, "buzz", "stale", &error)];
        let table = Table {
            schema: SCHEMA,
            started: "2026-12-01T10:00:00Z".to_owned(),
            tool: "lazymap 1".to_owned(),
            qemu: "QEMU 10".to_owned(),
            command: "harness/lazymap hunt --debian".to_owned(),
            rows,
        };
        assert_eq!(
            table.markdown(),
            "| suite | kernel | machine | result | hits | uses | exit |\n\
             |---|---|---|---|---|---|---|\n\
             | sid | 7.2.13+deb14-riscv64 7.2.13-1 | window-1 | **killed** | 7 | 0 | 1 |\n\
             | buzz |  | stale | a\\|b c | - | - | 2 |\n\
             \nSince 2026-12-01, with lazymap 1, QEMU 10: `harness/lazymap hunt --debian`\n"
        );
        let text = table.text(80);
        assert!(text.lines().next().is_some_and(|heads| heads.starts_with("suite  kernel")), "{text}");
        assert!(serde_json::to_string(&table).unwrap().contains("\"hits\":null"));
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
