//! Why attempts fail and what follows: the table of docs/failures.md, line by line, each made to happen for real. Read
//! it as the specification: what is done, what is told of the attempt, and what becomes of the task.
//!
//! `plugin`, `image` and `dependency` come with what can cause them.

use crate::support::{DEADLINE, Lab, eventually};
use FailureCause as C;
use Follows::{Nothing, Requeue, RequeueAtOnce, Retry};
use fetchml_api::{AttemptRecord, CreateTaskRequest, FailureCause, TaskId, TaskStatus, time::SECOND};
use fetchml_store::{Location, Store};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What becomes of the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Follows {
    /// It is tried again, which counts, after a second.
    Retry,
    /// It is queued again, which costs nothing, after a second.
    Requeue,
    /// The same, and nothing is waited for.
    RequeueAtOnce,
    /// It has failed.
    Nothing,
}

/// What is told of an attempt that failed.
#[derive(Clone, Copy, Debug)]
struct Told {
    cause: FailureCause,
    /// Part of the sentence.
    says: &'static str,
    exit_code: Option<i32>,
    signal: Option<i32>,
    follows: Follows,
}

const fn told(cause: FailureCause, says: &'static str, follows: Follows) -> Told {
    Told { cause, says, exit_code: None, signal: None, follows }
}

/// What a task can do to itself: script, what it asks for, and what is told.
type Row = (&'static str, fn(&mut CreateTaskRequest), Told);

const BY_ITSELF: &[Row] = &[
    (
        "exit 7",
        |_| {},
        Told { exit_code: Some(7), ..told(C::ExitNonzero, "the process exited with code 7; see its log", Retry) },
    ),
    (
        "no-such-program",
        |task| task.entrypoint = Some("no-such-program".into()),
        Told { exit_code: Some(127), ..told(C::ExitNonzero, "neither a file of the snapshot nor a program", Retry) },
    ),
    (
        "kill -11 $$",
        |_| {},
        Told { signal: Some(11), ..told(C::Signal, "the process was ended by signal 11; see its log", Retry) },
    ),
    (
        "head -c 2G /dev/zero | tail",
        |task| task.memory_gb = Some(1),
        Told {
            exit_code: Some(137),
            ..told(C::OomHost, "used more memory than it may and was killed; ask for more", Retry)
        },
    ),
    (
        "echo \"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\"; exit 1",
        |task| task.gpu = Some(1),
        Told { exit_code: Some(1), ..told(C::OomGpu, "a GPU ran out of memory; use a smaller batch or model", Retry) },
    ),
    (
        "sleep 1000",
        |task| task.time_limit_s = Some(1),
        Told { signal: Some(15), ..told(C::Timeout, "the time limit passed and the process was stopped", Retry) },
    ),
    (
        "sleep 1000",
        |task| task.stall_after_s = Some(10),
        Told { signal: Some(15), ..told(C::Stalled, "wrote nothing to its log or metrics for stall_after_s", Retry) },
    ),
    (
        "truncate -s 60G $FETCHML_OUTPUT_DIR/model",
        |_| {},
        Told { exit_code: Some(0), ..told(C::Quota, "output file model has 64424509440 bytes, more than", Nothing) },
    ),
    (
        "touch \"$FETCHML_OUTPUT_DIR/$(printf \"\\377\")\"; exit 3",
        |_| {},
        // The first failure is the cause; what went wrong after it is only said.
        Told { exit_code: Some(3), ..told(C::ExitNonzero, "also: an output file's name is not UTF-8", Retry) },
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_does_to_itself() {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "FETCHML_SLOTS=9", "FETCHML_GPUS=1"]).sandboxed();
    lab.serve().await;
    lab.worker(1).await;
    let mut tasks = Vec::new();
    for (script, ask, told) in BY_ITSELF {
        let mut request = CreateTaskRequest { max_retries: Some(1), ..shell(script) };
        ask(&mut request);
        tasks.push((lab.client().submit(&request, true).await.unwrap().id, *told));
    }
    for (task, told) in &tasks {
        let ended = lab.until(*task, TaskStatus::Failed).await;
        assert!(ended.error.as_ref().is_some_and(|error| error.contains(told.says)), "{told:?}: {:?}", ended.error);
        let failure = ended.failure.unwrap();
        let retryable = told.follows == Retry;
        assert_eq!((failure.cause, failure.retryable), (told.cause, retryable), "{told:?}");
        assert_eq!((failure.exit_code, failure.signal), (told.exit_code, told.signal), "{told:?}");
    }
    judge(&mut lab, &tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_is_killed() {
    let mut lab = Lab::new().sandboxed();
    lab.serve().await;
    lab.worker(1).await;
    let task = submit(&lab, "if [ $FETCHML_ATTEMPT = 1 ]; then sleep 1000; fi").await;
    let running = lab.until(task, TaskStatus::Running).await;
    let attempt = running.attempt_id.unwrap().to_string();
    let record = fs::read(lab.path("worker1/attempts").join(attempt).join("shim.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let shim = rustix::process::Pid::from_raw(record["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    lab.until(task, TaskStatus::Completed).await;
    judge(&mut lab, &[(task, told(C::Lost, "its exit code is unknown", Requeue))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_not_heard_any_more() {
    let mut lab = Lab::new();
    lab.serve_with(&["--lost-after", "10"]);
    lab.serve().await;
    lab.worker(1).await;
    let task = submit(&lab, "if [ $FETCHML_ATTEMPT = 1 ]; then sleep 1000; fi").await;
    lab.until(task, TaskStatus::Running).await;
    lab.kill_worker(0);
    let queued = lab.until(task, TaskStatus::Queued).await;
    assert!(queued.error.as_ref().is_some_and(|error| error.contains("was lost")), "{:?}", queued.error);
    lab.restart_worker(0).await;
    lab.until(task, TaskStatus::Completed).await;
    judge(&mut lab, &[(task, told(C::Lost, "", RequeueAtOnce))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_start_it() {
    let mut lab = Lab::with_worker().await;
    let (attempts, aside) = (lab.path("worker1/attempts"), lab.path("aside"));
    fs::rename(&attempts, &aside).unwrap();
    fs::write(&attempts, "not a directory").unwrap();
    let task = submit(&lab, "true").await;
    requeued(&lab, task).await;
    fs::remove_file(&attempts).unwrap();
    fs::rename(&aside, &attempts).unwrap();
    lab.until(task, TaskStatus::Completed).await;
    judge(&mut lab, &[(task, told(C::Launch, "this worker could not start the task: ", Requeue))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_had() {
    let mut lab = Lab::new();
    lab.serve().await;
    let altered = submit_dir(&lab, &lab.project("altered", &[("run.sh", "echo original")]), "run.sh").await;
    let kept = submit_dir(&lab, &lab.project("kept", &[("run.sh", "echo kept")]), "run.sh").await;
    // The bytes of one have changed at the server: definite. It fails in itself over the other: that goes over.
    fs::write(blob_of(&lab, "echo original"), "echo changed!").unwrap();
    let blob = blob_of(&lab, "echo kept");
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&blob, &blob).unwrap();
    lab.worker(1).await;
    lab.until(altered, TaskStatus::Failed).await;
    requeued(&lab, kept).await;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "echo kept").unwrap();
    lab.until(kept, TaskStatus::Completed).await;
    let table = [
        (altered, told(C::Snapshot, "arrived with other bytes", Nothing)),
        (kept, told(C::Snapshot, "run.sh could not be had: ", Requeue)),
    ];
    judge(&mut lab, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_that_cannot_be_built() {
    let mut lab = Lab::new().worker_wrapped(&["/usr/bin/env", "PIP_RETRIES=1", "UV_HTTP_RETRIES=1", "FETCHML_SLOTS=2"]);
    lab.serve().await;
    lab.worker(1).await;
    let files = |requirements| [("run.py", "print(1)"), ("requirements.txt", requirements)];
    let nowhere = lab.project("nowhere", &files("--no-index\nfetchml-test-that-does-not-exist==1\n"));
    let away = lab.project("away", &files("--index-url http://127.0.0.1:9/simple\nsix==1.16.0\n"));
    let nowhere = submit_dir(&lab, &nowhere, "run.py").await;
    let away = submit_dir(&lab, &away, "run.py").await;
    let failed = lab.until(nowhere, TaskStatus::Failed).await;
    assert!(failed.output.unwrap().contains("fetchml-test-that-does-not-exist"), "the log holds the installer's words");
    requeued(&lab, away).await;
    lab.client().cancel(away).await.unwrap();
    lab.until(away, TaskStatus::Failed).await;
    let table = [
        (nowhere, told(C::Environment, "the environment of requirements.txt could not be built", Nothing)),
        (away, told(C::Environment, "the environment of requirements.txt could not be built", Requeue)),
    ];
    judge(&mut lab, &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_gone() {
    let mut lab = Lab::with_worker().await;
    let first = submit(&lab, "printf step > $FETCHML_CHECKPOINT_DIR/step").await;
    lab.until(first, TaskStatus::Completed).await;
    fs::remove_file(blob_of(&lab, "step")).unwrap();
    let request = CreateTaskRequest { resume_from: Some(first), ..shell("true") };
    let task = lab.client().submit(&request, true).await.unwrap().id;
    lab.until(task, TaskStatus::Failed).await;
    judge(&mut lab, &[(task, told(C::Dataset, "checkpoint file step could not be had", Nothing))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_cancels() {
    let mut lab = Lab::new();
    lab.serve().await;
    let waiting = submit(&lab, "true").await;
    lab.client().cancel(waiting).await.unwrap();
    let ended = lab.until(waiting, TaskStatus::Failed).await;
    assert_eq!((ended.error.as_deref(), ended.failure.unwrap().cause), (Some("cancelled by admin"), C::Cancelled));
    lab.worker(1).await;
    let request =
        CreateTaskRequest { max_retries: Some(5), ..shell("trap \"exit 9\" TERM; while :; do sleep 0.05; done") };
    let running = lab.client().submit(&request, true).await.unwrap().id;
    lab.until(running, TaskStatus::Running).await;
    lab.client().cancel(running).await.unwrap();
    let ended = lab.until(running, TaskStatus::Failed).await;
    assert_eq!(ended.error.as_deref(), Some("cancelled by admin"));
    let told = Told { exit_code: Some(9), ..told(C::Cancelled, "cancelled", Nothing) };
    judge(&mut lab, &[(running, told)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_shut_down_with_its_tasks() {
    let mut lab = Lab::new();
    lab.up(&["--stop-tasks"]).await;
    let task = submit(&lab, "[ $FETCHML_ATTEMPT = 2 ] || sleep 1000").await;
    lab.until(task, TaskStatus::Running).await;
    assert_eq!(lab.server.take().unwrap().terminate().await, Some(0));
    lab.up(&[]).await;
    lab.until(task, TaskStatus::Completed).await;
    let told =
        Told { signal: Some(15), ..told(C::Preempted, "the worker was shut down; it is queued again", RequeueAtOnce) };
    judge(&mut lab, &[(task, told)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_a_rule_of_the_server_knows() {
    let mut lab = Lab::new();
    let config = lab.path("config.toml");
    let rules = "[[log_rules]]\npattern = 'uncorrectable ECC'\naction = 'exclude_worker'\ncause = 'launch'\n\
        message = 'the GPU of that worker is broken'\n\
        [[log_rules]]\npattern = '^ConfigError: '\naction = 'do_not_retry'\n";
    fs::write(&config, rules).unwrap();
    lab.serve_with(&["--config", config.to_str().unwrap()]);
    lab.serve().await;
    lab.worker(1).await;
    let script = "[ -e worker2 ] || case $PWD in */worker1/*) echo CUDA: uncorrectable ECC error; exit 1;; esac; echo ConfigError: lr; exit 2";
    let request = CreateTaskRequest { max_retries: Some(5), ..shell(script) };
    let task = lab.client().submit(&request, true).await.unwrap().id;
    requeued(&lab, task).await;
    let excluded = lab.client().task(task).await.unwrap().excluded_workers;
    assert_eq!(excluded, [lab.client().workers().await.unwrap()[0].id]);
    lab.worker(2).await;
    lab.until(task, TaskStatus::Failed).await;
    let shown = lab.output(&["show", &task.to_string()]).await;
    assert!(shown.contains("its log matched \"^ConfigError: \"; not retried") && shown.contains("kept off"), "{shown}");
    let told = Told { exit_code: Some(1), ..told(C::Launch, "the GPU of that worker is broken", Requeue) };
    judge(&mut lab, &[(task, told)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_gone() {
    let mut lab = Lab::new();
    lab.serve().await;
    let client = lab.client();
    client.secret_put("TOKEN", "a value".to_owned().into()).await.unwrap();
    let request = CreateTaskRequest { secrets: vec!["TOKEN".into()], max_retries: Some(3), ..shell("true") };
    let task = client.submit(&request, true).await.unwrap().id;
    client.secret_delete("TOKEN").await.unwrap();
    lab.worker(1).await;
    lab.until(task, TaskStatus::Failed).await;
    judge(&mut lab, &[(task, told(C::Secret, "the secret TOKEN does not exist any more; set it again", Nothing))])
        .await;
}

/// What is stored of the tasks, once the server has stopped.
async fn judge(lab: &mut Lab, table: &[(TaskId, Told)]) {
    lab.server.take().expect("it runs").terminate().await;
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.expect("the database opens");
    for (task, told) in table {
        let state = store.task(*task).await.expect("readable").expect("it is stored").state;
        let attempts = store.attempts(*task).await.expect("readable");
        let counts = (state.retry_count, state.requeue_count.min(1));
        let expected = match told.follows {
            Retry => (1, 0),
            Requeue | RequeueAtOnce => (0, 1),
            Nothing => (0, 0),
        };
        assert_eq!(counts, expected, "{told:?}: {state:?}");
        assert_eq!(attempts.len() as u32, 1 + state.retry_count + state.requeue_count - u32::from(is_between(&state)));
        if !told.says.is_empty() {
            let outcome = attempts[0].outcome.as_ref().expect("it was reported");
            assert!(outcome.error.as_ref().is_some_and(|error| error.contains(told.says)), "{told:?}: {outcome:?}");
            let found = (outcome.cause, outcome.exit_code, outcome.signal);
            assert_eq!(found, (Some(told.cause), told.exit_code, told.signal), "{told:?}");
        }
        if let ([first, second, ..], Retry | Requeue) = (&attempts[..], told.follows) {
            assert!(gap(first, second) >= SECOND, "{told:?}: tried again after {} us", gap(first, second));
        }
    }
    store.close().await;
}

/// Whether it was ended while it waited for its next attempt.
fn is_between(state: &fetchml_api::TaskState) -> bool {
    state.cause == Some(C::Cancelled) && state.attempt.is_none()
}

fn gap(first: &AttemptRecord, second: &AttemptRecord) -> i64 {
    second.created_at.since(first.ended_at.expect("it is over"))
}

fn shell(script: &str) -> CreateTaskRequest {
    CreateTaskRequest {
        job_name: "cause".into(),
        args: Some(format!("bash -c '{script}'")),
        cpu: Some(0),
        ..CreateTaskRequest::default()
    }
}

async fn submit(lab: &Lab, script: &str) -> TaskId {
    lab.client().submit(&shell(script), true).await.expect("it is taken").id
}

/// Submits a script with the files of its directory.
async fn submit_dir(lab: &Lab, dir: &Path, script: &str) -> TaskId {
    let submit = ["submit", "--dir", dir.to_str().expect("UTF-8"), "--cpu", "0", "--json", "--", script];
    let task: serde_json::Value = serde_json::from_str(&lab.output(&submit).await).expect("JSON");
    task["id"].as_str().expect("an id").parse().expect("an id")
}

/// Where the server keeps these bytes.
fn blob_of(lab: &Lab, text: &str) -> PathBuf {
    let name = hex::encode(Sha256::digest(text));
    let mut dirs = vec![lab.data_dir().join("objects")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("the objects").flatten() {
            match entry.file_name() == *name {
                true => return entry.path(),
                false if entry.file_type().expect("its type").is_dir() => dirs.push(entry.path()),
                false => {}
            }
        }
    }
    panic!("the server has no blob {name}");
}

async fn requeued(lab: &Lab, task: TaskId) {
    let client = lab.client();
    eventually("it is queued again", DEADLINE, async || {
        let task = client.task(task).await.ok()?;
        assert!(!task.status.is_terminal(), "{:?}", task.error);
        (task.requeue_count > 0).then_some(())
    })
    .await;
}
