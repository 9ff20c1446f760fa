//! Every instrument: its name as Prometheus sees it, what kind it is, its labels and what it says. The table of
//! docs/observability.md is this one; a test holds the two together.
//!
//! Architecture Invariant: the values of a label are known when the server is built: words of an enumeration or
//! templates of routes, never what a user, a worker or an address has chosen.

/// How an instrument counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Only grows, from 0 at the start of the server.
    Counter,
    /// As it is now.
    Gauge,
    /// How many took how long.
    Seconds,
    /// How many were how large.
    Size,
}

impl Kind {
    /// Prometheus' word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Seconds | Self::Size => "histogram",
        }
    }

    /// Upper bounds of the buckets of a histogram.
    pub(super) const fn buckets(self) -> Option<&'static [f64]> {
        match self {
            Self::Counter | Self::Gauge => None,
            Self::Seconds => Some(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]),
            Self::Size => Some(&[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
        }
    }
}

/// One instrument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Instrument {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! table {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal)*) => {
        $(pub(super) const $id: Instrument = Instrument {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)*
        /// All of them.
        pub(super) const ALL: &[Instrument] = &[$($id),*];
    };
}

table! {
    TASKS Gauge "fetchml_tasks" ["status"] "Tasks that are listed, by status"
    QUEUE_DEPTH Gauge "fetchml_queue_depth" ["slot"] "Tasks that wait to be placed, by the kind of slot they need"
    SUBMITTED Counter "fetchml_tasks_submitted_total" [] "Tasks that were created, each task of an array counted"
    ENDED Counter "fetchml_tasks_ended_total" ["status", "cause"] "Tasks that ended; the cause of completed ones is none"
    PLACEMENTS Counter "fetchml_placements_total" [] "Assignments to workers, one for each node"
    RESERVATIONS Gauge "fetchml_reservations_active" [] "Reservations that have not expired"
    WORKERS Gauge "fetchml_workers" ["status"] "Workers by status"
    SLOTS Gauge "fetchml_slots" ["slot", "state"] "Slots of connected workers, by kind and by whether they are used or free"
    GPUS Gauge "fetchml_gpus" ["state"] "GPUs of connected workers: available to tasks, withheld or unhealthy"
    GPUS_HELD Gauge "fetchml_gpus_held" [] "GPUs that are given to tasks"
    GPU_BUSY Gauge "fetchml_gpu_busy" [] "How busy GPUs are, summed up: 1 is one GPU that never rests"
    GPU_MEMORY Gauge "fetchml_gpu_memory_bytes" [] "Memory of GPUs of connected workers"
    GPU_MEMORY_USED Gauge "fetchml_gpu_memory_used_bytes" [] "What of it is in use"
    TURN_SECONDS Seconds "fetchml_turn_duration_seconds" [] "Turns of the driver: deciding, committing, acting"
    TURN_COMMANDS Size "fetchml_turn_commands" [] "Commands that a turn took together"
    COMMANDS_WAITING Gauge "fetchml_commands_waiting" [] "Commands that wait for the driver"
    COMMIT_SECONDS Seconds "fetchml_commit_duration_seconds" [] "Transactions that were committed, until they were durable"
    COMMIT_SIZE Size "fetchml_commit_writers" [] "Writers that shared a transaction"
    COMMIT_FAILURES Counter "fetchml_commit_failures_total" [] "Transactions that failed"
    AUDIT_HEAD Gauge "fetchml_audit_sequence" [] "Number of the newest event of the audit log"
    CHANGE_HEAD Gauge "fetchml_change_sequence" [] "Number of the newest change that streams are told of"
    HEALTH Gauge "fetchml_health" ["status"] "1 for what /health says, else 0"
    HTTP_REQUESTS Counter "fetchml_http_requests_total" ["method", "route", "status"] "Requests that were answered, by the class of the status"
    HTTP_SECONDS Seconds "fetchml_http_request_duration_seconds" ["method", "route"] "From the head of a request to the head of its answer"
    HTTP_IN_FLIGHT Gauge "fetchml_http_requests_in_flight" [] "Requests whose answer has not begun"
    HTTP_CONNECTIONS Gauge "fetchml_http_connections_open" [] "Connections"
    HTTP_REJECTED Counter "fetchml_http_rejected_total" ["reason"] "Requests refused for the rate of their key or address, or because the server was busy"
    AUTH_FAILURES Counter "fetchml_auth_failures_total" ["reason"] "Requests without a key that is accepted"
    STREAMS Gauge "fetchml_streams_open" ["kind"] "Streams that are open, and links of workers"
    START_TIME Gauge "process_start_time_seconds" [] "When the process started, seconds since 1970"
    CPU Counter "process_cpu_seconds_total" [] "Processor time that the process has used"
    RESIDENT Gauge "process_resident_memory_bytes" [] "Memory of the process that is resident"
    VIRTUAL Gauge "process_virtual_memory_bytes" [] "Address space of the process"
    THREADS Gauge "process_threads" [] "Threads of the process"
    OPEN_FDS Gauge "process_open_fds" [] "File descriptors that are open"
    MAX_FDS Gauge "process_max_fds" [] "File descriptors that may be open"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs};

    #[test]
    fn names_follow_the_conventions() {
        for Instrument { name, kind, labels, help } in ALL {
            assert!(name.starts_with("fetchml_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(*kind != Kind::Seconds || name.ends_with("_seconds"), "{name}");
            assert!(!labels.iter().any(|label| ["le", "quantile", "user", "name"].contains(label)), "{name}");
            assert!(!help.ends_with('.'), "{name}");
        }
        let names: BTreeSet<_> = ALL.iter().map(|instrument| instrument.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn the_page_lists_exactly_these() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/observability.md");
        let page = fs::read_to_string(path).expect("docs/observability.md");
        let row = |instrument: &Instrument| {
            let labels: Vec<_> = instrument.labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels) = (instrument.kind.as_str(), labels.join(", "));
            format!("| `{}` | {kind} | {labels} | {} |", instrument.name, instrument.help)
        };
        let wanted: Vec<_> = ALL.iter().map(row).collect();
        let found: Vec<_> =
            page.lines().filter(|line| line.starts_with("| `fetchml_") || line.starts_with("| `process_")).collect();
        assert_eq!(found, wanted, "docs/observability.md should have these rows:\n{}", wanted.join("\n"));
    }
}
