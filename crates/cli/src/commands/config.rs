//! `fetchml config`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use comfy_table::Cell;
use std::path::Path;

/// Show the settings
///
/// Later sources win: defaults, the profile that `fetchml up` writes (client settings only), the
/// configuration file, environment variables, flags.
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml config --explain")]
pub(crate) struct Config {
    /// Show also where each value came from, and the settings that are not set
    #[arg(long)]
    explain: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Config {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let layers = self.server.layers(config)?;
        let settings = layers.explain();
        // A value that cannot be read is worth an error here rather than at the next start.
        layers.server()?;
        layers.worker()?;
        if self.json {
            terminal::print_json(&settings)?;
            return Ok(Exit::Success);
        }
        let mut table = if self.explain {
            terminal::table(["SETTING", "VALUE", "SOURCE", "VARIABLE", "MEANING"])
        } else {
            terminal::table(["SETTING", "VALUE"])
        };
        for setting in settings {
            match (self.explain, setting.value) {
                (true, value) => drop(table.add_row([
                    Cell::new(setting.setting),
                    Cell::new(value.as_deref().unwrap_or("-")),
                    Cell::new(setting.source),
                    Cell::new(setting.variable),
                    Cell::new(setting.meaning),
                ])),
                (false, Some(value)) => drop(table.add_row([Cell::new(setting.setting), Cell::new(value)])),
                (false, None) => {}
            }
        }
        terminal::print_table(&table)?;
        match layers.file() {
            Some(file) => terminal::say_aside(&format!("configuration file: {}", file.display())),
            None => terminal::say_aside("no configuration file"),
        }
        Ok(Exit::Success)
    }
}
