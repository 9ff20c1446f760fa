//! A background process that ends with us, however we end: a small shell holds it, reads from a
//! pipe that only we hold open, and stops it when that pipe closes, which even SIGKILL does.

use anyhow::{Context as _, Result};
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

/// `$1`: signal to stop with; `$2`: command to run at the very end; the rest: the process.
const HOLDER: &str = r#"
signal=$1 last=$2; shift 2
# A shell starts background jobs with SIGINT ignored, which their children would inherit.
if env --default-signal=INT true 2>/dev/null; then set -- env --default-signal=INT,QUIT "$@"; fi
"$@" </dev/null 3<&- &
pid=$!
# The reader wakes us when the pipe closes; the process's own end wakes us too.
{ read -r _; kill -s "$signal" "$pid" 2>/dev/null; } <&3 &
reader=$!
wait "$pid"; code=$?
kill "$reader" 2>/dev/null
eval "$last"
exit "$code"
"#;

/// The process and its holder. Dropping it stops the process and waits until it is gone.
pub(crate) struct Supervised {
    holder: Child,
}

impl Supervised {
    /// Starts `command` (program, arguments, environment, user and directory are kept); `signal`
    /// such as `TERM` stops it; `last` is shell text run after its end.
    pub(crate) fn start(command: &Command, signal: &str, last: &str, output: Stdio, errors: Stdio) -> Result<Self> {
        let mut holder = Command::new("sh");
        holder
            .args(["-c", &format!("exec 3<&0; {HOLDER}"), "holder", signal, last])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // A Ctrl-C on the terminal goes to us alone; the process hears of it by the pipe.
            .process_group(0);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => holder.env(name, value),
                None => holder.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            holder.current_dir(dir);
        }
        let holder = holder.spawn().with_context(|| format!("cannot start {}", crate::command::shown(command)))?;
        Ok(Self { holder })
    }

    /// The exit status once the process has ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.holder.try_wait().context("cannot ask for the state of a process")
    }

    fn close(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.close();
    }
}
