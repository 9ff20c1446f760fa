//! `fetchml datasets`, and the data sets of `fetchml submit`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{CreateDatasetRequest, DatasetSpec, RegisteredDataset};
use serde_json::json;
use std::path::Path;

/// Give data sets names, and see which there are
///
/// A data set is a file that workers fetch once, verify and keep: tasks see it read-only. A task that names
/// one gets what the name means at its submit.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml datasets add digits https://data.example.org/digits.csv --sha256 e3b0c4...\n  \
        fetchml submit --dataset digits train.py"
)]
pub(crate) struct Datasets {
    #[command(subcommand)]
    command: DatasetsCommand,
}

#[derive(Subcommand, Debug)]
enum DatasetsCommand {
    Add(Add),
    Ls(List),
    Show(Show),
    Rm(Remove),
}

/// Register a data set under a name
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  \
    fetchml datasets add digits https://data.example.org/digits.csv --sha256 e3b0c4...\n  \
    fetchml datasets add imagenet-2012 file:///nfs/imagenet.tar --unpack --mount /data/imagenet")]
struct Add {
    /// Letters, digits, _, - and .
    name: String,
    /// URL of one file: https://, http:// or file:///PATH (on the workers)
    source: String,
    /// SHA-256 of the file: any other bytes are refused, and copies anywhere are known by it
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Where tasks see it [default: NAME below $FETCHML_DATASET_DIR]
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// It is a tar, tar.gz or zip archive: tasks see the directory in it
    #[arg(long)]
    unpack: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// List the registered data sets
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml datasets ls")]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Show one registered data set and which workers hold it
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml datasets show digits")]
struct Show {
    /// Its name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Forget a name; tasks that were submitted with it keep what they have
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml datasets rm digits")]
struct Remove {
    /// Its name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Datasets {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            DatasetsCommand::Add(command) => command.run(config).await?,
            DatasetsCommand::Ls(command) => command.run(config).await?,
            DatasetsCommand::Show(command) => command.run(config).await?,
            DatasetsCommand::Rm(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl Add {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let request = CreateDatasetRequest {
            name: self.name,
            source: self.source,
            sha256: self.sha256,
            mount_path: self.mount,
            unpack: self.unpack.then_some(true),
        };
        let made = self.server.session(config)?.client.dataset_create(&request).await?;
        if self.json {
            return terminal::print_json(&made);
        }
        terminal::say(&format!("data set {} is registered", made.name));
        if made.sha256.is_none() {
            terminal::say_hint(
                "without --sha256 nobody notices when the file changes; a task's log tells the hash that was found",
            );
        }
        Ok(())
    }
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let datasets = self.server.session(config)?.client.datasets().await?;
        if self.json {
            return terminal::print_json(&json!({ "datasets": datasets }));
        }
        let mut table = terminal::table(["NAME", "USER", "SHA256", "SOURCE"]);
        for set in &datasets {
            let sha256 = set.sha256.as_deref().map_or("-", |sha256| &sha256[..sha256.len().min(12)]);
            table.add_row([
                Cell::new(terminal::plain(&set.name)),
                Cell::new(terminal::plain(&set.user_id)),
                Cell::new(terminal::plain(sha256)),
                Cell::new(terminal::plain(&set.source)),
            ]);
        }
        Ok(terminal::print_table(&table)?)
    }
}

impl Show {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let client = self.server.session(config)?.client;
        let set = client.dataset(&self.name).await?;
        if self.json {
            return terminal::print_json(&set);
        }
        let key = set.dataset().key();
        let workers = client.workers().await.unwrap_or_default();
        let holders: Vec<String> =
            workers.iter().filter(|w| w.datasets.contains(&key)).map(|w| terminal::plain(&w.name)).collect();
        Ok(terminal::print(&details(&set, &holders))?)
    }
}

fn details(set: &RegisteredDataset, holders: &[String]) -> String {
    let mut lines = vec![format!("name      {}", terminal::plain(&set.name))];
    lines.push(format!("source    {}", terminal::plain(&set.source)));
    lines.push(format!("sha256    {}", set.sha256.as_deref().unwrap_or("not declared")));
    lines.extend(set.mount_path.as_ref().map(|path| format!("mount     {}", terminal::plain(path))));
    lines.extend(set.unpack.then(|| "unpacked  yes".to_owned()));
    lines.push(format!("user      {}", terminal::plain(&set.user_id)));
    lines.push(format!("added     {}", quantity::show_time(set.created_at)));
    lines.push(format!("held by   {}", if holders.is_empty() { "no worker".to_owned() } else { holders.join(", ") }));
    lines.join("\n")
}

impl Remove {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        self.server.session(config)?.client.dataset_delete(&self.name).await?;
        if self.json {
            return terminal::print_json(&json!({ "name": self.name, "deleted": true }));
        }
        terminal::say(&format!("data set {} is forgotten", self.name));
        Ok(())
    }
}

/// Reads `NAME[=SOURCE][@MOUNT]`; the source may end in `#sha256=HEX`, `#unpack` or both with `&` between.
pub(super) fn parse_dataset(text: &str) -> Result<DatasetSpec, String> {
    let (rest, mount_path) = match text.rsplit_once('@') {
        Some((rest, mount)) if mount.starts_with('/') => (rest, Some(mount.to_owned())),
        _ => (text, None),
    };
    let (name, source) = match rest.split_once('=') {
        Some((name, source)) => (name, Some(source)),
        None if rest.contains("://") => return Err("must begin with a name: NAME=SOURCE".into()),
        None => (rest, None),
    };
    if name.is_empty() || source == Some("") {
        return Err("must be NAME[=SOURCE][@MOUNT], such as digits=https://data.example.org/d.csv@/data/d.csv".into());
    }
    let mut spec = DatasetSpec { name: Some(name.to_owned()), mount_path, ..DatasetSpec::default() };
    let Some((source, fragment)) = source.map(|source| source.split_once('#').unwrap_or((source, ""))) else {
        return Ok(spec);
    };
    spec.source = Some(source.to_owned());
    for part in fragment.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("sha256", hex)) => spec.sha256 = Some(hex.to_owned()),
            None if part == "unpack" => spec.unpack = Some(true),
            _ => return Err(format!("{part:?} is not known; after # stand sha256=HEX and unpack")),
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, source: Option<&str>, mount: Option<&str>) -> DatasetSpec {
        DatasetSpec {
            name: Some(name.into()),
            source: source.map(Into::into),
            mount_path: mount.map(Into::into),
            ..DatasetSpec::default()
        }
    }

    #[test]
    fn a_data_set_is_a_name_and_perhaps_a_source_and_a_place() {
        assert_eq!(parse_dataset("digits"), Ok(spec("digits", None, None)));
        assert_eq!(parse_dataset("digits@/data/d"), Ok(spec("digits", None, Some("/data/d"))));
        let source = "https://h/@scope/x?a=b";
        assert_eq!(parse_dataset(&format!("d={source}")), Ok(spec("d", Some(source), None)));
        let placed = parse_dataset(&format!("d={source}#sha256=abc&unpack@/data"));
        let expected =
            DatasetSpec { sha256: Some("abc".into()), unpack: Some(true), ..spec("d", Some(source), Some("/data")) };
        assert_eq!(placed, Ok(expected));
        for bad in ["", "=https://h/x", "d=", "https://h/x", "@/data", "d=https://h/x#md5=1"] {
            assert!(parse_dataset(bad).is_err(), "{bad}");
        }
    }
}
