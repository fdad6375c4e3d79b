//! The control socket: what an administrator asks a running agent.
//!
//! A stream socket of the Unix domain, `/run/ssa-agent/<name of the agent>.sock`, mode 0600. One
//! request a line, one answer a line, both JSON; a connection may ask again. Only root is answered
//! (`SO_PEERCRED`, unix(7)), and the group that the configuration may name: then the mode is 0660. docs/control.md has
//! the protocol.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use ssa_common::limits::Counter;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    app::{run::Agent, upgrade as handover},
    connection::table as connections,
    policy::{file::Config, value::UserGroup},
    services::{services::Shown, uncaptured::Uncaptured},
};

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
    /// Attach a cgroup, by its path in the file system.
    Attach { cgroup: PathBuf },
    /// Reset its connections, wait until its programs have closed their TLS sockets, and let it go.
    Detach { cgroup: PathBuf },
    /// Tell which cgroups are attached.
    List,
    /// Tell of the TCP sockets of services' programs that can't speak TLS.
    Uncaptured,
    /// Tell of the open connections.
    Connections,
    /// Tell of the last connections that failed.
    Failures,
    /// Tell how the agent does.
    Status,
    /// Start the program anew, and let it take this one's place.
    Upgrade,
    /// Let who asks take this one's place; it has the state of programs in this form.
    HandOver { abi: u32 },
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A policy is in force; how many there were, it among them.
    Reloaded {
        generation: u64,
    },
    /// It is attached, or is no longer.
    Done,
    /// The attached cgroups.
    Services(Vec<Shown>),
    /// TCP sockets that are older than the attachment, or of another cgroup.
    Uncaptured(Vec<Uncaptured>),
    /// The open connections, the oldest first.
    Connections(Vec<connections::Shown>),
    /// Connections that were not made or did not end in order, the newest last.
    Failures(Vec<connections::Failure>),
    Status(Box<Status>),
    /// Another process serves now; connections that this one finishes.
    Upgraded {
        pid: u32,
        finishing: usize,
    },
    /// This process is ready to be replaced.
    HandingOver {
        pid: u32,
    },
    /// Nothing has changed.
    Error(String),
}

/// How an agent does.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) seconds: u64,
    pub(crate) services: usize,
    pub(crate) connections: usize,
    /// What the hooks have counted since the maps were made, by name.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// The socket, bound.
pub(crate) struct Control {
    listener: UnixListener,
    /// Whoever may open the socket is answered: the kernel has seen to it that they are of the group.
    has_group: bool,
}

/// The socket's file. Dropping it removes it.
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// Leaves it to another agent, which has one of the same name.
    pub(crate) fn leave(mut self) {
        self.0.clear();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Left to another, or gone, if its folder was cleaned.
        let _gone = fs::remove_file(&self.0);
    }
}

/// Where the agent of a name is asked.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.sock"))
}

/// Binds the socket of an agent. One of an agent that is gone is replaced.
pub(crate) fn listen(name: &str, group: Option<&UserGroup>) -> Result<(Control, SocketFile)> {
    let path = path(name);
    let failed = || format!("the control socket {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o755).create(FOLDER).with_context(failed)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(failed),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).with_context(failed)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(failed)?;
    if let Some(group) = group {
        let given = std::os::unix::fs::chown(&path, None, Some(group.0));
        given.context("the agent must be in the group that [control] names, or root").with_context(failed)?;
    }
    Ok((Control { listener, has_group: group.is_some() }, SocketFile(path)))
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
                        if let Err(error) = answer(stream, &agent, &config, self.has_group).await {
                            warn!(%error, "a request on the control socket failed");
                        }
                    });
                }
                Err(error) => {
                    error!(%error, "accepting on the control socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(mut stream: UnixStream, agent: &Arc<Agent>, config: &Config, has_group: bool) -> Result<()> {
    ensure!(has_group || stream.peer_cred()?.uid() == 0, "it is for root only");
    let mut hands_over = None;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(REQUEST_BYTES)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.version == VERSION => match request.command {
                Command::Reload => reload(agent, config).await,
                Command::Attach { cgroup } => done(attach(agent, &cgroup).await),
                Command::Detach { cgroup } => done(agent.services.detach_for_good(&cgroup, &agent.maps).await),
                Command::Connections => Answer::Connections(agent.connections.shown()),
                Command::Failures => Answer::Failures(agent.connections.failures()),
                Command::Status => Answer::Status(Box::new(status(agent))),
                Command::Uncaptured => {
                    let services = Arc::clone(&agent.services);
                    Answer::Uncaptured(tokio::task::spawn_blocking(move || services.uncaptured()).await?)
                }
                Command::Upgrade => upgrade(agent).await,
                Command::HandOver { abi } => {
                    hands_over = Some(abi);
                    break;
                }
                Command::List => Answer::Services(agent.services.shown(&agent.maps)),
            },
            Ok(request) => Answer::Error(format!("version {} is not spoken; {VERSION} is", request.version)),
            Err(error) => Answer::Error(format!("no request: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    match hands_over {
        // Nothing was read beyond the command: who asks waits for the answer.
        Some(abi) => handover::prepare(agent, stream, abi).await,
        None => Ok(()),
    }
}

/// Starts this program's file anew, with the same arguments, and waits until it serves.
async fn upgrade(agent: &Arc<Agent>) -> Answer {
    const LIMIT: Duration = Duration::from_secs(120);
    let started = async {
        let own = std::env::current_exe()?;
        // As the kernel calls a file that was replaced.
        let own = PathBuf::from(own.to_string_lossy().trim_end_matches(" (deleted)"));
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        ensure!(!arguments.iter().any(|argument| argument == "--"), "an agent that runs a command ends with it");
        if !arguments.iter().any(|argument| argument == "--take-over") {
            arguments.push("--take-over".into());
        }
        let mut child = tokio::process::Command::new(own);
        // systemd's watchdog is for whichever process is the main one.
        let mut child = child.args(arguments).env_remove("WATCHDOG_PID").spawn()?;
        let pid = child.id().context("it has ended")?;
        let serves = async {
            while !agent.succession.is_done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = serves => {}
            status = child.wait() => bail!("the new agent has ended ({}); the log says why", status?),
            () = tokio::time::sleep(LIMIT) => bail!("the new agent does not serve within {} s", LIMIT.as_secs()),
        }
        // It is not waited for: it will be there when this one is gone.
        tokio::spawn(async move { child.wait().await });
        Ok(Answer::Upgraded { pid, finishing: agent.connections.count() })
    };
    started.await.unwrap_or_else(|error| Answer::Error(format!("{error:#}")))
}

async fn attach(agent: &Agent, cgroup: &Path) -> Result<()> {
    agent.services.attach(cgroup, &agent.stop).await?;
    agent.policies.attached();
    Ok(())
}

fn status(agent: &Agent) -> Status {
    let counters = Counter::ALL.into_iter().map(|(counter, name)| (name.to_owned(), agent.maps.counter(counter)));
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        seconds: agent.began.elapsed().as_secs(),
        services: agent.services.paths().len(),
        connections: agent.connections.count(),
        counters: counters.collect(),
    }
}

fn done(result: Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Error(format!("{error:#}")),
    }
}

/// Reads the configuration again. If it is bad, the policy in force stays.
async fn reload(agent: &Arc<Agent>, config: &Config) -> Answer {
    let _changing = agent.changing.lock().await;
    if agent.succession.is_done() {
        return Answer::Error("another agent serves in this one's place: ask again".to_owned());
    }
    let (failed, agent, config) = (Arc::clone(agent), Arc::clone(agent), config.clone());
    // Files may be anywhere, and users in a directory service.
    let replaced = tokio::task::spawn_blocking(move || -> Result<u64> {
        let file = if agent.policies.is_from_file() { config.read_again()? } else { config.read()? };
        file.load_all()?;
        let file = Arc::new(file);
        agent.rules.replace(Arc::clone(&file))?;
        let limits = file.machine().limits;
        let generation = agent.policies.replace(file)?;
        agent.limits.replace(&limits);
        agent.listeners.look_again(&agent);
        Ok(generation)
    });
    match replaced.await.map_err(anyhow::Error::from).flatten() {
        Ok(generation) => Answer::Reloaded { generation },
        Err(error) => {
            error!(error = format!("{error:#}"), "the configuration is bad: the policy in force stays");
            failed.metrics.reload_failed();
            Answer::Error(format!("{error:#}"))
        }
    }
}

/// Reloads at each SIGHUP.
pub(crate) async fn reload_at_hangup(agent: Arc<Agent>, config: Config, stop: CancellationToken) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while stop.run_until_cancelled(hangup.recv()).await.flatten().is_some() {
        // What is wrong has been logged.
        let _answer = reload(&agent, &config).await;
    }
}

/// The names of agents that run: a socket of one that is gone refuses.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names =
        entries.filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".sock").map(str::to_owned));
    names.filter(|name| std::os::unix::net::UnixStream::connect(path(name)).is_ok()).collect()
}

/// For fuzzers: what may come on the socket.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        serde_json::from_slice::<Request>(&text).expect("and read again");
    }
    let _none = serde_json::from_slice::<handover::Estate>(bytes);
}

/// A command, as it is sent.
pub(crate) fn request(command: Command) -> Request {
    Request { version: VERSION, command }
}

/// Asks an agent. An error that it answers is an error here.
pub(crate) fn ask(name: &str, command: Command) -> Result<Answer> {
    use std::io::{BufRead as _, Write as _};
    let path = path(name);
    let failed = || format!("no agent answers at {} (does `ssa-agent run` run?)", path.display());
    let mut stream = std::os::unix::net::UnixStream::connect(&path).with_context(failed)?;
    let mut text = serde_json::to_vec(&request(command))?;
    text.push(b'\n');
    stream.write_all(&text).with_context(failed)?;
    let mut line = String::new();
    io::BufReader::new(stream).read_line(&mut line).with_context(failed)?;
    if line.is_empty() {
        bail!("the agent gave no answer");
    }
    match serde_json::from_str(&line)? {
        Answer::Error(error) => bail!("{error}"),
        answer @ (Answer::Reloaded { .. }
        | Answer::Done
        | Answer::Services(_)
        | Answer::Connections(_)
        | Answer::Failures(_)
        | Answer::Uncaptured(_)
        | Answer::Upgraded { .. }
        | Answer::HandingOver { .. }
        | Answer::Status(_)) => Ok(answer),
    }
}
