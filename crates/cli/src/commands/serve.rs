//! `fetchml serve`.

use super::serving::{self, Signals};
use crate::{
    failure::{Exit, Failure},
    settings::{Flags, Layers},
    terminal,
};
use clap::{ArgAction, Args, ValueEnum};
use fetchml_server::OpenFiles;
use std::path::{Path, PathBuf};

/// On or off.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Switch {
    On,
    Off,
}

/// Flags of everything that contains a server.
#[derive(Args, Debug)]
pub(super) struct ServingFlags {
    /// Where everything is kept [env: FETCHML_DATA_DIR] [default: /var/lib/fetchml as root, else ~/.local/share/fetchml]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on; port 0 takes any free one [env: FETCHML_LISTEN] [default: 127.0.0.1:9101]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// postgres://... instead of SQLite [env: FETCHML_DATABASE]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Limit requests per key [env: FETCHML_RATE_LIMITS] [default: on]
    #[arg(long, value_name = "SWITCH")]
    rate_limits: Option<Switch>,
    /// Rate of a role's keys, such as user=100/s,burst=200; may be repeated [env: FETCHML_RATE_LIMIT]
    #[arg(long, value_name = "ROLE=RATE")]
    rate_limit: Vec<String>,
    /// Refused keys of one address within a minute before it gets 429 [env: FETCHML_AUTH_FAILURES] [default: 50]
    #[arg(long, value_name = "COUNT")]
    auth_failures: Option<u32>,
    /// What users see of others' tasks: lab or private [env: FETCHML_VISIBILITY] [default: lab]
    #[arg(long, value_name = "WHAT")]
    visibility: Option<String>,
    /// A worker silent for this many seconds has lost its tasks [env: FETCHML_LOST_AFTER] [default: 600]
    #[arg(long, value_name = "SECONDS")]
    lost_after: Option<u32>,
    /// Seconds queued that are worth one level of priority [env: FETCHML_AGING_INTERVAL] [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    aging_interval: Option<u32>,
    /// Days that logs, artifacts and checkpoints of ended tasks are kept; 0: for ever [env: FETCHML_RETENTION_DAYS] [default: 90]
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// self-signed: TLS with a certificate of the server's own [env: FETCHML_TLS] [default: off]
    #[arg(long, value_name = "HOW")]
    tls: Option<String>,
    /// TLS with this certificate chain, PEM [env: FETCHML_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM; SIGHUP or a changed file reads both anew [env: FETCHML_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Names by which clients know this server, such as lab.example,10.0.0.5 [env: FETCHML_HOST_NAME]
    #[arg(long, value_name = "NAMES")]
    host_name: Option<String>,
    /// Network that webhooks may lie in though it is not public, such as 10.0.0.0/8; may be repeated [env: FETCHML_WEBHOOK_ALLOW_NET] [default: none]
    #[arg(long, value_name = "CIDR")]
    webhook_allow_net: Vec<String>,
    /// SMTP server that mail about tasks is handed to: smtps://[USER@]HOST, smtp:// for STARTTLS [env: FETCHML_SMTP_URL] [default: no mail]
    #[arg(long, value_name = "URL")]
    smtp_url: Option<String>,
    /// File that holds the password for it; or set FETCHML_SMTP_PASSWORD [env: FETCHML_SMTP_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    smtp_password_file: Option<PathBuf>,
    /// Whom mail is from, such as "FetchML <fetchml@example.org>" [env: FETCHML_MAIL_FROM]
    #[arg(long, value_name = "ADDRESS")]
    mail_from: Option<String>,
    /// Domain that mail may go to; may be repeated [env: FETCHML_MAIL_DOMAINS] [default: that of --mail-from]
    #[arg(long = "mail-domain", value_name = "DOMAIN")]
    mail_domains: Vec<String>,
    /// Network of a proxy in front whose X-Forwarded-For is believed, such as 10.0.0.1/32; may be repeated [env: FETCHML_TRUSTED_PROXIES] [default: none]
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<String>,
    /// Allow plain HTTP on an address that other machines can reach [env: FETCHML_ALLOW_PLAIN_HTTP]
    #[arg(long, action = ArgAction::SetTrue)]
    allow_plain_http: bool,
}

impl ServingFlags {
    pub(super) fn flags(&self) -> Flags {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let data_dir = text(&self.data_dir);
        let rate_limits = self.rate_limits.map(|switch| if switch == Switch::On { "on" } else { "off" });
        let rate_limit = (!self.rate_limit.is_empty()).then(|| self.rate_limit.join(";"));
        let proxies = self.trusted_proxies.join(",");
        let nets = (!self.webhook_allow_net.is_empty()).then(|| self.webhook_allow_net.join(","));
        let domains = (!self.mail_domains.is_empty()).then(|| self.mail_domains.join(","));
        let password_file = self.smtp_password_file.as_ref().map(|file| file.to_string_lossy().into_owned());
        Flags::default()
            .set("server.data_dir", "--data-dir", data_dir)
            .set("server.listen", "--listen", self.listen.clone())
            .set("server.database", "--database", self.database.clone())
            .set("server.rate_limits", "--rate-limits", rate_limits)
            .set("server.rate_limit", "--rate-limit", rate_limit)
            .set("server.auth_failures", "--auth-failures", self.auth_failures)
            .set("server.visibility", "--visibility", self.visibility.clone())
            .set("server.lost_after_s", "--lost-after", self.lost_after)
            .set("server.aging_interval_s", "--aging-interval", self.aging_interval)
            .set("server.retention_days", "--retention-days", self.retention_days)
            .set("server.tls", "--tls", self.tls.clone())
            .set("server.tls_cert", "--tls-cert", text(&self.tls_cert))
            .set("server.tls_key", "--tls-key", text(&self.tls_key))
            .set("server.host_name", "--host-name", self.host_name.clone())
            .set("server.webhook_allow_net", "--webhook-allow-net", nets)
            .set("server.smtp_url", "--smtp-url", self.smtp_url.clone())
            .set("server.smtp_password_file", "--smtp-password-file", password_file)
            .set("server.mail_from", "--mail-from", self.mail_from.clone())
            .set("server.mail_domains", "--mail-domain", domains)
            .set("server.trusted_proxies", "--trusted-proxy", (!proxies.is_empty()).then_some(proxies))
            .set("server.allow_plain_http", "--allow-plain-http", self.allow_plain_http.then_some(true))
    }
}

/// Run a server without a worker
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml serve --data-dir /srv/fetchml --listen 127.0.0.1:9101")]
pub(crate) struct Serve {
    #[command(flatten)]
    flags: ServingFlags,
}

impl Serve {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let settings = Layers::load(config, self.flags.flags())?.server()?;
        serving::start_log("info")?;
        serving::block_on(async {
            let mut signals = Signals::new()?;
            OpenFiles::raise();
            let server = serving::start_server(&settings).await?;
            serving::introduce(&server, "server", &settings);
            terminal::say("add a worker:");
            terminal::say("  fetchml keys create --role worker --user lab > worker.key");
            let pin = serving::pin(&server).map_or_else(String::new, |pin| format!(" --tls-fingerprint {pin}"));
            terminal::say(&format!(
                "  fetchml worker --server {} --key-file worker.key{pin}",
                serving::own_url(&server)
            ));
            tokio::select! {
                () = signals.received() => {}
                () = serving::reload_when_told(&server) => {}
                () = server.wait() => return Err(disk_failed()),
            }
            terminal::say("stopping the server; tasks go on");
            serving::unless_urged(&mut signals, server.shutdown()).await?;
            Ok(Exit::Success)
        })
    }
}

/// The server gave up.
pub(super) fn disk_failed() -> anyhow::Error {
    Failure::new("the server cannot go on: the disk or database refused to keep what it was given")
        .hint("the lines above say what failed; start it again when that is repaired, tasks are kept")
        .into()
}
