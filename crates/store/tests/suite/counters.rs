//! Counters equal a recount after any writes.

use crate::{Fixture, build::*};
use fetchml_api::{TaskState, TaskStatus};
use fetchml_store::{TaskFilter, Write};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use std::collections::BTreeMap;

const USERS: [&str; 3] = ["ann", "bob", "eve"];

/// A task by number (made when new), its next status and whether it is hidden; or a commit that is refused.
#[derive(Clone, Debug)]
enum Step {
    Put(u64, TaskStatus, bool),
    Refused,
}

pub(crate) async fn counters_equal_a_recount(fixture: Fixture) {
    let step = prop_oneof![
        20 => (0_u64..40, proptest::sample::select(&TaskStatus::ALL[..]), proptest::bool::weighted(0.2))
            .prop_map(|(n, status, hidden)| Step::Put(n, status, hidden)),
        1 => Just(Step::Refused),
    ];
    let commits = proptest::collection::vec(proptest::collection::vec(step, 1..12), 60);
    let mut runner = TestRunner::new(Config::default());
    let commits = commits.new_tree(&mut runner).unwrap().current();
    let mut known: BTreeMap<u64, (TaskStatus, bool)> = BTreeMap::new();
    for steps in commits {
        let mut writes = Vec::new();
        let mut next = known.clone();
        let mut refused = false;
        for step in &steps {
            match *step {
                Step::Put(n, status, hidden) => {
                    if next.insert(n, (status, hidden)).is_none() {
                        writes.push(insert(n, USERS[n as usize % 3], "a"));
                    }
                    writes.push(Write::TaskUpdate(TaskState { status, hidden, ..queued(n) }));
                }
                Step::Refused => {
                    refused = true;
                    writes.push(Write::TaskUpdate(queued(999)));
                }
            }
        }
        assert_eq!(fixture.store.commit(writes).await.is_err(), refused, "{steps:?}");
        if !refused {
            known = next;
        }
        for user in USERS {
            for status in TaskStatus::ALL {
                let filter = TaskFilter { status: Some(status), user_id: Some(user.into()), ..TaskFilter::default() };
                let counted = fixture.store.tasks(&filter).await.unwrap().1;
                let recount = known
                    .iter()
                    .filter(|(n, state)| USERS[**n as usize % 3] == user && **state == (status, false))
                    .count();
                assert_eq!(counted, recount as i64, "{user} {status:?} after {steps:?}");
            }
        }
    }
}
