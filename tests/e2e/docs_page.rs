//! `/docs` in a real browser: it shows the API, and the browser has nothing to complain of.

use crate::support::{DEADLINE, Lab};
use std::{path::Path, process::Command};

#[tokio::test]
async fn the_api_can_be_read_in_a_browser() {
    let mut lab = Lab::new();
    lab.serve().await;
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/docs");
    assert!(web.join("node_modules").is_dir(), "run `cargo xtask web` first, then build again");
    let screenshot = lab.path("docs.png");
    let mut looking = tokio::process::Command::from(Command::new("node"));
    looking.current_dir(web).args(["look.mjs", &lab.url(), "Counts over the whole queue"]).arg(&screenshot);
    let output = tokio::time::timeout(DEADLINE, looking.kill_on_drop(true).output()).await.expect("in time").unwrap();
    let (shown, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}\n{complaints}");
    assert!(shown.contains("/v1/queue") && shown.contains("Counts over the whole queue"), "{shown}");
    let picture = std::fs::read(&screenshot).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{} bytes", picture.len());
}
