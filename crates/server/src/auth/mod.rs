//! Authentication and authorization: keys, their table, the table of who may do what, and the
//! layer that stands before every operation.

mod actor;
mod audit;
mod decide;
pub mod key;
mod keyed;
mod keys;
pub(crate) mod rate;

pub use actor::Actor;
pub use audit::AuthAudit;
pub use decide::{Decision, Operation, decide};
pub use keyed::KeyedHash;
pub(crate) use keys::wall_clock;
pub use keys::{Caller, KeyError, Keys, NewKey, Revoked};
use rate::Standing;

use crate::{
    app::App,
    error::AppError,
    instruments::Rejection,
    limits,
    options::Visibility,
    request::{Peer, drain},
    ws,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use fetchml_api::Role;
use std::{net::IpAddr, sync::Arc, time::Instant};
use tokio::sync::SemaphorePermit;

/// Header that carries the key.
pub const KEY_HEADER: &str = "x-api-key";

/// How far a caller's permission reaches in this operation: set by [`guard`], read by handlers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach(pub Decision);

impl Reach {
    /// Refuses what belongs to somebody else when only own things are allowed.
    ///
    /// # Errors
    /// 403.
    pub fn check_owner(self, caller: &Caller, owner: &str) -> Result<(), AppError> {
        match self.0 {
            Decision::Allow => Ok(()),
            Decision::Own if caller.user_id == owner => Ok(()),
            Decision::Own | Decision::Deny => {
                let error = format!("This belongs to {owner}; your key may change only your own.");
                Err(AppError::forbidden(error, format!("Ask {owner}, or somebody whose role reaches further.")))
            }
        }
    }

    /// Refuses to show what a task of somebody else wrote when only own things are shown.
    ///
    /// # Errors
    /// 403.
    pub fn check_reader(self, caller: &Caller, owner: &str) -> Result<(), AppError> {
        match self.0 {
            Decision::Own if caller.user_id != owner => Err(AppError::forbidden(
                format!("This belongs to {owner}, and what tasks write and leave is private on this server."),
                format!("{owner}, operators and admins see it."),
            )),
            Decision::Allow | Decision::Own | Decision::Deny => self.check_owner(caller, owner),
        }
    }
}

/// The layer before the operation `operation`.
pub(crate) async fn guard(
    State((app, operation)): State<(Arc<App>, Operation)>,
    mut request: Request,
    next: Next,
) -> Response {
    let ip = request.extensions().get::<Peer>().map(|peer| peer.0);
    let mut standing = None;
    let admitted = admit(&app, operation, &request, ip, &mut standing);
    let admitted = admitted.and_then(|known| Ok((known, place(&app)?)));
    let mut response = match admitted {
        Ok(((caller, reach), place)) => {
            tracing::debug!(key = %caller.key, user = %caller.user_id, "admitted");
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(reach);
            let uri = request.uri().clone();
            let response = next.run(request).await;
            drop(place);
            if response.status() == StatusCode::FORBIDDEN {
                app.auth_audit.denied(&caller, operation, uri.path());
            }
            response
        }
        Err(error) => {
            drain(request.into_body()).await;
            error.into_response()
        }
    };
    if let Some(standing) = standing {
        standing.write(response.headers_mut());
    }
    response
}

/// A place among the requests that are worked on. Streams give it back when they begin.
fn place(app: &App) -> Result<SemaphorePermit<'_>, AppError> {
    app.requests.try_acquire().map_err(|_| {
        app.instruments.rejected(Rejection::Busy);
        AppError::Unavailable {
            reason: "The server works on as many requests as it can.".into(),
            retry_after_s: limits::RETRY_AFTER_S.into(),
        }
    })
}

fn admit(
    app: &App,
    operation: Operation,
    request: &Request,
    ip: Option<IpAddr>,
    standing: &mut Option<Standing>,
) -> Result<(Caller, Reach), AppError> {
    // A browser cannot set headers of a WebSocket.
    let ticket = if operation == Operation::WebSocket { request.uri().query().and_then(ws::ticket_of) } else { None };
    let caller = match ticket.and_then(|ticket| app.tickets.redeem(ticket, ip, Instant::now())) {
        Some(caller) => {
            app.auth_audit.accepted(&caller);
            caller
        }
        None => authenticate(app, key_of(operation, request.headers()), ip, standing)?,
    };
    *standing = app.keys.take_token(&caller);
    if let Some(retry_after_s) = standing.and_then(|standing| standing.retry_after_s) {
        app.instruments.rejected(Rejection::KeyRate);
        return Err(AppError::RateLimited { retry_after_s });
    }
    match decide(operation, caller.role, app.options.visibility) {
        Decision::Deny => {
            app.auth_audit.denied(&caller, operation, request.uri().path());
            let error = format!("A key with the role {} may not do this.", caller.role.as_str());
            Err(AppError::forbidden(error, who_may(operation, app.options.visibility)))
        }
        reach => Ok((caller, Reach(reach))),
    }
}

/// The roles that may do it, and who grants them.
fn who_may(operation: Operation, visibility: Visibility) -> String {
    let may = |role: &Role| decide(operation, *role, visibility) != Decision::Deny;
    let roles: Vec<&str> = Role::ALL.iter().rev().filter(|role| may(role)).map(|role| role.as_str()).collect();
    format!("It takes the role {}; an admin makes keys (fetchml keys create).", roles.join(" or "))
}

/// The key that a request brings.
fn key_of(operation: Operation, headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = text(KEY_HEADER);
    if key.is_some() || operation != Operation::ServerMetrics {
        return key;
    }
    // What collects metrics often knows no other way.
    let (scheme, token) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Accepts a key. A valid key passes however many invalid ones its address has sent: behind one
/// address there may be a whole lab, and one wrong script must not lock it out.
fn authenticate(
    app: &App,
    given: Option<&str>,
    ip: Option<IpAddr>,
    standing: &mut Option<Standing>,
) -> Result<Caller, AppError> {
    let refused = match given.map(|key| (key, app.keys.verify(key, ip))) {
        Some((_, Ok(caller))) => {
            app.auth_audit.accepted(&caller);
            return Ok(caller);
        }
        Some((key, Err(why))) => Some((key, why)),
        None => None,
    };
    app.instruments.auth_failed(refused.map(|(_, why)| why));
    let max = app.options.rate_limits.map_or(u32::MAX, |l| l.auth_failures_per_minute);
    let address = ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let refusal = app.keys.failures().note(address, max, Instant::now());
    if refusal.uncounted_before > 0 {
        app.auth_audit.counted(ip, refusal.uncounted_before);
    }
    if refusal.audited {
        // The id is named only when form and checksum are right: never what somebody typed.
        let id = refused.and_then(|(key, _)| key::parse(key));
        app.auth_audit.refused(refused.map(|(_, why)| why), id.as_ref(), ip);
    }
    match (refusal.retry_after_s, refused) {
        (Some(retry_after_s), _) => {
            *standing = Some(Standing::of_address(max, retry_after_s));
            app.instruments.rejected(Rejection::AddressRate);
            Err(AppError::RateLimited { retry_after_s })
        }
        (None, None) => Err(AppError::Unauthorized("This needs a key.")),
        (None, Some(_)) => Err(AppError::Unauthorized("The key is not accepted.")),
    }
}
