//! What a store that speaks S3 does with a request: it checks the signature as the protocol says, and answers a GET
//! or HEAD of an object, in part when that is asked for.

use crate::file_server::{Asked, Reply};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

pub(crate) const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// The answer for an object with these bytes and tag.
pub(crate) fn object(asked: &Asked, body: &[u8], etag: &str) -> Reply {
    if !is_signed(asked) {
        return error(403, "SignatureDoesNotMatch");
    }
    if asked.header("if-match").is_some_and(|wanted| wanted != etag) {
        return error(412, "PreconditionFailed");
    }
    let reply = match asked.from {
        Some(from) if from >= body.len() => return error(416, "InvalidRange"),
        Some(from) => Reply::rest(body, from, etag),
        None => Reply::ok(body).with("ETag", etag),
    };
    reply.with("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT")
}

/// A refusal in the protocol's form.
pub(crate) fn error(status: u16, code: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    Reply { status, body: body.into_bytes(), ..Reply::default() }
}

/// Whether the request carries the signature (version 4) that the secret key makes of it.
fn is_signed(asked: &Asked) -> bool {
    signature(asked).is_some_and(|(said, right)| said == right)
}

/// The signature that was sent, and the right one.
fn signature(asked: &Asked) -> Option<(String, String)> {
    let authorization = asked.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?.to_owned();
    let part = |name: &str| {
        let parts = authorization.split(',').map(str::trim);
        parts.filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let (credential, signed, said) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let (access_key, scope) = credential.split_once('/')?;
    let [day, region, service, end] = scope.split('/').collect::<Vec<_>>().try_into().ok()?;
    if access_key != ACCESS_KEY || service != "s3" || end != "aws4_request" || !signed.contains("host") {
        return None;
    }
    let mut canonical = format!("{}\n{}\n\n", asked.method(), asked.path);
    for name in signed.split(';') {
        let _ = writeln!(canonical, "{name}:{}", asked.header(name)?.trim());
    }
    let _ = write!(canonical, "\n{signed}\n{}", asked.header("x-amz-content-sha256")?);
    let time = asked.header("x-amz-date")?;
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let secret = format!("AWS4{SECRET_KEY}").into_bytes();
    let key = [day, region, service, end].iter().fold(secret, |key, text| hmac(&key, text.as_bytes()));
    Some((said, hex::encode(hmac(&key, to_sign.as_bytes()))))
}

/// HMAC-SHA256 with a key of at most 64 bytes.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}
