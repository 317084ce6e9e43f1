// SPDX-License-Identifier: GPL-2.0-only
//! Figures against the number of harts, as SVG that needs no other file.

use std::fmt::Write as _;

use super::figures::{Figures, Place};

/// What a plot shows of a kernel in a workload.
pub type Value = fn(&Figures) -> Option<f64>;

/// The picture in pixels: a plot, and what surrounds it.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 34.0;
/// How many plots are side by side.
const COLUMNS: usize = 3;
/// Height of the line with the kernels' names.
const LEGEND: f64 = 30.0;
/// A colour for each kernel, in their order: colours that differ in print and for most eyes.
const COLOURS: [&str; 6] = ["#1f6f8b", "#d1495b", "#e0a100", "#5b3f8c", "#4f9d69", "#777777"];
/// Text is readable on a light and on a dark page.
const STYLE: &str = "<style>svg { color: #222 } @media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>\n";
/// What is 0 is drawn as if it were this: a logarithm of 0 has no place.
const FLOOR: f64 = 0.01;

/// The scale of a plot's vertical axis, from 0 to 1.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Whole decades around all values.
    fn new(values: &[f64]) -> Self {
        let of = |value: f64| value.max(FLOOR).log10();
        let low = values.iter().copied().map(of).fold(0.0, f64::min).floor();
        let high = values.iter().copied().map(of).fold(0.0, f64::max).ceil();
        Self { low, high: high.max(low + 1.0) }
    }

    fn place(&self, value: f64) -> f64 {
        (value.max(FLOOR).log10() - self.low) / (self.high - self.low)
    }

    fn decades(&self) -> impl Iterator<Item = i32> {
        self.low as i32..=self.high as i32
    }
}

/// The points of a kernel: harts and values. Machines with another name than the first are drawn
/// as single points, as there are few of them.
fn points(places: &[Place], machine: &str, kernel: &str, workload: &str, value: Value) -> Vec<(u32, f64)> {
    let here = places.iter().filter(|place| place.machine == machine);
    here.filter_map(|place| Some((place.harts, value(place.find(kernel, workload)?)?))).collect()
}

/// A plot for each workload. `kernels` are drawn in their order.
pub fn svg(title: &str, places: &[Place], kernels: &[&str], workloads: &[&str], value: Value) -> String {
    let mut machines: Vec<&str> = places.iter().map(|place| place.machine.as_str()).collect();
    machines.dedup();
    let mut harts: Vec<u32> = places.iter().map(|place| place.harts).collect();
    harts.sort_unstable();
    harts.dedup();
    let most = harts.last().copied().unwrap_or(1).max(2);
    let (across, down) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
    let columns = workloads.len().clamp(1, COLUMNS);
    let (width, height) = (across * columns as f64, LEGEND + down * workloads.len().div_ceil(columns) as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
         aria-label=\"{title}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\">\n{STYLE}"
    );
    for (at, kernel) in kernels.iter().enumerate() {
        let x = LEFT + 150.0 * at as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"8\" width=\"12\" height=\"12\" fill=\"{}\"/>\n<text x=\"{:.0}\" y=\"18\">{kernel}</text>",
            COLOURS[at % COLOURS.len()],
            x + 18.0
        );
    }
    for (at, workload) in workloads.iter().enumerate() {
        let (left, top) = (LEFT + across * (at % columns) as f64, LEGEND + TOP + down * (at / columns) as f64);
        let all: Vec<f64> = kernels
            .iter()
            .flat_map(|kernel| machines.iter().flat_map(move |m| points(places, m, kernel, workload, value)))
            .map(|(_, value)| value)
            .collect();
        let scale = Scale::new(&all);
        let x = |harts: u32| left + WIDTH * f64::from(harts).log2() / f64::from(most).log2();
        let y = |value: f64| top + HEIGHT * (1.0 - scale.place(value));
        let _ = writeln!(svg, "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{workload}</text>", top - 12.0);
        for decade in scale.decades() {
            let value = 10_f64.powi(decade);
            let label = if value <= FLOOR { "0".to_owned() } else { value.to_string() };
            let _ = writeln!(
                svg,
                "<path d=\"M{left:.0} {0:.1}H{1:.0}\" stroke=\"#888\" stroke-opacity=\".4\"/>\n\
                 <text x=\"{2:.0}\" y=\"{3:.1}\" text-anchor=\"end\">{label}</text>",
                y(value),
                left + WIDTH,
                left - 6.0,
                y(value) + 4.0
            );
        }
        for number in &harts {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{number}</text>",
                x(*number),
                top + HEIGHT + 18.0
            );
        }
        for (at, kernel) in kernels.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            for (nth, machine) in machines.iter().enumerate() {
                let points = points(places, machine, kernel, workload, value);
                if nth == 0 && points.len() > 1 {
                    let line: Vec<String> = points.iter().map(|(h, v)| format!("{:.1},{:.1}", x(*h), y(*v))).collect();
                    let _ = writeln!(
                        svg,
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                        line.join(" ")
                    );
                }
                for (harts, value) in points {
                    let fill = if nth == 0 { colour } else { "none" };
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{fill}\" stroke=\"{colour}\"/>",
                        x(harts),
                        y(value)
                    );
                }
            }
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
pub mod tests {
    use super::super::figures::Measured;
    use super::super::figures::tests::{measured, place};
    use super::*;

    /// Names of elements in order, if each that is opened is closed and all attributes are quoted.
    pub fn elements(xml: &str) -> Result<Vec<String>, String> {
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

    /// A machine of 2 harts and one of 8, and another of 8.
    pub fn places() -> Vec<Place> {
        let at = |harts, machine: &str, fences| Place {
            harts,
            machine: machine.to_owned(),
            ..place(vec![
                measured("series", fences, 1000),
                measured("mainline", 0, 2000),
                Measured { kernel: "preventive", figures: Err("a < b".to_owned()) },
            ])
        };
        vec![at(2, "stale", 40), at(8, "stale", 400_000), at(8, "stale-sbi", 4)]
    }

    #[test]
    fn the_picture_is_well_formed_and_has_each_figure() {
        let kernels = ["series", "mainline", "preventive"];
        let svg = svg("Fences", &places(), &kernels, &["bpf-maps", "none"], Figures::per_announcement);
        let all = elements(&svg).unwrap();
        let count = |name: &str| all.iter().filter(|element| *element == name).count();
        assert_eq!((all[0].as_str(), count("polyline"), count("circle"), count("rect")), ("svg", 2, 6, 3));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(elements(&super::svg("x", &[], &[], &[], Figures::per_announcement)).is_ok());
        assert!(elements("<svg><text x=1></text></svg>").is_err() && elements("<a><b></a></b>").is_err());
    }

    #[test]
    fn more_is_higher_and_within_the_picture() {
        let svg = svg("Fences", &places(), &["series"], &["bpf-maps"], Figures::per_announcement);
        let number = |part: &str, name: &str| -> f64 {
            part.split_once(&format!("{name}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()
        };
        let at: Vec<(f64, f64)> = svg.split("<circle ").skip(1).map(|c| (number(c, "cx"), number(c, "cy"))).collect();
        assert!(at[0].0 < at[1].0 && at[1].1 < at[0].1 && at[0].1 < at[2].1, "{at:?}");
        assert!(at.iter().all(|(x, y)| (LEFT..=LEFT + WIDTH).contains(x) && (TOP..=TOP + LEGEND + HEIGHT).contains(y)));
    }
}
