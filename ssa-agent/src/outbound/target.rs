//! Peer that an application means by its connect, for the decision and for the log.

use std::net::SocketAddr;

use ssa_common::event::Held;

use super::outbound::Outbound;
use crate::{
    connection::ConnectionLabels,
    enforce::{DecisionLabels, Question},
    policy::Direction,
};

/// Question that the configuration has to decide for a held connect.
pub(super) fn question(held: &Held) -> Question<'_> {
    Question {
        direction: Direction::Out,
        by_rule: held.by_rule != 0,
        caller: &held.caller,
        application: None,
        at: held.orig_dst.into(),
        socket_cgroup: held.cgroup,
        hostname: held.hostname.as_str().unwrap_or_default(),
    }
}

/// Labels of the connection for the log and tables; `peer` where it has no connection to ask.
pub(super) fn labels<'a>(
    outbound: &Outbound,
    held: &'a Held,
    decided: &'a DecisionLabels,
    peer: Option<SocketAddr>,
) -> ConnectionLabels<'a> {
    ConnectionLabels {
        id: held.id,
        direction: Direction::Out,
        caller: &held.caller,
        service: outbound.attached.name(held.caller.service),
        name: &decided.name,
        rule: decided.rule.as_deref(),
        peer,
    }
}
