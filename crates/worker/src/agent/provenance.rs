//! How this worker runs an attempt, as the server keeps it: found out before user code starts, and written beside the
//! attempt's files where a restarted agent could not find it out again.

use crate::{
    agent::{attempt::Workshop, identity::write_json},
    cgroup::Resources,
    container::{Container, IMAGE_FILE},
    executor::AttemptDir,
    limits,
    shim::{Confinement, Layer},
    staging::PythonEnvironment,
};
use fetchml_api::{DatasetFacts, EnforcedLimits, Gpu, GrantedGpu, ImageFacts, ImageName, Provenance};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// Its name in the attempt's directory.
const FILE: &str = "provenance.json";
/// What staging leaves there about data sets.
const DATASETS: &str = "datasets.json";

/// What is known when user code starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) provenance: Provenance,
    /// Length of the log by then, bytes.
    pub(crate) log_from: u64,
}

impl Begun {
    /// Of an attempt whose files are all there.
    pub(crate) fn now(
        shop: &Workshop,
        dir: &AttemptDir,
        python: Option<&PythonEnvironment>,
        gpus: &[Gpu],
        confinement: Option<&Confinement>,
    ) -> Self {
        let facts = |python: &PythonEnvironment| {
            python.facts().inspect_err(|error| {
                tracing::warn!(environment = %python.root.display(), %error, "what is in it is not known");
            })
        };
        let provenance = Provenance {
            host: shop.host.clone(),
            isolation: isolation(shop, confinement),
            limits: confinement.map_or_else(EnforcedLimits::default, enforced),
            gpus: gpus.iter().map(granted).collect(),
            python: python.and_then(|python| facts(python).ok()),
            datasets: datasets(dir),
            image: recorded::<ImageFacts>(dir.root(), IMAGE_FILE).map(any_tag),
        };
        Self { provenance, log_from: fs::symlink_metadata(dir.log()).map_or(0, |log| log.len()) }
    }

    /// Writes it down, unless it is nothing but what this worker says of all its attempts and the directory is for
    /// the next one too.
    pub(crate) fn keep(&self, shop: &Workshop, dir: &AttemptDir) {
        let Provenance { host: _, isolation: _, limits: _, gpus, python, datasets, image } = &self.provenance;
        let is_plain = gpus.is_empty() && python.is_none() && datasets.is_empty() && image.is_none();
        if is_plain && self.log_from == 0 && !shop.sandboxes.is_on() {
            return;
        }
        if let Err(error) = write_json(&dir.root().join(FILE), self, false) {
            tracing::warn!(dir = %dir.root().display(), %error, "how an attempt is run cannot be written down");
        }
    }

    /// What an earlier agent wrote down.
    pub(crate) fn recall(dir: &AttemptDir) -> Option<Self> {
        recorded(dir.root(), FILE)
    }
}

/// A place below the attempt's own directory is said as the task knows it: the same for every attempt.
fn datasets(dir: &AttemptDir) -> Vec<DatasetFacts> {
    let own = dir.datasets();
    let mut datasets = recorded::<Vec<DatasetFacts>>(dir.root(), DATASETS).unwrap_or_default();
    for dataset in &mut datasets {
        if let Ok(below) = Path::new(&dataset.mount_path).strip_prefix(&own) {
            dataset.mount_path = format!("$FETCHML_DATASET_DIR/{}", below.display());
        }
    }
    datasets
}

/// The digest says which image it was, by whatever tag it was asked for.
fn any_tag(image: ImageFacts) -> ImageFacts {
    let repository = image.image.parse::<ImageName>().map(|name| name.repository());
    ImageFacts { image: repository.unwrap_or(image.image), ..image }
}

fn granted(gpu: &Gpu) -> GrantedGpu {
    let Gpu { index, uuid, name, memory_bytes, .. } = gpu;
    GrantedGpu { index: *index, uuid: uuid.clone(), name: name.clone(), memory_bytes: *memory_bytes }
}

fn isolation(shop: &Workshop, confinement: Option<&Confinement>) -> String {
    match confinement.map(|confinement| &confinement.layer) {
        Some(Layer::Container(container)) => container.engine.to_string(),
        _ => shop.sandboxes.name().to_owned(),
    }
}

/// What holds of the limits that a task asked for.
fn enforced(confinement: &Confinement) -> EnforcedLimits {
    match &confinement.layer {
        Layer::Container(container) => enforced_by_engine(container, confinement.resources),
        Layer::Bubblewrap(_) | Layer::Landlock | Layer::Open => enforced_here(confinement),
    }
}

/// Without a control group nothing holds of the limit of cores.
fn enforced_here(confinement: &Confinement) -> EnforcedLimits {
    let asked = confinement.resources;
    let left = confinement.cgroups.as_ref().map_or(asked, |cgroups| cgroups.not_limited(asked));
    let by_rlimit = left.memory_bytes.is_some() || left.processes.is_some();
    let cgroups = confinement.cgroups.as_ref().filter(|_| left != asked).map(ToString::to_string);
    EnforcedLimits {
        memory_bytes: asked.memory_bytes,
        cpus: asked.cpus.filter(|_| left.cpus.is_none()),
        processes: asked.processes,
        by: joined([cgroups, by_rlimit.then(|| "rlimit".to_owned())]),
    }
}

/// Of what the engine does not keep, the container's first process keeps the limit of memory.
fn enforced_by_engine(container: &Container, asked: Resources) -> EnforcedLimits {
    let kept = container.enforced;
    let (cpus, processes) = (asked.cpus.filter(|_| kept.cpus), asked.processes.filter(|_| kept.processes));
    let by_engine = cpus.is_some() || processes.is_some() || (kept.memory && asked.memory_bytes.is_some());
    let by_rlimit = !kept.memory && asked.memory_bytes.is_some();
    EnforcedLimits {
        memory_bytes: asked.memory_bytes,
        cpus,
        processes,
        by: joined([by_engine.then(|| container.engine.to_string()), by_rlimit.then(|| "rlimit".to_owned())]),
    }
}

fn joined(by: [Option<String>; 2]) -> Option<String> {
    let by: Vec<String> = by.into_iter().flatten().collect();
    (!by.is_empty()).then(|| by.join("; "))
}

/// A record of the attempt's directory. User code has not run when staging's are read; this worker's own says what it
/// said before.
fn recorded<T: DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    let path = dir.join(name);
    if !fs::symlink_metadata(&path).is_ok_and(|file| file.is_file()) {
        return None;
    }
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(limits::RECORD_BYTES).read_to_end(&mut bytes));
    match read.and_then(|_| serde_json::from_slice(&bytes).map_err(io::Error::from)) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a record about an attempt cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::Layer;

    fn confinement(resources: Resources) -> Confinement {
        Confinement {
            layer: Layer::Open,
            identity: None,
            mounts: Vec::new(),
            devices: Vec::new(),
            network: true,
            resources,
            cgroups: None,
            hidden: "/".into(),
        }
    }

    #[test]
    fn only_what_holds_is_said_to_be_enforced() {
        let all = Resources { memory_bytes: Some(1 << 30), cpus: Some(2), processes: Some(99) };
        let held = enforced(&confinement(all));
        let by = Some("rlimit".to_owned());
        assert_eq!(held, EnforcedLimits { memory_bytes: Some(1 << 30), cpus: None, processes: Some(99), by });
        let cores = Resources { cpus: Some(2), ..Resources::default() };
        assert_eq!(enforced(&confinement(cores)), EnforcedLimits::default());
    }

    #[test]
    fn records_of_staging_are_read_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"[{"name": "digits", "source": "https://lab/d", "sha256": "aa", "size_bytes": 3,
            "mount_path": "/data/d", "unpack": true}]"#;
        fs::write(dir.path().join(DATASETS), text).unwrap();
        let datasets: Vec<DatasetFacts> = recorded(dir.path(), DATASETS).unwrap();
        assert_eq!((datasets.len(), datasets[0].mount_path.as_str()), (1, "/data/d"));
        fs::write(dir.path().join(IMAGE_FILE), "{").unwrap();
        assert_eq!(recorded::<ImageFacts>(dir.path(), IMAGE_FILE), None);
        std::os::unix::fs::symlink(dir.path().join(DATASETS), dir.path().join(FILE)).unwrap();
        assert_eq!(recorded::<Vec<DatasetFacts>>(dir.path(), FILE), None);
    }
}
