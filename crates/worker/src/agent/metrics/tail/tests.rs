use super::*;
use fetchml_api::{AttemptId, metrics::batch_at};
use std::{fs, io::Write as _};

fn attempt() -> (tempfile::TempDir, AttemptDir) {
    let data = tempfile::tempdir().unwrap();
    let dir = AttemptDir::new(data.path(), AttemptId(uuid::Uuid::from_u128(7)));
    dir.create().unwrap();
    (data, dir)
}

fn append(dir: &AttemptDir, bytes: &[u8]) {
    File::options().create(true).append(true).open(dir.metrics()).unwrap().write_all(bytes).unwrap();
}

/// Bodies of all batches; panics on anything that is not a whole batch.
fn records(dir: &AttemptDir) -> Vec<String> {
    let stream = fs::read(dir.root().join(file_name(ByteStream::Metrics))).unwrap_or_default();
    let (mut at, mut all) = (0, Vec::new());
    while at < stream.len() {
        let (_, body) = batch_at(&stream[at..]).unwrap();
        all.extend(String::from_utf8_lossy(&stream[at..][body.clone()]).lines().map(str::to_owned));
        at += body.end;
    }
    all
}

#[test]
fn every_line_is_taken_once_wherever_the_agent_is_killed() {
    let (_data, dir) = attempt();
    let stream = dir.root().join(file_name(ByteStream::Metrics));
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let lines: Vec<String> = (0..600).map(|n| format!("{{\"step\":{n}}}{}", " ".repeat(next(90) as usize))).collect();
    let all = lines.join("\n");
    let (mut written, mut tail) = (0, Tail::open(&dir).unwrap());
    while written < all.len() {
        let end = all.len().min(written + 1 + next(400) as usize);
        append(&dir, &all.as_bytes()[written..end]);
        written = end;
        let before = tail.length();
        tail.advance(written as i64, false).unwrap();
        if next(3) == 0 {
            // A kill tears the last write anywhere.
            let torn = before + next(tail.length() - before + 1);
            drop(tail);
            if torn > 0 {
                File::options().write(true).open(&stream).unwrap().set_len(torn).unwrap();
            }
            tail = Tail::open(&dir).unwrap();
        }
    }
    tail.advance(0, true).unwrap();
    tail.advance(0, true).unwrap();
    let expected: Vec<String> = lines.iter().map(|line| format!("+{line}")).collect();
    assert_eq!(records(&dir), expected);
}

#[test]
fn long_lines_are_passed_over_and_counted() {
    let (_data, dir) = attempt();
    let mut tail = Tail::open(&dir).unwrap();
    let longest = "x".repeat(METRICS_LINE_BYTES);
    append(&dir, format!("a\n{longest}\n{longest}y\n\n").as_bytes());
    tail.advance(0, false).unwrap();
    // One that comes in pieces, with the agent killed in between.
    for _ in 0..4 {
        append(&dir, "z".repeat(300_000).as_bytes());
        tail.advance(0, false).unwrap();
        tail = Tail::open(&dir).unwrap();
    }
    append(&dir, b"!\nb\n");
    tail.advance(0, false).unwrap();
    append(&dir, "w".repeat(METRICS_LINE_BYTES + 1).as_bytes());
    tail.advance(0, false).unwrap();
    tail.advance(0, true).unwrap();
    let expected = ["+a".to_owned(), format!("+{longest}"), "-65537".into(), "+".into(), "-1200001".into()];
    assert_eq!(records(&dir), [&expected[..], &["+b".to_owned(), "-65537".to_owned()]].concat());
}

#[test]
fn a_file_that_is_begun_again_or_replaced_is_read_again() {
    let (_data, dir) = attempt();
    let mut tail = Tail::open(&dir).unwrap();
    append(&dir, b"first\nsecond\n");
    tail.advance(0, false).unwrap();
    fs::write(dir.metrics(), b"third\n").unwrap();
    tail.advance(0, false).unwrap();
    append(&dir, b"cut of");
    tail.advance(0, false).unwrap();
    append(&dir, b"f");
    fs::write(dir.metrics().with_extension("new"), b"fourth\n").unwrap();
    fs::rename(dir.metrics().with_extension("new"), dir.metrics()).unwrap();
    tail.advance(0, false).unwrap();
    drop(tail);
    // While no agent looked.
    fs::remove_file(dir.metrics()).unwrap();
    File::create(dir.root().join("takes the inode")).unwrap();
    append(&dir, b"fifth\n");
    Tail::open(&dir).unwrap().advance(0, true).unwrap();
    assert_eq!(records(&dir), ["+first", "+second", "+third", "+cut off", "+fourth", "+fifth"]);
}

#[test]
fn beyond_the_limit_bytes_are_counted_and_not_read() {
    let (_data, dir) = attempt();
    append(&dir, b"kept\n");
    let file = File::options().write(true).open(dir.metrics()).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut tail = Tail::open(&dir).unwrap();
    tail.advance(0, false).unwrap();
    let length = tail.length();
    assert!(length < METRICS_BYTES / 100, "of a line that is too long nothing is kept");
    for more in 1..1_000 {
        file.set_len((1 << 40) + more).unwrap();
        tail.advance(0, false).unwrap();
    }
    assert_eq!(tail.length(), length, "told again only when it is twice as much");
    tail.advance(0, true).unwrap();
    assert_eq!(Tail::open(&dir).unwrap().head.dropped, (1 << 40) + 999 - tail.head.next);
    assert_eq!(records(&dir), ["+kept"]);
}

#[test]
fn only_a_regular_file_is_read() {
    let (data, dir) = attempt();
    let secret = data.path().join("secret");
    fs::write(&secret, b"secret\n").unwrap();
    std::os::unix::fs::symlink(&secret, dir.metrics()).unwrap();
    let mut tail = Tail::open(&dir).unwrap();
    assert!(!tail.advance(0, true).unwrap());
    fs::remove_file(dir.metrics()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.metrics(), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(!tail.advance(0, true).unwrap());
    fs::remove_file(dir.metrics()).unwrap();
    fs::create_dir(dir.metrics()).unwrap();
    assert!(!tail.advance(0, true).unwrap());
    assert_eq!(records(&dir), Vec::<String>::new());
}

#[test]
fn samples_stand_between_the_lines() {
    let (_data, dir) = attempt();
    let mut tail = Tail::open(&dir).unwrap();
    tail.sample(5, &Sample::from([("cpu_percent".into(), 12.5)])).unwrap();
    append(&dir, b"{}\n");
    tail.advance(6, false).unwrap();
    let mut tail = Tail::open(&dir).unwrap();
    assert_eq!(tail.head.sampled, 22);
    tail.head.sampled = METRICS_SAMPLES_BYTES;
    tail.sample(7, &Sample::from([("cpu_percent".into(), 1.0)])).unwrap();
    assert_eq!(records(&dir), ["#{\"cpu_percent\":12.5}", "+{}"]);
}
