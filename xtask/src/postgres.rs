//! One private PostgreSQL cluster for a test run: its own directory, a Unix socket only, no fsync,
//! and gone when the run ends, whatever ends it.

use crate::{
    command::{shown, succeeds},
    prerequisites::postgres_programs,
    supervised::Supervised,
};
use anyhow::{Context as _, Result, bail};
use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long the server may take to answer, measured from its start.
const START_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECTIONS_MAX: u32 = 200;

/// A running cluster.
pub(crate) struct Cluster {
    dir: PathBuf,
    server: Supervised,
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) fn start() -> Result<Self> {
        let programs = postgres_programs()?;
        // Short, since the path of a Unix socket must stay below 108 bytes; reachable by any user.
        let dir = PathBuf::from(format!("/tmp/fetchml-pg-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let drop_to = unprivileged_user(&dir)?;
        if let Some((uid, gid)) = drop_to {
            chown(&dir, Some(uid), Some(gid)).with_context(|| format!("cannot chown {}", dir.display()))?;
        }
        let data = dir.join("data");
        let mut initdb = as_user(drop_to, &programs.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
        initdb.arg(&data).current_dir("/").stdout(Stdio::null());
        let status = initdb.status().with_context(|| format!("cannot start {}", shown(&initdb)))?;
        if !status.success() {
            bail!("{} ended with {status}", shown(&initdb));
        }

        let mut postgres = as_user(drop_to, &programs.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(&dir).current_dir("/");
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            &format!("max_connections={CONNECTIONS_MAX}"),
        ] {
            postgres.args(["-c", setting]);
        }
        let log = fs::File::create(dir.join("server.log"))?;
        let last = format!("rm -rf '{}'", dir.display());
        // INT is PostgreSQL's fast shutdown: it does not wait for clients to leave.
        let server = Supervised::start(&postgres, "INT", &last, log.try_clone()?.into(), log.into())?;
        let mut cluster = Self { dir, server };
        cluster.wait_until_ready(&programs)?;
        Ok(cluster)
    }

    /// Superuser's URL of the maintenance database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.dir.display().to_string().replace('/', "%2F"))
    }

    fn wait_until_ready(&mut self, programs: &Path) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if succeeds(Command::new(programs.join("pg_isready")).arg("-q").arg("-h").arg(&self.dir)) {
                return Ok(());
            }
            if self.server.ended()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
                bail!("PostgreSQL did not start\n{log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// PostgreSQL refuses to run as root: then the user `postgres` or `nobody`; else nobody in particular.
fn unprivileged_user(dir: &Path) -> Result<Option<(u32, u32)>> {
    if fs::metadata(dir)?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        for line in users.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [user, _, uid, gid, ..] = fields[..]
                && user == name
            {
                return Ok(Some((uid.parse()?, gid.parse()?)));
            }
        }
    }
    bail!("running as root, and neither a user `postgres` nor `nobody` exists for PostgreSQL to run as")
}

fn as_user(user: Option<(u32, u32)>, program: &Path) -> Command {
    let mut command = match user {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).args(["--clear-groups", "--"]);
            command.arg(program);
            command
        }
    };
    // Whatever the caller's environment says of PostgreSQL is about another server.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}
