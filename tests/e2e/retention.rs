//! Retention: when the disk of the server's files is almost full, those of the tasks that ended first go.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::{CollectReason, GcKind, GcReport, HealthStatus, TaskId, TaskStatus};
use std::{fs, process::Command};

/// Bytes of each task's log.
const LOG: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_the_oldest_files_go_and_everything_says_so() {
    let mut lab = Lab::new();
    let data_dir = lab.data_dir();
    fs::create_dir_all(data_dir.join("objects")).unwrap();
    // The server's files get a small file system of their own, in a mount namespace of its own.
    let fetchml = env!("CARGO_BIN_EXE_fetchml");
    let script = format!(
        "mount -t tmpfs -o size=16m,mode=0700 tmpfs {dir}/objects && exec {fetchml} serve --listen {listen} --data-dir {dir} --rate-limits off",
        dir = data_dir.display(),
        listen = lab.listen(),
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).env("HOME", lab.path("home"));
    command.env("FETCHML_RETENTION_MIN_HOURS", "0").env("FETCHML_GC_EVERY_HOURS", "0");
    command.env("FETCHML_DISK_HIGH_PERCENT", "70").env("FETCHML_DISK_LOW_PERCENT", "40");
    lab.server = Some(lab.spawn("serve", command));
    lab.healthy().await;
    lab.worker(1).await;
    let collect = async |flags: &[&str]| -> GcReport {
        let report = lab.output(&[&["admin", "gc", "--json"], flags].concat()).await;
        serde_json::from_str(&report).unwrap()
    };

    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(prints_much(&lab).await);
    }
    let report = collect(&[]).await;
    assert!(report.disk.as_ref().unwrap().used_percent > 40, "{report:?}");
    assert_eq!(report.of(GcKind::Logs).unwrap().count, 0, "three are no reason");

    tasks.push(prints_much(&lab).await);
    let would = collect(&["--dry-run"]).await;
    // Of 12 MiB in 16 at most 6.4 may stay.
    assert_eq!((would.of(GcKind::Logs).unwrap().count, would.freed_bytes), (2, 2 * LOG as u64));
    let did = collect(&[]).await;
    assert_eq!((did.of(GcKind::Logs), did.freed_bytes), (would.of(GcKind::Logs), would.freed_bytes));
    assert_eq!((did.problems, lab.client().health().await.unwrap().status), (vec![], HealthStatus::Healthy));
    assert!(collect(&["--dry-run"]).await.disk.unwrap().used_percent <= 40);

    for (task, gone) in tasks.iter().zip([true, true, false, false]) {
        let log = lab.run(&["logs", &task.to_string()]).await;
        assert_eq!(log.status.success(), !gone, "{}", shown(&log));
        let deleted = lab.client().task(*task).await.unwrap().files_deleted;
        assert_eq!(deleted.map(|deleted| deleted.reason), gone.then_some(CollectReason::Disk));
        if gone {
            let why = "because the server's disk was almost full";
            assert!(shown(&log).contains(why), "{}", shown(&log));
            let shows = lab.output(&["show", &task.to_string()]).await;
            assert!(shows.contains(why), "{shows}");
        } else {
            assert_eq!(log.stdout.len(), LOG);
        }
    }
    let said = lab.run(&["admin", "gc", "--dry-run"]).await;
    assert!(shown(&said).contains("nothing would be deleted"), "{}", shown(&said));
}

/// A task whose log is at rest among the server's files.
async fn prints_much(lab: &Lab) -> TaskId {
    let task = lab.submit(&format!("bash -c 'head -c {LOG} /dev/zero | tr \"\\0\" x'")).await;
    lab.until(task, TaskStatus::Completed).await;
    // It moves there when the task is over.
    let live = lab.data_dir().join("logs").join(task.to_string());
    eventually("the log is at rest", DEADLINE, async || (!live.exists()).then_some(())).await;
    task
}
