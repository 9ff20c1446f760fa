//! A client of `/ws` that says and answers only what the test tells it to.

use crate::{DEADLINE, TestServer};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

/// An open connection.
pub struct WsClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// How the server closed it: code and reason; 0 when it said neither.
pub type Closed = (u16, String);

impl WsClient {
    /// Opens `/ws` with a key, or a query, and headers.
    ///
    /// # Errors
    /// The status with which the server refused.
    ///
    /// # Panics
    /// No answer came.
    pub async fn open(server: &TestServer, query: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let url = format!("ws://{}/ws{query}", server.server().address());
        let mut request = url.into_client_request().expect("the address makes a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("tests send valid headers"));
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Says something.
    pub async fn say(&mut self, message: &Value) {
        self.say_text(&message.to_string()).await;
    }

    /// Says any text. A connection that has closed meanwhile is found out by the next [`WsClient::hear`].
    pub async fn say_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::Text(text.into())).await;
    }

    /// Says something that is no text.
    pub async fn say_bytes(&mut self, bytes: Vec<u8>) {
        let _ = self.socket.send(Message::Binary(bytes.into())).await;
    }

    /// The next message.
    ///
    /// # Errors
    /// How the server closed the connection.
    ///
    /// # Panics
    /// Nothing came in time, or no JSON.
    pub async fn hear(&mut self) -> Result<Value, Closed> {
        loop {
            match timeout(DEADLINE, self.socket.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("messages are JSON")),
                Some(Ok(Message::Close(Some(frame)))) => return Err((frame.code.into(), frame.reason.to_string())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("not a message: {other:?}"),
                Some(Err(_)) | None => return Err((0, String::new())),
            }
        }
    }

    /// The next message of a type; what comes before is dropped.
    ///
    /// # Panics
    /// The connection is closed before.
    pub async fn hear_of(&mut self, kind: &str) -> Value {
        let hearing = async {
            loop {
                let message = self.hear().await.unwrap_or_else(|closed| panic!("closed: {closed:?}"));
                if message["type"] == kind {
                    return message;
                }
            }
        };
        timeout(DEADLINE, hearing).await.unwrap_or_else(|_| panic!("no {kind} in time"))
    }

    /// How the server closes it; what comes before is dropped.
    pub async fn closed(&mut self) -> Closed {
        let hearing = async {
            loop {
                if let Err(closed) = self.hear().await {
                    return closed;
                }
            }
        };
        timeout(DEADLINE, hearing).await.expect("it is closed in time")
    }
}
