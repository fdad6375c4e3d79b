//! Containers as their cgroups and their engines' files name them.

use std::fs;

/// Fewest digits by which a container is named: as short as the engines themselves take the beginning of an id.
pub(crate) const ID_LEAST: usize = 12;

/// Id in the name of a container's cgroup: `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, or ID
/// alone.
pub(crate) fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next().unwrap_or(name);
    (id.len() >= ID_LEAST && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Names that docker and podman (of root) have noted for a container, by its id. Blocks: reads their files.
pub(crate) fn container_names(id: &str) -> Vec<String> {
    let json = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    };
    let mut names = Vec::new();
    if let Some(docker) = json(&format!("/var/lib/docker/containers/{id}/config.v2.json")) {
        names.extend(docker["Name"].as_str().map(|name| name.trim_start_matches('/').to_owned()));
    }
    for file in ["containers.json", "volatile-containers.json"] {
        for folder in ["/var/lib/containers/storage", "/run/containers/storage"] {
            for driver in ["overlay-containers", "vfs-containers", "btrfs-containers"] {
                let list = json(&format!("{folder}/{driver}/{file}")).unwrap_or_default();
                let own = list.as_array().into_iter().flatten().filter(|one| one["id"] == id);
                names.extend(
                    own.flat_map(|one| one["names"].as_array().cloned().unwrap_or_default())
                        .filter_map(|name| name.as_str().map(str::to_owned)),
                );
            }
        }
    }
    names
}
