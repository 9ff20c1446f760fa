//! A smaller plan that fails too: fewer kinds of fault, fewer tasks, machines and minutes.

use crate::{Plan, run};

/// Tries smaller plans as long as they still break a promise, at most `tries` of them.
pub fn minimise(plan: &Plan, tries: usize) -> Plan {
    let mut best = plan.clone();
    let mut left = tries;
    loop {
        let smaller = smaller_than(&best).into_iter().find(|candidate| {
            left > 0 && {
                left -= 1;
                run(candidate).violation.is_some()
            }
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// Plans that are one step smaller, the greatest steps first.
fn smaller_than(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    for fault in &plan.faults {
        let mut faults = plan.faults.clone();
        faults.remove(fault);
        plans.push(Plan { faults, ..plan.clone() });
    }
    for part in [2, 4, 8] {
        let less = |n: u32| n - n / part;
        let halves = [
            Plan { tasks: less(plan.tasks), ..plan.clone() },
            Plan { workers: less(plan.workers).max(1), ..plan.clone() },
            Plan { minutes: less(plan.minutes), ..plan.clone() },
        ];
        plans.extend(halves.into_iter().filter(|smaller| smaller != plan));
    }
    plans
}
