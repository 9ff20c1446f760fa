use crate::{
    NOBODY, completed,
    events::{Event, Events},
    running, small,
};
use fetchml_api::{ErrorCode, link::Outcome};
use fetchml_testkit::{CheckedClient, LinkWorker, TestServer};
use serde_json::json;

const ALL: &str = "/v1/scheduler/status/stream";

fn of_job(id: &str) -> String {
    format!("/v1/scheduler/jobs/{id}/stream")
}

/// Reads until `wanted` comes, that one included.
async fn until(events: &mut Events, mut wanted: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        seen.push(events.next().await.expect("the stream goes on"));
        if wanted(&seen[seen.len() - 1]) {
            return seen;
        }
    }
}

fn shows(event: &Event, id: &str, status: &str) -> bool {
    event.name == "job" && event.data["id"] == id && event.data["status"] == status
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id.parse().unwrap()).collect()
}

async fn submit(client: &CheckedClient) -> String {
    client.submit(&small()).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
pub(crate) async fn tells_of_tasks_workers_and_the_whole() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut events = Events::open(&admin, ALL, None).await;
    assert_eq!(events.next().await.unwrap().name, "status", "it begins with how things are");
    let id = submit(&admin).await;
    let seen = until(&mut events, |event| shows(event, &id, "queued")).await;
    assert!(seen.iter().all(|event| event.data.get("output").is_none()));
    let depth = until(&mut events, |event| event.name == "status").await.pop().unwrap();
    assert_eq!(depth.data["batch_queue_depth"], 1);
    let mut worker = LinkWorker::connect(&server).await;
    let joined = until(&mut events, |event| event.name == "worker").await.pop().unwrap();
    assert_eq!((&joined.data["id"], &joined.data["status"]), (&json!(worker.id.to_string()), &json!("active")));
    let assignment = worker.run_next().await;
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    until(&mut events, |event| shows(event, &id, "completed")).await;
    drop(worker);
    until(&mut events, |event| event.name == "worker" && event.data["status"] == "offline").await;
    let done = until(&mut events, |event| event.name == "status" && event.data["workers_active"] == 0).await;
    assert_eq!(done.last().unwrap().data["tasks_completed_24h"], 1);
}

#[tokio::test]
async fn ids_are_dense_and_resume_over_a_restart_without_gap_or_repeat() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut events = Events::open(&admin, ALL, None).await;
    let first = submit(&admin).await;
    let mut seen = until(&mut events, |event| shows(event, &first, "queued")).await;
    // What it began with has the number of the last change before it.
    let began = numbers(&seen)[0];
    seen.retain(|event| event.id.parse::<u64>().unwrap() > began);
    drop(events);

    // Missed by everyone who listened.
    let second = submit(&admin).await;
    let server = server.restart().await;
    let admin = server.admin();
    let third = submit(&admin).await;
    let last = seen.last().unwrap().id.clone();
    let mut events = Events::open(&admin, ALL, Some(&last)).await;
    seen.extend(until(&mut events, |event| shows(event, &third, "queued")).await);
    let ids = numbers(&seen);
    assert_eq!(ids, (began + 1..=began + ids.len() as u64).collect::<Vec<_>>(), "dense");
    for id in [&first, &second, &third] {
        assert_eq!(seen.iter().filter(|event| shows(event, id, "queued")).count(), 1, "{id} is shown once");
    }
}

#[tokio::test]
pub(crate) async fn a_job_is_followed_to_its_end() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let id = submit(&ada).await;
    let mut events = Events::open(&ada, &of_job(&id), None).await;
    let begin = events.next().await.unwrap();
    assert!(shows(&begin, &id, "queued"));
    let other = submit(&ada).await;
    let (mut worker, assignment) = running(&server, &ada).await;
    until(&mut events, |event| shows(event, &id, "running")).await;
    worker.end(&assignment, Outcome { exit_code: Some(0), ..Outcome::default() }).await;
    let rest = events.rest().await;
    assert!(shows(rest.last().unwrap(), &id, "completed"), "{rest:?}");
    assert!(rest.iter().all(|event| event.data["id"] != other.as_str()));

    // Again from the beginning: everything once; from the end: nothing; afresh: how it is.
    let again = Events::open(&ada, &of_job(&id), Some(&begin.id)).await.rest().await;
    let states: Vec<_> = again.iter().map(|event| event.data["status"].as_str().unwrap()).collect();
    assert_eq!(states.first(), Some(&"preparing"));
    assert_eq!(states.iter().filter(|state| **state == "completed").count(), 1);
    assert_eq!(Events::open(&ada, &of_job(&id), Some(&rest.last().unwrap().id)).await.rest().await, []);
    let afresh = Events::open(&ada, &of_job(&id), None).await.rest().await;
    assert_eq!(afresh.len(), 1);
    assert!(shows(&afresh[0], &id, "completed"));
}

#[tokio::test]
async fn a_place_that_is_not_there_resets() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (_worker, assignment) = completed(&server, &admin).await;
    let id = assignment.spec.id.to_string();
    let far = u64::MAX.to_string();
    let mut events = Events::open(&admin, ALL, Some(&far)).await;
    assert_eq!(events.next().await.unwrap().name, "reset");
    assert_eq!(events.next().await.unwrap().name, "status");
    assert_eq!(events.next().await.unwrap().name, "worker");
    let rest = Events::open(&admin, &of_job(&id), Some(&far)).await.rest().await;
    assert_eq!(rest.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["reset", "job"]);
}

#[tokio::test]
pub(crate) async fn places_that_cannot_be_read() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let id = submit(&admin).await;
    for path in [ALL.to_owned(), of_job(&id)] {
        for place in ["", "x", "-1", "1.5", "99999999999999999999999"] {
            let request = admin.request(reqwest::Method::GET, &path).header("last-event-id", place);
            admin.send(request).await.error(400, ErrorCode::BadRequest);
        }
    }
}

#[tokio::test]
pub(crate) async fn unknown_jobs_are_404() {
    let server = TestServer::start().await;
    for id in [NOBODY, "no-id"] {
        server.admin().get(&of_job(id)).await.error(404, ErrorCode::NotFound);
    }
}
