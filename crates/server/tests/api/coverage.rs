//! Every operation has its cases: this does not compile until a new operation names them, and the
//! refusals (no key, wrong role) run over all operations in `auth`.

use crate::{
    arrays, artifacts, audit, auth, bad_input, blobs, checkpoints, connect, datasets, docs_page, document, experiments,
    gc, health, keys, logs, metrics, queue, quotas, run_manifest, scheduler, secrets, server_metrics, snapshots, tasks,
    usage, webhooks, whoami, ws,
};
use fetchml_server::Operation;

struct Cases {
    /// It works.
    success: fn(),
    /// Somebody else's, or nothing there.
    missing: Option<fn()>,
    /// What cannot be read or meant.
    bad_input: Option<fn()>,
}

fn cases(operation: Operation) -> Cases {
    use Operation as O;
    let all = |success, missing, bad_input| Cases { success, missing: Some(missing), bad_input: Some(bad_input) };
    let plain = |success| Cases { success, missing: None, bad_input: None };
    match operation {
        O::Health => plain(health::says_how_the_server_is),
        O::Document => plain(document::is_served_complete),
        O::DocsPage => plain(docs_page::is_served_under_a_strict_policy),
        O::DocsFile => Cases {
            missing: Some(docs_page::unknown_files_are_404),
            ..plain(docs_page::is_served_under_a_strict_policy)
        },
        O::ServerMetrics => plain(server_metrics::move_as_a_task_runs),
        O::TaskList => {
            Cases { bad_input: Some(bad_input::query_parameters), ..plain(tasks::list::pages_from_the_newest) }
        }
        O::TaskCreate => {
            Cases { bad_input: Some(bad_input::every_field_of_a_task), ..plain(tasks::create::is_stored_and_shown) }
        }
        O::TaskShow => {
            all(tasks::show::shows_output_and_hides_env, auth::unknown_ids_are_404, bad_input::query_parameters)
        }
        O::TaskDelete => all(
            tasks::delete::ends_a_queued_task,
            tasks::delete::refuses_what_belongs_to_others,
            bad_input::query_parameters,
        ),
        O::ArrayShow => {
            Cases { missing: Some(auth::unknown_ids_are_404), ..plain(arrays::are_made_shown_and_cancelled_as_one) }
        }
        O::ArrayDelete => Cases {
            missing: Some(arrays::of_others_are_left_alone),
            ..plain(arrays::are_made_shown_and_cancelled_as_one)
        },
        O::LogRead => all(logs::exact_bytes_and_ranges, auth::unknown_ids_are_404, bad_input::query_parameters),
        O::ArtifactList => all(artifacts::are_listed_and_read, auth::unknown_ids_are_404, bad_input::query_parameters),
        O::ArtifactRead => {
            all(artifacts::are_listed_and_read, artifacts::unknown_ones_are_404, bad_input::query_parameters)
        }
        O::CheckpointShow => {
            Cases { missing: Some(checkpoints::there_is_none), ..plain(checkpoints::are_stored_and_shown) }
        }
        O::CheckpointPut => all(
            checkpoints::are_stored_and_shown,
            checkpoints::there_is_none,
            checkpoints::what_cannot_be_laid_out_is_refused,
        ),
        O::GcRun => {
            Cases { bad_input: Some(bad_input::query_parameters), ..plain(gc::deletes_what_expired_and_says_so) }
        }
        O::GcShow => plain(gc::deletes_what_expired_and_says_so),
        O::RunManifestShow => all(
            run_manifest::tells_how_a_run_came_about,
            run_manifest::there_is_none_before_the_first_attempt,
            bad_input::query_parameters,
        ),
        O::TaskRerun => all(
            tasks::rerun::submits_the_same_again,
            tasks::rerun::others_may_not_and_admins_only_as_it_is,
            tasks::rerun::changes_are_checked_like_a_new_task,
        ),
        O::MetricsShow => {
            all(metrics::are_answered_as_series, metrics::a_task_without_attempts_has_none, bad_input::query_parameters)
        }
        O::DatasetList => plain(datasets::are_registered_listed_and_forgotten),
        O::DatasetCreate => Cases {
            bad_input: Some(datasets::bad_ones_are_refused_with_every_problem),
            ..plain(datasets::are_registered_listed_and_forgotten)
        },
        O::DatasetShow | O::DatasetDelete => Cases {
            missing: Some(datasets::belong_to_who_registered_them),
            ..plain(datasets::are_registered_listed_and_forgotten)
        },
        O::ExperimentList => {
            Cases { bad_input: Some(bad_input::query_parameters), ..plain(experiments::are_made_found_and_changed) }
        }
        O::ExperimentCreate => Cases {
            bad_input: Some(experiments::bad_ones_are_refused_with_every_problem),
            ..plain(experiments::are_made_found_and_changed)
        },
        O::ExperimentShow => Cases {
            missing: Some(experiments::belong_to_who_made_them),
            ..plain(experiments::are_made_found_and_changed)
        },
        O::ExperimentEdit => all(
            experiments::are_made_found_and_changed,
            experiments::belong_to_who_made_them,
            experiments::bad_ones_are_refused_with_every_problem,
        ),
        O::QueueShow => plain(queue::counts),
        O::WorkerList => plain(scheduler::workers::are_listed),
        O::WorkerShow => {
            Cases { missing: Some(scheduler::workers::unknown_ones_are_404), ..plain(scheduler::workers::are_listed) }
        }
        O::StatusShow => plain(scheduler::status::counts_what_waits_runs_and_ended),
        O::StatusStream => Cases {
            bad_input: Some(scheduler::stream::places_that_cannot_be_read),
            ..plain(scheduler::stream::tells_of_tasks_workers_and_the_whole)
        },
        O::JobStream => all(
            scheduler::stream::a_job_is_followed_to_its_end,
            scheduler::stream::unknown_jobs_are_404,
            scheduler::stream::places_that_cannot_be_read,
        ),
        O::ReservationList => plain(scheduler::reservations::are_made_listed_claimed_and_end_with_their_task),
        O::ReservationCreate => Cases {
            bad_input: Some(scheduler::reservations::bad_requests),
            ..plain(scheduler::reservations::are_made_listed_claimed_and_end_with_their_task)
        },
        O::ReservationRelease => Cases {
            missing: Some(auth::unknown_ids_are_404),
            ..plain(scheduler::reservations::are_released_by_their_owner_and_by_who_may)
        },
        O::Whoami => plain(whoami::says_who_the_key_makes_its_sender),
        O::KeyList => plain(keys::are_made_listed_and_revoked),
        O::KeyCreate => {
            Cases { bad_input: Some(bad_input::every_field_of_a_key), ..plain(keys::are_made_listed_and_revoked) }
        }
        O::KeyRevoke => Cases { missing: Some(auth::unknown_ids_are_404), ..plain(keys::are_made_listed_and_revoked) },
        O::SnapshotCreate => {
            Cases { bad_input: Some(snapshots::bad_manifests), ..plain(snapshots::are_negotiated_and_stored) }
        }
        O::SnapshotRead => {
            Cases { missing: Some(auth::unknown_ids_are_404), ..plain(snapshots::are_negotiated_and_stored) }
        }
        O::BlobPut => all(blobs::are_stored_and_read, auth::unknown_ids_are_404, blobs::bytes_that_do_not_match),
        O::BlobRead => Cases { missing: Some(auth::unknown_ids_are_404), ..plain(blobs::are_stored_and_read) },
        O::SecretList => plain(secrets::are_set_listed_and_deleted),
        O::SecretPut => all(
            secrets::are_set_listed_and_deleted,
            secrets::a_task_names_only_its_owners,
            secrets::values_that_cannot_be,
        ),
        O::SecretDelete => {
            Cases { missing: Some(auth::unknown_ids_are_404), ..plain(secrets::are_set_listed_and_deleted) }
        }
        O::AttemptSecrets => all(
            secrets::are_given_to_the_worker_that_holds_the_attempt,
            secrets::nobody_else_is_given_any,
            secrets::what_a_worker_asks_is_checked,
        ),
        O::TaskExplain => Cases {
            missing: Some(auth::unknown_ids_are_404),
            ..plain(tasks::explain::says_why_a_task_waits_and_what_would_help)
        },
        O::JobPriority => all(
            scheduler::priority::changes_while_it_has_not_ended,
            scheduler::priority::belongs_to_the_owner,
            scheduler::priority::that_cannot_be,
        ),
        O::WorkerDrain => all(
            scheduler::drain::takes_nothing_new_and_may_be_taken_back,
            scheduler::drain::unknown_ones_are_404,
            bad_input::query_parameters,
        ),
        O::WorkerUndrain => Cases {
            missing: Some(scheduler::drain::unknown_ones_are_404),
            ..plain(scheduler::drain::takes_nothing_new_and_may_be_taken_back)
        },
        O::UsageShow => Cases { bad_input: Some(bad_input::query_parameters), ..plain(usage::is_counted_and_shown) },
        O::QuotaList => plain(quotas::are_set_listed_and_removed),
        O::QuotaPut => all(quotas::are_set_listed_and_removed, quotas::for_nobody_are_404, quotas::that_cannot_be),
        O::QuotaDelete => {
            Cases { missing: Some(quotas::for_nobody_are_404), ..plain(quotas::are_set_listed_and_removed) }
        }
        O::AuditList => Cases {
            bad_input: Some(bad_input::query_parameters),
            ..plain(audit::events_are_filtered_paged_and_can_be_verified_by_hand)
        },
        O::AuditVerify => plain(audit::a_verification_says_what_it_found_and_is_recorded),
        O::AuditVerifyStop => Cases {
            missing: Some(audit::a_verification_says_what_it_found_and_is_recorded),
            ..plain(audit::one_that_runs_can_be_stopped)
        },
        O::AuditRoot => plain(audit::the_end_of_the_log_is_shown),
        O::WebSocket => {
            Cases { bad_input: Some(ws::what_is_not_allowed_closes_it), ..plain(ws::tells_of_tasks_and_resumes) }
        }
        O::WebhookList => plain(webhooks::hear_of_own_tasks_signed),
        O::WebhookCreate => {
            Cases { bad_input: Some(webhooks::urls_that_may_not_be_asked), ..plain(webhooks::hear_of_own_tasks_signed) }
        }
        O::WebhookDelete => Cases {
            missing: Some(webhooks::unknown_ones_are_404),
            ..plain(webhooks::belong_to_their_users_and_are_deleted)
        },
        O::WsTicketCreate => plain(ws::a_ticket_opens_it_once),
        O::WorkerConnect => Cases { bad_input: Some(connect::without_upgrade), ..plain(connect::a_worker_joins) },
    }
}

/// What a route takes decides which cases it must have.
#[test]
fn every_operation_has_the_cases_it_needs() {
    let document = serde_json::to_value(fetchml_server::openapi()).unwrap();
    for operation in Operation::ALL {
        let Cases { success, missing, bad_input } = cases(operation);
        assert_ne!(Some(success as usize), bad_input.map(|f| f as usize), "{operation:?}: one test for two cases");
        let (method, path) = operation.route();
        let documented = &document["paths"][path][method];
        let responses = &documented["responses"];
        assert_eq!(missing.is_some(), responses.get("404").is_some(), "{operation:?}: 404");
        let takes_input = responses.get("400").is_some() || responses.get("422").is_some();
        assert_eq!(bad_input.is_some(), takes_input, "{operation:?}: bad input");
    }
}
