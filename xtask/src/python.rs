//! The Python client: the environment that its checks run in, its types, and its tests against a real server.

use crate::{
    command::{cargo, root, run as run_command, target_dir},
    prerequisites::python_with_venv,
};
use anyhow::{Result, bail};
use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

/// `cargo xtask python`: what `lint` and `test` do about it, and nothing else.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let filter = args.strip_prefix(&["--".to_owned()][..]).unwrap_or(args);
    types()?;
    run_command(cargo().args(["build", "--package", "fetchml"]))?;
    let ended_well = tests()?.args(filter).status()?.success();
    Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the types, strictly.
pub(crate) fn types() -> Result<()> {
    run_command(python()?.args(["-m", "mypy", "--cache-dir"]).arg(target_dir()?.join("mypy-cache")))
}

/// The tests, with the `fetchml` that was built last.
pub(crate) fn tests() -> Result<Command> {
    let mut tests = python()?;
    tests.args(["-m", "pytest", "-p", "no:cacheprovider"]);
    tests.env("FETCHML_TEST_BINARY", target_dir()?.join("debug/fetchml"));
    Ok(tests)
}

/// Writes what is generated of the client from `api/openapi.json`.
pub(crate) fn generate() -> Result<()> {
    run_command(Command::new("python3").arg(directory().join("tools/generate_models.py")))
}

fn directory() -> PathBuf {
    root().join("clients/python")
}

/// A program of the environment, in the target directory: it may leave files.
pub(crate) fn tool(name: &str) -> Result<Command> {
    let python = python()?;
    let mut tool = Command::new(PathBuf::from(python.get_program()).with_file_name(name));
    tool.current_dir(target_dir()?).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(tool)
}

/// The interpreter of an environment that has the client and what checks it, in the client's directory.
fn python() -> Result<Command> {
    let (client, environment) = (directory(), target_dir()?.join("python-client"));
    let wanted = [
        client.display().to_string(),
        fs::read_to_string(client.join("requirements-test.txt"))?,
        fs::read_to_string(client.join("pyproject.toml"))?,
    ]
    .join("\n");
    let marker = environment.join("built-from");
    let program = environment.join("bin/python");
    if !fs::read_to_string(&marker).is_ok_and(|built| built == wanted) {
        println!("building an environment for clients/python");
        python_with_venv()?;
        let _ = fs::remove_dir_all(&environment);
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let pip = || {
            let mut pip = Command::new(&program);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            pip
        };
        run_command(pip().arg("--requirement").arg(client.join("requirements-test.txt")))?;
        run_command(pip().args(["--no-deps", "--editable"]).arg(&client))?;
        fs::write(marker, wanted)?;
    }
    if !program.exists() {
        bail!("{} is gone; remove {}", program.display(), environment.display());
    }
    let mut python = Command::new(program);
    python.current_dir(client).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}
