//! Reconciler: keeps what is in force as the machine changes: cgroups that come and go, pods, files that are replaced.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    enforce::Enforcement,
    policy::{File, Pods},
    services::{Services, pods},
    sys::{
        cgroup,
        cgroup_watch::{CgroupWatch, Changes},
    },
    telemetry::Metrics,
};

/// Period in which all cgroups are looked at, for what inotify has missed. Nothing waits for it: a cgroup that connects
/// is decided on at once.
const POLL_CGROUPS: Duration = Duration::from_secs(5);
/// Period in which the files of policies are looked at.
const POLL_FILES: Duration = Duration::from_secs(2);

/// Follower of the machine: cgroups, pods and files, with the parts that they change.
pub(crate) struct Reconciler {
    /// Attached cgroups.
    pub(crate) services: Arc<Services>,
    /// Configuration in force.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Pods of this node.
    pub(crate) pods: Arc<Pods>,
    /// Metrics, which forget services that are gone.
    pub(crate) metrics: Arc<Metrics>,
}

impl Reconciler {
    /// Configuration in force.
    pub(crate) fn file(&self) -> Arc<File> {
        self.enforcement.rules.file()
    }

    /// Follows the tree of cgroups until `stop`: services are attached when they begin, and let go when they have
    /// ended. An error is logged, and ends it.
    pub(crate) async fn follow_cgroups(self: Arc<Self>, stop: CancellationToken) {
        if let Err(error) = self.watch_cgroups(stop).await {
            error!(error = format!("{error:#}"), "services are no longer attached by themselves");
        }
    }

    async fn watch_cgroups(self: Arc<Self>, stop: CancellationToken) -> Result<()> {
        let watch = Arc::new(CgroupWatch::new()?);
        let mount = cgroup::mount()?;
        loop {
            let (own, watching, mount) = (Arc::clone(&self), Arc::clone(&watch), mount.clone());
            let looked = tokio::task::spawn_blocking(move || {
                // Watched first: what is made afterwards is told of.
                own.reconcile(&cgroup::all_below(&mount, |path| watching.add(path)));
            });
            looked.await?;
            let look_again = sleep(POLL_CGROUPS);
            tokio::pin!(look_again);
            loop {
                let changes = tokio::select! {
                    changes = watch.changed() => changes?,
                    () = &mut look_again => break,
                    () = self.pods.changed.notified() => break,
                    () = stop.cancelled() => return Ok(()),
                };
                if changes.missed {
                    break;
                }
                let (own, watch) = (Arc::clone(&self), Arc::clone(&watch));
                tokio::task::spawn_blocking(move || own.follow(&changes, &watch)).await?;
            }
        }
    }

    /// Decides on the cgroups that were made, and lets go of those that were removed. Blocks.
    fn follow(&self, changes: &Changes, watch: &CgroupWatch) {
        let mut attached = false;
        for path in &changes.made {
            // Some may have been made below it before it was watched.
            for (_id, path) in cgroup::all_below(path, |path| watch.add(path)) {
                attached |= self.enforcement.rules.made(&path);
            }
        }
        if attached {
            self.enforcement.policies.cgroup_attached();
        }
        changes.removed.iter().for_each(|path| self.enforcement.rules.removed(path));
        if !changes.removed.is_empty() {
            self.let_go_of_removed();
        }
    }

    /// Decides on all cgroups, attaches what is selected, and lets go of what is gone. `found` are all cgroups, by
    /// inode. Blocks.
    fn reconcile(&self, found: &[(u64, std::path::PathBuf)]) {
        let before = self.services.attached().count();
        self.enforcement.rules.reconcile(found);
        if self.services.attached().count() != before {
            self.enforcement.policies.cgroup_attached();
        }
        self.let_go_of_removed();
    }

    fn let_go_of_removed(&self) {
        for path in self.services.let_go() {
            self.metrics.forget(&path.display().to_string());
        }
    }

    /// Follows the pods of this node until `stop`, from when a selector asks for pods. An error is logged, and ends it.
    pub(crate) async fn follow_pods(self: Arc<Self>, stop: CancellationToken) {
        let mut wanted = self.enforcement.policies.wants_pods();
        let watched = async {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            if let Err(error) = pods::watch(&self.pods, || self.let_go()).await {
                warn!(error = format!("{error:#}"), "pods can't be selected");
            }
        };
        stop.run_until_cancelled(watched).await;
    }

    /// Detaches pods that nothing selects any more: their TLS sockets are refused from then on.
    fn let_go(&self) {
        for path in self.services.by_selector() {
            let Some(pod) = self.pods.of(&path) else { continue };
            if self.enforcement.rules.selects(&path) {
                continue;
            }
            let pod = format!("{}/{}", pod.namespace, pod.name);
            info!(pod, "no [[service]] and no rule selects the pod any more: detaching");
            let (services, enforcement) = (Arc::clone(&self.services), Arc::clone(&self.enforcement));
            tokio::task::spawn_blocking(move || {
                let detached = services.detach(&path, false, false).and_then(|()| enforcement.rules.refresh());
                if let Err(error) = detached {
                    warn!(error = format!("{error:#}"), cgroup = %path.display(), "a pod can't be detached");
                }
            });
        }
    }

    /// Takes up files of the configuration that were replaced, until `stop`.
    pub(crate) async fn follow_files(self: Arc<Self>, stop: CancellationToken) {
        let mut logged = HashSet::new();
        while stop.run_until_cancelled(sleep(POLL_FILES)).await.is_some() {
            let own = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                own.enforcement.policies.renew(&mut logged);
                logged
            });
            let Ok(still_logged) = looked.await else { return };
            logged = still_logged;
        }
    }
}
