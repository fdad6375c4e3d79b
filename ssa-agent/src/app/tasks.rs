//! Background tasks of the agent that serves: a process that hands over ends them first.

use std::sync::Arc;

use anyhow::Result;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{admin::Admin, reconcile::Reconciler};
use crate::{
    control::server::{self, SocketFile},
    drain::Drain,
    inbound::Inbound,
    kernel::{ParkedSyns, SocketMaps},
    telemetry::{self, Health, Metrics, Snapshot},
};

/// Parts that background tasks are begun with, at the start and after a handover that failed.
pub(crate) struct Background {
    /// Name of the agent, which its control socket has.
    pub(crate) name: String,
    /// Handler of the control socket's commands.
    pub(crate) admin: Arc<Admin>,
    /// Follower of cgroups, pods and files.
    pub(crate) reconciler: Arc<Reconciler>,
    /// Health that the monitor answers with.
    pub(crate) health: Arc<Health>,
    /// Metrics that the monitor answers with.
    pub(crate) metrics: Arc<Metrics>,
    /// Maps of the ring buffers.
    pub(crate) sockets: Arc<SocketMaps>,
    /// Listeners, to whose clients' first SYNs parked ones belong.
    pub(crate) inbound: Arc<Inbound>,
    /// Function that reads the values which metrics need of the running agent.
    pub(crate) snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    /// Phase of the process.
    pub(crate) drain: Drain,
}

/// Background tasks of the active process: control socket, metrics, cgroup and pod watchers, files.
pub(crate) struct ActiveTasks {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Tasks that answer others, and can be ended at any moment.
    answering: Vec<AbortHandle>,
    socket: SocketFile,
}

impl ActiveTasks {
    /// Begins all tasks. Errors: the control socket, or the monitor's address, can't be had.
    pub(crate) async fn begin(with: &Background) -> Result<Self> {
        let file = with.reconciler.file();
        let (control, socket) = server::listen(&with.name, file.control_group().as_ref())?;
        let mut answering = vec![tokio::spawn(control.serve(Arc::clone(&with.admin))).abort_handle()];
        if let Some(at) = file.monitor() {
            let snapshot = Arc::clone(&with.snapshot);
            let (health, metrics) = (Arc::clone(&with.health), Arc::clone(&with.metrics));
            answering.push(telemetry::serve(at, health, metrics, move || snapshot()).await?);
        }
        let stop = with.drain.child_token();
        let mut tasks = JoinSet::new();
        tasks.spawn(reload_at_hangup(Arc::clone(&with.admin), stop.clone()));
        tasks.spawn(send_parked(ParkedSyns::new(with.sockets.parked()?)?, Arc::clone(&with.inbound), stop.clone()));
        tasks.spawn(Arc::clone(&with.reconciler).follow_cgroups(stop.clone()));
        tasks.spawn(Arc::clone(&with.reconciler).follow_pods(stop.clone()));
        tasks.spawn(Arc::clone(&with.reconciler).follow_files(stop.clone()));
        Ok(Self { stop, tasks, answering, socket })
    }

    /// Ends all tasks, and waits until they have ended. The control socket is another agent's from here on.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        self.answering.iter().for_each(AbortHandle::abort);
        while self.tasks.join_next().await.is_some() {}
        self.socket.leave();
    }
}

/// Takes the SYNs that come to listeners before they are served, until `stop`.
async fn send_parked(mut syns: ParkedSyns, inbound: Arc<Inbound>, stop: CancellationToken) {
    while let Some(Ok(())) = stop.run_until_cancelled(syns.batch(|id, time, syn| inbound.parked(id, time, syn))).await {
    }
}

/// Reloads at each SIGHUP until `stop`.
async fn reload_at_hangup(admin: Arc<Admin>, stop: CancellationToken) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while stop.run_until_cancelled(hangup.recv()).await.flatten().is_some() {
        // What is wrong has been logged.
        let _answer = admin.reload().await;
    }
}
