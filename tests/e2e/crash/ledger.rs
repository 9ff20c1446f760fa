//! What was submitted, what was acknowledged, and what each task must print and return.

use fetchml_api::{CreateTaskRequest, TaskId};
use fetchml_client::Client;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Unfinished tasks at a time.
const UNFINISHED_MAX: i64 = 16;
/// Pause of a client that could not or need not submit.
const PAUSE: Duration = Duration::from_millis(30);

/// What a task does, all of it known from its two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    client: usize,
    number: usize,
}

impl Plan {
    /// Its name, unique in a run.
    pub(crate) fn mark(self) -> String {
        format!("{}.{}", self.client, self.number)
    }

    /// The plan of that name.
    pub(crate) fn of(mark: &str) -> Option<Self> {
        let (client, number) = mark.split_once('.')?;
        Some(Self { client: client.parse().ok()?, number: number.parse().ok()? })
    }

    /// 0 for most, else anything a program can return by itself.
    pub(crate) fn exit_code(self) -> i32 {
        if self.number % 3 == 2 { 1 + ((self.number * 31 + self.client * 7) % 125) as i32 } else { 0 }
    }

    /// What it leaves as a file in its output and its checkpoint directory, if it does.
    pub(crate) fn file(self) -> Option<String> {
        (self.number % 4 == 1).then(|| format!("{}\n", self.mark()))
    }

    fn lines(self) -> usize {
        10 + (self.number * 7 + self.client) % 40
    }

    /// The whole log.
    pub(crate) fn log(self) -> String {
        let mark = self.mark();
        (1..=self.lines()).fold(String::new(), |mut log, line| {
            let _ = writeln!(log, "{mark} {line} {}", "x".repeat(line * 13 % 300));
            log
        })
    }

    /// Prints it over half a second to two, in a second process of which the first is the parent.
    fn command(self) -> String {
        let (mark, lines, code) = (self.mark(), self.lines(), self.exit_code());
        let print = "printf -v x \"%*s\" $((i * 13 % 300)) \"\"; echo \"$0 $i ${x// /x}\"; sleep 0.04";
        let files = match self.file() {
            Some(_) => "echo $0 > $FETCHML_OUTPUT_DIR/result; echo $0 > $FETCHML_CHECKPOINT_DIR/state; ",
            None => "",
        };
        format!("bash -c '{files}(for i in $(seq 1 {lines}); do {print}; done); exit {code}' {mark}")
    }
}

/// Acknowledged submits.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<TaskId, Plan>>);

impl Ledger {
    /// What was acknowledged so far.
    pub(crate) fn acknowledged(&self) -> BTreeMap<TaskId, Plan> {
        self.0.lock().expect("no client panics").clone()
    }

    /// How many tasks ended since midnight; `None` while the server does not answer.
    pub(crate) async fn ended(&self, client: &Client) -> Option<usize> {
        let queue = client.queue().await.ok()?;
        usize::try_from(queue.completed + queue.failed).ok()
    }
}

/// Submits as long as there is room, until told to stop. Writes down what was acknowledged and
/// nothing else: a submit without an answer may or may not exist.
pub(crate) async fn submit_until(client: Client, name: usize, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let room = client.queue().await.is_ok_and(|queue| queue.queued + queue.running < UNFINISHED_MAX);
        if room {
            let plan = Plan { client: name, number };
            number += 1;
            let request = CreateTaskRequest {
                job_name: "crash".into(),
                args: Some(plan.command()),
                cpu: Some(0),
                metadata: [("mark".to_owned(), plan.mark())].into(),
                ..Default::default()
            };
            if let Ok(task) = client.submit(&request, true).await {
                ledger.0.lock().expect("no client panics").insert(task.id, plan);
            }
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
