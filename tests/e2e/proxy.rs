//! A TCP proxy between worker and server that delays, holds back and breaks.

use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the network does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Weather {
    /// Bytes from the worker to the server wait, the connection looks alive.
    pub(crate) hold_up: bool,
    /// Bytes from the server to the worker wait.
    pub(crate) hold_down: bool,
    /// Every read waits for so long before it is passed on.
    pub(crate) delay: Duration,
    /// Connections of an older generation are broken.
    generation: u64,
}

/// The proxy; it ends with this.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Between anybody and `server`, a `host:port`.
    pub(crate) async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (weather, _) = watch::channel(Weather::default());
        let weather = Arc::new(weather);
        let (told, server) = (Arc::clone(&weather), server.to_owned());
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, server.clone(), told.subscribe()));
            }
        });
        Self { address, weather, listening }
    }

    /// Where the worker finds the server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what the network does.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// Breaks every connection there is.
    pub(crate) fn reset(&self) {
        self.set(|weather| weather.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.reset();
    }
}

async fn connection(near: TcpStream, server: String, weather: watch::Receiver<Weather>) {
    let generation = weather.borrow().generation;
    // A new connection is a few packets in each direction: it does not get through either.
    let mut opening = weather.clone();
    let open = opening.wait_for(|w| (!w.hold_up && !w.hold_down) || w.generation != generation);
    if open.await.map_or(true, |w| w.generation != generation) {
        return;
    }
    let Ok(far) = TcpStream::connect(server).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut broken = weather.clone();
    tokio::select! {
        () = pump(near_in, far_out, weather.clone(), |w| w.hold_up) => {}
        () = pump(far_in, near_out, weather, |w| w.hold_down) => {}
        _ = broken.wait_for(|w| w.generation != generation) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    held: impl Fn(&Weather) -> bool,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|w| !held(w)).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
