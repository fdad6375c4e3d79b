//! The pods of this node, as the API server of Kubernetes tells of them, and their cgroups.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{
    Api, Client,
    api::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Event, watcher},
    },
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::services::By;
use crate::app::run::Agent;

/// All that are known, by uid.
#[derive(Default)]
pub(crate) struct Pods {
    known: Mutex<HashMap<String, Pod>>,
    /// Something has changed: cgroups are to be looked at again.
    pub(crate) changed: Notify,
}

/// What rules ask of a pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Pods {
    /// Knows what an agent before this one has known.
    pub(crate) fn new(known: Vec<(String, Pod)>) -> Self {
        Self { known: Mutex::new(known.into_iter().collect()), changed: Notify::new() }
    }

    /// All that are known.
    pub(crate) fn all(&self) -> Vec<(String, Pod)> {
        self.lock().iter().map(|(uid, pod)| (uid.clone(), pod.clone())).collect()
    }

    /// The pod of a cgroup, if it is a whole pod's.
    pub(crate) fn of(&self, cgroup: &Path) -> Option<Pod> {
        self.lock().get(&uid(cgroup)?).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a cgroup is a whole pod's.
pub(crate) fn is_pod(cgroup: &Path) -> bool {
    uid(cgroup).is_some()
}

/// The uid in the name of a pod's cgroup. The kubelet names it `pod<uid>` (cgroupfs driver) or
/// `kubepods-<class>-pod<uid>.slice` with underscores (systemd driver).
fn uid(cgroup: &Path) -> Option<String> {
    /// 8-4-4-4-12 hexadecimal digits, or 32 of them for pods that are files of the node.
    fn is_uid(text: &str) -> bool {
        let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
        digits == 32
            && (text.len() == 32 || (text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4))
    }
    let name = cgroup.file_name()?.to_str()?;
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.strip_prefix("kubepods")?.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid).then_some(uid)
}

/// Follows the pods of this node for as long as the agent runs, from when a rule asks for pods.
pub(crate) async fn follow(agent: Arc<Agent>, stop: CancellationToken) {
    const LOOK: Duration = Duration::from_secs(1);
    while !agent.policies.asks_for_pods() {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
    tokio::select! {
        watched = watch(&agent) => if let Err(error) = watched {
            warn!(error = format!("{error:#}"), "pods can't be selected");
        },
        () = stop.cancelled() => {}
    }
}

async fn watch(agent: &Arc<Agent>) -> Result<()> {
    let node = env::var("NODE_NAME").context("NODE_NAME must be set to this node's name (spec.nodeName of its pod)")?;
    let client = Client::try_default().await.context("neither in a cluster nor is there a KUBECONFIG")?;
    let config = Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher(Api::<PartialObjectMeta<ApiPod>>::all(client), config).default_backoff().boxed();
    let mut listed = HashMap::new();
    let mut told = String::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(known(object)),
            Ok(Event::InitDone) => {
                info!(node, pods = listed.len(), "following the pods of this node");
                *agent.pods.lock() = std::mem::take(&mut listed);
                told.clear();
            }
            Ok(Event::Apply(object)) => {
                agent.pods.lock().extend(known(object));
            }
            Ok(Event::Delete(object)) => {
                if let Some((uid, _pod)) = known(object) {
                    agent.pods.lock().remove(&uid);
                }
                // Its cgroup, and what is attached, goes by itself.
                continue;
            }
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    warn!(
                        error = crate::connection::error::chain(&error),
                        node, "the API server does not tell of pods; trying again"
                    );
                    told = text;
                }
                continue;
            }
        }
        agent.pods.changed.notify_one();
        let_go(agent);
    }
    Ok(())
}

fn known(object: PartialObjectMeta<ApiPod>) -> Option<(String, Pod)> {
    let metadata = object.metadata;
    let pod = Pod {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
    };
    // Pods that are files of the node (kubernetes.io/config.hash) have their cgroup named by that.
    let uid = pod.annotations.get("kubernetes.io/config.hash").cloned().or(metadata.uid)?;
    Some((uid, pod))
}

/// Detaches pods that no rule is for any more, each as soon as its programs have closed their TLS sockets.
fn let_go(agent: &Arc<Agent>) {
    for (path, by) in agent.services.attached() {
        let Some(pod) = agent.pods.of(&path).filter(|_pod| by == By::Rule) else { continue };
        if agent.policies.wants(&path) {
            continue;
        }
        info!(pod = format!("{}/{}", pod.namespace, pod.name), "no rule is for the pod any more: detaching");
        let agent = Arc::clone(agent);
        tokio::spawn(async move {
            if let Err(error) = agent.services.detach(&path, &agent.maps).await {
                warn!(error = format!("{error:#}"), cgroup = %path.display(), "a pod can't be detached");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_known_by_their_cgroups() {
        let uid_of = |path: &str| uid(Path::new(path));
        let wanted = Some("0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a55".to_owned());
        for path in [
            "/kubepods/burstable/pod0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a55",
            "/kubepods/pod0d3f1d5a-93a5-4c5e-b0a8-3b1f8d1c6a55",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0d3f1d5a_93a5_4c5e_b0a8_3b1f8d1c6a55.slice",
            "/kubepods.slice/kubepods-pod0d3f1d5a_93a5_4c5e_b0a8_3b1f8d1c6a55.slice",
        ] {
            assert_eq!(uid_of(path), wanted, "{path}");
        }
        assert_eq!(uid_of("/kubepods/pod0123456789abcdef0123456789abcdef").unwrap().len(), 32);
        for path in [
            "/kubepods/burstable",
            "/system.slice/pod.service",
            "/podman",
            "/kubepods/podx",
            "/kubepods.slice/kubepods-burstable.slice",
            "/machine.slice/machine-pod0d3f1d5a_93a5_4c5e_b0a8_3b1f8d1c6a55.slice",
        ] {
            assert_eq!(uid_of(path), None, "{path}");
        }
    }
}
