// SPDX-License-Identifier: GPL-2.0-only
//! The table of reports, and what it says of the kernel and to readers of `docs/verdicts.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lazymap_console::reports::table;

use crate::common::{generated, skipped};

/// The kernel tree that the tool builds from, if there is one.
fn kernel() -> Option<PathBuf> {
    Some(generated().join("linux-7.3")).filter(|tree| tree.join("kernel/panic.c").is_file())
}

#[test]
fn each_row_says_where_the_kernel_prints_it() {
    let rows = table().report.iter().map(|r| (&r.name, &r.source, &r.printk));
    let rows = rows.chain(table().ignore.iter().map(|r| (&r.name, &r.source, &r.printk)));
    let tree = kernel();
    if tree.is_none() {
        let why = "there is no linux-7.3 in the out folder; `make demo` makes it";
        skipped("harness, where the kernel prints its reports", why);
    }
    let mut missing = BTreeSet::new();
    for (name, source, printk) in rows {
        let (file, function) = source.split_once(": ").unwrap_or_else(|| panic!("{name}: {source}"));
        assert!(!printk.is_empty(), "{name}");
        let Some(tree) = tree.as_ref().filter(|_| !file.starts_with("OpenSBI, ")) else { continue };
        let text = fs::read_to_string(tree.join(file)).unwrap_or_else(|e| panic!("{name}: {file}: {e}"));
        let named = function.split('(').next().filter(|f| function.contains('(') && !f.contains(' '));
        let wanted = printk.iter().map(String::as_str).chain(named);
        missing.extend(wanted.filter(|w| !text.contains(w)).map(|w| format!("{name}: {file} lacks {w}")));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The tables of docs/verdicts.md.
fn tables() -> String {
    let code = |text: &str| format!("`{}`", text.trim().replace('|', "\\|"));
    let mut text = "### What makes a run unclean\n\n| kind | for example | printed by |\n|---|---|---|\n".to_owned();
    for row in &table().report {
        let ends = if row.ends.is_some() { ", the end" } else { "" };
        text += &format!("| {}{ends} | {} | {} |\n", row.name, code(&row.example), row.source);
    }
    text += "\n### What is ignored on purpose\n\n| for example | why | printed by |\n|---|---|---|\n";
    for row in &table().ignore {
        text += &format!("| {} | {} | {} |\n", code(&row.example), row.why, row.source);
    }
    text += "\n### What a report looks like\n\n| looks like | texts |\n|---|---|\n";
    for row in &table().shape {
        let texts: Vec<String> = row.text.iter().map(|t| code(t)).collect();
        let part = if row.part { ", without a first line before it" } else { "" };
        text += &format!("| {}{part} | {} |\n", row.name, texts.join(" "));
    }
    text
}

#[test]
fn the_documentation_has_all_rows() {
    const FROM: &str =
        "<!-- generated from harness/console/reports.toml by a test in harness/tests/it/reports.rs -->\n";
    const TO: &str = "<!-- end of what is generated -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/verdicts.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(FROM).unwrap();
    let (_, after) = rest.split_once(TO).unwrap();
    let wanted = format!("{before}{FROM}\n{}\n{TO}{after}", tables());
    if std::env::var_os("LAZYMAP_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert!(text == wanted, "docs/verdicts.md is old: run this test with LAZYMAP_WRITE_DOCS=1, which writes it");
}
