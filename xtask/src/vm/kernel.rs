//! Debian's kernels, fetched and unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::apt::{self, Apt};

/// Debian 12 has 6.1, Debian 13 has 6.12, and its backports have what came later.
const SUITES: &[&str] = &["bookworm", "trixie", "trixie-backports"];
/// Small kernels with drivers for virtual machines only.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel with its modules.
pub(crate) struct Kernel {
    /// Version, as `uname -r` says it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Folder that has `lib/modules/RELEASE` in it.
    pub(crate) base: PathBuf,
}

/// The newest kernel whose version begins with `wanted`. Fetched once, and kept in the user's cache.
pub(crate) fn fetch(wanted: &str) -> Result<Kernel> {
    let folder = apt::cache("kernels")?;
    let apt = Apt::open(&folder, SUITES)?;
    let packages = apt.names("linux-image-")?;
    let releases = packages.iter().filter_map(|name| name.strip_prefix("linux-image-"));
    let release = releases
        .filter(|release| release.ends_with(FLAVOUR) && begins_with(release, wanted))
        .max_by_key(|release| numbers(release))
        .with_context(|| {
            format!("Debian has no kernel {wanted} ({} have linux-image-VERSION{FLAVOUR})", SUITES.join(", "))
        })?
        .to_owned();
    let tree = folder.join(&release);
    if !tree.is_dir() {
        let mut wanted = vec![format!("linux-image-{release}")];
        // Newer ones come in parts.
        let parts = ["base", "binary", "modules"].map(|part| format!("linux-{part}-{release}"));
        wanted.extend(apt.depends(&wanted[0])?.into_iter().filter(|name| parts.contains(name)));
        let new = folder.join(format!("{release}.new"));
        // Of an earlier call that failed.
        let _absent = fs::remove_dir_all(&new);
        apt.unpack(&wanted, &new)?;
        fs::rename(&new, &tree)?;
    }
    found(tree, release)
}

fn found(tree: PathBuf, release: String) -> Result<Kernel> {
    let places =
        [tree.join("boot").join(format!("vmlinuz-{release}")), modules(&tree.join("usr"), &release).join("vmlinuz")];
    let image = places.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("the packages of kernel {release} have no vmlinuz"))?;
    let base = [tree.join("usr"), tree].into_iter().find(|base| modules(base, &release).is_dir());
    let base = base.with_context(|| format!("the packages of kernel {release} have no modules"))?;
    Ok(Kernel { release, image, base })
}

fn modules(base: &Path, release: &str) -> PathBuf {
    base.join("lib/modules").join(release)
}

/// Whether a release is of this version: `6.1` is not `6.12`.
fn begins_with(release: &str, wanted: &str) -> bool {
    release.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// The numbers of a release, in order: what is newer has greater ones.
pub(super) fn numbers(release: &str) -> Vec<u32> {
    release.split(|next: char| !next.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_of_a_version_is_found() {
        assert!(begins_with("6.1.0-50-cloud-amd64", "6.1") && begins_with("7.3.4+deb13-cloud-amd64", "7"));
        assert!(!begins_with("6.12.117+deb13-cloud-amd64", "6.1") && !begins_with("6.1.0-50-cloud-amd64", "7"));
        assert!(numbers("6.12.117+deb13-cloud-amd64") > numbers("6.12.90+deb13.1-cloud-amd64"));
    }
}
