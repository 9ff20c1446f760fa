//! A small parser of server-sent events: bytes in at any boundary, whole events out.

use crate::limits;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SseEvent {
    /// `id:` of this event, if it had one.
    pub id: Option<String>,
    /// `event:`; empty when absent.
    pub event: String,
    /// `data:` lines joined by newlines.
    pub data: String,
}

/// An event grew beyond [`limits::SSE_EVENT_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event larger than {} bytes", limits::SSE_EVENT_BYTES_MAX)]
pub struct EventTooLarge;

/// Collects bytes into events.
#[derive(Clone, Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    id: Option<String>,
    event: String,
    data: Option<String>,
}

impl SseParser {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes and returns the events they complete. Invalid UTF-8 is replaced.
    ///
    /// # Errors
    /// An event is larger than the limit; the stream cannot be used further.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, EventTooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => {
                    let mut line = std::mem::take(&mut self.line);
                    if let Some(event) = self.on_line(&line) {
                        events.push(event);
                    }
                    line.clear();
                    self.line = line;
                }
                _ => {
                    if self.line.len() + self.data.as_ref().map_or(0, String::len) >= limits::SSE_EVENT_BYTES_MAX {
                        return Err(EventTooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn on_line(&mut self, line: &[u8]) -> Option<SseEvent> {
        let mut text = String::from_utf8_lossy(line);
        if !std::mem::replace(&mut self.started, true)
            && let Some(rest) = text.strip_prefix('\u{feff}')
        {
            text = rest.to_owned().into();
        }
        if text.is_empty() {
            let event = std::mem::take(&mut self.event);
            let id = self.id.take();
            // Without data there is no event (a lone comment or id).
            return self.data.take().map(|data| SseEvent { id, event, data });
        }
        let (field, value) = match text.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (&*text, ""),
        };
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments (empty field name), `retry` (the client keeps its own pace) and unknown fields.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::new();
        chunks.iter().flat_map(|chunk| parser.push(chunk).unwrap()).collect()
    }

    fn event(id: Option<&str>, event: &str, data: &str) -> SseEvent {
        SseEvent { id: id.map(Into::into), event: event.into(), data: data.into() }
    }

    #[test]
    fn reads_fields_comments_and_line_ends_of_every_kind() {
        let text =
            "\u{feff}: hello\n\nid: 1.0.5\ndata: a\ndata:b\r\n\r\nevent: end\rdata\r\rretry: 5\nid: 7\n\ndata: cut";
        assert_eq!(parse(&[text.as_bytes()]), [event(Some("1.0.5"), "", "a\nb"), event(None, "end", "")]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::new();
        let flood = vec![b'x'; limits::SSE_EVENT_BYTES_MAX + 1];
        assert_eq!(parser.push(&flood), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(
            text in "(data|id|event|:|retry)?(: ?)?[a-zé\u{0}]{0,6}(\r\n|\n|\r){1,3}(data: [x\u{1F600}]{0,3}(\r\n|\n|\r){1,2}){0,5}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse(&chunks), parse(&[bytes]));
        }

        #[test]
        fn written_events_are_read_back(events in prop::collection::vec(("[a-z]{0,5}", "[ -~é]{0,20}"), 0..6)) {
            use std::fmt::Write as _;
            let mut text = String::new();
            for (n, (name, data)) in events.iter().enumerate() {
                write!(text, "id: {n}\nevent: {name}\ndata: {data}\n\n").unwrap();
            }
            let expected: Vec<_> =
                events.iter().enumerate().map(|(n, (name, data))| event(Some(&n.to_string()), name, data)).collect();
            prop_assert_eq!(parse(&[text.as_bytes()]), expected);
        }
    }
}
