//! What `up`, `serve` and `worker` share: the runtime, the log, signals, and the profile.

use super::dataset_sources;
use crate::{
    environment,
    failure::Failure,
    limits,
    settings::{
        ServerSettings,
        profile::{self, Profile, Written},
    },
    terminal,
};
use fetchml_api::{Fingerprint, SecretText};
use fetchml_client::{Client, Trust};
use fetchml_server::{MailSettings, Options, Server, StartError, TrustedProxies, driver::Preemption};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    env,
    ffi::OsString,
    fs,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The hidden command that runs the fork helper.
pub(crate) const HELPER: &str = "__helper";

/// Longest wait for the count of running tasks at shutdown.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a server or worker on a runtime of few threads: their work is short, idle threads cost memory.
pub(super) fn block_on<T>(serving: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, limits::SERVER_THREADS_MAX))
        .max_blocking_threads(limits::BLOCKING_THREADS_MAX)
        .thread_keep_alive(limits::BLOCKING_KEEP_ALIVE)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serving);
    // What is still running blocks on nothing that matters: everything promised is on the disk.
    runtime.shutdown_background();
    result
}

/// Crates that at lower levels log what goes over the wire: keys in headers, values of environments.
const QUIET: [&str; 2] = ["tungstenite=info", "tokio_tungstenite=info"];

/// Log lines go to stderr; `FETCHML_LOG` chooses which.
pub(super) fn start_log(default: &str) -> anyhow::Result<()> {
    let filter = match environment::var(environment::LOG) {
        None => EnvFilter::new(default),
        Some(text) => EnvFilter::try_new(text.to_string_lossy())
            .map_err(|error| Failure::usage(format!("{} is not a log filter: {error}", environment::LOG)))?,
    };
    let quiet = QUIET.map(|directive| directive.parse().expect("a directive"));
    tracing_subscriber::fmt()
        .with_env_filter(quiet.into_iter().fold(filter, EnvFilter::add_directive))
        .with_writer(io::stderr)
        .with_ansi(terminal::stderr_colours())
        .init();
    Ok(())
}

/// The signals that ask for a clean end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Starts the server these settings describe.
pub(super) async fn start_server(settings: &ServerSettings) -> anyhow::Result<Server> {
    let options = Options {
        listen: settings.listen,
        database: settings.database.clone(),
        lost_after_s: settings.lost_after_s,
        aging_interval_s: settings.aging_interval_s,
        hold_after_s: settings.hold_after_s,
        prepare_timeout_s: settings.prepare_timeout_s,
        quotas: settings.quotas.clone(),
        preemption: Preemption {
            batch: settings.preempt_batch,
            service: settings.preempt_service,
            cooldown_s: settings.preempt_cooldown_s.into(),
        },
        rate_limits: settings.rates()?,
        visibility: settings.visibility(),
        tls: settings.tls_options()?,
        host_names: settings.host_names()?,
        allow_plain_http: settings.allow_plain_http,
        trusted_proxies: trusted_proxies(settings.trusted_proxies.as_deref().unwrap_or_default())?,
        log_rules: settings.log_rules.clone(),
        retention: settings.retention(),
        mail: mail(settings)?,
        webhook_allow_net: dataset_sources::nets("--webhook-allow-net", settings.webhook_allow_net.as_ref())?,
        ..Options::new(&settings.data_dir)
    };
    Server::start(options).await.map_err(|error| match error {
        StartError::LogRules(_) => {
            Failure::usage(error.to_string()).hint("each [[log_rules]] of the configuration is numbered from 1").into()
        }
        error => error.into(),
    })
}

/// Where mail is handed to; none where no server is named.
fn mail(settings: &ServerSettings) -> Result<Option<MailSettings>, Failure> {
    let Some(url) = &settings.smtp_url else {
        return Ok(None);
    };
    let Some(from) = &settings.mail_from else {
        return Err(Failure::usage("--smtp-url is given, and --mail-from is not")
            .hint("say whom mail is from, such as --mail-from fetchml@example.org"));
    };
    let of_file = |path: &PathBuf| {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| Failure::usage(format!("--smtp-password-file {}: {error}", path.display())))?;
        Ok::<SecretText, Failure>(text.trim_end_matches(['\r', '\n']).to_owned().into())
    };
    let password = match &settings.smtp_password {
        Some(password) => Some(password.clone()),
        None => settings.smtp_password_file.as_ref().map(of_file).transpose()?,
    };
    let domains = settings.mail_domains.as_deref().unwrap_or_default().split(',').map(str::trim);
    let domains: Vec<String> = domains.filter(|domain| !domain.is_empty()).map(ToOwned::to_owned).collect();
    MailSettings::new(url, password, from, &domains).map(Some).map_err(Failure::usage)
}

fn trusted_proxies(text: &str) -> Result<TrustedProxies, Failure> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let networks = parts.map(|part| {
        let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| {
            Failure::usage(format!("--trusted-proxy {part:?} is not a network"))
                .hint("write an address and the length of its prefix, such as 10.0.0.0/8 or 192.168.1.7/32")
        })
    });
    Ok(TrustedProxies::new(networks.collect::<Result<_, _>>()?))
}

/// The address by which this machine reaches its own server.
pub(super) fn own_url(server: &Server) -> String {
    let address = server.address();
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match server.tls() {
        None => format!("http://{}", SocketAddr::new(ip, address.port())),
        // An authority vouches for names, not for addresses of this machine.
        Some(tls) => match tls.name().filter(|_| !tls.is_self_signed()) {
            Some(name) => format!("https://{name}:{}", address.port()),
            None => format!("https://{}", SocketAddr::new(ip, address.port())),
        },
    }
}

/// What clients must know a server by that vouches for itself.
pub(super) fn pin(server: &Server) -> Option<Fingerprint> {
    server.tls().filter(|tls| tls.is_self_signed()).map(|tls| *tls.fingerprint().borrow())
}

/// How this process knows the server that runs in it.
pub(super) fn own_trust(server: &Server) -> Trust {
    server.tls().map_or(Trust::System, |tls| Trust::Own(tls.fingerprint()))
}

/// Reads the files of the certificate anew at each SIGHUP; never resolves. Without such files SIGHUP ends the
/// process, as ever.
pub(super) async fn reload_when_told(server: &Server) {
    let reloads = server.tls().filter(|tls| !tls.is_self_signed());
    let signals = reloads.and_then(|tls| Some((tls, signal(SignalKind::hangup()).ok()?)));
    let Some((tls, mut hangups)) = signals else { return std::future::pending().await };
    while hangups.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("the certificate was read anew"),
            Err(error) => tracing::error!(%error, "the certificate is not taken up; the one before stays in use"),
        }
    }
}

/// Says where the server is, shows the first key once, and writes the profile if there is none.
pub(super) fn introduce(server: &Server, what: &str, settings: &ServerSettings) {
    let url = own_url(server);
    let data_dir = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    terminal::say(&format!("FetchML {} {what} at {url}", env!("FETCHML_VERSION")));
    terminal::say(&format!("  data      {}", data_dir.display()));
    let tls_fingerprint = pin(server);
    if let Some(fingerprint) = tls_fingerprint {
        terminal::say(&format!("  tls       own certificate, {fingerprint}"));
    }
    let admin = server.admin_key();
    if let Some(key) = &admin.fresh {
        if terminal::stderr_is_terminal() {
            terminal::say(&format!("  admin key {key}"));
            terminal::say(&format!("            shown this once; kept in {}", admin.path.display()));
        } else {
            // What is no terminal is a log, which is kept and read by others.
            terminal::say(&format!("  admin key in {}", admin.path.display()));
        }
    }
    let key_file = std::path::absolute(&admin.path).unwrap_or_else(|_| admin.path.clone());
    // The server runs; that a profile cannot be written is a nuisance, not a failure.
    match profile::write(&Profile { url, key_file: Some(key_file), api_key: None, tls_fingerprint }) {
        Ok(Written::New(path)) => {
            terminal::say(&format!("  profile   {} (commands of this user come here)", path.display()));
        }
        Ok(Written::Same | Written::Nowhere) => {}
        Ok(Written::Other { path, url }) => {
            terminal::say(&format!("  profile   {} names {url} and was left alone", path.display()));
        }
        Err(error) => terminal::say_warning(&format!("{error:#}")),
    }
}

/// How many tasks run, for the farewell; none when it cannot be told quickly.
pub(super) async fn tasks_running(server: &Server) -> Option<i64> {
    let key = std::fs::read_to_string(&server.admin_key().path).ok()?;
    let client = Client::trusting(&own_url(server), key.trim(), &own_trust(server)).ok()?;
    let queue = tokio::time::timeout(COUNT_TIMEOUT, client.queue()).await.ok()?.ok()?;
    Some(queue.running)
}

/// Gives the fork helper, and with it all tasks, the limit of open files that the first argument says: a server in the
/// same process has raised its own, and programs that are old take a high one badly.
pub(crate) fn limit_open_files(argument: Option<String>) {
    let Some(current) = argument.and_then(|text| text.parse().ok()) else { return };
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Lowering it is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
}

/// The command that starts the fork helper: this same binary, with a limit of open files where it is another than that
/// of this process.
pub(super) fn helper_command(open_files: Option<u64>) -> anyhow::Result<Vec<OsString>> {
    let binary =
        env::current_exe().map_err(|error| Failure::new(format!("this program's own path is unknown: {error}")))?;
    let limit = open_files.map(|limit| limit.to_string().into());
    Ok([binary.into_os_string(), HELPER.into()].into_iter().chain(limit).collect())
}

/// Ends the process at once when a second signal arrives during a shutdown.
pub(super) async fn unless_urged<T>(signals: &mut Signals, shutdown: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        ended = shutdown => Ok(ended),
        () = signals.received() => Err(Failure::new("ended at once by a second signal").into()),
    }
}
