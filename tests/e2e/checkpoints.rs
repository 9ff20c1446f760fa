//! Checkpoints: what a task wrote is there in its next attempt, on any worker.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, TaskId, TaskStatus};
use sha2::{Digest as _, Sha256};

/// Counts to six, a step in each file name, and goes on where it was stopped: after the third step it waits to be
/// killed, once.
const COUNT: &str = "cd $FETCHML_CHECKPOINT_DIR; step=$(cat run/step 2>/dev/null || echo 0); echo from $step; mkdir -p run; \
    while [ $step -lt 6 ]; do step=$((step+1)); echo $step > run/step.new; mv run/step.new run/step; echo step $step; \
    if [ $step = 3 ]; then sleep 1000; fi; done";

async fn submit(lab: &Lab, script: &str, resume_from: Option<TaskId>) -> TaskId {
    let args = Some(format!("bash -c '{script}'"));
    let request = CreateTaskRequest { job_name: "count".into(), args, cpu: Some(0), resume_from, ..Default::default() };
    lab.client().submit(&request, true).await.expect("it is taken").id
}

async fn stored(lab: &Lab, task: TaskId, path: &str, bytes: &str) {
    let client = lab.client();
    eventually("the checkpoint is stored", DEADLINE, async || {
        let checkpoint = client.checkpoint(task).await.expect("the server answers")?;
        let file = checkpoint.files.into_iter().find(|file| file.path == path)?;
        (file.size_bytes == bytes.len() as u64 && file.sha256 == hex::encode(Sha256::digest(bytes))).then_some(())
    })
    .await;
}

/// Its first machine is gone for good, with all that was on its disk.
async fn resumes_on_another_worker(mut lab: Lab) {
    lab.serve_with(&["--lost-after", "10"]);
    lab.serve().await;
    lab.worker(1).await;
    let task = submit(&lab, COUNT, None).await;
    lab.until(task, TaskStatus::Running).await;
    stored(&lab, task, "run/step", "3\n").await;
    lab.worker(2).await;
    lab.workers[0].kill();
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((ended.requeue_count, ended.retry_count), (1, 0));
    assert_eq!(lab.log(task).await, "from 3\nstep 4\nstep 5\nstep 6\n");

    let next = submit(&lab, COUNT, Some(task)).await;
    lab.until(next, TaskStatus::Completed).await;
    assert_eq!(lab.log(next).await, "from 6\n");
    stored(&lab, next, "run/step", "6\n").await;
    let (from, read) = (next.to_string(), "cat $FETCHML_CHECKPOINT_DIR/run/step");
    let by_command =
        ["submit", "--no-snapshot", "--follow", "--cpu", "0", "--resume-from", &from, "--", "bash", "-c", read];
    assert_eq!(lab.output(&by_command).await, "6\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_task_goes_on_where_its_checkpoint_ends() {
    resumes_on_another_worker(Lab::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_task_in_a_sandbox_goes_on_where_its_checkpoint_ends() {
    resumes_on_another_worker(Lab::new().sandboxed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_renamed_into_place_all_the_time_is_stored_and_one_that_is_written_to_is_not() {
    let lab = Lab::with_worker().await;
    let script = "cd $FETCHML_CHECKPOINT_DIR; step=0; while :; do step=$((step+1)); echo $step > step.new; sleep 0.1; \
        mv step.new step; echo $step >> growing; done";
    let task = submit(&lab, script, None).await;
    let client = lab.client();
    let files = async || {
        let checkpoint = client.checkpoint(task).await.expect("the server answers");
        checkpoint.map(|checkpoint| checkpoint.files).unwrap_or_default()
    };
    let first = eventually("a step is stored", DEADLINE, async || files().await.into_iter().next()).await;
    eventually("a later one is stored", DEADLINE, async || {
        let files = files().await;
        assert!(files.iter().all(|file| file.path != "growing"), "{files:?}");
        files.iter().any(|file| file.path == "step" && file.sha256 != first.sha256).then_some(())
    })
    .await;
    lab.client().cancel(task).await.expect("it is cancelled");
    lab.until(task, TaskStatus::Failed).await;
    let last = lab.client().checkpoint(task).await.expect("the server answers").expect("there is one").files;
    assert!(last.iter().any(|file| file.path == "growing"), "at the end all of it is stored: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_on_sigterm_is_there_in_the_retry() {
    let lab = Lab::with_worker().await;
    let script = "cd $FETCHML_CHECKPOINT_DIR; cat last; trap \"echo saved > last; ln -s /etc/passwd leak; exit 3\" TERM; \
        if [ -e last ]; then exit 0; fi; echo ready; while :; do sleep 0.05; done";
    let args = Some(format!("bash -c '{script}'"));
    let request = CreateTaskRequest {
        job_name: "late".into(),
        args,
        time_limit_s: Some(2),
        max_retries: Some(1),
        ..Default::default()
    };
    let task = lab.client().submit(&request, true).await.expect("it is taken").id;
    let ended = lab.until(task, TaskStatus::Completed).await;
    assert_eq!(ended.retry_count, 1);
    assert_eq!(lab.log(task).await, "saved\n");
    let files = lab.client().checkpoint(task).await.unwrap().unwrap().files;
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["last"], "no link is followed");
    let other = submit(&lab, "true", None).await;
    lab.until(other, TaskStatus::Completed).await;
    assert!(lab.client().checkpoint(other).await.unwrap().is_none());
    let refused = lab.run(&["submit", "--no-snapshot", "--resume-from", &other.to_string(), "--", "true"]).await;
    let said = crate::support::shown(&refused);
    assert!(said.contains("has left nothing in FETCHML_CHECKPOINT_DIR"), "{said}");
}
