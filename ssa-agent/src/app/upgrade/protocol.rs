//! Protocol of an upgrade between two agents.
//!
//! The new one takes over what is in the kernel and serves all that is new; the old one finishes its connections, and
//! ends. They speak over the old one's control socket, in lines of JSON after the command `hand_over`:
//!
//! 1. The new one loads its programs beside the old one's, then says [`Message::RequestState`].
//! 2. The old one releases what it has: it starts no connection any more, finishes the step at which applications hear
//!    of theirs, and leaves the events, the names of its sockets and the lock to the other, with a
//!    [`TransferredState`]. Connects that it was at begin anew when their SYN comes again.
//! 3. The new one puts its programs into the links, takes up the listeners, and says [`Message::Serving`]. If it ends
//!    before, the old one rolls back.
//! 4. From then on it tells of what concerns the old one's connections ([`Message::Changed`]).
//!
//! The tokens by which the kernel knows that an agent lives are nobody else's: each agent has its own programs in the
//! hooks.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{enforce::Learned, options::TransferredText, policy::Pod, services::Commands};

/// State that the kernel does not keep. The texts may be private keys: the socket is root's, or the agent's own user's.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct TransferredState {
    /// PEM texts that applications have set.
    pub(crate) texts: Vec<TransferredText>,
    /// Names that applications have resolved.
    pub(crate) names: Vec<Learned>,
    /// Cgroups that were attached, closed and detached by command.
    pub(crate) commands: Commands,
    /// Pods of this node, each with its uid.
    pub(crate) pods: Vec<(String, Pod)>,
    /// Connects that are on their way: bytes of [`ssa_common::event::Held`], in host byte order.
    pub(crate) held: Vec<Vec<u8>>,
}

/// Message of the new agent to the old one.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// Ready to take over.
    RequestState,
    /// Took over: the old one may finish.
    Serving,
    /// Option that an application has set on a connection of the old one.
    Changed {
        /// Slot of [`ssa_common::peer_option::PEER_OPTIONS`].
        slot: u32,
        /// `TLS_ID` of the socket.
        id: u64,
        /// Value of the option.
        value: i32,
    },
}

/// Connection between the two agents: a line of JSON for each message.
pub(super) struct JsonLines {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl JsonLines {
    /// Makes the connection of a socket on which nothing waits to be read.
    pub(super) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    /// Reads the next message. Errors: the other has ended, or sent no such message. Cancellation loses nothing.
    pub(super) async fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.lines.next_line().await?.context("the other agent has ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Writes a message. Errors: the other has ended. Cancellation may leave half a line behind.
    pub(super) async fn write(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(self.write.write_all(&line).await?)
    }
}

/// Entry point for fuzzers of the messages that an agent that takes over may get.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _none = serde_json::from_slice::<TransferredState>(bytes);
}
