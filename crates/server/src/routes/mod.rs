//! The routes, one handler per operation, each behind the guard of its [`Operation`].

mod arrays;
mod artifacts;
mod attempts;
mod audit;
mod blobs;
mod checkpoints;
mod connect;
mod datasets;
mod docs_page;
mod experiments;
mod gc;
mod health;
mod keys;
mod logs;
mod metrics;
mod queue;
mod quotas;
mod run_manifest;
mod scheduler;
mod secrets;
mod server_metrics;
mod snapshots;
mod tasks;
mod usage;
mod webhooks;
mod whoami;
mod ws;

pub(crate) use snapshots::hash_of;

use crate::{
    app::App,
    auth::{Operation, guard},
    request,
};
use axum::{Router, extract::State, http::header, middleware, response::IntoResponse};
use std::sync::Arc;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt as _},
    routes,
};

type Route = UtoipaMethodRouter<Arc<App>>;

/// One route per operation: an operation without a route does not compile.
fn route(operation: Operation) -> Route {
    match operation {
        Operation::Health => routes!(health::health),
        Operation::Document => routes!(document),
        Operation::DocsPage => routes!(docs_page::show_docs),
        Operation::DocsFile => routes!(docs_page::read_docs_file),
        Operation::ServerMetrics => routes!(server_metrics::show_server_metrics),
        Operation::TaskList => routes!(tasks::list::list_tasks),
        Operation::TaskCreate => routes!(tasks::create::create_task),
        Operation::TaskRerun => routes!(tasks::rerun::rerun_task),
        Operation::TaskShow => routes!(tasks::show::show_task),
        Operation::TaskDelete => routes!(tasks::delete::delete_task),
        Operation::ArrayShow => routes!(arrays::show_array),
        Operation::ArrayDelete => routes!(arrays::delete_array),
        Operation::LogRead => routes!(logs::read_log),
        Operation::ArtifactList => routes!(artifacts::list_artifacts),
        Operation::ArtifactRead => routes!(artifacts::read_artifact),
        Operation::CheckpointShow => routes!(checkpoints::show_checkpoint),
        Operation::CheckpointPut => routes!(checkpoints::put_checkpoint),
        Operation::GcRun => routes!(gc::run_gc),
        Operation::GcShow => routes!(gc::show_gc),
        Operation::RunManifestShow => routes!(run_manifest::show_run_manifest),
        Operation::TaskExplain => routes!(tasks::explain::explain_task),
        Operation::JobPriority => routes!(scheduler::priority::set_priority),
        Operation::WorkerDrain => routes!(scheduler::workers::drain_worker),
        Operation::WorkerUndrain => routes!(scheduler::workers::undrain_worker),
        Operation::UsageShow => routes!(usage::show_usage),
        Operation::QuotaList => routes!(quotas::list_quotas),
        Operation::QuotaPut => routes!(quotas::put_quota),
        Operation::QuotaDelete => routes!(quotas::delete_quota),
        Operation::AuditList => routes!(audit::list_audit_events),
        Operation::AuditVerify => routes!(audit::verify_audit_log),
        Operation::AuditVerifyStop => routes!(audit::stop_verification),
        Operation::AuditRoot => routes!(audit::show_chain_root),
        Operation::MetricsShow => routes!(metrics::show_metrics),
        Operation::DatasetList => routes!(datasets::list_datasets),
        Operation::DatasetCreate => routes!(datasets::create_dataset),
        Operation::DatasetShow => routes!(datasets::show_dataset),
        Operation::DatasetDelete => routes!(datasets::delete_dataset),
        Operation::ExperimentList => routes!(experiments::list_experiments),
        Operation::ExperimentCreate => routes!(experiments::create_experiment),
        Operation::ExperimentShow => routes!(experiments::show_experiment),
        Operation::ExperimentEdit => routes!(experiments::edit_experiment),
        Operation::QueueShow => routes!(queue::show_queue),
        Operation::WorkerList => routes!(scheduler::workers::list_workers),
        Operation::WorkerShow => routes!(scheduler::workers::show_worker),
        Operation::StatusShow => routes!(scheduler::status::show_status),
        Operation::StatusStream => routes!(scheduler::stream::stream_status),
        Operation::JobStream => routes!(scheduler::stream::stream_job),
        Operation::WebSocket => routes!(ws::open_web_socket),
        Operation::WsTicketCreate => routes!(ws::create_ws_ticket),
        Operation::WebhookList => routes!(webhooks::list_webhooks),
        Operation::WebhookCreate => routes!(webhooks::create_webhook),
        Operation::WebhookDelete => routes!(webhooks::delete_webhook),
        Operation::ReservationList => routes!(scheduler::reservations::list_reservations),
        Operation::ReservationCreate => routes!(scheduler::reservations::create_reservation),
        Operation::ReservationRelease => routes!(scheduler::reservations::release_reservation),
        Operation::Whoami => routes!(whoami::whoami),
        Operation::KeyList => routes!(keys::list_keys),
        Operation::KeyCreate => routes!(keys::create_key),
        Operation::KeyRevoke => routes!(keys::revoke_key),
        Operation::SnapshotCreate => routes!(snapshots::create_snapshot),
        Operation::SnapshotRead => routes!(snapshots::read_snapshot),
        Operation::BlobPut => routes!(blobs::put_blob),
        Operation::BlobRead => routes!(blobs::read_blob),
        Operation::SecretList => routes!(secrets::list_secrets),
        Operation::SecretPut => routes!(secrets::put_secret),
        Operation::SecretDelete => routes!(secrets::delete_secret),
        Operation::AttemptSecrets => routes!(secrets::read_attempt_secrets),
        Operation::WorkerConnect => routes!(connect::connect_worker),
    }
}

/// The API document as the routes give it, without what [`crate::openapi`] adds.
pub(crate) fn bare_document() -> utoipa::openapi::OpenApi {
    let router = Operation::ALL.into_iter().fold(OpenApiRouter::new(), |router, o| router.routes(route(o)));
    router.into_openapi()
}

/// The whole service.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router = OpenApiRouter::new();
    for operation in Operation::ALL {
        let route = route(operation);
        let route = if operation.is_open() {
            route
        } else {
            route.layer(middleware::from_fn_with_state((Arc::clone(app), operation), guard))
        };
        router = router.routes(route.layer(middleware::from_fn_with_state(operation, request::name_operation)));
    }
    let (router, _) = router.with_state(Arc::clone(app)).split_for_parts();
    let surround = middleware::from_fn_with_state(Arc::clone(&app.instruments), request::surround);
    router.fallback(request::unknown_path).layer(surround)
}

/// The API document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi_document", security(()), responses(
    (status = 200, description = "This document", body = serde_json::Value, content_type = "application/json")
))]
async fn document(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], app.document.clone())
}
