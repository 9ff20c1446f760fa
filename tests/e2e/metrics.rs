//! Metrics: what a task writes is at the server, each line once, whatever is killed meanwhile.

use crate::support::{DEADLINE, Lab, eventually};
use fetchml_api::{CreateTaskRequest, TaskId, TaskMetrics, TaskStatus};
use fetchml_client::MetricsQuery;

/// Writes a line each few milliseconds, torn in the middle, until a file appears; then says how many there were.
const COUNT: &str = "n=0; while [ ! -e $FETCHML_OUTPUT_DIR/../output/stop ]; do n=$((n+1)); \
    printf %s \"{\\\"step\\\":$n,\" >> $FETCHML_METRICS; printf \"\\\"half\\\":$((n/2))}\\n\" >> $FETCHML_METRICS; sleep 0.002; \
    [ $n -lt LAST ] || touch $FETCHML_OUTPUT_DIR/stop; done; echo $n";

async fn submit(lab: &Lab, script: &str) -> TaskId {
    let args = Some(shell_words::join(["bash", "-c", script]));
    let request = CreateTaskRequest { job_name: "count".into(), args, cpu: Some(0), ..Default::default() };
    lab.client().submit(&request, true).await.expect("it is taken").id
}

async fn metrics(lab: &Lab, task: TaskId) -> Option<TaskMetrics> {
    let query = MetricsQuery { points: Some(5_000), ..Default::default() };
    lab.client().metrics(task, &query).await.ok()
}

fn steps(metrics: &TaskMetrics) -> Vec<i64> {
    metrics.series.get("half").map_or(Vec::new(), |half| half.points.iter().map(|point| point.step as i64).collect())
}

/// Kills agent and server in turn, each time after more lines have come.
async fn each_line_comes_once(mut lab: Lab, last: i64) {
    lab.serve().await;
    lab.worker(1).await;
    let task = submit(&lab, &COUNT.replace("LAST", &last.to_string())).await;
    let mut seen = 0;
    for kill in 0..6 {
        let had = seen;
        seen = eventually("more lines", DEADLINE, async || {
            let steps = steps(&metrics(&lab, task).await?);
            assert_eq!(steps, (1..=steps.len() as i64).collect::<Vec<_>>(), "none is missing and none is twice");
            (steps.len() > had || steps.len() as i64 == last).then_some(steps.len())
        })
        .await;
        if kill % 2 == 0 {
            lab.kill_worker(0);
            lab.restart_worker(0).await;
        } else {
            lab.kill_server();
            lab.serve().await;
            lab.workers_active(1).await;
        }
    }
    lab.until(task, TaskStatus::Completed).await;
    assert_eq!(lab.log(task).await.trim(), last.to_string());
    let ended = metrics(&lab, task).await.expect("the server answers");
    assert_eq!(steps(&ended), (1..=last).collect::<Vec<_>>());
    assert_eq!((ended.lines, ended.bad_lines), (last.unsigned_abs(), 0));
    assert_eq!(ended.series["half"].last.value as i64, last / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_comes_once_though_agent_and_server_are_killed() {
    each_line_comes_once(Lab::new(), 2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_comes_once_out_of_a_sandbox() {
    each_line_comes_once(Lab::new().sandboxed(), 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_sees() {
    let lab = Lab::with_worker().await;
    let script = "for n in 1 2 3; do echo \"{\\\"step\\\": $n, \\\"loss\\\": 0.$((9-n))}\"; done > $FETCHML_METRICS; \
        echo epoch 4 >> $FETCHML_METRICS; printf '{\"acc\": NaN, \"top5\": 1e-7}' >> $FETCHML_METRICS";
    let task = submit(&lab, script).await;
    lab.until(task, TaskStatus::Completed).await;
    let shown = lab.run(&["metrics", &task.to_string()]).await;
    let text = String::from_utf8_lossy(&shown.stdout);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "LAST", "STEP", "MIN", "MAX", "VALUES"]);
    assert_eq!(rows[1], ["loss", "0.6", "3", "0.6", "0.8", "3"]);
    assert_eq!(rows[2], ["top5", "1e-7", "5", "1e-7", "1e-7", "1"], "the last line needs no line feed");
    let said = String::from_utf8_lossy(&shown.stderr);
    assert!(said.contains("2 of 5 lines could not be used; the first is line 4: is not a JSON object"), "{said}");
    let watched = lab.output(&["metrics", "--watch", "--name", "loss", &task.to_string()]).await;
    assert!(watched.contains("loss") && !watched.contains("top5"), "{watched}");
    let json = lab.output(&["metrics", "--json", "--name", "top5", &task.to_string()]).await;
    let json: TaskMetrics = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.series["top5"].points.len(), 1);
}

/// A busy task of two processes that holds memory, until it is cancelled.
async fn what_it_uses_is_sampled(mut lab: Lab) {
    lab.serve().await;
    lab.worker(1).await;
    let task = submit(&lab, "b=$(head -c 20000000 /dev/zero | tr '\\0' x); (while :; do :; done)").await;
    let seen = eventually("samples", DEADLINE, async || {
        let system = metrics(&lab, task).await?.system;
        let is_whole = system.get("system.cpu_percent")?.max > 1.0 && system.get("system.memory_bytes")?.max > 2e7;
        is_whole.then_some(system)
    })
    .await;
    assert!(seen["system.memory_bytes"].max < 1e9);
    assert!(seen["system.processes"].max >= 2.0);
    let shown = lab.output(&["metrics", "--system", &task.to_string()]).await;
    assert!(shown.contains("system.cpu_percent") && shown.contains("MiB"), "{shown}");
    lab.output(&["cancel", &task.to_string()]).await;
    lab.until(task, TaskStatus::Failed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_uses_is_sampled() {
    what_it_uses_is_sampled(Lab::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_in_a_sandbox_uses_is_sampled() {
    what_it_uses_is_sampled(Lab::new().sandboxed()).await;
}
