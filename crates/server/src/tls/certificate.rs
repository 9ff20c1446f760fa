//! A certificate and its key from PEM files: read, and refused with words where it would not work.

use crate::limits;
use rustls::{
    Error as TlsError, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{Error as PemError, PemObject as _},
    },
    sign::CertifiedKey,
};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use webpki::{EndEntityCert, KeyUsage};

/// Why a certificate cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; name the PEM files by --tls-cert and --tls-key", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Key and certificate are of different pairs.
    #[error("the key in {} is not the one of the first certificate in {}; name the two files of one pair, \
             the server's own certificate first", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate of the server's own cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
    /// It cannot be kept.
    #[error(transparent)]
    DataDir(#[from] crate::data_dir::DataDirError),
}

/// Reads a chain and its key.
pub(super) fn read(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let unusable = |path: &Path, problem: String| CertificateError::Unusable { path: path.to_owned(), problem };
    let chain = read_file(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable(certificate, format!("is not readable as PEM: {error}")))?;
    let Some(own) = chain.first() else {
        return Err(unusable(
            certificate,
            "has no certificate: it must be PEM, the server's own certificate first".into(),
        ));
    };
    check_dates(own).map_err(|problem| unusable(certificate, problem))?;
    let found = PrivateKeyDer::from_pem_slice(&read_file(key)?).map_err(|error| match error {
        PemError::NoItemsFound => {
            unusable(key, "has no private key that is not encrypted: it must be PEM (PKCS#8, EC or RSA)".into())
        }
        error => unusable(key, format!("is not readable as PEM: {error}")),
    })?;
    CertifiedKey::from_der(chain, found, provider).map_err(|error| match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        TlsError::InvalidCertificate(problem) => {
            unusable(certificate, format!("holds a certificate that cannot be used: {problem}"))
        }
        error => unusable(key, format!("holds a key that cannot be used: {error}")),
    })
}

/// DNS names of a certificate.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_owned).collect()
}

/// Says so when the certificate is not valid now.
fn check_dates(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    // Without authorities nothing is accepted; the dates are looked at before that.
    let refused = parsed.verify_for_usage(&[], &[], &[], UnixTime::now(), KeyUsage::server_auth(), None, None).err();
    let day = |time: UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    match refused {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            Err(format!("holds a certificate that expired at {}; put a new one there", day(not_after)))
        }
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Err(format!("holds a certificate that is valid from {} on; is the clock right?", day(not_before)))
        }
        _ => Ok(()),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limits::CERTIFICATE_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limits::CERTIFICATE_FILE_BYTES {
        let problem = format!("is larger than {} bytes", limits::CERTIFICATE_FILE_BYTES);
        return Err(CertificateError::Unusable { path: path.to_owned(), problem });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, date_time_ymd};
    use rustls::crypto::aws_lc_rs;
    use std::fs;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    fn made(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(["lab.example".to_owned(), "*.lab.example".to_owned()]).unwrap();
        change(&mut params);
        params.self_signed(key).unwrap().pem()
    }

    fn refused(certificate: &Path, key: &Path) -> String {
        read(certificate, key, &aws_lc_rs::default_provider()).unwrap_err().to_string()
    }

    #[test]
    fn keys_of_every_usual_kind_are_taken() {
        let files = Files::new();
        for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let (certificate, key) =
                (files.write("a.crt", &made(&pair, |_| ())), files.write("a.key", &pair.serialize_pem()));
            let certified = read(&certificate, &key, &aws_lc_rs::default_provider()).unwrap();
            assert_eq!(names(&certified.cert[0]), ["lab.example", "*.lab.example"]);
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_words() {
        let files = Files::new();
        let (pair, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = files.write("good.crt", &made(&pair, |_| ()));
        let key = files.write("good.key", &pair.serialize_pem());
        let nothing = files.dir.path().join("nothing");
        let old = files.write("old.crt", &made(&pair, |params| params.not_after = date_time_ymd(2020, 2, 3)));
        let new = files.write("new.crt", &made(&pair, |params| params.not_before = date_time_ymd(3000, 2, 3)));
        let others = files.write("other.key", &other.serialize_pem());
        let text = files.write("text", "hello");
        let large = files.write("large", &"a".repeat(limits::CERTIFICATE_FILE_BYTES as usize + 1));
        for (certificate, key, told) in [
            (&nothing, &key, "cannot read"),
            (&good, &nothing, "nothing: No such file"),
            (&text, &key, "has no certificate"),
            (&key, &key, "has no certificate"),
            (&good, &text, "has no private key"),
            (&good, &good, "has no private key"),
            (&good, &others, "is not the one of the first certificate"),
            (&old, &key, "expired at 2020-02-03T00:00:00Z"),
            (&new, &key, "is valid from 3000-02-03T00:00:00Z on"),
            (&large, &key, "is larger than"),
        ] {
            let text = refused(certificate, key);
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
