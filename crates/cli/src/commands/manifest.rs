//! `fetchml manifest`.

use super::diff::fields;
use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use std::path::Path;

/// Show what ran, with what, where, and how it ended
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml manifest @last\n  fetchml manifest --json @last > run_manifest.json"
)]
pub(crate) struct Manifest {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Of this attempt, from 1 [default: the latest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Print JSON: run_manifest.json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Manifest {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let manifest = session.client.run_manifest(session.task_id(&self.id).await?, self.attempt).await?;
        if self.json {
            terminal::print_json(&manifest)?;
            return Ok(Exit::Success);
        }
        let mut table = terminal::table(["FIELD", "VALUE"]);
        for (field, value) in fields(&manifest)? {
            table.add_row([terminal::plain(&field), terminal::plain(&value)]);
        }
        terminal::print_table(&table)?;
        Ok(Exit::Success)
    }
}
