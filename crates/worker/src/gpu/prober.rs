//! The thread that looks at the GPUs. A driver may hang for good, so each look has a deadline for the one
//! who asks, and a thread that hangs is asked again only when it is back.

use super::{
    look::Look,
    nvml::{self, Session},
    process::Process,
};
use fetchml_api::AttemptId;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// A question, and where the answer goes.
struct Ask {
    /// Attempts that have devices, with their directories.
    attempts: Vec<(AttemptId, PathBuf)>,
    answer: oneshot::Sender<Look>,
}

/// Asks the thread.
#[derive(Debug)]
pub(super) struct Prober {
    asks: std::sync::mpsc::SyncSender<Ask>,
}

impl Prober {
    /// Starts the thread. It ends when this is dropped.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub(super) fn start(library: Option<PathBuf>) -> io::Result<Self> {
        let (asks, asked) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("nvml".to_owned()).spawn(move || serve(library.as_deref(), &asked))?;
        Ok(Self { asks })
    }

    /// What there is, or nothing when no answer came in time.
    pub(super) async fn look(&self, attempts: Vec<(AttemptId, PathBuf)>, deadline: Duration) -> Option<Look> {
        let (answer, answered) = oneshot::channel();
        // Full: it hangs, and one who gave up waits before this.
        self.asks.try_send(Ask { attempts, answer }).ok()?;
        timeout(deadline, answered).await.ok()?.ok()
    }
}

fn serve(library: Option<&Path>, asked: &std::sync::mpsc::Receiver<Ask>) {
    let mut said = String::new();
    while let Ok(ask) = asked.recv() {
        match nvml::open(library) {
            Ok(nvml) => {
                said.clear();
                let mut session = Session::new(&nvml);
                let mut next = Some(ask);
                while let Some(ask) = next {
                    // Whoever gave up needs no look.
                    if !ask.answer.is_closed() {
                        let seen = session.look(&|pid| Process::of(pid, &ask.attempts));
                        let is_gone = seen.is_none();
                        let _ = ask.answer.send(seen.unwrap_or_default());
                        if is_gone {
                            tracing::warn!("the NVIDIA driver was unloaded");
                            break;
                        }
                    }
                    next = asked.recv().ok();
                }
            }
            Err(error) => {
                // Said once, not at each look: most machines without GPUs have no library.
                let words = error.to_string();
                if words != said {
                    tracing::debug!(%error, "no GPUs: NVML is not usable");
                    said = words;
                }
                let _ = ask.answer.send(Look::default());
            }
        }
    }
}
