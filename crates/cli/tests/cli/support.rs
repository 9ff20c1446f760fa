//! Running the binary in a home of its own and rendering what it did.

use assert_cmd::Command;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// A home directory with nothing in it.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The binary with an environment that holds only what is named here.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("fetchml").unwrap();
        command.env_clear().env("HOME", self.dir.path()).env("PATH", "/usr/bin:/bin").env("COLUMNS", "100");
        command.args(arguments).current_dir(self.dir.path());
        command
    }

    /// Runs and renders exit code, stdout and stderr, with the home's own path replaced.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.render(&mut self.command(arguments))
    }

    pub(crate) fn render(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let text = format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            output.status.code().map_or_else(|| "by signal".into(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        text.replace(&self.dir.path().display().to_string(), "HOME")
    }
}

/// A port on which nothing listens.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
