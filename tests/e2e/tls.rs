//! A lab over TLS with a certificate of the server's own: everything goes through it, and nobody
//! talks to a server that has another one.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::TaskStatus;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

const STEPS: &str = "\
import os, pathlib
for step in range(3):
    print('step', step, flush=True)
(pathlib.Path(os.environ['FETCHML_OUTPUT_DIR']) / 'model.bin').write_bytes(bytes(300_000))
";

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(5), "{}", shown(output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_task_is_submitted_run_followed_and_fetched_over_tls() {
    let mut lab = Lab::new().with_tls();
    lab.serve().await;
    lab.worker(1).await;
    let project = lab.project("project", &[("train.py", STEPS)]);
    let mut command = lab.command(&["submit", "--follow", "train.py"]);
    command.current_dir(&project);
    let output = crate::support::run(command).await;
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("step ").count(), 3, "{}", shown(&output));
    let listed = lab.output(&["artifacts", "ls", "@last"]).await;
    assert!(listed.contains("model.bin"), "{listed}");
    // By its certificate as an authority too, as other programs know it.
    let mut command = lab.command(&["whoami"]);
    command.env_remove("FETCHML_TLS_FINGERPRINT").env("FETCHML_CA_CERT", lab.ca_cert());
    let output = crate::support::run(command).await;
    assert!(output.status.success(), "{}", shown(&output));
    let key = fs::metadata(lab.data_dir().join("tls.key")).expect("the private key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);

    // The certificate, and with it what everybody knows the server by, outlives a restart.
    let fingerprint = lab.fingerprint();
    let id = lab.submit("sleep 1000").await;
    lab.until(id, TaskStatus::Running).await;
    lab.kill_server();
    fs::remove_file(lab.path("serve.log")).expect("its log");
    lab.serve().await;
    assert_eq!(lab.fingerprint(), fingerprint);
    lab.workers_active(1).await;
    lab.client().cancel(id).await.expect("cancelled");
    lab.until(id, TaskStatus::Failed).await;
}

/// Another server in the place of the real one has no certificate that anybody here knows.
#[tokio::test]
async fn a_server_with_another_certificate_is_told_nothing() {
    let (mut lab, mut other) = (Lab::new().with_tls(), Lab::new().with_tls());
    lab.serve().await;
    other.serve().await;
    let (ours, theirs) = (lab.fingerprint(), other.fingerprint());
    assert_ne!(ours, theirs);
    let in_its_place = other.url();

    let said = refused(&lab.run(&["tasks", "--url", &in_its_place]).await);
    assert!(said.contains("is not the one that is trusted"), "{said}");
    assert!(said.contains(&ours) && said.contains(&theirs), "{said}");
    let mut command = lab.command(&["tasks", "--url", &in_its_place, "--ca-cert"]);
    command.arg(lab.ca_cert()).env_remove("FETCHML_TLS_FINGERPRINT");
    let said = refused(&crate::support::run(command).await);
    assert!(said.contains("no authority that is trusted here vouches"), "{said}");
    // Without the profile that the server wrote here.
    let mut command = lab.command(&["tasks"]);
    command.env_remove("FETCHML_TLS_FINGERPRINT").env("HOME", lab.path("elsewhere"));
    let said = refused(&crate::support::run(command).await);
    assert!(said.contains("FETCHML_TLS_FINGERPRINT"), "nothing is trusted by itself: {said}");
    // Nor is there a way back to plain text.
    let plain = format!("http://{}", lab.listen());
    let output = lab.run(&["tasks", "--url", &plain]).await;
    assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    let mut command = lab.command(&["tasks", "--url", &plain]);
    command.env_remove("FETCHML_TLS_FINGERPRINT").env("HOME", lab.path("elsewhere"));
    let said = refused(&crate::support::run(command).await);
    assert!(said.contains("speaks HTTPS only") && said.contains("https://"), "{said}");

    let mut worker = lab.enter_worker(1, &in_its_place).await;
    assert_eq!(worker.wait().await, Some(5));
    assert!(worker.stderr().contains("is not the one that is trusted"), "{}", worker.stderr());
    assert!(other.client().workers().await.expect("an answer").is_empty());
}

#[tokio::test]
async fn a_certificate_from_files_is_taken_up_anew_when_told() {
    let mut lab = Lab::new();
    // Two servers made two pairs.
    let mut made = Vec::new();
    for _ in 0..2 {
        let mut maker = Lab::new().with_tls();
        maker.serve().await;
        made.push(["tls.crt", "tls.key"].map(|name| fs::read(maker.data_dir().join(name)).expect("made")));
    }
    let place = |lab: &Lab, pair: &[Vec<u8>; 2]| {
        for (name, bytes) in ["own.crt", "own.key"].iter().zip(pair) {
            fs::write(lab.path(name), bytes).expect("a file");
        }
    };
    place(&lab, &made[0]);
    let (certificate, key) = (lab.path("own.crt"), lab.path("own.key"));
    let words = ["--tls-cert", certificate.to_str().expect("UTF-8"), "--tls-key", key.to_str().expect("UTF-8")];
    lab.serve_with(&words);
    lab.start_server();
    let url = format!("https://{}", lab.listen());
    let authorities = |bytes: &[u8]| {
        let root = reqwest::Certificate::from_pem(bytes).expect("a certificate");
        reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().expect("a client")
    };
    let answers = async |http: reqwest::Client| http.get(format!("{url}/health")).send().await;
    let first = || authorities(&made[0][0]);
    eventually("the server answers", DEADLINE, async || answers(first()).await.ok()).await;
    answers(authorities(&made[1][0])).await.expect_err("it has the first one");

    // What cannot be used is said and not taken up.
    fs::write(&key, &made[1][1]).expect("a file");
    let server = lab.server.as_ref().expect("it runs");
    let hang_up = || {
        let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it can be signalled");
    };
    hang_up();
    eventually("it is said", DEADLINE, async || server.stderr().contains("the one before stays in use").then_some(()))
        .await;
    answers(first()).await.expect("the one before stays in use");

    place(&lab, &made[1]);
    hang_up();
    eventually("the second one is in use", DEADLINE, async || answers(authorities(&made[1][0])).await.ok()).await;
    let answer = answers(authorities(&made[1][0])).await.expect("an answer");
    assert!(answer.headers().contains_key("strict-transport-security"), "an authority vouches for it");
    answers(first()).await.expect_err("new connections get the second one");
}
