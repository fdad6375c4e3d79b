//! The control socket: what an administrator asks a running agent.
//!
//! A stream socket of the Unix domain, `/run/ssa-agent/<inode of the cgroup>.sock`, mode 0600. One
//! request a line, one answer a line, both JSON; a connection may ask again. Only root is answered
//! (`SO_PEERCRED`, unix(7)).

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};
use tracing::{error, warn};

use crate::{agent::Agent, policy::file::Config};

/// Version of the protocol, which every request names.
const VERSION: u32 = 1;
const FOLDER: &str = "/run/ssa-agent";
/// Longest request, in bytes.
const REQUEST_BYTES: u64 = 4096;

/// What is asked.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Request {
    version: u32,
    command: Command,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Read the configuration again, and put it in force.
    Reload,
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A policy is in force; how many there were, it among them.
    Reloaded { generation: u64 },
    /// Nothing has changed.
    Error(String),
}

/// The socket, bound.
pub(crate) struct Control {
    listener: UnixListener,
}

/// Where the agent of a cgroup is asked.
fn path(cgroup: &Path) -> io::Result<PathBuf> {
    Ok(Path::new(FOLDER).join(format!("{}.sock", fs::metadata(cgroup)?.ino())))
}

/// Binds the socket of a cgroup's agent. One of an agent that is gone is replaced.
pub(crate) fn listen(cgroup: &Path) -> Result<Control> {
    let path = path(cgroup)?;
    let failed = || format!("the control socket {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(FOLDER).with_context(failed)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(failed),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).with_context(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(failed)?;
    Ok(Control { listener })
}

impl Control {
    /// Answers until it is dropped.
    pub(crate) async fn serve(self, agent: Arc<Agent>, config: Config) {
        let config = Arc::new(config);
        loop {
            match self.listener.accept().await {
                Ok((stream, _from)) => {
                    let (agent, config) = (Arc::clone(&agent), Arc::clone(&config));
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &agent, &config).await {
                            warn!(%error, "a request on the control socket failed");
                        }
                    });
                }
                Err(error) => {
                    error!(%error, "accepting on the control socket failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(mut stream: UnixStream, agent: &Arc<Agent>, config: &Config) -> Result<()> {
    ensure!(stream.peer_cred()?.uid() == 0, "it is for root only");
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(REQUEST_BYTES)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.version == VERSION => match request.command {
                Command::Reload => reload(agent, config).await,
            },
            Ok(request) => Answer::Error(format!("version {} is not spoken; {VERSION} is", request.version)),
            Err(error) => Answer::Error(format!("no request: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    Ok(())
}

/// Reads the configuration again. If it is bad, the policy in force stays.
async fn reload(agent: &Arc<Agent>, config: &Config) -> Answer {
    let (agent, config) = (Arc::clone(agent), config.clone());
    // Files may be anywhere, and users in a directory service.
    let replaced = tokio::task::spawn_blocking(move || -> Result<u64> {
        let file = if agent.policies.is_from_file() { config.read_again()? } else { config.read()? };
        Ok(agent.policies.replace(file)?)
    });
    match replaced.await.map_err(anyhow::Error::from).flatten() {
        Ok(generation) => Answer::Reloaded { generation },
        Err(error) => {
            error!(error = format!("{error:#}"), "the configuration is bad: the policy in force stays");
            Answer::Error(format!("{error:#}"))
        }
    }
}

/// Reloads at each SIGHUP.
pub(crate) async fn reload_at_hangup(agent: Arc<Agent>, config: Config) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        // What is wrong has been logged.
        let _answer = reload(&agent, &config).await;
    }
}

/// Asks the agent of a cgroup.
pub(crate) fn ask(cgroup: &Path, command: Command) -> Result<Answer> {
    use std::io::{BufRead as _, Write as _};
    let path = path(cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
    let failed = || format!("no agent answers at {} (is `ssa-agent run` serving this cgroup?)", path.display());
    let mut stream = std::os::unix::net::UnixStream::connect(&path).with_context(failed)?;
    let mut text = serde_json::to_vec(&Request { version: VERSION, command })?;
    text.push(b'\n');
    stream.write_all(&text).with_context(failed)?;
    let mut line = String::new();
    io::BufReader::new(stream).read_line(&mut line).with_context(failed)?;
    if line.is_empty() {
        bail!("the agent gave no answer");
    }
    Ok(serde_json::from_str(&line)?)
}
