//! Settings of TLS: where a server's certificate comes from, and how clients know their server.

use super::{ServerSettings, read_small};
use crate::{
    environment::{self, CA_CERT, TLS_FINGERPRINT},
    failure::Failure,
};
use fetchml_api::Fingerprint;
use fetchml_client::Trust;
use fetchml_server::TlsOptions;
use serde::Deserialize;
use std::path::Path;

/// Whether a server makes a certificate of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OwnCertificate {
    /// No: it has one from files, or speaks plain HTTP.
    Off,
    /// Yes.
    SelfSigned,
}

impl ServerSettings {
    /// Where the server's certificate comes from.
    pub(crate) fn tls_options(&self) -> Result<Option<TlsOptions>, Failure> {
        let (own, certificate, key) = (self.tls, self.tls_cert.clone(), self.tls_key.clone());
        match (own, certificate, key) {
            (OwnCertificate::Off, None, None) => Ok(None),
            (OwnCertificate::SelfSigned, None, None) => Ok(Some(TlsOptions::SelfSigned)),
            (OwnCertificate::Off, Some(certificate), Some(key)) => Ok(Some(TlsOptions::Files { certificate, key })),
            (OwnCertificate::SelfSigned, ..) => Err(Failure::usage("a certificate from files and one of its own")
                .hint("give --tls-cert and --tls-key, or --tls self-signed, not both")),
            (OwnCertificate::Off, Some(_), None) => {
                Err(Failure::usage("a certificate without its key")
                    .hint("name the file of its private key by --tls-key"))
            }
            (OwnCertificate::Off, None, Some(_)) => Err(Failure::usage("a private key without its certificate")
                .hint("name the file of the certificate by --tls-cert")),
        }
    }

    /// Names and addresses by which clients know the server.
    pub(crate) fn host_names(&self) -> Result<Vec<String>, Failure> {
        let names = self.host_name.iter().flat_map(|names| names.split(','));
        let names: Vec<String> = names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        let is_name = |name: &str| {
            let label = |label: &str| {
                (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
        };
        match names.iter().find(|name| !is_name(name)) {
            None => Ok(names),
            Some(name) => Err(Failure::usage(format!("{name:?} is no host name or address"))
                .hint(format!("{} is a list such as lab.example,10.0.0.5", environment::HOST_NAME))),
        }
    }
}

/// How a server is known: by a file of authorities, by a fingerprint, or by the system's authorities.
pub(crate) fn trust(ca_cert: Option<&Path>, fingerprint: Option<&str>) -> Result<Trust, Failure> {
    match (ca_cert, fingerprint) {
        (None, None) => Ok(Trust::System),
        (Some(_), Some(_)) => Err(Failure::usage("the server is to be known by an authority and by a fingerprint")
            .hint(format!("give one of --ca-cert ({CA_CERT}) and --tls-fingerprint ({TLS_FINGERPRINT})"))),
        (Some(path), None) => {
            let text = read_small(path)
                .map_err(|error| Failure::usage(format!("cannot read the authorities {}: {error}", path.display())))?;
            Trust::authorities(text.as_bytes())
                .map_err(|error| Failure::usage(format!("the authorities {} cannot be used: {error}", path.display())))
        }
        (None, Some(text)) => {
            let parsed: Result<Fingerprint, _> = text.parse();
            parsed.map(Trust::Pinned).map_err(|error| {
                Failure::usage(format!("{text:?} is no fingerprint")).hint(format!("{error}; see {TLS_FINGERPRINT}"))
            })
        }
    }
}
