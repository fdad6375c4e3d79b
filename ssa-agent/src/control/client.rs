//! Client of the control socket.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::protocol::{Answer, Command, request};

/// Folder of the control sockets.
pub(super) const FOLDER: &str = "/run/ssa-agent";

/// Path of an agent's control socket.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.sock"))
}

/// Names of agents that run: a socket of one that is gone refuses.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names =
        entries.filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".sock").map(str::to_owned));
    names.filter(|name| UnixStream::connect(path(name)).is_ok()).collect()
}

/// Asks an agent, and waits, without a limit, for its answer. An error that it answers is an error here.
pub(crate) fn ask(name: &str, command: Command) -> Result<Answer> {
    let path = path(name);
    let failed = || format!("no agent answers at {} (does `ssa-agent run` run?)", path.display());
    let mut stream = UnixStream::connect(&path).with_context(failed)?;
    let mut text = serde_json::to_vec(&request(command))?;
    text.push(b'\n');
    stream.write_all(&text).with_context(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).with_context(failed)?;
    if line.is_empty() {
        bail!("the agent gave no answer");
    }
    match serde_json::from_str(&line)? {
        Answer::Error(error) => bail!("{error}"),
        answer @ (Answer::Reloaded { .. }
        | Answer::Done
        | Answer::LeftClosed
        | Answer::Explanation(_)
        | Answer::Services(_)
        | Answer::Connections(_)
        | Answer::Failures(_)
        | Answer::Uncaptured(_)
        | Answer::Upgraded { .. }
        | Answer::HandingOver { .. }
        | Answer::Status(_)) => Ok(answer),
    }
}
