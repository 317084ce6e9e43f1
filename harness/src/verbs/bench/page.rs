// SPDX-License-Identifier: GPL-2.0-only
//! The figures as a page to look at: one file that needs no other.

use super::figures::{Added, Figures, Measured, Role};
use super::judge::Check;
use super::table;

/// The page; `{…}` stand for what is filled in.
const PAGE: &str = include_str!("page.html");
/// The picture in pixels: its width, what is left of the bars, and what is right of them.
const WIDTH: f64 = 980.0;
const LEFT: f64 = 180.0;
const RIGHT: f64 = 280.0;
/// Height of a bar, and of a kernel with its two bars.
const BAR: f64 = 16.0;
const GROUP: f64 = 54.0;
/// Where the first kernel begins, below the numbers of the axis.
const TOP: f64 = 34.0;

/// The page for these figures; `about` says where they come from.
pub fn page(measured: &[Measured], checks: &[Check], about: &str) -> String {
    PAGE.replace("{about}", &escaped(about))
        .replace("{chart}", &chart(measured))
        .replace("{table}", &html_table(&table::rows(measured)))
        .replace("{checks}", &html_table(&check_rows(checks)))
}

/// Bars of the harts that map nothing and of the one that does, on a logarithmic scale.
fn chart(measured: &[Measured]) -> String {
    let most = measured.iter().filter_map(|m| m.figures.as_ref().ok()).flat_map(bars).map(|bar| bar.fences).max();
    let decades = most.unwrap_or(1).max(1).ilog10() + 1;
    let inner = WIDTH - LEFT - RIGHT;
    // Below 1 a logarithm has no place: such a bar has no length.
    let length = |value: i64| (value.max(1) as f64).log10() / f64::from(decades) * inner;
    let height = TOP + GROUP * measured.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Fences that announcements added, by kernel\">\n"
    );
    for decade in 0..=decades {
        let (x, number) = (LEFT + inner * f64::from(decade) / f64::from(decades), 10_u64.pow(decade));
        svg += &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{height}\"/>\n", TOP - 8.0);
        svg += &format!("<text class=\"axis\" x=\"{x:.1}\" y=\"{:.1}\">{number}</text>\n", TOP - 14.0);
    }
    for (at, Measured { kernel, figures }) in measured.iter().enumerate() {
        let top = TOP + GROUP * at as f64;
        let name = escaped(kernel);
        svg += &format!("<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n", LEFT - 12.0, top + 22.0);
        let Ok(figures) = figures else {
            svg += &format!("<text x=\"{:.1}\" y=\"{:.1}\">not measured</text>\n", LEFT + 8.0, top + 22.0);
            continue;
        };
        for (row, bar) in bars(figures).iter().enumerate() {
            let (y, long) = (top + (BAR + 3.0) * row as f64, length(bar.fences));
            svg += &format!(
                "<rect class=\"{}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{long:.1}\" height=\"{BAR}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                bar.class,
                LEFT + long + 6.0,
                y + BAR - 3.5,
                bar.label
            );
        }
    }
    svg + "</svg>"
}

struct Bar {
    class: &'static str,
    fences: i64,
    label: String,
}

/// The bars of a kernel.
fn bars(figures: &Figures) -> Vec<Bar> {
    let bar = |class, added: &Added| {
        let label = format!("{} ({} spurious faults)", added.fences, added.spurious_faults.median);
        Bar { class, fences: added.fences.median, label }
    };
    let producer = figures.harts.iter().filter(|hart| hart.role == Role::Producer);
    let mut bars = vec![bar("victim", &figures.victims)];
    bars.extend(producer.map(|hart| bar("producer", &hart.added)));
    bars
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

/// Text as it must be written in HTML; braces too, as they stand for something in the page.
fn escaped(text: &str) -> String {
    let mut html = String::new();
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '{' | '}' => html += &format!("&#{};", u32::from(c)),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::measured;
    use super::*;
    use crate::trial::verdict::Verdict;

    /// Names of elements in order, if each that is opened is closed and all attributes are quoted.
    fn elements(xml: &str) -> Result<Vec<String>, String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for part in xml.split('<').skip(1) {
            let (tag, text) = part.split_once('>').ok_or_else(|| format!("`<{part}` has no end"))?;
            if text.contains('>') {
                return Err(format!("a > in `{text}`"));
            }
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop().as_deref() != Some(name) {
                    return Err(format!("</{name}> closes another element"));
                }
                continue;
            }
            let empty = tag.ends_with('/');
            let (name, attributes) = tag.trim_end_matches('/').split_once(' ').unwrap_or((tag, ""));
            if attributes.matches('"').count() != 2 * attributes.matches('=').count() {
                return Err(format!("`<{tag}>` has an attribute that is not quoted"));
            }
            all.push(name.to_owned());
            if !empty {
                open.push(name.to_owned());
            }
        }
        if open.is_empty() { Ok(all) } else { Err(format!("{open:?} are not closed")) }
    }

    fn kernels() -> Vec<Measured> {
        let lost = Measured { kernel: "preventive", figures: Err("a < b".to_owned()) };
        vec![measured("series", [70, 5], 4), measured("first-version", [0, 0], 2), lost]
    }

    fn count(all: &[String], name: &str) -> usize {
        all.iter().filter(|element| *element == name).count()
    }

    #[test]
    fn the_picture_is_well_formed() {
        let svg = chart(&kernels());
        let all = elements(&svg).unwrap();
        assert_eq!((all[0].as_str(), count(&all, "rect"), count(&all, "line")), ("svg", 4, 5));
        assert!(svg.contains(">not measured<") && svg.contains(">75 (4 spurious faults)<"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("width=\"-"), "{svg}");
        assert!(elements(&chart(&[])).is_ok());
        assert!(elements("<svg><text x=1></text></svg>").is_err() && elements("<a><b></a></b>").is_err());
    }

    #[test]
    fn more_fences_are_a_longer_bar_within_the_picture() {
        let kernels = [measured("a", [1, 0], 2), measured("b", [90, 0], 2), measured("c", [120_000, 0], 2)];
        let svg = chart(&kernels);
        let width =
            |part: &str| part.split_once("width=\"").unwrap().1.split('"').next().unwrap().parse::<f64>().unwrap();
        let lengths: Vec<f64> = svg.split("class=\"victim\"").skip(1).map(width).collect();
        assert!(lengths[0] == 0.0 && lengths.is_sorted() && lengths[2] < WIDTH - LEFT - RIGHT, "{lengths:?}");
    }

    #[test]
    fn the_page_has_it_all_and_needs_no_other_file() {
        let checks = [Check { name: "x <y>".to_owned(), verdict: Verdict::Fail, why: "a & {table}".to_owned() }];
        let page = page(&kernels(), &checks, "4 harts");
        for part in ["<svg", "4 harts", "x &#60;y&#62;", "a &#38; &#123;table&#125;", "FAIL", "hart 2, producer"] {
            assert!(page.contains(part), "{part}");
        }
        for mark in ["{about}", "{chart}", "{table}", "{checks}", "http", "src="] {
            assert!(!page.contains(mark), "{mark}");
        }
        let body = page.split_once("<body>").unwrap().1.split_once("</body>").unwrap().0;
        assert_eq!(count(&elements(body).unwrap(), "table"), 2);
    }
}
