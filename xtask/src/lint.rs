//! `cargo xtask lint`: everything that can be judged without running the product. All checks run,
//! then all failures are named.

use crate::{
    command::{cargo, root, run as run_command, stdout_of, succeeds},
    licences, python,
};
use anyhow::{Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// A check's name and what it does.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 6] = [
    ("formatting", || run_command(cargo().args(["fmt", "--all", "--check"]))),
    ("clippy", || {
        run_command(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    }),
    ("licences and sources", licences::check),
    ("cargo deny", cargo_deny),
    ("links in documents", links),
    ("types of the Python client", python::types),
];

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if !args.is_empty() {
        bail!("lint takes no arguments");
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("== {name}");
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: all is well");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Building cargo-deny takes minutes, so it is used only where it is; [`licences::check`] always runs.
/// The advisory database needs the network and is left to those who have it.
fn cargo_deny() -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        println!("not installed: left out");
        return Ok(());
    }
    run_command(cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}

/// Every relative link of a Markdown file names a file that exists.
fn links() -> Result<()> {
    let listed = stdout_of(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.md",
    ]))?;
    let mut broken = Vec::new();
    let mut count = 0_u32;
    for file in listed.lines() {
        let path = root().join(file);
        // A file may be deleted and not yet committed.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for target in link_targets(&text) {
            count += 1;
            if !target_path(&path, target).exists() {
                broken.push(format!("{file}: {target} does not exist"));
            }
        }
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    println!("{count} links");
    Ok(())
}

/// Targets of `[text](target)` that are neither addresses nor places on the same page.
fn link_targets(markdown: &str) -> impl Iterator<Item = &str> {
    markdown.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).filter(|target| {
        !target.contains("://") && !target.starts_with(['#', '<']) && !target.contains(char::is_whitespace)
    })
}

fn target_path(file: &Path, target: &str) -> PathBuf {
    let target = target.split('#').next().unwrap_or(target);
    match target.strip_prefix('/') {
        Some(from_root) => root().join(from_root),
        None => file.parent().expect("a file lies in a folder").join(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_links_are_looked_up() {
        let text = "[a](docs/a.md) [b](https://x.y/z) [c](#part) [d](../b.md#part) `f](not a link)`";
        assert_eq!(link_targets(text).collect::<Vec<_>>(), ["docs/a.md", "../b.md#part"]);
    }
}
