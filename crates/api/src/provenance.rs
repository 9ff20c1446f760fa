//! How a run came about: what its worker knows of it, and the manifest that the server makes of that and of what it
//! knows itself. `docs/provenance.md` describes each field.

use crate::{
    array::ArraySpec,
    artifact::Artifact,
    dataset::Dataset,
    error::Problem,
    failure::FailureCause,
    ids::{AttemptEpoch, AttemptId, TaskId, WorkerId},
    image::ImageName,
    limits,
    record::{AttemptPhase, TaskSpec},
    snapshot::is_sha256_hex,
    task::CreateTaskRequest,
    time::Micros,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Version of [`RunManifest`]: another one when the meaning of a field changes or one is taken away.
pub const RUN_MANIFEST_SCHEMA: u32 = 1;

/// The version control of the directory that a task was submitted from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The commit that was checked out, lower-case hex.
    pub commit: String,
    /// Whether files differed from it; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub dirty: Option<bool>,
    /// The branch, if one was checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, nullable = false)]
    pub branch: Option<String>,
    /// Where it is pushed to, without user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, nullable = false)]
    pub remote: Option<String>,
}

impl Source {
    /// Every problem, under the name `source`.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_hex = self.commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || !matches!(self.commit.len(), 40 | 64) {
            problems.push(Problem::new("source.commit", "must be 40 or 64 lower-case hex digits"));
        }
        let texts = [
            ("source.branch", &self.branch, limits::SOURCE_BRANCH_CHARS),
            ("source.remote", &self.remote, limits::SOURCE_REMOTE_CHARS),
        ];
        for (field, text, max) in texts {
            let Some(text) = text else { continue };
            if text.is_empty() || text.chars().count() > max || text.contains(char::is_control) {
                let problem = format!("must be 1 to {max} characters without control characters");
                problems.push(Problem::new(field, problem));
            }
        }
        if self.remote.as_deref().is_some_and(|remote| without_user(remote) != remote) {
            problems.push(Problem::new("source.remote", "must not hold a user name or password"));
        }
        problems
    }
}

/// An address without the user name and password before its host: `https://user:password@host/path`. That of
/// `git@host:path` stays: it is no secret, and the same for everybody.
pub fn without_user(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return remote.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => remote.to_owned(),
    }
}

/// A worker's machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Operating system, such as `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Machine architecture, such as `x86_64`.
    pub arch: String,
    /// Processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Cores usable for tasks.
    pub cpu_cores: u32,
    /// Memory usable for tasks, bytes.
    pub memory_bytes: u64,
    /// Version of NVIDIA's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_driver: Option<String>,
    /// Version of the worker's binary.
    pub fetchml: String,
}

/// A GPU that was given to an attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GrantedGpu {
    /// Index on its worker.
    pub index: u32,
    /// NVML's UUID.
    pub uuid: String,
    /// Device name.
    pub name: String,
    /// Device memory, bytes.
    pub memory_bytes: u64,
}

/// The Python environment that a snapshot asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PythonFacts {
    /// Hash of what was asked for and of the interpreter, hex: an equal one is not built again on a worker.
    pub environment: String,
    /// Implementation and version, such as `cpython 3.11.7`.
    pub version: String,
    /// The file that asked for it.
    pub requirements: String,
    /// Every installed distribution, `name==version` or `name @ address`, in order: what was resolved.
    pub packages: Vec<String>,
}

/// A data set as a task had it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetFacts {
    /// Its name.
    pub name: String,
    /// Where it came from.
    pub source: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub sha256: String,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Where the task saw it.
    pub mount_path: String,
}

/// The image that a container was made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageFacts {
    /// Its full name, without tag and digest.
    pub image: String,
    /// The digest under which its registry has it; its id where none does.
    pub digest: String,
    /// Who ran it, such as `podman 5.4.2`.
    pub engine: String,
}

/// What was enforced of what a task asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct EnforcedLimits {
    /// Memory, bytes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Cores' worth of time; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Processes and threads; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// By what, such as `cgroup v2: memory, cpu, pids` or `rlimit`; absent: nothing was limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What only the worker knows of how it ran an attempt.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    /// Its machine.
    pub host: Host,
    /// How user code was isolated: `bubblewrap`, `landlock`, `none`, or a container engine.
    pub isolation: String,
    /// What was limited.
    pub limits: EnforcedLimits,
    /// The GPUs it had, in the order in which it saw them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GrantedGpu>,
    /// Its Python environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<PythonFacts>,
    /// Its data sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<DatasetFacts>,
    /// Its container's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFacts>,
}

/// The log of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogFacts {
    /// Length of what the task itself wrote, the end of the log, bytes; before it stands what FetchML wrote while it staged.
    pub size_bytes: u64,
    /// SHA-256 of that, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One node of an attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestNode {
    /// Its rank.
    pub node: u32,
    /// Its worker.
    #[schema(value_type = String)]
    pub worker_id: WorkerId,
    /// What its worker said when user code started; absent: it has not, or the worker was lost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// The task of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestTask {
    /// The task.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// Who submitted it.
    pub user_id: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// The task that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub rerun_of: Option<TaskId>,
    /// Counted retries used so far.
    pub retry_count: u32,
    /// Free requeues used so far.
    pub requeue_count: u32,
}

/// Which attempt a manifest is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestAttempt {
    /// The attempt.
    #[schema(value_type = String)]
    pub id: AttemptId,
    /// Its number among the task's, from 1.
    pub number: u32,
    /// Its place among the attempts of all tasks.
    pub epoch: AttemptEpoch,
    /// Where it is.
    pub phase: AttemptPhase,
    /// When it was placed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Micros,
    /// When user code started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Micros>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Micros>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestOutcome {
    /// Whether it ended well.
    pub success: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<FailureCause>,
    /// Exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// In one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `run_manifest.json`: enough to run an attempt again exactly, and to see whether two runs were the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunManifest {
    /// [`RUN_MANIFEST_SCHEMA`].
    pub schema: u32,
    /// The task.
    pub task: ManifestTask,
    /// The attempt.
    pub attempt: ManifestAttempt,
    /// What was run, as `POST /v1/tasks` takes it, with the defaults filled in, and the digest of the image and the hashes
    /// of data sets as they were found. Values of `env` are `***` for everyone
    /// but the owner; secrets stand in it by name.
    pub spec: CreateTaskRequest,
    /// Variables of `env` that set a seed.
    pub seeds: BTreeMap<String, String>,
    /// The nodes, by rank.
    pub nodes: Vec<ManifestNode>,
    /// How it ended; absent while it runs, or when it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<ManifestOutcome>,
    /// Files it left, by path.
    pub artifacts: Vec<Artifact>,
    /// When its log and files were deleted, their time of keeping being over; then `artifacts` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub files_deleted_at: Option<Micros>,
    /// Its log; of the first node where there are several. Absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogFacts>,
}

/// Whether a variable sets the seed of random numbers.
pub fn is_seed(name: &str) -> bool {
    name.to_ascii_uppercase().split('_').any(|word| word.ends_with("SEED"))
}

impl TaskSpec {
    /// The request that submits the same again, with every default filled in. What it waited for is not part of it, nor
    /// the reservation that it used up; of an array it is one index.
    pub fn request(&self, priority: u8) -> CreateTaskRequest {
        // Every field by name, on both sides: a new one must be thought of here.
        let Self {
            id: _,
            user_id: _,
            job_name,
            created_at: _,
            demand,
            entrypoint,
            args,
            snapshot_id,
            image,
            env,
            secrets,
            metadata,
            role: _,
            max_retries,
            time_limit_s,
            network,
            on_lost,
            lost_after_s,
            stall_after_s,
            resume_from,
            source,
            experiment_id,
            rerun_of: _,
            datasets,
            depends_on: _,
            array,
            // Whoever runs it again says who is told of it.
            notify: _,
        } = self;
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        CreateTaskRequest {
            job_name: job_name.clone(),
            priority: Some(i32::from(priority)),
            args: args.clone(),
            entrypoint: entrypoint.clone(),
            snapshot_id: snapshot_id.clone(),
            datasets: Vec::new(),
            dataset_specs: datasets.iter().map(Dataset::to_spec).collect(),
            cpu: Some(number(demand.cpu)),
            memory_gb: Some(number(demand.memory_gb)),
            gpu: Some(number(demand.gpu)),
            metadata: metadata.clone(),
            gpu_type: demand.gpu_type.clone(),
            max_retries: Some(number(*max_retries)),
            time_limit_s: time_limit_s.map(i64::from),
            network: Some(*network),
            on_lost: Some(*on_lost),
            lost_after_s: lost_after_s.map(i64::from),
            stall_after_s: stall_after_s.map(i64::from),
            resume_from: *resume_from,
            experiment_id: *experiment_id,
            image: image.clone(),
            env: env.clone(),
            secrets: secrets.clone(),
            node_count: Some(number(demand.nodes)),
            source: source.clone(),
            reservation_id: None,
            depends_on: Vec::new(),
            array: array.map(|array| ArraySpec::one(array.index)),
            notify: None,
        }
    }
}

impl CreateTaskRequest {
    /// Declares what was found when it ran, in place of names that may mean something else tomorrow: the image by
    /// digest, data sets by hash.
    pub fn pin(&mut self, found: &Provenance) {
        if let (Some(asked), Some(image)) = (&self.image, &found.image)
            && let Ok(name) = asked.parse::<ImageName>()
            && let Ok(exact) = format!("{}@{}", name.repository(), image.digest).parse::<ImageName>()
        {
            self.image = Some(exact.to_string());
        }
        for spec in &mut self.dataset_specs {
            let facts = found.datasets.iter().find(|facts| spec.name.as_ref() == Some(&facts.name));
            if let Some(facts) = facts.filter(|facts| is_sha256_hex(&facts.sha256)) {
                spec.sha256 = Some(facts.sha256.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DatasetSpec;

    #[test]
    fn a_source_is_checked_and_holds_no_password() {
        let good = Source { commit: "a".repeat(40), ..Source::default() };
        assert!(good.problems().is_empty());
        let fields = |source: Source| source.problems().into_iter().map(|p| p.field).collect::<Vec<_>>();
        let all = Source {
            commit: "A".repeat(40),
            dirty: None,
            branch: Some("a\nb".into()),
            remote: Some("https://ada:secret@lab.example/x.git".into()),
        };
        assert_eq!(fields(all), ["source.commit", "source.branch", "source.remote"]);
        for (remote, shown) in [
            ("https://ada:secret@lab.example/x@y.git", "https://lab.example/x@y.git"),
            ("https://token@lab.example", "https://lab.example"),
            ("https://a:b@c@lab.example/x", "https://lab.example/x"),
            ("git@lab.example:x.git", "git@lab.example:x.git"),
            ("/srv/x.git", "/srv/x.git"),
        ] {
            assert_eq!(without_user(remote), shown);
            let source = Source { remote: Some(remote.into()), ..good.clone() };
            assert_eq!(source.problems().is_empty(), remote == shown, "{remote}");
        }
    }

    #[test]
    fn what_was_found_is_declared() {
        let spec = |name: &str, sha256: Option<&str>| DatasetSpec {
            name: Some(name.into()),
            sha256: sha256.map(Into::into),
            ..DatasetSpec::default()
        };
        let facts = |name: &str, sha256: &str| DatasetFacts {
            name: name.into(),
            source: String::new(),
            sha256: sha256.into(),
            size_bytes: 1,
            mount_path: "/d".into(),
        };
        let hash = "a".repeat(64);
        let mut request = CreateTaskRequest {
            image: Some("docker.io/library/python:3.12".into()),
            dataset_specs: vec![spec("a", None), spec("b", None), spec("c", Some("declared"))],
            ..CreateTaskRequest::default()
        };
        let image = |digest: &str| ImageFacts { image: "x".into(), digest: digest.into(), engine: "podman".into() };
        request.pin(&Provenance { image: Some(image("no digest")), ..Provenance::default() });
        assert_eq!(request.image.as_deref(), Some("docker.io/library/python:3.12"));
        let found = Provenance {
            image: Some(image(&format!("sha256:{hash}"))),
            datasets: vec![facts("a", &hash), facts("b", "no hash")],
            ..Provenance::default()
        };
        request.pin(&found);
        assert_eq!(request.image, Some(format!("docker.io/library/python@sha256:{hash}")));
        let hashes: Vec<_> = request.dataset_specs.iter().map(|spec| spec.sha256.as_deref()).collect();
        assert_eq!(hashes, [Some(hash.as_str()), None, Some("declared")]);
    }

    #[test]
    fn seeds_are_known_by_their_names() {
        for name in ["SEED", "PYTHONHASHSEED", "PL_GLOBAL_SEED", "seed", "SEED_TORCH"] {
            assert!(is_seed(name), "{name}");
        }
        for name in ["SEEDS_PATH", "PROCEED_URL", "SPEED", ""] {
            assert!(!is_seed(name), "{name}");
        }
    }
}
