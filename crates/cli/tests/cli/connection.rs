//! Which server and key a command uses, and what it says when it cannot.

use crate::support::{Home, free_port};
use insta::assert_snapshot;

const KEY: &str = "fml_aaaaaaaaaaaa_secret";

#[test]
fn without_any_configuration_the_first_step_is_told() {
    assert_snapshot!(Home::new().run(&["tasks"]), @"");
}

#[test]
fn an_unreachable_server_is_named() {
    let home = Home::new();
    let port = free_port();
    let mut command = home.command(&["queue"]);
    command.env("FETCHML_URL", format!("http://127.0.0.1:{port}")).env("FETCHML_API_KEY", KEY);
    let text = home.render(&mut command).replace(&port.to_string(), "PORT");
    assert_snapshot!(text, @"");
}

#[test]
fn a_malformed_key_or_address_is_told_without_showing_the_key() {
    let home = Home::new();
    let mut bad_key = home.command(&["queue"]);
    bad_key.env("FETCHML_URL", "http://127.0.0.1:1").env("FETCHML_API_KEY", "hunter2");
    assert_snapshot!(home.render(&mut bad_key), @"");
    let mut bad_url = home.command(&["queue", "--url", "127.0.0.1"]);
    bad_url.env("FETCHML_API_KEY", KEY);
    assert_snapshot!(home.render(&mut bad_url), @"");
}

#[test]
fn the_profiles_key_goes_to_the_profiles_server_only() {
    let home = Home::new();
    let key_file = home.write("admin.key", KEY);
    let profile = format!("url = \"http://127.0.0.1:1\"\nkey_file = {:?}\n", key_file.display().to_string());
    home.write(".config/fetchml/profile.toml", &profile);
    assert_snapshot!(home.run(&["queue"]), @"");
    assert_snapshot!(home.run(&["queue", "--url", "http://127.0.0.1:2"]), @"");
}

#[test]
fn a_key_file_that_is_not_there_is_named() {
    let home = Home::new();
    assert_snapshot!(home.run(&["queue", "--url", "http://127.0.0.1:1", "--key-file", "nowhere"]), @"");
    assert_snapshot!(home.run(&["worker", "--server", "http://127.0.0.1:1"]), @"");
}

#[test]
fn things_that_are_no_task_ids_are_told_before_connecting() {
    let home = Home::new();
    for (id, words) in [("train.py", "is not a task id"), ("0193", "too short"), ("@last", "nothing was submitted")] {
        let mut command = home.command(&["show", id]);
        command.env("FETCHML_URL", "http://127.0.0.1:1").env("FETCHML_API_KEY", KEY);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("hint: "), "{stderr}");
    }
}
