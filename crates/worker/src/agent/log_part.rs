//! One part of a log file as it may be sent: with secrets hidden, and without an end that may yet become one.

use crate::redact::Redactor;
use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

/// What is hidden in a log.
#[derive(Clone, Debug)]
pub(crate) enum Mask {
    /// Nothing.
    Open,
    /// What, is not known yet: nothing is sent.
    Waits,
    /// This.
    Hides(Arc<Redactor>),
}

/// A part of a log file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Offset of its first byte.
    pub(crate) from: u64,
    /// Bytes that are in the file.
    pub(crate) want: usize,
    /// Where the log ends for good, at the file's end or at the quota; absent: it grows.
    pub(crate) ends_at: Option<u64>,
}

impl Part {
    /// Its bytes; fewer than wanted, even none, where what follows is to tell what they are.
    pub(crate) fn read(self, file: &File, mask: &Mask) -> io::Result<Vec<u8>> {
        match mask {
            Mask::Open => read_at(file, self.from, self.want),
            Mask::Waits => Ok(Vec::new()),
            Mask::Hides(redactor) => self.read_hidden(file, redactor),
        }
    }

    fn read_hidden(self, file: &File, redactor: &Redactor) -> io::Result<Vec<u8>> {
        let reach = redactor.reach() as u64;
        let start = self.from.saturating_sub(reach);
        let stop = self.from.saturating_add(self.want as u64).saturating_add(reach);
        let to = self.ends_at.map_or(stop, |end| end.min(stop));
        let mut bytes = read_at(file, start, to.saturating_sub(start) as usize)?;
        let have = start + bytes.len() as u64;
        if self.ends_at == Some(have) {
            redactor.hide_to_end(&mut bytes);
        } else {
            let undecided = if have < stop { redactor.undecided(&bytes) } else { 0 };
            redactor.hide(&mut bytes);
            bytes.truncate(bytes.len() - undecided);
        }
        bytes.drain(..((self.from - start) as usize).min(bytes.len()));
        bytes.truncate(self.want);
        Ok(bytes)
    }
}

pub(crate) fn read_at(file: &File, from: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; want];
    let mut have = 0;
    while have < want {
        match file.read_at(&mut bytes[have..], from + have as u64) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const VALUE: &str = "canary-in-a-log";

    fn hides() -> Mask {
        Mask::Hides(Arc::new(Redactor::new([VALUE]).unwrap()))
    }

    /// Reads a file from its beginning as the log task does, while it grows by `writes`, then to its end.
    fn sent(writes: &[&str], want_max: usize, quota_bytes: u64) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let (mask, mut sent) = (hides(), Vec::new());
        let pump = |file: &File, sent: &mut Vec<u8>, ended: bool| loop {
            let length = file.metadata().unwrap().len();
            let end = length.min(quota_bytes);
            let want = ((end - sent.len() as u64) as usize).min(want_max);
            let ends_at = (ended || length > quota_bytes).then_some(end);
            let bytes = Part { from: sent.len() as u64, want, ends_at }.read(file, &mask).unwrap();
            if want == 0 || bytes.is_empty() {
                return;
            }
            sent.extend_from_slice(&bytes);
        };
        for write in writes {
            file.write_all(write.as_bytes()).unwrap();
            pump(&file, &mut sent, false);
        }
        pump(&file, &mut sent, true);
        sent
    }

    #[test]
    fn a_value_is_hidden_however_it_is_written_and_read() {
        let shown = format!("before {} after\n", "*".repeat(VALUE.len()));
        for want_max in [1, 3, 16, 1_000] {
            for at in 0..=VALUE.len() {
                let (first, second) = VALUE.split_at(at);
                let writes = ["before ", first, second, " after", "\n"];
                assert_eq!(String::from_utf8(sent(&writes, want_max, 1_000)).unwrap(), shown, "{want_max} {at}");
            }
            let by_byte: Vec<String> = VALUE.chars().map(String::from).collect();
            let writes: Vec<&str> = by_byte.iter().map(String::as_str).collect();
            assert_eq!(sent(&writes, want_max, 1_000), "*".repeat(VALUE.len()).into_bytes());
        }
    }

    #[test]
    fn what_turns_out_harmless_is_sent_as_it_is() {
        assert_eq!(sent(&["canary", "-in-a-hat"], 100, 1_000), b"canary-in-a-hat");
        assert_eq!(sent(&["the canary"], 100, 1_000), b"the canary", "too little of it to tell");
        assert_eq!(sent(&["canary-in-a"], 100, 1_000), b"***********", "a writer that died in the middle");
    }

    #[test]
    fn a_value_over_the_quota_is_hidden_before_it() {
        let writes = ["0123456789", VALUE, "more"];
        for want_max in [1, 4, 100] {
            assert_eq!(sent(&writes, want_max, 21), b"0123456789***********");
            assert_eq!(sent(&writes, want_max, 25), b"0123456789***************");
        }
    }

    #[test]
    fn a_log_whose_secrets_are_not_known_waits_and_one_without_any_is_its_own_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(VALUE.as_bytes()).unwrap();
        let part = Part { from: 3, want: 5, ends_at: None };
        assert_eq!(part.read(&file, &Mask::Waits).unwrap(), b"");
        assert_eq!(part.read(&file, &Mask::Open).unwrap(), b"ary-i");
        assert_eq!(part.read(&file, &hides()).unwrap(), b"*****");
    }
}
