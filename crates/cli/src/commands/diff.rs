//! `fetchml diff`.

use crate::{failure::Exit, session::ServerFlags, terminal};
use clap::Args;
use fetchml_api::RunManifest;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Compare how two runs came about, but for times and ids
///
/// The exit code is 0 when nothing differs and 1 when something does.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml diff 9b0c41aa2d17 @last\n  fetchml diff --all --json A B")]
pub(crate) struct Diff {
    /// Id, the beginning or end of one, or @last
    a: String,
    /// Id, the beginning or end of one, or @last
    b: String,
    /// Times and ids too
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

/// One thing that differs; absent: that run does not have it.
#[derive(PartialEq, Eq, Debug, Serialize)]
struct Difference {
    field: String,
    a: Option<String>,
    b: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    same: bool,
    differences: Vec<Difference>,
}

impl Diff {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let a = session.client.run_manifest(session.task_id(&self.a).await?, None).await?;
        let b = session.client.run_manifest(session.task_id(&self.b).await?, None).await?;
        for manifest in [&a, &b] {
            Self::say_what_is_missing(manifest);
        }
        let differences = differences(&fields(&a)?, &fields(&b)?, self.all);
        let same = differences.is_empty();
        if self.json {
            terminal::print_json(&Report { same, differences })?;
        } else if same {
            terminal::say(if self.all { "nothing differs" } else { "nothing but times and ids differs" });
        } else {
            let mut table = terminal::table(["FIELD", "A", "B"]);
            let shown = |value: Option<String>| value.map_or_else(|| "-".to_owned(), |value| terminal::plain(&value));
            for Difference { field, a, b } in differences {
                table.add_row([terminal::plain(&field), shown(a), shown(b)]);
            }
            terminal::print_table(&table)?;
        }
        Ok(if same { Exit::Success } else { Exit::DIFFERENT })
    }

    fn say_what_is_missing(manifest: &RunManifest) {
        let id = manifest.task.id;
        if manifest.outcome.is_none() {
            terminal::say_warning(&format!("task {id} has not ended: what follows is not known yet"));
        }
        if manifest.nodes.iter().any(|node| node.provenance.is_none()) {
            terminal::say_warning(&format!("how task {id} was run is not known: its worker never said so"));
        }
        if !manifest.spec.env.is_empty() && manifest.spec.env.values().all(|value| value == "***") {
            let owner = terminal::plain(&manifest.task.user_id);
            terminal::say_warning(&format!("values of the environment of task {id} are shown to {owner} only"));
        }
    }
}

/// Every value of a manifest by its name, such as `spec.cpu`.
pub(super) fn fields(manifest: &RunManifest) -> anyhow::Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    flatten(String::new(), &serde_json::to_value(manifest)?, &mut fields);
    Ok(fields)
}

fn flatten(name: String, value: &Value, fields: &mut BTreeMap<String, String>) {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(members) => members.iter().for_each(|(part, value)| flatten(below(part), value, fields)),
        Value::Array(items) if name.ends_with(".packages") => {
            for package in items.iter().filter_map(Value::as_str) {
                let (package, version) =
                    package.split_once("==").or(package.split_once(" @ ")).unwrap_or((package, ""));
                fields.insert(below(package), version.to_owned());
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // By what people know it, where it has a name: then one more or less moves no other.
                let known_by = ["path", "name"].iter().find_map(|key| item.get(key)?.as_str());
                match known_by.filter(|_| !name.ends_with("gpus")) {
                    Some(part) => flatten(below(part), item, fields),
                    None => flatten(format!("{name}[{index}]"), item, fields),
                }
            }
        }
        Value::String(text) => drop(fields.insert(name, text.clone())),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => drop(fields.insert(name, value.to_string())),
    }
}

/// What is another for every run.
fn is_time_or_id(field: &str) -> bool {
    const OWN: [&str; 9] = [
        "task.id",
        "task.created_at",
        "task.rerun_of",
        "attempt.id",
        "attempt.epoch.",
        "attempt.created_at",
        "attempt.started_at",
        "attempt.ended_at",
        "files_deleted_at",
    ];
    OWN.iter().any(|own| field == *own || (own.ends_with('.') && field.starts_with(own)))
        || field.ends_with(".worker_id")
}

fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>, all: bool) -> Vec<Difference> {
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let differs = |name: &&String| (all || !is_time_or_id(name)) && a.get(*name) != b.get(*name);
    let difference =
        |name: &String| Difference { field: name.clone(), a: a.get(name).cloned(), b: b.get(name).cloned() };
    names.into_iter().filter(differs).map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields_of(value: &Value) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        flatten(String::new(), value, &mut fields);
        fields
    }

    #[test]
    fn what_differs_is_named_and_moves_nothing_else() {
        let manifest = |numpy: &str, extra: Option<&str>, id: &str| {
            let file = |path: &str| json!({"path": path, "sha256": "aa"});
            let files: Vec<_> = extra.into_iter().chain(["m.pt"]).map(file).collect();
            json!({
                "task": {"id": id, "user_id": "ada"},
                "attempt": {"epoch": {"n": id}, "number": 1},
                "nodes": [{"worker_id": id, "provenance": {"python": {"packages": [format!("numpy=={numpy}"), "own"]},
                    "gpus": [{"name": "H100", "index": 0}, {"name": "H100", "index": 1}]}}],
                "artifacts": files, "spec": {"cpu": 1, "args": null},
            })
        };
        let first = fields_of(&manifest("1.0", None, "x"));
        assert_eq!(differences(&first, &fields_of(&manifest("1.0", None, "y")), false), []);
        assert_eq!(first["nodes[0].provenance.gpus[1].index"], "1", "two of one name are two");
        let told = |field: &str, a: Option<&str>, b: Option<&str>| Difference {
            field: field.into(),
            a: a.map(Into::into),
            b: b.map(Into::into),
        };
        let second = fields_of(&manifest("2.0", Some("a.txt"), "y"));
        let expected = [
            told("artifacts.a.txt.path", None, Some("a.txt")),
            told("artifacts.a.txt.sha256", None, Some("aa")),
            told("nodes[0].provenance.python.packages.numpy", Some("1.0"), Some("2.0")),
        ];
        assert_eq!(differences(&first, &second, false), expected);
        let fields: Vec<_> = differences(&first, &second, true).into_iter().map(|d| d.field).collect();
        assert!(["task.id", "attempt.epoch.n", "nodes[0].worker_id"].iter().all(|own| fields.contains(&(*own).into())));
    }
}
