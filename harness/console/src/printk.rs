// SPDX-License-Identifier: GPL-2.0-only
//! What `printk()` puts in front of a message, and messages that share a line of the console.
//!
//! The format is the kernel's `print_prefix()` (kernel/printk/printk.c): `<LEVEL>` when raw,
//! `[SECONDS.MICROSECONDS]` with `CONFIG_PRINTK_TIME`, `[TTHREAD]` or `[CCPU]` with
//! `CONFIG_PRINTK_CALLER`, and a space.

/// What is in brackets in front of a message is shorter than this, in bytes: 20 digits of seconds, 6 of microseconds.
const LONGEST: usize = 40;

/// A message, or what is left of one, on a line of the console.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece<'a> {
    /// Seconds since boot, if the message carries a time stamp.
    pub stamp: Option<f64>,
    /// The level, 0 (emergency) to 7 (debug), if the message carries one.
    pub level: Option<u8>,
    /// The message without its prefix; trailing white space is removed, leading white space is kept.
    pub text: &'a str,
    /// The line continues with another message: the end of this one may be missing.
    pub torn: bool,
}

/// Splits a line of the console.
///
/// Programs that write to the tty directly are not ordered with kernel messages, so a kernel message
/// can start anywhere in a line. Therefore every time stamp starts a new piece.
pub fn pieces(line: &str) -> Vec<Piece<'_>> {
    let (mut level, line) = strip_level(line.trim_end());
    let mut found: Vec<Piece<'_>> = Vec::new();
    let mut stamp = None;
    let mut start = 0;
    let mut at = 0;
    while let Some(offset) = line[at..].find('[') {
        let open = at + offset;
        let Some((seconds, length)) = prefix(&line[open..]) else {
            at = open + 1;
            continue;
        };
        if open > 0 {
            let (text, next) = strip_trailing_level(&line[start..open]);
            let text = text.trim_end();
            if !text.is_empty() || stamp.is_some() {
                found.push(Piece { stamp, level, text, torn: true });
            }
            level = next;
        }
        stamp = Some(seconds);
        start = open + length;
        at = start;
    }
    found.push(Piece { stamp, level, text: &line[start..], torn: false });
    found
}

/// Time stamp in seconds and length of the prefix of `text`, which begins with `[`: the time stamp, the caller, a
/// space.
pub(crate) fn prefix(text: &str) -> Option<(f64, usize)> {
    let inside = &text[1..closing(text)?];
    let (seconds, micros) = inside.trim_start().split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    // `%5lu.%06lu`: anything else in brackets is part of a message.
    if !digits(seconds) || !digits(micros) || micros.len() != 6 {
        return None;
    }
    let value = inside.trim_start().parse().ok()?;
    let mut length = inside.len() + 2;
    length += caller(&text[length..]);
    if text[length..].starts_with(' ') {
        length += 1;
    } else if length < text.len() {
        return None;
    }
    Some((value, length))
}

/// Where the first bracket closes. All of a prefix is short, and a line may have any number of brackets.
fn closing(text: &str) -> Option<usize> {
    text.bytes().take(LONGEST).position(|byte| byte == b']')
}

/// Length of `[   T123]` or `[  C0]`, which `dmesg` separates from the time by a space.
fn caller(text: &str) -> usize {
    let space = usize::from(text.starts_with(" ["));
    let text = &text[space..];
    let Some(inside) = closing(text).filter(|_| text.starts_with('[')).map(|end| &text[1..end]) else { return 0 };
    let word = inside.trim_start();
    let number = word.strip_prefix(['T', 'C']).unwrap_or_default();
    if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) { space + inside.len() + 2 } else { 0 }
}

/// Removes `<6>` from the start, and returns the level.
fn strip_level(text: &str) -> (Option<u8>, &str) {
    let Some((level, rest)) = text.strip_prefix('<').and_then(|t| t.split_once('>')) else { return (None, text) };
    match read_level(level) {
        Some(level) => (Some(level), rest),
        None => (None, text),
    }
}

/// Removes the `<6>` of the following message from the end, and returns the level.
fn strip_trailing_level(text: &str) -> (&str, Option<u8>) {
    let Some(open) = text.rfind('<') else { return (text, None) };
    match text[open + 1..].strip_suffix('>').and_then(read_level) {
        Some(level) => (&text[..open], Some(level)),
        None => (text, None),
    }
}

/// The level in syslog's priority, whose upper bits are the facility.
fn read_level(digits: &str) -> Option<u8> {
    let number = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| digits.parse::<u16>().ok().map(|n| (n & 7) as u8)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<&str> {
        pieces(line).into_iter().map(|p| p.text).collect()
    }

    #[test]
    fn prefixes_of_all_configurations_are_removed() {
        for line in [
            "ok 1 a",
            "[    1.234567] ok 1 a",
            "<6>[    1.234567] ok 1 a\r",
            "[    1.234567][    T1] ok 1 a",
            "[    1.234567] [    T1] ok 1 a",
            "[12345.234567][   C12] ok 1 a  ",
            "<14>ok 1 a",
        ] {
            assert_eq!(texts(line), ["ok 1 a"], "{line}");
        }
        assert_eq!(pieces("[   12.500000] x")[0].stamp, Some(12.5));
        assert_eq!(texts("[    1.234567]     ok 1 a"), ["    ok 1 a"]);
        assert_eq!(texts("[    1.234567]"), [""]);
    }

    #[test]
    fn other_brackets_stay() {
        for line in ["[ffffffff80002048] do_trap+0x1", "[1.2] a", "x [<ffff>] y", "[ 1.1234567] a", "a[", "[", "<b>c"] {
            assert_eq!(texts(line), [line]);
        }
        for line in ["<1234>c", "<+1>c", "<>c"] {
            assert_eq!(texts(line), [line]);
        }
        // Numbers, but not as the kernel prints them.
        for line in ["[+1.123456] a", "[.123456] a", "[1.1234e1] a", "[1.-12345] a", "[ 1.12345] a"] {
            assert_eq!(texts(line), [line]);
        }
    }

    #[test]
    fn a_message_inside_a_line_is_a_piece_of_its_own() {
        let found = pieces("[    1.000000] ok 1 fi<4>[    1.000100][    T7] random: crng init done");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].text, found[0].torn), ("ok 1 fi", true));
        assert_eq!((found[1].text, found[1].torn), ("random: crng init done", false));
        let found = pieces("# tou[    1.000100] x");
        assert_eq!((found[0].text, found[0].stamp, found[0].torn), ("# tou", None, true));
    }

    #[test]
    fn levels_are_kept() {
        let level = |line: &str| pieces(line).last().and_then(|p| p.level);
        assert_eq!(level("<3>[    1.000000] x"), Some(3));
        assert_eq!(level("<14>x"), Some(6));
        assert_eq!(level("[    1.000000] x"), None);
        assert_eq!(level("<6>[    1.000000] a<2>[    1.000100] b"), Some(2));
    }

    #[test]
    fn only_a_short_bracket_is_searched_for_its_end() {
        let far = |length: usize| format!("[{}]", "x".repeat(length));
        assert_eq!((closing(&far(10)), closing(&far(100))), (Some(11), None));
        assert_eq!(caller(&format!("[T{}]", "1".repeat(100))), 0);
        for line in ["[".repeat(10_000), format!("{}x", "[    1.000000][".repeat(1_000)), "[é".repeat(40)] {
            assert_eq!(texts(&line), [line.as_str()]);
        }
    }
}
