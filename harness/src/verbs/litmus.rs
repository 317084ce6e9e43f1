// SPDX-License-Identifier: GPL-2.0-only
//! `lazymap litmus`: what the memory model says about the order of PTE, mark and fence.
//!
//! `litmus/README.md` says what the files in that folder model. herd7 enumerates the outcomes that
//! RVWMO allows. Each file names the expected verdict, and an outcome that must be possible, because a
//! program that gets nowhere does no harm either.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ground::cmd;
use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::progress::Step;
use crate::options::Options;
use crate::options::base::Package;
use crate::source::apt::{self, Kind};
use crate::source::host;
use crate::trial::tally::{Tally, one_line};

/// herd7 and the shared libraries that it needs, for hosts with older ones.
const PACKAGES: [&str; 3] = ["herdtools7", "libc6", "libgmp10"];

/// Where to get them. Any version will do: the model is the manual's.
const SUITE: &str = "sid";

/// The only architecture that [`Herd::unpacked`] knows the paths for; Debian's and GNU's name.
const ARCH: (&str, &str) = ("amd64", "x86_64-linux-gnu");

/// CPU time that herd7 gets for a file, in seconds; the slowest takes two.
const LIMIT: u32 = 120;

/// Runs herd7 on every file in `litmus/`; each one is a check.
///
/// Without herd7, skips every file, with the reason.
///
/// # Errors
/// When the folder cannot be read or is empty, or the log cannot be written. An answer of herd7 that
/// cannot be understood only makes its check an error.
pub fn run(opts: &Options, tally: &mut Tally) -> Result<()> {
    let files = files(&opts.root.join("litmus"))?;
    match Herd::find(&opts.out) {
        Ok(herd) => judge_all(&herd, &files, &opts.root, &opts.out.join("log/litmus.log"), tally),
        Err(error) => {
            skip_all(&files, &error.message, tally);
            Ok(())
        }
    }
}

/// The litmus files in `dir`, in order of their names.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files::list(dir)?;
    files.retain(|path| path.extension().is_some_and(|e| e == "litmus"));
    if files.is_empty() {
        return Err(Error::could_not(format!("no *.litmus in {}; the checkout is incomplete", dir.display())));
    }
    Ok(files)
}

fn skip_all(files: &[PathBuf], why: &str, tally: &mut Tally) {
    files.iter().for_each(|file| tally.skip(&format!("litmus: {}", stem(file)), why));
}

fn judge_all(herd: &Herd, files: &[PathBuf], root: &Path, log: &Path, tally: &mut Tally) -> Result<()> {
    let step = Step::start(format!("litmus tests with herd7 {}", herd.version));
    let scratch = files::scratch()?;
    let before = tally.count.failed;
    let mut said = String::new();
    for file in files {
        let name = stem(file);
        step.detail(&name);
        let check = format!("litmus: {name}");
        match judge(herd, file, root, scratch.path(), &mut said) {
            Ok(None) => tally.ok(&check),
            Ok(Some(why)) => tally.not_ok(&check, &why),
            Err(why) => tally.error(&check, &why),
        }
    }
    files::write_whole(log, said)?;
    step.finish("done");
    if tally.count.failed > before {
        tally.note(&format!("herd7's whole output is in {}", log.display()));
    }
    Ok(())
}

/// What is wrong with a file, if anything; an error if that cannot be told.
///
/// Appends what herd7 prints to `said`.
fn judge(herd: &Herd, file: &Path, root: &Path, scratch: &Path, said: &mut String) -> Result<Option<String>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("cannot read it: {e}"))?;
    let case = Case::parse(&stem(file), &text)?;
    if let Some(gone) = case.gone(root)? {
        return Ok(Some(gone));
    }
    let seen = herd.ask(file, &case.name, said)?;
    if seen != case.result {
        return Ok(Some(format!("herd7 sees the bad outcome {seen}, expected {}", case.result)));
    }
    let other = scratch.join(format!("{}.litmus", case.name));
    fs::write(&other, case.asking_for_the_good(&text)).map_err(|e| format!("cannot write {}: {e}", other.display()))?;
    Ok(match herd.ask(&other, &case.name, said)? {
        Verdict::Never => {
            Some(format!("it cannot reach the good outcome {}, so its verdict is meaningless", case.reaches))
        }
        Verdict::Sometimes | Verdict::Always => None,
    })
}

/// In how many of the allowed executions an outcome is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forbidden.
    Never,
    /// Allowed, and others as well.
    Sometimes,
    /// The only one.
    Always,
}

impl Verdict {
    fn parse(word: &str) -> Option<Self> {
        [Self::Never, Self::Sometimes, Self::Always].into_iter().find(|v| v.to_string() == word)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Sometimes => "Sometimes",
            Self::Always => "Always",
        })
    }
}

/// The lines of a litmus file that the tool reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    name: String,
    result: Verdict,
    /// A condition that must be possible.
    reaches: String,
    /// Files of the repository, and how lines in them start.
    models: Vec<(String, String)>,
}

impl Case {
    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let titled = text.lines().next().and_then(|l| l.strip_prefix("RISCV ")).map(str::trim);
        if titled != Some(name) {
            return Err(format!("its first line is not `RISCV {name}`"));
        }
        let field = |key: &str| -> Vec<&str> {
            text.lines()
                .filter_map(|l| l.strip_prefix(" * ")?.strip_prefix(key)?.strip_prefix(": "))
                .map(str::trim)
                .collect()
        };
        let one = |key: &str| match field(key)[..] {
            [value] => Ok(value),
            _ => Err(format!("it does not have exactly one line ` * {key}: ...`")),
        };
        let result = one("Result")?;
        let result =
            Verdict::parse(result).ok_or_else(|| format!("its Result `{result}` is not one that herd7 knows"))?;
        let models = field("Models")
            .into_iter()
            .map(|m| m.split_once(": ").map(|(f, l)| (f.to_owned(), l.to_owned())).ok_or(m))
            .collect::<Result<_, _>>()
            .map_err(|m| format!("its `Models: {m}` names no file and line"))?;
        if text.lines().filter(|l| l.starts_with("exists ")).count() != 1 {
            return Err("it does not have exactly one line `exists ...`".to_owned());
        }
        Ok(Self { name: name.to_owned(), result, reaches: one("Reaches")?.to_owned(), models })
    }

    /// The first modelled line that the code no longer has, as a message.
    fn gone(&self, root: &Path) -> Result<Option<String>, String> {
        let mut file = String::new();
        let mut lines: Vec<String> = Vec::new();
        for (path, start) in &self.models {
            if *path != file {
                let text = fs::read_to_string(root.join(path)).map_err(|e| format!("cannot read {path}: {e}"))?;
                lines = text.lines().rev().map(one_line).collect();
                file.clone_from(path);
            }
            // Lines are taken from the end of the vector: the next one must come later in the file.
            let found = std::iter::from_fn(|| lines.pop()).any(|line| line.starts_with(start));
            if !found {
                return Ok(Some(format!("{path} no longer has `{start}` where it is modelled; revise the model")));
            }
        }
        Ok(None)
    }

    /// The same program with the good outcome as its condition.
    fn asking_for_the_good(&self, text: &str) -> String {
        let program = text.lines().take_while(|l| !l.starts_with("exists "));
        program
            .chain([format!("exists ({})", self.reaches).as_str()])
            .fold(String::new(), |all, line| all + line + "\n")
    }
}

/// A herd7 that works.
struct Herd {
    program: PathBuf,
    arguments: Vec<OsString>,
    version: String,
}

impl Herd {
    /// The one in PATH, one that an earlier run downloaded, or a new one in `out/herd`.
    fn find(out: &Path) -> Result<Self> {
        if let Some(program) = host::in_path("herd7")
            && let Ok(herd) = Self::checked(program, Vec::new())
        {
            return Ok(herd);
        }
        let dir = out.join("herd");
        if let Ok(herd) = Self::unpacked(&dir) {
            return Ok(herd);
        }
        let arch = apt::host_arch()?;
        if arch != ARCH.0 {
            return Err(Error::could_not(format!(
                "herd7 is not in PATH, and the tool can download one for {} only, not for {arch}; install herdtools7",
                ARCH.0
            )));
        }
        get(out, &dir)?;
        Self::unpacked(&dir)
    }

    /// The one in a folder that [`get`] made.
    fn unpacked(dir: &Path) -> Result<Self> {
        let libraries = dir.join("usr/lib").join(ARCH.1);
        let arguments: [OsString; 5] = [
            "--library-path".into(),
            libraries.clone().into(),
            dir.join("usr/bin/herd7").into(),
            "-set-libdir".into(),
            dir.join("usr/share/herdtools7/herd").into(),
        ];
        Self::checked(libraries.join("ld-linux-x86-64.so.2"), arguments.into())
    }

    fn checked(program: PathBuf, arguments: Vec<OsString>) -> Result<Self> {
        let said = cmd::output(Command::new(&program).args(&arguments).arg("-version"))?;
        let version = said.split([',', ' ', '\n']).next().unwrap_or_default();
        if !version.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::could_not(format!("{} does not print a version", program.display())));
        }
        Ok(Self { program, arguments, version: version.to_owned() })
    }

    /// Runs a file; the error says why there is no valid answer.
    fn ask(&self, file: &Path, name: &str, said: &mut String) -> Result<Verdict, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["-model", "riscv.cat", "-timeout", &LIMIT.to_string()]).arg(file);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let done = cmd::dies_with_us(&mut command).output().map_err(|e| format!("cannot run herd7: {e}"))?;
        let (text, complaint) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        // Writing to a String cannot fail.
        let _ = write!(said, "### {name}\n{text}{complaint}");
        if !done.status.success() {
            return Err(format!(
                "herd7 failed ({}): {}",
                done.status,
                complaint.lines().next_back().unwrap_or_default()
            ));
        }
        // herd7 does not fail for a file that it cannot parse, nor for a loop that it cuts short.
        if let Some(line) = complaint.lines().find(|l| !l.trim().is_empty()) {
            return Err(format!("herd7 says: {line}"));
        }
        parse(name, &text)
    }
}

/// Downloads herd7 and its libraries into `dir`.
fn get(out: &Path, dir: &Path) -> Result<()> {
    let mut debs = Vec::new();
    for name in PACKAGES {
        let package = Package {
            name: name.to_owned(),
            suites: vec![SUITE.to_owned()],
            version: String::new(),
            sha256: String::new(),
        };
        let fetched = apt::fetch(out, &package, Kind::Binary, ARCH.0)?;
        debs.push(out.join("dl").join(&fetched.main().name));
    }
    let step = Step::start("unpack herd7");
    let new = out.join("herd.new");
    files::remove(&new)?;
    for deb in &debs {
        apt::unpack(deb, &new)?;
    }
    // The package's other programs take 230 MB.
    let programs = new.join("usr/bin");
    for program in files::list(&programs)?.iter().filter(|path| !path.ends_with("herd7")) {
        files::remove(program)?;
    }
    files::remove(dir)?;
    fs::rename(&new, dir).map_err(|e| Error::io("write", dir, e))?;
    step.finish("done");
    Ok(())
}

/// The verdict in herd7's output for the test `name`.
///
/// The line that counts is `Observation NAME Never 0 4`: how many executions have the outcome, and how
/// many do not. The first line only repeats the question.
///
/// # Errors
/// When the output is cut off, belongs to another test or contradicts itself.
pub fn parse(name: &str, text: &str) -> Result<Verdict, String> {
    let one = |start: &str| {
        let mut found = text.lines().filter_map(|l| l.strip_prefix(start));
        match (found.next(), found.next()) {
            (Some(rest), None) => Ok(rest.split_whitespace().collect::<Vec<_>>()),
            (None, _) => Err(format!("herd7's answer has no line `{}`", start.trim())),
            _ => Err(format!("herd7's answer has more than one line `{}`", start.trim())),
        }
    };
    let observation = one("Observation ")?;
    let [title, word, with, without] = observation[..] else {
        return Err(format!("herd7's answer `Observation {}` is not understood", observation.join(" ")));
    };
    if title != name {
        return Err(format!("herd7 answers for `{title}`"));
    }
    let count = |word: &str| word.parse::<u64>().map_err(|_| format!("herd7 counts `{word}` executions"));
    let verdict = Verdict::parse(word).ok_or_else(|| format!("herd7's verdict `{word}` is not understood"))?;
    let counted = match (count(with)?, count(without)?) {
        (0, 1..) => Verdict::Never,
        (1.., 0) => Verdict::Always,
        (1.., 1..) => Verdict::Sometimes,
        (0, 0) => return Err("herd7 finds no execution at all".to_owned()),
    };
    let witnesses = one("Positive: ")?;
    if counted != verdict || witnesses != [with, "Negative:", without] {
        return Err(format!(
            "herd7's answer contradicts itself: {word} {with} {without}, Positive: {}",
            witnesses.join(" ")
        ));
    }
    // The last line of a complete answer.
    let last = text.trim_end().lines().next_back().and_then(|l| l.strip_prefix("Hash="));
    if last.is_some_and(|hash| hash.len() == 32) { Ok(verdict) } else { Err("herd7's answer is cut off".to_owned()) }
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::trial::verdict::Count;

    /// What herd7 7.58 prints.
    const NEVER: &str = "\
Test chosen-already-marked-sfence-none Allowed
States 3
1:x10=0; [synced]=0;
1:x10=1; [synced]=0;
1:x10=1; [synced]=1;
No
Witnesses
Positive: 0 Negative: 3
Condition exists ([synced]=1 /\\ 1:x10=0)
Observation chosen-already-marked-sfence-none Never 0 3
Time chosen-already-marked-sfence-none 0.01
Hash=e3f25f55997dca61d3227623ce8154a3

";
    const SOMETIMES: &str = "\
Test refused-mark-if-fence-w-w Allowed
States 4
1:x10=0; [synced]=0;
1:x10=0; [synced]=1;
1:x10=1; [synced]=0;
1:x10=1; [synced]=1;
Ok
Witnesses
Positive: 1 Negative: 3
Condition exists ([synced]=1 /\\ 1:x10=0)
Observation refused-mark-if-fence-w-w Sometimes 1 3
Time refused-mark-if-fence-w-w 0.00
Hash=8dcb9f7a6e1e6aae809205e73fe84d12

";
    const NAME: &str = "chosen-already-marked-sfence-none";

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn verdicts() {
        assert_eq!(parse(NAME, NEVER), Ok(Verdict::Never));
        assert_eq!(parse("refused-mark-if-fence-w-w", SOMETIMES), Ok(Verdict::Sometimes));
        let always =
            NEVER.replace("Never 0 3", "Always 3 0").replace("Positive: 0 Negative: 3", "Positive: 3 Negative: 0");
        assert_eq!(parse(NAME, &always), Ok(Verdict::Always));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = NEVER.trim_end();
        for end in 0..whole.len() {
            assert!(parse(NAME, &whole[..end]).is_err(), "{:?}", &whole[..end]);
        }
        assert_eq!(parse(NAME, whole), Ok(Verdict::Never));
    }

    #[test]
    fn an_answer_that_cannot_be_right_is_none() {
        for (from, to) in [
            ("Observation chosen", "Observation other"),
            ("Never 0 3", "Never 1 3"),
            ("Never 0 3", "Sometimes 0 3"),
            ("Never 0 3", "Perhaps 0 3"),
            ("Never 0 3", "Never 0 -3"),
            ("Never 0 3", "Never 0"),
            ("Positive: 0", "Positive: 1"),
            ("Time ", "Observation x Never 0 3\nTime "),
        ] {
            assert!(NEVER.contains(from));
            assert!(parse(NAME, &NEVER.replace(from, to)).is_err(), "{to}");
        }
        let nothing = NEVER.replace("Never 0 3", "Never 0 0").replace("Negative: 3", "Negative: 0");
        assert!(parse(NAME, &nothing).is_err());
    }

    const FILE: &str = "RISCV t\n(*\n * Result: Never\n * Reaches: x=1 /\\ 0:x1=2\n * Models: code.c: b(\n *)\n{ }\n P0 ;\nexists (x=2)\n";

    #[test]
    fn headers() {
        let case = Case::parse("t", FILE).unwrap();
        assert_eq!((case.result, case.reaches.as_str()), (Verdict::Never, "x=1 /\\ 0:x1=2"));
        assert_eq!(case.models, [("code.c".to_owned(), "b(".to_owned())]);
        let good = case.asking_for_the_good(FILE);
        assert_eq!(good, FILE.replace("exists (x=2)", "exists (x=1 /\\ 0:x1=2)"));
        for (from, to) in [
            ("RISCV t", "RISCV u"),
            ("Never", "Maybe"),
            (" * Result", "Result"),
            ("exists", "forall"),
            (" * Reaches", ""),
        ] {
            assert!(Case::parse("t", &FILE.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn modelled_lines_have_to_be_there_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("code.c"), "\ta(1);\n\tb(\t2);\n").unwrap();
        let with = |starts: &[&str]| {
            let models = starts.iter().map(|s| ("code.c".to_owned(), (*s).to_owned())).collect();
            Case { models, ..Case::parse("t", FILE).unwrap() }.gone(dir.path())
        };
        assert_eq!(with(&["a(1);", "b( 2"]), Ok(None));
        assert!(with(&["b(", "a("]).unwrap().is_some());
        assert!(with(&["c("]).unwrap().is_some());
        fs::remove_file(dir.path().join("code.c")).unwrap();
        assert!(with(&["a("]).is_err());
    }

    #[test]
    fn the_readme_has_every_file_with_its_verdict() {
        let dir = repository().join("litmus");
        let readme = fs::read_to_string(dir.join("README.md")).unwrap();
        let mut rows: Vec<&str> = readme.lines().filter(|l| l.contains(".litmus) |")).collect();
        for file in files(&dir).unwrap() {
            let name = stem(&file);
            let case =
                Case::parse(&name, &fs::read_to_string(&file).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let row = format!("| [{name}]({name}.litmus) | {} | ", case.result);
            let at = rows.iter().position(|r| r.starts_with(&row)).unwrap_or_else(|| panic!("no row `{row}`"));
            rows.remove(at);
            assert_eq!(case.gone(&repository()), Ok(None), "{name}");
            assert_eq!(name.starts_with("chosen-"), !case.models.is_empty(), "{name}");
        }
        assert_eq!(rows, [""; 0], "rows of files that do not exist");
    }

    /// A herd7 that gives the first of `answers` for the bad outcome and the second for the good one.
    fn fake(dir: &Path, answers: [&str; 2]) -> Herd {
        for (n, answer) in answers.iter().enumerate() {
            fs::write(dir.join(format!("answer{n}")), answer).unwrap();
        }
        let program = dir.join("herd7");
        let dir = dir.display();
        let script = format!(
            "#!/bin/sh\nfor file; do :; done\nif grep -q '^exists.*x10=0' $file; then cat {dir}/answer0; else cat {dir}/answer1; fi\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Herd { program, arguments: Vec::new(), version: "7.58".to_owned() }
    }

    fn outcome_of(answers: [&str; 2]) -> Count {
        let dir = tempfile::tempdir().unwrap();
        let file = repository().join("litmus").join(format!("{NAME}.litmus"));
        let log = dir.path().join("log");
        let mut tally = Tally::kept();
        judge_all(&fake(dir.path(), answers), &[file], &repository(), &log, &mut tally).unwrap();
        assert!(fs::read_to_string(log).unwrap().contains(answers[0]));
        tally.finish()
    }

    #[test]
    fn what_counts_as_what() {
        let reached = SOMETIMES.replace("refused-mark-if-fence-w-w", NAME);
        let passed = Count { passed: 1, ..Count::default() };
        let failed = Count { failed: 1, ..Count::default() };
        let error = Count { failed: 1, errors: 1, ..Count::default() };
        assert_eq!(outcome_of([NEVER, &reached]), passed);
        assert_eq!(outcome_of([&reached, &reached]), failed, "the bad outcome is seen");
        assert_eq!(outcome_of([NEVER, NEVER]), failed, "the good outcome is not");
        assert_eq!(outcome_of(["", &reached]), error);
        assert_eq!(outcome_of([NEVER, &NEVER[..100]]), error);
        let mut tally = Tally::kept();
        skip_all(&[PathBuf::from("a.litmus"), PathBuf::from("b.litmus")], "no network", &mut tally);
        assert_eq!(tally.finish(), Count { skipped: 2, ..Count::default() });
    }
}
