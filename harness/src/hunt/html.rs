// SPDX-License-Identifier: GPL-2.0-only
//! The report as a page to look at: one file that needs no other.
//!
//! The page has the JSON report in it and draws from that; see `page.html`.

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
    // A console can have any text in it, and `</script>` would end the script in any string.
    let json = serde_json::to_string(report)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(MARK, &json, 1))
}
