//! Reading request bodies field by field, so that every problem is reported at once and unknown
//! fields are named with the nearest known one.

use crate::{
    dataset::{self, Dataset, Registry},
    dependency::{Dependency, DependencyOn},
    error::Problem,
    image::ImageName,
    limits,
    notify::{Notify, NotifyOn, how_it_ended, mail_address_problem},
    provenance::Source,
    secret::variable_name_problem,
    snapshot::is_snapshot_id,
    task::{CreateTaskRequest, Network, OnLost},
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

/// What reading a body yields.
#[derive(Debug)]
pub struct Read<T> {
    /// The request.
    pub request: T,
    /// One line per unknown field, with the nearest known name.
    pub warnings: Vec<String>,
}

/// Longest text of an id, code points.
const UUID_CHARS: usize = 36;

/// Fields of a new task that the contract or its decisions name but this server cannot honour yet.
/// They are refused, never ignored.
pub const NOT_SUPPORTED_YET: &[&str] = &["plugin_configs"];

const CREATE_TASK_FIELDS: &[&str] = &[
    "job_name",
    "priority",
    "args",
    "entrypoint",
    "snapshot_id",
    "image",
    "datasets",
    "dataset_specs",
    "cpu",
    "memory_gb",
    "gpu",
    "metadata",
    "gpu_type",
    "max_retries",
    "time_limit_s",
    "env",
    "secrets",
    "node_count",
    "network",
    "on_lost",
    "lost_after_s",
    "stall_after_s",
    "resume_from",
    "source",
    "reservation_id",
    "experiment_id",
    "depends_on",
    "array",
    "notify",
];

/// A new task as it was read.
#[derive(Debug)]
pub struct Submission {
    /// The request; its data sets stand beside it.
    pub request: CreateTaskRequest,
    /// The data sets that it names or describes, looked up.
    pub datasets: Vec<Dataset>,
}

/// Reads a [`CreateTaskRequest`]. With `strict`, unknown fields are problems. `registry` holds the data sets that
/// the body names (see [`Registry::wanted`]).
///
/// # Errors
/// Every problem of the body.
pub fn create_task(body: Value, strict: bool, registry: &Registry) -> Result<Read<Submission>, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let (datasets, warnings) = dataset::take(&mut fields, strict, registry);
    let request = CreateTaskRequest {
        job_name: fields.required("job_name", |f, name| {
            let text = f.text(name, limits::JOB_NAME_CHARS)?;
            let ok = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !ok {
                f.problem(name, format!("must match ^[a-zA-Z0-9_-]+$, got {text:?}"));
            }
            ok.then_some(text)
        }),
        priority: fields.int("priority", 1, 10).map(|n| n as i32),
        args: fields.text("args", limits::COMMAND_CHARS),
        entrypoint: fields.text("entrypoint", limits::COMMAND_CHARS),
        snapshot_id: fields.text("snapshot_id", 71),
        image: fields.text("image", limits::IMAGE_CHARS).and_then(|text| {
            let name = text.parse::<ImageName>().map_err(|why| fields.problem("image", why));
            name.ok().map(|name| name.to_string())
        }),
        datasets: Vec::new(),
        dataset_specs: Vec::new(),
        cpu: fields.int("cpu", 0, limits::CPU_MAX).map(|n| n as i32),
        memory_gb: fields.int("memory_gb", 0, limits::MEMORY_GB_MAX).map(|n| n as i32),
        gpu: fields.int("gpu", 0, limits::GPU_MAX).map(|n| n as i32),
        metadata: fields.string_map(
            "metadata",
            limits::METADATA_ENTRIES,
            limits::METADATA_KEY_CHARS,
            limits::METADATA_VALUE_CHARS,
        ),
        gpu_type: fields.text("gpu_type", limits::GPU_TYPE_CHARS),
        node_count: fields.int("node_count", 1, limits::NODE_COUNT_MAX).map(|n| n as i32),
        max_retries: fields.int("max_retries", 0, limits::MAX_RETRIES_MAX).map(|n| n as i32),
        time_limit_s: fields.int("time_limit_s", 1, limits::TIME_LIMIT_S_MAX),
        network: fields.word("network", &[("on", Network::On), ("none", Network::None)]),
        on_lost: fields.word("on_lost", &[("fence", OnLost::Fence), ("keep", OnLost::Keep)]),
        lost_after_s: fields.int("lost_after_s", *limits::LOST_AFTER_S.start(), *limits::LOST_AFTER_S.end()),
        stall_after_s: fields.int("stall_after_s", *limits::STALL_AFTER_S.start(), *limits::STALL_AFTER_S.end()),
        resume_from: fields.id("resume_from", "a task"),
        source: fields.source("source"),
        experiment_id: fields.id("experiment_id", "an experiment"),
        reservation_id: fields.id("reservation_id", "a reservation"),
        depends_on: dependencies(&mut fields),
        array: fields.text("array", limits::ARRAY_CHARS).and_then(|text| {
            let spec = text.parse().map_err(|why: String| fields.problem("array", why));
            spec.ok()
        }),
        env: fields.string_map("env", limits::ENV_ENTRIES, limits::ENV_NAME_CHARS, limits::ENV_VALUE_CHARS),
        secrets: fields.names("secrets", limits::TASK_SECRETS),
        notify: fields.notify("notify"),
    };
    if let Some(id) = &request.snapshot_id
        && !is_snapshot_id(id)
    {
        fields.problem("snapshot_id", "must be sha256: and 64 lower-case hex digits, as POST /v1/snapshots returns it");
    }
    for (name, text) in [("entrypoint", &request.entrypoint), ("args", &request.args)] {
        if text.as_ref().is_some_and(|t| name == "entrypoint" && t.trim().is_empty()) {
            fields.problem(name, "is empty; leave it out or name a script or command");
        }
    }
    let words = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.trim().is_empty());
    if !fields.saw_problem("entrypoint")
        && !fields.saw_problem("args")
        && !words(&request.entrypoint)
        && !words(&request.args)
    {
        fields.problem("entrypoint", "nothing to run: give entrypoint (a script or command), args, or both");
    }
    if let Some(gpu_type) = &request.gpu_type {
        if gpu_type.trim().is_empty() {
            fields.problem("gpu_type", "is empty; leave it out for any GPU");
        } else if request.gpu.unwrap_or(0) == 0 {
            fields.problem("gpu_type", "needs gpu of at least 1");
        }
    }
    for name in request.env.keys() {
        if let Some(problem) = variable_name_problem(name) {
            fields.problem(format!("env.{name}"), problem);
        }
    }
    if request.reservation_id.is_some() && request.array.is_some() {
        fields.problem("reservation_id", "is for one task; leave it out, or array");
    }
    check_secrets(&mut fields, &request);
    for name in NOT_SUPPORTED_YET {
        if fields.take(name).is_some() {
            fields.problem(*name, "not supported yet");
        }
    }
    let submission = Submission { request, datasets };
    let mut read = fields.finish(submission, strict, &[CREATE_TASK_FIELDS, NOT_SUPPORTED_YET])?;
    read.warnings.extend(warnings);
    Ok(read)
}

/// Reads `depends_on`: ids, or objects of `id` and `on`.
fn dependencies(fields: &mut Fields) -> Vec<Dependency> {
    let items = match fields.take("depends_on") {
        None => return Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => {
            fields.wrong_type("depends_on", "an array", &other);
            return Vec::new();
        }
    };
    let most = limits::DEPENDENCIES_MAX;
    if items.len() > most {
        let problem = format!("has {} entries; at most {most} are allowed, and an array counts once", items.len());
        fields.problem("depends_on", problem);
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut dependencies = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let name = format!("depends_on[{i}]");
        match dependency(item) {
            Ok(dependency) if seen.insert(dependency.id) => dependencies.push(dependency),
            Ok(_) => fields.problem(name, "is named twice"),
            Err(why) => fields.problem(name, why),
        }
    }
    dependencies
}

fn dependency(item: Value) -> Result<Dependency, String> {
    let id = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    match item {
        Value::String(_) => {
            let id = id(&item).ok_or("must be the id of a task or an array")?;
            Ok(Dependency { id, on: DependencyOn::Ok })
        }
        Value::Object(mut object) => {
            let id = object.remove("id").as_ref().and_then(id).ok_or("id must be the id of a task or an array")?;
            let on = match object.remove("on").as_ref().map(Value::as_str) {
                None | Some(Some("ok")) => DependencyOn::Ok,
                Some(Some("any")) => DependencyOn::Any,
                Some(_) => return Err("on must be ok or any".into()),
            };
            match object.keys().next() {
                None => Ok(Dependency { id, on }),
                Some(name) => Err(format!("has an unknown field {:?}", name.chars().take(64).collect::<String>())),
            }
        }
        other => Err(format!("must be an id, or an object of id and on, got {}", kind(&other))),
    }
}

/// What a name of a secret cannot be. Not the name itself is shown: by a slip it may be the value.
fn check_secrets(fields: &mut Fields, request: &CreateTaskRequest) {
    for (i, name) in request.secrets.iter().enumerate() {
        let problem = variable_name_problem(name)
            .or_else(|| request.secrets[..i].contains(name).then_some("is named twice"))
            .or_else(|| request.env.contains_key(name).then_some("is in env too; a variable has one value"));
        if let Some(problem) = problem {
            fields.problem(format!("secrets[{i}]"), problem);
        }
    }
}

/// Takes the fields of a JSON object one by one and collects what is wrong with them.
pub struct Fields {
    object: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Fields {
    /// Starts on a body.
    ///
    /// # Errors
    /// The body is not an object.
    pub fn new(body: Value) -> Result<Self, Vec<Problem>> {
        match body {
            Value::Object(object) => Ok(Self { object, problems: Vec::new() }),
            other => Err(vec![Problem::new("", format!("must be a JSON object, got {}", kind(&other)))]),
        }
    }

    /// Notes a problem.
    pub fn problem(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Problem::new(field, problem));
    }

    pub(crate) fn saw_problem(&self, field: &str) -> bool {
        self.problems.iter().any(|p| p.field == field)
    }

    pub(crate) fn wrong_type(&mut self, name: &str, wanted: &str, got: &Value) {
        self.problem(name, format!("must be {wanted}, got {}", kind(got)));
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.take(name)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(name, format!("must be one of {}, got {value}", names.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// Whether it is there and not taken yet.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The raw value; `null` counts as present.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name)
    }

    /// A field that must be there; the default stands in when it is not, with a problem noted.
    pub fn required<T: Default>(&mut self, name: &str, read: impl FnOnce(&mut Self, &str) -> Option<T>) -> T {
        if !self.object.contains_key(name) {
            self.problem(name, "is required");
            return T::default();
        }
        read(self, name).unwrap_or_default()
    }

    /// An optional string of at most `max` code points, without U+0000.
    pub fn text(&mut self, name: &str, max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => match check_text(&text, max) {
                Ok(()) => Some(text),
                Err(why) => {
                    self.problem(name, why);
                    None
                }
            },
            other => {
                self.wrong_type(name, "a string", &other);
                None
            }
        }
    }

    /// An optional id `of` something, such as `a task`.
    fn id<T: FromStr>(&mut self, name: &str, of: &str) -> Option<T> {
        let id = self.text(name, UUID_CHARS)?.parse();
        if id.is_err() {
            self.problem(name, format!("must be the id of {of}"));
        }
        id.ok()
    }

    /// An optional integer within `min..=max`. A number with a fraction or exponent is refused.
    pub fn int(&mut self, name: &str, min: i64, max: i64) -> Option<i64> {
        let value = self.take(name)?;
        match &value {
            Value::Number(n) if n.is_i64() || n.is_u64() => match n.as_i64() {
                Some(n) if (min..=max).contains(&n) => return Some(n),
                _ => self.problem(name, format!("must be between {min} and {max}, got {n}")),
            },
            other => self.wrong_type(name, "an integer", other),
        }
        None
    }

    /// An optional boolean.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(b) => Some(b),
            other => {
                self.wrong_type(name, "a boolean", &other);
                None
            }
        }
    }

    /// An optional object of strings; absent is empty.
    pub fn string_map(
        &mut self,
        name: &str,
        entries: usize,
        key_chars: usize,
        value_chars: usize,
    ) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let object = match self.take(name) {
            None => return map,
            Some(Value::Object(object)) => object,
            Some(other) => {
                self.wrong_type(name, "an object", &other);
                return map;
            }
        };
        if object.len() > entries {
            self.problem(name, format!("has {} entries; at most {entries} are allowed", object.len()));
        }
        for (key, value) in object {
            let field = format!("{name}.{key}");
            if let Err(why) = check_text(&key, key_chars) {
                self.problem(&field, format!("the name {why}"));
            }
            match value {
                Value::String(text) => match check_text(&text, value_chars) {
                    Ok(()) => drop(map.insert(key, text)),
                    Err(why) => self.problem(&field, why),
                },
                other => self.wrong_type(&field, "a string", &other),
            }
        }
        map
    }

    /// Where files came from.
    fn source(&mut self, name: &str) -> Option<Source> {
        let value = self.take(name)?;
        if !value.is_object() {
            self.wrong_type(name, "an object", &value);
            return None;
        }
        match serde_json::from_value::<Source>(value) {
            Ok(source) => {
                let problems = source.problems();
                let is_good = problems.is_empty();
                self.problems.extend(problems);
                is_good.then_some(source)
            }
            Err(error) => {
                self.problem(name, format!("holds commit, dirty, branch and remote: {error}"));
                None
            }
        }
    }

    /// Who is told by mail, and of what.
    fn notify(&mut self, name: &str) -> Option<Notify> {
        let value = self.take(name)?;
        let Ok(mut inner) = Self::new(value) else {
            self.problem(name, "must be an object of email and on");
            return None;
        };
        let email = inner.required("email", |f, name| {
            let text = f.text(name, limits::MAIL_ADDRESS_BYTES)?;
            if let Some(problem) = mail_address_problem(&text) {
                f.problem(name, problem);
            }
            Some(text)
        });
        let has_on = inner.has("on");
        let mut on = Vec::new();
        for (i, word) in inner.names("on", NotifyOn::WORDS.len()).into_iter().enumerate() {
            match NotifyOn::WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, event)) => on.push(*event),
                None => inner
                    .problem(format!("on[{i}]"), format!("must be one of running, completed, failed, got {word:?}")),
            }
        }
        let problems = match inner.finish((), true, &[&["email", "on"]]) {
            Ok(_) if has_on && on.is_empty() => vec![Problem::new("on", "is empty; leave notify out for no mail")],
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        let is_good = problems.is_empty();
        self.problems.extend(problems.into_iter().map(|p| Problem::new(format!("{name}.{}", p.field), p.problem)));
        let on = if has_on { on } else { how_it_ended() };
        is_good.then_some(Notify { email, on })
    }

    /// An optional array of names, each of at most [`limits::ENV_NAME_CHARS`] code points; absent is empty. After a
    /// problem it is empty too, so that no index is off.
    pub fn names(&mut self, name: &str, entries: usize) -> Vec<String> {
        let items = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(name, "an array", &other);
                return Vec::new();
            }
        };
        if items.len() > entries {
            self.problem(name, format!("has {} entries; at most {entries} are allowed", items.len()));
            return Vec::new();
        }
        let before = self.problems.len();
        let mut names = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let field = format!("{name}[{i}]");
            match item {
                Value::String(text) => match check_text(&text, limits::ENV_NAME_CHARS) {
                    Ok(()) => names.push(text),
                    Err(why) => self.problem(field, why),
                },
                other => self.wrong_type(&field, "a string", &other),
            }
        }
        if self.problems.len() == before { names } else { Vec::new() }
    }

    /// Ends reading without a look at fields left over: whatever was found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Ends reading: fields left over are unknown.
    ///
    /// # Errors
    /// Every problem found.
    pub fn finish<T>(mut self, request: T, strict: bool, known: &[&[&str]]) -> Result<Read<T>, Vec<Problem>> {
        let mut warnings = Vec::new();
        let leftover: Vec<String> = self.object.keys().cloned().collect();
        for name in leftover {
            let shown: String = name.chars().take(64).collect();
            let nearest = nearest(&shown, known.iter().flat_map(|names| names.iter().copied()));
            let text = match nearest {
                Some(nearest) => format!("unknown field {shown:?}; did you mean {nearest:?}?"),
                None => format!("unknown field {shown:?}"),
            };
            if strict {
                self.problem(shown, text);
            } else {
                warnings.push(format!("{text} It was ignored."));
            }
        }
        if self.problems.is_empty() { Ok(Read { request, warnings }) } else { Err(self.problems) }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a number with a fraction or exponent",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Checks a text for U+0000 (which also stands for a lone surrogate, see [`crate::json`]) and length.
fn check_text(text: &str, max: usize) -> Result<(), String> {
    if text.contains('\0') {
        return Err("contains U+0000 or half of a surrogate pair".into());
    }
    let chars = text.chars().count();
    if chars > max {
        return Err(format!("is {chars} characters long; at most {max} are allowed"));
    }
    Ok(())
}

/// Whether a text can be shown among others as it is: one line, without what turns the direction of writing, by which
/// a name can be made to look like another.
pub fn is_plain_line(text: &str) -> bool {
    let turns =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.chars().any(|c| c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Whether `name` may name a user: letters, digits, `_ . @ -`, 1 to 64 characters.
pub fn is_user_id(name: &str) -> bool {
    (1..=limits::NAME_CHARS).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'-'))
}

/// The known name nearest to `name` by edit distance, if near enough to be a slip.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance by one row, code points.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(body: Value) -> Vec<(String, String)> {
        create_task(body, false, &Registry::default()).unwrap_err().into_iter().map(|p| (p.field, p.problem)).collect()
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let found = problems(json!({
            "job_name": "no spaces", "priority": 11, "cpu": 1.5, "gpu": -1, "memory_gb": "8", "max_retries": 11,
            "time_limit_s": 0, "args": "a\0b", "env": {"1A": "x", "FETCHML_X": "y", "OK": 3}, "metadata": [],
            "datasets": ["d"], "node_count": 0, "depends_on": ["x"], "array": "3-1", "snapshot_id": "abc", "gpu_type": "H100"
        }));
        let fields: Vec<&str> = found.iter().map(|(f, _)| f.as_str()).collect();
        for field in [
            "job_name",
            "priority",
            "cpu",
            "gpu",
            "memory_gb",
            "max_retries",
            "time_limit_s",
            "args",
            "env.1A",
            "env.FETCHML_X",
            "env.OK",
            "metadata",
            "datasets[0]",
            "node_count",
            "depends_on[0]",
            "array",
            "snapshot_id",
            "gpu_type",
        ] {
            assert!(fields.contains(&field), "{field} is missing from {fields:?}");
        }
    }

    #[test]
    fn null_is_not_absence() {
        assert_eq!(
            problems(json!({"job_name": "a", "args": "x", "priority": null})),
            [("priority".into(), "must be an integer, got null".into())]
        );
    }

    #[test]
    fn something_must_be_run() {
        assert_eq!(problems(json!({"job_name": "a"}))[0].0, "entrypoint");
        assert_eq!(problems(json!({"job_name": "a", "entrypoint": "  "})).len(), 1);
        assert!(create_task(json!({"job_name": "a", "args": "true"}), true, &Registry::default()).is_ok());
    }

    #[test]
    fn secrets_are_names_and_a_slip_is_not_repeated() {
        let with = |secrets: Value| json!({"job_name": "a", "args": "x", "env": {"E": "1"}, "secrets": secrets});
        let read = create_task(with(json!(["API_TOKEN", "B"])), true, &Registry::default()).unwrap();
        assert_eq!(read.request.request.secrets, ["API_TOKEN", "B"]);
        let found = problems(with(json!(["A", "A", "E", "FETCHML_X", "hunter2!"])));
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["secrets[1]", "secrets[2]", "secrets[3]", "secrets[4]"]);
        assert!(!format!("{found:?}").contains("hunter2"));
        assert_eq!(problems(with(json!([1, "A", "a\0"]))).len(), 2);
        assert_eq!(problems(with(json!("A")))[0].0, "secrets");
        assert_eq!(problems(with(json!(vec!["A"; limits::TASK_SECRETS + 1])))[0].0, "secrets");
    }

    #[test]
    fn dependencies_are_ids_or_objects() {
        let (a, b) = ("01920000-0000-7000-8000-000000000001", "01920000-0000-7000-8000-000000000002");
        let with = |depends_on: Value| json!({"job_name": "a", "args": "x", "depends_on": depends_on});
        let with_two = with(json!([a, {"id": b, "on": "any"}]));
        let read = create_task(with_two, true, &Registry::default()).unwrap().request.request.depends_on;
        assert_eq!(
            read.iter().map(|d| (d.id.to_string(), d.on.as_str())).collect::<Vec<_>>(),
            [(a.to_owned(), "ok"), (b.to_owned(), "any")]
        );
        let wrong = json!(["", 7, {}, {"id": a, "on": "maybe"}, {"id": a, "when": 1}, a, {"id": a}]);
        let found = problems(with(wrong));
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["[0]", "[1]", "[2]", "[3]", "[4]", "[6]"].map(|i| format!("depends_on{i}")));
        assert_eq!(problems(with(json!(a)))[0].0, "depends_on");
        assert_eq!(problems(with(json!(vec![a; limits::DEPENDENCIES_MAX + 1])))[0].0, "depends_on");
    }

    #[test]
    fn unknown_fields_warn_or_fail_with_the_nearest_name() {
        let body = json!({"job_name": "a", "args": "x", "priorty": 3});
        let read = create_task(body.clone(), false, &Registry::default()).unwrap();
        assert_eq!(read.warnings, ["unknown field \"priorty\"; did you mean \"priority\"? It was ignored."]);
        assert_eq!(create_task(body, true, &Registry::default()).unwrap_err()[0].field, "priorty");
    }

    #[test]
    fn lengths_count_code_points() {
        let ok = "é".repeat(limits::METADATA_VALUE_CHARS);
        assert!(
            create_task(json!({"job_name": "a", "args": "x", "metadata": {"k": ok}}), true, &Registry::default())
                .is_ok()
        );
    }
}
