//! `cargo xtask image`: a container image with the agent, the libraries that it is linked with, and nothing else.
//!
//! The same executable gives the same image, by its digest: times are those of 1970, and owners are root's.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build,
    process::{as_root, check, output, root},
    setup,
};

/// Builds the image, as an archive of the Open Container Initiative (`skopeo copy oci-archive:FILE docker://...` pushes it).
pub(crate) fn run() -> Result<()> {
    let agent = build::run()?;
    setup::image()?;
    let folder = root().join("target/image");
    let tree = folder.join("tree");
    // Of an earlier run.
    let _absent = fs::remove_dir_all(&tree);
    let inside = tree.join("usr/bin/ssa-agent");
    put(&agent, &inside)?;
    check(Command::new("strip").arg(&inside))?;
    for library in libraries(&agent)? {
        put(&library, &tree.join(library.strip_prefix("/")?))?;
    }
    // What OpenSSL reads at its start; the CAs come from the node, by a mount.
    put(Path::new("/etc/ssl/openssl.cnf"), &tree.join("usr/lib/ssl/openssl.cnf"))?;
    // Where things are mounted: the root is read-only.
    for mounted in ["etc/ssa", "etc/ssl/certs", "run/ssa-agent", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(tree.join(mounted))?;
    }
    std::os::unix::fs::symlink("/etc/ssl/certs", tree.join("usr/lib/ssl/certs"))?;
    let version = env!("CARGO_PKG_VERSION");
    let archive = folder.join(format!("ssa-agent-{version}.tar"));
    let container = output(as_root("buildah").args(["from", "scratch"]))?;
    let made = fill(&container, &tree, &archive, version);
    check(as_root("buildah").args(["rm", &container]))?;
    made?;
    let digest = output(as_root("skopeo").args(["inspect", "--format", "{{.Digest}}"]).arg(named(&archive, version)))?;
    println!("{} {digest}", archive.display());
    Ok(())
}

fn fill(container: &str, tree: &Path, archive: &Path, version: &str) -> Result<()> {
    check(as_root("buildah").args(["copy", "--chown", "0:0", container]).arg(tree).arg("/"))?;
    check(
        as_root("buildah")
            .args(["config", "--entrypoint", r#"["/usr/bin/ssa-agent"]"#, "--cmd", "run --leave-guards"])
            .args(["--env", "PATH=/usr/bin", "--label", &format!("org.opencontainers.image.version={version}")])
            .args(["--label", "org.opencontainers.image.title=ssa-agent", container]),
    )?;
    // An archive that is there is added to.
    let _absent = fs::remove_file(archive);
    check(as_root("buildah").args(["commit", "--quiet", "--timestamp", "0", container, &named(archive, version)]))
}

/// An image in an archive, as skopeo and buildah name it.
fn named(archive: &Path, version: &str) -> String {
    format!("oci-archive:{}:ssa-agent:{version}", archive.display())
}

/// The libraries that an executable is linked with, and what loads them.
fn libraries(executable: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(executable))?;
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// Copies a file, with the folders above it.
fn put(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    let executable = fs::metadata(from)?.permissions().mode() & 0o100 != 0;
    fs::set_permissions(to, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    Ok(())
}
