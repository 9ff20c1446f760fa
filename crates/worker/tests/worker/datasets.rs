//! Data sets from a real server that misbehaves: what comes out is whole, of one version and verified, or an error
//! that says what happened and whether another try may help.

use crate::{
    agent_peer::{DEADLINE, Peer, exited, script},
    file_server::{Asked, FileServer, Reply},
    rig::{new_attempt, until, until_exists},
};
use fetchml_api::{Dataset, FailureCause, link::Report};
use fetchml_worker::{
    Options, Worker,
    executor::AttemptDir,
    shim::Mount,
    staging::{DatasetRequest, DatasetSettings, Datasets, Patience, StageError, StagedDataset, StagedDatasets},
};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const BODY: &[u8] = b"sepal_length,sepal_width\n5.1,3.5\n4.9,3.0\n";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Long for what should come, short for what never does.
pub(crate) fn patience() -> Patience {
    let long = Duration::from_secs(30);
    Patience { connect: long, answer: long, idle: long, slow: long, retry: Duration::from_millis(5), tries: 3 }
}

pub(crate) fn settings() -> DatasetSettings {
    DatasetSettings {
        allowed_nets: vec!["127.0.0.0/8".parse().unwrap()],
        cache_bytes: Some(1 << 30),
        patience: patience(),
        ..DatasetSettings::default()
    }
}

pub(crate) fn dataset(name: &str, source: &str) -> Dataset {
    Dataset { name: name.into(), source: source.into(), sha256: None, mount_path: None, unpack: false }
}

pub(crate) fn declared(name: &str, source: &str, bytes: &[u8]) -> Dataset {
    Dataset { sha256: Some(sha256(bytes)), ..dataset(name, source) }
}

pub(crate) struct Rig {
    data: TempDir,
    datasets: Datasets,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: DatasetSettings) -> Self {
        let data = TempDir::new().unwrap();
        let datasets = Datasets::open(data.path(), settings).unwrap();
        Self { data, datasets }
    }

    /// As after a restart of the agent.
    fn restart(self) -> Self {
        let Self { data, datasets } = self;
        drop(datasets);
        let datasets = Datasets::open(data.path(), settings()).unwrap();
        Self { data, datasets }
    }

    fn attempt(&self) -> AttemptDir {
        let dir = AttemptDir::new(self.data.path(), new_attempt());
        dir.create().unwrap();
        dir
    }

    async fn stage_in(&self, dir: &AttemptDir, set: Dataset) -> Result<StagedDatasets, StageError> {
        let cancel = CancellationToken::new();
        let request = DatasetRequest { datasets: &[set], dir, remaps: false, cancel: &cancel };
        self.datasets.stage(request).await
    }

    async fn stage(&self, set: Dataset) -> Result<StagedDatasets, StageError> {
        self.stage_in(&self.attempt(), set).await
    }

    /// Bytes and log of a task that has this data set.
    pub(crate) async fn read(&self, set: Dataset) -> (Vec<u8>, String) {
        let (dir, name) = (self.attempt(), set.name.clone());
        let _staged = self.stage_in(&dir, set).await.unwrap();
        (fs::read(dir.datasets().join(name)).unwrap(), log(&dir))
    }

    async fn fails(&self, set: Dataset) -> StageError {
        let error = self.stage(set).await.expect_err("it fails");
        assert_eq!(error.cause, FailureCause::Dataset);
        error
    }

    pub(crate) async fn fails_for_good(&self, set: Dataset, why: &str) {
        let error = self.fails(set).await;
        assert!(!error.transient, "{error}");
        assert!(error.message.contains(why), "{why}: {error}");
    }

    pub(crate) async fn fails_for_now(&self, set: Dataset, why: &str) {
        let error = self.fails(set).await;
        assert!(error.transient, "{error}");
        assert!(error.message.contains(why), "{why}: {error}");
    }

    pub(crate) fn cached(&self, form: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data.path().join("datasets").join(form)).unwrap().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_none()).collect()
    }
}

fn log(dir: &AttemptDir) -> String {
    fs::read_to_string(dir.log()).unwrap_or_default()
}

#[tokio::test]
async fn one_is_fetched_once_verified_and_noted() {
    let server = FileServer::of(BODY).await;
    let rig = Rig::new();
    let dir = rig.attempt();
    let set = declared("iris.csv", &server.url("iris"), BODY);
    let staged = rig.stage_in(&dir, set.clone()).await.unwrap();
    let path = dir.datasets().join("iris.csv");
    assert_eq!(fs::read(&path).unwrap(), BODY);
    let cached = rig.cached("sha256");
    assert_eq!(cached[0].file_name().unwrap().to_str(), set.sha256.as_deref());
    assert_eq!(staged.mounts, [Mount::read_only(dir.datasets()), Mount::read_only(&cached[0])]);
    let noted: Vec<StagedDataset> = serde_json::from_slice(&fs::read(dir.datasets_file()).unwrap()).unwrap();
    assert_eq!(noted, staged.datasets);
    assert_eq!((noted[0].sha256.to_string(), noted[0].size_bytes), (sha256(BODY), BODY.len() as u64));
    assert_eq!((&noted[0].source, &noted[0].mount_path), (&set.source, &path));
    assert!(log(&dir).contains(&format!("fetchml: data set iris.csv: from {}", set.source)), "{}", log(&dir));
    assert!(log(&dir).contains(&sha256(BODY)), "{}", log(&dir));
    drop(staged);

    let rig = rig.restart();
    // By its hash it is known anywhere.
    let (bytes, log) = rig.read(declared("other", "http://127.0.0.1:9/gone", BODY)).await;
    assert_eq!((bytes.as_slice(), server.asked().len()), (BODY, 1));
    assert!(log.contains("at hand"), "{log}");
    assert_eq!(rig.datasets.held()[0].to_string(), sha256(BODY));
}

#[tokio::test]
async fn two_tasks_with_one_hash_download_once() {
    let gate = Arc::new(Notify::new());
    let wait = Arc::clone(&gate);
    let server = FileServer::start(move |asked| Reply {
        wait_at: Some((10, Arc::clone(&wait))),
        ..Reply::file(asked, BODY, "\"v1\"")
    })
    .await;
    let rig = Rig::new();
    let (first, second) = (rig.attempt(), rig.attempt());
    let set = declared("iris", &server.url("iris"), BODY);
    let opened = async {
        until("the second waits", || log(&second).contains("waiting for the download").then_some(())).await;
        gate.notify_one();
    };
    let (one, two, ()) = tokio::join!(rig.stage_in(&first, set.clone()), rig.stage_in(&second, set), opened);
    let logs = format!("{}---\n{}", log(&first), log(&second));
    assert_eq!(one.expect(&logs).datasets[0].sha256, two.expect(&logs).datasets[0].sha256);
    assert_eq!(server.asked().len(), 1);
    for dir in [first, second] {
        assert_eq!(fs::read(dir.datasets().join("iris")).unwrap(), BODY);
    }
}

#[tokio::test]
async fn who_waits_goes_on_when_the_first_gives_up() {
    let server = FileServer::start(|asked| match asked.number {
        0 => Reply::file(asked, BODY, "\"v1\"").hang_at(10),
        _ => Reply::file(asked, BODY, "\"v1\""),
    })
    .await;
    let rig = Rig::new();
    let (first, second) = (rig.attempt(), rig.attempt());
    let sets = [declared("iris", &server.url("iris"), BODY)];
    let cancel = CancellationToken::new();
    let stuck = rig.datasets.stage(DatasetRequest { datasets: &sets, dir: &first, remaps: false, cancel: &cancel });
    let partial = rig.data.path().join("datasets/partial").join(sha256(BODY));
    let stop = async {
        until("some bytes came and another waits", || {
            let came = fs::metadata(&partial).is_ok_and(|partial| partial.len() == 10);
            (came && log(&second).contains("waiting")).then_some(())
        })
        .await;
        cancel.cancel();
    };
    let (stopped, staged, ()) = tokio::join!(stuck, rig.stage_in(&second, sets[0].clone()), stop);
    assert_eq!(stopped.err().unwrap().cause, FailureCause::Cancelled);
    assert_eq!(staged.unwrap().datasets[0].size_bytes, BODY.len() as u64);
    assert_eq!(server.asked()[1].from, Some(10), "it goes on where the first was");
    assert_eq!(fs::read(second.datasets().join("iris")).unwrap(), BODY);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let server = FileServer::start(|asked| match asked.number {
        0 => Reply::file(asked, BODY, "\"v1\"").cut_at(7),
        1 => Reply::status(503),
        2 => Reply::file(asked, BODY, "\"v1\"").cut_at(5),
        _ => Reply::file(asked, BODY, "\"v1\""),
    })
    .await;
    let rig = Rig::new();
    for set in [declared("iris", &server.url("a"), BODY), dataset("other", &server.url("b"))] {
        let before = server.asked().len();
        let (bytes, log) = rig.read(set.clone()).await;
        assert_eq!(bytes, BODY);
        if before == 0 {
            let asked = server.asked();
            let at = |n: usize| (asked[n].from, asked[n].if_range.as_deref());
            assert_eq!(
                [at(0), at(1), at(2), at(3)],
                [(None, None), (Some(7), Some("\"v1\"")), (Some(7), Some("\"v1\"")), (Some(12), Some("\"v1\""))]
            );
            assert!(log.contains("going on at 7 B"), "{log}");
        }
    }
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart_of_the_agent() {
    let broken = Arc::new(AtomicUsize::new(1));
    let is_broken = Arc::clone(&broken);
    let server = FileServer::start(move |asked| {
        let reply = Reply::file(asked, BODY, "\"v1\"");
        if is_broken.load(Ordering::Relaxed) == 1 {
            reply.cut_at(9.min(BODY.len() - asked.from.unwrap_or(0)))
        } else {
            reply
        }
    })
    .await;
    for set in [declared("a", &server.url("a"), BODY), dataset("b", &server.url("b"))] {
        broken.store(1, Ordering::Relaxed);
        let rig = Rig::with(DatasetSettings { patience: Patience { tries: 0, ..patience() }, ..settings() });
        rig.fails_for_now(set.clone(), "connection").await;
        let partial = rig.cached("partial").remove(0);
        until("what came is written", || (fs::metadata(&partial).unwrap().len() == 9).then_some(())).await;
        broken.store(0, Ordering::Relaxed);
        let rig = rig.restart();
        assert_eq!(rig.read(set).await.0, BODY);
        assert_eq!(server.asked().last().unwrap().from, Some(9));
        assert_eq!(rig.cached("partial"), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(rig.data.path().join("datasets/partial")).unwrap().count(), 0, "its label is gone too");
    }
}

const OTHER: &[u8] = b"another version altogether, and longer than the first one was";

#[tokio::test]
async fn a_version_that_changes_on_the_way_is_never_mixed() {
    type Answer = fn(&Asked) -> Reply;
    let changing: [(&str, Answer); 3] = [
        ("by If-Range", |asked| match asked.number {
            0 => Reply::file(asked, BODY, "\"v1\"").cut_at(7),
            _ => Reply::file(asked, OTHER, "\"v2\""),
        }),
        ("although the server passes over If-Range", |asked| match (asked.number, asked.from) {
            (0, _) => Reply::file(asked, BODY, "\"v1\"").cut_at(7),
            (_, Some(from)) => Reply::rest(OTHER, from, "\"v2\""),
            (_, None) => Reply::ok(OTHER).with("ETag", "\"v2\""),
        }),
        ("and is shorter now", |asked| match (asked.number, asked.from) {
            (0, _) => Reply::file(asked, &[b'x'; 500], "\"v1\"").cut_at(300),
            (_, Some(_)) => Reply::status(416),
            (_, None) => Reply::ok(OTHER).with("ETag", "\"v2\""),
        }),
    ];
    for (what, answer) in changing {
        let server = FileServer::start(answer).await;
        let rig = Rig::new();
        let (bytes, log) = rig.read(dataset("x", &server.url("x"))).await;
        assert_eq!(bytes, OTHER, "{what}");
        assert!(log.contains("changed at its source while it was downloaded; starting over"), "{what}: {log}");

        let server = FileServer::start(answer).await;
        let rig = Rig::new();
        rig.fails_for_good(declared("x", &server.url("x"), BODY), "as declared").await;
        assert_eq!(rig.cached("sha256"), Vec::<PathBuf>::new(), "{what}");
    }
}

#[tokio::test]
async fn a_source_that_never_stops_changing_is_not_taken() {
    let server =
        FileServer::start(|asked| Reply::ok(BODY).with("ETag", format!("\"{}\"", asked.number)).cut_at(7)).await;
    let rig = Rig::with(DatasetSettings { patience: Patience { tries: 50, ..patience() }, ..settings() });
    rig.fails_for_now(dataset("x", &server.url("x")), "changes at its source while it is downloaded").await;
}

#[tokio::test]
async fn without_a_validator_it_starts_over_and_stays_right() {
    let server = FileServer::start(|asked| match asked.number {
        0 => Reply::ok(BODY).cut_at(7),
        _ => Reply { no_length: true, ..Reply::ok(BODY) },
    })
    .await;
    let rig = Rig::new();
    let (bytes, log) = rig.read(declared("x", &server.url("x"), BODY)).await;
    assert_eq!((bytes.as_slice(), server.asked()[1].from), (BODY, None));
    assert!(log.contains("cannot go on in the middle"), "{log}");
}

#[tokio::test]
async fn wrong_bytes_are_refused_for_good_and_not_kept() {
    let server = FileServer::of(OTHER).await;
    let rig = Rig::new();
    rig.fails_for_good(declared("x", &server.url("x"), BODY), &sha256(OTHER)).await;
    for form in ["sha256", "partial", "new"] {
        assert_eq!(rig.cached(form), Vec::<PathBuf>::new(), "{form}");
    }
}

/// The pieces fit by all the server says, but not together.
#[tokio::test]
async fn pieces_of_a_server_that_lies_are_told_by_the_hash() {
    let server = FileServer::start(|asked| match (asked.number, asked.from) {
        (0, _) => Reply::file(asked, BODY, "\"v1\"").cut_at(7),
        (_, Some(from)) => Reply::rest(&OTHER[..BODY.len()], from, "\"v1\""),
        (_, None) => Reply::ok(BODY).with("ETag", "\"v1\""),
    })
    .await;
    let rig = Rig::new();
    let set = declared("x", &server.url("x"), BODY);
    rig.fails_for_now(set.clone(), "in several pieces").await;
    assert_eq!(rig.read(set).await.0, BODY, "the next try begins anew");
}

#[tokio::test]
async fn answers_without_the_file_are_definite_or_not() {
    let rig = Rig::new();
    for (status, why) in [
        (404, "no such file"),
        (410, "no such file"),
        (401, "credentials"),
        (403, "credentials"),
        (418, "418"),
        (204, "204"),
        (206, "206"),
    ] {
        let server = FileServer::start(move |_| Reply::status(status)).await;
        rig.fails_for_good(declared("x", &server.url("x"), BODY), why).await;
        rig.fails_for_good(dataset("x", &server.url("x")), why).await;
        assert_eq!(server.asked().len(), 2, "{status} is not asked again");
    }
    for status in [500, 502, 503, 429, 408] {
        let server = FileServer::start(move |_| Reply::status(status)).await;
        rig.fails_for_now(declared("x", &server.url("x"), BODY), &status.to_string()).await;
        assert_eq!(server.asked().len(), 4, "{status} is asked again, but not for ever");
    }
    rig.fails_for_now(dataset("x", "http://127.0.0.1:9/x"), "cannot connect").await;
    rig.fails_for_now(dataset("x", "http://nowhere.invalid/x"), "cannot connect").await;
    let packed = FileServer::start(|_| Reply::ok(BODY).with("Content-Encoding", "gzip")).await;
    rig.fails_for_good(dataset("x", &packed.url("x")), "packed").await;
}

#[tokio::test]
async fn redirects_are_followed_and_each_is_checked() {
    let rig = Rig::new();
    let server = FileServer::start(|asked| match asked.path.as_str() {
        "/a" => Reply::redirect("b"),
        "/b" => Reply::status(307).with("Location", "/c?x=1"),
        _ => Reply::file(asked, BODY, "\"v1\""),
    })
    .await;
    assert_eq!(rig.read(declared("x", &server.url("a"), BODY)).await.0, BODY);
    let rig = Rig::new();
    for (to, why) in [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not a public address"),
        ("http://[::ffff:169.254.169.254]/", "169.254.169.254 is not a public address"),
        ("http://[fd00:ec2::254]/", "fd00:ec2::254 is not a public address"),
        ("http://10.0.0.1/", "10.0.0.1 is not a public address"),
        ("file:///etc/passwd", "only http and https"),
        ("ftp://127.0.0.1/x", "only http and https"),
        ("http://user:pw@127.0.0.1/", "password"),
        ("http://", "nowhere"),
        ("a", "more than 5 times"),
    ] {
        let server = FileServer::start(move |_| Reply::redirect(to)).await;
        rig.fails_for_good(dataset("x", &server.url("a")), why).await;
        rig.fails_for_good(declared("x", &server.url("a"), BODY), why).await;
    }
}

/// Whatever its name: nothing of the worker's own surroundings is asked unless its owner allows it.
#[tokio::test]
async fn loopback_is_refused_unless_it_is_allowed() {
    let server = FileServer::of(BODY).await;
    let port = server.port;
    let closed = Rig::with(DatasetSettings { allowed_nets: Vec::new(), ..settings() });
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
    ] {
        let source = fetchml_api::dataset::check_source(&format!("http://{host}:{port}/x")).unwrap();
        closed.fails_for_good(dataset("x", &source), "is not a public address").await;
    }
    assert_eq!(server.asked(), [], "nobody was asked");
    let open = Rig::with(DatasetSettings {
        allowed_nets: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..settings()
    });
    for host in ["127.0.0.1", "localhost", "2130706433"] {
        let source = fetchml_api::dataset::check_source(&format!("http://{host}:{port}/{host}")).unwrap();
        assert_eq!(open.read(dataset("x", &source)).await.0, BODY, "{host}");
    }
}

#[tokio::test]
async fn a_source_that_is_stuck_or_drips_is_given_up() {
    let short = Duration::from_millis(100);
    let rig = |patience: Patience| Rig::with(DatasetSettings { patience, ..settings() });
    let hanging = FileServer::start(|asked| Reply::file(asked, BODY, "\"v1\"").hang_at(0)).await;
    rig(Patience { idle: short, tries: 1, ..patience() })
        .fails_for_now(declared("x", &hanging.url("x"), BODY), "sends nothing any more")
        .await;
    let dripping = FileServer::start(|asked| Reply {
        drip: Some(Duration::from_millis(20)),
        ..Reply::file(asked, BODY, "\"v1\"")
    })
    .await;
    rig(Patience { slow: short, tries: 0, ..patience() })
        .fails_for_now(declared("x", &dripping.url("x"), BODY), "too slow")
        .await;
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    rig(Patience { answer: short, tries: 0, ..patience() })
        .fails_for_now(declared("x", &url, BODY), "did not answer in time")
        .await;
}

#[tokio::test]
async fn who_is_cancelled_does_not_wait_for_the_source() {
    let server = FileServer::start(|asked| Reply::file(asked, BODY, "\"v1\"").hang_at(3)).await;
    let rig = Rig::new();
    let (dir, cancel) = (rig.attempt(), CancellationToken::new());
    let sets = [declared("x", &server.url("x"), BODY)];
    let staging = rig.datasets.stage(DatasetRequest { datasets: &sets, dir: &dir, remaps: false, cancel: &cancel });
    let stop = async {
        until("it is asked", || (!server.asked().is_empty()).then_some(())).await;
        cancel.cancel();
        Instant::now()
    };
    let (staged, at) = tokio::join!(staging, stop);
    assert_eq!(staged.err().unwrap().cause, FailureCause::Cancelled);
    assert!(at.elapsed() < patience().idle);
}

#[tokio::test]
async fn without_a_hash_the_source_is_asked_and_an_unchanged_file_is_not_sent_again() {
    let version = Arc::new(AtomicUsize::new(1));
    let now = Arc::clone(&version);
    let server = FileServer::start(move |asked| match now.load(Ordering::Relaxed) {
        1 => Reply::file(asked, BODY, "\"v1\""),
        // The same version, but its bytes cannot be had any more.
        2 => Reply::file(asked, BODY, "\"v1\"").cut_at(0),
        _ => Reply::file(asked, OTHER, "\"v3\""),
    })
    .await;
    let rig = Rig::new();
    let set = dataset("x", &server.url("x"));
    assert_eq!(rig.read(set.clone()).await.0, BODY);
    assert!(rig.datasets.held().contains(&set.key()), "{:?}", rig.datasets.held());
    version.store(2, Ordering::Relaxed);
    let rig = rig.restart();
    let (bytes, log) = rig.read(set.clone()).await;
    assert_eq!(bytes, BODY);
    assert!(log.contains("unchanged at its source"), "{log}");
    version.store(3, Ordering::Relaxed);
    assert_eq!(rig.read(set).await.0, OTHER);
    assert_eq!(rig.cached("sha256").len(), 2);
}

#[tokio::test]
async fn what_a_task_uses_stays_and_what_nobody_uses_makes_room() {
    let rig = Rig::with(DatasetSettings { cache_bytes: Some(100), ..settings() });
    let server = FileServer::start(|asked| Reply::file(asked, asked.path.repeat(20).as_bytes(), "\"v1\"")).await;
    let set = |name: &str| declared(name, &server.url(name), format!("/{name}").repeat(20).as_bytes());
    let dir = rig.attempt();
    let first = rig.stage_in(&dir, set("aa")).await.unwrap();
    rig.fails_for_now(set("bb"), "in use by tasks").await;
    rig.fails_for_now(set("far-too-long"), "--dataset-cache").await;
    // Another agent takes the task up.
    drop(first);
    let kept = rig.datasets.keep(&dir);
    assert_eq!(kept.datasets[0].name, "aa");
    rig.fails_for_now(set("bb"), "in use by tasks").await;
    drop(kept);
    drop(rig.stage(set("bb")).await.unwrap());
    assert_eq!(rig.datasets.held(), [set("bb").key()]);
    rig.datasets.shed(|| false);
    assert_eq!(rig.datasets.held(), [set("bb").key()], "the disk is not short");
    let used = rig.stage_in(&rig.attempt(), set("bb")).await.unwrap();
    rig.datasets.shed(|| true);
    assert_eq!(rig.datasets.held(), [set("bb").key()], "a task uses it");
    drop(used);
    rig.datasets.shed(|| !rig.datasets.held().is_empty());
    assert_eq!(rig.datasets.held(), []);
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for name in ["train/a.csv", "train/b.csv", "README"] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(name.len() as u64);
        builder.append_data(&mut header, name, name.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn an_archive_is_unpacked_once_and_its_tree_is_kept() {
    let bytes = archive();
    let served = bytes.clone();
    let server = FileServer::start(move |asked| Reply::file(asked, &served, "\"v1\"")).await;
    let rig = Rig::new();
    let packed = |sha256: Option<String>| Dataset { unpack: true, sha256, ..dataset("set", &server.url("x")) };
    for (n, sha256) in [Some(sha256(&bytes)), Some(sha256(&bytes)), None, None].into_iter().enumerate() {
        let dir = rig.attempt();
        let staged = rig.stage_in(&dir, packed(sha256)).await.unwrap();
        let root = dir.datasets().join("set");
        assert_eq!(fs::read_to_string(root.join("train/b.csv")).unwrap(), "train/b.csv");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
        let noted = &staged.datasets[0];
        assert!(noted.unpack && noted.sha256.to_string() == self::sha256(&bytes) && noted.size_bytes > 0);
        assert_eq!(log(&dir).contains("unpacking"), n == 0, "{n}: {}", log(&dir));
    }
    assert_eq!((rig.cached("unpacked").len(), rig.cached("sha256").len()), (1, 1));
    let server = FileServer::of(BODY).await;
    let text = Dataset { unpack: true, ..dataset("text", &server.url("x")) };
    rig.fails_for_good(text, "no whole tar, tar.gz or zip").await;
    assert_eq!(rig.cached("new"), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn places_that_this_worker_cannot_show_are_refused() {
    let server = FileServer::of(BODY).await;
    let rig = Rig::new();
    let at = |path: &Path| Dataset {
        mount_path: Some(path.to_str().unwrap().into()),
        ..declared("x", &server.url("x"), BODY)
    };
    rig.fails_for_good(at(Path::new("/data/x")), "leave it out and read $FETCHML_DATASET_DIR/x").await;
    let (dir, cancel) = (rig.attempt(), CancellationToken::new());
    let inside = dir.work().join("x");
    let stage = async |set: Dataset| {
        rig.datasets.stage(DatasetRequest { datasets: &[set], dir: &dir, remaps: true, cancel: &cancel }).await
    };
    for hides in [rig.data.path(), rig.data.path().parent().unwrap(), inside.as_path()] {
        let error = stage(at(hides)).await.err().unwrap();
        assert!(!error.transient && error.message.contains("hide the worker's own"), "{error}");
    }
    let staged = stage(at(Path::new("/data/x"))).await.unwrap();
    let cached = rig.cached("sha256").remove(0);
    assert_eq!(staged.mounts, [Mount::read_only(cached).at("/data/x")]);
    assert!(!dir.datasets().exists());
}

#[tokio::test]
async fn files_of_the_worker_are_copied_from_where_its_owner_allows() {
    let files = TempDir::new().unwrap();
    fs::write(files.path().join("iris.csv"), BODY).unwrap();
    let rig = Rig::with(DatasetSettings { directories: vec![files.path().to_owned()], ..settings() });
    let source = format!("file://{}/iris.csv", files.path().display());
    assert_eq!(rig.read(dataset("iris", &source)).await.0, BODY);
    let (_, log) = rig.read(dataset("iris", &source)).await;
    assert!(log.contains("unchanged at its source"), "{log}");
    fs::write(files.path().join("iris.csv"), OTHER).unwrap();
    assert_eq!(rig.read(dataset("iris", &source)).await.0, OTHER);
    rig.fails_for_good(dataset("x", "file:///etc/passwd"), "--dataset-dir").await;
    Rig::new().fails_for_good(dataset("iris", &source), "takes no files of its own machine").await;
}

/// Through the agent: prepared before it runs, told to the server, kept for a task that outlives its agent.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_brings_them_tells_of_them_and_takes_them_up_again() {
    let server = FileServer::of(BODY).await;
    let data = TempDir::new().unwrap();
    let mut peer = Peer::start().await;
    let small = || DatasetSettings { cache_bytes: Some(BODY.len() as u64 + 1), ..settings() };
    let options = Options { datasets: small(), ..peer.options(data.path()) };
    let worker = Worker::start(options.clone()).await.unwrap();
    let mut session = peer.welcomed().await;
    assert!(session.hello.datasets.is_empty());
    let go = data.path().join("go");
    let wait = format!("while ! test -e {}; do sleep 0.02; done", go.display());
    let mut reader = script(&format!("cat $FETCHML_DATASET_DIR/iris && {wait} && cat $FETCHML_DATASET_DIR/iris"));
    reader.spec.datasets = vec![declared("iris", &server.url("x"), BODY)];
    session.assign(&reader).await;
    session.expect(reader.attempt, Report::Accepted).await;
    session.expect(reader.attempt, Report::Running).await;
    let key = reader.spec.datasets[0].key();
    session.until("what is held is told", |session| session.datasets == [key]).await;
    drop(session);
    tokio::time::timeout(DEADLINE, worker.shutdown(false)).await.unwrap();

    let _worker = Worker::start(options).await.unwrap();
    let mut session = peer.welcomed().await;
    assert_eq!(session.hello.datasets, [key]);
    // There is no room beside what the first one uses, though its agent is another.
    let mut other = script("true");
    other.spec.datasets = vec![declared("other", &server.url("y"), OTHER)];
    session.assign(&other).await;
    let outcome = session.ended(other.attempt).await;
    assert_eq!((outcome.cause, outcome.transient), (Some(FailureCause::Dataset), true), "{outcome:?}");
    fs::write(&go, "").unwrap();
    until_exists(&go).await;
    let outcome = session.ended(reader.attempt).await;
    assert_eq!(exited(&outcome), (None, Some(0)), "{outcome:?}");
    let log = String::from_utf8_lossy(&session.logs[&reader.attempt]).into_owned();
    assert!(log.ends_with(&String::from_utf8_lossy(BODY).repeat(2)), "{log}");

    let mut wrong = script("true");
    wrong.spec.datasets = vec![declared("iris", &server.url("x"), b"x")];
    session.assign(&wrong).await;
    let outcome = session.ended(wrong.attempt).await;
    assert_eq!((outcome.cause, outcome.transient), (Some(FailureCause::Dataset), false), "{outcome:?}");
    assert!(outcome.error.unwrap().contains("data set iris: its bytes have SHA-256"));
}
