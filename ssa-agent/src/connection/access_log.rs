//! The access log: one line for each connection that is over, or was not made, with target `access`.

use tracing::{info, warn};

use super::{
    error::Error,
    info::{ConnectionInfo, ConnectionLabels},
};
use crate::policy::Direction;

/// Logs the end of a connection, with the bytes that were relayed up and down; `error` says why it was reset.
pub(super) fn ended(of: &ConnectionInfo, seconds: f64, (up, down): (u64, u64), error: Option<&str>) {
    let end = if error.is_none() { "closed" } else { "reset" };
    info!(
        target: "access",
        id = of.id,
        direction = of.direction.name(),
        service = of.service,
        pid = of.pid,
        uid = of.uid,
        peer = of.peer.map(tracing::field::display),
        local = of.local.map(tracing::field::display),
        name = of.name,
        rule = of.rule,
        version = of.version,
        cipher = of.cipher,
        resumed = of.resumed,
        seconds,
        bytes_up = up,
        bytes_down = down,
        error,
        "{end}"
    );
}

/// Logs that a connection was not made; `text` is what the application is told.
pub(super) fn refused(of: &ConnectionLabels<'_>, error: &Error, text: &str) {
    if error.is_limit() {
        // Which is logged once a second.
        return;
    }
    let ConnectionLabels { id, direction, caller, service, name, rule, peer } = of;
    let (pid, uid, peer) = (caller.tgid, caller.uid, peer.map(tracing::field::display));
    let (reason, name_of_direction) = (error.reason(), direction.name());
    if *direction == Direction::Out {
        let errno = error.errno().name();
        warn!(
            target: "access",
            id,
            direction = name_of_direction,
            service,
            pid,
            uid,
            peer,
            name,
            rule,
            reason,
            errno,
            error = text,
            "refused"
        );
    } else {
        // Anybody can cause these.
        info!(
            target: "access",
            id,
            direction = name_of_direction,
            service,
            pid,
            uid,
            peer,
            name,
            rule,
            reason,
            error = text,
            "refused a client"
        );
    }
}

/// Logs that the peer of an open connection has become revoked.
pub(super) fn revoked(of: &ConnectionInfo, how: &str) {
    let (id, peer, name) = (of.id, of.peer.map(tracing::field::display), &of.name);
    warn!(target: "access", id, peer, name, error = how, "the peer is revoked");
}
