//! How fast a data set is verified: SHA-256 of a 10 GiB file as a worker takes it, beside `openssl dgst -sha256` of the
//! same file in the same run, in turns.

use crate::{
    Setup, log,
    report::{Report, Target},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    time::Instant,
};

const BYTES: u64 = 10 << 30;
const BLOCK_BYTES: usize = 1 << 20;
/// Turns of which the best counts: the first reads what the disk has not written yet.
const TURNS: usize = 3;
const MIB: f64 = 1_048_576.0;
/// Target for our rate over that of openssl.
const OF_OPENSSL: f64 = 0.8;

pub(crate) fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let disk = rustix::fs::statvfs(&setup.dir)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < BYTES + BYTES / 4 {
        bail!("{} has {} MiB free; a file of {} MiB is needed", setup.dir.display(), free >> 20, BYTES >> 20);
    }
    let file = setup.dir.join("dataset");
    write(&file)?;
    let (mut openssl_s, mut own_s) = (f64::MAX, f64::MAX);
    for _ in 0..TURNS {
        let (said, seconds) = timed(|| openssl(&file))?;
        openssl_s = openssl_s.min(seconds);
        let (found, seconds) = timed(|| Ok(fetchml_worker::staging::verify_file(&file)?))?;
        own_s = own_s.min(seconds);
        ensure!(found.1 == BYTES && found.0.to_string() == said, "{found:?} is not what openssl says: {said}");
    }
    fs::remove_file(&file)?;
    let rate = |seconds: f64| BYTES as f64 / MIB / seconds;
    report.add("data set of 10 GiB, openssl dgst", rate(openssl_s), "MiB/s", Target::None);
    report.add("data set of 10 GiB, verified", rate(own_s), "MiB/s", Target::None);
    report.add("  of openssl's rate", openssl_s / own_s, "x", Target::AtLeast(OF_OPENSSL));
    Ok(())
}

fn write(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let mut bytes = vec![0; BLOCK_BYTES];
    log::block(0, &mut bytes);
    for number in 0..BYTES / BLOCK_BYTES as u64 {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&bytes)?;
    }
    Ok(file.sync_all()?)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let began = Instant::now();
    let done = work()?;
    Ok((done, began.elapsed().as_secs_f64()))
}

fn openssl(file: &Path) -> Result<String> {
    let output = Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(file).output();
    let output = output.context("openssl is needed (Debian: apt-get install openssl)")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
