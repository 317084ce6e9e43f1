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

/// The table as [`text`] prints it, made to fit into `width` characters if need be: columns of `texts` that say the same
/// in every row go, and a line above says it instead; then texts are cut, the longest first, none below [`SHORT`].
///
/// The first row is the heading; each row has all columns.
pub fn fitted(columns: &[Align], mut rows: Vec<Vec<Cell>>, texts: &[usize], width: usize) -> String {
    let breadth =
        |rows: &[Vec<Cell>], at: usize| rows.iter().map(|row| row[at].text.chars().count()).max().unwrap_or(0);
    let total = |rows: &[Vec<Cell>], kept: &[usize]| {
        kept.iter().map(|&at| breadth(rows, at) + 2).sum::<usize>().saturating_sub(2)
    };
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let mut above = Vec::new();
    for &at in texts {
        let Some((heading, body)) = rows.split_first() else { break };
        let same = body.len() > 1 && body.iter().all(|row| row[at].text == body[0][at].text);
        if same && total(&rows, &kept) > width {
            above.push(format!("{} {}", heading[at].text, body[0][at].text));
            kept.retain(|&other| other != at);
        }
    }
    while total(&rows, &kept) > width {
        let longest = texts.iter().copied().filter(|at| kept.contains(at)).max_by_key(|&at| breadth(&rows, at));
        let Some(at) = longest.filter(|&at| breadth(&rows, at) > SHORT) else { break };
        let length = breadth(&rows, at) - 1;
        rows.iter_mut().for_each(|row| row[at].text = clip(&row[at].text, length));
    }
    let aligns: Vec<Align> = kept.iter().map(|&at| columns[at]).collect();
    let rows: Vec<Vec<Cell>> = rows.iter().map(|row| kept.iter().map(|&at| row[at].clone()).collect()).collect();
    let above = if above.is_empty() { String::new() } else { format!("in every row: {}\n", above.join(", ")) };
    above + &text(&aligns, &rows, false)
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
        let fit = |width| fitted(&aligns, rows.clone(), &[1, 2], width);
        assert_eq!(fit(29), text(&aligns, &rows, false), "it fits");
        assert_eq!(fit(28), "in every row: who all of them\nn  what\n1  x\n2  a longer text\n");
        // No text is cut to less than its least.
        assert_eq!(fit(5), fit(28));
        let rows = vec![row(["n", "who", "what"]), row(["1", "a", "twenty characters ..."]), row(["2", "b", "x"])];
        let cut = fitted(&aligns, rows, &[1, 2], 22);
        assert_eq!(cut, "n  who  what\n1  a    twenty charac…\n2  b    x\n");
    }
}
