//! Which server and key a command uses, and what it says when it cannot.

use crate::support::{Home, free_port};
use insta::assert_snapshot;

const KEY: &str = "fml_aaaaaaaaaaaa_secret";

#[test]
fn without_any_configuration_the_first_step_is_told() {
    assert_snapshot!(Home::new().run(&["tasks"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: no server is configured
    hint: start one here with `fetchml up`, or set FETCHML_URL and FETCHML_API_KEY to use another
    "#);
}

#[test]
fn an_unreachable_server_is_named() {
    let home = Home::new();
    let port = free_port();
    let mut command = home.command(&["queue"]);
    command.env("FETCHML_URL", format!("http://127.0.0.1:{port}")).env("FETCHML_API_KEY", KEY);
    let text = home.render(&mut command).replace(&port.to_string(), "PORT");
    assert_snapshot!(text, @r#"
    exit 5
    --- stdout
    --- stderr
    error: cannot reach the FetchML server at http://127.0.0.1:PORT: connection refused
    hint: start a server here with `fetchml up`, or set FETCHML_URL if it is not at http://127.0.0.1:PORT
    "#);
}

#[test]
fn a_malformed_key_or_address_is_told_without_showing_the_key() {
    let home = Home::new();
    let mut bad_key = home.command(&["queue"]);
    bad_key.env("FETCHML_URL", "http://127.0.0.1:1").env("FETCHML_API_KEY", "hunter2");
    assert_snapshot!(home.render(&mut bad_key), @r#"
    exit 2
    --- stdout
    --- stderr
    error: the API key is not well formed: it does not begin with fml_
    hint: keys look like fml_<id>_<secret>; `fetchml keys create` makes one
    "#);
    let mut bad_url = home.command(&["queue", "--url", "127.0.0.1"]);
    bad_url.env("FETCHML_API_KEY", KEY);
    assert_snapshot!(home.render(&mut bad_url), @r#"
    exit 2
    --- stdout
    --- stderr
    error: "127.0.0.1" is not a server address: it must begin with http:// or https://
    hint: an address looks like http://127.0.0.1:9101
    "#);
}

#[test]
fn the_profiles_key_goes_to_the_profiles_server_only() {
    let home = Home::new();
    let key_file = home.write("admin.key", KEY);
    let profile = format!("url = \"http://127.0.0.1:1\"\nkey_file = {:?}\n", key_file.display().to_string());
    home.write(".config/fetchml/profile.toml", &profile);
    assert_snapshot!(home.run(&["queue"]), @r#"
    exit 5
    --- stdout
    --- stderr
    error: cannot reach the FetchML server at http://127.0.0.1:1: connection refused
    hint: start a server here with `fetchml up`, or set FETCHML_URL if it is not at http://127.0.0.1:1
    "#);
    assert_snapshot!(home.run(&["queue", "--url", "http://127.0.0.1:2"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: no API key for the server at http://127.0.0.1:2
    hint: set FETCHML_API_KEY, or FETCHML_KEY_FILE to a file that holds the key
    "#);
}

#[test]
fn a_key_file_that_is_not_there_is_named() {
    let home = Home::new();
    assert_snapshot!(home.run(&["queue", "--url", "http://127.0.0.1:1", "--key-file", "nowhere"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: cannot read the key file nowhere: No such file or directory (os error 2)
    hint: set FETCHML_API_KEY to the key itself, or name another file
    "#);
    assert_snapshot!(home.run(&["worker", "--server", "http://127.0.0.1:1"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: no key file is named
    hint: make a key with `fetchml keys create --role worker --user lab > worker.key` and give --key-file
    "#);
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
