//! Reading what a request says of data sets: every problem at once, names looked up in the registry.

use super::{Dataset, DatasetSpec, check_mount_path, check_source};
use crate::{
    error::Problem,
    limits,
    snapshot::is_sha256_hex,
    validate::{Fields, nearest},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const SPEC_FIELDS: &[&str] = &["name", "source", "sha256", "mount_path", "unpack"];

/// Reads a [`CreateDatasetRequest`].
///
/// # Errors
/// Every problem of the body. Unknown fields are problems: there is no way to tell of a warning.
pub fn create_dataset(body: Value) -> Result<Dataset, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let read = read_spec(&mut fields);
    if read.name.is_none() && !fields.saw_problem("name") {
        fields.problem("name", "is required");
    }
    if read.source.is_none() && !fields.saw_problem("source") {
        fields.problem("source", "is required");
    }
    let spec = fields.finish(read, true, &[SPEC_FIELDS])?.request;
    Ok(Dataset {
        name: spec.name.unwrap_or_default(),
        source: spec.source.unwrap_or_default(),
        sha256: spec.sha256,
        mount_path: spec.mount_path,
        unpack: spec.unpack.unwrap_or_default(),
    })
}

/// What of the registry a request needs.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Those named by the request that are registered.
    pub found: BTreeMap<String, Dataset>,
    /// Names to suggest in place of one that is not.
    pub names: Vec<String>,
}

impl Registry {
    /// Names that a new task may have from the registry, as far as its body can be read.
    pub fn wanted(body: &Value) -> BTreeSet<String> {
        let items = |field: &str| body.get(field).and_then(Value::as_array).into_iter().flatten();
        let listed = items("datasets").filter_map(Value::as_str);
        let specs = items("dataset_specs").filter(|spec| spec.get("source").is_none());
        let named = specs.filter_map(|spec| spec.get("name").and_then(Value::as_str));
        listed.chain(named).filter(|name| is_name(name)).take(2 * limits::DATASETS_PER_TASK).map(Into::into).collect()
    }

    fn find(&self, name: &str) -> Result<&Dataset, String> {
        self.found.get(name).ok_or_else(|| {
            let nearest = nearest(name, self.names.iter().map(String::as_str));
            match nearest {
                Some(nearest) => format!("there is no data set {name:?}; did you mean {nearest:?}?"),
                None => format!(
                    "there is no data set {name:?}; register it with POST /v1/datasets, or give its source in \
                     dataset_specs"
                ),
            }
        })
    }
}

/// Takes `datasets` and `dataset_specs` out of a new task's body; gives what the task gets, and a warning for each
/// unknown field. A name in `datasets` that a spec has too means that spec.
pub(crate) fn take(fields: &mut Fields, strict: bool, registry: &Registry) -> (Vec<Dataset>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut datasets: Vec<(String, Dataset)> = Vec::new();
    let mut in_specs = BTreeSet::new();
    for (i, item) in array(fields, "dataset_specs").into_iter().enumerate() {
        let at = format!("dataset_specs[{i}]");
        if let Some(dataset) = take_spec(fields, &at, item, strict, registry, &mut in_specs, &mut warnings) {
            datasets.push((at, dataset));
        }
    }
    let mut listed = BTreeSet::new();
    for (i, item) in array(fields, "datasets").into_iter().enumerate() {
        let at = format!("datasets[{i}]");
        match item.as_str() {
            None => fields.wrong_type(&at, "a string", &item),
            Some(name) if !is_name(name) => fields.problem(&at, bad_name(name)),
            Some(name) if !listed.insert(name.to_owned()) => fields.problem(&at, format!("names {name:?} again")),
            Some(name) if in_specs.contains(name) => {}
            Some(name) => match registry.find(name) {
                Ok(dataset) => datasets.push((at, dataset.clone())),
                Err(problem) => fields.problem(&at, problem),
            },
        }
    }
    if datasets.len() > limits::DATASETS_PER_TASK {
        let most = limits::DATASETS_PER_TASK;
        fields.problem("datasets", format!("{} data sets; at most {most} are allowed for a task", datasets.len()));
    }
    for problem in crossed_mounts(&datasets) {
        fields.problem(problem.field, problem.problem);
    }
    (datasets.into_iter().map(|(_, dataset)| dataset).collect(), warnings)
}

fn array(fields: &mut Fields, name: &str) -> Vec<Value> {
    match fields.take(name) {
        None => Vec::new(),
        Some(Value::Array(items)) if items.len() > limits::DATASETS_PER_TASK => {
            let most = limits::DATASETS_PER_TASK;
            fields.problem(name, format!("has {} entries; at most {most} are allowed", items.len()));
            Vec::new()
        }
        Some(Value::Array(items)) => items,
        Some(other) => {
            fields.wrong_type(name, "an array", &other);
            Vec::new()
        }
    }
}

fn take_spec(
    fields: &mut Fields,
    at: &str,
    item: Value,
    strict: bool,
    registry: &Registry,
    names: &mut BTreeSet<String>,
    warnings: &mut Vec<String>,
) -> Option<Dataset> {
    let below = |field: &str| if field.is_empty() { at.to_owned() } else { format!("{at}.{field}") };
    let read = Fields::new(item).and_then(|mut item| {
        let has_source = item.has("source");
        let spec = read_spec(&mut item);
        if spec.name.is_none() && !item.saw_problem("name") {
            item.problem("name", "is required");
        }
        let mut known = None;
        if let Some(name) = &spec.name {
            if !names.insert(name.clone()) {
                item.problem("name", format!("{name:?} is used twice"));
            }
            if !has_source {
                match registry.find(name) {
                    Ok(dataset) => known = Some(dataset),
                    Err(problem) => item.problem("name", problem),
                }
            }
        }
        if let (Some(Some(registered)), Some(sha256)) = (known.map(|known| &known.sha256), &spec.sha256)
            && registered != sha256
        {
            item.problem("sha256", format!("is not that of the registered data set, {registered}"));
        }
        item.finish((spec, known.cloned()), strict, &[SPEC_FIELDS])
    });
    let read = match read {
        Ok(read) => read,
        Err(problems) => {
            for problem in problems {
                fields.problem(below(&problem.field), problem.problem);
            }
            return None;
        }
    };
    warnings.extend(read.warnings.into_iter().map(|warning| format!("{at}: {warning}")));
    let (spec, known) = read.request;
    Some(match known {
        Some(known) => Dataset {
            sha256: spec.sha256.or(known.sha256),
            mount_path: spec.mount_path.or(known.mount_path),
            unpack: spec.unpack.unwrap_or(known.unpack),
            ..known
        },
        None => Dataset {
            name: spec.name?,
            source: spec.source?,
            sha256: spec.sha256,
            mount_path: spec.mount_path,
            unpack: spec.unpack.unwrap_or_default(),
        },
    })
}

fn read_spec(fields: &mut Fields) -> DatasetSpec {
    let name = fields.text("name", limits::NAME_CHARS).filter(|name| {
        let ok = is_name(name);
        if !ok {
            fields.problem("name", bad_name(name));
        }
        ok
    });
    let source = fields.text("source", limits::DATASET_SOURCE_CHARS).and_then(|text| match check_source(&text) {
        Ok(source) => Some(source),
        Err(why) => {
            fields.problem("source", why);
            None
        }
    });
    let sha256 = fields.text("sha256", 128).filter(|text| {
        let ok = is_sha256_hex(text);
        if !ok {
            fields.problem("sha256", "must be 64 lower-case hex digits, as `sha256sum FILE` prints them");
        }
        ok
    });
    let mount_path = fields.text("mount_path", limits::PATH_BYTES).filter(|path| match check_mount_path(path) {
        Ok(()) => true,
        Err(why) => {
            fields.problem("mount_path", why);
            false
        }
    });
    DatasetSpec { name, source, sha256, mount_path, unpack: fields.boolean("unpack") }
}

/// Mount paths that hide one another.
fn crossed_mounts(datasets: &[(String, Dataset)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, (at, dataset)) in datasets.iter().enumerate() {
        let Some(path) = &dataset.mount_path else { continue };
        for (j, (_, other)) in datasets.iter().enumerate() {
            let Some(outer) = other.mount_path.as_ref().filter(|_| i != j) else { continue };
            let problem = if outer == path && j < i {
                format!("mount_path {path:?} is that of {:?} too", other.name)
            } else if path.strip_prefix(outer.as_str()).is_some_and(|below| below.starts_with('/')) {
                format!("mount_path {path:?} lies inside {outer:?}, that of {:?}", other.name)
            } else {
                continue;
            };
            problems.push(Problem::new(at.clone(), problem));
        }
    }
    problems
}

/// Whether `name` may name a data set: it is a file name too.
pub fn is_name(name: &str) -> bool {
    (1..=limits::NAME_CHARS).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn bad_name(name: &str) -> String {
    let shown: String = name.chars().take(limits::NAME_CHARS + 1).collect();
    format!("must be 1 to 64 letters, digits, _ - or ., beginning with a letter or digit, got {shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields_of(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.field.as_str()).collect()
    }

    fn read(body: Value, registry: &Registry) -> Result<Vec<Dataset>, Vec<Problem>> {
        let mut fields = Fields::new(body)?;
        let (datasets, _) = take(&mut fields, true, registry);
        fields.finish(datasets, true, &[]).map(|read| read.request)
    }

    fn registry() -> Registry {
        let digits = Dataset {
            name: "digits".into(),
            source: "https://data.example.org/digits.csv".into(),
            sha256: Some("a".repeat(64)),
            mount_path: Some("/data/digits".into()),
            unpack: false,
        };
        Registry { found: [("digits".to_owned(), digits)].into(), names: vec!["digits".into(), "imagenet".into()] }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let body = json!({
            "datasets": ["digit", "digits", "digits", 7, "a/b"],
            "dataset_specs": [
                {"name": "a", "source": "ftp://x/y", "sha256": "ABC", "mount_path": "data", "unpack": "yes"},
                {"name": "b", "source": "https://x/y", "mount_path": "/data/digits"},
                {"name": "b", "source": "https://u:hunter2@x/y"},
                {"name": "c", "source": "https://x/y", "mount_path": "/data/digits/deep"},
                {"source": "https://x/y"},
                {"name": "imagnet"},
                "x",
                {"name": "d", "source": "https://x/y", "sha": "x"},
            ]
        });
        let problems = read(body, &registry()).unwrap_err();
        let found = fields_of(&problems);
        for field in [
            "datasets[0]",
            "datasets[2]",
            "datasets[3]",
            "datasets[4]",
            "dataset_specs[0].source",
            "dataset_specs[0].sha256",
            "dataset_specs[0].mount_path",
            "dataset_specs[0].unpack",
            "dataset_specs[2].name",
            "dataset_specs[2].source",
            "dataset_specs[3]",
            "dataset_specs[4].name",
            "dataset_specs[5].name",
            "dataset_specs[6]",
            "dataset_specs[7].sha",
            "datasets[1]",
        ] {
            assert!(found.contains(&field), "{field} is missing from {problems:?}");
        }
        let text = serde_json::to_string(&problems).unwrap();
        assert!(
            text.contains("did you mean \\\"digits\\\"") && text.contains("did you mean \\\"imagenet\\\""),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_name_takes_its_spec_and_a_spec_may_say_more() {
        let plain = read(json!({"datasets": ["digits"]}), &registry()).unwrap();
        assert_eq!(plain, [registry().found["digits"].clone()]);
        let moved = read(
            json!({"datasets": ["digits"], "dataset_specs": [{"name": "digits", "mount_path": "/d"}]}),
            &registry(),
        );
        let moved = moved.unwrap();
        assert_eq!((moved.len(), moved[0].mount_path.as_deref()), (1, Some("/d")));
        let other = json!({"dataset_specs": [{"name": "digits", "sha256": "b".repeat(64)}]});
        assert_eq!(fields_of(&read(other, &registry()).unwrap_err()), ["dataset_specs[0].sha256"]);
        let own = json!({"dataset_specs": [{"name": "digits", "source": "HTTPS://Other.Example:443/a b".replace(' ', "%20")}]});
        assert_eq!(read(own, &registry()).unwrap()[0].source, "https://other.example/a%20b");
    }
}
