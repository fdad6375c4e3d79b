//! Agent that runs already, as the one that takes its place sees it.

use anyhow::{Context as _, Result, bail};
use ssa_common::event::Changed;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tracing::info;

use super::{
    protocol::{JsonLines, Message, TransferredState},
    successor::RELEASE_LIMIT,
};
use crate::control::{
    client::path,
    protocol::{Answer, Command, request},
};

/// Agent whose place this one takes.
pub(crate) struct Predecessor(JsonLines);

impl Predecessor {
    /// Asks the agent of this name to hand over. None if there is none. Errors: it refuses, or breaks off.
    pub(crate) async fn ask(name: &str) -> Result<Option<Self>> {
        let Ok(stream) = UnixStream::connect(path(name)).await else { return Ok(None) };
        let mut lines = JsonLines::new(stream);
        lines.write(&request(Command::HandOver { abi: ssa_common::ABI_VERSION })).await?;
        let answer = lines.read().await?;
        if let Answer::Error(error) = answer {
            bail!("the agent that runs does not hand over: {error}");
        }
        let Answer::HandingOver { pid } = answer else { bail!("the agent that runs speaks of something else") };
        info!(pid, "taking the place of an agent");
        Ok(Some(Self(lines)))
    }

    /// Announces that this agent is ready, upon which the other releases everything, and receives its state. Errors:
    /// the other breaks off, or takes longer than 40 s.
    pub(crate) async fn request_state(&mut self) -> Result<TransferredState> {
        self.0.write(&Message::RequestState).await?;
        timeout(RELEASE_LIMIT * 2, self.0.read()).await.context("the agent that runs did not let go in time")?
    }

    /// Announces that this agent serves. Returns the queue for options that were set on the other's connections.
    /// Errors: the other has taken everything back.
    pub(crate) async fn serving(mut self) -> Result<mpsc::UnboundedSender<Changed>> {
        self.0.write(&Message::Serving).await.context("the agent before this one has taken everything back")?;
        let (options, mut changes) = mpsc::unbounded_channel::<Changed>();
        tokio::spawn(async move {
            while let Some(changed) = changes.recv().await {
                let message = Message::Changed { slot: changed.slot, id: changed.id, value: changed.value };
                if self.0.write(&message).await.is_err() {
                    return;
                }
            }
        });
        Ok(options)
    }
}
