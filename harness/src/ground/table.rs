// SPDX-License-Identifier: GPL-2.0-only
//! Aligned tables for a terminal.

use anstyle::Style;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A cell, printed in `style` if the table is coloured.
#[derive(Clone, Debug)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

/// What a table may be wide without wrapping: the terminal's width, 80 columns at least and where there
/// is not a terminal.
pub fn width() -> usize {
    const USUAL: usize = 80;
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(USUAL, |size| usize::from(size.ws_col).max(USUAL))
}

/// Prints rows with a column of spaces between cells. No line ends in a space.
pub fn text(columns: &[Align], rows: &[Vec<Cell>], color: bool) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths.get(at).map_or(0, |w| w - cell.text.chars().count()));
            let style = cell.style;
            let shown = if color { format!("{style}{}{style:#}", cell.text) } else { cell.text.clone() };
            if at > 0 {
                line.push_str("  ");
            }
            match columns.get(at) {
                Some(Align::Right) => line.push_str(&(padding + &shown)),
                _ => line.push_str(&(shown + &padding)),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The narrowest that a text is cut to, in characters.
pub const SHORT: usize = 14;

/// At most `length` characters of `text`.
pub fn clip(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// What is done to a table that is too wide, in this order and no more than it takes. Columns are counted from 0.
#[derive(Clone, Copy, Debug)]
pub struct Fit<'a> {
    /// What the table may be wide, in characters.
    pub width: usize,
    /// Columns that go, whatever they say.
    pub spare: &'a [usize],
    /// Columns that go if they say the same in every row; a line above says it instead.
    pub same: &'a [usize],
    /// Columns whose texts are cut, the longest first, none below [`SHORT`].
    pub cut: &'a [usize],
}

impl<'a> Fit<'a> {
    /// Columns of `texts` go if they say the same in every row; then those that are left are cut.
    pub fn texts(width: usize, texts: &'a [usize]) -> Self {
        Self { width, spare: &[], same: texts, cut: texts }
    }
}

/// The table as [`text`] prints it, made to fit if need be.
///
/// The first row is the heading; each row has all columns.
pub fn fitted(columns: &[Align], mut rows: Vec<Vec<Cell>>, fit: &Fit<'_>, color: bool) -> String {
    let breadth =
        |rows: &[Vec<Cell>], at: usize| rows.iter().map(|row| row[at].text.chars().count()).max().unwrap_or(0);
    let is_wide = |rows: &[Vec<Cell>], kept: &[usize]| {
        kept.iter().map(|&at| breadth(rows, at) + 2).sum::<usize>().saturating_sub(2) > fit.width
    };
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    for &at in fit.spare {
        if is_wide(&rows, &kept) {
            kept.retain(|&other| other != at);
        }
    }
    let mut above = Vec::new();
    for &at in fit.same {
        let Some((heading, body)) = rows.split_first() else { break };
        let same = body.len() > 1 && body.iter().all(|row| row[at].text == body[0][at].text);
        if same && is_wide(&rows, &kept) {
            above.push(format!("{} {}", heading[at].text, body[0][at].text));
            kept.retain(|&other| other != at);
        }
    }
    while is_wide(&rows, &kept) {
        let longest = fit.cut.iter().copied().filter(|at| kept.contains(at)).max_by_key(|&at| breadth(&rows, at));
        let Some(at) = longest.filter(|&at| breadth(&rows, at) > SHORT) else { break };
        let length = breadth(&rows, at) - 1;
        rows.iter_mut().for_each(|row| row[at].text = clip(&row[at].text, length));
    }
    let aligns: Vec<Align> = kept.iter().map(|&at| columns[at]).collect();
    let rows: Vec<Vec<Cell>> = rows.iter().map(|row| kept.iter().map(|&at| row[at].clone()).collect()).collect();
    let above = if above.is_empty() { String::new() } else { format!("in every row: {}\n", above.join(", ")) };
    above + &text(&aligns, &rows, color)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "number".into(), "x".into()], vec!["long".into(), "1".into(), "".into()]];
        let text = text(&[Align::Left, Align::Right, Align::Left], &rows, false);
        assert_eq!(text, "a     number  x\nlong       1\n");
    }

    #[test]
    fn a_table_is_made_to_fit() {
        let row = |cells: [&str; 3]| cells.map(Cell::from).to_vec();
        let rows =
            vec![row(["n", "who", "what"]), row(["1", "all of them", "x"]), row(["2", "all of them", "a longer text"])];
        let aligns = [Align::Right, Align::Left, Align::Left];
        let fit = |width| fitted(&aligns, rows.clone(), &Fit::texts(width, &[1, 2]), false);
        assert_eq!(fit(29), text(&aligns, &rows, false), "it fits");
        assert_eq!(fit(28), "in every row: who all of them\nn  what\n1  x\n2  a longer text\n");
        // No text is cut to less than its least.
        assert_eq!(fit(5), fit(28));
        let rows = vec![row(["n", "who", "what"]), row(["1", "a", "twenty characters ..."]), row(["2", "b", "x"])];
        let cut = fitted(&aligns, rows, &Fit::texts(22, &[1, 2]), false);
        assert_eq!(cut, "n  who  what\n1  a    twenty charac…\n2  b    x\n");
    }

    #[test]
    fn a_table_loses_no_more_than_it_must() {
        let row = |cells: [&str; 4]| cells.map(Cell::from).to_vec();
        let (first, second) = (["one", "pass", "4", "twenty characters ..."], ["two", "fail", "4", "x"]);
        let rows = vec![row(["who", "wanted", "n", "seen"]), row(first), row(second)];
        let fit = |width| {
            let fit = Fit { width, spare: &[1], same: &[2, 0], cut: &[3] };
            fitted(&[Align::Left; 4], rows.clone(), &fit, false)
        };
        let all = text(&[Align::Left; 4], &rows, false);
        assert_eq!(fit(37), all, "it fits");
        let spared = "who  n  seen\none  4  twenty characters ...\ntwo  4  x\n";
        assert_eq!((fit(36), fit(29)), (spared.to_owned(), spared.to_owned()));
        let folded = "in every row: n 4\nwho  seen\none  twenty characters ...\ntwo  x\n";
        assert_eq!((fit(28), fit(26)), (folded.to_owned(), folded.to_owned()));
        assert_eq!(fit(25), folded.replace("...", ".…"));
    }
}
