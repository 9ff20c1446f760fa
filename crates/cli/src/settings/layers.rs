//! Putting the layers together, strictly: unknown names in the file are errors.

use super::{
    Rank, profile,
    quotas::QUOTAS,
    read_small,
    table::{self, Kind, SETTINGS, Setting},
};
use crate::{environment, failure::Failure};
use fetchml_api::validate::nearest;
use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind as Wrong,
    providers::{Format as _, Toml},
    value::{Dict, Map, Value},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Values set by flags: `table.key` and value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    values: Vec<(&'static str, &'static str, Value)>,
}

impl Flags {
    /// Notes that `flag` set `path`, if it did.
    pub(crate) fn set(mut self, path: &'static str, flag: &'static str, value: Option<impl Into<Value>>) -> Self {
        debug_assert!(table::find(path).is_some(), "{path} is not in the table");
        self.values.extend(value.map(|value| (path, flag, value.into())));
        self
    }
}

/// All layers, merged.
pub(crate) struct Layers {
    figment: Figment,
    file: Option<PathBuf>,
    profile: Option<PathBuf>,
}

/// One value and where it came from, for `config`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Explained {
    /// `table.key`.
    pub(crate) setting: &'static str,
    /// The value; absent: not set.
    pub(crate) value: Option<String>,
    /// Where it came from.
    pub(crate) source: String,
    /// Its environment variable.
    pub(crate) variable: &'static str,
    /// For people.
    pub(crate) meaning: &'static str,
}

/// A single value with its origin.
struct One {
    origin: String,
    path: &'static str,
    value: Value,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let value = figment::util::nest(self.path, self.value.clone());
        let dict = value.into_dict().expect("a nested value is a dictionary");
        Ok(Profile::Default.collect(dict))
    }
}

/// The list of rules on log lines.
pub(super) const LOG_RULES: &str = "log_rules";

const DEFAULT: &str = "default";
const PROFILE: &str = "profile ";
const FILE: &str = "file ";
const VARIABLE: &str = "environment variable ";
const FLAG: &str = "flag ";

impl Layers {
    /// Reads every layer. `file` is the one named by `--config`, which then must exist.
    pub(crate) fn load(file: Option<&Path>, flags: Flags) -> anyhow::Result<Self> {
        let mut layers = Self { figment: defaults(), file: None, profile: None };
        layers.add_profile()?;
        layers.add_file(file)?;
        for setting in SETTINGS {
            if let Some(text) = environment::var(setting.variable) {
                let text =
                    text.into_string().map_err(|_| Failure::usage(format!("{} is not UTF-8", setting.variable)))?;
                layers.add(format!("{VARIABLE}{}", setting.variable), setting.path, read_value(setting, &text)?);
            }
        }
        for (path, flag, value) in flags.values {
            layers.add(format!("{FLAG}{flag}"), path, value);
        }
        Ok(layers)
    }

    fn add(&mut self, origin: String, path: &'static str, value: Value) {
        self.figment = std::mem::take(&mut self.figment).merge(One { origin, path, value });
    }

    fn add_profile(&mut self) -> anyhow::Result<()> {
        let Some(path) = profile::path() else { return Ok(()) };
        let Some(profile) = profile::read(&path)? else { return Ok(()) };
        let origin = format!("{PROFILE}{}", path.display());
        self.add(origin.clone(), "client.url", profile.url.into());
        if let Some(key) = profile.api_key {
            self.add(origin.clone(), "client.api_key", key.into());
        }
        if let Some(fingerprint) = profile.tls_fingerprint {
            self.add(origin.clone(), "client.tls_fingerprint", String::from(fingerprint).into());
        }
        if let Some(file) = profile.key_file {
            self.add(origin, "client.key_file", file.to_string_lossy().into_owned().into());
        }
        self.profile = Some(path);
        Ok(())
    }

    fn add_file(&mut self, named: Option<&Path>) -> anyhow::Result<()> {
        let named = named.map(Path::to_owned).or_else(|| environment::var(environment::CONFIG).map(Into::into));
        let must_exist = named.is_some();
        let Some(path) = named.or_else(|| environment::config_dir().map(|dir| dir.join("config.toml"))) else {
            return Ok(());
        };
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(()),
            Err(error) => {
                return Err(Failure::usage(format!("cannot read the configuration {}: {error}", path.display())).into());
            }
        };
        let data: toml::Table =
            text.parse().map_err(|error| Failure::usage(format!("{}: {}", path.display(), to_one_line(&error))))?;
        check_names(&path, &data)?;
        self.figment = std::mem::take(&mut self.figment)
            .merge(Named { origin: format!("{FILE}{}", path.display()), inner: Toml::string(&text) });
        self.file = Some(path);
        Ok(())
    }

    /// A table of the file.
    pub(super) fn find(&self, table: &str) -> Option<toml::Value> {
        self.figment.extract_inner(table).ok()
    }

    /// The entries of a list in the file, each read by itself: an error names its number.
    pub(super) fn read_list<T: DeserializeOwned>(&self, list: &'static str) -> anyhow::Result<Vec<T>> {
        let Ok(Value::Array(_, entries)) = self.figment.find_value(list) else { return Ok(Vec::new()) };
        let (mut read, mut problems) = (Vec::new(), Vec::new());
        for (number, entry) in (1..).zip(entries) {
            match entry.deserialize() {
                Ok(entry) => read.push(entry),
                Err(error) => {
                    let known = !matches!(error.kind, Wrong::UnknownField(..));
                    let key = error.path.first().filter(|_| known).map_or_else(String::new, |key| format!("{key} "));
                    problems.push(format!("[[{list}]] number {number}: {key}{}", problem(&error.kind)));
                }
            }
        }
        if problems.is_empty() {
            return Ok(read);
        }
        let file = self.file.as_deref().unwrap_or(Path::new("the configuration"));
        Err(Failure::usage(format!("{}: {}", file.display(), problems.join("\n  "))).into())
    }

    pub(super) fn read<T: DeserializeOwned>(&self, table: &'static str) -> anyhow::Result<T> {
        self.figment.extract_inner(table).map_err(|error| self.wrong(table, &error).into())
    }

    fn wrong(&self, table: &str, error: &figment::Error) -> Failure {
        // The table stands before or after the key, depending on where the value was refused.
        let key = error.path.iter().find(|part| *part != table);
        let path = key.map_or_else(|| table.to_owned(), |key| format!("{table}.{key}"));
        let problem = problem(&error.kind);
        let origin =
            self.figment.find_metadata(&path).map_or_else(String::new, |found| format!(" (from {})", found.name));
        Failure::usage(format!("setting {path}: {problem}{origin}"))
            .hint("`fetchml config --explain` shows each setting and where it came from")
    }

    /// A text setting and the strength of the place it was set in.
    pub(super) fn text(&self, path: &str) -> Option<(String, Rank)> {
        let value = self.figment.find_value(path).ok()?;
        let text = value.as_str()?.to_owned();
        Some((text, rank(&self.origin(path))))
    }

    /// The address in the profile.
    pub(super) fn profile_url(&self) -> Option<String> {
        let profile = profile::read(self.profile.as_ref()?).ok()??;
        Some(profile.url)
    }

    fn origin(&self, path: &str) -> String {
        self.figment.find_metadata(path).map_or_else(|| DEFAULT.to_owned(), |found| found.name.to_string())
    }

    /// Every setting, its value and where that came from.
    pub(crate) fn explain(&self) -> Vec<Explained> {
        let explain = |setting: &'static Setting| {
            let value = self.figment.find_value(setting.path).ok().and_then(|value| show(setting, &value));
            let source = if value.is_none() { "not set".into() } else { self.origin(setting.path) };
            Explained { setting: setting.path, value, source, variable: setting.variable, meaning: setting.meaning }
        };
        SETTINGS.iter().map(explain).collect()
    }

    /// The configuration file that was read.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// What is wrong with a value.
fn problem(kind: &Wrong) -> String {
    match kind {
        Wrong::InvalidType(got, wanted) if wanted.starts_with('u') || wanted.starts_with('i') => {
            format!("must be a whole number, got {got}")
        }
        Wrong::InvalidType(got, wanted) | Wrong::InvalidValue(got, wanted) => format!("must be {wanted}, got {got}"),
        Wrong::UnknownVariant(got, known) => format!("must be one of {}, got {got:?}", known.join(", ")),
        Wrong::UnknownField(got, known) => format!("unknown name {got:?}; known: {}", known.join(", ")),
        Wrong::MissingField(field) => format!("{field} is not set"),
        kind => kind.to_string(),
    }
}

/// A provider under another name.
struct Named<P> {
    origin: String,
    inner: P,
}

impl<P: Provider> Provider for Named<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        self.inner.data()
    }
}

fn defaults() -> Figment {
    let mut figment = Figment::new();
    let mut add = |path, value: Value| {
        figment = std::mem::take(&mut figment).merge(One { origin: DEFAULT.into(), path, value });
    };
    add("client.url", "http://127.0.0.1:9101".into());
    add("server.listen", "127.0.0.1:9101".into());
    add("server.rate_limits", "on".into());
    add("server.auth_failures", i64::from(fetchml_server::limits::AUTH_FAILURES_PER_MINUTE).into());
    add("server.visibility", "lab".into());
    add("server.lost_after_s", 600.into());
    add("server.aging_interval_s", 1_800.into());
    add("server.hold_after_s", 900.into());
    add("server.prepare_timeout_s", 1_800.into());
    add("server.preempt_batch", false.into());
    add("server.preempt_service", false.into());
    add("server.preempt_cooldown_s", 600.into());
    add("server.tls", "off".into());
    add("server.allow_plain_http", false.into());
    add("server.retention_days", 90.into());
    add("server.task_retention_days", 90.into());
    add("server.deleted_retention_days", 1.into());
    add("server.retention_min_hours", 24.into());
    add("server.disk_high_percent", 90.into());
    add("server.disk_low_percent", 80.into());
    add("server.gc_every_hours", 1.into());
    add("worker.service_slots", 4.into());
    add("worker.log_quota_mib", 10_240.into());
    if let Some(dir) = environment::data_dir() {
        add("server.data_dir", dir.to_string_lossy().into_owned().into());
        add("worker.data_dir", dir.join("worker").to_string_lossy().into_owned().into());
    }
    figment
}

fn rank(origin: &str) -> Rank {
    [(FLAG, Rank::Flag), (VARIABLE, Rank::Environment), (FILE, Rank::File), (PROFILE, Rank::Profile)]
        .into_iter()
        .find(|(prefix, _)| origin.starts_with(prefix))
        .map_or(Rank::Default, |(_, rank)| rank)
}

fn read_value(setting: &Setting, text: &str) -> Result<Value, Failure> {
    let bad = |wanted| Failure::usage(format!("{} must be {wanted}, got {text:?}", setting.variable));
    match setting.kind {
        // One variable for both: on one machine, server and worker must not share a directory.
        Kind::Text if setting.path == "worker.data_dir" => {
            Ok(Path::new(text).join("worker").to_string_lossy().into_owned().into())
        }
        Kind::Text => Ok(text.to_owned().into()),
        Kind::Integer => text.trim().parse::<i64>().map(Into::into).map_err(|_| bad("a whole number")),
        Kind::Boolean => match text.trim() {
            "1" | "true" | "yes" | "on" => Ok(true.into()),
            "0" | "false" | "no" | "off" => Ok(false.into()),
            _ => Err(bad("true or false")),
        },
    }
}

fn show(setting: &Setting, value: &Value) -> Option<String> {
    if setting.secret {
        return Some("***".into());
    }
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number.to_i128().map(|number| number.to_string()),
        _ => None,
    }
}

fn to_one_line(error: &toml::de::Error) -> String {
    error.to_string().lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n  ")
}

/// Refuses names that no setting has.
fn check_names(file: &Path, data: &toml::Table) -> Result<(), Failure> {
    let tables: Vec<&str> = {
        let mut tables: Vec<&str> =
            SETTINGS.iter().filter_map(|setting| Some(setting.path.split_once('.')?.0)).collect();
        tables.dedup();
        tables
    };
    let unknown = |name: &str, known: &mut dyn Iterator<Item = &'static str>| {
        let failure = Failure::usage(format!("{}: unknown setting {name:?}", file.display()));
        let last = name.rsplit('.').next().unwrap_or(name);
        match nearest(last, known) {
            Some(near) => failure.hint(format!("did you mean {near:?}?")),
            None => failure.hint("`fetchml config --explain` lists all settings"),
        }
    };
    for (table, keys) in data {
        if table == LOG_RULES {
            if keys.as_array().is_none_or(|rules| !rules.iter().all(toml::Value::is_table)) {
                return Err(Failure::usage(format!("{}: write each rule as [[{LOG_RULES}]]", file.display())));
            }
            continue;
        }
        // What it holds has names of its own, and is checked when it is read.
        if table == QUOTAS {
            if !keys.is_table() {
                return Err(Failure::usage(format!("{}: write quotas as [{QUOTAS}.users.NAME]", file.display())));
            }
            continue;
        }
        if !tables.contains(&table.as_str()) {
            return Err(unknown(
                table,
                &mut SETTINGS.iter().filter_map(|setting| Some(setting.path.split_once('.')?.0)),
            ));
        }
        let toml::Value::Table(keys) = keys else {
            return Err(Failure::usage(format!("{}: {table:?} must be a table: [{table}]", file.display())));
        };
        for key in keys.keys() {
            let path = format!("{table}.{key}");
            if table::find(&path).is_none() {
                let in_table = |setting: &'static Setting| setting.path.strip_prefix(table.as_str())?.strip_prefix('.');
                return Err(unknown(&path, &mut SETTINGS.iter().filter_map(in_table)));
            }
        }
    }
    Ok(())
}
