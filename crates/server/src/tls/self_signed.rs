//! A certificate of the server's own, made once and kept in the data directory: clients know it by
//! its fingerprint, so it must not change by itself.

use super::certificate::{self, CertificateError};
use crate::{data_dir::DataDir, limits};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};
use webpki::EndEntityCert;

const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// Reads the certificate, or makes it at the first start.
pub(super) fn open(
    data_dir: &DataDir,
    listen: IpAddr,
    host_names: &[String],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let names = names(listen, host_names);
    // The certificate is written last: one without the other is a start that was cut short.
    if data_dir.read_secret(CERTIFICATE_FILE)?.is_none() {
        let (certificate, key) = make(&names).map_err(|error| CertificateError::Make(error.to_string()))?;
        data_dir.write_secret(KEY_FILE, key.as_bytes())?;
        data_dir.write_secret(CERTIFICATE_FILE, certificate.as_bytes())?;
    }
    let path = data_dir.join(CERTIFICATE_FILE);
    let certified = certificate::read(&path, &data_dir.join(KEY_FILE), provider)?;
    let missing = missing(certified.cert.first().expect("one was read"), &names);
    if !missing.is_empty() {
        tracing::warn!(
            names = %missing.join(", "),
            "the certificate is not for some names of this server: clients that know it by its fingerprint do not mind; \
             for others delete {} and start again, which makes a new one that all clients must be told",
            path.display()
        );
    }
    Ok(certified)
}

/// What the server may be called: where it listens, the host's name, `localhost`, and what was asked for.
fn names(listen: IpAddr, host_names: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = host_names.iter().cloned().collect();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend([host, "localhost".to_owned()]);
    let addresses = [listen, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    names.extend(addresses.into_iter().filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(listen.is_unspecified().then(own_addresses).into_iter().flatten().map(|ip| ip.to_string()));
    names.retain(|name| ServerName::try_from(name.as_str()).is_ok());
    names
}

/// The addresses of this machine by which others reach it, as far as its routes tell.
fn own_addresses() -> Vec<IpAddr> {
    // Nothing is sent: a connected UDP socket only looks up its route. The addresses are of documentation.
    let routes: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let own = |(from, to): (IpAddr, IpAddr)| {
        let socket = std::net::UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    routes.into_iter().filter_map(own).collect()
}

/// Certificate and key as PEM.
fn make(names: &BTreeSet<String>) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let key = KeyPair::generate()?;
    // A name of its own: else clients with two such certificates among their authorities could take one for the other.
    let mut subject = DistinguishedName::new();
    let id = hex::encode(Sha256::digest(key.public_key_raw()));
    subject.push(DnType::CommonName, format!("FetchML server {}", &id[..16]));
    params.distinguished_name = subject;
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_hours(24)).into();
    params.not_after = (now + limits::SELF_SIGNED_LASTS).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// The names that a certificate is not for.
fn missing(certificate: &CertificateDer<'_>, names: &BTreeSet<String>) -> Vec<String> {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let is_for = |name: &&String| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    };
    names.iter().filter(|name| !is_for(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_is_made_once_for_every_name_and_its_key_is_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::take(&parent.path().join("data")).unwrap();
        let provider = aws_lc_rs::default_provider();
        let wanted = ["lab.example".to_owned(), "10.1.2.3".to_owned()];
        let first = open(&dir, Ipv4Addr::LOCALHOST.into(), &wanted, &provider).unwrap();
        let names = BTreeSet::from(["lab.example", "10.1.2.3", "localhost", "127.0.0.1", "::1"].map(str::to_owned));
        assert_eq!(missing(&first.cert[0], &names), [""; 0]);
        let mode = std::fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = open(&dir, Ipv4Addr::LOCALHOST.into(), &["other.example".to_owned()], &provider).unwrap();
        assert_eq!(again.cert, first.cert, "clients know it by its fingerprint");
        assert_eq!(missing(&again.cert[0], &BTreeSet::from(["other.example".to_owned()])), ["other.example"]);
    }
}
