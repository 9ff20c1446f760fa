//! TLS of the server: its certificate, from files or its own, what it is taken up from while the
//! server runs, and the handshake's settings. Connections are accepted in [`crate::accept`].

mod certificate;
mod self_signed;

pub use certificate::CertificateError;

use crate::{data_dir::DataDir, limits, options::TlsOptions};
use fetchml_api::Fingerprint;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::SystemTime,
};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The server's TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    source: Source,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    fingerprint: watch::Sender<Fingerprint>,
}

/// Where the certificate comes from.
enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    SelfSigned,
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().expect("no code panics while it holds this")))
    }
}

impl Tls {
    /// Reads the certificate, or makes one at the first start.
    ///
    /// # Errors
    /// It cannot be used; the error says what to do.
    pub(crate) fn open(
        options: &TlsOptions,
        data_dir: &DataDir,
        listen: IpAddr,
        host_names: &[String],
    ) -> Result<Self, CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (source, certified) = match options {
            TlsOptions::Files { certificate, key } => {
                let certified = certificate::read(certificate, key, &provider)?;
                (Source::Files { certificate: certificate.clone(), key: key.clone() }, certified)
            }
            TlsOptions::SelfSigned => (Source::SelfSigned, self_signed::open(data_dir, listen, host_names, &provider)?),
        };
        let fingerprint = watch::Sender::new(fingerprint_of(&certified));
        let current = Arc::new(Current(RwLock::new(Arc::new(certified))));
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers of both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        Ok(Self(Arc::new(Inner { source, provider, current, config: Arc::new(config), fingerprint })))
    }

    /// What accepts connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.config))
    }

    /// The fingerprint of the certificate that the server has now.
    pub fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.0.fingerprint.subscribe()
    }

    /// Whether the server vouches for itself.
    pub fn is_self_signed(&self) -> bool {
        matches!(self.0.source, Source::SelfSigned)
    }

    /// A name that the certificate is for and that is no pattern, if it is for one.
    pub fn name(&self) -> Option<String> {
        let certified = Arc::clone(&self.0.current.0.read().expect("no code panics while it holds this"));
        certificate::names(certified.cert.first()?).into_iter().find(|name| !name.starts_with('*'))
    }

    /// Takes up what the files hold now; connections that are open keep what they have.
    ///
    /// # Errors
    /// It cannot be used: the server goes on with the certificate it has.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let Source::Files { certificate, key } = &self.0.source else { return Ok(()) };
        let certified = certificate::read(certificate, key, &self.0.provider)?;
        let fingerprint = fingerprint_of(&certified);
        *self.0.current.0.write().expect("no code panics while it holds this") = Arc::new(certified);
        if self.0.fingerprint.send_replace(fingerprint) != fingerprint {
            tracing::info!(%fingerprint, "a new certificate is in use");
        }
        Ok(())
    }

    /// Takes up changed files by itself, until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let Source::Files { certificate, key } = &self.0.source else { return };
        let files = [certificate.clone(), key.clone()];
        let changed = || files.each_ref().map(|file| std::fs::metadata(file).and_then(|found| found.modified()).ok());
        let mut known: [Option<SystemTime>; 2] = changed();
        while stop.run_until_cancelled(tokio::time::sleep(limits::CERTIFICATE_LOOK_EVERY)).await.is_some() {
            let now = changed();
            if now == known {
                continue;
            }
            known = now;
            if let Err(error) = self.reload() {
                tracing::error!(%error, "the changed certificate is not taken up; the one before stays in use");
            }
        }
    }
}

fn fingerprint_of(certified: &CertifiedKey) -> Fingerprint {
    Fingerprint::of(certified.cert.first().expect("a certified key has a certificate"))
}
