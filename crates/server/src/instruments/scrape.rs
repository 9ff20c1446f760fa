//! What is not counted as it happens but looked up when somebody asks: the state of the server's parts.

use super::{Instruments, gauge, process, table, table::Instrument};
use crate::app::App;
use fetchml_api::{GpuState, HealthStatus, Slots, TaskStatus, Worker, WorkerStatus};

/// Everything, in Prometheus' text form.
pub(crate) async fn scrape(app: &App) -> String {
    let instruments = &*app.instruments;
    let set = |instrument: &Instrument, labels: &[&'static str], value: f64| {
        gauge(&instruments.recorder, instrument, labels).set(value);
    };
    match app.store.tasks_by_status().await {
        Ok(counted) => {
            for status in TaskStatus::ALL {
                let tasks: i64 = counted.iter().filter(|(known, _)| *known == status).map(|(_, tasks)| tasks).sum();
                set(&table::TASKS, &[status.as_str()], tasks as f64);
            }
        }
        // The last count stays; that it is old is seen in fetchml_health.
        Err(cause) => tracing::warn!(%cause, "tasks cannot be counted"),
    }
    let status = app.driver.status();
    set(&table::QUEUE_DEPTH, &["batch"], status.batch_queue_depth as f64);
    set(&table::QUEUE_DEPTH, &["service"], status.service_queue_depth as f64);
    set(&table::RESERVATIONS, &[], status.reservations_active as f64);
    set(&table::COMMANDS_WAITING, &[], app.driver.commands_waiting() as f64);
    set(&table::AUDIT_HEAD, &[], app.store.audit_head().0 as f64);
    set(&table::CHANGE_HEAD, &[], *app.store.change_head().borrow() as f64);
    let (health, _) = app.health().await;
    for word in [HealthStatus::Healthy, HealthStatus::Degraded, HealthStatus::Unhealthy] {
        set(&table::HEALTH, &[word.as_str()], f64::from(u8::from(word == health)));
    }
    set_workers(instruments, &app.driver.workers());
    set(&table::GPUS_HELD, &[], app.driver.gpus_held() as f64);
    let mut text = instruments.handle.render();
    process::write(&mut text);
    text
}

/// What workers have and do. What one that is gone has is nobody's to use, and does not count.
fn set_workers(instruments: &Instruments, workers: &[Worker]) {
    let set = |instrument: &Instrument, labels: &[&'static str], value: f64| {
        gauge(&instruments.recorder, instrument, labels).set(value);
    };
    for status in [WorkerStatus::Active, WorkerStatus::Draining, WorkerStatus::Offline] {
        let count = workers.iter().filter(|worker| worker.status == status).count();
        set(&table::WORKERS, &[status.as_str()], count as f64);
    }
    let connected = || workers.iter().filter(|worker| worker.status != WorkerStatus::Offline);
    let slots = |of: fn(&Slots) -> u32| connected().map(|worker| f64::from(of(&worker.slots))).sum::<f64>();
    let (batch_free, service_free) = (slots(|slots| slots.batch_available), slots(|slots| slots.service_available));
    set(&table::SLOTS, &["batch", "free"], batch_free);
    set(&table::SLOTS, &["batch", "used"], slots(|slots| slots.batch_total) - batch_free);
    set(&table::SLOTS, &["service", "free"], service_free);
    set(&table::SLOTS, &["service", "used"], slots(|slots| slots.service_total) - service_free);
    let gpus = || connected().flat_map(|worker| &worker.capabilities.gpus);
    for state in [GpuState::Available, GpuState::Withheld, GpuState::Unhealthy] {
        set(&table::GPUS, &[state.as_str()], gpus().filter(|gpu| gpu.state == state).count() as f64);
    }
    let busy: f64 = gpus().filter_map(|gpu| gpu.utilization_percent).map(|percent| f64::from(percent) / 100.0).sum();
    set(&table::GPU_BUSY, &[], busy);
    let bytes = |of: fn(&fetchml_api::Gpu) -> Option<u64>| gpus().filter_map(of).map(|bytes| bytes as f64).sum::<f64>();
    set(&table::GPU_MEMORY, &[], bytes(|gpu| Some(gpu.memory_bytes)));
    set(&table::GPU_MEMORY_USED, &[], bytes(|gpu| gpu.memory_used_bytes));
}
