//! HTTP to URLs that others named: only addresses that may be asked are connected to, and no other than the checked
//! one is. Redirects are not followed, so that whoever follows one has it checked like the first.

use fetchml_api::address::{self, Refused};
use ipnet::IpNet;
use reqwest::{
    Client, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect, retry,
};
use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};
use url::Host;

/// Clients that ask only addresses that may be asked.
pub struct Guarded {
    allowed: Arc<[IpNet]>,
    settings: Box<dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync>,
    /// Without TLS: reading the system's certificates takes time, and may fail.
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// Why a URL may not be asked.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Its scheme is neither http nor https.
    #[error("{0:?} is neither http nor https")]
    Scheme(String),
    /// It holds a user's name or a password.
    #[error("it holds a password")]
    Password,
    /// It names no host.
    #[error("it names no host")]
    NoHost,
    /// Its address may not be asked.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No client can be made.
    #[error(transparent)]
    Client(reqwest::Error),
}

impl Guarded {
    /// Asks public addresses and those of `allowed`. `settings` adds times and names to each client that is made.
    pub fn new(allowed: &[IpNet], settings: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static) -> Self {
        Self { allowed: allowed.into(), settings: Box::new(settings), plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// Whether a URL may be asked, as far as can be said without asking anybody: names are checked when they are
    /// resolved.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, url: &Url) -> Result<(), GuardError> {
        if !["http", "https"].contains(&url.scheme()) {
            return Err(GuardError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Password);
        }
        // Addresses in the URL are never resolved: they are checked here.
        let literal = match url.host().ok_or(GuardError::NoHost)? {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(_) => return Ok(()),
        };
        Ok(address::check(literal, &self.allowed)?)
    }

    /// The client for a URL that may be asked.
    ///
    /// # Errors
    /// It may not, see [`Self::check`], or no client can be made.
    pub fn client_for(&self, url: &Url) -> Result<&Client, GuardError> {
        self.check(url)?;
        let plain = url.scheme() == "http";
        let cell = if plain { &self.plain } else { &self.secure };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let builder = (self.settings)(Client::builder())
            .user_agent(concat!("fetchml/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // A proxy would resolve names by itself.
            .no_proxy()
            .retry(retry::never())
            .dns_resolver(Arc::new(CheckedNames(Arc::clone(&self.allowed))));
        let builder = if plain { builder.tls_certs_only([]) } else { builder };
        let client = builder.build().map_err(GuardError::Client)?;
        Ok(cell.get_or_init(|| client))
    }
}

/// The address because of which a request failed, if it failed for one.
pub fn refused(error: &reqwest::Error) -> Option<Refused> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return Some(*refused);
        }
        next = cause.source();
    }
    None
}

/// Resolves names to addresses that may be asked. One that may not refuses the name: nobody mixes them by accident.
struct CheckedNames(Arc<[IpNet]>);

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                address::check(address.ip(), &allowed)?;
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}
