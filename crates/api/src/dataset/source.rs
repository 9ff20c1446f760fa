//! Where a data set comes from: the URL of one file, without a secret in it.

use url::Url;

/// Query parameters that give access. Compared in lower case, without `-` and `_`.
const SECRET_PARAMETERS: [&str; 17] = [
    "xamzsignature",
    "xamzcredential",
    "xamzsecuritytoken",
    "xgoogsignature",
    "xgoogcredential",
    "awsaccesskeyid",
    "signature",
    "sig",
    "token",
    "accesstoken",
    "authtoken",
    "auth",
    "apikey",
    "password",
    "passwd",
    "secret",
    "credential",
];

/// Checks a source and gives it in its normal form.
///
/// # Errors
/// Says in words what is wrong and what to do. Never repeats a secret.
pub fn check_source(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("contains white space or a control character; percent-encode it".into());
    }
    let url = Url::parse(text)
        .map_err(|error| format!("is not a URL ({error}); write https://HOST/PATH, s3://BUCKET/KEY or file:///PATH"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("carries a user name or password, which everyone could read; give a source that needs none, or \
                    have the worker's owner set the credentials on the worker"
            .into());
    }
    let secret = url.query_pairs().find(|(name, value)| is_secret(name, value)).map(|(name, _)| name.into_owned());
    if let Some(name) = secret {
        let name: String = name.chars().take(64).collect();
        return Err(format!(
            "carries a secret in the query parameter {name:?}, which everyone could read; give a source that needs \
             none, such as a file that the worker's owner allows"
        ));
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#...), which no server sees; leave it out".into());
    }
    match url.scheme() {
        "http" | "https" => {}
        "file" => check_file(&url)?,
        "s3" => check_object(&url)?,
        other => return Err(format!("has the scheme {other:?}; known are https, http, s3 and file")),
    }
    Ok(url.into())
}

fn is_secret(name: &str, value: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
    // A key is as often the name of a file.
    SECRET_PARAMETERS.contains(&plain.to_lowercase().as_str())
        || (plain.eq_ignore_ascii_case("key") && !value.contains(['.', '/']))
}

fn check_file(url: &Url) -> Result<(), String> {
    if url.host_str().is_some_and(|host| host != "localhost") {
        return Err("names a host; write file:///PATH, a file on the worker".into());
    }
    if url.query().is_some() {
        return Err("has a query, which a file cannot have; percent-encode ? as %3F".into());
    }
    if url.path().ends_with('/') {
        return Err("names a directory; pack it into a .tar and set unpack".into());
    }
    Ok(())
}

fn check_object(url: &Url) -> Result<(), String> {
    if url.port().is_some() || !url.host_str().is_some_and(is_bucket_name) {
        return Err("names no bucket; write s3://BUCKET/KEY, the bucket's name in lower case".into());
    }
    if url.query().is_some() {
        return Err("has a query, which an object cannot have; percent-encode ? as %3F".into());
    }
    if matches!(url.path(), "" | "/") || url.path().ends_with('/') {
        return Err("names no object; pack what is below it into a .tar and set unpack".into());
    }
    Ok(())
}

/// Whether a bucket can have this name.
pub fn is_bucket_name(name: &str) -> bool {
    let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len()) && bytes.iter().all(|&c| known(c)) && ends(bytes.first()) && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_are_no_single_public_file_are_refused() {
        for bad in [
            "",
            "x",
            "/data/x",
            "ftp://h/x",
            "gopher://h/x",
            "data:text/plain,x",
            "https://",
            "https://user@h/x",
            "https://user:pw@h/x",
            "https://h/x?X-Amz-Signature=abc",
            "https://h/x?access_token=abc",
            "https://h/x?a=1&sig=abc",
            "https://h/x?key=AIzaSyA1",
            "https://h/x#part",
            "https://h/a b",
            "https://h/\n",
            "file://nas/x",
            "file:///data/",
            "file:///x?y",
            "s3://b/x",
            "s3:///x",
            "s3://-ab/x",
            "s3://bucket/train/",
            "s3://Bucket/x",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket:9000/x",
            "s3://key:secret@bucket/x",
            "s3://bucket/x?versionId=1",
        ] {
            assert!(check_source(bad).is_err(), "{bad:?}");
        }
        for good in
            ["http://h/x", "https://h:8443/x?rev=3&key=train/x.csv", "file:///data/x.csv", "s3://lab-data/a%20b/x.csv"]
        {
            assert_eq!(check_source(good).unwrap(), good);
        }
        // What climbs is normalised away before it is kept.
        assert_eq!(check_source("file:///data/%2e%2e/../etc/x").unwrap(), "file:///etc/x");
    }
}
