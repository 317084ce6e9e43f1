// SPDX-License-Identifier: GPL-2.0-only
//! What a user may have meant by a name that does not exist.

/// How like a name must be to be offered, from 0 to 1 (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// The name that is most like `given`, if one is like it at all.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let rated = names.into_iter().map(|name| (strsim::jaro_winkler(given, name), name));
    let best = rated.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| name)
}

/// What to say after "there is no such name": `did you mean X`, or all names.
pub fn hint<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match nearest(given, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`"),
        None => format!("choose from {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognized_and_nonsense_is_not() {
        let names = ["default", "sv39", "hotplug", "kasan-vmalloc"];
        assert_eq!(nearest("defualt", names), Some("default"));
        assert_eq!(nearest("sv-39", names), Some("sv39"));
        assert_eq!(nearest("kasan-vmaloc", names), Some("kasan-vmalloc"));
        assert_eq!(nearest("xyzzy", names), None);
        assert_eq!(hint("xyzzy", ["a", "b"]), "choose from a, b");
        assert_eq!(hint("hotplgu", names), "did you mean `hotplug`");
    }
}
