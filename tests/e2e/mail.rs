//! Mail about a task from the command line to an SMTP server behind TLS, with every process real.

use crate::support::{DEADLINE, Lab, shown};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

const PASSWORD: &str = "canary-smtp-password";

/// The SMTP server, with a certificate that nobody but this test trusts.
struct Smtps {
    said: Lines<BufReader<ChildStdout>>,
    port: u16,
    _process: Child,
}

impl Smtps {
    async fn start(lab: &Lab) -> Self {
        let (key, certificate, both) = (lab.path("key.pem"), lab.path("certificate.pem"), lab.path("both.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=mail", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is there");
        assert!(made.status.success(), "{}", shown(&made));
        let parts = [&key, &certificate].map(|path| fs::read(path).expect("it was made"));
        fs::write(&both, parts.concat()).expect("written");
        let mut process = tokio::process::Command::new("python3")
            .arg("-c")
            .arg(include_str!("mail/smtps.py"))
            .arg(&both)
            .arg(PASSWORD)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is there");
        let mut said = BufReader::new(process.stdout.take().expect("piped")).lines();
        let port = next_of(&mut said).await.parse().expect("a port");
        Self { said, port, _process: process }
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&next_of(&mut self.said).await).expect("JSON")
    }
}

async fn next_of(said: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(DEADLINE, said.next_line()).await.expect("a line in time").expect("text").expect("it goes on")
}

#[tokio::test]
async fn a_submit_that_asks_for_mail_gets_it_over_tls() {
    let mut lab = Lab::new();
    let mut smtp = Smtps::start(&lab).await;
    let password = lab.path("password");
    fs::write(&password, format!("{PASSWORD}\n")).expect("written");
    let url = format!("smtps://lab%20user@127.0.0.1:{}", smtp.port);
    lab.serve_with(&["--smtp-url", &url, "--smtp-password-file", password.to_str().expect("UTF-8")]);
    lab.serve_with(&["--mail-from", "FetchML <fetchml@example.org>", "--mail-domain", "lab.test"]);
    let certificate = lab.path("certificate.pem").to_str().expect("UTF-8").to_owned();
    lab.start_next_with("serve", "SSL_CERT_FILE", certificate);
    lab.serve().await;
    lab.worker(1).await;

    let refused = ["submit", "--no-snapshot", "--mail-user", "ada@elsewhere.test", "true"];
    let refused = lab.run(&refused).await;
    assert!(!refused.status.success() && shown(&refused).contains("lab.test"), "{}", shown(&refused));
    let submit =
        ["submit", "--no-snapshot", "--name", "told", "--mail-user", "ada@lab.test", "--mail-type", "begin,end"];
    let id = lab.output(&[&submit[..], &["sh", "-c", "exit 3"]].concat()).await;
    let (began, ended) = (smtp.next().await, smtp.next().await);
    for (mail, subject) in [(began, "told is running"), (ended, "told failed (exit_nonzero)")] {
        assert_eq!(mail["to"], serde_json::json!(["<ada@lab.test>"]));
        let text = mail["text"].as_str().expect("text");
        assert!(text.contains(&format!("Subject: [FetchML] {subject}\r\n")) && text.contains(id.trim()), "{text}");
    }
    let show = lab.output(&["show", id.trim()]).await;
    assert!(show.contains("ada@lab.test when running, completed, failed"), "{show}");
    let settings = lab.output(&["config", "--explain"]).await;
    assert!(!settings.contains(PASSWORD));
}
