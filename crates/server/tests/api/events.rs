//! Reading streams of server-sent events.

use fetchml_testkit::CheckedClient;
use reqwest::Method;
use serde_json::Value;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// A stream of events, read one by one.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    pub(crate) async fn open(client: &CheckedClient, path: &str, last_id: Option<&str>) -> Self {
        let mut request = client.request(Method::GET, path);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let event = read(block);
                self.buffer = String::from(rest);
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let chunk = tokio::time::timeout(fetchml_testkit::DEADLINE, self.response.chunk()).await.expect("an event");
            self.buffer.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// All events of a stream that has ended.
pub(crate) fn parse(text: &str) -> Vec<Event> {
    text.split("\n\n").filter_map(read).collect()
}

/// An event; none: a comment.
fn read(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        lines.next().map(|v| v.trim_start().to_owned()).unwrap_or_default()
    };
    let (name, id, data) = (field("event"), field("id"), field("data"));
    (!data.is_empty()).then(|| Event { name, id, data: serde_json::from_str(&data).unwrap() })
}
