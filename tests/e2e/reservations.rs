//! Reservations, with a real worker whose four devices are simulated, across a killed server.

use crate::support::{DEADLINE, Lab, eventually, shown};
use fetchml_api::{FailureCause, Reservation, ReservationStatus, TaskId, TaskStatus};

async fn one(lab: &Lab) -> Reservation {
    let list = lab.output(&["reservations", "--json"]).await;
    let mut all: Vec<Reservation> = serde_json::from_str(&list).expect("a list");
    assert_eq!(all.len(), 1, "{list}");
    all.remove(0)
}

async fn submit(lab: &Lab, options: &[&str], script: &str) -> TaskId {
    let mut arguments = vec!["submit", "--no-snapshot"];
    arguments.extend(options);
    arguments.extend(["--", "bash", "-c", script]);
    lab.output(&arguments).await.trim().parse().expect("the id of the task")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_are_collected_for_one_task_and_nobody_else_gets_them() {
    let mut lab = Lab::new();
    lab.serve().await;
    lab.worker_with(1, &["--gpus", "4", "--gpu-type", "H100"]).await;
    lab.workers_active(1).await;
    let holder = submit(&lab, &["--gpu", "1"], "sleep 600").await;
    lab.until(holder, TaskStatus::Running).await;

    let made = lab.output(&["reserve", "--gpu", "4", "--gpu-type", "h100", "--for", "90m"]).await;
    let id = made.trim().to_owned();
    let reservation = one(&lab).await;
    assert_eq!((reservation.id.to_string(), reservation.gpus_held, reservation.expires_at), (id.clone(), 3, None));
    let too_many = lab.run(&["reserve", "--gpu", "1"]).await;
    assert_eq!(too_many.status.code(), Some(5), "{}", shown(&too_many));

    // Claimed by a part of its id: all of it, without saying how much.
    let script = "echo devices $CUDA_VISIBLE_DEVICES; sleep 1";
    let task = submit(&lab, &["--reservation", &id[24..]], script).await;
    let small = submit(&lab, &["--gpu", "1"], "true").await;
    lab.kill_server();
    lab.start_server();
    lab.healthy().await;
    lab.workers_active(1).await;
    let reservation = one(&lab).await;
    assert_eq!((reservation.status, reservation.task_id), (ReservationStatus::Claimed, Some(task)));
    assert_eq!((reservation.gpus_held, reservation.expires_at), (3, None));
    let released = lab.run(&["release", &id]).await;
    assert_eq!(released.status.code(), Some(5), "it is its task's: {}", shown(&released));
    for waiting in [task, small] {
        assert_eq!(lab.client().task(waiting).await.unwrap().status, TaskStatus::Queued);
    }

    lab.output(&["cancel", &holder.to_string()]).await;
    let cancelled = lab.until(holder, TaskStatus::Failed).await;
    assert_eq!(cancelled.failure.map(|failure| failure.cause), Some(FailureCause::Cancelled));
    let done = lab.until(task, TaskStatus::Completed).await;
    assert_eq!((done.gpu, done.reservation_id.map(|id| id.to_string())), (4, Some(id)));
    let log = lab.log(task).await;
    let devices = log.trim().strip_prefix("devices ").expect("it says what it sees").split(',').count();
    assert_eq!(devices, 4, "{log}");
    let after = lab.until(small, TaskStatus::Completed).await;
    assert!(after.started_at >= done.ended_at, "it got nothing before: {after:?} {done:?}");
    eventually("the reservation ends with its task", DEADLINE, async || {
        (lab.output(&["reservations", "--json"]).await.trim() == "[]").then_some(())
    })
    .await;
}
