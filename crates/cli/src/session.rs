//! What client commands share: the connection, and turning what people type into task ids.

use crate::{
    environment,
    failure::Failure,
    limits,
    settings::{Flags, Layers, read_small},
};
use clap::Args;
use fetchml_api::{TaskId, TaskListQuery};
use fetchml_client::Client;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// The server to talk to.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServerFlags {
    /// Address of the server, such as http://127.0.0.1:9101 [env: FETCHML_URL]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    url: Option<String>,
    /// File that holds the API key [env: FETCHML_KEY_FILE; FETCHML_API_KEY holds a key itself]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustFlags,
}

/// How the server is known, where it speaks TLS.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TrustFlags {
    /// File of the authorities that vouch for the server, PEM [env: FETCHML_CA_CERT] [default: the system's]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    ca_cert: Option<PathBuf>,
    /// Fingerprint of the server's certificate, as it prints it at its start [env: FETCHML_TLS_FINGERPRINT]
    #[arg(long, value_name = "SHA256", help_heading = "Server")]
    tls_fingerprint: Option<String>,
}

impl TrustFlags {
    /// Sets what is given.
    pub(crate) fn add_to(&self, flags: Flags, ca_cert: &'static str, fingerprint: &'static str) -> Flags {
        let file = self.ca_cert.as_ref().map(|file| file.to_string_lossy().into_owned());
        flags.set(ca_cert, "--ca-cert", file).set(fingerprint, "--tls-fingerprint", self.tls_fingerprint.clone())
    }
}

impl ServerFlags {
    fn flags(&self) -> Flags {
        let file = self.key_file.as_ref().map(|file| file.to_string_lossy().into_owned());
        let flags =
            Flags::default().set("client.url", "--url", self.url.clone()).set("client.key_file", "--key-file", file);
        self.trust.add_to(flags, "client.ca_cert", "client.tls_fingerprint")
    }

    /// Connects to nothing yet.
    pub(crate) fn session(&self, config: Option<&Path>) -> anyhow::Result<Session> {
        let settings = Layers::load(config, self.flags())?.client()?;
        Ok(Session { client: Client::trusting(&settings.url, &settings.key, &settings.trust)? })
    }

    /// The layers with these flags on top.
    pub(crate) fn layers(&self, config: Option<&Path>) -> anyhow::Result<Layers> {
        Layers::load(config, self.flags())
    }
}

/// A server to talk to and the memory of what was last submitted to it.
pub(crate) struct Session {
    /// The connection.
    pub(crate) client: Client,
}

type LastTasks = BTreeMap<String, TaskId>;

impl Session {
    /// Finds a task, or an array, by its id, by the beginning or end of one, or by `@last`.
    pub(crate) async fn task_id(&self, text: &str) -> anyhow::Result<TaskId> {
        if text == "@last" {
            let last = last_path().map(|path| read_last(&path)).unwrap_or_default();
            return last.get(self.client.url()).copied().ok_or_else(|| {
                Failure::usage(format!("nothing was submitted to {} from here yet", self.client.url()))
                    .hint("`fetchml tasks` lists the newest tasks")
                    .into()
            });
        }
        let text = text.to_ascii_lowercase();
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        if text.len() > 36 || !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(Failure::usage(format!("{text:?} is not a task id")).hint("`fetchml tasks` lists them").into());
        }
        if text.len() < limits::SHORT_ID_CHARS {
            return Err(Failure::usage(format!("{text:?} is too short for a task id"))
                .hint(format!("give at least {} characters of its beginning or end", limits::SHORT_ID_CHARS))
                .into());
        }
        self.by_part(&text).await
    }

    async fn by_part(&self, part: &str) -> anyhow::Result<TaskId> {
        let query = TaskListQuery { limit: Some(limits::SHORT_ID_TASKS), ..Default::default() };
        let tasks = self.client.tasks(&query).await?.tasks;
        let matches: Vec<TaskId> = tasks
            .iter()
            .flat_map(|task| [Some(task.id), task.array_id])
            .flatten()
            .filter(|id| is_part(part, id))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        match matches[..] {
            [id] => Ok(id),
            [] => {
                Err(Failure::new(format!("no task among the newest {} has {part:?} in its id", limits::SHORT_ID_TASKS))
                    .hint("give the whole id; `fetchml tasks` lists them")
                    .into())
            }
            [first, second, ..] => {
                Err(Failure::usage(format!("{part:?} fits {} tasks, such as {first} and {second}", matches.len()))
                    .hint("give more characters, or the end of the id: ids made at the same time begin alike")
                    .into())
            }
        }
    }

    /// Remembers the task as `@last`. Failing to is no failure of the command.
    pub(crate) fn remember(&self, id: TaskId) {
        let Some(path) = last_path() else { return };
        let mut last = read_last(&path);
        if last.len() >= limits::LAST_TASKS {
            last.clear();
        }
        last.insert(self.client.url().to_owned(), id);
        if let Err(error) = write_last(&path, &last) {
            tracing::debug!("cannot remember the task in {}: {error}", path.display());
        }
    }
}

/// Whether `part`, in lower case, is long enough to name something, and begins or ends this id.
pub(crate) fn is_part(part: &str, id: &impl ToString) -> bool {
    let id = id.to_string();
    part.len() >= limits::SHORT_ID_CHARS && (id.starts_with(part) || id.ends_with(part))
}

fn last_path() -> Option<PathBuf> {
    environment::state_dir().map(|dir| dir.join("last.json"))
}

fn read_last(path: &Path) -> LastTasks {
    read_small(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn write_last(path: &Path, last: &LastTasks) -> io::Result<()> {
    let directory = path.parent().expect("it lies in a directory");
    fs::create_dir_all(directory)?;
    let part = directory.join(format!(".last.{}", std::process::id()));
    fs::write(&part, serde_json::to_vec(last)?)?;
    fs::rename(part, path)
}
