//! Layers of configuration and what is said about mistakes in them.

use crate::support::Home;
use insta::assert_snapshot;
use serde_json::Value;

/// Setting, value and source, of the settings that are not defaults.
fn explained(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = home.command(&["config", "--json"]);
    command.args(arguments).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let settings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = settings
        .as_array()
        .unwrap()
        .iter()
        .filter(|setting| !setting["value"].is_null() && setting["source"] != "default");
    let lines: Vec<String> = lines
        .map(|setting| {
            let text = |name: &str| setting[name].as_str().unwrap();
            format!("{} = {} from {}", text("setting"), text("value"), text("source"))
        })
        .collect();
    lines.join("\n").replace(&home.path("").display().to_string(), "HOME/")
}

#[test]
fn later_layers_win_and_say_so() {
    let home = Home::new();
    home.write(".config/fetchml/profile.toml", "url = \"http://a:1\"\nkey_file = \"/k\"\n");
    assert_snapshot!(explained(&home, &[], &[]), @"");
    home.write(
        ".config/fetchml/config.toml",
        "[client]\nurl = \"http://b:2\"\n[server]\nlost_after_s = 60\n[worker]\nslots = 3\n",
    );
    assert_snapshot!(explained(&home, &[], &[]), @"");
    let variables = [("FETCHML_URL", "http://c:3"), ("FETCHML_API_KEY", "fml_a_secret"), ("FETCHML_LOST_AFTER", "90")];
    let text = explained(&home, &["--url", "http://d:4"], &variables);
    assert!(!text.contains("secret"), "{text}");
    assert_snapshot!(text, @"");
}

#[test]
fn explain_shows_every_setting() {
    let home = Home::new();
    let mut command = home.command(&["config", "--explain"]);
    command.env("FETCHML_DATA_DIR", "/srv/fetchml");
    assert_snapshot!(home.render(&mut command), @"");
}

#[test]
fn mistakes_in_the_file_are_named_with_the_nearest_name() {
    let home = Home::new();
    home.write("a.toml", "[server]\nlisten_on = \"127.0.0.1:1\"\n");
    assert_snapshot!(home.run(&["config", "--config", "a.toml"]), @"");
    home.write("b.toml", "[sever]\nlisten = \"127.0.0.1:1\"\n");
    assert_snapshot!(home.run(&["config", "--config", "b.toml"]), @"");
    home.write("c.toml", "[server]\nlisten = \n");
    assert_snapshot!(home.run(&["config", "--config", "c.toml"]), @"");
    home.write("d.toml", "[server]\nlost_after_s = \"long\"\n");
    assert_snapshot!(home.run(&["config", "--config", "d.toml"]), @"");
    assert_snapshot!(home.run(&["config", "--config", "nowhere.toml"]), @"");
}

#[test]
fn mistakes_in_the_environment_are_named() {
    let home = Home::new();
    for (name, value) in [("FETCHML_SLOTS", "many"), ("FETCHML_LISTEN", "here"), ("FETCHML_RATE_LIMITS", "some")] {
        let mut command = home.command(&["config"]);
        command.env(name, value);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(name) && stderr.starts_with("error: "), "{stderr}");
    }
}
