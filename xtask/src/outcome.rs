//! Counting tests from what the runners print: nextest's summary, libtest's result lines and pytest's last line.

use std::fmt;

/// Tests by their end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Outcome {
    /// Adds what this line of output says, if it is a closing line.
    pub(crate) fn read_line(&mut self, line: &str) {
        let plain = without_colours(line);
        let text = plain.trim();
        // Indented, it stands in the output of a test that nextest shows, and nextest counts that test itself.
        let counts = if let Some(rest) = plain.strip_prefix("test result: ") {
            rest
        } else if let Some((_, rest)) = text.strip_prefix("Summary [").and_then(|rest| rest.split_once("tests run:")) {
            rest
        } else if let Some((_, rest)) = text.strip_prefix("Summary [").and_then(|rest| rest.split_once("test run:")) {
            rest
        } else if let Some((counts, _)) = plain.strip_prefix("==").and_then(|rest| rest.split_once(" in ")) {
            counts.trim_start_matches('=')
        } else {
            return;
        };
        // `8 passed (1 slow), 1 failed, 1 timed out, 3 skipped`; `ok. 3 passed; 0 failed; 1 ignored; 0 measured`;
        // `1 failed, 2 passed, 1 error`
        let mut words = counts.split([' ', ',', ';', '(', ')', '.']).filter(|word| !word.is_empty()).peekable();
        let mut number = None;
        while let Some(word) = words.next() {
            if let Ok(value) = word.parse::<u64>() {
                number = Some(value);
                continue;
            }
            let Some(value) = number.take() else { continue };
            match word {
                "passed" => self.passed += value,
                "failed" | "error" | "errors" => self.failed += value,
                "timed" | "exec" => {
                    self.failed += value;
                    words.next();
                }
                "skipped" | "ignored" => self.skipped += value,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The line without ANSI colour sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // ESC [ parameters letter
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> String {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.read_line(line);
        }
        outcome.to_string()
    }

    #[test]
    fn sums_both_runners() {
        assert_eq!(
            read(&[
                "     Summary [   1.203s] 12 tests run: 9 passed (1 slow, 2 flaky), 1 failed, 1 timed out, 1 exec failed, 3 skipped",
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s",
            ]),
            "12 passed, 3 failed, 4 skipped"
        );
    }

    #[test]
    fn reads_coloured_lines_and_one_test() {
        assert_eq!(
            read(&[
                "\u{1b}[32;1m     Summary\u{1b}[0m [   0.1s] \u{1b}[1m1\u{1b}[0m test run: \u{1b}[1m1\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m0\u{1b}[0m skipped"
            ]),
            "1 passed, 0 failed"
        );
    }

    #[test]
    fn reads_pytest() {
        assert_eq!(
            read(&["=== 1 failed, 30 passed, 2 skipped, 3 errors in 6.80s ==="]),
            "30 passed, 4 failed, 2 skipped"
        );
        assert_eq!(read(&["=================== 1 passed in 0.01s ==================="]), "1 passed, 0 failed");
        assert_eq!(
            read(&["========================= FAILURES =========================", "== 3 errors"]),
            "0 passed, 0 failed"
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(read(&["test a ... ok", "9 passed, 9 failed", ""]), "0 passed, 0 failed");
        let shown_by_nextest = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 75 filtered out";
        assert_eq!(read(&[shown_by_nextest]), "0 passed, 0 failed");
    }
}
