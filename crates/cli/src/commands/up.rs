//! `fetchml up`.

use super::{
    serve::{ServingFlags, disk_failed},
    serving::{self, Signals},
    worker,
};
use crate::{
    failure::Exit,
    settings::{Layers, ServerSettings, WorkerSettings},
    terminal,
};
use clap::Args;
use fetchml_server::{OpenFiles, Server};
use fetchml_worker::isolation::Isolation;
use std::path::Path;

/// Start a server and a worker here
///
/// At the first start one admin key is made, shown once and kept in the data directory, and a profile is
/// written, so that other commands of this user find the server. Ctrl-C ends server and worker; running tasks
/// go on and are found again at the next start.
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml up\n  fetchml up --data-dir /data/fetchml --slots 4")]
pub(crate) struct Up {
    #[command(flatten)]
    flags: ServingFlags,
    #[command(flatten)]
    worker: worker::SlotFlags,
    /// Stop running tasks at the end instead of leaving them
    #[arg(long)]
    stop_tasks: bool,
}

impl Up {
    pub(super) fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let layers = Layers::load(config, self.worker.add_to(self.flags.flags()))?;
        let settings = layers.server()?;
        let mut worker = layers.worker()?;
        worker.data_dir = settings.data_dir.join("worker");
        serving::start_log("warn")?;
        serving::block_on(self.serve(settings, worker))
    }

    async fn serve(self, settings: ServerSettings, worker: WorkerSettings) -> anyhow::Result<Exit> {
        let mut signals = Signals::new()?;
        let open_files = OpenFiles::raise();
        let server = serving::start_server(&settings).await?;
        let ended = self.serve_until_told(&server, &settings, worker, open_files, &mut signals).await;
        match &ended {
            Ok(()) => serving::unless_urged(&mut signals, server.shutdown()).await?,
            Err(_) => server.shutdown().await,
        }
        ended.map(|()| Exit::Success)
    }

    async fn serve_until_told(
        &self,
        server: &Server,
        settings: &ServerSettings,
        worker: WorkerSettings,
        open_files: OpenFiles,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let url = serving::own_url(server);
        // First of all, so that whoever sees the server answer finds the profile there.
        serving::introduce(server, "server and worker", settings);
        let isolation = if settings.listen.ip().is_loopback() { Isolation::Auto } else { Isolation::Required };
        let home = worker::Home { url, key: server.local_worker_key(), trust: serving::own_trust(server) };
        let mut worker = worker::start(home, &worker, isolation, open_files.before).await?;
        worker::say_what_it_does(&worker);
        terminal::say("next, in another terminal:");
        terminal::say("  fetchml submit --follow train.py   run a script of the current directory");
        terminal::say("  fetchml tasks                      see what ran");
        terminal::say("  fetchml workers                    see what this machine has");
        tokio::select! {
            () = signals.received() => {}
            () = serving::reload_when_told(server) => {}
            () = server.wait() => {
                worker.shutdown(false).await;
                return Err(disk_failed());
            }
            reason = worker.wait() => return Err(super::worker::failed(&reason)),
        }
        self.say_farewell(server).await;
        serving::unless_urged(signals, worker.shutdown(self.stop_tasks)).await.map(drop)
    }

    async fn say_farewell(&self, server: &Server) {
        let running = serving::tasks_running(server).await;
        let text = match (running, self.stop_tasks) {
            (Some(0), _) => "stopping; no task runs".to_owned(),
            (Some(1), false) => "stopping; 1 task goes on and is found again at the next start".to_owned(),
            (Some(n), false) => format!("stopping; {n} tasks go on and are found again at the next start"),
            (None, false) => "stopping; running tasks go on and are found again at the next start".to_owned(),
            (_, true) => "stopping, and all running tasks with it".to_owned(),
        };
        terminal::say(&text);
    }
}
