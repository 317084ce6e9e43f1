// SPDX-License-Identifier: GPL-2.0-only
//! The pages in docs/findings have one shape, so that a person can file each as a bug.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Rows of the table at the top, in this order; others may follow.
const ROWS: [&str; 6] = ["kernel", "configuration", "harts", "command", "result", "status"];
/// Sections, in this order; others may come between them.
const SECTIONS: [&str; 3] = ["Evidence", "Cause", "Cure"];
/// How a status begins.
const STATUS: [&str; 3] = ["open in ", "fixed in ", "not a bug"];

/// What a page lacks.
fn lacks(page: &str) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut need = |what: &str, there: bool| {
        if !there {
            lacks.push(what.to_owned());
        }
    };
    let (head, body) = page.split_once("\n## ").unwrap_or((page, ""));
    let start = ["<!-- SPDX-License-Identifier: GPL-2.0-only -->\n# ", "\n\n| | |\n|---|---|\n| kernel | "];
    need("licence, title and table", head.starts_with(start[0]) && head.contains(start[1]));
    let rows: Vec<(&str, &str)> = head
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    for (at, name) in ROWS.into_iter().enumerate() {
        need(&format!("row {name}"), rows.get(at).is_some_and(|(row, text)| *row == name && !text.trim().is_empty()));
    }
    let row = |name: &str| rows.iter().find(|(row, _)| *row == name).map_or("", |(_, text)| *text);
    need(
        "a command of this repository",
        ["`make ", "`harness/lazymap "].iter().any(|run| row("command").contains(run)),
    );
    need("a status", STATUS.iter().any(|status| row("status").starts_with(status)));
    let sections: Vec<(&str, &str)> = body.split("\n## ").filter_map(|section| section.split_once('\n')).collect();
    let place = |name: &str| sections.iter().position(|(title, _)| *title == name);
    let text = |name: &str| place(name).map_or("", |at| sections[at].1.trim());
    for name in SECTIONS {
        need(&format!("section {name}"), !text(name).is_empty());
    }
    let places: Vec<usize> = SECTIONS.into_iter().filter_map(place).collect();
    need("sections in order", places.is_sorted());
    // What a machine printed, not only what we say about it.
    let fences: Vec<&str> = text("Evidence").split("```").collect();
    let printed = fences.iter().skip(1).step_by(2).any(|block| block.trim().lines().count() > 1);
    need("an excerpt of what was printed", printed && fences.len() % 2 == 1);
    lacks
}

/// A page that lacks nothing.
const GOOD: &str = "<!-- SPDX-License-Identifier: GPL-2.0-only -->
# A fault

| | |
|---|---|
| kernel | Linux 7.3.4 |
| configuration | defconfig |
| harts | `stale` |
| command | `harness/lazymap hunt --tree base` |
| result | dies |
| status | open in 7.3.4 |

## Evidence

```text
Oops
calls
```

## Cause

No fence.

## Other

## Cure

A fence.
";

#[test]
fn each_finding_has_kernel_command_excerpt_cause_and_status() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    let linked = |name: &str| index.contains(&format!("]({name})"));
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        let lacks = lacks(&fs::read_to_string(folder.join(&name)).unwrap());
        assert!(lacks.is_empty(), "docs/findings/{name} lacks: {}", lacks.join(", "));
        assert!(linked(&name), "docs/findings/README.md does not list {name}");
        names.insert(name);
    }
    assert!(names.len() >= 6, "{names:?}");
}

#[test]
fn a_page_that_lacks_something_is_noticed() {
    assert_eq!(lacks(GOOD), Vec::<String>::new());
    for (right, wrong, lack) in [
        ("<!-- SPDX", "<!-- x", "licence, title and table"),
        ("|---|---|\n", "", "licence, title and table"),
        ("| kernel | Linux 7.3.4 |\n", "", "row kernel"),
        ("| harts | `stale` |", "| harts |  |", "row harts"),
        (
            "| result | dies |\n| status | open in 7.3.4 |",
            "| status | open in 7.3.4 |\n| result | dies |",
            "row status",
        ),
        ("`harness/lazymap hunt --tree base`", "run it", "a command of this repository"),
        ("open in 7.3.4", "known", "a status"),
        ("## Cause", "## Why", "section Cause"),
        ("A fence.", "", "section Cure"),
        ("## Evidence", "## Cure\n\nx\n\n## Evidence", "sections in order"),
        ("Oops\ncalls\n", "", "an excerpt of what was printed"),
        ("calls\n```", "calls", "an excerpt of what was printed"),
    ] {
        assert!(GOOD.contains(right), "{right}");
        let found = lacks(&GOOD.replace(right, wrong));
        assert!(found.iter().any(|what| what == lack), "`{wrong}` lacks {lack}: {found:?}");
    }
}
