//! Mail about tasks: written when their change is looked at, and handed to the one SMTP server that whoever runs this
//! server named.
//!
//! Users name addresses, so these are plain ones at allowed domains, headers are made by the library's encoder, and
//! what tasks say of themselves stands in the text only.

use crate::limits;
use fetchml_api::{NotifyOn, SecretText, TaskId, TaskNotice, mail_address_problem};
use fetchml_store::ArrayCounts;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error as SmtpError,
        authentication::Credentials,
        client::{Tls, TlsParameters},
        extension::ClientId,
    },
};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::{fmt::Write as _, net::IpAddr};
use tokio::time::timeout;

/// Where mail is handed to, and who may get it.
#[derive(Clone, Debug)]
pub struct MailSettings {
    host: String,
    port: u16,
    security: Security,
    login: Option<(String, SecretText)>,
    from: Mailbox,
    domains: Vec<String>,
}

/// How the way to the SMTP server is kept private.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after the first command; no mail without.
    StartTls,
    /// Not at all.
    Plain,
}

impl MailSettings {
    /// `url`: `smtps://[USER@]HOST[:PORT]`, or `smtp://` for STARTTLS, or that with `?tls=none`. `domains`: where mail may
    /// go beside the domain of `from`.
    ///
    /// # Errors
    /// What is wrong with them, by their flags.
    pub fn new(url: &str, password: Option<SecretText>, from: &str, domains: &[String]) -> Result<Self, String> {
        let from: Mailbox = from.parse().map_err(|_| {
            format!("--mail-from {from:?} is no mail address such as fetchml@example.org or \"FetchML <fetchml@example.org>\"")
        })?;
        let url = Url::parse(url).map_err(|why| format!("--smtp-url is no URL: {why}"))?;
        let security = match (url.scheme(), url.query()) {
            ("smtps", None) => Security::Tls,
            ("smtp", None) => Security::StartTls,
            ("smtp", Some("tls=none")) => Security::Plain,
            _ => {
                return Err(
                    "--smtp-url must be smtps://HOST, or smtp://HOST for STARTTLS, or smtp://HOST?tls=none".into()
                );
            }
        };
        if url.password().is_some() {
            return Err(
                "--smtp-url must not hold the password, which all processes could read: use --smtp-password-file"
                    .into(),
            );
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("--smtp-url names no host")?;
        let user = percent_encoding::percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
        let login = match (user.is_empty(), password) {
            (true, None) => None,
            (false, Some(password)) => Some((user, password)),
            (false, None) => {
                return Err(format!("the password of {user:?} is missing: name its file with --smtp-password-file"));
            }
            (true, Some(_)) => {
                return Err(
                    "there is a password for SMTP, and --smtp-url names no user: write smtps://USER@HOST".into()
                );
            }
        };
        if security == Security::Plain && login.is_some() && !is_loopback(host) {
            return Err("--smtp-url with tls=none would send the password unencrypted: use smtps://".into());
        }
        let own = from.email.domain().to_ascii_lowercase();
        let domains = [own].into_iter().chain(domains.iter().map(|domain| domain.to_ascii_lowercase())).collect();
        let port = url.port().unwrap_or(match security {
            Security::Tls => 465,
            Security::StartTls => 587,
            Security::Plain => 25,
        });
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, security, login, from, domains })
    }

    /// What keeps mail from going to an address.
    pub(crate) fn problem(&self, address: &str) -> Option<String> {
        if let Some(problem) = mail_address_problem(address) {
            return Some(problem.into());
        }
        let domain = address.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        let allowed = self.domains.join(", ");
        (!self.domains.contains(&domain)).then(|| {
            format!("this server sends mail to {allowed} only; whoever runs it can allow others with --mail-domain")
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Hands mail over.
pub(super) struct Mailer {
    settings: MailSettings,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

/// Why a letter was not handed over.
pub(super) enum Unsent {
    /// Another attempt may succeed.
    Later(String),
    /// The server wants it never.
    Never(String),
}

impl Mailer {
    /// # Errors
    /// TLS cannot be spoken.
    pub(super) fn new(settings: MailSettings) -> Result<Self, String> {
        let MailSettings { host, port, security, login, from, .. } = &settings;
        let parameters =
            || TlsParameters::new(host.clone()).map_err(|why| format!("TLS to the SMTP server is not possible: {why}"));
        let tls = match security {
            Security::Tls => Tls::Wrapper(parameters()?),
            Security::StartTls => Tls::Required(parameters()?),
            Security::Plain => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(*port)
            .tls(tls)
            .hello_name(ClientId::Domain(from.email.domain().to_owned()))
            .timeout(Some(limits::MAIL_STEP_WITHIN));
        if let Some((user, password)) = login {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(Self { transport: builder.build(), settings })
    }

    pub(super) fn allows(&self, address: &str) -> bool {
        self.settings.problem(address).is_none()
    }

    /// Hands one letter over; `id` is the same each time that it is.
    pub(super) async fn send(&self, letter: &Letter, id: &str) -> Result<(), Unsent> {
        let message = self.message(letter, id).map_err(Unsent::Never)?;
        match timeout(limits::MAIL_WITHIN, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(words(&error)),
            Err(_) => Err(Unsent::Later("the SMTP server is too slow".into())),
        }
    }

    fn message(&self, letter: &Letter, id: &str) -> Result<Message, String> {
        let from = &self.settings.from;
        let to: Address = letter.to.parse().map_err(|_| "its address is none".to_owned())?;
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(&letter.subject)
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .raw_header(HeaderValue::new(automatic, "auto-generated".into()))
            .date_now()
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.clone())
            .map_err(|why| why.to_string())
    }
}

/// 5xx means never, but for what this server itself does wrong: then it is its user's mail all the same.
fn words(error: &SmtpError) -> Unsent {
    let code = error.status().map(u16::from);
    match code {
        Some(code) if error.is_permanent() && !(530..540).contains(&code) => {
            Unsent::Never(format!("the SMTP server refuses it with {code}"))
        }
        Some(code) => Unsent::Later(format!("the SMTP server answers {code}")),
        None if error.is_timeout() => Unsent::Later("the SMTP server does not answer in time".into()),
        None if error.is_tls() => Unsent::Later("TLS to the SMTP server fails".into()),
        None => Unsent::Later("the SMTP server cannot be reached, or breaks off".into()),
    }
}

/// A letter, as it waits in the outbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) to: String,
    subject: String,
    text: String,
}

impl Letter {
    /// About one task.
    pub(super) fn of_task(to: String, notice: &TaskNotice, what: NotifyOn) -> Self {
        let TaskNotice { task_id, job_name, user_id, .. } = notice;
        let how = told(what);
        let cause = notice.failure.as_ref().map(|failure| failure.cause.as_str());
        let subject = format!("{job_name} {how}{}", cause.map(|cause| format!(" ({cause})")).unwrap_or_default());
        let mut lines = Lines::new(format!("Task {task_id} ({job_name}) of {user_id} {how}."));
        lines.line("submitted", Some(notice.created_at));
        lines.line("started", notice.started_at);
        lines.line("ended", notice.ended_at);
        lines.line("cause", cause);
        lines.line("exit code", notice.failure.as_ref().and_then(|failure| failure.exit_code));
        lines.line("signal", notice.failure.as_ref().and_then(|failure| failure.signal));
        lines.line("why", notice.error.as_deref().map(plain));
        Self { to, subject: subject_of(&subject), text: lines.end(*task_id) }
    }

    /// About a whole array, which is over.
    pub(super) fn of_array(to: String, id: TaskId, job_name: &str, user_id: &str, counts: &ArrayCounts) -> Self {
        let how = told(if counts.is_well { NotifyOn::Completed } else { NotifyOn::Failed });
        let mut lines = Lines::new(format!("Array {id} ({job_name}) of {user_id} {how}."));
        lines.line("tasks", Some(counts.tasks));
        for (status, tasks) in &counts.shown {
            lines.line(status.as_str(), Some(tasks));
        }
        Self { to, subject: subject_of(&format!("array {job_name} {how}")), text: lines.end(id) }
    }
}

const fn told(what: NotifyOn) -> &'static str {
    match what {
        NotifyOn::Running => "is running",
        NotifyOn::Completed => "completed",
        NotifyOn::Failed => "failed",
    }
}

fn subject_of(text: &str) -> String {
    format!("[FetchML] {}", plain(text))
}

/// One line, whatever a task says of itself.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The text of a letter.
struct Lines(String);

impl Lines {
    fn new(first: String) -> Self {
        Self(first + "\n\n")
    }

    fn line(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            writeln!(self.0, "{name:<10} {}", value.to_string()).expect("a String takes all that is written");
        }
    }

    fn end(self, id: TaskId) -> String {
        self.0 + &format!("\nfetchml show {id}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, password: Option<&str>) -> Result<MailSettings, String> {
        let password = password.map(|text| text.to_owned().into());
        MailSettings::new(url, password, "FetchML <fetchml@lab.example.org>", &["Example.com".into()])
    }

    #[test]
    fn settings_say_where_and_how_and_keep_passwords_off_the_wire_and_out_of_arguments() {
        let of = |url, password| settings(url, password).map(|s| (s.host, s.port, s.security, s.login.map(|l| l.0)));
        let host = || "mail.example.org".to_owned();
        assert_eq!(
            of("smtps://ada%40lab@mail.example.org", Some("pw")),
            Ok((host(), 465, Security::Tls, Some("ada@lab".into())))
        );
        assert_eq!(of("smtp://mail.example.org:2525", None), Ok((host(), 2525, Security::StartTls, None)));
        assert_eq!(of("smtp://mail.example.org?tls=none", None), Ok((host(), 25, Security::Plain, None)));
        assert!(of("smtp://ada@[::1]?tls=none", Some("pw")).is_ok());
        for (url, password, word) in [
            ("mail.example.org", None, "no URL"),
            ("https://mail.example.org", None, "must be smtps://"),
            ("smtps://mail.example.org?tls=none", None, "must be smtps://"),
            ("smtp://mail.example.org?tls=maybe", None, "must be smtps://"),
            ("smtps://ada:canary@mail.example.org", None, "--smtp-password-file"),
            ("smtps://ada@mail.example.org", None, "is missing"),
            ("smtps://mail.example.org", Some("canary"), "names no user"),
            ("smtp://ada@mail.example.org?tls=none", Some("canary"), "unencrypted"),
        ] {
            let why = of(url, password).unwrap_err();
            assert!(why.contains(word) && !why.contains("canary"), "{url}: {why}");
        }
        assert!(!format!("{:?}", settings("smtps://ada@h", Some("canary")).unwrap()).contains("canary"));
        assert!(MailSettings::new("smtps://h", None, "nobody", &[]).unwrap_err().contains("--mail-from"));
    }

    #[test]
    fn mail_goes_to_allowed_domains_only() {
        let settings = settings("smtps://h", None).unwrap();
        assert_eq!(settings.problem("ada@LAB.example.org"), None);
        assert_eq!(settings.problem("ada@example.com"), None);
        for bad in ["ada@example.org", "ada@sub.example.com", "ada@example.com.evil.org", "ada@evil.org@example.com"] {
            assert!(settings.problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn nothing_that_is_told_becomes_a_header() {
        let mailer = Mailer::new(settings("smtp://localhost?tls=none", None).unwrap()).unwrap();
        let letter = |to: &str, text: &str| Letter { to: to.into(), subject: subject_of(text), text: text.into() };
        let evil = "x\r\nBcc: bob@example.com\r\n\r\n.\r\nMAIL FROM:<a@b>";
        let message = mailer.message(&letter("ada@example.com", evil), "1").unwrap().formatted();
        let message = String::from_utf8(message).unwrap();
        let (headers, _) = message.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = headers.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        assert!(!names.contains(&"Bcc") && names.contains(&"Message-ID"), "{headers}");
        assert!(mailer.message(&letter("ada@example.com\r\nBcc: bob@example.com", "x"), "1").is_err());
        // What passes around the encoder of the subject: even then no line of its own.
        let raw = Letter { subject: evil.into(), ..letter("ada@example.com", "x") };
        let message = String::from_utf8(mailer.message(&raw, "1").unwrap().formatted()).unwrap();
        assert!(!message.contains("\r\nBcc"), "{message}");
    }
}
