//! Server of the control socket.
//!
//! A stream socket of the Unix domain, `/run/ssa-agent/<name of the agent>.sock`, mode 0600. One request a line, one
//! answer a line, both JSON; a connection may ask again. Only root is answered (`SO_PEERCRED`, unix(7)), and the group
//! that the configuration may name: then the mode is 0660. docs/control.md has the protocol.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tracing::{error, warn};

use super::{
    client::{FOLDER, path},
    protocol::{Answer, Command, Request, VERSION},
};
use crate::policy::UserGroup;

/// Handler of an administrator's commands.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a command; never [`Command::HandOver`].
    fn handle(&self, command: Command) -> impl Future<Output = Answer> + Send;

    /// Hands over to the agent at the other end of `stream`, which keeps the state of applications in the form `abi`.
    /// Errors are logged.
    fn hand_over(&self, stream: UnixStream, abi: u32) -> impl Future<Output = Result<()>> + Send;
}

/// Longest request, in bytes.
const REQUEST_BYTES: u64 = 4096;

/// A control socket that is bound.
pub(crate) struct Server {
    listener: UnixListener,
    /// Whether a group may open the socket: the kernel has seen to it that whoever does is of the group.
    has_group: bool,
}

/// File of a control socket. Dropping it removes it.
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// Leaves the file to another agent, which has one of the same name.
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

/// Binds the control socket of an agent. One of an agent that is gone is replaced. Errors: the folder, the socket or
/// its group can't be had.
pub(crate) fn listen(name: &str, group: Option<&UserGroup>) -> Result<(Server, SocketFile)> {
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
    Ok((Server { listener, has_group: group.is_some() }, SocketFile(path)))
}

impl Server {
    /// Answers requests until it is dropped. Failures are logged.
    pub(crate) async fn serve(self, handler: Arc<impl Handler>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _from)) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &*handler, self.has_group).await {
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

async fn answer(mut stream: UnixStream, handler: &impl Handler, has_group: bool) -> Result<()> {
    ensure!(has_group || stream.peer_cred()?.uid() == 0, "it is for root only");
    let mut hands_over = None;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(REQUEST_BYTES)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(Request { version: VERSION, command: Command::HandOver { abi } }) => {
                hands_over = Some(abi);
                break;
            }
            Ok(Request { version: VERSION, command }) => handler.handle(command).await,
            Ok(request) => Answer::Error(format!("version {} is not spoken; {VERSION} is", request.version)),
            Err(error) => Answer::Error(format!("no request: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        write.write_all(&text).await?;
    }
    match hands_over {
        // Nothing was read beyond the command: who asks waits for the answer.
        Some(abi) => handler.hand_over(stream, abi).await,
        None => Ok(()),
    }
}
