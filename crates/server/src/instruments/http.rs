//! Requests by route, method and class of status. A series is made when it is first met: most of those that could
//! be never are.

use super::{counter, gauge, histogram, table};
use crate::auth::Operation;
use axum::http::StatusCode;
use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::PrometheusRecorder;
use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// What is said of a path that does not exist, or that does not take the method.
const OTHER: &str = "other";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests.
pub(crate) struct Http {
    in_flight: Gauge,
    /// By [`Operation`]; the last is [`OTHER`].
    routes: Vec<Route>,
}

#[derive(Default)]
struct Route {
    seconds: OnceLock<Histogram>,
    answered: [OnceLock<Counter>; CLASSES.len()],
}

impl Http {
    pub(super) fn new(recorder: &PrometheusRecorder) -> Self {
        let routes = (0..=Operation::ALL.len()).map(|_| Route::default()).collect();
        Self { in_flight: gauge(recorder, &table::HTTP_IN_FLIGHT, &[]), routes }
    }

    fn record(&self, recorder: &PrometheusRecorder, operation: Option<Operation>, status: StatusCode, took: Duration) {
        let (place, method, route) = match operation {
            Some(operation) => {
                let (method, route) = operation.route();
                (operation as usize, upper_case(method), route)
            }
            None => (Operation::ALL.len(), OTHER, OTHER),
        };
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let Route { seconds, answered } = &self.routes[place];
        seconds.get_or_init(|| histogram(recorder, &table::HTTP_SECONDS, &[method, route])).record(took);
        let make = || counter(recorder, &table::HTTP_REQUESTS, &[method, route, CLASSES[class]]);
        answered[class].get_or_init(make).increment(1);
    }
}

/// As Prometheus' users write methods. `HEAD` counts as the `GET` that answers it.
fn upper_case(method: &'static str) -> &'static str {
    match method {
        "get" => "GET",
        "put" => "PUT",
        "post" => "POST",
        "patch" => "PATCH",
        "delete" => "DELETE",
        other => other,
    }
}

/// A request that is worked on. One whose client goes away before it is answered is counted nowhere.
pub(crate) struct InFlight<'a> {
    instruments: &'a super::Instruments,
    began: Instant,
}

impl super::Instruments {
    /// A request has come.
    pub(crate) fn request(&self) -> InFlight<'_> {
        self.http.in_flight.increment(1);
        InFlight { instruments: self, began: Instant::now() }
    }
}

impl InFlight<'_> {
    /// It is answered; returns how long that took.
    pub(crate) fn answered(self, operation: Option<Operation>, status: StatusCode) -> Duration {
        let took = self.began.elapsed();
        let super::Instruments { http, recorder, .. } = self.instruments;
        http.record(recorder, operation, status, took);
        took
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.instruments.http.in_flight.decrement(1);
    }
}
