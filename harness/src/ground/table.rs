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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "number".into(), "x".into()], vec!["long".into(), "1".into(), "".into()]];
        let text = text(&[Align::Left, Align::Right, Align::Left], &rows, false);
        assert_eq!(text, "a     number  x\nlong       1\n");
    }
}
