//! End of an agent: closed, and with nobody left half served.

use std::time::Duration;

use sd_notify::NotifyState;
use ssa_common::limits::Counter;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{events::EventLoop, upgrade::successor::Successor};
use crate::{
    kernel::SocketMaps,
    telemetry::{LogOnce, notify},
};

/// Period in which an agent that finishes looks for sockets whose close was missed.
const POLL_CLOSED: Duration = Duration::from_secs(1);

/// Finishes open connections, when a successor serves; at most for `limit`. Those that are left are reset when the
/// process ends.
pub(super) async fn finish(events: &mut EventLoop, successor: Successor, limit: Duration) {
    let pid = successor.pid;
    info!(pid, connections = events.connections(), "another agent serves; finishing what is open");
    if let Some(pid) = pid {
        notify(&[NotifyState::MainPid(pid)]);
    }
    events.leave_listeners();
    let deadline = Instant::now() + limit;
    let mut successor = Some(successor);
    loop {
        let changed = async {
            match &mut successor {
                Some(successor) => successor.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed => match changed {
                Some(changed) => events.changed(&changed),
                None => successor = None,
            },
            () = sleep(POLL_CLOSED) => {
                events.reconcile();
                if events.is_idle() {
                    info!("every connection is finished");
                    return;
                }
            }
            () = sleep_until(deadline) => {
                let connections = events.connections();
                warn!(connections, "connections are not finished in time: resetting them");
                return;
            }
        }
    }
}

/// Waits, without a limit, until no TLS socket of the attached cgroups is left. Those that were connected are reset by
/// now, and those that were connecting were refused; but one that is open still must not become a plain socket.
pub(super) async fn end_sockets(sockets: &SocketMaps) {
    let mut trouble = LogOnce::default();
    loop {
        let open = sockets.counter(Counter::Sockets);
        if open == 0 {
            return;
        }
        if trouble.is_new(&open.to_string()) {
            warn!(open, "TLS sockets are still open in the cgroup; waiting for their applications to close them");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
