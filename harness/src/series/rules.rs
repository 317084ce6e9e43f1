// SPDX-License-Identifier: GPL-2.0-only
//! Rules for the contents of the series that checkpatch does not know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;

use crate::ground::error::{Error, Result};
use crate::ground::files;
use crate::ground::git::Repo;
use crate::source::tree::Tree;

/// The script that checks kernel-doc comments: up to 7.3, and where it has moved to.
const KERNEL_DOC: [&str; 2] = ["scripts/kernel-doc", "tools/docs/kernel-doc"];

/// Headers that the switch commit may touch, because hardly any file includes them. A kernel with the
/// commit and one without share almost all objects then.
const RARE_HEADERS: [&str; 2] = ["arch/riscv/include/asm/kfence.h", "arch/riscv/include/asm/lazy_map.h"];

/// How the line begins that says how a patch is tested.
const TESTED: &str = "How to test: ";

/// What a patch that fixes nothing old says in place of its tag, followed by the reason.
const NO_FIXES: &str = "No Fixes tag: ";

/// The message of a mail, up to the line that ends it.
pub fn message(mail: &Path) -> Result<String> {
    let text = files::read_lossy(mail)?;
    Ok(text.lines().take_while(|l| *l != "---" && !l.starts_with("diff --git ")).map(|l| format!("{l}\n")).collect())
}

/// Whether a patch for stable kernels says what it fixes, and that it is for them.
pub fn for_stable(message: &str) -> Result<String, String> {
    let has = |start: &str| message.lines().any(|l| l.strip_prefix(start).is_some_and(|rest| !rest.trim().is_empty()));
    if !has("Fixes: ") && !has(NO_FIXES) {
        return Err(format!("it has no Fixes: tag; add one, or a line \"{NO_FIXES}\" with the reason"));
    }
    let to = |l: &str| l.starts_with("Cc: ") && l.contains("stable@vger.kernel.org");
    if !message.lines().any(to) {
        return Err("it has no \"Cc: stable@vger.kernel.org\"; add it".to_owned());
    }
    Ok(String::new())
}

/// Whether each message says how its patch is tested.
pub fn say_how_to_test(mails: &[PathBuf]) -> Result<Result<String, String>> {
    let says = |line: &str| line.strip_prefix(TESTED).is_some_and(|how| !how.trim().is_empty());
    for mail in mails {
        if !message(mail)?.lines().any(says) {
            let name = files::name(mail);
            return Ok(Err(format!("{name} has no line \"{TESTED}\"; add one that a reviewer can follow")));
        }
    }
    Ok(Ok(format!("{} patches", mails.len())))
}

/// Whether each `Fixes:` of these mails has 12 or more digits of a commit, and its subject; in a clone with history,
/// whether that commit has that subject.
pub fn fixes_are_whole(mails: &[PathBuf], clone: Option<&Repo>) -> Result<Result<String, String>> {
    let whole = Regex::new(r#"^Fixes: ([0-9a-f]{12,40}) \("(.+)"\)$"#).map_err(|e| Error::could_not(e.to_string()))?;
    let (mut tags, mut found, mut unknown) = (0, 0, None);
    for mail in mails {
        let message = message(mail)?;
        let name = files::name(mail);
        for line in message.lines().filter(|l| l.to_ascii_lowercase().starts_with("fixes:")) {
            let Some(parts) = whole.captures(line) else {
                return Ok(Err(format!(
                    "{name}: \"{line}\" is not Fixes: and 12 or more digits of the commit, followed by (\"SUBJECT\")"
                )));
            };
            tags += 1;
            let Some(clone) = clone else { continue };
            let done = clone.attempt(["log", "-1", "--format=%s", &parts[1], "--"])?;
            let subject = String::from_utf8_lossy(&done.stdout);
            if !done.status.success() {
                unknown = unknown.or(Some(format!("{name}: there is no commit {} in KSRC=", &parts[1])));
                continue;
            }
            if subject.trim_end() != &parts[2] {
                return Ok(Err(format!(
                    "{name}: the subject of {} is \"{}\", not \"{}\"",
                    &parts[1],
                    subject.trim_end(),
                    &parts[2]
                )));
            }
            found += 1;
        }
    }
    Ok(match (tags, found, unknown) {
        (0, ..) => Ok("0 tags".to_owned()),
        (_, 1.., Some(unknown)) => Err(unknown),
        (_, 1.., None) => Ok(format!("{tags} tags, compared with KSRC=")),
        // Of a tarball, or of a clone with the last commit alone.
        (_, _, _) => Ok(format!("{tags} tags, not compared with commits: KSRC= names no clone with history")),
    })
}

/// Whether each mail has what b4 and patchwork need: From, Date, an id of its own, and for patches that of the
/// cover letter.
pub fn threaded(cover: &Path, mails: &[PathBuf]) -> Result<Result<String, String>> {
    let mut ids: Vec<String> = Vec::new();
    for mail in std::iter::once(cover).chain(mails.iter().map(PathBuf::as_path)) {
        let name = files::name(mail).into_owned();
        let text = match fs::read(mail) {
            Ok(text) => text,
            Err(e) => return Ok(Err(format!("{name} cannot be read: {e}"))),
        };
        let text = String::from_utf8_lossy(&text);
        let header = |key: &str| text.lines().take_while(|l| !l.is_empty()).find_map(|l| l.strip_prefix(key));
        for key in ["From: ", "Date: ", "Subject: "] {
            if header(key).is_none_or(|value| value.trim().is_empty()) {
                return Ok(Err(format!("{name} has no \"{key}\"; run `make series`")));
            }
        }
        let Some(id) = header("Message-ID: ").filter(|id| !ids.iter().any(|other| other == id)) else {
            return Ok(Err(format!("{name} has no Message-ID of its own; run `make series`")));
        };
        if ids.first().is_some_and(|cover| header("In-Reply-To: ") != Some(cover.as_str())) {
            return Ok(Err(format!("{name} does not reply to the cover letter; run `make series`")));
        }
        ids.push(id.to_owned());
    }
    Ok(Ok(format!("{} mails", ids.len())))
}

/// Two rules that the linux-riscv bot has for added lines, beyond checkpatch: a function of a header is inline, and a
/// C module gets no new parameters. The latter is stricter there: the bot looks for the text `module_param` in each
/// patch, so it names those with parameters of test modules or in Rust, too. The note lists them.
pub fn headers_and_parameters(mails: &[PathBuf]) -> Result<Result<String, String>> {
    let mut named = Vec::new();
    for mail in mails {
        let text = files::read_lossy(mail)?;
        let name = files::name(mail);
        let mut file = "";
        if text.lines().any(|line| line.starts_with('+') && line.contains("module_param")) {
            named.push(name.split('-').next().unwrap_or_default().to_owned());
        }
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = path;
            }
            let Some(added) = line.strip_prefix('+').filter(|_| !line.starts_with("+++ ")) else { continue };
            if let Some(why) = broken_rule(file, added) {
                return Ok(Err(format!("{name}: {file}: \"{}\": {why}", added.trim())));
            }
        }
    }
    let patches = format!("{} patches", mails.len());
    Ok(Ok(match named.is_empty() {
        true => patches,
        false => format!("{patches}; the linux-riscv bot will name {} for test modules' parameters", named.join(", ")),
    }))
}

/// Which of these rules the line `added` to `file` breaks, if it does.
fn broken_rule(file: &str, added: &str) -> Option<&'static str> {
    let function = added.starts_with("static ") && added.contains('(') && !added.contains('=');
    if file.ends_with(".h") && function && !added.contains("inline") {
        return Some("a function in a header must be inline");
    }
    let parameter = ["module_param(", "module_param_named(", "module_param_array("].iter().any(|m| added.contains(m));
    let driver = file.ends_with(".c") && !file.starts_with("tools/testing/");
    (driver && parameter).then_some("no new parameters of modules")
}

/// Whether the kernel's get_maintainer.pl sends each of these patches to the mailing list `list`.
pub fn goes_to(tree: &Tree, list: &str, mails: &[PathBuf]) -> Result<Result<String, String>> {
    let script = "scripts/get_maintainer.pl";
    for mail in mails {
        let mut command = Command::new("perl");
        command.args([script, "--no-git", "--no-git-fallback", "--no-rolestats", "--no-m", "--no-r", "--no-fixes"]);
        command.arg(mail).current_dir(tree.repo.dir()).env("LC_ALL", "C");
        let done = command
            .output()
            .map_err(|e| Error::could_not(format!("cannot run perl: {e}; install the package perl")))?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            let why = why.lines().next_back().unwrap_or("no message");
            return Err(Error::could_not(format!("{script} failed ({}): {why}", done.status)));
        }
        let lists = String::from_utf8_lossy(&done.stdout);
        if !lists.lines().any(|l| l.trim() == list) {
            let name = files::name(mail);
            let lists = lists.split_whitespace().collect::<Vec<_>>().join(", ");
            return Ok(Err(format!("{name}: {script} names {lists}, not {list}")));
        }
    }
    Ok(Ok(list.to_owned()))
}

/// Nobody takes files that nobody looks after.
pub fn no_orphans(tree: &Tree, tip: &str) -> Result<Result<String, String>> {
    let diff = tree.repo.run(["diff", "--unified=0", &tree.base, tip, "--", "MAINTAINERS"])?;
    let orphan = |l: &&str| l.strip_prefix("+S:").is_some_and(|status| status.trim().eq_ignore_ascii_case("orphan"));
    Ok(match diff.lines().find(orphan) {
        Some(line) => Err(format!("it adds \"{}\"; put the files under the entry of their folder", &line[1..])),
        None => Ok(String::new()),
    })
}

/// Runs the kernel's check of kernel-doc comments over the C files and headers that the series adds.
pub fn kernel_doc(tree: &Tree, tip: &str) -> Result<Result<String, String>> {
    let Some(script) = KERNEL_DOC.iter().map(|path| tree.repo.dir().join(path)).find(|path| path.exists()) else {
        return Err(Error::could_not(format!(
            "{} has no {}; check out all of the kernel",
            tree.repo.dir().display(),
            KERNEL_DOC[0]
        )));
    };
    let added = tree.repo.run(["diff", "--name-only", "--no-renames", "--diff-filter=A", &tree.base, tip])?;
    let added: Vec<&str> = added.lines().filter(|path| path.ends_with(".c") || path.ends_with(".h")).collect();
    let dir = files::scratch()?;
    for path in added.iter().copied() {
        files::write_whole(&dir.path().join(path), tree.repo.object("blob", &format!("{tip}:{path}"))?)?;
        let mut command = Command::new(&script);
        // A script in Python leaves what it compiles beside itself.
        command
            .args(["-none", "-Werror", path])
            .current_dir(&dir)
            .env("LC_ALL", "C")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let done = command
            .output()
            .map_err(|e| Error::could_not(format!("cannot run {}: {e}; is python3 installed?", script.display())))?;
        if done.status.success() {
            continue;
        }
        let said = [done.stderr, done.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let named = said.lines().find(|line| line.contains(path));
        let Some(line) = named else {
            // It must not count as a complaint that it could not be run.
            return Err(Error::could_not(format!(
                "{} failed without a complaint about {path} ({}): {}",
                script.display(),
                done.status,
                said.lines().next_back().unwrap_or("no message")
            )));
        };
        return Ok(Err(line.trim().to_owned()));
    }
    Ok(Ok(format!("{} files", added.len())))
}

/// All layout is in patches before the switch commit: a kernel with it and one without are built from
/// almost the same objects.
pub fn switch_is_lean(tree: &Tree, tip: &str, subject: &str) -> Result<Result<String, String>> {
    let Some(commit) = tree.by_subject(tip, subject)? else {
        return Ok(Err(format!("no patch has the subject \"{subject}\", which base.toml gives as switch")));
    };
    let touched = tree.changed(&format!("{commit}^"), &commit)?;
    let common = |path: &&String| path.ends_with(".h") && !RARE_HEADERS.contains(&path.as_str());
    Ok(match touched.iter().find(common) {
        Some(path) => Err(format!("it touches {path}; do that in a patch before it")),
        None => Ok(String::new()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_says_what_it_fixes() {
        let good = "Subject: x\n\nText.\n\nFixes: 0123456789ab (\"y\")\nCc: stable@vger.kernel.org\n";
        assert!(for_stable(good).is_ok());
        assert!(for_stable(&good.replace("Fixes: 0123456789ab (\"y\")", "No Fixes tag: as old as the port")).is_ok());
        assert!(for_stable(&good.replace("Fixes: 0123456789ab (\"y\")", "No Fixes tag: ")).is_err());
        assert!(for_stable(&good.replace("Fixes: 0123456789ab", "Fixes 0123456789ab")).unwrap_err().contains("Fixes:"));
        assert!(for_stable(&good.replace("Cc: stable@", "Cc: linux-riscv@")).unwrap_err().contains("stable@"));
    }

    #[test]
    fn each_message_says_how_to_test() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("0001-x.patch");
        let ask = |line: &str| {
            fs::write(&mail, format!("Subject: x\n\nText.\n\n{line}\n---\nHow to test: behind the message\n")).unwrap();
            say_how_to_test(std::slice::from_ref(&mail)).unwrap()
        };
        assert_eq!(ask("How to test: boot it").unwrap(), "1 patches");
        for wrong in ["", "How to test: ", "How to test it: boot it", "It says How to test: boot it"] {
            assert!(ask(wrong).unwrap_err().contains("0001-x.patch has no line"), "{wrong}");
        }
    }

    #[test]
    fn a_thread_hangs_together() {
        let dir = tempfile::tempdir().unwrap();
        let (cover, patch) = (dir.path().join("0000-c.txt"), dir.path().join("0001-x.patch"));
        let ask = |one: &str, other: &str| {
            fs::write(&cover, format!("From 0\n{one}\n\n")).unwrap();
            fs::write(&patch, format!("From 0\n{other}\n\n")).unwrap();
            threaded(&cover, std::slice::from_ref(&patch)).unwrap()
        };
        let one = "From: a <b>\nDate: d\nMessage-ID: <1>\nSubject: s";
        let other = "From: a <b>\nDate: d\nMessage-ID: <2>\nIn-Reply-To: <1>\nSubject: s";
        assert_eq!(ask(one, other).unwrap(), "2 mails");
        assert!(ask(&one.replace("Date: d\n", ""), other).unwrap_err().contains("0000-c.txt has no \"Date: \""));
        assert!(
            ask(one, &other.replace("<2>", "<1>")).unwrap_err().contains("0001-x.patch has no Message-ID of its own")
        );
        assert!(ask(one, &other.replace("In-Reply-To: <1>\n", "")).unwrap_err().contains("does not reply"));
    }

    #[test]
    fn headers_are_inline_and_drivers_get_no_parameters() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("0001-x.patch");
        let ask = |file: &str, line: &str| {
            fs::write(&mail, format!("Subject: x\n\n---\n--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n{line}\n")).unwrap();
            headers_and_parameters(std::slice::from_ref(&mail)).unwrap()
        };
        assert!(ask("a.h", "+static int f(void)").unwrap_err().contains("0001-x.patch: a.h: \"static int f(void)\""));
        assert!(ask("a.c", "+module_param(x, int, 0);").unwrap_err().contains("parameters"));
        for (file, line) in [
            ("a.h", "+static inline int f(void)"),
            ("a.h", "+static __always_inline int f(void)"),
            ("a.h", "+static const int x = f(1);"),
            ("a.h", "-static int f(void)"),
            ("a.c", "+static int f(void)"),
            ("a.rs", "+module_param(x)"),
            ("tools/testing/selftests/a.c", "+module_param(x, int, 0);"),
        ] {
            assert!(ask(file, line).is_ok(), "{file}: {line}");
        }
        assert_eq!(ask("a.c", "+int x;").unwrap(), "1 patches");
        let said = ask("rust/a.rs", "+    module_parameters::rounds.value()").unwrap();
        assert_eq!(said, "1 patches; the linux-riscv bot will name 0001 for test modules' parameters");
    }

    #[test]
    fn a_tag_has_digits_and_subject() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("0001-x.patch");
        let ask = |tag: &str| {
            fs::write(&mail, format!("Subject: x\n\nText.\n\n{tag}\n---\nFixes: what is behind does not count\n"))
                .unwrap();
            fixes_are_whole(std::slice::from_ref(&mail), None).unwrap()
        };
        let one = ask("Fixes: 0123456789ab (\"riscv: a \\\"b\\\"\")").unwrap();
        assert!(one.starts_with("1 tags, not compared"), "{one}");
        assert_eq!(ask("No tag").unwrap(), "0 tags");
        for wrong in [
            "Fixes: 0123456789a (\"x\")",
            "Fixes: 0123456789ab",
            "Fixes: 0123456789ab (x)",
            "Fixes: 0123456789ab (\"x",
            "Fixes: 0123456789AB (\"x\")",
            "Fixes: commit 0123456789ab (\"x\")",
            "fixes: 0123456789ab (\"x\")",
        ] {
            assert!(ask(wrong).unwrap_err().contains("0001-x.patch"), "{wrong}");
        }
    }
}
