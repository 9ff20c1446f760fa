//! `fetchml logs`.

use super::follow::LogPrinter;
use crate::{failure::Exit, session::ServerFlags};
use clap::Args;
use fetchml_client::LogQuery;
use futures_util::StreamExt as _;
use std::{
    io::{self, Write as _},
    path::Path,
};

/// Print a task's log
///
/// Without -f the exact bytes; with -f the text as it is written, invalid UTF-8 replaced, until the task ends.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml logs @last\n  fetchml logs -f 0193e4a1-77c2-7000-8000-5c1fd1b0a001")]
pub(crate) struct Logs {
    /// Id, the beginning or end of one, or @last
    id: String,
    /// Go on until the task ends
    #[arg(short, long)]
    follow: bool,
    /// Log of this attempt, from 1 [default: the latest]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    #[command(flatten)]
    server: ServerFlags,
}

impl Logs {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = session.task_id(&self.id).await?;
        let query = LogQuery { attempt: self.attempt, node: None };
        if self.follow {
            let mut log = LogPrinter::new(&session.client, id, query);
            while log.next().await? {}
            return Ok(Exit::Success);
        }
        let mut bytes = session.client.logs(id, query, None).await?;
        let mut stdout = io::stdout().lock();
        while let Some(chunk) = bytes.next().await {
            stdout.write_all(&chunk?)?;
        }
        stdout.flush()?;
        Ok(Exit::Success)
    }
}
