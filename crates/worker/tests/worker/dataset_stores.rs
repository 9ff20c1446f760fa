//! Data sets from a store that speaks S3: signed, of one version, and only from buckets that the worker's owner allows.

use crate::{
    datasets::{Rig, dataset, declared, patience, settings},
    file_server::{Asked, FileServer, Reply},
    s3_server::{ACCESS_KEY, SECRET_KEY, error, object},
};
use fetchml_worker::staging::{DatasetSettings, Patience, StoreSettings};
use std::path::PathBuf;

const BODY: &[u8] = b"sepal_length,sepal_width\n5.1,3.5\n4.9,3.0\n";
const OTHER: &[u8] = b"another version";

async fn store(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> (FileServer, DatasetSettings) {
    let server = FileServer::start(answer).await;
    let settings = DatasetSettings {
        // A store is not asked by its address, but as its owner says.
        allowed_nets: Vec::new(),
        stores: StoreSettings {
            allowed: vec!["s3://lab-data/train".parse().unwrap(), "s3://open".parse().unwrap()],
            variables: [
                ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port)),
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
                ("AWS_PROFILE", "passed over".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
        },
        ..settings()
    };
    (server, settings)
}

#[tokio::test]
async fn an_object_is_read_once_with_the_workers_credentials() {
    let (server, settings) = store(|asked| object(asked, BODY, "\"v1\"")).await;
    let rig = Rig::with(settings.clone());
    let set = declared("iris", "s3://lab-data/train/iris%201.csv", BODY);
    for _ in 0..2 {
        assert_eq!(rig.read(set.clone()).await.0, BODY);
    }
    assert_eq!(server.asked().len(), 1);
    assert_eq!(server.asked()[0].path, "/lab-data/train/iris%201.csv");
    // Without a hash it is asked each time, and an unchanged one is not kept twice.
    let open = dataset("open", "s3://open/a/b");
    assert_eq!(rig.read(open.clone()).await.0, BODY);
    let (bytes, log) = rig.read(open).await;
    assert_eq!(bytes, BODY);
    assert!(log.contains("unchanged at its source"), "{log}");
    assert_eq!(rig.cached("sha256").len(), 1);
    assert!(!format!("{settings:?}").contains(SECRET_KEY));
}

#[tokio::test]
async fn what_the_owner_does_not_allow_is_not_asked() {
    let (server, settings) = store(|asked| object(asked, BODY, "\"v1\"")).await;
    let rig = Rig::with(settings);
    for source in ["s3://others/x", "s3://lab-data/x", "s3://lab-data/training/x", "s3://lab-data/train/../x"] {
        rig.fails_for_good(dataset("x", source), "no bucket that the worker's owner allows").await;
    }
    for source in ["s3://open/a//b", "s3://open/a/%2e%2e%2f%2e%2e/x"] {
        rig.fails_for_good(dataset("x", source), "no object that can be read").await;
    }
    Rig::new().fails_for_good(dataset("x", "s3://open/x"), "--dataset-store s3://BUCKET").await;
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn a_broken_read_goes_on_where_it_broke_and_a_changed_object_is_begun_anew() {
    let (server, settings) = store(|asked| match asked.number {
        0 => object(asked, BODY, "\"v1\"").cut_at(7),
        1 => error(503, "SlowDown"),
        _ => object(asked, BODY, "\"v1\""),
    })
    .await;
    let (bytes, log) = Rig::with(settings).read(declared("iris", "s3://open/iris", BODY)).await;
    assert_eq!(bytes, BODY);
    let asked = server.asked();
    let asked: Vec<_> = asked.iter().map(|asked| (asked.method(), asked.from)).collect();
    // After the refusal it looks whether the version is still the same.
    assert_eq!(asked, [("GET", None), ("GET", Some(7)), ("HEAD", None), ("GET", Some(7))]);
    assert!(log.contains("going on at 7 B"), "{log}");

    for is_strict in [true, false] {
        let (_server, settings) = store(move |asked| match (asked.number, asked.from) {
            (0, _) => object(asked, &[b'x'; 500], "\"v1\"").cut_at(300),
            // It passes over If-Match, and has less than was asked for.
            (_, Some(_)) if !is_strict => error(416, "InvalidRange"),
            _ => object(asked, OTHER, "\"v2\""),
        })
        .await;
        let (bytes, log) = Rig::with(settings).read(dataset("x", "s3://open/x")).await;
        assert_eq!(bytes, OTHER);
        assert!(log.contains("changed at its source while it was downloaded; starting over"), "{log}");
    }
}

#[tokio::test]
async fn a_store_that_refuses_says_why_and_keeps_nothing() {
    for (status, code, said) in [(404, "NoSuchKey", "no such object"), (403, "AccessDenied", "credentials")] {
        let (_server, settings) = store(move |_| error(status, code)).await;
        let rig = Rig::with(settings);
        rig.fails_for_good(declared("x", "s3://open/x", BODY), said).await;
        assert_eq!(rig.cached("sha256"), Vec::<PathBuf>::new());
    }
    let (_server, mut settings) = store(|asked| object(asked, BODY, "\"v1\"")).await;
    settings.stores.variables[2].1 = "wrong".to_owned();
    Rig::with(settings).fails_for_good(declared("x", "s3://open/x", BODY), "refuses this worker's credentials").await;
    let (_server, settings) = store(|_| error(500, "InternalError")).await;
    let settings = DatasetSettings { patience: Patience { tries: 1, ..patience() }, ..settings };
    Rig::with(settings).fails_for_now(declared("x", "s3://open/x", BODY), "500").await;
}
