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
    &["metrics"],
    &["manifest"],
    &["rerun"],
    &["diff"],
    &["cancel"],
    &["wait"],
    &["artifacts"],
    &["artifacts", "ls"],
    &["artifacts", "get"],
    &["datasets"],
    &["datasets", "add"],
    &["datasets", "ls"],
    &["datasets", "show"],
    &["datasets", "rm"],
    &["queue"],
    &["status"],
    &["workers"],
    &["explain"],
    &["drain"],
    &["undrain"],
    &["priority"],
    &["usage"],
    &["quota"],
    &["quota", "ls"],
    &["quota", "set"],
    &["quota", "rm"],
    &["reserve"],
    &["reservations"],
    &["release"],
    &["whoami"],
    &["audit"],
    &["audit", "events"],
    &["audit", "verify"],
    &["audit", "root"],
    &["keys"],
    &["keys", "create"],
    &["keys", "list"],
    &["keys", "revoke"],
    &["admin"],
    &["admin", "gc"],
    &["webhooks"],
    &["webhooks", "create"],
    &["webhooks", "list"],
    &["webhooks", "delete"],
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
    assert_snapshot!(Home::new().run(&["-h"]), @r#"
    exit 0
    --- stdout
    Runs machine-learning experiments on your own machines

    Usage: fetchml [OPTIONS] <COMMAND>

    Commands:
      up            Start a server and a worker here
      serve         Run a server without a worker
      worker        Run a worker that takes tasks from a server
      submit        Run a script or command as a task
      tasks         List tasks, newest first
      show          Show one task or array: what it is, how it goes, why it failed
      logs          Print a task's log
      metrics       Show what a task measures, such as its loss
      manifest      Show what ran, with what, where, and how it ended
      rerun         Run a task again, exactly or with changes
      diff          Compare how two runs came about, but for times and ids
      cancel        Stop tasks or whole arrays, waiting or running
      wait          Wait until a task or array is over; the exit code tells how it ended
      artifacts     List and download the files a task left
      datasets      Give data sets names, and see which there are
      experiments   Keep tasks together that belong together
      queue         Show how much waits and runs
      status        Show queue depths, what runs, and the workers
      workers       List the workers and what they have, or show one
      explain       Say why a task has not started, and what would let it start
      drain         Let a worker take nothing new, and wait until it is empty (operators and admins)
      undrain       Let a drained worker take work again (operators and admins)
      priority      Give a task another priority, whether it waits or runs
      usage         Show what was used, and what is held now: your own, for admins everybody's
      quota         Show and set how much users may have at once (admins only)
      reserve       Set GPUs aside for a task to come
      reservations  List reservations that are active or claimed
      release       Give a reservation up: its GPUs are everybody's at once
      whoami        Show which user and role your key has, and until when it works
      keys          Make, list and revoke API keys (admins only)
      audit         Read and verify the log of who did what (operators and admins)
      admin         Look after the server (admins only)
      secrets       Set, list and delete secret values for your tasks
      webhooks      Make, list and delete webhooks: URLs that hear of your tasks
      config        Show the settings
      completions   Print a completion script for a shell

    Options:
          --config <FILE>  Configuration file [env: FETCHML_CONFIG] [default:
                           ~/.config/fetchml/config.toml]
      -h, --help           Print help (see more with '--help')
      -V, --version        Print version
    --- stderr
    "#);
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
    assert_snapshot!(home.run(&["submit", "--bogus", "train.py"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: unexpected argument '--bogus' found

      tip: to pass '--bogus' as a value, use '-- --bogus'

    Usage: fetchml submit [OPTIONS] <ENTRYPOINT> [ARGS]...

    For more information, try '--help'.
    "#);
    // Past the entry point everything belongs to the task: this fails only for want of a server.
    let output = home.command(&["submit", "train.py", "--bogus", "--gpu", "9"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server is configured"));
}

#[test]
fn values_out_of_range_are_refused_before_anything_is_sent() {
    let home = Home::new();
    assert_snapshot!(home.run(&["submit", "--priority", "11", "x"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value '11' for '--priority <PRIORITY>': 11 is not in 1..=10

    For more information, try '--help'.
    "#);
    assert_snapshot!(home.run(&["submit", "--time-limit", "1h1h", "x"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value '1h1h' for '--time-limit <TIME>': "1h1h" is not a duration; write seconds (90) or units (1h30m, 45s, 2d)

    For more information, try '--help'.
    "#);
    assert_snapshot!(home.run(&["submit", "--memory", "lots", "x"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'lots' for '--memory <SIZE>': "lots" is not a memory size; write GiB (16) or units (16G, 512M)

    For more information, try '--help'.
    "#);
    assert_snapshot!(home.run(&["submit", "--env", "NOVALUE", "x"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'NOVALUE' for '--env <NAME=VALUE>': must be NAME=VALUE

    For more information, try '--help'.
    "#);
    assert_snapshot!(home.run(&["tasks", "--status", "done"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'done' for '--status <STATUS>': unknown status "done"; one of queued, preparing, running, collecting, completed, failed

    For more information, try '--help'.
    "#);
    assert_snapshot!(home.run(&["keys", "create", "--role", "boss", "--user", "ada"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: invalid value 'boss' for '--role <ROLE>': unknown role "boss"; one of admin, operator, user, viewer, worker

    For more information, try '--help'.
    "#);
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

#[test]
fn simulated_gpus_are_counted_and_named() {
    let home = Home::new();
    home.write("worker.key", "fml_abcdefghijkl_test");
    let worker = |arguments: &[&str]| {
        let fixed = ["worker", "--server", "http://127.0.0.1:1", "--key-file", "worker.key"];
        home.run(&[&fixed[..], arguments].concat())
    };
    assert_snapshot!(worker(&["--gpu-type", "H100"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: a GPU type without a number of simulated GPUs
    hint: give --gpus COUNT too; the type of real GPUs is what their driver says
    "#);
    assert_snapshot!(worker(&["--gpus", "65"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: 65 simulated GPUs are too many: at most 64
    "#);
    assert_snapshot!(worker(&["--gpus", "1", "--gpu-type", " "]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: a GPU type is 1 to 64 printable characters, such as H100
    "#);
}
