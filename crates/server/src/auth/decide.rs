//! The one table of who may do what. An operation that is not decided here does not compile; a
//! route without an operation cannot be registered.

use crate::options::Visibility;
use fetchml_api::Role;

/// Every operation of the API, one per route and method.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    /// `GET /health`
    Health,
    /// `GET /openapi.json`
    Document,
    /// `GET /docs`
    DocsPage,
    /// `GET /docs/{file}`
    DocsFile,
    /// `GET /metrics`
    ServerMetrics,
    /// `GET /v1/tasks`
    TaskList,
    /// `POST /v1/tasks`
    TaskCreate,
    /// `GET /v1/tasks/{taskId}`
    TaskShow,
    /// `DELETE /v1/tasks/{taskId}`
    TaskDelete,
    /// `POST /v1/tasks/{taskId}/rerun`
    TaskRerun,
    /// `GET /v1/arrays/{arrayId}`
    ArrayShow,
    /// `DELETE /v1/arrays/{arrayId}`
    ArrayDelete,
    /// `GET /v1/tasks/{taskId}/logs`
    LogRead,
    /// `GET /v1/tasks/{taskId}/artifacts`
    ArtifactList,
    /// `GET /v1/tasks/{taskId}/artifacts/{path}`
    ArtifactRead,
    /// `GET /v1/tasks/{taskId}/checkpoint`
    CheckpointShow,
    /// `PUT /v1/tasks/{taskId}/attempts/{attemptId}/checkpoint`
    CheckpointPut,
    /// `GET /v1/tasks/{taskId}/metrics`
    MetricsShow,
    /// `GET /v1/tasks/{taskId}/manifest`
    RunManifestShow,
    /// `GET /v1/datasets`
    DatasetList,
    /// `POST /v1/datasets`
    DatasetCreate,
    /// `GET /v1/datasets/{name}`
    DatasetShow,
    /// `DELETE /v1/datasets/{name}`
    DatasetDelete,
    /// `GET /v1/experiments`
    ExperimentList,
    /// `POST /v1/experiments`
    ExperimentCreate,
    /// `GET /v1/experiments/{experimentId}`
    ExperimentShow,
    /// `PATCH /v1/experiments/{experimentId}`
    ExperimentEdit,
    /// `GET /v1/queue`
    QueueShow,
    /// `GET /v1/scheduler/workers`
    WorkerList,
    /// `GET /v1/scheduler/workers/{workerId}`
    WorkerShow,
    /// `GET /v1/scheduler/status`
    StatusShow,
    /// `GET /v1/scheduler/status/stream`
    StatusStream,
    /// `GET /v1/scheduler/jobs/{jobId}/stream`
    JobStream,
    /// `GET /ws`
    WebSocket,
    /// `POST /v1/ws-tickets`
    WsTicketCreate,
    /// `GET /v1/webhooks`
    WebhookList,
    /// `POST /v1/webhooks`
    WebhookCreate,
    /// `DELETE /v1/webhooks/{webhookId}`
    WebhookDelete,
    /// `GET /v1/scheduler/reservations`
    ReservationList,
    /// `POST /v1/scheduler/reservations`
    ReservationCreate,
    /// `DELETE /v1/scheduler/reservations/{reservationId}`
    ReservationRelease,
    /// `GET /v1/whoami`
    Whoami,
    /// `GET /v1/keys`
    KeyList,
    /// `POST /v1/keys`
    KeyCreate,
    /// `DELETE /v1/keys/{keyId}`
    KeyRevoke,
    /// `POST /v1/snapshots`
    SnapshotCreate,
    /// `GET /v1/snapshots/{snapshotId}`
    SnapshotRead,
    /// `PUT /v1/blobs/{sha256}`
    BlobPut,
    /// `GET /v1/blobs/{sha256}`, also `HEAD`
    BlobRead,
    /// `GET /v1/secrets`
    SecretList,
    /// `PUT /v1/secrets/{name}`
    SecretPut,
    /// `DELETE /v1/secrets/{name}`
    SecretDelete,
    /// `POST /v1/tasks/{taskId}/attempts/{attemptId}/secrets`
    AttemptSecrets,
    /// `GET /v1/workers/connect`
    WorkerConnect,
    /// `POST /v1/admin/gc`
    GcRun,
    /// `GET /v1/admin/gc`
    GcShow,
    /// `GET /v1/tasks/{taskId}/explain`
    TaskExplain,
    /// `PATCH /v1/scheduler/jobs/{jobId}/priority`
    JobPriority,
    /// `DELETE /v1/scheduler/workers/{workerId}`
    WorkerDrain,
    /// `POST /v1/scheduler/workers/{workerId}/undrain`
    WorkerUndrain,
    /// `GET /v1/usage`
    UsageShow,
    /// `GET /v1/admin/quotas`
    QuotaList,
    /// `PUT /v1/admin/quotas/{scope}/{name}`
    QuotaPut,
    /// `DELETE /v1/admin/quotas/{scope}/{name}`
    QuotaDelete,
    /// `GET /v1/audit/events`
    AuditList,
    /// `POST /v1/audit/verify`
    AuditVerify,
    /// `DELETE /v1/audit/verify`
    AuditVerifyStop,
    /// `GET /v1/audit/chain-root`
    AuditRoot,
}

/// What a role may do with an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing.
    Deny,
    /// Only on what belongs to the key's user.
    Own,
    /// Everything.
    Allow,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 68] = [
        Self::Health,
        Self::Document,
        Self::DocsPage,
        Self::DocsFile,
        Self::ServerMetrics,
        Self::TaskList,
        Self::TaskCreate,
        Self::TaskShow,
        Self::TaskDelete,
        Self::TaskRerun,
        Self::ArrayShow,
        Self::ArrayDelete,
        Self::LogRead,
        Self::ArtifactList,
        Self::ArtifactRead,
        Self::CheckpointShow,
        Self::CheckpointPut,
        Self::MetricsShow,
        Self::RunManifestShow,
        Self::DatasetList,
        Self::DatasetCreate,
        Self::DatasetShow,
        Self::DatasetDelete,
        Self::ExperimentList,
        Self::ExperimentCreate,
        Self::ExperimentShow,
        Self::ExperimentEdit,
        Self::QueueShow,
        Self::WorkerList,
        Self::WorkerShow,
        Self::StatusShow,
        Self::StatusStream,
        Self::JobStream,
        Self::WebSocket,
        Self::WsTicketCreate,
        Self::WebhookList,
        Self::WebhookCreate,
        Self::WebhookDelete,
        Self::ReservationList,
        Self::ReservationCreate,
        Self::ReservationRelease,
        Self::Whoami,
        Self::KeyList,
        Self::KeyCreate,
        Self::KeyRevoke,
        Self::SnapshotCreate,
        Self::SnapshotRead,
        Self::BlobPut,
        Self::BlobRead,
        Self::SecretList,
        Self::SecretPut,
        Self::SecretDelete,
        Self::AttemptSecrets,
        Self::WorkerConnect,
        Self::GcRun,
        Self::GcShow,
        Self::TaskExplain,
        Self::JobPriority,
        Self::WorkerDrain,
        Self::WorkerUndrain,
        Self::UsageShow,
        Self::QuotaList,
        Self::QuotaPut,
        Self::QuotaDelete,
        Self::AuditList,
        Self::AuditVerify,
        Self::AuditVerifyStop,
        Self::AuditRoot,
    ];

    /// Method and path as the API document writes them.
    pub const fn route(self) -> (&'static str, &'static str) {
        match self {
            Self::Health => ("get", "/health"),
            Self::Document => ("get", "/openapi.json"),
            Self::DocsPage => ("get", "/docs"),
            Self::DocsFile => ("get", "/docs/{file}"),
            Self::ServerMetrics => ("get", "/metrics"),
            Self::TaskList => ("get", "/v1/tasks"),
            Self::TaskCreate => ("post", "/v1/tasks"),
            Self::TaskShow => ("get", "/v1/tasks/{taskId}"),
            Self::TaskDelete => ("delete", "/v1/tasks/{taskId}"),
            Self::TaskRerun => ("post", "/v1/tasks/{taskId}/rerun"),
            Self::ArrayShow => ("get", "/v1/arrays/{arrayId}"),
            Self::ArrayDelete => ("delete", "/v1/arrays/{arrayId}"),
            Self::LogRead => ("get", "/v1/tasks/{taskId}/logs"),
            Self::ArtifactList => ("get", "/v1/tasks/{taskId}/artifacts"),
            Self::ArtifactRead => ("get", "/v1/tasks/{taskId}/artifacts/{path}"),
            Self::CheckpointShow => ("get", "/v1/tasks/{taskId}/checkpoint"),
            Self::CheckpointPut => ("put", "/v1/tasks/{taskId}/attempts/{attemptId}/checkpoint"),
            Self::MetricsShow => ("get", "/v1/tasks/{taskId}/metrics"),
            Self::RunManifestShow => ("get", "/v1/tasks/{taskId}/manifest"),
            Self::DatasetList => ("get", "/v1/datasets"),
            Self::DatasetCreate => ("post", "/v1/datasets"),
            Self::DatasetShow => ("get", "/v1/datasets/{name}"),
            Self::DatasetDelete => ("delete", "/v1/datasets/{name}"),
            Self::ExperimentList => ("get", "/v1/experiments"),
            Self::ExperimentCreate => ("post", "/v1/experiments"),
            Self::ExperimentShow => ("get", "/v1/experiments/{experimentId}"),
            Self::ExperimentEdit => ("patch", "/v1/experiments/{experimentId}"),
            Self::QueueShow => ("get", "/v1/queue"),
            Self::WorkerList => ("get", "/v1/scheduler/workers"),
            Self::WorkerShow => ("get", "/v1/scheduler/workers/{workerId}"),
            Self::StatusShow => ("get", "/v1/scheduler/status"),
            Self::StatusStream => ("get", "/v1/scheduler/status/stream"),
            Self::JobStream => ("get", "/v1/scheduler/jobs/{jobId}/stream"),
            Self::WebSocket => ("get", "/ws"),
            Self::WsTicketCreate => ("post", "/v1/ws-tickets"),
            Self::WebhookList => ("get", "/v1/webhooks"),
            Self::WebhookCreate => ("post", "/v1/webhooks"),
            Self::WebhookDelete => ("delete", "/v1/webhooks/{webhookId}"),
            Self::ReservationList => ("get", "/v1/scheduler/reservations"),
            Self::ReservationCreate => ("post", "/v1/scheduler/reservations"),
            Self::ReservationRelease => ("delete", "/v1/scheduler/reservations/{reservationId}"),
            Self::Whoami => ("get", "/v1/whoami"),
            Self::KeyList => ("get", "/v1/keys"),
            Self::KeyCreate => ("post", "/v1/keys"),
            Self::KeyRevoke => ("delete", "/v1/keys/{keyId}"),
            Self::SnapshotCreate => ("post", "/v1/snapshots"),
            Self::SnapshotRead => ("get", "/v1/snapshots/{snapshotId}"),
            Self::BlobPut => ("put", "/v1/blobs/{sha256}"),
            Self::BlobRead => ("get", "/v1/blobs/{sha256}"),
            Self::SecretList => ("get", "/v1/secrets"),
            Self::SecretPut => ("put", "/v1/secrets/{name}"),
            Self::SecretDelete => ("delete", "/v1/secrets/{name}"),
            Self::AttemptSecrets => ("post", "/v1/tasks/{taskId}/attempts/{attemptId}/secrets"),
            Self::WorkerConnect => ("get", "/v1/workers/connect"),
            Self::GcRun => ("post", "/v1/admin/gc"),
            Self::GcShow => ("get", "/v1/admin/gc"),
            Self::TaskExplain => ("get", "/v1/tasks/{taskId}/explain"),
            Self::JobPriority => ("patch", "/v1/scheduler/jobs/{jobId}/priority"),
            Self::WorkerDrain => ("delete", "/v1/scheduler/workers/{workerId}"),
            Self::WorkerUndrain => ("post", "/v1/scheduler/workers/{workerId}/undrain"),
            Self::UsageShow => ("get", "/v1/usage"),
            Self::QuotaList => ("get", "/v1/admin/quotas"),
            Self::QuotaPut => ("put", "/v1/admin/quotas/{scope}/{name}"),
            Self::QuotaDelete => ("delete", "/v1/admin/quotas/{scope}/{name}"),
            Self::AuditList => ("get", "/v1/audit/events"),
            Self::AuditVerify => ("post", "/v1/audit/verify"),
            Self::AuditVerifyStop => ("delete", "/v1/audit/verify"),
            Self::AuditRoot => ("get", "/v1/audit/chain-root"),
        }
    }

    /// Whether it needs no key.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Document | Self::DocsPage | Self::DocsFile)
    }
}

/// The table. Open operations are allowed to every role and to nobody in particular.
pub const fn decide(operation: Operation, role: Role, visibility: Visibility) -> Decision {
    use Decision::{Allow, Deny, Own};
    use Operation as O;
    match operation {
        // Workers stage snapshots and checkpoints; whoever knows the hash of a blob knows it. Metrics name nobody.
        O::Health | O::Document | O::DocsPage | O::DocsFile | O::ServerMetrics | O::SnapshotRead | O::BlobRead => Allow,
        // Everybody with a person's key sees what is there and how it stands. What a task runs is left out of tasks by
        // `Caller::sees_content_of`.
        O::Whoami
        | O::TaskList
        | O::TaskShow
        | O::TaskExplain
        | O::ArrayShow
        | O::DatasetList
        | O::DatasetShow
        | O::ExperimentList
        | O::ExperimentShow
        | O::QueueShow
        | O::WorkerList
        | O::WorkerShow
        | O::StatusShow
        | O::StatusStream
        | O::JobStream
        | O::WebSocket
        | O::WsTicketCreate
        | O::ReservationList
        | O::AuditRoot => match role {
            Role::Admin | Role::Operator | Role::User | Role::Viewer => Allow,
            Role::Worker => Deny,
        },
        // What a task wrote and left.
        O::LogRead | O::ArtifactList | O::ArtifactRead | O::MetricsShow | O::RunManifestShow | O::CheckpointShow => {
            match (role, visibility) {
                (Role::Admin | Role::Operator, _) | (Role::User | Role::Viewer, Visibility::Lab) => Allow,
                (Role::User | Role::Viewer, Visibility::Private) => Own,
                (Role::Worker, _) => {
                    if matches!(operation, O::CheckpointShow) {
                        Allow
                    } else {
                        Deny
                    }
                }
            }
        }
        O::DatasetCreate
        | O::ExperimentCreate
        | O::ReservationCreate
        | O::TaskCreate
        | O::SnapshotCreate
        | O::WebhookCreate => match role {
            Role::Admin | Role::Operator | Role::User => Allow,
            Role::Viewer | Role::Worker => Deny,
        },
        // For snapshots, and for the artifacts and checkpoints that workers upload.
        O::BlobPut => match role {
            Role::Admin | Role::Operator | Role::User | Role::Worker => Allow,
            Role::Viewer => Deny,
        },
        // Nobody sees secrets of others, not even their names.
        O::SecretList | O::SecretPut | O::SecretDelete | O::ExperimentEdit => match role {
            Role::Admin | Role::Operator | Role::User => Own,
            Role::Viewer | Role::Worker => Deny,
        },
        O::TaskDelete | O::TaskRerun | O::JobPriority | O::ArrayDelete | O::ReservationRelease => match role {
            Role::Admin | Role::Operator => Allow,
            Role::User => Own,
            Role::Viewer | Role::Worker => Deny,
        },
        // Whoever runs the server can stop what is sent from it, and must see whose it is.
        O::DatasetDelete | O::WebhookList | O::WebhookDelete => match role {
            Role::Admin => Allow,
            Role::Operator | Role::User => Own,
            Role::Viewer | Role::Worker => Deny,
        },
        O::UsageShow => match role {
            Role::Admin => Allow,
            Role::Operator | Role::User | Role::Viewer => Own,
            Role::Worker => Deny,
        },
        O::WorkerDrain | O::WorkerUndrain | O::AuditList | O::AuditVerify | O::AuditVerifyStop => match role {
            Role::Admin | Role::Operator => Allow,
            Role::User | Role::Viewer | Role::Worker => Deny,
        },
        O::KeyList
        | O::KeyCreate
        | O::KeyRevoke
        | O::GcRun
        | O::GcShow
        | O::QuotaList
        | O::QuotaPut
        | O::QuotaDelete => match role {
            Role::Admin => Allow,
            Role::Operator | Role::User | Role::Viewer | Role::Worker => Deny,
        },
        O::WorkerConnect | O::CheckpointPut | O::AttemptSecrets => match role {
            Role::Worker => Allow,
            Role::Admin | Role::Operator | Role::User | Role::Viewer => Deny,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_listed_once() {
        let mut all = Operation::ALL.to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), Operation::ALL.len());
    }
}
