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
    assert_snapshot!(explained(&home, &[], &[]), @r#"
    client.url = http://a:1 from profile HOME/.config/fetchml/profile.toml
    client.key_file = /k from profile HOME/.config/fetchml/profile.toml
    "#);
    home.write(
        ".config/fetchml/config.toml",
        "[client]\nurl = \"http://b:2\"\n[server]\nlost_after_s = 60\n[worker]\nslots = 3\n",
    );
    assert_snapshot!(explained(&home, &[], &[]), @r#"
    client.url = http://b:2 from file HOME/.config/fetchml/config.toml
    client.key_file = /k from profile HOME/.config/fetchml/profile.toml
    server.lost_after_s = 60 from file HOME/.config/fetchml/config.toml
    worker.slots = 3 from file HOME/.config/fetchml/config.toml
    "#);
    let variables = [("FETCHML_URL", "http://c:3"), ("FETCHML_API_KEY", "fml_a_secret"), ("FETCHML_LOST_AFTER", "90")];
    let text = explained(&home, &["--url", "http://d:4"], &variables);
    assert!(!text.contains("secret"), "{text}");
    assert_snapshot!(text, @r#"
    client.url = http://d:4 from flag --url
    client.api_key = *** from environment variable FETCHML_API_KEY
    client.key_file = /k from profile HOME/.config/fetchml/profile.toml
    server.lost_after_s = 90 from environment variable FETCHML_LOST_AFTER
    worker.slots = 3 from file HOME/.config/fetchml/config.toml
    "#);
}

#[test]
fn explain_shows_every_setting() {
    let home = Home::new();
    let mut command = home.command(&["config", "--explain"]);
    command.env("FETCHML_DATA_DIR", "/srv/fetchml");
    assert_snapshot!(home.render(&mut command), @r#"
    exit 0
    --- stdout
    SETTING                        VALUE                  SOURCE                                 VARIABLE                        MEANING
    client.url                     http://127.0.0.1:9101  default                                FETCHML_URL                     server that client commands talk to
    client.api_key                 -                      not set                                FETCHML_API_KEY                 key of client commands
    client.key_file                -                      not set                                FETCHML_KEY_FILE                file that holds the key of client commands
    client.ca_cert                 -                      not set                                FETCHML_CA_CERT                 file of the authorities that vouch for the server (PEM)
    client.tls_fingerprint         -                      not set                                FETCHML_TLS_FINGERPRINT         fingerprint of the server's certificate
    server.listen                  127.0.0.1:9101         default                                FETCHML_LISTEN                  address the server listens on
    server.data_dir                /srv/fetchml           environment variable FETCHML_DATA_DIR  FETCHML_DATA_DIR                where the server keeps everything
    server.database                -                      not set                                FETCHML_DATABASE                postgres://... instead of SQLite in the data directory
    server.rate_limits             on                     default                                FETCHML_RATE_LIMITS             request rates per key: on or off
    server.rate_limit              -                      not set                                FETCHML_RATE_LIMIT              rates of roles: user=100/s,burst=200; viewer=50/s
    server.auth_failures           50                     default                                FETCHML_AUTH_FAILURES           keys of one address that are refused within a minute before it gets 429
    server.visibility              lab                    default                                FETCHML_VISIBILITY              what users see of others' tasks: lab, all but environments; private, not what they run, write and leave
    server.lost_after_s            600                    default                                FETCHML_LOST_AFTER              a worker silent for this long has lost its tasks
    server.aging_interval_s        1800                   default                                FETCHML_AGING_INTERVAL          time queued worth one level of priority
    server.hold_after_s            900                    default                                FETCHML_HOLD_AFTER              wait after which workers are held for a task
    server.prepare_timeout_s       1800                   default                                FETCHML_PREPARE_TIMEOUT         time in which all nodes of a task must be ready
    server.preempt_batch           false                  default                                FETCHML_PREEMPT_BATCH           tasks may be stopped for others of higher priority that fit nowhere
    server.preempt_service         false                  default                                FETCHML_PREEMPT_SERVICE         notebooks and tools may be
    server.preempt_cooldown_s      600                    default                                FETCHML_PREEMPT_COOLDOWN        what was stopped so runs for this long before it is stopped again
    server.tls                     off                    default                                FETCHML_TLS                     self-signed: a certificate of the server's own; off
    server.tls_cert                -                      not set                                FETCHML_TLS_CERT                file of the server's certificate chain (PEM)
    server.tls_key                 -                      not set                                FETCHML_TLS_KEY                 file of its private key (PEM)
    server.host_name               -                      not set                                FETCHML_HOST_NAME               names by which clients know the server, comma between
    server.trusted_proxies         -                      not set                                FETCHML_TRUSTED_PROXIES         networks of proxies whose X-Forwarded-For is believed, comma between
    server.allow_plain_http        false                  default                                FETCHML_ALLOW_PLAIN_HTTP        allow plain HTTP off loopback
    server.smtp_url                -                      not set                                FETCHML_SMTP_URL                SMTP server for mail about tasks: smtps://USER@HOST
    server.smtp_password           -                      not set                                FETCHML_SMTP_PASSWORD           password of the user in it
    server.smtp_password_file      -                      not set                                FETCHML_SMTP_PASSWORD_FILE      file that holds that password
    server.mail_from               -                      not set                                FETCHML_MAIL_FROM               whom mail is from, such as fetchml@example.org
    server.mail_domains            -                      not set                                FETCHML_MAIL_DOMAINS            domains that mail may go to beside that of its sender, comma between
    server.webhook_allow_net       -                      not set                                FETCHML_WEBHOOK_ALLOW_NET       networks of webhooks beside the public one, comma between
    server.retention_days          90                     default                                FETCHML_RETENTION_DAYS          days that logs, artifacts and checkpoints of ended tasks are kept; 0: for ever
    server.task_retention_days     90                     default                                FETCHML_TASK_RETENTION_DAYS     days that ended tasks stay in lists, at least as long as their files; 0: for ever
    server.deleted_retention_days  1                      default                                FETCHML_DELETED_RETENTION_DAYS  days that the files of deleted tasks are kept
    server.retention_min_hours     24                     default                                FETCHML_RETENTION_MIN_HOURS     hours that the files of ended tasks are kept even if the disk is full
    server.disk_high_percent       90                     default                                FETCHML_DISK_HIGH_PERCENT       on a disk fuller than this the oldest files of ended tasks are deleted; 100: never
    server.disk_low_percent        80                     default                                FETCHML_DISK_LOW_PERCENT        until it is no fuller than this
    server.gc_every_hours          1                      default                                FETCHML_GC_EVERY_HOURS          hours between two collections of what is not needed any more; 0: only by `fetchml admin gc`
    worker.server                  -                      not set                                FETCHML_SERVER                  server a worker takes tasks from
    worker.key_file                -                      not set                                FETCHML_KEY_FILE                file that holds the worker's key
    worker.ca_cert                 -                      not set                                FETCHML_CA_CERT                 file of the authorities that vouch for the server (PEM)
    worker.tls_fingerprint         -                      not set                                FETCHML_TLS_FINGERPRINT         fingerprint of the server's certificate
    worker.data_dir                /srv/fetchml/worker    environment variable FETCHML_DATA_DIR  FETCHML_DATA_DIR                where a worker keeps everything
    worker.name                    -                      not set                                FETCHML_WORKER_NAME             name of the worker: the host name unless set
    worker.slots                   -                      not set                                FETCHML_SLOTS                   tasks at the same time: the cores unless set
    worker.service_slots           4                      default                                FETCHML_SERVICE_SLOTS           notebooks and tools at the same time
    worker.log_quota_mib           10240                  default                                FETCHML_LOG_QUOTA               longest log kept of one attempt, MiB
    worker.gpus                    -                      not set                                FETCHML_GPUS                    simulated GPUs, instead of the machine's; 0: none at all
    worker.gpu_type                -                      not set                                FETCHML_GPU_TYPE                what simulated GPUs are called, such as H100
    worker.nvml_library            -                      not set                                FETCHML_NVML_LIBRARY            NVIDIA's libnvidia-ml.so.1, where it is not found
    worker.isolation               -                      not set                                FETCHML_ISOLATION               required, auto or none: required unless set, auto for `up` on loopback
    worker.container_engine        -                      not set                                FETCHML_CONTAINER_ENGINE        runs images: auto, podman, docker or none
    worker.container_socket        -                      not set                                FETCHML_CONTAINER_SOCKET        where that engine listens: found unless set
    worker.container_limits        -                      not set                                FETCHML_CONTAINER_LIMITS        required: no engine that cannot limit memory, cpu and processes; auto: limits that there are
    worker.allow_images            -                      not set                                FETCHML_ALLOW_IMAGES            patterns of image names, by commas: any unless set
    worker.cache                   -                      not set                                FETCHML_CACHE                   disk that files of snapshots and Python environments may take: a fifth unless set
    worker.dataset_dirs            -                      not set                                FETCHML_DATASET_DIRS            directories of file:// data sets, : between
    worker.dataset_allow_net       -                      not set                                FETCHML_DATASET_ALLOW_NET       networks of data sets beside the public one, comma between
    worker.dataset_stores          -                      not set                                FETCHML_DATASET_STORES          buckets of s3:// data sets, such as s3://lab-data/train, comma between
    worker.dataset_cache           -                      not set                                FETCHML_DATASET_CACHE           disk that data sets may take: half unless set
    --- stderr
    no configuration file
    "#);
}

#[test]
fn mistakes_in_the_file_are_named_with_the_nearest_name() {
    let home = Home::new();
    home.write("a.toml", "[server]\nlistn = \"127.0.0.1:1\"\n");
    assert_snapshot!(home.run(&["config", "--config", "a.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: a.toml: unknown setting "server.listn"
    hint: did you mean "listen"?
    "#);
    home.write("b.toml", "[sever]\nlisten = \"127.0.0.1:1\"\n");
    assert_snapshot!(home.run(&["config", "--config", "b.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: b.toml: unknown setting "sever"
    hint: did you mean "server"?
    "#);
    home.write("c.toml", "[server]\nlisten = \n");
    assert_snapshot!(home.run(&["config", "--config", "c.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: c.toml: TOML parse error at line 2, column 10
        |
      2 | listen =
        |          ^
      string values must be quoted, expected literal string
    "#);
    home.write("d.toml", "[server]\nlost_after_s = \"long\"\n");
    assert_snapshot!(home.run(&["config", "--config", "d.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: setting server.lost_after_s: must be a whole number, got string "long" (from file d.toml)
    hint: `fetchml config --explain` shows each setting and where it came from
    "#);
    assert_snapshot!(home.run(&["config", "--config", "nowhere.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: cannot read the configuration nowhere.toml: No such file or directory (os error 2)
    "#);
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

#[test]
fn mistakes_in_log_rules_are_named_with_their_number() {
    let home = Home::new();
    home.write("a.toml", "[[log_rules]]\npattern = \"x\"\naction = \"retry\"\n[[log_rules]]\npatern = \"x\"\n");
    assert_snapshot!(home.run(&["config", "--config", "a.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: a.toml: [[log_rules]] number 1: action must be one of do_not_retry, exclude_worker, got "retry"
      [[log_rules]] number 2: unknown name "patern"; known: pattern, action, cause, message
    "#);
    home.write("b.toml", "[log_rules]\npattern = \"x\"\n");
    assert_snapshot!(home.run(&["config", "--config", "b.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: b.toml: write each rule as [[log_rules]]
    "#);
    home.write("c.toml", "[[log_rules]]\npattern = \"(\"\naction = \"do_not_retry\"\n");
    let serve = ["serve", "--config", "c.toml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    assert_snapshot!(home.run(&serve), @r#"
    exit 2
    --- stdout
    --- stderr
    error: log rule 1 ("("): not a regular expression: unclosed group
    hint: each [[log_rules]] of the configuration is numbered from 1
    "#);
    assert!(!home.path("data").exists());
}

#[test]
fn mistakes_in_quotas_are_all_named() {
    let home = Home::new();
    home.write(
        "a.toml",
        "[quotas.roles.worker]\ngpus = 1\n[quotas.roles.user]\ngpu = 1\nrunning = -1\nmax_priority = 11\n\
         [quotas.user.ada]\ngpus = 1\n[quotas.users]\nbob = 3\n[quotas.users.\"a b\"]\ngpus = \"x\"\n",
    );
    let serve = ["serve", "--config", "a.toml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    assert_snapshot!(home.run(&serve), @r#"
    exit 2
    --- stdout
    --- stderr
    error: a.toml: [quotas] has no "user" (did you mean "users"?); it has roles, users
      quotas.users.bob must be a table: [quotas.users.bob]
      [quotas.roles.user]: gpu is no limit (did you mean "gpus"?); there are running, queued, gpus, max_priority
      [quotas.roles.user]: max_priority must be a whole number between 1 and 10
      [quotas.roles.user]: running must be a whole number between 0 and 1000000
      [quotas.roles.worker]: "worker" is not a role that submits tasks: admin, operator or user
      [quotas.users.a b]: "a b" is not a user's name
    "#);
    assert!(!home.path("data").exists());
    home.write("b.toml", "quotas = 3\n");
    assert_snapshot!(home.run(&["config", "--config", "b.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: b.toml: write quotas as [quotas.users.NAME]
    "#);
}

#[test]
fn marks_of_the_disk_that_make_no_sense_are_all_named() {
    let home = Home::new();
    home.write("a.toml", "[server]\ndisk_high_percent = 101\ndisk_low_percent = 102\n");
    assert_snapshot!(home.run(&["config", "--config", "a.toml"]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: server.disk_high_percent must be between 1 and 100; server.disk_low_percent (102) must not be above server.disk_high_percent (101)
    hint: `fetchml config --explain` shows each setting and where it came from
    "#);
}

/// What cannot be meant is refused before anything is started, with what would be right.
#[test]
fn settings_of_a_server_that_cannot_be_meant_are_refused() {
    let home = Home::new();
    for (arguments, told) in [
        (&["--rate-limit", "usr=1/s"][..], "did you mean \"user\"?"),
        (
            &["--rate-limit", "user=5/s", "--rate-limit", "viewer=fast"],
            "\"viewer=fast\": a rate is requests per second",
        ),
        (&["--visibility", "all"], "lab, private"),
        (&["--tls", "on"], "off, self-signed"),
        (&["--tls-cert", "a.pem"], "--tls-key"),
        (&["--tls-key", "a.pem"], "--tls-cert"),
        (&["--tls", "self-signed", "--tls-cert", "a.pem", "--tls-key", "b.pem"], "not both"),
        (&["--tls", "self-signed", "--host-name", "a b"], "\"a b\" is no host name"),
        (&["--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"], "cannot read nowhere.pem"),
    ] {
        let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        let output = command.arg(home.path("data")).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(told), "{arguments:?}: {said}");
    }
    for (arguments, told) in [
        (&["--tls-fingerprint", "sha256:1"][..], "64 hexadecimal digits"),
        (&["--ca-cert", "nowhere.pem"], "cannot read the authorities nowhere.pem"),
        (&["--ca-cert", "a", "--tls-fingerprint", "b"], "give one of --ca-cert"),
    ] {
        let mut command = home.command(&["tasks", "--url", "https://127.0.0.1:1"]);
        let output = command.args(arguments).env("FETCHML_API_KEY", "fml_abcdefghijkl_secret").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(told), "{arguments:?}: {said}");
    }
}

/// A fingerprint is of the server that the profile names, as the key is.
#[test]
fn the_profiles_fingerprint_goes_with_its_server_only() {
    let home = Home::new();
    let fingerprint = format!("sha256:{}", "a".repeat(64));
    let profile = format!(
        "url = \"https://127.0.0.1:1\"\napi_key = \"fml_abcdefghijkl_secret\"\ntls_fingerprint = \"{fingerprint}\"\n"
    );
    home.write(".config/fetchml/profile.toml", &profile);
    let said = |arguments: &[&str]| {
        let output = home
            .command(&["tasks"])
            .args(arguments)
            .env("FETCHML_API_KEY", "fml_abcdefghijkl_secret")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&[]).contains("connection refused"), "{}", said(&[]));
    // With the profile's pin this would be refused: it is no https.
    let elsewhere = said(&["--url", "http://127.0.0.1:2"]);
    assert!(elsewhere.contains("connection refused"), "{elsewhere}");
    let plain = said(&["--url", "http://127.0.0.1:2", "--tls-fingerprint", &fingerprint]);
    assert!(plain.contains("must begin with https://"), "{plain}");
}
