//! Pods of this node, followed as the API server of Kubernetes tells of them.

use std::{collections::HashMap, env};

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
use tracing::{info, warn};

use crate::{
    policy::{Pod, Pods},
    telemetry::{LogOnce, error_chain},
};

/// Keeps `pods` as the API server tells of them, for ever; `on_change` is called after each change that may select or
/// let go of one.
///
/// Errors: the node's name or the API server's address is not known. Later failures are logged, and tried again for
/// ever.
pub(crate) async fn watch(pods: &Pods, on_change: impl Fn()) -> Result<()> {
    let node = env::var("NODE_NAME").context("NODE_NAME must be set to this node's name (spec.nodeName of its pod)")?;
    let client = Client::try_default().await.context("neither in a cluster nor is there a KUBECONFIG")?;
    let config = Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher(Api::<PartialObjectMeta<ApiPod>>::all(client), config).default_backoff().boxed();
    let mut listed = HashMap::new();
    let mut trouble = LogOnce::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(known(object)),
            Ok(Event::InitDone) => {
                info!(node, pods = listed.len(), "following the pods of this node");
                pods.replace(std::mem::take(&mut listed));
                trouble.over();
            }
            Ok(Event::Apply(object)) => {
                if let Some((uid, pod)) = known(object) {
                    pods.insert(uid, pod);
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some((uid, _pod)) = known(object) {
                    pods.remove(&uid);
                }
                // Its cgroup, and what is attached, goes by itself.
                continue;
            }
            Err(error) => {
                if trouble.is_new(&error.to_string()) {
                    warn!(error = error_chain(&error), node, "the API server does not tell of pods; trying again");
                }
                continue;
            }
        }
        pods.changed.notify_one();
        on_change();
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
