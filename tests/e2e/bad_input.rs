//! Mistakes at the door: each says what is wrong and what to do.

use crate::support::{Lab, bare_command, run, shown};
use fetchml_api::{FailureCause, TaskStatus};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let mut lab = Lab::new();
    lab.serve().await;
    let other = lab.path("other");
    let output = lab.run(&["serve", "--listen", lab.listen(), "--data-dir", other.to_str().unwrap()]).await;
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(lab.listen()) && stderr.contains("--listen"), "{}", shown(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_one_data_directory_exits() {
    let mut lab = Lab::new();
    lab.serve().await;
    let data_dir = lab.data_dir();
    let output = lab.run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()]).await;
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let pid = lab.server.as_ref().unwrap().pid().to_string();
    assert!(stderr.contains("server") && stderr.contains(&pid), "names the holder: {}", shown(&output));
    lab.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_server_is_named_with_what_to_try() {
    let lab = Lab::new();
    let mut command = bare_command();
    command.args(["tasks"]).env("HOME", lab.path("home")).env("FETCHML_URL", lab.url());
    command.env("FETCHML_API_KEY", "fml_x");
    let output = run(command).await;
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("error:") && stderr.contains("hint:"), "{}", shown(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_does_not_exist_is_the_submitters_fault() {
    let mut lab = Lab::new();
    lab.up(&[]).await;
    let dir = lab.project("project", &[("train.py", "print(1)")]);
    let output = lab.run(&["submit", "--dir", dir.to_str().unwrap(), "--follow", "--", "trian.py"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("trian.py"), "{}", shown(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_exist_fails_the_task() {
    let lab = Lab::with_worker().await;
    let id = lab.submit("/no/such/program --flag").await;
    let task = lab.until(id, TaskStatus::Failed).await;
    assert_eq!(task.failure.unwrap().cause, FailureCause::ExitNonzero);
    assert!(task.error.unwrap().contains("/no/such/program"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_refused_key_says_so_and_exits() {
    let mut lab = Lab::new();
    lab.serve().await;
    let key_file = lab.path("bad.key");
    std::fs::write(&key_file, "fml_aaaaaaaaaaaa_nonsense").unwrap();
    let data_dir = lab.path("worker");
    let mut command = lab.command(&["worker", "--server", &lab.url()]);
    command.arg("--key-file").arg(&key_file).arg("--data-dir").arg(&data_dir).env_remove("FETCHML_API_KEY");
    let output = run(command).await;
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("key"), "{}", shown(&output));
    assert!(!stderr.contains("nonsense"), "the key itself is not shown: {}", shown(&output));
}
