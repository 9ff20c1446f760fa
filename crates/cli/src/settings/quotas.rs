//! Quotas in the configuration: `[quotas.roles.NAME]` and `[quotas.users.NAME]`.

use super::Layers;
use crate::failure::Failure;
use fetchml_api::{
    Quota, QuotaScope, Role,
    limits::{PRIORITY, QUOTA},
    validate::{is_user_id, nearest},
};
use std::collections::BTreeMap;

/// The table.
pub(super) const QUOTAS: &str = "quotas";

const SCOPES: [&str; 2] = ["roles", "users"];
const LIMITS: [&str; 4] = ["running", "queued", "gpus", "max_priority"];

impl Layers {
    /// What the file says, on top of what the server has by default.
    pub(super) fn read_quotas(
        &self,
        mut quotas: BTreeMap<QuotaScope, Quota>,
    ) -> anyhow::Result<BTreeMap<QuotaScope, Quota>> {
        let Some(table) = self.find(QUOTAS) else { return Ok(quotas) };
        let mut problems = Vec::new();
        for (scope, name, limits) in named(&table, &mut problems) {
            let at = format!("[{QUOTAS}.{scope}.{name}]");
            let Some(who) = who(&scope, &name) else {
                let what = if scope == "roles" {
                    "a role that submits tasks: admin, operator or user"
                } else {
                    "a user's name"
                };
                problems.push(format!("{at}: {name:?} is not {what}"));
                continue;
            };
            let quota = quotas.entry(who).or_default();
            for (limit, value) in limits {
                if let Err(problem) = set(quota, &limit, &value) {
                    problems.push(format!("{at}: {limit} {problem}"));
                }
            }
        }
        if problems.is_empty() {
            return Ok(quotas);
        }
        let file = self.file().map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string());
        Err(Failure::usage(format!("{file}: {}", problems.join("\n  "))).into())
    }
}

type Named = (String, String, Vec<(String, toml::Value)>);

/// Every quota with its scope and name.
fn named(table: &toml::Value, problems: &mut Vec<String>) -> Vec<Named> {
    let mut all = Vec::new();
    for (scope, names) in table.as_table().into_iter().flatten() {
        if !SCOPES.contains(&scope.as_str()) {
            problems.push(format!("[{QUOTAS}] has no {scope:?}{}; it has {}", near(scope, &SCOPES), SCOPES.join(", ")));
            continue;
        }
        let Some(names) = names.as_table() else {
            problems.push(format!("[{QUOTAS}.{scope}] must hold tables: [{QUOTAS}.{scope}.NAME]"));
            continue;
        };
        for (name, limits) in names {
            match limits.as_table() {
                Some(limits) => all.push((scope.clone(), name.clone(), limits.clone().into_iter().collect())),
                None => problems.push(format!("{QUOTAS}.{scope}.{name} must be a table: [{QUOTAS}.{scope}.{name}]")),
            }
        }
    }
    all
}

fn who(scope: &str, name: &str) -> Option<QuotaScope> {
    if scope == "users" {
        return is_user_id(name).then(|| QuotaScope::User(name.to_owned()));
    }
    name.parse().ok().filter(|role: &Role| role.submits()).map(QuotaScope::Role)
}

fn set(quota: &mut Quota, limit: &str, value: &toml::Value) -> Result<(), String> {
    let range = if limit == "max_priority" { PRIORITY } else { QUOTA };
    if !LIMITS.contains(&limit) {
        return Err(format!("is no limit{}; there are {}", near(limit, &LIMITS), LIMITS.join(", ")));
    }
    let number = value.as_integer().filter(|number| range.contains(number)).and_then(|n| u32::try_from(n).ok());
    let number =
        number.ok_or_else(|| format!("must be a whole number between {} and {}", range.start(), range.end()))?;
    match limit {
        "running" => quota.running = Some(number),
        "queued" => quota.queued = Some(number),
        "gpus" => quota.gpus = Some(number),
        _ => quota.max_priority = u8::try_from(number).ok(),
    }
    Ok(())
}

fn near(name: &str, known: &[&'static str]) -> String {
    nearest(name, known.iter().copied()).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default()
}
