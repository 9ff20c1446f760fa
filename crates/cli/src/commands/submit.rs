//! `fetchml submit`.

use super::{
    datasets::parse_dataset,
    experiments, explain, follow,
    reservations::{self, Found},
    snapshot,
};
use crate::{
    failure::{EXIT_CODES, Exit, Failure},
    quantity,
    session::ServerFlags,
    terminal,
};
use clap::{Args, ValueEnum};
use fetchml_api::{
    ArraySpec, CreateTaskRequest, DatasetSpec, Dependency, DependencyOn, Network, Notify, NotifyOn, OnLost, limits,
    validate::nearest,
};
use fetchml_client::snapshot::Snapshot;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Run a script or command as a task
///
/// The files of the current directory go with it as a snapshot: all but what .gitignore and
/// .fetchmlignore leave out, and but .git, .fetchml, __pycache__ and virtual environments. Only files that
/// the server does not have yet are sent. A requirements.txt, pyproject.toml or uv.lock among them
/// makes the Python environment.
///
/// Options stand before ENTRYPOINT; everything after it belongs to the task. *.py runs by Python, *.sh by
/// bash, anything else as a command without a shell.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml submit --follow train.py --epochs 10\n  \
        fetchml submit --gpu 1 --memory 16 --time-limit 8h -- python -m lab.train --lr 3e-4\n  \
        fetchml submit --dataset digits=https://data.example.org/digits.csv train.py",
    after_long_help = EXIT_CODES
)]
pub(crate) struct Submit {
    /// Script or command, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["ENTRYPOINT", "ARGS"])]
    command: Vec<String>,
    /// Name of the task [default: from ENTRYPOINT]
    #[arg(long)]
    name: Option<String>,
    /// Directory to take the snapshot of
    #[arg(long, default_value = ".", conflicts_with = "no_snapshot", value_name = "DIR")]
    dir: PathBuf,
    /// Take no files along
    #[arg(long)]
    no_snapshot: bool,
    /// Container image to run in, such as python:3.12-slim; its own Python is used [default: the worker's system]
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// CPU cores [default: 1]
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=limits::CPU_MAX))]
    cpu: Option<i32>,
    /// Memory, GiB or with a unit (16, 512M) [default: nothing reserved]
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_memory_gb)]
    memory: Option<i32>,
    /// Whole GPUs [default: 0]
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=limits::GPU_MAX))]
    gpu: Option<i32>,
    /// A word of the GPU's name, such as H100
    #[arg(long, value_name = "NAME", requires = "gpu")]
    gpu_type: Option<String>,
    /// Nodes that start together, on as many workers; cpu, memory and GPUs are of each [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=limits::NODE_COUNT_MAX))]
    nodes: Option<i32>,
    /// 1 to 10, higher runs first [default: 5]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10))]
    priority: Option<i32>,
    /// Longest time running (90, 45s, 1h30m, 2d) [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_time_limit)]
    time_limit: Option<i64>,
    /// Without a network: none [default: on]
    #[arg(long, value_name = "HOW", value_parser = ["on", "none"])]
    network: Option<String>,
    /// When the worker is not heard any more: fence stops it there and queues it again, keep waits [default: fence]
    #[arg(long, value_name = "WHAT", value_parser = ["fence", "keep"])]
    on_lost: Option<String>,
    /// How long the worker may be silent before that (90, 10m) [default: as the server is set]
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_time_limit)]
    lost_after: Option<i64>,
    /// Stop it when it writes nothing to its log or metrics for so long (90, 10m) [default: never]
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_time_limit)]
    stall_after: Option<i64>,
    /// Start with the files that this task left in its checkpoint directory: an id, the beginning or end of one, or @last
    #[arg(long, value_name = "TASK")]
    resume_from: Option<String>,
    /// Data set of the task, registered or with its source, which may end in #sha256=HEX, #unpack or both with & between; may be repeated
    #[arg(long, value_name = "NAME[=SOURCE][@MOUNT]", value_parser = parse_dataset)]
    dataset: Vec<DatasetSpec>,
    /// Experiment that it belongs to (see `fetchml experiments`): its name or id
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    /// Run on the GPUs of this reservation (see `fetchml reserve`), all of them unless --gpu and --nodes say otherwise: its
    /// id, or the beginning or end of it
    #[arg(long, value_name = "ID")]
    reservation: Option<String>,
    /// Wait for this task or array to complete, or with :any to end anyhow; an id, a part of one, or @last; may be repeated
    #[arg(long, value_name = "ID[:any]")]
    after: Vec<String>,
    /// Make an array: a task for each index, such as 0-9,20,30-40:2; with %4 four run at once. Each finds its own in
    /// FETCHML_ARRAY_INDEX
    #[arg(long, value_name = "INDICES", conflicts_with = "follow")]
    array: Option<ArraySpec>,
    /// How often a failure is tried again, 0 to 10 [default: 0]
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=limits::MAX_RETRIES_MAX))]
    retries: Option<i32>,
    /// Environment variable of the task; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Own secret that the task gets as an environment variable (see `fetchml secrets`); may be repeated
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Label of the task; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    meta: Vec<(String, String)>,
    /// Send mail about it to this address, where the server sends mail
    #[arg(long, value_name = "ADDRESS")]
    mail_user: Option<String>,
    /// When: BEGIN, END (however it ends), FAIL, ALL or NONE; several with commas between [default: END]
    #[arg(
        long,
        value_name = "TYPES",
        value_delimiter = ',',
        ignore_case = true,
        hide_possible_values = true,
        requires = "mail_user"
    )]
    mail_type: Vec<MailType>,
    /// Submit nothing; say whether the task would start now, and if not why
    #[arg(long, conflicts_with = "follow")]
    dry_run: bool,
    /// Show states and log until the task ends; the exit code tells how it ended
    #[arg(short, long)]
    follow: bool,
    /// Print the task as JSON; with --follow at its end, instead of its log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// When mail is sent, in the words of Slurm.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "UPPER")]
enum MailType {
    Begin,
    End,
    Fail,
    All,
    None,
}

impl MailType {
    const fn events(self) -> &'static [NotifyOn] {
        match self {
            Self::Begin => &[NotifyOn::Running],
            Self::End => &[NotifyOn::Completed, NotifyOn::Failed],
            Self::Fail => &[NotifyOn::Failed],
            Self::All => &[NotifyOn::Running, NotifyOn::Completed, NotifyOn::Failed],
            Self::None => &[],
        }
    }
}

/// What is sent to an address; none: nothing is.
fn notify(address: Option<&String>, types: &[MailType]) -> Option<Notify> {
    let types = if types.is_empty() { &[MailType::End] } else { types };
    let on: BTreeSet<NotifyOn> = types.iter().flat_map(|one| one.events()).copied().collect();
    let email = address?.clone();
    (!on.is_empty()).then(|| Notify { email, on: on.into_iter().collect() })
}

pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".into()),
    }
}

impl Submit {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let client = &session.client;
        let mut request = self.request()?;
        if let Some(text) = &self.resume_from {
            request.resume_from = Some(session.task_id(text).await?);
        }
        if let Some(text) = &self.experiment {
            request.experiment_id = Some(experiments::find(&session, text).await?.id);
        }
        if let Some(text) = &self.reservation {
            match reservations::find(&session, text).await? {
                Found::Live(found) => {
                    request.reservation_id = Some(found.id);
                    request.gpu = request.gpu.or(Some(found.gpu_count));
                    request.node_count = request.node_count.or((found.node_count > 1).then_some(found.node_count));
                }
                Found::Id(id) => request.reservation_id = Some(id),
            }
        }
        for text in &self.after {
            let (id, on) = match text.rsplit_once(':') {
                Some((id, "any")) => (id, DependencyOn::Any),
                Some((id, "ok")) => (id, DependencyOn::Ok),
                Some((_, other)) => {
                    return Err(Failure::usage(format!("--after {text}: {other:?} is neither ok nor any")).into());
                }
                None => (text.as_str(), DependencyOn::Ok),
            };
            request.depends_on.push(Dependency { id: session.task_id(id).await?, on });
        }
        if self.dry_run {
            let explanation = client.submit_dry_run(&request, true).await?;
            if self.json {
                terminal::print_json(&explanation)?;
            } else {
                terminal::print(&explain::text(&explanation))?;
            }
            return Ok(Exit::Success);
        }
        if !self.no_snapshot {
            let snapshot = snapshot::take(client, &self.dir, self.json).await?;
            self.warn_if_missing(&snapshot);
            request.snapshot_id = Some(snapshot.id().to_owned());
        }
        let task = client.submit(&request, true).await?;
        let array = self.array.as_ref().and(task.array_id);
        session.remember(array.unwrap_or(task.id));
        for warning in &task.warnings {
            terminal::say_warning(warning);
        }
        if !self.follow {
            if self.json {
                terminal::print_json(&task)?;
            } else if let Some(id) = array {
                terminal::print(&id.to_string())?;
                terminal::say_hint(&format!("`fetchml show {id}` counts its tasks, `fetchml cancel {id}` stops them"));
            } else {
                terminal::print(&task.id.to_string())?;
                terminal::say_hint(&format!("`fetchml logs -f {}` follows it", task.id));
            }
            return Ok(Exit::Success);
        }
        follow::to_the_end(client, &task, self.json).await
    }

    fn request(&self) -> Result<CreateTaskRequest, Failure> {
        let (entrypoint, args) = self.command.split_first().expect("clap asks for at least one");
        if entrypoint.trim().is_empty() {
            return Err(Failure::usage("ENTRYPOINT is empty"));
        }
        Ok(CreateTaskRequest {
            job_name: self.name.clone().unwrap_or_else(|| default_name(entrypoint)),
            priority: self.priority,
            entrypoint: Some(entrypoint.clone()),
            args: (!args.is_empty()).then(|| shell_words::join(args)),
            image: self.image.clone(),
            cpu: self.cpu,
            memory_gb: self.memory,
            gpu: self.gpu,
            gpu_type: self.gpu_type.clone(),
            node_count: self.nodes,
            max_retries: self.retries,
            time_limit_s: self.time_limit,
            network: self.network.as_deref().map(|how| if how == "none" { Network::None } else { Network::On }),
            on_lost: self.on_lost.as_deref().map(|what| if what == "keep" { OnLost::Keep } else { OnLost::Fence }),
            lost_after_s: self.lost_after,
            stall_after_s: self.stall_after,
            dataset_specs: self.dataset.clone(),
            array: self.array.clone(),
            env: to_map("--env", &self.env)?,
            secrets: self.secret.clone(),
            metadata: to_map("--meta", &self.meta)?,
            notify: notify(self.mail_user.as_ref(), &self.mail_type),
            ..Default::default()
        })
    }

    /// A script that is not among the files is more often a slip than a plan, but the worker decides.
    fn warn_if_missing(&self, snapshot: &Snapshot) {
        let script = self.command[0].trim_start_matches("./");
        let is_script = [".py", ".sh"].iter().any(|ending| script.ends_with(ending));
        let entries = &snapshot.manifest().entries;
        if !is_script || script.starts_with('/') || entries.iter().any(|entry| entry.path == script) {
            return;
        }
        terminal::say_warning(&format!("{script} is not among the files of {}", self.dir.display()));
        if self.dir.join(script).exists() {
            terminal::say_hint("it is left out by .gitignore or .fetchmlignore");
        } else if let Some(near) = nearest(script, entries.iter().map(|entry| entry.path.as_str())) {
            terminal::say_hint(&format!("did you mean {near}?"));
        }
    }
}

pub(super) fn to_map(flag: &str, pairs: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{flag} sets {name} twice")));
        }
    }
    Ok(map)
}

/// A name from the file name of the entry point.
fn default_name(entrypoint: &str) -> String {
    let first = entrypoint.split_whitespace().next().unwrap_or_default();
    let stem = Path::new(first).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' })
        .take(limits::JOB_NAME_CHARS)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "task".into() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_is_asked_for_in_the_words_of_slurm() {
        use NotifyOn::{Completed, Failed, Running};
        let on = |types: &[MailType]| notify(Some(&"ada@example.org".to_owned()), types).map(|notify| notify.on);
        assert_eq!(on(&[]), Some(vec![Completed, Failed]));
        assert_eq!(on(&[MailType::Fail, MailType::Begin]), Some(vec![Running, Failed]));
        assert_eq!(on(&[MailType::All, MailType::End]), Some(vec![Running, Completed, Failed]));
        assert_eq!(on(&[MailType::None]), None);
        assert_eq!(notify(None, &[]), None);
    }

    #[test]
    fn names_come_from_the_entry_point() {
        for (entrypoint, name) in [
            ("train.py", "train"),
            ("./lab/fine tune.py", "fine"),
            ("python -m x", "python"),
            ("/bin/true", "true"),
            ("…", "task"),
            ("a.b.py", "a-b"),
        ] {
            assert_eq!(default_name(entrypoint), name, "{entrypoint}");
        }
    }
}
