// SPDX-License-Identifier: GPL-2.0-only
//! What the pages that the tool writes have in common.

/// Text as it must be written in HTML; braces too, as they stand for something in the pages' templates.
pub fn escaped(text: &str) -> String {
    let mut html = String::new();
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '{' | '}' => html += &format!("&#{};", u32::from(c)),
            // Control characters have no place in a page.
            c if c.is_control() && c != '\n' && c != '\t' => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        assert_eq!(escaped("a<b> & \"{c}\"\n\td"), "a&#60;b&#62; &#38; &#34;&#123;c&#125;&#34;\n\td");
        assert_eq!(escaped("\x1b[1m\r"), "\u{fffd}[1m\u{fffd}");
    }
}
