//! kill -9 of the server under load: every acknowledged task exists, each once, and the audit chain
//! verifies.

use crate::support::Lab;
use fetchml_api::{CreateTaskRequest, TaskId, TaskListQuery};
use fetchml_client::Client;
use fetchml_store::{Location, Store};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

const KILLS: usize = 50;
const CLIENTS: usize = 16;
/// Acknowledged submits between two kills.
const SUBMITS_PER_LIFE: usize = 40;

/// Submits until told to stop; writes down what was acknowledged, and nothing else.
async fn submit_forever(
    client: Client,
    name: usize,
    ledger: Arc<Mutex<BTreeMap<TaskId, String>>>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mark = format!("{name}.{number}");
        let request = CreateTaskRequest {
            job_name: "ledger".into(),
            args: Some("true".into()),
            metadata: [("mark".to_owned(), mark.clone())].into(),
            ..Default::default()
        };
        // A submit that was not acknowledged may or may not exist: it is not in the ledger.
        if let Ok(task) = client.submit(&request, true).await {
            ledger.lock().expect("no client panics").insert(task.id, mark);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_no_acknowledged_submit_is_lost_over_50_kills() {
    let mut lab = Lab::new();
    lab.serve_with(&["--rate-limits", "off"]);
    lab.serve().await;
    let ledger = Arc::new(Mutex::new(BTreeMap::new()));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|name| {
            let (ledger, acknowledged, stop) = (Arc::clone(&ledger), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(submit_forever(lab.client(), name, ledger, acknowledged, stop))
        })
        .collect();

    for kill in 1..=KILLS {
        let goal = acknowledged.load(Ordering::Relaxed) + SUBMITS_PER_LIFE;
        crate::support::eventually("submits are acknowledged", crate::support::DEADLINE, async || {
            (acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
        lab.kill_server();
        lab.serve().await;
        assert!(lab.server.is_some(), "life {kill}");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }

    let ledger = Arc::into_inner(ledger).unwrap().into_inner().unwrap();
    let stored = all_tasks(&lab.client()).await;
    let ids: BTreeSet<TaskId> = stored.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), stored.len(), "no id is listed twice");
    let lost: Vec<_> = ledger.iter().filter(|(id, _)| !ids.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged tasks are lost: {lost:?}", lost.len(), ledger.len());
    let mut marks = BTreeMap::new();
    for (id, mark) in &stored {
        assert!(marks.insert(mark.clone(), *id).is_none(), "{mark} is stored twice");
    }
    println!("{} acknowledged, {} stored, {KILLS} kills", ledger.len(), stored.len());

    lab.server.take().unwrap().terminate().await;
    let submits = verified_submits(&lab).await;
    assert_eq!(submits, stored.len(), "each task has its audit event");
}

async fn all_tasks(client: &Client) -> Vec<(TaskId, String)> {
    let mut tasks = Vec::new();
    let mut after = None;
    loop {
        let query = TaskListQuery { limit: Some(1_000), after, ..Default::default() };
        let page = client.tasks(&query).await.expect("a page");
        let Some(last) = page.tasks.last() else { return tasks };
        after = Some(last.id);
        tasks.extend(
            page.tasks
                .into_iter()
                .map(|mut task| (task.id, task.metadata.remove("mark").expect("every task has its mark"))),
        );
    }
}

/// Verifies the whole chain and counts its submits.
async fn verified_submits(lab: &Lab) -> usize {
    let store = Store::open(&Location::Sqlite(lab.data_dir().join("fetchml.db"))).await.expect("the database opens");
    let mut rows = Vec::new();
    loop {
        let page = store.audit_rows(rows.len() as u64, 1_000).await.expect("audit rows");
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    let submits = rows
        .iter()
        .filter(|row| {
            let body: serde_json::Value = serde_json::from_slice(&row.body).expect("JSON");
            body["action"] == "submit"
        })
        .count();
    crate::support::assert_chain(&store.log_id(), &rows);
    store.close().await;
    submits
}
