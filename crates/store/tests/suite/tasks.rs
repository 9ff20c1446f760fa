//! Lists, totals and counts of tasks.

use crate::{Fixture, build::*};
use fetchml_api::{ArrayMember, Dependency, DependencyOn, Micros, TaskState, TaskStatus};
use fetchml_store::{ArrayCounts, QueueCounts, TaskFilter, Write};
use std::{collections::BTreeMap, sync::Arc};

pub(crate) async fn lists_filter_page_and_count(fixture: Fixture) {
    let store = &fixture.store;
    // 30 tasks: three users in turn, two names in turn; every fifth is running.
    let mut writes: Vec<Write> =
        (0..30).map(|n| insert(n, ["ann", "bob", "eve"][n as usize % 3], ["x", "y"][n as usize % 2])).collect();
    for n in (0..30).step_by(5) {
        writes.push(Write::TaskUpdate(TaskState { status: TaskStatus::Running, ..queued(n) }));
    }
    store.commit(writes).await.unwrap();
    let all: Vec<u64> = (0..30).rev().collect();
    let filters = [None, Some("ann"), Some("nobody"), Some("\0")];
    for user in filters {
        for status in [None, Some(TaskStatus::Running), Some(TaskStatus::Failed)] {
            for name in [None, Some("x"), Some("z")] {
                let want: Vec<u64> = all
                    .iter()
                    .copied()
                    .filter(|n| user.is_none_or(|user| ["ann", "bob", "eve"][*n as usize % 3] == user))
                    .filter(|n| name.is_none_or(|name| ["x", "y"][*n as usize % 2] == name))
                    .filter(|n| {
                        status.is_none_or(|status| {
                            status == if n % 5 == 0 { TaskStatus::Running } else { TaskStatus::Queued }
                        })
                    })
                    .collect();
                let filter = TaskFilter {
                    status,
                    user_id: user.map(Into::into),
                    job_name: name.map(Into::into),
                    limit: 1_000,
                    ..TaskFilter::default()
                };
                assert_page(&fixture, &filter, &want, want.len()).await;
                let paged = TaskFilter { offset: 2, limit: 3, ..filter.clone() };
                let page: Vec<u64> = want.iter().copied().skip(2).take(3).collect();
                assert_page(&fixture, &paged, &page, want.len()).await;
                let keyset = TaskFilter { before: Some(task_id(15)), limit: 4, ..filter.clone() };
                let page: Vec<u64> = want.iter().copied().filter(|n| *n < 15).take(4).collect();
                assert_page(&fixture, &keyset, &page, want.len()).await;
                assert_page(&fixture, &TaskFilter { limit: 0, ..filter }, &[], want.len()).await;
            }
        }
    }
}

pub(crate) async fn lists_filter_by_time_and_metadata(fixture: Fixture) {
    let odd = "a\"b.c$[0] ü\\";
    let with = |n, entries: &[(&str, &str)]| {
        let mut spec = spec(n, ["ann", "bob"][n as usize % 2], "x");
        spec.metadata = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Write::TaskInsert(Arc::new(spec), queued(n))
    };
    let tasks = [
        with(0, &[]),
        with(1, &[("lr", "0.1")]),
        with(2, &[("lr", "0.1"), ("model", "x")]),
        with(3, &[("lr", "1"), (odd, odd)]),
        with(4, &[("model", "0.1"), ("x", "lr")]),
    ];
    fixture.store.commit(tasks.into()).await.unwrap();
    let all = TaskFilter { limit: 10, ..TaskFilter::default() };
    let by = |entries: &[(&str, &str)]| TaskFilter {
        metadata: entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..all.clone()
    };
    assert_page(&fixture, &by(&[("lr", "0.1")]), &[2, 1], 2).await;
    assert_page(&fixture, &by(&[("lr", "0.1"), ("model", "x")]), &[2], 1).await;
    assert_page(&fixture, &by(&[(odd, odd)]), &[3], 1).await;
    for none in
        [("lr", "x"), ("LR", "0.1"), ("lr", ""), ("", ""), ("\0", "\0"), ("$.lr", "0.1"), ("lr' OR 1=1 --", "1")]
    {
        assert_page(&fixture, &by(&[none]), &[], 0).await;
    }
    // The task n was created n microseconds after NOW.
    let time = |after: Option<i64>, before: Option<i64>| TaskFilter {
        created_after: after.map(|at| Micros(NOW.0 + at)),
        created_before: before.map(|at| Micros(NOW.0 + at)),
        ..all.clone()
    };
    assert_page(&fixture, &time(Some(2), None), &[4, 3], 2).await;
    assert_page(&fixture, &time(None, Some(2)), &[1, 0], 2).await;
    assert_page(&fixture, &time(Some(0), Some(3)), &[2, 1], 2).await;
    assert_page(&fixture, &time(Some(3), Some(2)), &[], 0).await;
    let narrow = TaskFilter { before: Some(task_id(3)), limit: 1, offset: 1, ..time(Some(-1), None) };
    assert_page(&fixture, &narrow, &[1], 5).await;
    let both = TaskFilter { user_id: Some("bob".into()), ..time(Some(0), Some(3)) };
    assert_page(&fixture, &TaskFilter { metadata: by(&[("lr", "0.1")]).metadata, ..both }, &[1], 1).await;
}

async fn assert_page(fixture: &Fixture, filter: &TaskFilter, want: &[u64], total: usize) {
    let (page, counted) = fixture.store.tasks(filter).await.unwrap();
    let ids: Vec<_> = page.iter().map(|task| task.state.id).collect();
    assert_eq!(ids, want.iter().map(|n| task_id(*n)).collect::<Vec<_>>(), "{filter:?}");
    assert_eq!(counted, total as i64, "{filter:?}");
}

pub(crate) async fn hidden_tasks_are_gone_from_reads(fixture: Fixture) {
    let store = &fixture.store;
    store.commit(vec![insert(1, "ann", "a"), insert(2, "ann", "a")]).await.unwrap();
    let hidden = TaskState { hidden: true, ..full_state(1) };
    for _ in 0..2 {
        store.commit(vec![Write::TaskUpdate(hidden.clone())]).await.unwrap();
        assert_eq!(store.task(task_id(1)).await.unwrap(), None);
        for job_name in [None, Some("a".to_owned())] {
            let filter = TaskFilter { job_name, limit: 10, ..TaskFilter::default() };
            assert_page(&fixture, &filter, &[2], 1).await;
        }
    }
    assert_eq!(store.queue_counts(Micros(0)).await.unwrap(), QueueCounts { queued: 1, ..QueueCounts::default() });
    assert_eq!(store.restore().await.unwrap().last_task_id, Some(task_id(2)));
}

pub(crate) async fn queue_counts_know_since_when(fixture: Fixture) {
    let store = &fixture.store;
    let statuses = [
        (TaskStatus::Queued, None),
        (TaskStatus::Preparing, None),
        (TaskStatus::Running, None),
        (TaskStatus::Collecting, None),
        (TaskStatus::Completed, Some(10)),
        (TaskStatus::Completed, Some(20)),
        (TaskStatus::Completed, Some(21)),
        (TaskStatus::Failed, Some(19)),
        (TaskStatus::Failed, Some(20)),
    ];
    let writes = statuses.iter().zip(1..).map(|((status, ended), n)| {
        let state = TaskState { status: *status, ended_at: ended.map(Micros), ..queued(n) };
        Write::TaskInsert(Arc::new(spec(n, "ann", "a")), state)
    });
    store.commit(writes.collect()).await.unwrap();
    let counts = store.queue_counts(Micros(20)).await.unwrap();
    assert_eq!(counts, QueueCounts { queued: 1, running: 3, completed: 2, failed: 1 });
    let mut by_status = store.tasks_by_status().await.unwrap();
    by_status.sort_by_key(|(status, _)| TaskStatus::ALL.iter().position(|known| known == status));
    assert_eq!(by_status.iter().map(|(_, tasks)| *tasks).collect::<Vec<_>>(), [1, 1, 1, 1, 3, 2]);
}

pub(crate) async fn completed_tasks_of_the_last_day_are_counted_by_minute(fixture: Fixture) {
    let store = &fixture.store;
    let minute = 60_000_000;
    let ended = |n, status, at: i64| {
        let at = Micros(NOW.0 + at);
        [insert(n, "ann", "a"), Write::TaskUpdate(TaskState { status, ended_at: Some(at), ..queued(n) })]
    };
    let writes = [
        ended(1, TaskStatus::Completed, 0),
        ended(2, TaskStatus::Completed, minute),
        ended(3, TaskStatus::Completed, minute),
        ended(4, TaskStatus::Failed, minute),
        ended(5, TaskStatus::Completed, -24 * 60 * minute - 1),
    ];
    let latest = Write::Audit(fetchml_api::AuditDraft { at: NOW, ..audit("x") });
    store.commit(writes.into_iter().flatten().chain([latest]).collect()).await.unwrap();
    let mut counted = store.restore().await.unwrap().completed_by_minute;
    counted.sort_unstable();
    let first = NOW.0 / minute;
    assert_eq!(counted, [(first, 1), (first + 1, 2)]);
}

/// A task of the array 900.
fn member(n: u64, status: TaskStatus) -> Write {
    let mut spec = spec(n, "ann", "a");
    spec.depends_on = Vec::new();
    spec.array = Some(ArrayMember { id: task_id(900), index: n as u32, count: 9, max_running: None });
    let ended_at = status.is_terminal().then_some(NOW);
    Write::TaskInsert(Arc::new(spec), TaskState { status, ended_at, ..queued(n) })
}

pub(crate) async fn arrays_are_found_by_their_tasks(fixture: Fixture) {
    let store = &fixture.store;
    assert_eq!(store.array(task_id(900)).await.unwrap(), None);
    let others = [insert(1, "ann", "a"), insert(5, "ann", "a")];
    let members = [member(2, TaskStatus::Completed), member(3, TaskStatus::Queued), member(4, TaskStatus::Completed)];
    store.commit(others.into_iter().chain(members).collect()).await.unwrap();
    let filter = TaskFilter { array: Some(task_id(900)), limit: 10, ..TaskFilter::default() };
    assert_page(&fixture, &filter, &[4, 3, 2], 3).await;
    let array = store.array(task_id(900)).await.unwrap().unwrap();
    assert_eq!(array.first.state.id, task_id(2));
    let shown = |completed, queued| BTreeMap::from([(TaskStatus::Completed, completed), (TaskStatus::Queued, queued)]);
    let expected = ArrayCounts { tasks: 3, shown: shown(2, 1), is_over: false, is_well: true };
    assert_eq!(array.counts, expected);
    store.commit(vec![Write::TaskHide { id: task_id(2), at: NOW }]).await.unwrap();
    let array = store.array(task_id(900)).await.unwrap().unwrap();
    assert_eq!((array.first.state.id, array.counts), (task_id(3), ArrayCounts { shown: shown(1, 1), ..expected }));
    let failed = TaskState { status: TaskStatus::Failed, ended_at: Some(NOW), ..queued(3) };
    store.commit(vec![Write::TaskUpdate(failed)]).await.unwrap();
    let counts = store.array(task_id(900)).await.unwrap().unwrap().counts;
    assert_eq!((counts.is_over, counts.is_well), (true, false));
}

pub(crate) async fn a_restart_is_told_how_what_is_needed_ended(fixture: Fixture) {
    let store = &fixture.store;
    let needs = |n: u64, blocked: bool, needs: &[u64]| {
        let mut spec = spec(n, "ann", "a");
        spec.depends_on = needs.iter().map(|&n| Dependency { id: task_id(n), on: DependencyOn::Ok }).collect();
        Write::TaskInsert(Arc::new(spec), TaskState { blocked, ..queued(n) })
    };
    let ended = |n: u64, status| Write::TaskUpdate(TaskState { status, ended_at: Some(NOW), ..queued(n) });
    let mut writes: Vec<Write> = [1, 2, 3, 4].map(|n| insert(n, "ann", "a")).into();
    writes.extend([ended(1, TaskStatus::Completed), ended(2, TaskStatus::Failed), ended(4, TaskStatus::Failed)]);
    writes.push(Write::TaskHide { id: task_id(2), at: NOW });
    // 3 lives, 77 is not there, 4 is needed by nobody who is blocked.
    writes.extend([needs(10, true, &[1, 2, 3, 77, 900]), needs(11, false, &[4])]);
    writes.extend([member(20, TaskStatus::Completed), member(21, TaskStatus::Failed)]);
    store.commit(writes).await.unwrap();
    let told = |restored: fetchml_store::Restored| restored.ended.into_iter().collect::<Vec<_>>();
    let expected = [(task_id(1), true), (task_id(2), false), (task_id(900), false)];
    assert_eq!(told(store.restore().await.unwrap()), expected);
    // An array of which some live is told of whoever needs it.
    store.commit(vec![needs(10, true, &[]), member(22, TaskStatus::Queued)]).await.unwrap_err();
    store.commit(vec![member(22, TaskStatus::Queued), ended(10, TaskStatus::Failed)]).await.unwrap();
    assert_eq!(told(store.restore().await.unwrap()), [(task_id(900), false)]);
}
