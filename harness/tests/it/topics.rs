// SPDX-License-Identifier: GPL-2.0-only
//! Topics of the series, and the rules that its patches follow: each is seen to be broken once.

use std::fs;

use crate::common::{Lab, TESTED, edit, git, said, write};

const LAZY_MAP: &str = "arch/riscv/mm/lazy_map.c";

/// Runs the check, which must fail in one line that starts like this and has `words`.
#[track_caller]
fn fails(lab: &Lab, name: &str, words: &[&str]) -> String {
    let result = lab.with_ksrc(&["series-check"]);
    assert_eq!(result.code, Some(1), "{result:?}");
    let start = format!("FAILED series: {name}: ");
    let line = result.out.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("{name}: {result:?}"));
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    result.out
}

/// The line of a topic in the table, with single blanks.
fn row(out: &str, topic: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    out.lines().map(words).find(|l| l.split(' ').nth(1) == Some(topic)).unwrap_or_else(|| panic!("{topic}: {out}"))
}

/// Puts a file into the last commit of the series, and where it belongs in the repository.
fn amend(lab: &Lab, file: &str, text: &str, patches: usize) {
    write(&lab.work().join(file), text);
    git(&lab.work(), &["add", "-A", "-f"]);
    git(&lab.work(), &["commit", "-q", "--amend", "--no-edit"]);
    if file == LAZY_MAP {
        write(&lab.repo().join("arch-riscv/mm/lazy_map.c"), text);
    }
    lab.write_patches(patches);
}

/// A third patch, which needs nothing of the others, as a topic of its own.
fn with_rust() -> Lab {
    let lab = Lab::new();
    let base = lab.repo().join("base.toml");
    let topic =
        "[[topic]]\nname = \"rust\"\nfirst = [\"rust: older\", \"rust: add\"]\nsubjects = [\"rust: \"]\non = []\n";
    write(&base, &format!("{}\n{topic}", fs::read_to_string(&base).unwrap()));
    edit(&lab.repo().join("docs/cover-letter.md"), "map, patch 2.", "map, patch 2.\n3. Rust abstractions, patch 3.");
    write(&lab.work().join("lib/x.c"), "int x;\n");
    git(&lab.work(), &["add", "-A", "-f"]);
    git(&lab.work(), &["commit", "-q", "-m", "rust: add", "-m", TESTED]);
    lab.write_patches(3);
    lab
}

#[test]
fn a_topic_applies_with_what_it_needs_and_nothing_else() {
    let lab = with_rust();
    let good = lab.with_ksrc(&["series-check"]);
    good.passes();
    assert_eq!(row(&good.out, "topic"), "base topic patches on applies builds boots tests");
    assert_eq!(row(&good.out, "fixes"), "7.3.4 fixes 1-1 the bare base yes - - -");
    assert_eq!(row(&good.out, "lazy-map"), "7.3.4 lazy-map 2-2 fixes yes - - -");
    assert_eq!(row(&good.out, "rust"), "7.3.4 rust 3-3 the bare base yes - - -");
    assert_eq!(row(&good.out, "all"), "7.3.4 all 1-3 - yes - - -");
    // It applies as a part of the series, but not alone.
    amend(&lab, LAZY_MAP, "int lazy;\nint second;\nint third;\n", 3);
    let words = ["0003-rust-add.patch does not apply", LAZY_MAP];
    let out = fails(&lab, "topic rust applies to the bare base", &words);
    assert_eq!(row(&out, "rust"), "7.3.4 rust 3-3 the bare base NO - - -");
    assert_eq!(row(&out, "all"), "7.3.4 all 1-3 - yes - - -");
    // What it needs comes with what that needs.
    edit(
        &lab.repo().join("base.toml"),
        "subjects = [\"rust: \"]\non = []",
        "subjects = [\"rust: \"]\non = [\"lazy-map\"]",
    );
    let good = lab.with_ksrc(&["series-check"]);
    good.passes();
    assert_eq!(row(&good.out, "rust"), "7.3.4 rust 3-3 fixes and lazy-map yes - - -");
}

#[test]
fn topics_are_contiguous_and_in_order() {
    let name = "topics are contiguous and in order";
    let lab = with_rust();
    let base = lab.repo().join("base.toml");
    let text = fs::read_to_string(&base).unwrap();
    write(&base, &text.replace("\"riscv: switch\"]", "\"riscv: none\"]"));
    let out = fails(&lab, name, &["\"riscv: none\"", "lazy-map"]);
    assert_eq!(row(&out, "lazy-map"), "7.3.4 lazy-map - - - - - -", "it was not tried");
    write(&base, &text.replace("first = [\"riscv: first\"]", "first = [\"rust: add\"]"));
    fails(&lab, name, &["lazy-map begins before fixes"]);
    write(&base, &text.replace("first = [\"riscv: first\"]", "first = [\"riscv: switch\"]"));
    fails(&lab, name, &["lazy-map begins before fixes"]);
    // A patch of one topic among those of another.
    write(&base, &text);
    git(&lab.work(), &["commit", "-q", "--allow-empty", "-m", "riscv: strayed"]);
    amend(&lab, "lib/y.c", "int y;\n", 4);
    fails(&lab, name, &["\"riscv: strayed\" is among the patches of the topic rust"]);
    // The file itself may be wrong.
    write(&base, &text.replace("on = [\"fixes\"]", "on = [\"rust\"]"));
    lab.with_ksrc(&["series-check"]).fails(2, &["base.toml: ", "lazy-map needs rust, which is not a topic before it"]);
    write(&base, &text.replace("name = \"rust\"", "name = \"fixes\""));
    lab.with_ksrc(&["series-check"]).fails(2, &["two topics called fixes"]);
}

#[test]
fn a_series_that_does_not_apply_has_no_topics() {
    let lab = Lab::new();
    edit(&lab.linux().join("arch/riscv/kernel/entry.S"), "line 49\n", "line forty-nine\n");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "other"]);
    let out = fails(&lab, "git am", &["0002-riscv-switch.patch"]);
    assert_eq!(row(&out, "all"), "7.3.4 all 1-2 - NO - - -");
    assert_eq!(row(&out, "fixes"), "7.3.4 fixes - - - - - -");
}

#[test]
fn the_cover_letter_names_each_topic() {
    let name = "the cover letter names each topic";
    let lab = Lab::new();
    let letter = lab.repo().join("docs/cover-letter.md");
    edit(&letter, "2. Lazy map", "2. The check");
    lab.write_patches(2);
    fails(&lab, name, &["no item \"2. \" names the topic lazy-map"]);
    edit(&letter, "2. The check", "2. Lazy map");
    edit(&letter, "patch 1.", "patches 1 to 2.");
    lab.write_patches(2);
    fails(&lab, name, &["it says patches 1 to 2 of the topic fixes, which is 1 to 1"]);
    fs::remove_file(lab.patches().join("0000-cover-letter.txt")).unwrap();
    fails(&lab, name, &["cannot read", "0000-cover-letter.txt"]);
}

#[test]
fn fixes_say_what_they_fix() {
    let tag = "Fixes: 0123456789ab (\"riscv: old\")\n";
    let lab = Lab::new();
    let mail = lab.patches().join("0001-riscv-first.patch");
    let text = fs::read_to_string(&mail).unwrap();
    let stable = "0001-riscv-first is for stable kernels";
    write(&mail, &text.replace(tag, ""));
    fails(&lab, stable, &["no Fixes: tag", "No Fixes tag: "]);
    write(&mail, &text.replace(tag, "No Fixes tag: it is as old as the port.\n"));
    lab.with_ksrc(&["series-check"]).passes();
    write(&mail, &text.replace("Cc: stable@vger.kernel.org", "Cc: stable@localhost"));
    fails(&lab, stable, &["no \"Cc: stable@vger.kernel.org\""]);
    // A tag behind the message is none.
    let behind = text.replace(tag, "").replace("\n---\n", &format!("\n---\n{tag}"));
    write(&mail, &behind);
    fails(&lab, stable, &["no Fixes: tag"]);
    // In other topics tags are up to the author, but not their form.
    let mail = lab.patches().join("0002-riscv-switch.patch");
    write(&lab.patches().join("0001-riscv-first.patch"), &text);
    edit(&mail, "\n---\n", "\nFixes: 0123456 (\"riscv: old\")\n---\n");
    fails(&lab, "each Fixes: has digits and subject", &["0002-riscv-switch.patch", "Fixes: 0123456 "]);
    edit(&mail, "Fixes: 0123456 ", "Fixes: 0123456789abcdef ");
    let good = lab.with_ksrc(&["series-check"]);
    good.passes();
    assert!(good.out.contains("2 tags, not compared with commits"), "{good:?}");
    // A clone that has one of the commits has history, and so must have the others, with their subjects.
    let name = "each Fixes: has digits and subject";
    let known = git(&lab.linux(), &["rev-parse", "--short=12", "HEAD"]);
    edit(&lab.patches().join("0001-riscv-first.patch"), tag, &format!("Fixes: {known} (\"Linux 7.3.4\")\n"));
    fails(&lab, name, &["0002-riscv-switch.patch", "there is no commit 0123456789abcdef"]);
    edit(&mail, "Fixes: 0123456789abcdef ", &format!("Fixes: {known} "));
    fails(&lab, name, &["0002-riscv-switch.patch", "is \"Linux 7.3.4\", not \"riscv: old\""]);
    edit(&mail, "(\"riscv: old\")", "(\"Linux 7.3.4\")");
    let good = lab.with_ksrc(&["series-check"]);
    good.passes();
    assert!(good.out.contains("2 tags, compared with KSRC="), "{good:?}");
}

#[test]
fn each_message_says_how_to_test() {
    let lab = Lab::new();
    edit(&lab.patches().join("0002-riscv-switch.patch"), TESTED, "It was tested.");
    fails(&lab, "each message says how to test it", &["0002-riscv-switch.patch", "How to test: "]);
}

#[test]
fn the_base_has_the_blobs_that_the_patches_name() {
    let name = "the base has the blobs that the patches name";
    let lab = Lab::new();
    let good = lab.with_ksrc(&["series-check"]);
    good.passes();
    assert!(good.out.contains(&format!("{name}: 1 files\n")), "{good:?}");
    // Where no hunk is.
    edit(&lab.linux().join("arch/riscv/kernel/entry.S"), "line 35\n", "line thirty-five\n");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "other"]);
    fails(&lab, name, &["arch/riscv/kernel/entry.S, which 0001-riscv-first.patch has as "]);
    // Another release is another release.
    edit(&lab.linux().join("Makefile"), "SUBLEVEL = 4", "SUBLEVEL = 5");
    git(&lab.linux(), &["commit", "-q", "-a", "-m", "7.3.5"]);
    let other = lab.with_ksrc(&["series-check"]);
    other.passes();
    assert!(other.out.contains(&format!("{name}: 0 files; 1 differ from 7.3.4, such as arch/riscv/")), "{other:?}");
}

#[test]
fn maintainers_gets_no_orphans() {
    let lab = Lab::new();
    let entry = "RISC-V\nS:\tSupported\nF:\tarch/riscv/\n\nNEW\nS:\tMaintained\nF:\tx/\n";
    amend(&lab, "MAINTAINERS", entry, 2);
    lab.with_ksrc(&["series-check"]).passes();
    amend(&lab, "MAINTAINERS", &entry.replace("Maintained", "Orphan"), 2);
    fails(&lab, "MAINTAINERS gets no orphans", &["S:\tOrphan"]);
}

#[test]
fn kernel_doc_is_checked_in_what_the_series_adds() {
    let lab = Lab::new();
    amend(&lab, LAZY_MAP, "/** BADDOC */\nint lazy;\n", 2);
    fails(&lab, "kernel-doc", &["Warning: arch/riscv/mm/lazy_map.c:1 not described"]);
    // A script that does not run finds nothing.
    amend(&lab, LAZY_MAP, "/** NODOC */\nint lazy;\n", 2);
    lab.with_ksrc(&["series-check"]).fails(2, &["kernel-doc failed without a complaint", "broken"]);
    // Where it has moved to, and where it is gone.
    let lab = Lab::new();
    amend(&lab, LAZY_MAP, "/** BADDOC */\nint lazy;\n", 2);
    fs::create_dir_all(lab.linux().join("tools/docs")).unwrap();
    git(&lab.linux(), &["mv", "scripts/kernel-doc", "tools/docs/kernel-doc"]);
    git(&lab.linux(), &["commit", "-q", "-m", "moved"]);
    fails(&lab, "kernel-doc", &["lazy_map.c:1 not described"]);
    let lab = Lab::new();
    git(&lab.linux(), &["rm", "-q", "scripts/kernel-doc"]);
    git(&lab.linux(), &["commit", "-q", "-m", "gone"]);
    lab.with_ksrc(&["series-check"]).fails(2, &["has no scripts/kernel-doc"]);
}

#[test]
fn the_switch_touches_no_common_header() {
    let name = "the switch touches no header that every file includes";
    let lab = Lab::new();
    amend(&lab, "arch/riscv/include/asm/kfence.h", "#define X 2\n", 2);
    lab.with_ksrc(&["series-check"]).passes();
    amend(&lab, "arch/riscv/include/asm/processor.h", "#define X 2\n", 2);
    fails(&lab, name, &["arch/riscv/include/asm/processor.h", "a patch before it"]);
    // Without the commit there is nothing to look at.
    edit(&lab.repo().join("base.toml"), "switch = \"riscv: switch\"", "switch = \"riscv: other\"");
    fails(&lab, name, &["\"riscv: other\"", "switch"]);
}

#[test]
fn each_kernel_is_for_the_patches_alone() {
    let lab = Lab::new();
    let run = |args: &[&str]| said(lab.tool().env("BASE", "all").args(args));
    run(&["demo"]).fails(64, &["BASE=all", "series and series-check"]);
    run(&["series-check", "--ksrc", "/nowhere"]).fails(64, &["KSRC is a tree of one version"]);
}
