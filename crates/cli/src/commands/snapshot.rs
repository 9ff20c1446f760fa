//! Taking the snapshot of a submit and showing how it goes.

use crate::{quantity::show_bytes, terminal};
use fetchml_client::{
    Client,
    snapshot::{Progress, Snapshot},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{path::Path, sync::Arc};

/// A bar on a terminal, plain lines elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Meter {
    fn new(quiet: bool) -> Self {
        let bar = (terminal::stderr_is_terminal() && !quiet).then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}")
                .expect("the template is well formed")
                .progress_chars("=> ");
            ProgressBar::no_length().with_style(style)
        });
        Self { bar, quiet }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::say_aside(text)),
            None if self.quiet => {}
            None => terminal::say_aside(text),
        }
    }

    fn begin(&self, message: &str, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(bytes);
            bar.set_message(message.to_owned());
        }
    }

    fn on(&self, progress: &Progress) {
        match progress {
            Progress::Found { files, bytes } => {
                self.begin("hashing", *bytes);
                if self.bar.is_none() {
                    self.say(&format!("hashing {}, {}", count(*files), show_bytes(*bytes)));
                }
            }
            Progress::Hashed { bytes } | Progress::Sent { bytes } => {
                if let Some(bar) = &self.bar {
                    bar.inc(*bytes);
                }
            }
            Progress::Missing { blobs, bytes, files } => {
                if *blobs == 0 {
                    self.say(&format!("{}, nothing to upload", count(*files)));
                } else {
                    self.begin("uploading", *bytes);
                    self.say(&format!("uploading {blobs} of {}, {} new", count(*files), show_bytes(*bytes)));
                }
            }
            Progress::Changed { path } => self.say(&format!("{path} changed meanwhile; reading it again")),
            _ => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn count(files: u64) -> String {
    if files == 1 { "1 file".into() } else { format!("{files} files") }
}

/// Builds the snapshot of `directory` and sends what the server lacks.
pub(super) async fn take(client: &Client, directory: &Path, quiet: bool) -> anyhow::Result<Snapshot> {
    let meter = Arc::new(Meter::new(quiet));
    let result = build_and_send(client, directory, &meter).await;
    meter.finish();
    let snapshot = result?;
    for path in snapshot.skipped() {
        terminal::say_warning(&format!("{path} is not a regular file and was left out"));
    }
    Ok(snapshot)
}

async fn build_and_send(client: &Client, directory: &Path, meter: &Arc<Meter>) -> anyhow::Result<Snapshot> {
    let (directory, hashing) = (directory.to_owned(), Arc::clone(meter));
    let build = move || Snapshot::build(&directory, &|progress| hashing.on(&progress));
    let mut snapshot = tokio::task::spawn_blocking(build)
        .await
        .expect("hashing does not panic and is not aborted")
        .map_err(fetchml_client::ClientError::from)?;
    let sending = Arc::clone(meter);
    client.snapshot_upload(&mut snapshot, Arc::new(move |progress| sending.on(&progress))).await?;
    Ok(snapshot)
}
