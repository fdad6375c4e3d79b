//! Phase of this process, from its start to its end, which `app` sets and everybody else watches.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::{error::Elapsed, timeout},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Phase of the process. They follow each other in this order, but for a handover that fails, which goes back to
/// [`Phase::Serving`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Programs are loaded and listeners taken up. No socket connects yet.
    Starting,
    /// Sockets connect, listeners accept.
    Serving,
    /// Sockets connect, while another process loads its programs to take this one's place.
    SuccessorLoading,
    /// Connects are not begun any more: what the kernel does not keep goes to the successor.
    HandingOver,
    /// The successor serves. Connections that are open are finished here.
    Finishing,
    /// Held connects are refused, open connections are reset.
    Stopping,
}

impl Phase {
    /// Whether applications are served by this process.
    pub(crate) fn is_serving(self) -> bool {
        matches!(self, Self::Serving | Self::SuccessorLoading | Self::HandingOver)
    }
}

/// Phase of the process, for `app`, which alone changes it.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    phase: watch::Sender<Phase>,
    stop: CancellationToken,
    unresolved: TaskTracker,
    change: Mutex<()>,
}

/// Error: another process is taking over already, or this one serves no more.
#[derive(Debug, thiserror::Error)]
#[error("another one is taking over already")]
pub(crate) struct AlreadyBegun;

impl Lifecycle {
    /// Makes the lifecycle, in [`Phase::Starting`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Starting),
            stop: CancellationToken::new(),
            unresolved: TaskTracker::new(),
            change: Mutex::default(),
        })
    }

    /// View of the phase, for everybody else.
    pub(crate) fn drain(&self) -> Drain {
        Drain { phase: self.phase.subscribe(), stop: self.stop.clone(), unresolved: self.unresolved.clone() }
    }

    /// Phase now.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters [`Phase::Serving`]: from here on sockets connect.
    pub(crate) fn serve(&self) {
        self.phase.send_replace(Phase::Serving);
    }

    /// Enters [`Phase::Stopping`], from which nothing leads back.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
        self.stop.cancel();
    }

    /// Waits for its turn to change what is in force: a reload, a handover and the end of the process exclude each
    /// other. Look at [`Self::phase`] afterwards.
    pub(crate) async fn change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().await
    }

    /// Enters [`Phase::SuccessorLoading`]. Errors: [`AlreadyBegun`] in any phase but [`Phase::Serving`].
    pub(crate) fn begin_handover(self: &Arc<Self>) -> Result<HandoverGuard, AlreadyBegun> {
        let begun = self.phase.send_if_modified(|phase| {
            let serves = *phase == Phase::Serving;
            if serves {
                *phase = Phase::SuccessorLoading;
            }
            serves
        });
        if begun { Ok(HandoverGuard { lifecycle: Arc::clone(self), finished: false }) } else { Err(AlreadyBegun) }
    }
}

/// Guard of a handover that was begun. Dropping it goes back to [`Phase::Serving`], unless it was finished or the
/// process stops.
#[derive(Debug)]
pub(crate) struct HandoverGuard {
    lifecycle: Arc<Lifecycle>,
    finished: bool,
}

impl HandoverGuard {
    /// Enters [`Phase::HandingOver`], and waits until every connect is resolved or left to the successor. Errors: that
    /// takes longer than `limit`.
    pub(crate) async fn quiesce(&self, limit: Duration) -> Result<(), Elapsed> {
        self.lifecycle.phase.send_replace(Phase::HandingOver);
        self.lifecycle.unresolved.close();
        timeout(limit, self.lifecycle.unresolved.wait()).await
    }

    /// Enters [`Phase::Finishing`]: the successor serves.
    pub(crate) fn finish(mut self) {
        self.finished = true;
        self.lifecycle.phase.send_replace(Phase::Finishing);
    }
}

impl Drop for HandoverGuard {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.lifecycle.unresolved.reopen();
        self.lifecycle.phase.send_if_modified(|phase| {
            let goes_on = *phase != Phase::Stopping;
            if goes_on {
                *phase = Phase::Serving;
            }
            goes_on
        });
    }
}

/// Phase of the process, for everybody but `app`: what to wait for, and what a handover has to wait for. Clones share
/// it.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    phase: watch::Receiver<Phase>,
    stop: CancellationToken,
    unresolved: TaskTracker,
}

/// Guard of a connect whose application has no connection yet: a handover waits until this is dropped.
pub(crate) struct Unresolved {
    _token: TaskTrackerToken,
}

impl Drain {
    /// Phase now.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Completes in [`Phase::Stopping`].
    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Whether it is [`Phase::Stopping`].
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Token that is cancelled in [`Phase::Stopping`], and may be by its owner before.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.stop.child_token()
    }

    /// Completes when connects are left to a successor, in [`Phase::HandingOver`] and after it.
    pub(crate) async fn handing_over(&self) {
        self.wait_for(|phase| matches!(phase, Phase::HandingOver | Phase::Finishing)).await;
    }

    /// Completes in a phase for which `is` holds; never once the process ends. Cancellation loses nothing.
    pub(crate) async fn wait_for(&self, is: impl Fn(Phase) -> bool) {
        let mut phase = self.phase.clone();
        let gone = phase.wait_for(|phase| is(*phase)).await.is_err();
        if gone {
            // The process ends: nothing will come.
            std::future::pending().await
        }
    }

    /// Makes a handover wait for a connect.
    pub(crate) fn unresolved(&self) -> Unresolved {
        Unresolved { _token: self.unresolved.token() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn handover_waits_for_connects_and_goes_back_when_it_is_dropped() {
        let lifecycle = Lifecycle::new();
        let drain = lifecycle.drain();
        assert!(lifecycle.begin_handover().is_err(), "nothing is there to hand over yet");
        lifecycle.serve();
        let handover = lifecycle.begin_handover().unwrap();
        assert!(lifecycle.begin_handover().is_err(), "one at a time");
        assert!(drain.phase().is_serving());
        let connect = drain.unresolved();
        assert!(handover.quiesce(Duration::from_secs(1)).await.is_err(), "a connect is not resolved");
        drain.handing_over().await;
        drop(connect);
        handover.quiesce(Duration::from_secs(1)).await.unwrap();
        drop(handover);
        assert_eq!(drain.phase(), Phase::Serving);
        let again = lifecycle.begin_handover().unwrap();
        let _connect = drain.unresolved();
        assert!(again.quiesce(Duration::from_millis(1)).await.is_err(), "connects count again");
        again.finish();
        assert_eq!(drain.phase(), Phase::Finishing);
        assert!(lifecycle.begin_handover().is_err(), "it was handed over");
    }

    #[tokio::test]
    async fn stop_ends_what_waits_and_no_handover_takes_it_back() {
        let lifecycle = Lifecycle::new();
        let drain = lifecycle.drain();
        lifecycle.serve();
        let handover = lifecycle.begin_handover().unwrap();
        let child = drain.child_token();
        lifecycle.stop();
        drain.stopped().await;
        assert!(child.is_cancelled() && drain.is_stopped());
        drop(handover);
        assert_eq!(drain.phase(), Phase::Stopping);
    }
}
