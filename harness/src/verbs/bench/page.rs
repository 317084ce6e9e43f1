// SPDX-License-Identifier: GPL-2.0-only
//! The figures as a page to look at: one file that needs no other.

use super::figures::Place;
use super::judge::Check;
use super::table;
use crate::ground::html::escaped;

/// The page; `{…}` stand for what is filled in.
const PAGE: &str = include_str!("page.html");

/// The page for these figures; `about` says where they come from, `plots` are pictures with their titles.
pub fn page(places: &[Place], checks: &[Check], about: &str, plots: &[(&str, String)]) -> String {
    let plots: String = plots.iter().map(|(title, svg)| format!("<h2>{}</h2>\n{svg}\n", escaped(title))).collect();
    let tables = places.iter().map(|place| {
        format!(
            "<h2>{}</h2>\n<div class=\"scroll\">\n{}\n</div>\n",
            escaped(&table::title(place)),
            html_table(&table::rows(place))
        )
    });
    PAGE.replace("{about}", &escaped(about))
        .replace("{plots}", &plots)
        .replace("{tables}", &tables.collect::<String>())
        .replace("{checks}", &html_table(&check_rows(checks)))
}

fn check_rows(checks: &[Check]) -> Vec<Vec<String>> {
    let row = |check: &Check| vec![check.name.clone(), check.verdict.name().to_owned(), check.why.clone()];
    let heading = ["check", "verdict", "figures"].map(str::to_owned).to_vec();
    std::iter::once(heading).chain(checks.iter().map(row)).collect()
}

/// A table, the first row of which is its heading.
fn html_table(rows: &[Vec<String>]) -> String {
    let mut html = "<table>\n".to_owned();
    for (at, row) in rows.iter().enumerate() {
        let tag = if at == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        html += &format!("<tr>{cells}</tr>\n");
    }
    html + "</table>"
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figures;
    use super::super::plot;
    use super::super::plot::tests::{elements, places};
    use super::*;
    use crate::trial::verdict::Verdict;

    #[test]
    fn the_page_has_it_all_and_needs_no_other_file() {
        let checks = [Check { name: "x <y>".to_owned(), verdict: Verdict::Fail, why: "a & {tables}".to_owned() }];
        let svg = plot::svg("Fences", &places(), &["series"], &["bpf-maps"], Figures::per_announcement);
        let page = page(&places(), &checks, "8 harts", &[("Fences < all", svg)]);
        for part in ["<svg", "8 harts", "x &#60;y&#62;", "a &#38; &#123;tables&#125;", "FAIL", "Fences &#60; all"] {
            assert!(page.contains(part), "{part}");
        }
        let own = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for mark in ["{about}", "{plots}", "{tables}", "{checks}", "http", "src="] {
            assert!(!own.contains(mark), "{mark}");
        }
        let body = page.split_once("<body>").unwrap().1.split_once("</body>").unwrap().0;
        assert_eq!(elements(body).unwrap().iter().filter(|element| *element == "table").count(), 4);
    }
}
