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

/// As few files as can be: who says nothing keeps nobody out, and the server neither ends nor fills its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_64_file_descriptors_goes_on() {
    let mut lab = Lab::new();
    lab.wrap_server(&["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"]);
    lab.serve().await;
    let said = lab.server.as_ref().unwrap().stderr();
    assert!(said.contains("may open 64 files") && said.contains("LimitNOFILE"), "{said}");
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(std::net::TcpStream::connect(lab.listen()).expect("a connection"));
    }
    lab.healthy().await;
    let waits = lab.submit("true").await;
    drop(silent);
    lab.worker(1).await;
    lab.until(waits, TaskStatus::Completed).await;
    let said = lab.server.as_ref().unwrap().stderr();
    assert!(said.matches("no connection can be accepted").count() < 10 && !said.contains("panicked"), "{said}");
}

/// What a server raises for itself, tasks do not get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_up_have_the_limit_of_files_that_it_was_started_with() {
    let mut lab = Lab::new();
    let shell = format!("ulimit -Sn 777; exec \"{}\" \"$@\"", env!("CARGO_BIN_EXE_fetchml"));
    let mut command = std::process::Command::new("sh");
    let (listen, data_dir) = (lab.listen().to_owned(), lab.data_dir());
    command.args(["-c", &shell, "sh", "up", "--listen", &listen, "--isolation", "none", "--container-engine", "none"]);
    command.arg("--data-dir").arg(&data_dir).env("HOME", lab.path("home")).current_dir(lab.path(""));
    lab.server = Some(lab.spawn("up", command));
    lab.healthy().await;
    lab.workers_active(1).await;
    let raised = std::fs::read_to_string(format!("/proc/{}/limits", lab.server.as_ref().unwrap().pid())).unwrap();
    let raised = raised.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(!raised.contains(" 777 "), "{raised}");
    let task = lab.submit("bash -c 'ulimit -Sn'").await;
    lab.until(task, TaskStatus::Completed).await;
    assert_eq!(lab.log(task).await.trim(), "777");
}
