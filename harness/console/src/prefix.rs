// SPDX-License-Identifier: GPL-2.0-only
//! What loggers put in front of the lines of a console: dates, host names, LAVA's records, quotation marks.
//!
//! A prefix counts only if most lines of the console have it, so that no message loses its beginning. What is in
//! front of the kernel's own time stamp is removed here, the stamp itself in [`crate::printk`].

use std::borrow::Cow;
use std::str::Chars;

use crate::printk;

/// How many prefixes may stand in front of each other.
const DEEPEST: usize = 6;
/// What syslog and the journal call the kernel.
const KERNEL: &str = "kernel: ";
/// The kernel's first message.
const FIRST: &str = "Linux version ";

/// A way to remove a prefix from a line; `None` if the line does not have it.
type Strip = fn(&str) -> Option<Cow<'_, str>>;

/// The prefixes that are known by their form.
const FORMS: &[Strip] =
    &[lava, record, decoded, quoted, bracketed, date_first, syslog_date, android, clock, seconds, numbered, gitlab];

/// The prefixes of a console, outermost first.
#[derive(Debug, Default)]
pub struct Prefixes {
    found: Vec<Found>,
}

#[derive(Debug)]
enum Found {
    /// Known by its form.
    Form(Strip),
    /// A host name and the name of a program, as syslog has them; the host is always the same.
    Host(String),
    /// The same behind a time stamp like the kernel's.
    Monotonic(String),
    /// Always the same text.
    Text(String),
}

impl Prefixes {
    /// Finds out which prefixes the lines of `text` have.
    pub fn of(text: &str) -> Self {
        let mut lines: Vec<Cow<'_, str>> = text.split('\n').map(clean).filter(|line| !line.trim().is_empty()).collect();
        let mut prefixes = Self::default();
        while prefixes.found.len() < DEEPEST {
            let dated = matches!(prefixes.found.last(), Some(Found::Form(_)));
            let found = form(&lines).or_else(|| dated.then(|| host(&lines)).flatten());
            let Some(found) = found.or_else(|| monotonic(&lines)).or_else(|| fixed(&lines)) else { break };
            lines = lines.into_iter().map(|line| found.strip(&line).unwrap_or(line.into_owned().into())).collect();
            lines.retain(|line| !line.trim().is_empty());
            prefixes.found.push(found);
        }
        prefixes
    }

    /// A line without its prefixes, colours and cursor movements.
    pub fn strip<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let mut line = clean(line);
        for found in &self.found {
            if let Some(rest) = found.strip(&line) {
                line = Cow::Owned(rest.into_owned());
            }
        }
        line
    }
}

impl Found {
    fn strip(&self, line: &str) -> Option<Cow<'static, str>> {
        match self {
            Self::Form(strip) => strip(line).map(|rest| Cow::Owned(rest.into_owned())),
            Self::Host(host) => tagged(line.strip_prefix(host.as_str())?).map(|rest| Cow::Owned(rest.to_owned())),
            Self::Monotonic(host) => {
                let (stamp, rest) = stamped(line)?;
                let rest = rest.strip_prefix(host.as_str())?;
                let message = tagged(rest)?;
                // Only the kernel's messages have a stamp of their own.
                let stamp = if rest.starts_with(KERNEL) { stamp } else { "" };
                Some(Cow::Owned(format!("{stamp}{message}")))
            }
            Self::Text(text) => line.strip_prefix(text.as_str()).map(|rest| Cow::Owned(rest.to_owned())),
        }
    }
}

/// The form that most lines have.
fn form(lines: &[Cow<'_, str>]) -> Option<Found> {
    let count = |strip: &Strip| lines.iter().filter(|line| strip(line).is_some()).count();
    let best = FORMS.iter().map(|strip| (count(strip), strip)).max_by_key(|(count, _)| *count)?;
    most(best.0, lines.len()).then_some(Found::Form(*best.1))
}

/// The host that most lines name, if they look like those of syslog without the date.
fn host(lines: &[Cow<'_, str>]) -> Option<Found> {
    let (first, _) = lines.iter().find(|line| line.contains(FIRST)).or(lines.first())?.split_once(' ')?;
    let host = format!("{first} ");
    let count =
        lines.iter().filter(|line| line.strip_prefix(host.as_str()).is_some_and(|l| tagged(l).is_some())).count();
    most(count, lines.len()).then_some(Found::Host(host))
}

/// The host that most lines name behind their time stamp, as `journalctl -o short-monotonic` prints them.
fn monotonic(lines: &[Cow<'_, str>]) -> Option<Found> {
    let (_, rest) = lines.iter().filter(|line| line.contains(FIRST)).find_map(|line| stamped(line))?;
    let (host, rest) = rest.split_once(' ')?;
    if !rest.starts_with(KERNEL) {
        return None;
    }
    let found = Found::Monotonic(format!("{host} "));
    let count = lines.iter().filter(|line| found.strip(line).is_some()).count();
    most(count, lines.len()).then_some(found)
}

/// `[    1.234567] `, and what follows.
fn stamped(line: &str) -> Option<(&str, &str)> {
    let mut at = Reader(line);
    at.text("[")?;
    at.all(|c| c == ' ');
    at.digits(1, 10)?;
    at.text(".")?;
    at.digits(6, 6)?;
    at.text("] ")?;
    Some(line.split_at(line.len() - at.0.len()))
}

/// What stands in front of the kernel's first message, if most lines have it.
fn fixed(lines: &[Cow<'_, str>]) -> Option<Found> {
    let line = lines.iter().find(|line| line.contains(FIRST))?;
    let before = &line[..line.find(FIRST)?];
    // The kernel's own stamp differs from line to line.
    let text = before[..before.find(['[', '<']).unwrap_or(before.len())].to_owned();
    let count = lines.iter().filter(|line| line.starts_with(text.as_str())).count();
    (!text.trim().is_empty() && most(count, lines.len())).then_some(Found::Text(text))
}

fn most(count: usize, of: usize) -> bool {
    count * 2 > of
}

/// Removes escape sequences of terminals (ECMA-48), NUL bytes, and what LF CR or a byte-order mark leaves at the start.
fn clean(line: &str) -> Cow<'_, str> {
    let line = line.trim_start_matches(['\r', '\u{feff}']);
    if !line.contains(['\x1b', '\0', '\u{9b}']) {
        return Cow::Borrowed(line);
    }
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\0' => {}
            '\u{9b}' => skip_sequence(&mut chars),
            '\x1b' => match chars.next() {
                Some('[') => skip_sequence(&mut chars),
                // A title, a query and the like.
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                // A character set.
                Some('(' | ')' | '#') => drop(chars.next()),
                _ => {}
            },
            c => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

/// Skips parameters and the letter that ends them. `[` does not: there the kernel interrupts whoever writes.
fn skip_sequence(chars: &mut Chars<'_>) {
    let rest = chars.as_str();
    let end = rest.find(|c: char| c == '[' || ('\x40'..='\x7e').contains(&c)).unwrap_or(rest.len());
    let letter = rest[end..].chars().next().filter(|c| *c != '[');
    *chars = rest[end + letter.map_or(0, char::len_utf8)..].chars();
}

/// Skips a string up to BEL or ESC \, or up to the time stamp with which the kernel interrupts it.
fn skip_string(chars: &mut Chars<'_>) {
    let rest = chars.as_str();
    let ends = [rest.find('\x07').map(|at| at + 1), rest.find("\x1b\\").map(|at| at + 2)];
    let end = ends.into_iter().flatten().min().unwrap_or(rest.len());
    let mut brackets = rest[..end].match_indices('[').map(|(at, _)| at);
    let stamp = brackets.find(|at| printk::prefix(&rest[*at..]).is_some());
    *chars = rest[stamp.unwrap_or(end)..].chars();
}

/// Reads from the start of a text.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    /// Skips `text`.
    fn text(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Skips characters that fit, and returns them.
    fn all(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c: char| !fits(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Skips a number of so many digits.
    fn digits(&mut self, least: usize, most: usize) -> Option<&'a str> {
        let digits = self.all(|c| c.is_ascii_digit());
        (least..=most).contains(&digits.len()).then_some(digits)
    }

    fn one_of(&mut self, these: &[char]) -> Option<()> {
        self.0 = self.0.strip_prefix(these)?;
        Some(())
    }

    /// `2026-11-28`, also with `/`.
    fn date(&mut self) -> Option<()> {
        self.digits(4, 4)?;
        self.one_of(&['-', '/'])?;
        self.digits(2, 2)?;
        self.one_of(&['-', '/'])?;
        self.digits(2, 2).map(drop)
    }

    /// `19:13:18` with an optional fraction and zone.
    fn clock(&mut self) -> Option<()> {
        self.digits(1, 3)?;
        self.text(":")?;
        self.digits(2, 2)?;
        self.text(":")?;
        self.digits(2, 2)?;
        if self.one_of(&['.', ',']).is_some() {
            self.digits(1, 9)?;
        }
        let zone = self.0;
        if self.text("Z").is_none() && self.one_of(&['+', '-']).is_some() {
            let hours = self.digits(2, 4).is_some() && (self.text(":").is_none() || self.digits(2, 2).is_some());
            if !hours {
                self.0 = zone;
            }
        }
        Some(())
    }

    /// `Nov`.
    fn month(&mut self) -> Option<()> {
        const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
        let name = self.0.get(..3)?;
        MONTHS.match_indices(name).any(|(at, _)| at % 3 == 0).then_some(())?;
        self.text(name)
    }

    /// The blank after a prefix; a line may end without it.
    fn gap(&mut self) -> Option<Cow<'a, str>> {
        if self.0.trim_end().is_empty() {
            return Some(Cow::Borrowed(""));
        }
        self.one_of(&[':', '|']);
        self.one_of(&[' ', '\t'])?;
        // Loggers put one or two blanks there; more are the message's.
        let two = self.0.strip_prefix(' ').filter(|rest| rest.starts_with(['[', '<']));
        Some(Cow::Borrowed(two.unwrap_or(self.0)))
    }
}

/// `2026-11-28T19:13:18.123456+00:00 `, `2026-11-28 19:13:18 ` and the like.
fn date_first(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.date()?;
    at.one_of(&['T', ' ', '_'])?;
    at.clock()?;
    at.gap()
}

/// `19:13:18.123 `.
fn clock(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.clock()?;
    at.gap()
}

/// `12.345678 `: seconds since the start of a logger, or since 1970.
fn seconds(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.all(|c| c == ' ');
    at.digits(1, 10)?;
    at.text(".")?;
    at.digits(1, 9)?;
    at.gap()
}

/// `Nov 28 19:13:18 HOST kernel: `.
fn syslog_date(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.month()?;
    at.all(|c| c == ' ');
    at.digits(1, 2)?;
    at.text(" ")?;
    at.clock()?;
    at.text(" ")?;
    let host = at.all(|c| c != ' ');
    at.text(" ")?;
    if host.is_empty() {
        return None;
    }
    tagged(at.0).map(Cow::Borrowed)
}

/// What follows `kernel: ` or `PROGRAM[123]: `.
fn tagged(text: &str) -> Option<&str> {
    let mut at = Reader(text);
    let tag = at.all(|c| !c.is_whitespace() && c != ':' && c != '[');
    if at.text("[").is_some() {
        at.digits(1, 10)?;
        at.text("]")?;
    }
    at.text(":")?;
    if tag.is_empty() {
        return None;
    }
    Some(at.0.strip_prefix(' ').unwrap_or(at.0))
}

/// `11-28 19:13:18.123   0   0 I kernel  : `, as logcat prints it.
fn android(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.digits(2, 2)?;
    at.text("-")?;
    at.digits(2, 2)?;
    at.text(" ")?;
    at.clock()?;
    for _ in 0..2 {
        at.all(|c| c == ' ');
        at.digits(1, 7)?;
    }
    at.text(" ")?;
    at.one_of(&['V', 'D', 'I', 'W', 'E', 'F'])?;
    at.text(" ")?;
    at.all(|c| c != ':');
    at.text(":")?;
    Some(Cow::Borrowed(at.0.strip_prefix(' ').unwrap_or(at.0)))
}

/// `[Sat Nov 28 19:13:18 2026] ` and other times in brackets that are not the kernel's: those of `dmesg -T`, `-e` and
/// `-d`, of tio, grabserial and others.
fn bracketed(line: &str) -> Option<Cow<'_, str>> {
    let (inside, rest) = line.strip_prefix('[')?.split_once(']')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || " :.,+-/<>_".contains(c);
    if inside.len() > 40 || !inside.chars().all(plain) {
        return None;
    }
    let number = |text: &str| text.parse::<f64>().is_ok();
    let mut words = inside.split_whitespace();
    let first = words.next()?;
    let second = words.next().map(|w| w.trim_matches(['<', '>', ' ']));
    let time = inside.split_whitespace().any(|word| {
        let parts: Vec<&str> = word.split([':', '.', ',', 'T', 'Z', '+']).collect();
        word.contains(':') && parts.iter().all(|p| p.is_empty() || p.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    });
    // `[    0.000000 <    0.000000>]`, `[1.234567 0.000012]`, `[  +0.000012]`
    let two = number(first) && second.is_some_and(|s| s.is_empty() || number(s));
    let relative = first.starts_with('+') && number(first) && second.is_none();
    if !time && !two && !relative {
        return None;
    }
    Reader(rest).gap().or(Some(Cow::Borrowed(rest)))
}

/// `6,1234,5678901,-;`: a record of /dev/kmsg, or of netconsole (Documentation/ABI/testing/dev-kmsg).
fn record(line: &str) -> Option<Cow<'_, str>> {
    let (head, text) = line.split_once(';')?;
    let mut fields = head.split(',');
    let number = |field: Option<&str>| field.and_then(|f| f.parse::<u64>().ok());
    let (level, _, micros) = (number(fields.next())?, number(fields.next())?, number(fields.next())?);
    let flags = fields.next()?;
    if flags.len() != 1 {
        return None;
    }
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    Some(Cow::Owned(format!("<{}>[{seconds:5}.{micros:06}] {text}", level & 7)))
}

/// `kern  :info  : `: what `dmesg -x` prints.
fn decoded(line: &str) -> Option<Cow<'_, str>> {
    const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    let (facility, rest) = line.split_once(':')?;
    let (level, text) = rest.split_once(':')?;
    let word = facility.trim_end();
    if word.is_empty() || facility.len() > 8 || !word.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let level = LEVELS.iter().position(|name| *name == level.trim_end())?;
    Some(Cow::Owned(format!("<{level}>{}", text.strip_prefix(' ').unwrap_or(text))))
}

/// `> `: a mail.
fn quoted(line: &str) -> Option<Cow<'_, str>> {
    let rest = line.strip_prefix('>')?;
    Some(Cow::Borrowed(rest.strip_prefix(' ').unwrap_or(rest)))
}

/// `   12<TAB>`: what `cat -n` prints.
fn numbered(line: &str) -> Option<Cow<'_, str>> {
    let mut at = Reader(line);
    at.all(|c| c == ' ');
    at.digits(1, 9)?;
    at.text("\t")?;
    Some(Cow::Borrowed(at.0))
}

/// `00O `: what GitLab has after the date, a stream and whether it is standard output.
fn gitlab(line: &str) -> Option<Cow<'_, str>> {
    let (stream, rest) = line.split_at_checked(2)?;
    let rest = rest.strip_prefix(['O', 'E'])?.strip_prefix([' ', '+'])?;
    stream.bytes().all(|b| b.is_ascii_hexdigit()).then_some(Cow::Borrowed(rest))
}

/// `- {"dt": "…", "lvl": "target", "msg": "…"}`: a line of LAVA's output.yaml. What LAVA itself says is left out.
fn lava(line: &str) -> Option<Cow<'_, str>> {
    let inside = line.trim_end().strip_prefix("- {")?.strip_suffix('}')?;
    if !inside.contains("lvl") || !inside.contains("msg") {
        return None;
    }
    let value: Option<serde_json::Value> = serde_json::from_str(&format!("{{{inside}}}")).ok();
    let (level, message) = match value {
        Some(value) => {
            let text = |key: &str| value[key].as_str().map(str::to_owned);
            (text("lvl")?, text("msg").unwrap_or_default())
        }
        // Older versions wrote YAML that is not JSON.
        None => {
            let (before, message) = inside.split_once("msg: ")?;
            let (_, level) = before.split_once("lvl: ")?;
            let level = level.trim_end_matches([',', ' ']).trim_matches(['\'', '"']);
            let message = match message.strip_prefix('\'').and_then(|m| m.strip_suffix('\'')) {
                Some(message) => message.replace("''", "'"),
                None => message.trim_matches('"').to_owned(),
            };
            (level.to_owned(), message)
        }
    };
    Some(Cow::Owned(if matches!(level.as_str(), "target" | "feedback") { message } else { String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a console whose lines have `prefix` in front of three messages.
    fn left(prefix: &dyn Fn(usize, &str) -> String) -> Vec<String> {
        let messages =
            ["[    0.000000] Linux version 7.3.4 (x)", "[    1.500000] TAP version 13", "ok 1 a", "    ok 2 b"];
        let text: Vec<String> = messages.iter().enumerate().map(|(n, message)| prefix(n, message)).collect();
        let prefixes = Prefixes::of(&text.join("\n"));
        text.iter().map(|line| prefixes.strip(line).into_owned()).collect()
    }

    const PLAIN: [&str; 4] =
        ["[    0.000000] Linux version 7.3.4 (x)", "[    1.500000] TAP version 13", "ok 1 a", "    ok 2 b"];

    #[test]
    fn prefixes_that_people_have() {
        let same = ["", "> ", "> > ", "console: ", "board1 | ", "\x1b[32m"];
        for prefix in same {
            assert_eq!(left(&|_, message| format!("{prefix}{message}")), PLAIN, "{prefix:?}");
        }
        // What is the same in all lines needs no form.
        let forms: &[&str] = &[
            "2026-11-28T19:13:18.123456 ",
            "2026-11-28T19:13:18.1234567Z ",
            "2026-11-28T19:13:18+01:00 ",
            "2026-11-28 19:13:18,123 ",
            "2026/11/28 19:13:18: ",
            "19:13:18.123 ",
            "00:00:15.123456\t",
            "1764357198.123456 ",
            "[2026-11-28 19:13:18.123] ",
            "[19:13:18.123] ",
            "[Sat Nov 28 19:13:18 2026] ",
            "[Nov28 19:13] ",
            "[  +0.000012] ",
            "[    1.234567 <    0.000012>] ",
            "[1.234567 0.000012] ",
            "Nov 28 19:13:18 board kernel: ",
            "Nov  8 19:13:18 board kernel: ",
            "2026-11-28T19:13:18.123456+00:00 board kernel: ",
            "2026-11-28T19:13:18.123456Z 00O ",
            "11-28 19:13:18.123     0     0 I kernel  : ",
            "     12\t",
            "\x1b[0;1m2026-11-28 19:13:18 \x1b[m",
        ];
        for prefix in forms {
            let (before, after) = prefix.split_at(prefix.rfind(|c: char| c.is_ascii_digit()).unwrap());
            let numbered = |n: usize, message: &str| format!("{before}{n}{}{message}", &after[1..]);
            assert_eq!(left(&numbered), PLAIN, "{prefix:?}");
        }
    }

    #[test]
    fn records_keep_level_and_time() {
        let text = "6,1,0,-;Linux version 7\n3,2,1500000,-;b\n SUBSYSTEM=x\n4,3,2000001,c;c";
        let prefixes = Prefixes::of(text);
        let lines: Vec<_> = text.lines().map(|l| prefixes.strip(l).into_owned()).collect();
        assert_eq!(
            lines,
            ["<6>[    0.000000] Linux version 7", "<3>[    1.500000] b", " SUBSYSTEM=x", "<4>[    2.000001] c"]
        );
        let text = "kern  :info  : [    0.000000] Linux version 7\nkern  :err   : [    1.000000] b\n";
        let prefixes = Prefixes::of(text);
        let lines: Vec<_> = text.lines().map(|l| prefixes.strip(l).into_owned()).collect();
        assert_eq!(lines, ["<6>[    0.000000] Linux version 7", "<3>[    1.000000] b"]);
    }

    #[test]
    fn lava_is_unpacked() {
        let lava = |_: usize, message: &str| {
            let message = serde_json::to_string(message).unwrap();
            format!(r#"- {{"dt": "2026-11-28T19:13:18.123456", "lvl": "target", "msg": {message}}}"#)
        };
        assert_eq!(left(&lava), PLAIN);
        let old = |_: usize, message: &str| {
            format!("- {{dt: '2026-11-28T19:13:18.123456', lvl: target, msg: '{}'}}", message.replace('\'', "''"))
        };
        assert_eq!(left(&old), PLAIN);
        let own = r#"- {"dt": "2026-11-28T19:13:18", "lvl": "info", "msg": "ok 1 not of the board"}"#;
        assert_eq!(super::lava(own).as_deref(), Some(""));
    }

    /// What is left of each line of a console.
    fn stripped(text: &str) -> Vec<String> {
        let prefixes = Prefixes::of(text);
        text.lines().map(|line| prefixes.strip(line).into_owned()).collect()
    }

    #[test]
    fn most_lines_are_more_than_half() {
        assert_eq!(stripped("> Linux version 7\n> a\n> b\nc\nd\n"), ["Linux version 7", "a", "b", "c", "d"]);
        let half = "> Linux version 7\n> a\nb\nc\n";
        assert_eq!(stripped(half), half.lines().collect::<Vec<_>>());
        let once = "x: Linux version 7\nx: a\nb\nc\nd\n";
        assert_eq!(stripped(once), once.lines().collect::<Vec<_>>());
    }

    #[test]
    fn prefixes_end_somewhere() {
        assert_eq!(stripped(&format!("{}Linux version 7\n", "> ".repeat(DEEPEST))), ["Linux version 7"]);
        assert_eq!(stripped(&format!("{}Linux version 7\n", "> ".repeat(DEEPEST + 1))), ["> Linux version 7"]);
    }

    #[test]
    fn a_host_logs_for_several_programs() {
        let (date, other) = ("2026-11-28T19:13:18.123456+00:00 board", "2026-11-28T19:13:19.123456+00:00 board");
        let text =
            format!("{date} kernel: Linux version 7\n{other} systemd[1]: a\n{date} cron: b\n{other} kernel: c\n");
        assert_eq!(stripped(&text), ["Linux version 7", "a", "b", "c"]);
    }

    #[test]
    fn a_host_behind_the_time_is_removed() {
        let text = "[    0.000000] board kernel: Linux version 7\n[    1.000000] board systemd[1]: a\n\
                    [    1.500000] board kernel: usb usb1: b\n";
        assert_eq!(stripped(text), ["[    0.000000] Linux version 7", "a", "[    1.500000] usb usb1: b"]);
        // Drivers name their devices in the same way.
        let text = "[    0.000000] Linux version 7\n[    1.000000] usb usb1: a\n[    1.500000] usb usb2: b\n";
        assert_eq!(stripped(text), text.lines().collect::<Vec<_>>());
    }

    /// What a form leaves of lines; `None` if they do not have it.
    fn leaves(strip: Strip, cases: &[(&str, Option<&str>)]) {
        for (line, rest) in cases {
            assert_eq!(strip(line).as_deref(), *rest, "{line:?}");
        }
    }

    #[test]
    fn times_are_told_from_messages() {
        leaves(
            clock,
            &[
                ("19:13:18 a", Some("a")),
                ("9:13:18.5 a", Some("a")),
                ("100:13:18,123456789 a", Some("a")),
                ("1000:13:18 a", None),
                (":13:18 a", None),
                ("19:1:18 a", None),
                ("19:13:1 a", None),
                ("19-13:18 a", None),
                ("19:13-18 a", None),
                ("19:13:18. a", None),
                ("19:13:18.1234567890 a", None),
                ("19:13:18Z a", Some("a")),
                ("19:13:18+01:30 a", Some("a")),
                ("19:13:18-0130 a", Some("a")),
                ("19:13:18+01 a", Some("a")),
                ("19:13:18+1 a", None),
                ("19:13:18+01:3 a", None),
                ("19:13:18Z+01:30 a", None),
                // What follows.
                ("19:13:18", Some("")),
                ("19:13:18 \t", Some("")),
                ("19:13:18: a", Some("a")),
                ("19:13:18|\ta", Some("a")),
                ("19:13:18a", None),
                ("19:13:18  a", Some(" a")),
                ("19:13:18  [a", Some("[a")),
                ("19:13:18  <a", Some("<a")),
            ],
        );
        leaves(
            date_first,
            &[
                ("2026-11-28T19:13:18 a", Some("a")),
                ("2026/11/28_19:13:18 a", Some("a")),
                ("2026-11-28x19:13:18 a", None),
                ("2026-11-28 a", None),
                ("26-11-28 19:13:18 a", None),
                ("2026.11-28 19:13:18 a", None),
                ("2026-11.28 19:13:18 a", None),
                ("2026-1-28 19:13:18 a", None),
                ("2026-11-8 19:13:18 a", None),
            ],
        );
        leaves(
            seconds,
            &[
                ("12.5 a", Some("a")),
                ("   1764357198.123456789 a", Some("a")),
                ("12 a", None),
                ("x12.5 a", None),
                (".5 a", None),
                ("12.1234567890 a", None),
                ("12.5a", None),
            ],
        );
    }

    #[test]
    fn names_are_told_from_messages() {
        leaves(
            syslog_date,
            &[
                ("Nov 28 19:13:18 board kernel: a", Some("a")),
                ("Jan  8 19:13:18 board init[1]: a", Some("a")),
                ("Nox 28 19:13:18 board kernel: a", None),
                ("ovD 28 19:13:18 board kernel: a", None),
                ("Nov 128 19:13:18 board kernel: a", None),
                ("Nov 28 19:13 board kernel: a", None),
                ("Nov 28 19:13:18  kernel: a", None),
                ("Nov 28 19:13:18 board a", None),
            ],
        );
        for (text, rest) in [
            ("kernel: a", Some("a")),
            ("kernel:a", Some("a")),
            ("init[12]: a", Some("a")),
            ("init[12] a", None),
            ("init[x]: a", None),
            ("in it: a", None),
            (": a", None),
            ("[12]: a", None),
            ("kernel", None),
        ] {
            assert_eq!(tagged(text), rest, "{text}");
        }
        leaves(
            android,
            &[
                ("11-28 19:13:18.123     0     0 I kernel  : a", Some("a")),
                ("11-28 19:13:18.123 1 1234567 E x:a", Some("a")),
                ("11-28 19:13:18.123 0 0 Q kernel: a", None),
                ("11-28 19:13:18.123 0 I kernel: a", None),
                ("1-28 19:13:18.123 0 0 I kernel: a", None),
                ("11-8 19:13:18.123 0 0 I kernel: a", None),
                ("11-28 19:13:18.123 0 0 I kernel", None),
            ],
        );
        leaves(gitlab, &[("00O a", Some("a")), ("1fE+a", Some("a")), ("0gO a", None), ("00X a", None), ("00Oa", None)]);
        leaves(numbered, &[("  12\ta", Some("a")), ("12 a", None), ("x12\ta", None), ("1234567890\ta", None)]);
        leaves(quoted, &[("> a", Some("a")), (">a", Some("a")), (">  a", Some(" a")), ("a", None)]);
    }

    #[test]
    fn times_in_brackets_are_told_from_the_kernels() {
        let long = |digits: usize| format!("[19:13:18.{}] a", "0".repeat(digits));
        leaves(
            bracketed,
            &[
                ("[Sat Nov 28 19:13:18 2026] a", Some("a")),
                ("[Nov28 19:13] a", Some("a")),
                ("[2026-11-28T19:13:18Z] a", Some("a")),
                ("[19:13:18]a", Some("a")),
                ("[19:13:18]", Some("")),
                ("[1.5 0.1] a", Some("a")),
                ("[    1.5 <    0.1>] a", Some("a")),
                ("[    1.5 <>] a", Some("a")),
                ("[  +0.000012] a", Some("a")),
                ("[    1.5] a", None),
                ("[1.5 x] a", None),
                ("[x 1.5] a", None),
                ("[+x] a", None),
                ("[+1.5 x] a", None),
                ("[12:ab] a", None),
                ("[a;19:13] a", None),
                ("[] a", None),
                ("[19:13:18 a", None),
                (&long(31), Some("a")),
                (&long(32), None),
            ],
        );
    }

    #[test]
    fn records_are_told_from_messages() {
        leaves(
            record,
            &[
                ("6,1,1500000,-;a;b", Some("<6>[    1.500000] a;b")),
                ("14,1,1000000000,c;a", Some("<6>[ 1000.000000] a")),
                ("6,1,0,--;a", None),
                ("6,1,0;a", None),
                ("6,1,x,-;a", None),
                ("6,x,0,-;a", None),
                ("x,1,0,-;a", None),
                ("6,1,0,-,a", None),
            ],
        );
        leaves(
            decoded,
            &[
                ("kern  :info  : a", Some("<6>a")),
                ("daemon  :emerg :a", Some("<0>a")),
                ("local0  :debug :  a", Some("<7> a")),
                ("kern:what: a", None),
                ("kern: a", None),
                ("  :info: a", None),
                ("ke-n:info: a", None),
                ("kernelxxx:info: a", None),
            ],
        );
        leaves(
            lava,
            &[
                (r#"- {"lvl": "target", "msg": "a"}"#, Some("a")),
                (r#"- {"lvl": "feedback", "msg": "a"}"#, Some("a")),
                (r#"- {"lvl": "target", "msg": {"x": 1}}"#, Some("")),
                (r#"- {"lvl": "debug", "msg": "a"}"#, Some("")),
                ("- {lvl: 'target', msg: a}", Some("a")),
                ("- {lvl: \"target\", msg: 'it''s'}", Some("it's")),
                ("- {lvl: info, msg: a}", Some("")),
                ("- {lvl: target, message: a}", None),
                (r#"- {"dt": 1, "lvl": "target"}"#, None),
                (r#"- {"dt": 1, "msg": "a"}"#, None),
                ("- a", None),
            ],
        );
    }

    #[test]
    fn terminals_leave_nothing() {
        for (line, plain) in [
            ("\x1b[1;32ma\x1b[m", "a"),
            ("\u{9b}1ma", "a"),
            ("a\0b", "ab"),
            ("\x1b]0;title\x07a", "a"),
            ("\x1b]0;title\x1b\\a", "a"),
            // The escape of another sequence does not end a title.
            ("\x1b]0;t\x1bx\\y\x07a", "a"),
            ("\x1b]0;title", ""),
            ("\x1b(Ba", "a"),
            ("\x1b)0a", "a"),
            ("\x1b#8a", "a"),
            ("\x1bca", "a"),
            ("\x1bP+q544e\x1b\\a", "a"),
            ("\x1b_x\x1b\\a", "a"),
            // Some consoles end lines with LF CR; some editors begin files with a mark.
            ("\ra", "a"),
            ("\u{feff}a", "a"),
            ("\r\x1b[ma\r", "a\r"),
            // The kernel interrupts whoever writes.
            ("\x1b[0;1[    1.000000] a", "[    1.000000] a"),
            ("\x1b]0;ti[    1.000000] a", "[    1.000000] a"),
            ("\x1b]0;ti[    1.000000] a\x07", "[    1.000000] a\x07"),
            ("\x1b]0;[1.0] title\x07a", "a"),
            ("a\x1b", "a"),
            ("a", "a"),
        ] {
            assert_eq!(clean(line), plain, "{line:?}");
        }
    }

    #[test]
    fn what_few_lines_have_is_no_prefix() {
        let text = "Linux version 7\nok 1 a\n2026-11-28 19:13:18 is a date\n[19:13:18] b\n> c\nd\ne\n";
        let prefixes = Prefixes::of(text);
        for line in text.lines() {
            assert_eq!(prefixes.strip(line), line);
        }
    }
}
