//! `fetchml experiments`, and the experiment of `fetchml submit` and `fetchml tasks`.

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::{ServerFlags, Session, is_part},
    terminal,
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use fetchml_api::{
    CreateExperimentRequest, EditExperimentRequest, Experiment, ExperimentId, ExperimentStatus, TaskListQuery,
};
use std::path::Path;

/// Keep tasks together that belong together
///
/// A task belongs to the experiment that its submit names; `fetchml tasks --experiment` lists them, `fetchml usage`
/// counts what they used.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml experiments create digits --description \"learning rates\"\n  \
        fetchml submit --experiment digits train.py --lr 0.01\n  fetchml tasks --experiment digits")]
pub(crate) struct Experiments {
    #[command(subcommand)]
    command: ExperimentsCommand,
}

#[derive(Subcommand, Debug)]
enum ExperimentsCommand {
    Create(Create),
    Ls(List),
    Show(Show),
    Edit(Edit),
}

/// Make an experiment
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml experiments create digits --description \"learning rates\"")]
struct Create {
    /// Its name, for people
    name: String,
    /// What it is about
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// List experiments, newest first
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml experiments ls\n  fetchml experiments ls --status archived")]
struct List {
    /// Only those that are active, archived or deleted [default: active and archived]
    #[arg(long)]
    status: Option<ExperimentStatus>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Show an experiment and how many tasks it has
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml experiments show digits")]
struct Show {
    /// Its name or id, or the beginning or end of the id
    experiment: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// Change an own experiment: rename, describe, archive or delete it
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml experiments edit digits --status archived\n  \
        fetchml experiments edit digits --name digits-2024 --description \"\"")]
#[group(required = true, multiple = true, args = ["name", "description", "status"])]
struct Edit {
    /// Its name or id, or the beginning or end of the id
    experiment: String,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Another description; empty: none
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// active takes tasks; archived and deleted do not, and deleted is in no list; tasks are not touched
    #[arg(long)]
    status: Option<ExperimentStatus>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Experiments {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        match self.command {
            ExperimentsCommand::Create(command) => command.run(config).await?,
            ExperimentsCommand::Ls(command) => command.run(config).await?,
            ExperimentsCommand::Show(command) => command.run(config).await?,
            ExperimentsCommand::Edit(command) => command.run(config).await?,
        }
        Ok(Exit::Success)
    }
}

impl Create {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let request = CreateExperimentRequest { name: self.name, description: self.description };
        let made = self.server.session(config)?.client.experiment_create(&request).await?;
        if self.json {
            return terminal::print_json(&made);
        }
        terminal::print(&made.id.to_string())?;
        terminal::say_hint(&format!("`fetchml submit --experiment {} ...` runs a task in it", made.id));
        Ok(())
    }
}

impl List {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let experiments = self.server.session(config)?.client.experiments(self.status).await?;
        if self.json {
            return terminal::print_json(&experiments);
        }
        let mut table = terminal::table(["ID", "NAME", "USER", "STATUS", "AGE", "DESCRIPTION"]);
        let now = quantity::now();
        for experiment in &experiments {
            let description = experiment.description.as_deref().and_then(|text| text.lines().next());
            table.add_row([
                Cell::new(experiment.id),
                Cell::new(terminal::plain(&experiment.name)),
                Cell::new(terminal::plain(&experiment.user_id)),
                Cell::new(experiment.status),
                terminal::number(quantity::show_micros(now.since(experiment.created_at))),
                Cell::new(terminal::plain(description.unwrap_or("-"))),
            ]);
        }
        terminal::print_table(&table)?;
        if experiments.is_empty() && self.status.is_none() {
            terminal::say_hint("`fetchml experiments create NAME` makes one");
        }
        Ok(())
    }
}

impl Show {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let session = self.server.session(config)?;
        let experiment = find(&session, &self.experiment).await?;
        if self.json {
            return terminal::print_json(&experiment);
        }
        let query = TaskListQuery { experiment_id: Some(experiment.id), limit: Some(0), ..TaskListQuery::default() };
        let tasks = session.client.tasks(&query).await?.total;
        Ok(terminal::print(&details(&experiment, tasks))?)
    }
}

fn details(experiment: &Experiment, tasks: i64) -> String {
    let mut lines = vec![
        format!("id          {}", experiment.id),
        format!("name        {}", terminal::plain(&experiment.name)),
        format!("status      {}", experiment.status),
        format!("user        {}", terminal::plain(&experiment.user_id)),
        format!("created     {}", quantity::show_time(experiment.created_at)),
    ];
    lines.extend(experiment.commit_id.as_ref().map(|id| format!("newest code {}", terminal::plain(id))));
    lines.push(format!("tasks       {tasks}"));
    lines.extend(experiment.description.as_ref().map(|text| format!("\n{}", terminal::plain(text))));
    lines.join("\n")
}

impl Edit {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let session = self.server.session(config)?;
        let id = find(&session, &self.experiment).await?.id;
        let request = EditExperimentRequest { name: self.name, description: self.description, status: self.status };
        let now = session.client.experiment_edit(id, &request).await?;
        if self.json {
            return terminal::print_json(&now);
        }
        terminal::say(&format!("experiment {} is {}", terminal::plain(&now.name), now.status));
        Ok(())
    }
}

/// An experiment by its id, which may be deleted, or by its name or a part of its id.
pub(super) async fn find(session: &Session, text: &str) -> anyhow::Result<Experiment> {
    if let Ok(id) = text.parse::<ExperimentId>() {
        return Ok(session.client.experiment(id).await?);
    }
    Ok(pick(session.client.experiments(None).await?, text)?)
}

fn pick(experiments: Vec<Experiment>, text: &str) -> Result<Experiment, Failure> {
    let is_named = |experiment: &Experiment| experiment.name == text;
    let part = text.to_ascii_lowercase();
    let has_part = |experiment: &Experiment| is_part(&part, &experiment.id);
    let by_name = experiments.iter().any(is_named);
    let mut found: Vec<Experiment> =
        experiments.into_iter().filter(|one| if by_name { is_named(one) } else { has_part(one) }).collect();
    match (found.pop(), found.len()) {
        (Some(experiment), 0) => Ok(experiment),
        (None, _) => Err(Failure::new(format!("no experiment has a name or id like {text:?}"))
            .hint("`fetchml experiments ls` lists them, `fetchml experiments create NAME` makes one")),
        (Some(one), _) => {
            let ids: Vec<String> = found.iter().chain([&one]).take(5).map(|one| one.id.to_string()).collect();
            Err(Failure::usage(format!("{} experiments are meant by {text:?}", found.len() + 1))
                .hint(format!("give the id of one: {}", ids.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::Micros;

    fn experiment(id: &str, name: &str) -> Experiment {
        Experiment {
            id: id.parse().unwrap(),
            name: name.into(),
            description: None,
            commit_id: None,
            user_id: "ada".into(),
            created_at: Micros(0),
            status: ExperimentStatus::Active,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_name_goes_before_a_part_of_an_id_and_must_mean_one() {
        let (a, b) = ("01900000-0000-7000-8000-00000000000a", "01900000-0000-7000-8000-00000000000b");
        let all = || vec![experiment(a, "digits"), experiment(b, "00000000000a"), experiment(b, "twice")];
        assert_eq!(pick(all(), "digits").unwrap().id.to_string(), a);
        assert_eq!(pick(all(), "00000000000a").unwrap().id.to_string(), b, "it is the name of that");
        assert_eq!(pick(all(), "8000-00000000000A").unwrap().id.to_string(), a);
        assert!(pick(all(), "a").is_err(), "too short");
        assert!(pick(all(), "Digits").is_err());
        assert!(pick(all(), "01900000").unwrap_err().to_string().contains("3 experiments"));
    }
}
