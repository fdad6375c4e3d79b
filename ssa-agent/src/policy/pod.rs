//! Pods of Kubernetes, and the names of their cgroups.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::sync::lock;

/// The pods of this node, by uid.
#[derive(Default)]
pub(crate) struct Pods {
    known: Mutex<HashMap<String, Pod>>,
    /// Something has changed: cgroups are to be looked at again.
    pub(crate) changed: Notify,
}

/// A pod, as far as selectors go by it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Pod {
    /// Namespace of Kubernetes.
    pub(crate) namespace: String,
    /// Name in its namespace.
    pub(crate) name: String,
    /// Labels, by key.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations, by key.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Pods {
    /// Begins with what an agent before this one has known.
    pub(crate) fn new(known: Vec<(String, Pod)>) -> Self {
        Self { known: Mutex::new(known.into_iter().collect()), changed: Notify::new() }
    }

    /// All of them, by uid.
    pub(crate) fn all(&self) -> Vec<(String, Pod)> {
        self.lock().iter().map(|(uid, pod)| (uid.clone(), pod.clone())).collect()
    }

    /// The pod of a cgroup, if it is a whole pod's.
    pub(crate) fn of(&self, cgroup: &Path) -> Option<Pod> {
        self.lock().get(&uid(cgroup)?).cloned()
    }

    /// Puts others in the place of all.
    pub(crate) fn replace(&self, pods: HashMap<String, Pod>) {
        *self.lock() = pods;
    }

    /// Adds one, by uid, or takes what is known of it anew.
    pub(crate) fn insert(&self, uid: String, pod: Pod) {
        self.lock().insert(uid, pod);
    }

    /// Forgets one.
    pub(crate) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        lock(&self.known)
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
