//! `cargo xtask openapi`: writes the served document to `api/openapi.json`, and what is made from that. Tests
//! fail while a committed file is stale.

use crate::{
    command::{cargo, root, stdout_of},
    python,
};
use anyhow::{Context as _, Result, bail};
use std::{fs, process::ExitCode};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if !args.is_empty() {
        bail!("openapi takes no arguments");
    }
    let document = stdout_of(cargo().args(["run", "--quiet", "--package", "fetchml-server", "--example", "openapi"]))?;
    serde_json::from_str::<serde_json::Value>(&document).context("the example did not print JSON")?;
    let path = root().join("api/openapi.json");
    fs::create_dir_all(path.parent().expect("the path has a parent"))?;
    if fs::read_to_string(&path).is_ok_and(|old| old == document) {
        println!("api/openapi.json is up to date");
    } else {
        fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
        println!("api/openapi.json written");
    }
    python::generate()?;
    Ok(ExitCode::SUCCESS)
}
