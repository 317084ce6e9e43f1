// SPDX-License-Identifier: GPL-2.0-only
//! The figures as a table, for the terminal and for the page.

use super::FIRST;
use super::figures::{Figures, HartFigures, Measured, Role, find, ratio};
use crate::ground::table::{self, Align, Cell};

/// The rows, the heading first: a kernel each, and what the announcements added on each hart as
/// `FENCES (SPURIOUS FAULTS)`.
pub fn rows(measured: &[Measured]) -> Vec<Vec<String>> {
    let first = measured.iter().find_map(|m| m.figures.as_ref().ok());
    let harts: Vec<String> = first.iter().flat_map(|figures| ordered(figures)).map(heading).collect();
    let mut rows = vec![line("kernel", "announcements", &harts, "all victims", &format!("of {FIRST}"))];
    let base = find(measured, FIRST);
    for Measured { kernel, figures } in measured {
        let Ok(figures) = figures else {
            rows.push(line(kernel, "-", &vec!["-".to_owned(); harts.len()], "-", "-"));
            continue;
        };
        let cell = |hart: &HartFigures| cell(&hart.added.fences, hart.added.spurious_faults.median);
        let all: Vec<String> = ordered(figures).into_iter().map(cell).collect();
        let victims = self::cell(&figures.victims.fences, figures.victims.spurious_faults.median);
        let ratio = base.and_then(|base| ratio(figures, base));
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        rows.push(line(kernel, &figures.announcements.to_string(), &all, &victims, &ratio));
    }
    rows
}

/// The rows for a terminal.
pub fn text(measured: &[Measured]) -> String {
    let rows = rows(measured);
    let mut columns = vec![Align::Right; rows.first().map_or(0, Vec::len)];
    columns.iter_mut().take(1).for_each(|column| *column = Align::Left);
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|row| row.into_iter().map(Cell::from).collect()).collect();
    table::text(&columns, &rows, false)
}

/// The harts with the victims first.
fn ordered(figures: &Figures) -> Vec<&HartFigures> {
    let of = |role: Role| figures.harts.iter().filter(move |hart| hart.role == role);
    of(Role::Victim).chain(of(Role::Producer)).collect()
}

fn heading(hart: &HartFigures) -> String {
    match hart.role {
        Role::Victim => format!("hart {}", hart.hart),
        Role::Producer => format!("hart {}, producer", hart.hart),
    }
}

fn cell(fences: &impl ToString, faults: i64) -> String {
    format!("{} ({faults})", fences.to_string())
}

fn line(kernel: &str, announcements: &str, harts: &[String], victims: &str, ratio: &str) -> Vec<String> {
    let mut line = vec![kernel.to_owned(), announcements.to_owned()];
    line.extend_from_slice(harts);
    line.extend([victims.to_owned(), ratio.to_owned()]);
    line
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::measured;
    use super::*;

    #[test]
    fn a_row_has_each_hart_and_the_ratio() {
        let lost = Measured { kernel: "preventive", figures: Err("it died".to_owned()) };
        let text = text(&[measured("series", [70, 5], 4), lost, measured(FIRST, [100, 50], 9)]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let heading = ["kernel", "announcements", "hart 0", "hart 1", "hart 2, producer", "all victims"];
        assert_eq!(lines[0][..6], heading);
        assert_eq!(lines[1], ["series", "1200", "70 (0)", "5 (4)", "1200 (1100)", "75 (4)", "0.50"]);
        assert_eq!(lines[2], ["preventive", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(lines[3][6], "1.00");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn nothing_measured_is_a_table_too() {
        let lost = Measured { kernel: "series", figures: Err("it died".to_owned()) };
        assert_eq!(rows(&[lost])[1], ["series", "-", "-", "-"]);
    }
}
