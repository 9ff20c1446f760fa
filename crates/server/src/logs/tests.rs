use super::*;
use uuid::Uuid;

struct Fixture {
    dir: tempfile::TempDir,
    logs: Logs,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(dir: tempfile::TempDir) -> Fixture {
    for name in ["logs", "objects"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let objects = Arc::clone(crate::blobs::Blobs::local(&dir.path().join("objects")).unwrap().objects());
    let stop = CancellationToken::new();
    let (logs, task) = Logs::start(dir.path().join("logs"), "logs", objects, stop.clone(), CancellationToken::new());
    Fixture { dir, logs, stop, task }
}

async fn restart(fixture: Fixture) -> Fixture {
    fixture.stop.cancel();
    fixture.task.await.unwrap();
    start(fixture.dir)
}

fn ids() -> (TaskId, AttemptId) {
    (TaskId(Uuid::now_v7()), AttemptId(Uuid::now_v7()))
}

async fn whole(logs: &Logs, task: TaskId, attempt: AttemptId) -> Vec<u8> {
    logs.tail(LogId { task, attempt, node: 0 }, 1 << 20).await.unwrap().to_vec()
}

#[tokio::test]
async fn repeats_are_skipped_and_gaps_are_not_filled() {
    let Fixture { logs, dir: _dir, .. } = start(tempfile::tempdir().unwrap());
    let (task, attempt) = ids();
    let append = async |offset, bytes: &'static [u8]| {
        logs.append(task, attempt, 0, offset, Bytes::from_static(bytes)).await.unwrap()
    };
    assert_eq!(append(0, b"hello").await, 5);
    assert_eq!(append(9, b"later").await, 5);
    assert_eq!(append(0, b"hello").await, 5);
    assert_eq!(append(3, b"lo world").await, 11);
    assert_eq!(whole(&logs, task, attempt).await, b"hello world");
}

#[tokio::test]
async fn a_restart_goes_on_from_what_was_acknowledged() {
    let fixture = start(tempfile::tempdir().unwrap());
    let (task, attempt) = ids();
    fixture.logs.append(task, attempt, 0, 0, Bytes::from_static(b"0123456789")).await.unwrap();
    let fixture = restart(fixture).await;
    assert_eq!(fixture.logs.resume(task, attempt, 0, 4).await.unwrap(), 4);
    assert_eq!(fixture.logs.append(task, attempt, 0, 4, Bytes::from_static(b"x")).await.unwrap(), 5);
    assert_eq!(whole(&fixture.logs, task, attempt).await, b"0123x");
    assert_eq!(fixture.logs.resume(task, AttemptId(Uuid::now_v7()), 0, 7).await.unwrap(), 0);
}

#[tokio::test]
async fn a_finished_log_is_an_object_and_reads_the_same() {
    let fixture = start(tempfile::tempdir().unwrap());
    let (task, attempt) = ids();
    let text = b"line\n".repeat(60_000);
    let mut at = 0;
    for chunk in text.chunks(100_000) {
        at = fixture.logs.append(task, attempt, 0, at, Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    fixture.logs.finish(task, attempt).await.unwrap();
    fixture.logs.finish(task, attempt).await.unwrap();
    assert!(fixture.logs.local().await.unwrap().is_empty());
    assert_eq!(fs::read_dir(fixture.dir.path().join("logs")).unwrap().count(), 0);
    assert_eq!(whole(&fixture.logs, task, attempt).await, text);
    let id = LogId { task, attempt, node: 0 };
    assert_eq!(fixture.logs.length(id).await.unwrap(), text.len() as u64);
    assert_eq!(fixture.logs.read(id, 5..10).await.unwrap(), &text[5..10]);
    // A late repeat from the worker changes nothing.
    let length = fixture.logs.append(task, attempt, 0, 0, Bytes::from_static(b"line\n")).await.unwrap();
    assert_eq!(length, text.len() as u64);
}

#[tokio::test]
async fn a_follower_hears_of_durable_bytes_from_before_the_first() {
    let Fixture { logs, dir: _dir, .. } = start(tempfile::tempdir().unwrap());
    let (task, attempt) = ids();
    let mut marks = logs.subscribe(LogId { task, attempt, node: 0 }).await.unwrap();
    assert_eq!(marks.borrow_and_update().durable, 0);
    let writer = logs.clone();
    tokio::spawn(async move { writer.append(task, attempt, 0, 0, Bytes::from_static(b"abc")).await });
    marks.wait_for(|mark| mark.durable == 3).await.unwrap();
}

#[tokio::test]
async fn more_logs_than_open_files_are_all_kept() {
    let Fixture { logs, dir: _dir, .. } = start(tempfile::tempdir().unwrap());
    let mut inner = Vec::new();
    for n in 0..limits::LOG_FILES_OPEN_MAX + 20 {
        inner.push((ids(), n));
    }
    for round in 0..2_u64 {
        let appends = inner.iter().map(|((task, attempt), n)| {
            let line = Bytes::from(format!("{n:04}\n"));
            logs.append(*task, *attempt, 0, round * 5, line)
        });
        for length in futures_util::future::join_all(appends).await {
            assert_eq!(length.unwrap(), round * 5 + 5);
        }
    }
    // Nothing is in use any more: the next file that is opened closes what is too much.
    let (task, attempt) = ids();
    logs.append(task, attempt, 0, 0, Bytes::from_static(b"x")).await.unwrap();
    let ((task, attempt), n) = inner[3];
    assert_eq!(whole(&logs, task, attempt).await, format!("{n:04}\n{n:04}\n").as_bytes());
    assert!(logs.0.open.lock().unwrap().len() <= limits::log_files_open_max());
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_an_error_and_acknowledges_nothing() {
    let Fixture { logs, dir, .. } = start(tempfile::tempdir().unwrap());
    let (task, attempt) = ids();
    fs::write(dir.path().join("logs").join(task.to_string()), b"in the way").unwrap();
    assert!(logs.append(task, attempt, 0, 0, Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test]
async fn removed_logs_are_gone_wherever_they_are() {
    let Fixture { logs, dir, .. } = start(tempfile::tempdir().unwrap());
    let (task, moved) = ids();
    let (other, open) = ids();
    logs.append(task, moved, 0, 0, Bytes::from_static(b"moved")).await.unwrap();
    logs.finish(task, moved).await.unwrap();
    logs.append(task, open, 0, 0, Bytes::from_static(b"open")).await.unwrap();
    logs.append(other, moved, 0, 0, Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(logs.measure(task).await.unwrap(), (2, 9));
    for _ in 0..2 {
        logs.remove(task).await.unwrap();
        assert_eq!(logs.measure(task).await.unwrap(), (0, 0));
        assert_eq!(whole(&logs, task, moved).await, b"");
    }
    assert_eq!(whole(&logs, other, moved).await, b"other");
    for place in ["logs", "objects/logs"] {
        assert!(!dir.path().join(place).join(task.to_string()).exists(), "{place}");
    }
}

#[tokio::test]
async fn a_log_that_is_being_moved_is_removed_after() {
    let Fixture { logs, dir: _dir, .. } = start(tempfile::tempdir().unwrap());
    for _ in 0..20 {
        let (task, attempt) = ids();
        logs.append(task, attempt, 0, 0, Bytes::from_static(b"bytes")).await.unwrap();
        let (moved, removed) = tokio::join!(logs.finish(task, attempt), logs.remove(task));
        // A move that finds nothing left may say so.
        drop(moved);
        removed.unwrap();
        assert_eq!(logs.measure(task).await.unwrap(), (0, 0), "whoever came first");
    }
}
