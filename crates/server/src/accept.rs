//! The accept loop: bounded connections, bounded heads, timeouts, and a graceful end.

use crate::{instruments::Instruments, limits, proxies::TrustedProxies, request::Peer};
use axum::Router;
use futures_util::FutureExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Serves until `stop` is cancelled, then lets open requests end for a bounded time.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    proxies: TrustedProxies,
    instruments: Arc<Instruments>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits::connections_max()));
    let proxies = Arc::new(proxies);
    // Every connection holds a sender; when all are gone the receiver ends.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            () = stop.cancelled() => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let from = From { peer: peer.ip().to_canonical(), proxies: Arc::clone(&proxies) };
        let open = instruments.connection();
        let (router, stop, alive) = (router.clone(), stop.clone(), alive.clone());
        tokio::spawn(async move {
            if let Err(error) = prepare(&stream) {
                tracing::debug!(%error, "a connection could not be set up");
            }
            serve_connection(stream, from, router, stop).await;
            drop((open, place, alive));
        });
    }
    drop((listener, alive));
    if timeout(limits::SHUTDOWN_DRAIN, all_gone.recv()).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, limits::TCP_KEEPALIVE_IDLE)?;
    Ok(())
}

/// Out of file descriptors the loop waits for some to be closed; a connection that broke before it
/// was accepted costs nothing.
async fn pause_after(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "no connection can be accepted right now");
    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
}

/// Where the requests of a connection come from.
struct From {
    peer: IpAddr,
    proxies: Arc<TrustedProxies>,
}

async fn serve_connection(stream: TcpStream, from: From, router: Router, stop: CancellationToken) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        let client = Peer(from.proxies.client(from.peer, request.headers()));
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
