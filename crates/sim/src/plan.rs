//! What a run is made of: a line of text that says all of it, so that a run can be repeated.

use crate::{Bug, Fault};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// A run. Two runs of one plan are the same to the last event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Machines, each with one worker.
    pub workers: u32,
    /// Tasks submitted while faults strike.
    pub tasks: u32,
    /// Time in which they do, minutes.
    pub minutes: u32,
    /// What may strike.
    pub faults: BTreeSet<Fault>,
    /// A bug to plant.
    pub bug: Option<Bug>,
}

/// How large a run is; what is not given is drawn from its seed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Size {
    /// Machines.
    pub workers: Option<u32>,
    /// Tasks.
    pub tasks: Option<u32>,
    /// Time in which faults strike, minutes.
    pub minutes: Option<u32>,
}

impl Size {
    /// All of it given.
    pub const fn of(workers: u32, tasks: u32, minutes: u32) -> Self {
        Self { workers: Some(workers), tasks: Some(tasks), minutes: Some(minutes) }
    }
}

impl Plan {
    /// The plan of a seed: which faults strike is drawn from it, so that some runs see one kind alone and
    /// others all at once (swarm testing: Groce et al., ISSTA 2012), and so is what the size leaves open: small
    /// worlds, in which more of what happens meets, more often than large ones.
    pub fn of_seed(seed: u64, size: Size) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed ^ 0x5741_524d);
        let share = [0.15, 0.35, 0.6, 1.0][chance.usize(..4)];
        let faults = Fault::ALL.into_iter().filter(|_| chance.f64() < share).collect();
        let mut drawn = |given: Option<u32>, least: f64, most: f64| {
            let value = (least * (most / least).powf(chance.f64())).round() as u32;
            given.unwrap_or(value)
        };
        let workers = drawn(size.workers, 1.0, 20.0);
        // So that what is submitted can be done in time.
        let tasks = drawn(size.tasks, 2.0 * f64::from(workers), 25.0 * f64::from(workers));
        let minutes = drawn(size.minutes, 5.0, 60.0);
        Self { seed, workers, tasks, minutes, faults, bug: None }
    }

    /// The same with a planted bug.
    #[must_use]
    pub fn with_bug(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, workers, tasks, minutes, faults, bug } = self;
        let faults: Vec<_> = faults.iter().map(|fault| fault.as_str()).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join("+") };
        write!(f, "seed={seed},workers={workers},tasks={tasks},minutes={minutes},faults={faults}")?;
        bug.map_or(Ok(()), |bug| write!(f, ",bug={bug}"))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self { seed: 0, workers: 20, tasks: 500, minutes: 60, faults: BTreeSet::new(), bug: None };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not name=value"))?;
            let number = || value.parse::<u32>().map_err(|_| format!("{part:?}: not a number"));
            match name {
                "seed" => plan.seed = value.parse().map_err(|_| format!("{part:?}: not a number"))?,
                "workers" => plan.workers = number()?.max(1),
                "tasks" => plan.tasks = number()?,
                "minutes" => plan.minutes = number()?,
                "faults" if value == "none" => plan.faults.clear(),
                "faults" => plan.faults = value.split('+').map(str::parse).collect::<Result<_, _>>()?,
                "bug" => plan.bug = Some(value.parse()?),
                _ => return Err(format!("{name:?} is no part of a plan: seed, workers, tasks, minutes, faults, bug")),
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_as_written() {
        for seed in 0..50 {
            let plan = Plan::of_seed(seed, Size::of(3, 40, 9));
            assert_eq!(plan.to_string().parse(), Ok(plan.clone()));
            let plan = plan.with_bug(Bug::NoFence);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        assert!("seed".parse::<Plan>().is_err());
        assert!("faults=rain".parse::<Plan>().is_err());
        assert!("weather=fine".parse::<Plan>().is_err());
    }
}
