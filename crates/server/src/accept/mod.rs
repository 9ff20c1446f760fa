//! The accept loop: bounded connections, bounded newcomers, TLS, bounded heads, timeouts, and a
//! graceful end.

mod newcomers;
mod patience;
mod plain;

use crate::{
    instruments::Instruments, limits, options::ConnectionTimes, proxies::TrustedProxies, request::Peer, tls::Tls,
};
use axum::Router;
use futures_util::FutureExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use newcomers::{Newcomer, Newcomers};
use patience::Patient;
use rustix::net::sockopt;
use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What connections are accepted for, and how.
#[derive(Clone)]
pub(crate) struct Service {
    /// Answers requests.
    pub(crate) router: Router,
    /// TLS; none: plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// Proxies in front that are believed.
    pub(crate) proxies: TrustedProxies,
    /// How patient connections are.
    pub(crate) times: ConnectionTimes,
    /// Counts connections.
    pub(crate) instruments: Arc<Instruments>,
    /// Cancelled when the server stops.
    pub(crate) stop: CancellationToken,
}

/// Serves until the service stops, then lets open requests end for a bounded time.
pub(crate) async fn serve(listener: TcpListener, service: Service) {
    let places = Arc::new(Semaphore::new(limits::connections_max()));
    let newcomers = Newcomers::new(limits::newcomers_max(), service.times.newcomer_silence);
    let stop = service.stop.clone();
    // Every connection holds a sender; when all are gone the receiver ends.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    let mut troubles = Troubles::default();
    while let Some((stream, peer, place)) = stop.run_until_cancelled(next(&listener, &places, &mut troubles)).await {
        let Some(newcomer) = stop.run_until_cancelled(newcomers.enter()).await else { break };
        let open = service.instruments.connection();
        let (service, alive) = (service.clone(), alive.clone());
        tokio::spawn(async move {
            if let Err(error) = prepare(&stream) {
                tracing::debug!(%error, "a connection could not be set up");
            }
            let stream = Patient::new(stream, service.times.taken_within);
            tokio::select! {
                () = welcome(stream, peer, &newcomer, service) => {}
                () = newcomer.cut_off() => tracing::debug!("a connection that said nothing made room for another"),
            }
            drop((open, place, alive));
        });
    }
    drop((listener, alive));
    if timeout(limits::SHUTDOWN_DRAIN, all_gone.recv()).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}

/// The next connection, when there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    troubles: &mut Troubles,
) -> (TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                troubles.end();
                return (stream, peer.ip().to_canonical(), place);
            }
            Err(error) => troubles.pause_after(&error).await,
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, limits::TCP_KEEPALIVE_IDLE)?;
    Ok(())
}

/// Failures to accept: each series of them is said once, not ten times a second.
#[derive(Default)]
struct Troubles {
    said: bool,
}

impl Troubles {
    /// Out of file descriptors the loop waits for some to be closed; a connection that broke before it
    /// was accepted costs nothing.
    async fn pause_after(&mut self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        if !self.said {
            tracing::warn!(%error, "no connection can be accepted right now; trying on");
            self.said = true;
        }
        tokio::time::sleep(limits::ACCEPT_PAUSE).await;
    }

    fn end(&mut self) {
        if self.said {
            tracing::info!("connections are accepted again");
            self.said = false;
        }
    }
}

/// Shakes hands where there is TLS, then serves.
async fn welcome(stream: Patient<TcpStream>, peer: IpAddr, newcomer: &Newcomer, service: Service) {
    let Some(tls) = &service.tls else { return serve_connection(stream, peer, newcomer, service).await };
    let acceptor = tls.acceptor();
    let handshake = timeout(service.times.handshake_within, shake_hands(stream, &acceptor));
    let Some(shaken) = service.stop.run_until_cancelled(handshake).await else { return };
    match shaken {
        Ok(Ok(Some(stream))) => serve_connection(stream, peer, newcomer, service).await,
        Ok(Ok(None)) => tracing::debug!(%peer, "plain HTTP where TLS is spoken"),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
    }
}

/// None: the client spoke plain HTTP and was told so.
async fn shake_hands(
    mut stream: Patient<TcpStream>,
    acceptor: &TlsAcceptor,
) -> io::Result<Option<tokio_rustls::server::TlsStream<Patient<TcpStream>>>> {
    if plain::begins(stream.inner()).await? {
        plain::refuse(&mut stream).await;
        return Ok(None);
    }
    acceptor.accept(stream).await.map(Some)
}

async fn serve_connection<S>(stream: S, peer: IpAddr, newcomer: &Newcomer, service: Service)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Service { router, proxies, stop, .. } = service;
    let arrived = newcomer.arrival();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        arrived.note();
        let mut request = request.map(axum::body::Body::new);
        let client = Peer(proxies.client(peer, request.headers()));
        request.extensions_mut().insert(client);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stopping = stop.cancelled().fuse();
    let mut stopping = pin!(stopping);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke off");
                }
                return;
            }
            () = stopping.as_mut(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
