//! Provenance: a run is repeated, its manifest differs in times and ids only, and what does differ is named.

use crate::support::{Lab, shown};
use fetchml_api::{CreateTaskRequest, RunManifest, TaskId, TaskStatus};
use fetchml_testkit::engine::{HOST_IMAGE, TestEngine};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What it makes follows from its seed.
const TRAIN: &str = r#"
import os, random, six
random.seed(int(os.environ["SEED"]))
weights = [random.random() for _ in range(100)]
print("six", six.__version__, "loss", "%.6f" % sum(weights), flush=True)
with open(os.path.join(os.environ["FETCHML_OUTPUT_DIR"], "model.txt"), "w") as out:
    out.write(" ".join("%.6f" % weight for weight in weights))
"#;

async fn manifest(lab: &Lab, id: &str) -> RunManifest {
    serde_json::from_str(&lab.output(&["manifest", "--json", id]).await).expect("a manifest")
}

async fn rerun(lab: &Lab, options: &[&str], id: &str) -> String {
    let again = lab.output(&[&["rerun"], options, &[id]].concat()).await.trim().to_owned();
    lab.until(again.parse().expect("an id"), TaskStatus::Completed).await;
    again
}

/// The manifest without times and ids, which all differ.
fn what_repeats(manifest: &RunManifest) -> Value {
    let mut value = serde_json::to_value(manifest).expect("JSON");
    for (part, own) in [
        ("task", &["id", "created_at", "rerun_of"][..]),
        ("attempt", &["id", "epoch", "created_at", "started_at", "ended_at"]),
    ] {
        for name in own {
            value[part].as_object_mut().expect("an object").remove(*name);
        }
    }
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_repeated_and_differs_only_in_times_and_ids() {
    let mut lab = Lab::new().sandboxed();
    lab.up(&[]).await;
    let dir = lab.project("project", &[("train.py", TRAIN), ("requirements.txt", "six\n")]);
    let submit = ["submit", "--dir", dir.to_str().expect("text"), "--env", "SEED=1", "--", "train.py"];
    let first = lab.output(&submit).await.trim().to_owned();
    lab.until(first.parse().expect("an id"), TaskStatus::Completed).await;

    // Nothing of it is there any more but what the server keeps.
    std::fs::remove_dir_all(&dir).expect("can be removed");
    let again = rerun(&lab, &[], &first).await;
    let (a, b) = (manifest(&lab, &first).await, manifest(&lab, &again).await);
    assert_eq!(what_repeats(&a), what_repeats(&b));
    assert_eq!(b.task.rerun_of, Some(a.task.id));
    let python = a.nodes[0].provenance.as_ref().expect("its worker said").python.clone().expect("an environment");
    assert!(python.packages.iter().any(|package| package.starts_with("six==")), "{python:?}");
    assert_eq!((a.seeds["SEED"].as_str(), a.artifacts[0].path.as_str()), ("1", "model.txt"));
    let log = lab.log(a.task.id).await;
    let own = &log.as_bytes()[log.len() - a.log.as_ref().expect("a log").size_bytes as usize..];
    assert!(own.starts_with(b"six "), "what was said while it was staged is not its own: {log}");
    assert_eq!(a.log.expect("a log").sha256, Some(hex::encode(Sha256::digest(own))));
    let same = lab.run(&["diff", &first, &again]).await;
    assert_eq!(same.status.code(), Some(0), "{}", shown(&same));
    assert!(String::from_utf8_lossy(&same.stderr).contains("nothing but times and ids"), "{}", shown(&same));

    let other = rerun(&lab, &["--env", "SEED=2"], &first).await;
    let differs = lab.run(&["diff", "--json", &first, &other]).await;
    assert_eq!(differs.status.code(), Some(1), "{}", shown(&differs));
    let report: Value = serde_json::from_slice(&differs.stdout).expect("JSON");
    let fields: Vec<&str> =
        report["differences"].as_array().expect("a list").iter().filter_map(|one| one["field"].as_str()).collect();
    assert_eq!(fields, ["artifacts.model.txt.sha256", "log.sha256", "seeds.SEED", "spec.env.SEED"], "{report:#}");
    let shown = lab.output(&["manifest", &first]).await;
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["seeds.SEED", "1"])), "{shown}");
}

/// The same tag means another image when the run is repeated; the digest does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_of_a_run_is_that_of_its_repetition() {
    let engine = TestEngine::podman();
    let mut lab = Lab::new().containers(&engine);
    lab.up(&[]).await;
    let request = CreateTaskRequest {
        job_name: "image".into(),
        image: Some(HOST_IMAGE.into()),
        args: Some("bash -c 'echo here'".into()),
        ..CreateTaskRequest::default()
    };
    let first: TaskId = lab.client().submit(&request, true).await.expect("it is taken").id;
    lab.until(first, TaskStatus::Completed).await;
    let first = first.to_string();
    let again = rerun(&lab, &[], &first).await;
    let (a, b) = (manifest(&lab, &first).await, manifest(&lab, &again).await);
    assert_eq!(what_repeats(&a), what_repeats(&b));
    let image = a.nodes[0].provenance.as_ref().expect("its worker said").image.clone().expect("an image");
    assert!(image.digest.starts_with("sha256:"), "{image:?}");
    assert_eq!(b.spec.image, Some(format!("{}@{}", image.image, image.digest)));
}
