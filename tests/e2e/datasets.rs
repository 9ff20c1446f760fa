//! Data sets: fetched once, seen by tasks where they want them, changed by none.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::FailureCause;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const IRIS: &str = "sepal_length,sepal_width\n5.1,3.5\n";

/// Serves the file to everybody; gives its port and how often it was asked for.
fn serve() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && socket.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let length = IRIS.len();
            let _ = write!(socket, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{IRIS}");
        }
    });
    (port, asked)
}

/// What a task tries that wants to change its data set; `$1` is where it sees it.
const CHANGE: &str = r#"
    cat "$1"
    (echo x >> "$1") 2>/dev/null && echo CHANGED
    (echo x > "$1") 2>/dev/null && echo CHANGED
    rm -f "$1" 2>/dev/null && echo REMOVED
    chmod u+w "$1" 2>/dev/null && echo UNLOCKED
    mv "$1" "$1.old" 2>/dev/null && echo MOVED
    touch "$FETCHML_DATASET_DIR/new" 2>/dev/null && echo ADDED
    cat "$1"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_in_a_sandbox_reads_its_data_set_and_cannot_change_it_and_a_second_does_not_fetch_it() {
    let (port, asked) = serve();
    let mut lab = Lab::new().sandboxed();
    lab.up(&["--dataset-allow-net", "127.0.0.0/8", "--dataset-cache", "100M"]).await;
    let sha256 = hex::encode(Sha256::digest(IRIS));
    let source = format!("http://127.0.0.1:{port}/iris.csv");
    lab.output(&["datasets", "add", "iris", &source, "--sha256", &sha256, "--mount", "/data/iris.csv"]).await;
    let listed: Value = serde_json::from_str(&lab.output(&["datasets", "ls", "--json"]).await).unwrap();
    assert_eq!(
        (&listed["datasets"][0]["name"], &listed["datasets"][0]["sha256"]),
        (&"iris".into(), &sha256.clone().into())
    );

    let submit = |set: &'static str, place: &'static str| {
        let script = format!("set -- \"{place}\"; {CHANGE}");
        ["submit", "--no-snapshot", "--follow", "--cpu", "0", "--dataset", set, "--", "bash", "-c", &script]
            .map(str::to_owned)
    };
    for (set, place, at_hand) in [
        ("iris", "/data/iris.csv", false),
        ("iris@/somewhere/else", "/somewhere/else", true),
        ("iris", "/data/iris.csv", true),
    ] {
        let arguments = submit(set, place);
        let output = lab.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert!(output.status.success(), "{}", shown(&output));
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(log.ends_with(&IRIS.repeat(2)), "{}", shown(&output));
        assert_eq!(log.contains("at hand"), at_hand, "{}", shown(&output));
        for done in ["CHANGED", "REMOVED", "UNLOCKED", "MOVED", "ADDED"] {
            assert!(!log.contains(done), "{}", shown(&output));
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is fetched once");
    eventually("the worker says that it holds it", DEADLINE, async || {
        lab.output(&["datasets", "show", "iris"]).await.contains("held by   ").then_some(())?;
        let workers: Value = serde_json::from_str(&lab.output(&["workers", "--json"]).await).unwrap();
        (workers[0]["datasets"] == serde_json::json!([sha256])).then_some(())
    })
    .await;

    // Below $FETCHML_DATASET_DIR when nothing else is said, here with its own source.
    let own = format!("own=http://127.0.0.1:{port}/other#sha256={sha256}");
    let script = "cat $FETCHML_DATASET_DIR/own; ls $FETCHML_DATASET_DIR";
    let arguments = ["submit", "--no-snapshot", "--follow", "--dataset", &own, "--", "bash", "-c", script];
    let output = lab.run(&arguments).await;
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && log.ends_with(&format!("{IRIS}own\n")), "{}", shown(&output));
    lab.output(&["datasets", "rm", "iris"]).await;
    let gone = lab.run(&["submit", "--no-snapshot", "--dataset", "iris", "true"]).await;
    let text = shown(&gone);
    assert!(!gone.status.success() && text.contains("there is no data set \"iris\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_may_not_ask_fails_the_task_for_good() {
    let (port, asked) = serve();
    let files = tempfile::tempdir().unwrap();
    fs::create_dir_all(files.path().join("set/train")).unwrap();
    fs::write(files.path().join("set/train/iris.csv"), IRIS).unwrap();
    let archive = files.path().join("set.tar.gz");
    let packed =
        Command::new("tar").arg("-C").arg(files.path().join("set")).arg("-czf").arg(&archive).arg(".").status();
    assert!(packed.unwrap().success());
    let mut lab = Lab::new();
    lab.up(&["--dataset-dir", files.path().to_str().unwrap()]).await;
    let refused = format!("x=http://127.0.0.1:{port}/x");
    let output = lab.run(&["submit", "--no-snapshot", "--follow", "--dataset", &refused, "true"]).await;
    assert!(!output.status.success(), "{}", shown(&output));
    let task: Value = serde_json::from_str(&lab.output(&["show", "@last", "--json"]).await).unwrap();
    assert_eq!(task["failure"]["cause"], FailureCause::Dataset.as_str(), "{task}");
    assert_eq!(task["requeue_count"], 0, "{task}");
    let error = task["error"].as_str().unwrap();
    assert!(error.contains("127.0.0.1 is not a public address") && error.contains("--dataset-allow-net"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    // Without a sandbox they are links; an archive is a directory.
    let set = format!("set=file://{}#unpack", archive.display());
    let script = "cat $FETCHML_DATASET_DIR/set/train/iris.csv";
    let output = lab.run(&["submit", "--no-snapshot", "--follow", "--dataset", &set, "--", "bash", "-c", script]).await;
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && log.contains("unpacked") && log.ends_with(IRIS), "{}", shown(&output));
    let place = format!("{set}@/data/x");
    let output = lab.run(&["submit", "--no-snapshot", "--follow", "--dataset", &place, "true"]).await;
    assert!(shown(&output).contains("needs a sandbox by bubblewrap"), "{}", shown(&output));
}
