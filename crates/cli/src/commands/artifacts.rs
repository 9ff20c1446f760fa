//! `fetchml artifacts`.

mod download;

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::{ServerFlags, Session},
    terminal,
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{Artifact, TaskId};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};

/// List and download the files a task left
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml artifacts ls @last\n  fetchml artifacts get @last -o results")]
pub(crate) struct Artifacts {
    #[command(subcommand)]
    command: ArtifactsCommand,
}

#[derive(Subcommand, Debug)]
enum ArtifactsCommand {
    Ls(List),
    Get(Get),
}

/// List the files
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml artifacts ls @last")]
struct List {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Download files and check them against their SHA-256
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml artifacts get @last\n  fetchml artifacts get @last model.pt -o models"
)]
struct Get {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Only this file, or the files of this directory
    path: Option<String>,
    /// Directory to write to; made if missing [default: artifacts-<end of the id>, ignored by git and snapshots]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print JSON: what was written
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Artifacts {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            ArtifactsCommand::Ls(command) => command.run(config).await?,
            ArtifactsCommand::Get(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let session = self.server.session(config)?;
        let list = session.client.artifacts(session.task_id(&self.id).await?).await?;
        if self.json {
            return terminal::print_json(&list);
        }
        if list.artifacts.is_empty() {
            terminal::say("no artifacts");
            return Ok(());
        }
        let mut table = terminal::table(["PATH", "SIZE", "SHA-256"]);
        for artifact in &list.artifacts {
            table.add_row([
                Cell::new(terminal::plain(&artifact.path)),
                terminal::number(quantity::show_bytes(artifact.size_bytes)),
                Cell::new(&artifact.sha256),
            ]);
        }
        Ok(terminal::print_table(&table)?)
    }
}

impl Get {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let wanted = self.wanted(&session, id).await?;
        let text = id.to_string();
        let is_default = self.output.is_none();
        let output = self.output.unwrap_or_else(|| format!("artifacts-{}", &text[text.len() - 12..]).into());
        let total: u64 = wanted.iter().map(|artifact| artifact.size_bytes).sum();
        let bar = (terminal::stderr_is_terminal() && !self.json).then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
                .expect("the template is well formed")
                .progress_chars("=> ");
            ProgressBar::new(total).with_style(style)
        });
        let target = download::Target::new(&output)?;
        if is_default {
            target.keep_out_of_snapshots();
        }
        for artifact in &wanted {
            if let Some(bar) = &bar {
                bar.set_message(terminal::plain(&artifact.path));
            }
            let on_bytes = |bytes| bar.iter().for_each(|bar| bar.inc(bytes));
            target.download(&session.client, id, artifact, on_bytes).await?;
            if bar.is_none() && !self.json {
                terminal::say_aside(&format!("{}  {}", artifact.path, quantity::show_bytes(artifact.size_bytes)));
            }
        }
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        if self.json {
            return terminal::print_json(&json!({ "directory": output, "artifacts": wanted }));
        }
        let files = if wanted.len() == 1 { "1 file".to_owned() } else { format!("{} files", wanted.len()) };
        terminal::say(&format!("{files}, {} in {}", quantity::show_bytes(total), output.display()));
        Ok(())
    }

    async fn wanted(&self, session: &Session, id: TaskId) -> anyhow::Result<Vec<Artifact>> {
        let mut all = session.client.artifacts(id).await?.artifacts;
        let Some(path) = &self.path else {
            if all.is_empty() {
                return Err(Failure::new(format!("task {id} left no artifacts"))
                    .hint("files written to $FETCHML_OUTPUT_DIR become artifacts when the task ends")
                    .into());
            }
            return Ok(all);
        };
        let directory = format!("{}/", path.trim_end_matches('/'));
        all.retain(|artifact| artifact.path == *path || artifact.path.starts_with(&directory));
        if all.is_empty() {
            return Err(Failure::new(format!("task {id} has no artifact {path:?}"))
                .hint(format!("`fetchml artifacts ls {id}` lists them"))
                .into());
        }
        Ok(all)
    }
}
