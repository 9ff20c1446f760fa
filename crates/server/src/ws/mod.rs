//! `/ws`: tells clients of their tasks. One task per connection, which reads the log of changes at its own
//! place ([`feed`]), so that a slow client costs no memory.
//!
//! Nothing a client sends may harm the server: messages are small and few, and who does not answer, does not
//! read or breaks the protocol is cut off.

mod feed;
mod ticket;

pub(crate) use ticket::{Tickets, ticket_of};

use crate::{
    app::App,
    auth::{Caller, rate::Bucket},
    changes::Reader,
    instruments::StreamKind,
    limits,
};
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use feed::{Feed, Messages, Saying};
use fetchml_api::{WsEvent, WsRequest};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink, stream::SplitStream};
use std::{sync::Arc, time::Instant};
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tracing::debug;

/// Why a connection ends, as its client is told; none: it went by itself.
type End = Option<(u16, &'static str)>;

/// Serves one client until it goes, is cut off, or its key ends.
pub(crate) async fn serve(socket: WebSocket, app: Arc<App>, caller: Caller) {
    let _open = app.instruments.stream(StreamKind::WebSocket);
    let (outgoing, incoming) = socket.split();
    let feed = Feed::from_now(Arc::clone(&app), Reader::new(&app, &caller));
    let heard = Bucket::full(limits::WS_MESSAGES);
    let mut session = Session { app: &app, outgoing, incoming, feed, heard, ponged: Instant::now() };
    let end = tokio::select! {
        biased;
        () = caller.key_ended() => Some((close_code::POLICY, "the key works no more")),
        () = app.stop.cancelled() => Some((close_code::AWAY, "the server stops")),
        end = session.run() => end.err().flatten(),
    };
    debug!(key = %caller.key, ?end, "a connection of /ws ended");
    if let Some((code, reason)) = end {
        let farewell = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // Who does not read does not hear it.
        let _ = timeout(limits::WS_CLOSE_WITHIN, session.outgoing.send(farewell)).await;
    }
}

struct Session<'a> {
    app: &'a Arc<App>,
    outgoing: SplitSink<WebSocket, Message>,
    incoming: SplitStream<WebSocket>,
    feed: Feed,
    /// What it may still send.
    heard: Bucket,
    /// When it last said that it is there.
    ponged: Instant,
}

/// What happened.
enum Happened {
    Heard(Option<Result<Message, axum::Error>>),
    PingDue,
    Changed(Result<Option<Messages>, fetchml_store::StoreError>),
}

impl Session<'_> {
    /// Never returns but with why it ends.
    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        let times = self.app.options.ws;
        let mut ping = interval_at((Instant::now() + times.ping_every).into(), times.ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.send(self.feed.first()).await?;
        loop {
            // What a client has answered counts before it is asked whether it did.
            let happened = tokio::select! {
                biased;
                message = self.incoming.next() => Happened::Heard(message),
                _ = ping.tick() => Happened::PingDue,
                messages = self.feed.next() => Happened::Changed(messages),
            };
            match happened {
                Happened::Heard(message) => self.on_message(message).await?,
                Happened::PingDue if self.ponged.elapsed() > times.pong_within => {
                    return Err(Some((close_code::POLICY, "no pong in time")));
                }
                Happened::PingDue => self.send(vec![Saying::Event(WsEvent::Ping)]).await?,
                Happened::Changed(Ok(Some(messages))) => self.send(messages).await?,
                Happened::Changed(Ok(None)) => return Err(Some((close_code::AWAY, "the server stops"))),
                Happened::Changed(Err(error)) => return Err(Some(broken(&error))),
            }
        }
    }

    async fn on_message(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let message = match message {
            None | Some(Ok(Message::Close(_))) => return Err(None),
            Some(Err(error)) => {
                debug!(%error, "a frame that is refused");
                return Err(Some((close_code::PROTOCOL, "a frame that is not allowed, or too large")));
            }
            Some(Ok(message)) => message,
        };
        if self.heard.take(limits::WS_MESSAGES, Instant::now()).retry_after_s.is_some() {
            return Err(Some((close_code::POLICY, "too many messages")));
        }
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Some((close_code::UNSUPPORTED, "messages are text"))),
            // The protocol's own pings are answered below us; they say that it is there.
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(None),
        };
        match WsRequest::read(text.as_bytes()) {
            Ok(WsRequest::Pong {}) => {
                self.ponged = Instant::now();
                Ok(())
            }
            Ok(WsRequest::Ping {}) => self.send(vec![Saying::Event(WsEvent::Pong)]).await,
            Ok(WsRequest::Subscribe { task_ids, since }) => {
                let messages = self.feed.subscribe(task_ids, since).await.map_err(|error| Some(broken(&error)))?;
                self.send(messages).await
            }
            Err(error) => self.send(vec![Saying::Event(WsEvent::Error { error })]).await,
        }
    }

    /// Sends all of it. Who does not take it in time is cut off.
    async fn send(&mut self, messages: Messages) -> Result<(), End> {
        let sending = async {
            for message in messages {
                self.outgoing.feed(Message::Text(message.text(self.feed.reader()).into())).await?;
            }
            self.outgoing.flush().await
        };
        match timeout(self.app.options.ws.taken_within, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some((close_code::POLICY, "what is sent is not read"))),
        }
    }
}

/// The client resumes from its place.
fn broken(cause: &fetchml_store::StoreError) -> (u16, &'static str) {
    tracing::warn!(%cause, "a connection of /ws broke off");
    (close_code::AGAIN, "the log of changes cannot be read")
}
