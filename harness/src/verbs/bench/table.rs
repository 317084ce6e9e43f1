// SPDX-License-Identifier: GPL-2.0-only
//! The figures as tables, for the terminal and for the page.

use super::figures::{Figures, Place};
use crate::ground::table::{self, Align, Cell};

/// The heading. Counts are medians over the runs, with the least and the most in brackets.
const HEADING: [&str; 11] = [
    "workload",
    "kernel",
    "announced",
    "fences: harts that map",
    "others",
    "needless per announcement",
    "spurious faults",
    "IPIs",
    "remote fences",
    "instructions",
    "time",
];

/// The rows of a machine, the heading first: for each workload each kernel.
pub fn rows(place: &Place) -> Vec<Vec<String>> {
    let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
    for (_, workload, _) in super::counts::workloads(place.harts <= super::LONG_HARTS) {
        for measured in &place.kernels {
            let cells = match place.find(measured.kernel, workload) {
                Some(figures) => cells(figures),
                None => vec!["-".to_owned(); HEADING.len() - 2],
            };
            rows.push([vec![workload.to_owned(), measured.kernel.to_owned()], cells].concat());
        }
    }
    rows
}

fn cells(figures: &Figures) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let faults = figures.mapping.spurious_faults.median + figures.others.spurious_faults.median;
    vec![
        figures.announcements.to_string(),
        figures.mapping.fences.to_string(),
        figures.others.fences.to_string(),
        or_none(figures.per_announcement().map(|n| format!("{n:.3}"))),
        faults.to_string(),
        figures.ipis.to_string(),
        figures.remote_fences.to_string(),
        or_none(figures.instructions_ratio.map(|ratio| ratio.to_string())),
        or_none(figures.time_ratio.map(|ratio| ratio.to_string())),
    ]
}

/// What a machine is called above its table.
pub fn title(place: &Place) -> String {
    format!("{} hart{} of the machine {}", place.harts, if place.harts == 1 { "" } else { "s" }, place.machine)
}

/// The rows for a terminal.
pub fn text(place: &Place) -> String {
    let mut columns = [Align::Right; HEADING.len()];
    columns[..2].fill(Align::Left);
    let cells = |row: Vec<String>| row.into_iter().map(Cell::from).collect();
    let rows: Vec<Vec<Cell>> = rows(place).into_iter().map(cells).collect();
    format!("{}:\n{}", title(place), table::text(&columns, &rows, false))
}

#[cfg(test)]
mod tests {
    use super::super::figures::Measured;
    use super::super::figures::tests::{measured, place};
    use super::*;

    #[test]
    fn a_row_has_all_figures_of_a_kernel() {
        let lost = Measured { kernel: "preventive", figures: Err("it died".to_owned()) };
        let text = text(&place(vec![measured("series", 70, 1250), lost]));
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[0], ["2 harts of the machine stale:"]);
        assert_eq!(lines[1], HEADING);
        let row = |workload: &str, kernel: &str| {
            lines.iter().find(|l| l.starts_with(&[workload, kernel])).unwrap()[2..].to_vec()
        };
        assert_eq!(row("bpf-maps", "series"), ["401", "399", "70", "0.175", "199", "2", "0", "1.25", "1.25"]);
        assert_eq!(row("bpf-maps", "preventive"), ["-"; 9]);
        assert_eq!(lines.len(), 2 + 10 * 2);
    }
}
