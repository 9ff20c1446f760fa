//! Snapshots and Python environments: staged once, used again.

use crate::support::{Lab, shown};
use fetchml_api::FailureCause;
use serde_json::Value;

const TRAIN: &str = r#"
import os, sys
import six
out = os.environ["FETCHML_OUTPUT_DIR"]
print("training with six", six.__version__, sys.argv[1:], flush=True)
open(os.path.join(out, "model.bin"), "wb").write(b"\x00\x01weights")
open(os.path.join(out, "metrics.json"), "w").write('{"accuracy": 0.97}')
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_submit_uploads_nothing_and_builds_nothing() {
    let mut lab = Lab::new().sandboxed();
    lab.up(&[]).await;
    let dir = lab.project("project", &[("train.py", TRAIN), ("requirements.txt", "six==1.16.0\n")]);
    let dir = dir.to_str().unwrap();
    let submit = ["submit", "--dir", dir, "--follow", "--name", "train", "--", "train.py", "--epochs", "2"];

    let first = lab.run(&submit).await;
    assert!(first.status.success(), "{}", shown(&first));
    let log = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(log.contains("training with six 1.16.0 ['--epochs', '2']"), "{}", shown(&first));
    assert!(!log.contains("reused"), "{log}");

    let second = lab.run(&submit).await;
    assert!(second.status.success(), "{}", shown(&second));
    let (log, progress) = (String::from_utf8_lossy(&second.stdout), String::from_utf8_lossy(&second.stderr));
    assert!(log.contains("reused"), "the environment is not built again: {}", shown(&second));
    assert!(progress.contains("nothing to upload"), "no file is sent again: {}", shown(&second));

    let tasks: Value = serde_json::from_str(&lab.output(&["tasks", "--json"]).await).unwrap();
    let id = tasks["tasks"][0]["id"].as_str().unwrap().to_owned();
    let artifacts: Value = serde_json::from_str(&lab.output(&["artifacts", "ls", &id, "--json"]).await).unwrap();
    let paths: Vec<_> =
        artifacts["artifacts"].as_array().unwrap().iter().map(|a| a["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["metrics.json", "model.bin"]);
    let out = lab.path("fetched");
    lab.output(&["artifacts", "get", &id, "-o", out.to_str().unwrap()]).await;
    assert_eq!(std::fs::read(out.join("model.bin")).unwrap(), b"\x00\x01weights");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requirements_that_cannot_be_installed_fail_with_the_installers_words() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let requirements = "fetchml-test-package-that-does-not-exist==1.0\n";
    let dir = lab.project("project", &[("train.py", "print('never')"), ("requirements.txt", requirements)]);
    let output = lab.run(&["submit", "--dir", dir.to_str().unwrap(), "--follow", "--", "train.py"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));

    let tasks: Value = serde_json::from_str(&lab.output(&["tasks", "--json"]).await).unwrap();
    let task = &tasks["tasks"][0];
    assert_eq!(task["failure"]["cause"], FailureCause::Environment.as_str(), "{task}");
    let error = task["error"].as_str().unwrap();
    assert!(error.contains("fetchml-test-package-that-does-not-exist"), "{error}");
}
