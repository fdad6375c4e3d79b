//! Service manager: notifies systemd that the agent is ready, alive, stopping (sd_notify(3)).

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::time::sleep;
use tracing::debug;

use super::health::Health;
use crate::drain::{Drain, Phase};

/// Notifies the service manager, if there is one (`NOTIFY_SOCKET`). A failure is logged for debugging.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// Follows the process's phase: notifies the service manager that it is ready when it serves, that it lives, twice as
/// often as `WatchdogSec=` asks, for as long as it serves, and that it stops. Ends when it serves no more.
pub(crate) async fn follow(drain: Drain, health: Arc<Health>) {
    drain.wait_for(|phase| phase != Phase::Starting).await;
    if drain.phase().is_serving() {
        notify(&[NotifyState::Ready]);
    }
    let watchdog = async {
        match sd_notify::watchdog_enabled() {
            None => std::future::pending().await,
            Some(limit) => loop {
                if health.beats() {
                    notify(&[NotifyState::Watchdog]);
                }
                sleep(limit / 2).await;
            },
        }
    };
    tokio::select! {
        () = watchdog => {}
        () = drain.wait_for(|phase| !phase.is_serving()) => {}
    }
    if drain.phase() == Phase::Stopping {
        notify(&[NotifyState::Stopping]);
    }
}
