//! Licences and sources of every dependency against `deny.toml`, from `cargo metadata` alone.
//! `cargo deny` checks the same and more where it is installed; this one needs nothing.

use crate::command::{cargo, root, stdout_of};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{collections::BTreeSet, fs};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Fails with the list of all offenders.
pub(crate) fn check() -> Result<()> {
    let allowed = allowed_licences()?;
    let metadata = stdout_of(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata did not print JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let name =
            format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        match package["source"].as_str() {
            None | Some(CRATES_IO) => {}
            Some(other) => problems.push(format!("{name}: comes from {other}, not from crates.io")),
        }
        let licence = package["license"].as_str().unwrap_or("");
        if !is_allowed(licence, &allowed) {
            problems.push(format!("{name}: licence {licence:?} is not in the allow list of deny.toml"));
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("{} packages: licences and sources are allowed", packages.len());
    Ok(())
}

/// The strings of `allow = [...]` in section `[licenses]`.
fn allowed_licences() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(root().join("deny.toml")).context("cannot read deny.toml")?;
    let section = text.split("[licenses]").nth(1).context("deny.toml has no [licenses]")?;
    let list = section.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.context("[licenses] of deny.toml has no allow list")?;
    let without_comments: String = list.lines().map(|line| line.split('#').next().unwrap_or("")).collect();
    Ok(without_comments
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect())
}

/// Whether the SPDX expression can be satisfied by allowed licences. `A/B` is the old way to write OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    any_of(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// `a OR b`; `None` when it is no expression.
fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = all_of(words, allowed)?;
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        value |= all_of(words, allowed)?;
    }
    Some(value)
}

/// `a AND b`, which binds tighter than OR.
fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut value = one(words, allowed)?;
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        value &= one(words, allowed)?;
    }
    Some(value)
}

/// A licence, with its exception if it names one, or an expression in parentheses.
fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    match *first {
        "(" => {
            let value = any_of(words, allowed)?;
            *words = words.strip_prefix(&[")"])?;
            Some(value)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence => {
            if let [with, exception, rest @ ..] = *words
                && *with == "WITH"
            {
                *words = rest;
                return Some(allowed.contains(&format!("{licence} WITH {exception}")));
            }
            Some(allowed.contains(licence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
        let table = [
            ("MIT", true),
            ("GPL-3.0", false),
            ("", false),
            ("MIT OR GPL-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT OR ISC", true),
            ("GPL-3.0 AND (MIT OR ISC)", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT ISC", false),
        ];
        for (expression, expected) in table {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression:?}");
        }
    }
}
