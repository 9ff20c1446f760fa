//! Messages between agent, fork helper and shim.
//!
//! Agent to helper, on the helper's standard input (a Unix stream socket): a length (u32, big
//! endian) and that many bytes of JSON [`StartRequest`]; with the length comes one descriptor, the
//! shim's end of a socket of its own. Shim to agent, on that socket: one line of JSON [`Reply`].
//! Agent to shim: the byte [`GO`]. The end of that socket means that the other side is gone.

use super::{confine::Confinement, fence::Fence, spawn::Program};
use crate::{cgroup::Cgroup, limits};
use fetchml_api::AttemptId;
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _},
    mem::MaybeUninit,
    path::PathBuf,
};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
};

/// Lets user code run.
pub(super) const GO: u8 = b'g';

/// What a shim is to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct StartRequest {
    pub(super) attempt: AttemptId,
    #[serde(with = "os_string")]
    pub(super) dir: OsString,
    pub(super) program: Program,
    pub(super) confinement: Option<Confinement>,
    pub(super) fence: Option<Fence>,
    pub(super) time_limit_s: Option<u32>,
    pub(super) grace_s: u32,
}

impl StartRequest {
    pub(super) fn dir(&self) -> PathBuf {
        PathBuf::from(&self.dir)
    }

    /// The control group that it gets.
    pub(super) fn cgroup(&self) -> Option<Cgroup> {
        Some(self.confinement.as_ref()?.cgroups.as_ref()?.group(self.attempt))
    }
}

/// A shim's first and only words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// It holds the lock, is recorded, and waits for `go`.
    Ready { pid: i32, start_time: u64 },
    /// It cannot be.
    Failed { error: String },
}

/// Sends a length, that many bytes, and a descriptor with the first of them.
pub(crate) async fn send_with_descriptor(
    socket: &mut UnixStream,
    body: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let length = (body.len() as u32).to_be_bytes();
    let sent = socket
        .async_io(Interest::WRITABLE, || {
            let descriptors = [descriptor];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let buffers = [IoSlice::new(&length), IoSlice::new(body)];
            Ok(sendmsg(&*socket, &buffers, &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    if sent < length.len() {
        socket.write_all(&length[sent..]).await?;
    }
    socket.write_all(&body[sent.saturating_sub(length.len())..]).await
}

/// What [`send_with_descriptor`] sent; `None` when the other side is gone.
pub(super) fn receive_with_descriptor(socket: &OwnedFd) -> io::Result<Option<(Zeroizing<Vec<u8>>, OwnedFd)>> {
    let mut length = [0_u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut length)];
        match recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let descriptor = descriptor
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a request came without its descriptor"))?;
    let mut stream = File::from(socket.try_clone()?);
    stream.read_exact(&mut length[received..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limits::SHIM_REQUEST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a request is too long"));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body)?;
    Ok(Some((body, descriptor)))
}

/// Paths and arguments need not be UTF-8: text where they are, else a list of bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Os {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&OsString> for Os {
    fn from(text: &OsString) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        match text.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(text.as_bytes().to_vec()),
        }
    }
}

impl From<Os> for OsString {
    fn from(os: Os) -> Self {
        use std::os::unix::ffi::OsStringExt as _;
        match os {
            Os::Text(text) => text.into(),
            Os::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

pub(super) mod os_string {
    use super::{Os, OsString};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(in crate::shim) fn serialize<S: Serializer>(value: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
        Os::from(value).serialize(serializer)
    }

    pub(in crate::shim) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OsString, D::Error> {
        Os::deserialize(deserializer).map(Into::into)
    }
}

pub(super) mod os_strings {
    use super::{Os, OsString};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::shim) fn serialize<S: Serializer>(values: &[OsString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Os::from))
    }

    pub(in crate::shim) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsString>, D::Error> {
        Ok(Vec::<Os>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
    }
}

pub(super) mod os_string_pairs {
    use super::{Os, OsString};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::shim) fn serialize<S: Serializer>(
        pairs: &[(OsString, OsString)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pairs.iter().map(|(name, value)| (Os::from(name), Os::from(value))))
    }

    pub(in crate::shim) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(OsString, OsString)>, D::Error> {
        let pairs = Vec::<(Os, Os)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    #[test]
    fn bytes_that_are_not_utf8_survive() {
        let odd = OsString::from_vec(vec![b'a', 0xff, b'"']);
        let request = StartRequest {
            attempt: AttemptId(uuid::Uuid::from_u128(1)),
            dir: odd.clone(),
            program: Program { argv: vec!["x y".into(), odd.clone()], env: vec![("A".into(), odd)], cwd: "/".into() },
            confinement: None,
            fence: None,
            time_limit_s: Some(1),
            grace_s: 2,
        };
        let json = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<StartRequest>(&json).unwrap(), request);
    }
}
