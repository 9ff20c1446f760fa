//! `fetchml secrets`. A value comes from a file, a pipe or a prompt: never from an argument, which every
//! process of the machine can read and the shell remembers.

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::ServerFlags,
    terminal,
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{SecretText, limits::SECRET_VALUE_BYTES, variable_name_problem};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use std::{
    fs::File,
    io::{self, BufRead as _, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

/// Set, list and delete secret values for your tasks
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml secrets set HF_TOKEN                 asks for the value\n  \
    fetchml secrets set GCP_KEY --from-file key.json\n  fetchml submit --secret HF_TOKEN train.py")]
pub(crate) struct Secrets {
    #[command(subcommand)]
    command: SecretsCommand,
}

#[derive(Subcommand, Debug)]
enum SecretsCommand {
    Set(Set),
    Ls(List),
    Rm(Remove),
}

/// Set a secret: asked for on a terminal, else read from standard input
///
/// One line end at the end of standard input is left out; a file is taken as it is.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml secrets set HF_TOKEN\n  pass show hf | fetchml secrets set HF_TOKEN\n  \
    fetchml secrets set GCP_KEY --from-file key.json"
)]
struct Set {
    /// Name of the secret: that of the environment variable in tasks
    name: String,
    /// File that holds the value
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// List your secrets, without their values
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml secrets ls")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Delete a secret; tasks that run with it keep it to their end
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml secrets rm HF_TOKEN")]
struct Remove {
    /// Its name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Secrets {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            SecretsCommand::Set(command) => command.run(config).await?,
            SecretsCommand::Ls(command) => command.run(config).await?,
            SecretsCommand::Rm(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl Set {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        if let Some(problem) = variable_name_problem(&self.name) {
            return Err(Failure::usage(format!("this is not the name of a secret: {problem}"))
                .hint("give only the name; the value is asked for, or read from standard input or --from-file")
                .into());
        }
        let session = self.server.session(config)?;
        let value = self.value().await?;
        if value.expose().is_empty() {
            return Err(Failure::usage("the value is empty").into());
        }
        let stored = session.client.secret_put(&self.name, value).await?;
        if self.json {
            return terminal::print_json(&stored);
        }
        for warning in &stored.warnings {
            terminal::say_warning(warning);
        }
        terminal::say(&format!("secret {} is set", stored.info.name));
        Ok(())
    }

    async fn value(&self) -> anyhow::Result<SecretText> {
        if let Some(path) = &self.from_file {
            let file = File::open(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
            return read(file, &path.display().to_string()).map(Into::into);
        }
        if io::stdin().is_terminal() {
            terminal::prompt(&format!("value of {}: ", self.name));
            return Ok(without_line_end(typed().await?).into());
        }
        read(io::stdin().lock(), "standard input").map(|text| without_line_end(text).into())
    }
}

/// Reads a value whole; one that is too long is not read to its end.
fn read(from: impl Read, what: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(SECRET_VALUE_BYTES as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(format!("{what}: {e}")))?;
    if bytes.len() > SECRET_VALUE_BYTES + 2 {
        let text = format!("{what} is longer than the {SECRET_VALUE_BYTES} bytes that a secret may have");
        return Err(Failure::usage(text).into());
    }
    String::from_utf8(bytes).map_err(|_| {
        let hint = "encode it, for example with base64, and decode it in the task";
        Failure::usage(format!("{what} is not UTF-8 text")).hint(hint).into()
    })
}

/// A line typed without being shown.
async fn typed() -> anyhow::Result<String> {
    let hidden = Hidden::begin()?;
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().take(SECRET_VALUE_BYTES as u64 + 1).read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = reading => line??,
        interrupted = tokio::signal::ctrl_c() => {
            drop(hidden);
            interrupted?;
            // As a shell says it; not by returning, which would wait for the line.
            std::process::exit(130);
        }
    };
    drop(hidden);
    // The line end that was typed was not shown.
    terminal::say("");
    Ok(line)
}

fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// What is typed is not shown until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let secrets = self.server.session(config)?.client.secrets().await?;
        if self.json {
            return terminal::print_json(&json!({ "secrets": secrets }));
        }
        let mut table = terminal::table(["NAME", "CREATED", "UPDATED"]);
        for secret in &secrets {
            table.add_row([
                Cell::new(&secret.name),
                Cell::new(quantity::show_time(secret.created_at)),
                Cell::new(quantity::show_time(secret.updated_at)),
            ]);
        }
        Ok(terminal::print_table(&table)?)
    }
}

impl Remove {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        self.server.session(config)?.client.secret_delete(&self.name).await?;
        if self.json {
            return terminal::print_json(&json!({ "name": self.name, "deleted": true }));
        }
        terminal::say(&format!("secret {} is deleted", self.name));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_left_out() {
        for (given, kept) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", ""), (" a ", " a ")] {
            assert_eq!(without_line_end(given.to_owned()), kept, "{given:?}");
        }
    }

    #[test]
    fn what_is_too_long_or_no_text_is_refused() {
        assert_eq!(read(&b"value"[..], "f").unwrap(), "value");
        let long = vec![b'x'; SECRET_VALUE_BYTES * 2];
        assert!(read(&long[..], "f").unwrap_err().to_string().contains("longer than"));
        assert!(read(&[0xff, 0xfe][..], "f").unwrap_err().to_string().contains("UTF-8"));
    }
}
