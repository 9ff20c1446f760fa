//! What the command line accepts and how it says no.

use crate::support::Home;
use insta::assert_snapshot;

/// Every command, for checks that hold for all.
const COMMANDS: &[&[&str]] = &[
    &["up"],
    &["serve"],
    &["worker"],
    &["submit"],
    &["tasks"],
    &["show"],
    &["logs"],
    &["cancel"],
    &["wait"],
    &["artifacts"],
    &["artifacts", "ls"],
    &["artifacts", "get"],
    &["queue"],
    &["workers"],
    &["keys"],
    &["keys", "create"],
    &["keys", "list"],
    &["keys", "revoke"],
    &["config"],
    &["completions"],
];

#[test]
fn every_help_begins_with_an_example_of_its_command() {
    let home = Home::new();
    for command in COMMANDS {
        let output = home.command(command).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("Example"), "{command:?}: {text}");
        let example = lines.next().unwrap().trim();
        let expected = format!("fetchml {}", command.join(" "));
        assert!(example.starts_with(&expected), "{command:?}: {example}");
    }
}

#[test]
fn the_list_of_commands() {
    assert_snapshot!(Home::new().run(&["-h"]), @"");
}

#[test]
fn the_version_names_the_release() {
    let output = Home::new().command(&["--version"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(concat!("fetchml ", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn options_of_the_task_are_not_ours() {
    let home = Home::new();
    assert_snapshot!(home.run(&["submit", "--bogus", "train.py"]), @"");
    // Past the entry point everything belongs to the task: this fails only for want of a server.
    let output = home.command(&["submit", "train.py", "--bogus", "--gpu", "9"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server is configured"));
}

#[test]
fn values_out_of_range_are_refused_before_anything_is_sent() {
    let home = Home::new();
    assert_snapshot!(home.run(&["submit", "--priority", "11", "x"]), @"");
    assert_snapshot!(home.run(&["submit", "--time-limit", "1h1h", "x"]), @"");
    assert_snapshot!(home.run(&["submit", "--memory", "lots", "x"]), @"");
    assert_snapshot!(home.run(&["submit", "--env", "NOVALUE", "x"]), @"");
    assert_snapshot!(home.run(&["tasks", "--status", "done"]), @"");
    assert_snapshot!(home.run(&["keys", "create", "--role", "boss", "--user", "ada"]), @"");
}

#[test]
fn completions_name_the_commands() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.command(&["completions", shell]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("artifacts"), "{shell}");
        assert!(!text.contains("__helper"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_fetchml"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
