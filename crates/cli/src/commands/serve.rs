//! `fetchml serve`.

use super::serving::{self, Signals};
use crate::{
    failure::{Exit, Failure},
    settings::{Flags, Layers},
    terminal,
};
use clap::{ArgAction, Args, ValueEnum};
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
    /// A worker silent for this many seconds has lost its tasks [env: FETCHML_LOST_AFTER] [default: 600]
    #[arg(long, value_name = "SECONDS")]
    lost_after: Option<u32>,
    /// Seconds queued that are worth one level of priority [env: FETCHML_AGING_INTERVAL] [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    aging_interval: Option<u32>,
    /// Days that logs, artifacts and checkpoints of ended tasks are kept; 0: for ever [env: FETCHML_RETENTION_DAYS] [default: 90]
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
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
        let data_dir = self.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let proxies = self.trusted_proxies.join(",");
        let rate_limits = self.rate_limits.map(|switch| if switch == Switch::On { "on" } else { "off" });
        let nets = (!self.webhook_allow_net.is_empty()).then(|| self.webhook_allow_net.join(","));
        let domains = (!self.mail_domains.is_empty()).then(|| self.mail_domains.join(","));
        let password_file = self.smtp_password_file.as_ref().map(|file| file.to_string_lossy().into_owned());
        Flags::default()
            .set("server.data_dir", "--data-dir", data_dir)
            .set("server.listen", "--listen", self.listen.clone())
            .set("server.database", "--database", self.database.clone())
            .set("server.rate_limits", "--rate-limits", rate_limits)
            .set("server.lost_after_s", "--lost-after", self.lost_after)
            .set("server.aging_interval_s", "--aging-interval", self.aging_interval)
            .set("server.retention_days", "--retention-days", self.retention_days)
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
            let server = serving::start_server(&settings).await?;
            serving::introduce(&server, "server", &settings);
            terminal::say("add a worker:");
            terminal::say("  fetchml keys create --role worker --user lab > worker.key");
            terminal::say(&format!(
                "  fetchml worker --server {} --key-file worker.key",
                serving::own_url(server.address())
            ));
            tokio::select! {
                () = signals.received() => {}
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
