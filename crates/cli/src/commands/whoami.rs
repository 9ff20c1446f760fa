//! `fetchml whoami`.

use crate::{failure::Exit, quantity, session::ServerFlags, terminal};
use clap::Args;
use std::path::Path;

/// Show which user and role your key has, and until when it works
#[derive(Args, Debug)]
#[command(before_long_help = "Examples:\n  fetchml whoami\n  fetchml whoami --json")]
pub(crate) struct Whoami {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Whoami {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let known = self.server.session(config)?.client.whoami().await?;
        if self.json {
            terminal::print_json(&known)?;
            return Ok(Exit::Success);
        }
        let name = known.name.as_deref().map_or_else(String::new, |name| format!(" ({})", terminal::plain(name)));
        let until = known.expires_at.map_or_else(String::new, |at| format!(", until {}", quantity::show_time(at)));
        let user = terminal::plain(&known.user_id);
        terminal::print(&format!("{user} as {} with key {}{name}{until}", known.role.as_str(), known.key_id))?;
        Ok(Exit::Success)
    }
}
