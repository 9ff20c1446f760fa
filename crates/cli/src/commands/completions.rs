//! `fetchml completions`.

use crate::{failure::Exit, terminal};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(
    before_long_help = "Example:\n  fetchml completions bash > ~/.local/share/bash-completion/completions/fetchml"
)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "fetchml", &mut script);
        terminal::print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Success)
    }
}
