//! Keeping secrets out of what leaves the worker: every byte that is part of a secret, or of a usual
//! encoding of one, becomes `*`. Lengths stay, so that offsets into a log mean the same on both sides.
//!
//! Whether a byte is hidden depends only on the bytes around it, at most [`Redactor::reach`] to each
//! side: any part of a log can be redacted by itself, again and again, with the same result.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use fetchml_api::limits::SECRET_HIDDEN_BYTES_MIN;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    fmt::{self, Write as _},
    ops::Range,
};

/// What stands in for a byte.
const HIDDEN: u8 = b'*';
/// Longer texts are looked for in pieces of this length, bytes: a part of them is hidden too, and nobody can make
/// looking for them slow.
const PIECE_BYTES: usize = 64;
/// Lines of one value that are looked for by themselves.
const LINES_MAX: usize = 256;
/// Where `base64` and `openssl base64` break lines, characters.
const BASE64_LINES: [usize; 2] = [76, 64];

/// What percent-encoders leave as it is: RFC 3986; the same and `/`, as Python does; and as JavaScript does.
const URL_SETS: [&AsciiSet; 3] = [
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~'),
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/'),
    &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'!')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')')
        .remove(b'*'),
];

/// Hides the secrets of one attempt.
pub(crate) struct Redactor(How);

enum How {
    /// What is to be hidden is not known: all but line ends is.
    Everything,
    Pieces {
        /// Sorted, each once.
        pieces: Vec<Vec<u8>>,
        matcher: AhoCorasick,
        longest: usize,
    },
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            How::Everything => "Redactor(everything)",
            How::Pieces { .. } => "Redactor(***)",
        })
    }
}

impl Redactor {
    /// For these values; `None` when all are too short to be looked for.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut pieces: Vec<Vec<u8>> = values.into_iter().flat_map(forms).flat_map(|form| split(&form)).collect();
        pieces.sort();
        pieces.dedup();
        let longest = pieces.iter().map(Vec::len).max()?;
        let matcher = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&pieces);
        // It fails only for more than 2^31 bytes of patterns: then nothing may be shown.
        Some(Self(matcher.map_or(How::Everything, |matcher| How::Pieces { pieces, matcher, longest })))
    }

    /// Hides all there is.
    pub(crate) const fn everything() -> Self {
        Self(How::Everything)
    }

    /// How far before and after a byte to look to tell whether it is hidden, bytes.
    pub(crate) fn reach(&self) -> usize {
        match &self.0 {
            How::Everything => 0,
            How::Pieces { longest, .. } => longest - 1,
        }
    }

    /// Hides what is to be hidden.
    pub(crate) fn hide(&self, bytes: &mut [u8]) {
        match &self.0 {
            How::Everything => bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = HIDDEN),
            How::Pieces { matcher, .. } => {
                let mut found: Vec<Range<usize>> = Vec::new();
                for one in matcher.find_overlapping_iter(&*bytes) {
                    let mut range = one.range();
                    // Ends come in order; a later one may begin before an earlier one.
                    while let Some(last) = found.pop_if(|last| last.end >= range.start) {
                        range = last.start.min(range.start)..last.end.max(range.end);
                    }
                    found.push(range);
                }
                for range in found {
                    bytes[range].fill(HIDDEN);
                }
            }
        }
    }

    /// How many bytes at the end may be the beginning of what is to be hidden: what follows will tell.
    pub(crate) fn undecided(&self, bytes: &[u8]) -> usize {
        let How::Pieces { pieces, longest, .. } = &self.0 else { return 0 };
        let begins = |length: &usize| {
            let end = &bytes[bytes.len() - length..];
            let at = pieces.partition_point(|piece| piece.as_slice() < end);
            // The first may be the end itself, whole.
            pieces[at..].iter().take(2).any(|piece| piece.len() > end.len() && piece.starts_with(end))
        };
        (1..=(longest - 1).min(bytes.len())).rev().find(begins).unwrap_or(0)
    }

    /// Hides what is to be hidden in bytes that end for good: the beginning of a secret at their end too.
    pub(crate) fn hide_to_end(&self, bytes: &mut [u8]) {
        let cut_off = self.undecided(bytes);
        self.hide(bytes);
        if cut_off >= SECRET_HIDDEN_BYTES_MIN {
            let from = bytes.len() - cut_off;
            bytes[from..].fill(HIDDEN);
        }
    }

    /// A sentence without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        match &self.0 {
            // A sentence of the worker's own, about what is not known.
            How::Everything => "what happened cannot be told without showing secrets".to_owned(),
            How::Pieces { .. } => {
                let mut bytes = text.as_bytes().to_vec();
                self.hide(&mut bytes);
                // Only where a piece begins or ends within a character can something be no UTF-8 any more.
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }
}

/// Everything that shows a value: itself, its lines, and its usual encodings. Blanks around it do not count: programs
/// leave them out as they like.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let value = value.trim();
    if value.len() < SECRET_HIDDEN_BYTES_MIN {
        return Vec::new();
    }
    let mut forms = vec![value.as_bytes().to_vec()];
    if value.contains('\n') {
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= SECRET_HIDDEN_BYTES_MIN);
        forms.extend(lines.take(LINES_MAX).map(|line| line.as_bytes().to_vec()));
    }
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        forms.extend((0..3).map(|shift| base64_within(engine, value.as_bytes(), shift)));
    }
    let base64 = base64_within(&STANDARD_NO_PAD, value.as_bytes(), 0);
    for length in BASE64_LINES.into_iter().filter(|length| base64.len() > *length) {
        forms.push(base64.chunks(length).collect::<Vec<_>>().join(&b'\n'));
    }
    for set in URL_SETS {
        let upper = utf8_percent_encode(value, set).to_string();
        forms.push(lower_case_escapes(&upper).into_bytes());
        forms.push(upper.replace("%20", "+").into_bytes());
        forms.push(upper.into_bytes());
    }
    let json = serde_json::to_string(value).expect("a text is JSON");
    let json = &json[1..json.len() - 1];
    forms.push(ascii(json).into_bytes());
    forms.push(json.as_bytes().to_vec());
    // As languages show a text in single quotes, and in double ones when it holds single ones only.
    for quote in ["'", ""] {
        let text = value.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
        let text = if quote.is_empty() { text } else { text.replace(quote, &format!("\\{quote}")) };
        forms.push(text.into_bytes());
    }
    forms
}

/// What stands in any base64 of anything that holds `value` at a place `shift` bytes after a multiple of 3: the
/// characters that depend on nothing else.
fn base64_within(engine: &GeneralPurpose, value: &[u8], shift: usize) -> Vec<u8> {
    let shifted = [&[0_u8; 3][..shift], value].concat();
    let text = engine.encode(&shifted).into_bytes();
    text[(shift * 8).div_ceil(6)..shifted.len() * 8 / 6].to_vec()
}

/// JSON as those write it who leave nothing but ASCII in it, Python among them.
fn ascii(json: &str) -> String {
    let mut units = [0; 2];
    json.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                write!(text, "\\u{unit:04x}").expect("a String takes all that is written");
            }
        }
        text
    })
}

fn lower_case_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, part| {
        let (escape, rest) = part.split_at(part.len().min(2));
        before + "%" + &escape.to_ascii_lowercase() + rest
    })
}

/// Pieces that cover a text without a gap.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    if text.len() <= PIECE_BYTES {
        return vec![text.to_vec()];
    }
    let last = text.len() - PIECE_BYTES;
    (0..last).step_by(PIECE_BYTES).chain([last]).map(|from| text[from..from + PIECE_BYTES].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "s3cr3t+/ value\"é";

    fn hidden(values: &[&str], text: &[u8]) -> String {
        let mut bytes = text.to_vec();
        Redactor::new(values.iter().copied()).unwrap().hide(&mut bytes);
        assert_eq!(bytes.len(), text.len(), "lengths stay");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn a_value_is_hidden_wherever_it_stands_and_nothing_else_is() {
        assert_eq!(hidden(&["password-1"], b"a password-1 b password-2\n"), "a ********** b password-2\n");
        assert_eq!(hidden(&["abababab"], b"xababababababx"), "x************x", "occurrences that overlap");
        assert_eq!(hidden(&["abcdefgh", "cdefghij"], b"-abcdefghij-"), "-**********-");
        assert_eq!(hidden(&[" trimmed-value\n"], b"<trimmed-value>"), "<*************>");
        assert!(Redactor::new(["short", "  1234567 "]).is_none());
    }

    #[test]
    fn usual_encodings_are_hidden_too() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        let url = utf8_percent_encode(VALUE, NON_ALPHANUMERIC).to_string();
        for shown in [
            STANDARD.encode(VALUE),
            STANDARD.encode(format!("user:{VALUE}")),
            STANDARD.encode(format!("{VALUE}\n")),
            URL_SAFE.encode(format!("xx{VALUE}yy")),
            "s3cr3t%2B%2F%20value%22%C3%A9".to_owned(),
            "s3cr3t%2b%2f%20value%22%c3%a9".to_owned(),
            "s3cr3t%2B/%20value%22%C3%A9".to_owned(),
            "s3cr3t%2B%2F+value%22%C3%A9".to_owned(),
            url,
            format!("{{\"k\": {}}}", serde_json::to_string(VALUE).unwrap()),
            "{'k': \"s3cr3t+/ value\\\"\\u00e9\"}".to_owned(),
        ] {
            let after = hidden(&[VALUE], shown.as_bytes());
            let stars = after.matches('*').count();
            // Around a value in base64 a few characters depend on its neighbours as well.
            assert!(stars * 10 >= shown.len() * 6 && stars >= VALUE.len(), "{shown} -> {after}");
        }
    }

    #[test]
    fn texts_as_languages_show_them_are_hidden() {
        let value = "it's a \\ \"secret\"\n";
        for shown in [r#"'it\'s a \\ "secret"\n'"#, r#""it's a \\ \"secret\"\n""#, r#"it's a \\ "secret""#] {
            let left = hidden(&[value], shown.as_bytes());
            assert!(!left.contains("secret") && !left.contains("it"), "{shown} -> {left}");
        }
    }

    #[test]
    fn long_values_are_hidden_whole_and_in_part() {
        let key = (0..40).map(|n| format!("line {n} of a private key\n")).collect::<Vec<_>>().concat();
        assert_eq!(hidden(&[&key], key.as_bytes()).matches(|c| c != '*' && c != '\n').count(), 0);
        let indented = key.lines().map(|line| format!("    {line}\r\n")).collect::<Vec<_>>().concat();
        assert!(!hidden(&[&key], indented.as_bytes()).contains("line"));
        let random: String = (0_u32..400).map(|n| char::from(33 + (n * n * 7 % 90) as u8)).collect();
        let half = hidden(&[&random], &random.as_bytes()[..200]);
        assert_eq!(&half[..192], "*".repeat(192), "whole pieces");
        for length in BASE64_LINES {
            use base64::engine::general_purpose::STANDARD;
            let text = STANDARD.encode(&random).into_bytes();
            let wrapped = text.chunks(length).collect::<Vec<_>>().join(&b'\n');
            let left = hidden(&[&random], &wrapped).replace(['*', '\n', '='], "");
            assert!(left.len() <= 1, "{left}");
        }
    }

    /// Redacts a file as the log task does: any part by itself, with what is around it.
    fn by_parts(redactor: &Redactor, file: &[u8], part: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut from = 0;
        while from < file.len() {
            let to = (from + part).min(file.len());
            let (start, end) = (from.saturating_sub(redactor.reach()), (to + redactor.reach()).min(file.len()));
            let mut window = file[start..end].to_vec();
            redactor.hide(&mut window);
            all.extend_from_slice(&window[from - start..to - start]);
            from = to;
        }
        all
    }

    #[test]
    fn any_part_by_itself_gives_what_the_whole_gives() {
        let long = "abc".repeat(100);
        let redactor = Redactor::new([VALUE, "aaaaaaaa", "aaaaaaaabb", &long]).unwrap();
        let mut file = Vec::new();
        for n in 0..40_usize {
            file.extend_from_slice(&b"xaaab"[..n % 5]);
            file.extend_from_slice([VALUE, "aaaaaaaaaabb", &long[n..], "\n"][n % 4].as_bytes());
        }
        let mut whole = file.clone();
        redactor.hide(&mut whole);
        assert_ne!(whole, file);
        for part in [1, 2, 7, 63, 64, 65, 500] {
            assert!(by_parts(&redactor, &file, part) == whole, "parts of {part}");
        }
    }

    #[test]
    fn what_may_yet_become_a_secret_waits() {
        let redactor = Redactor::new(["password", "passport-number"]).unwrap();
        for (text, waiting) in
            [("xpass", 4), ("pa", 2), ("passpo", 6), ("password", 0), ("passwords p", 1), ("xyz", 0), ("", 0)]
        {
            assert_eq!(redactor.undecided(text.as_bytes()), waiting, "{text}");
        }
        let mut cut_off = b"a password b passport-n".to_vec();
        redactor.hide_to_end(&mut cut_off);
        assert_eq!(cut_off, b"a ******** b **********");
        let mut harmless = b"a pass".to_vec();
        redactor.hide_to_end(&mut harmless);
        assert_eq!(harmless, b"a pass");
        assert_eq!(redactor.text("no such file: password"), "no such file: ********");
    }

    #[test]
    fn what_is_not_known_hides_everything() {
        let redactor = Redactor::everything();
        let mut bytes = b"some\nwords".to_vec();
        redactor.hide(&mut bytes);
        assert_eq!(bytes, b"****\n*****");
        assert!(!redactor.text("words").contains("words"));
    }
}
