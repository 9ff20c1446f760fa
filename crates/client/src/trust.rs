//! Which server a client believes to be its own: by the authorities of the system, by named ones, or
//! by the fingerprint of one certificate. There is no way to believe any.

use fetchml_api::Fingerprint;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use std::{fmt, sync::Arc};
use tokio::sync::watch;

/// Which certificates of a server are accepted.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those that the authorities of this system vouch for.
    #[default]
    System,
    /// Those that one of these authorities vouches for, and no other.
    Authorities(Arc<RootCertStore>),
    /// This one. Its name and dates do not matter: it is known.
    Pinned(Fingerprint),
    /// The one that a server in this process has now.
    Own(watch::Receiver<Fingerprint>),
}

/// Why authorities cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAuthorities {
    /// The text is not PEM.
    #[error("it is not readable as PEM: {0}")]
    Pem(String),
    /// It has no certificate.
    #[error("there is no certificate in it")]
    Empty,
    /// One is not a certificate that can vouch.
    #[error("certificate number {number} in it cannot be used: {problem}")]
    Certificate {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
}

/// The server has another certificate than the one that is pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WrongCertificate {
    wanted: Fingerprint,
    found: Fingerprint,
}

impl fmt::Display for WrongCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its certificate has the fingerprint {}, not {}", self.found, self.wanted)
    }
}

impl std::error::Error for WrongCertificate {}

impl Trust {
    /// Authorities from the text of a PEM file.
    ///
    /// # Errors
    /// It is not PEM, or has no certificate that can vouch.
    pub fn authorities(pem: &[u8]) -> Result<Self, BadAuthorities> {
        let mut roots = RootCertStore::empty();
        for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(pem)) {
            let certificate = certificate.map_err(|error| BadAuthorities::Pem(error.to_string()))?;
            let refused = |error: TlsError| BadAuthorities::Certificate { number, problem: error.to_string() };
            roots.add(certificate).map_err(refused)?;
        }
        if roots.is_empty() { Err(BadAuthorities::Empty) } else { Ok(Self::Authorities(Arc::new(roots))) }
    }

    /// What a TLS connection is made with.
    ///
    /// # Errors
    /// The authorities of the system cannot be used.
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let pinned = |pin| Arc::new(PinVerifier { pin, provider });
        let builder = match self {
            Self::System => builder.with_platform_verifier()?,
            Self::Authorities(roots) => builder.with_root_certificates(Arc::clone(roots)),
            Self::Pinned(fingerprint) => {
                builder.dangerous().with_custom_certificate_verifier(pinned(Pin::Fixed(*fingerprint)))
            }
            Self::Own(current) => {
                builder.dangerous().with_custom_certificate_verifier(pinned(Pin::Own(current.clone())))
            }
        };
        Ok(builder.with_no_client_auth())
    }
}

#[derive(Clone, Debug)]
enum Pin {
    Fixed(Fingerprint),
    Own(watch::Receiver<Fingerprint>),
}

/// Accepts one certificate, of a server that proves to have its key.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let wanted = match &self.pin {
            Pin::Fixed(fingerprint) => *fingerprint,
            Pin::Own(current) => *current.borrow(),
        };
        let found = Fingerprint::of(end_entity);
        if found == wanted {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = OtherError(Arc::new(WrongCertificate { wanted, found }));
        Err(TlsError::InvalidCertificate(CertificateError::Other(wrong)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why the server's certificate was not accepted, if that is what went wrong.
pub fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref::<TlsError>()));
        if let Some(TlsError::InvalidCertificate(why)) = tls {
            return Some(match why {
                CertificateError::Other(other) => other.0.to_string(),
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "no authority that is trusted here vouches for its certificate".into()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired".into()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "its certificate is for another name".into()
                }
                why => format!("its certificate is not valid: {why}"),
            });
        }
        // An I/O error tells what lies within its content, but not the content.
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_must_be_certificates() {
        let refused = |text: &str| Trust::authorities(text.as_bytes()).unwrap_err();
        assert_eq!(refused("hello"), BadAuthorities::Empty);
        let wrapped = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(matches!(refused(wrapped), BadAuthorities::Certificate { number: 1, .. }), "{}", refused(wrapped));
        let broken = "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
        assert!(matches!(refused(broken), BadAuthorities::Pem(_)), "{}", refused(broken));
    }

    #[test]
    fn a_refused_certificate_is_found_in_the_chain_of_causes() {
        let (wanted, found) = (Fingerprint::of(b"a"), Fingerprint::of(b"b"));
        let other = OtherError(Arc::new(WrongCertificate { wanted, found }));
        let refused = TlsError::InvalidCertificate(CertificateError::Other(other));
        let error = std::io::Error::other(std::io::Error::new(std::io::ErrorKind::InvalidData, refused));
        let told = untrusted(&error).unwrap();
        assert!(told.contains(&wanted.to_string()) && told.contains(&found.to_string()), "{told}");
        assert_eq!(untrusted(&std::io::Error::other("away")), None);
    }
}
