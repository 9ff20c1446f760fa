//! Starts and kills `fetchml` processes and looks at what they leave.

use fetchml_api::{CreateTaskRequest, Task, TaskId, TaskStatus};
use fetchml_client::{Client, Trust};
use fetchml_testkit::TestEngine;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest wait for anything that takes no network: generous, because machines are shared.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
pub(crate) async fn eventually<T>(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A `fetchml` process, killed with its test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Sends SIGKILL and reaps.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be reaped");
    }

    /// Sends SIGTERM and waits for the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process can be signalled");
        self.wait().await
    }

    /// Waits for the exit code.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        eventually("the process ends", DEADLINE, async || self.child.try_wait().expect("can be waited for"))
            .await
            .code()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("can be waited for").is_some()
    }

    /// What it wrote to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.stderr());
        }
    }
}

/// How a worker is started.
struct Seat {
    /// Where it finds the server.
    server: String,
    /// What it is started by.
    wrapper: Vec<String>,
}

/// A server and its workers on one scratch directory.
pub(crate) struct Lab {
    dir: TempDir,
    listen: String,
    pub(crate) server: Option<Process>,
    pub(crate) workers: Vec<Process>,
    /// How each worker is started.
    seats: Vec<Seat>,
    extra: Vec<String>,
    isolation: &'static str,
    /// What the server is started by.
    server_wrapper: Vec<String>,
    /// Where the server's files are seen, when it has a mount namespace of its own.
    server_root: Option<PathBuf>,
    /// What the next workers are started by.
    wrapper: Vec<String>,
    /// User and group id of worker processes.
    worker_user: Option<u32>,
    /// What workers are told about containers.
    containers: Vec<String>,
    /// The program of worker processes.
    worker_program: PathBuf,
    /// Environment of the next starts, by the names of the processes: `serve`, `worker1`, ...
    next_env: BTreeMap<String, (String, String)>,
    /// More arguments of worker processes.
    worker_extra: Vec<String>,
    /// What server and workers log.
    log_filter: &'static str,
    /// The server speaks TLS with a certificate of its own.
    tls: bool,
}

impl Lab {
    /// A lab with nothing running.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fetchml-e2e-").tempdir().expect("a scratch directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let listen = free.local_addr().expect("bound").to_string();
        let (workers, seats, extra) = (Vec::new(), Vec::new(), Vec::new());
        let (server, isolation, wrapper, worker_user) = (None, "none", Vec::new(), None);
        let worker_program = env!("CARGO_BIN_EXE_fetchml").into();
        // Not by an engine that this machine may have.
        let containers = vec!["--container-engine".to_owned(), "none".to_owned()];
        Self {
            dir,
            listen,
            server,
            workers,
            seats,
            extra,
            isolation,
            server_wrapper: Vec::new(),
            server_root: None,
            wrapper,
            worker_user,
            containers,
            worker_program,
            next_env: BTreeMap::new(),
            worker_extra: Vec::new(),
            log_filter: "",
            tls: false,
        }
    }

    /// A lab with `serve` and one `worker` connected.
    pub(crate) async fn with_worker() -> Self {
        let mut lab = Self::new();
        lab.serve().await;
        lab.worker(1).await;
        lab
    }

    /// Workers isolate tasks: else tasks may leave traces anywhere, by which most tests watch them.
    pub(crate) fn sandboxed(mut self) -> Self {
        self.isolation = "required";
        self
    }

    /// Workers run containers by this engine; as its user, where it is not root's.
    pub(crate) fn containers(self, engine: &TestEngine) -> Self {
        // On control groups of version 1 a user's engine cannot limit anything.
        let limits: &[&str] = if engine.user() == 0 { &[] } else { &["--container-limits", "auto"] };
        self.containers_with(engine, limits)
    }

    /// The same, with these options of the worker.
    pub(crate) fn containers_with(mut self, engine: &TestEngine, options: &[&str]) -> Self {
        let socket = engine.socket();
        let socket = ["--container-socket", socket.to_str().expect("UTF-8")];
        self.containers = socket.iter().chain(options).map(ToString::to_string).collect();
        if engine.user() == 0 { self } else { self.workers_run_as(engine.user()) }
    }

    /// Server and workers log all they can.
    pub(crate) fn verbose(mut self) -> Self {
        self.log_filter = "trace";
        self
    }

    /// Workers are started by this program, which gets their command line as its last arguments.
    pub(crate) fn worker_wrapped(mut self, wrapper: &[impl AsRef<str>]) -> Self {
        self.wrap_next_workers(wrapper);
        self
    }

    /// The same of those that are started first from now on.
    pub(crate) fn wrap_next_workers(&mut self, wrapper: &[impl AsRef<str>]) {
        self.wrapper = wrapper.iter().map(|word| word.as_ref().to_owned()).collect();
    }

    /// The server listens on another address of this machine than loopback.
    pub(crate) fn listening_on(mut self, ip: &str) -> Self {
        let free = TcpListener::bind((ip, 0)).expect("a free port");
        self.listen = free.local_addr().expect("bound").to_string();
        self.extra.push("--allow-plain-http".into());
        self
    }

    /// The server speaks TLS with a certificate of its own, which everything here knows it by.
    pub(crate) fn with_tls(mut self) -> Self {
        self.tls = true;
        self.serve_with(&["--tls", "self-signed"]);
        self
    }

    /// The server's certificate.
    pub(crate) fn ca_cert(&self) -> PathBuf {
        self.data_dir().join("tls.crt")
    }

    /// The fingerprint that the server prints at its start.
    pub(crate) fn fingerprint(&self) -> String {
        let said = fs::read_to_string(self.path("serve.log")).expect("the server's log");
        let fingerprint = said.split_whitespace().find(|word| word.starts_with("sha256:"));
        fingerprint.unwrap_or_else(|| panic!("no fingerprint: {said}")).to_owned()
    }

    /// How clients here know the server.
    pub(crate) fn trust(&self) -> Trust {
        if !self.tls {
            return Trust::System;
        }
        Trust::Pinned(self.fingerprint().parse().expect("a fingerprint"))
    }

    /// Workers run as this user. Needs root.
    pub(crate) fn workers_run_as(mut self, user: u32) -> Self {
        self.worker_user = Some(user);
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
        // The build directory may be where only its owner can go.
        self.workers_from_a_copy()
    }

    /// Workers are started from a copy of the program.
    pub(crate) fn workers_from_a_copy(mut self) -> Self {
        self.worker_program = self.path("fetchml");
        self.replace_worker_program();
        self
    }

    /// Puts another file in the place of that copy, as an upgrade does.
    pub(crate) fn replace_worker_program(&self) {
        let new = self.path("fetchml.new");
        fs::copy(env!("CARGO_BIN_EXE_fetchml"), &new).expect("a copy of the program");
        fs::rename(&new, &self.worker_program).expect("put in its place");
    }

    /// Adds arguments to every later `serve`.
    pub(crate) fn serve_with(&mut self, arguments: &[&str]) {
        self.extra.extend(arguments.iter().map(ToString::to_string));
    }

    /// Sets a variable for the next start of a process, and for that one only.
    pub(crate) fn start_next_with(&mut self, process: &str, name: &str, value: String) {
        self.next_env.insert(process.to_owned(), (name.to_owned(), value));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the server keeps everything.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let dir = self.path("server");
        match &self.server_root {
            Some(root) => root.join(dir.strip_prefix("/").expect("it is absolute")),
            None => dir,
        }
    }

    pub(crate) fn listen(&self) -> &str {
        &self.listen
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.listen)
    }

    pub(crate) fn admin_key(&self) -> String {
        let path = self.data_dir().join("admin.key");
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    pub(crate) fn client(&self) -> Client {
        Client::trusting(&self.url(), &self.admin_key(), &self.trust()).expect("a client")
    }

    /// A `fetchml` command with this lab's surroundings: home, server and key.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command();
        command.args(arguments).env("HOME", self.path("home")).env("FETCHML_URL", self.url());
        if self.data_dir().join("admin.key").exists() {
            command.env("FETCHML_API_KEY", self.admin_key());
        }
        if self.tls && self.server.is_some() {
            command.env("FETCHML_TLS_FINGERPRINT", self.fingerprint());
        }
        command.current_dir(self.dir.path());
        command
    }

    /// Runs a `fetchml` command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments)).await
    }

    /// Runs a `fetchml` command that must succeed and returns its stdout.
    pub(crate) async fn output(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "fetchml {arguments:?}: {}\n{}", output.status, shown(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Starts a process whose stderr and stdout go to a file.
    pub(crate) fn spawn(&mut self, name: &str, mut command: Command) -> Process {
        command.envs(self.next_env.remove(name));
        let log = self.path(&format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        // A group of its own, as a terminal's Ctrl-C would not reach it.
        command.process_group(0);
        let child = command.spawn().expect("fetchml starts");
        Process { child, log }
    }

    /// Starts `serve` and waits until it answers.
    pub(crate) async fn serve(&mut self) {
        self.start_server();
        self.healthy().await;
    }

    /// Starts `serve`.
    pub(crate) fn start_server(&mut self) {
        let mut words = self.server_wrapper.clone();
        words.extend([env!("CARGO_BIN_EXE_fetchml"), "serve", "--listen", &self.listen].map(ToOwned::to_owned));
        let mut command = clean(Command::new(&words[0]));
        command.args(&words[1..]).arg("--data-dir").arg(self.path("server")).args(&self.extra);
        command.current_dir(self.dir.path()).env("HOME", self.path("home")).env("FETCHML_LOG", self.log_filter);
        self.server = Some(self.spawn("serve", command));
    }

    /// The server is started by this program, which gets its command line as its last arguments.
    pub(crate) fn wrap_server(&mut self, wrapper: &[&str]) {
        self.server_wrapper = wrapper.iter().map(ToString::to_string).collect();
    }

    /// Starts `serve` with its data on a small file system of its own, and waits until it answers.
    pub(crate) async fn serve_on_small_disk(&mut self, megabytes: usize) {
        let dir = self.path("server");
        fs::create_dir(&dir).expect("a directory");
        let mount = format!("mount -t tmpfs -o size={megabytes}m,mode=0700 tmpfs {} && exec \"$@\"", dir.display());
        self.wrap_server(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"]);
        self.serve().await;
        let pid = self.server.as_ref().expect("just started").pid();
        self.server_root = Some(format!("/proc/{pid}/root").into());
    }

    /// Starts `up` and waits until it answers and its worker is there.
    pub(crate) async fn up(&mut self, arguments: &[&str]) {
        let data_dir = self.data_dir();
        let mut command = self.command(&["up", "--listen", &self.listen, "--isolation", self.isolation]);
        command.args(&self.containers);
        command.arg("--data-dir").arg(&data_dir).args(arguments);
        self.server = Some(self.spawn("up", command));
        self.healthy().await;
        self.workers_active(1).await;
    }

    pub(crate) async fn healthy(&self) {
        // Whoever answers: the certificate may not be there yet.
        let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
        let url = format!("{}/health", self.url());
        eventually("the server is healthy", DEADLINE, async || {
            let answer = http.get(&url).send().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
        if self.tls {
            // It answers before it has said all that it says at its start.
            let log = self.path("serve.log");
            eventually("the fingerprint is printed", DEADLINE, async || {
                fs::read_to_string(&log).ok().filter(|said| said.contains("sha256:"))
            })
            .await;
        }
    }

    pub(crate) async fn workers_active(&self, count: usize) {
        let client = self.client();
        eventually("workers are active", DEADLINE, async || {
            let workers = client.workers().await.ok()?;
            let active = workers.iter().filter(|w| w.status == fetchml_api::WorkerStatus::Active).count();
            (active >= count).then_some(())
        })
        .await;
    }

    /// Starts worker number `number` (from 1) and waits until it is active.
    pub(crate) async fn worker(&mut self, number: usize) {
        let url = self.url();
        self.worker_at(number, &url).await;
    }

    /// The same, with more arguments, for this and later workers.
    pub(crate) async fn worker_with(&mut self, number: usize, arguments: &[&str]) {
        self.worker_extra = arguments.iter().map(ToString::to_string).collect();
        self.worker(number).await;
    }

    /// The same, with the server at that address.
    pub(crate) async fn worker_at(&mut self, number: usize, server: &str) {
        let process = self.enter_worker(number, server).await;
        self.workers.push(process);
        self.workers_active(self.workers.len()).await;
    }

    /// Starts a worker that need not come to anything.
    pub(crate) async fn enter_worker(&mut self, number: usize, server: &str) -> Process {
        assert_eq!(number, self.workers.len() + 1, "workers are numbered in order");
        self.seats.push(Seat { server: server.to_owned(), wrapper: self.wrapper.clone() });
        let key_file = self.path("worker.key");
        if !key_file.exists() {
            let created = self.output(&["keys", "create", "--role", "worker", "--user", "lab", "--json"]).await;
            let created: serde_json::Value = serde_json::from_str(&created).expect("JSON");
            fs::write(&key_file, created["key"].as_str().expect("a key")).expect("a key file");
        }
        self.spawn_worker(number)
    }

    fn spawn_worker(&mut self, number: usize) -> Process {
        let data_dir = self.path(&format!("worker{number}"));
        let Seat { server, wrapper } = &self.seats[number - 1];
        let mut words = wrapper.clone();
        words.push(self.worker_program.to_str().expect("UTF-8").to_owned());
        words.extend(["worker", "--server", server, "--isolation", self.isolation].map(ToOwned::to_owned));
        let mut command = clean(Command::new(&words[0]));
        command.args(&words[1..]).current_dir(self.dir.path()).env("HOME", self.path("home"));
        command.args(&self.containers);
        let key_file = self.path("worker.key");
        command.arg("--key-file").arg(&key_file).arg("--data-dir").arg(&data_dir).args(&self.worker_extra);
        command.env("FETCHML_LOG", self.log_filter);
        if self.tls {
            command.env("FETCHML_TLS_FINGERPRINT", self.fingerprint());
        }
        if let Some(user) = self.worker_user {
            fs::create_dir_all(&data_dir).expect("its directory");
            command.env("HOME", &data_dir);
            for path in [&key_file, &data_dir] {
                chown(path, Some(user), Some(user)).expect("given to its user");
            }
            command.uid(user).gid(user);
        }
        self.spawn(&format!("worker{number}"), command)
    }

    /// Kills the agent of a worker, by its place in `workers`, with SIGKILL.
    pub(crate) fn kill_worker(&mut self, place: usize) {
        self.workers[place].kill();
    }

    /// Starts a worker again whose agent was killed.
    pub(crate) fn start_worker(&mut self, place: usize) {
        let process = self.spawn_worker(place + 1);
        self.workers[place] = process;
    }

    /// The same, and waits until the server hears from it.
    pub(crate) async fn restart_worker(&mut self, place: usize) {
        self.start_worker(place);
        self.workers_active(self.workers.len()).await;
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill_server(&mut self) {
        self.server.take().expect("a server runs").kill();
    }

    /// Writes files into a directory to submit from.
    pub(crate) fn project(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).expect("a directory");
        for (file, text) in files {
            fs::write(dir.join(file), text).expect("a file");
        }
        dir
    }

    /// Submits a command without files.
    pub(crate) async fn submit(&self, args: &str) -> TaskId {
        let request = CreateTaskRequest { job_name: "e2e".into(), args: Some(args.into()), ..Default::default() };
        self.client().submit(&request, true).await.expect("the task is accepted").id
    }

    /// Waits for a status.
    pub(crate) async fn until(&self, id: TaskId, status: TaskStatus) -> Task {
        let client = self.client();
        eventually(&format!("task {id} is {}", status.as_str()), DEADLINE, async || {
            let task = client.task(id).await.ok()?;
            assert!(
                task.status == status || !task.status.is_terminal(),
                "task {id} ended as {:?} instead: {:?}\n{:?}",
                task.status,
                task.error,
                task.output
            );
            (task.status == status).then_some(task)
        })
        .await
    }

    /// The whole log of a task.
    pub(crate) async fn log(&self, id: TaskId) -> String {
        self.output(&["logs", &id.to_string()]).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.workers.clear();
        self.server = None;
        // Shims outlive everything by design; with the lab they must go.
        kill_all_below(self.dir.path());
    }
}

/// Kills every process that works below `dir` or names it in its arguments.
fn kill_all_below(dir: &Path) {
    let needle = dir.as_os_str().as_encoded_bytes();
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let names_dir = |name: &str| {
            fs::read(entry.path().join(name)).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        };
        let works_below = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        let ours = pid == std::process::id().cast_signed();
        if !ours
            && (works_below || names_dir("cmdline") || names_dir("environ"))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// `fetchml` with an environment that holds nothing of the developer's.
pub(crate) fn bare_command() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_fetchml")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FETCHML_") || name.to_string_lossy().starts_with("XDG_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// Runs a command to its end, off the runtime's threads.
pub(crate) async fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("fetchml starts")).await.expect("no panic")
}

/// The same, with this on its standard input.
pub(crate) async fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    use std::io::Write as _;
    let input = input.to_vec();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().expect("fetchml starts");
        // One that does not read it has its reasons.
        let _ = child.stdin.take().expect("piped").write_all(&input);
        child.wait_with_output().expect("it ends")
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

/// Both streams of a command, for messages.
pub(crate) fn shown(output: &Output) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "--- stdout\n{}", String::from_utf8_lossy(&output.stdout));
    let _ = writeln!(text, "--- stderr\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Asserts that a whole audit log verifies.
pub(crate) fn assert_chain(log_id: &str, rows: &[fetchml_store::AuditRow]) {
    let verdict = fetchml_audit::verify(log_id, rows);
    assert_eq!((verdict.first_tampered, verdict.checked), (None, rows.len() as u64));
}

/// The process ids of all processes of a task.
pub(crate) fn processes_of(task: TaskId) -> BTreeSet<i32> {
    let mark = format!("FETCHML_TASK_ID={task}");
    let is_of_task = |entry: &fs::DirEntry| {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    (fs::read_dir("/proc").expect("procfs").flatten().filter(is_of_task))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
