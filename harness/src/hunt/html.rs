// SPDX-License-Identifier: GPL-2.0-only
//! The report as a self-contained HTML page.
//!
//! The page contains the JSON report and renders it; see `page.html`.

use super::report::Report;

/// The page; [`MARK`] stands for the report.
const PAGE: &str = include_str!("page.html");
/// Where the report goes.
const MARK: &str = "/*REPORT*/null";

/// The page for `report`.
///
/// # Errors
/// When the report cannot be written as JSON.
pub fn page(report: &Report) -> serde_json::Result<String> {
    // A console can contain any text, and `</script>` would end the script even inside a string.
    let json = serde_json::to_string(report)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(MARK, &json, 1))
}
