//! Which images a worker's owner allows.

use fetchml_api::ImageName;
use std::{fmt, str::FromStr};

/// Patterns of image names, in which `*` stands for any text and `?` for any one character. None: every image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageRules(Vec<String>);

impl ImageRules {
    /// Whether an image may be used: a pattern fits its full name, or the name as people write it.
    pub fn allows(&self, name: &ImageName) -> bool {
        let (full, familiar) = (name.to_string(), name.familiar());
        self.0.is_empty() || self.0.iter().any(|pattern| fits(pattern, &full) || fits(pattern, &familiar))
    }
}

impl FromStr for ImageRules {
    type Err = String;

    /// Patterns, separated by commas or spaces.
    fn from_str(text: &str) -> Result<Self, String> {
        let patterns: Vec<String> =
            text.split([',', ' ']).map(str::trim).filter(|pattern| !pattern.is_empty()).map(Into::into).collect();
        match patterns.iter().find(|pattern| pattern.chars().any(|c| c.is_control() || c == '"')) {
            Some(pattern) => Err(format!("{pattern:?} is not a pattern of image names, such as ghcr.io/lab/*")),
            None => Ok(Self(patterns)),
        }
    }
}

impl fmt::Display for ImageRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("any") } else { f.write_str(&self.0.join(", ")) }
    }
}

/// Without going back further than to the last `*`, so that no pattern takes long.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, tried)) => {
                    star = Some((at, tried + 1));
                    (p, t) = (at + 1, tried + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rules: &str, name: &str) -> bool {
        rules.parse::<ImageRules>().unwrap().allows(&name.parse().unwrap())
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (rules, name, allowed) in [
            ("", "anything:1", true),
            ("localhost/*", "localhost/bb:1", true),
            ("localhost/*", "evil.io/localhost/bb:1", false),
            ("python:3.*", "python:3.12", true),
            ("python:3.*", "docker.io/library/python:3.12", true),
            ("python:3.*", "lab/python:3.12", false),
            ("python:3.*", "python:2.7", false),
            ("ghcr.io/lab/*, pytorch/*", "pytorch/pytorch:2", true),
            ("ghcr.io/lab/*, pytorch/*", "ghcr.io/other/x", false),
            ("ghcr.io/lab/*", "ghcr.io/lab/a/b:1", true),
            ("*:?.?", "x:1.2", true),
            ("*:?.?", "x:1.22", false),
            ("docker.io/*", "python", true),
        ] {
            assert_eq!(allows(rules, name), allowed, "{rules:?} and {name}");
        }
        let hard = format!("{}b", "*a".repeat(200));
        assert!(!allows(&hard, &"a".repeat(200)));
    }
}
