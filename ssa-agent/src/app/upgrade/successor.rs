//! Agent that takes this one's place, as this one sees it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use ssa_common::event::{Changed, EventKind};
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tracing::warn;

use super::{
    super::wiring::SharedHooks,
    protocol::{JsonLines, Message, TransferredState},
};
use crate::{
    connection::Answers,
    control::protocol::Answer,
    drain::{HandoverGuard, Lifecycle, Phase},
    enforce::Enforcement,
    kernel::Hooks,
    options::Options,
    policy::Pods,
    services::Services,
    sys::cgroup,
};

/// Time that the new agent may take to load.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// Time that the new agent may take to take up listeners.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// Time that the old agent may take to release everything.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(20);

/// Parts whose state a successor gets, and to which it is given back if it does not come to it.
pub(crate) struct Transfer {
    /// Attached cgroups.
    pub(crate) services: Arc<Services>,
    /// Hooks, which are taken for as long as it is not sure who serves.
    pub(crate) hooks: SharedHooks,
    /// Settings of applications: their PEM texts.
    pub(crate) options: Arc<Options>,
    /// Configuration in force, and names that applications have resolved.
    pub(crate) enforcement: Arc<Enforcement>,
    /// Pods of this node.
    pub(crate) pods: Arc<Pods>,
    /// Answers, whose chains a successor takes over.
    pub(crate) answers: Answers,
}

/// An agent that is ready to take this one's place.
pub(crate) struct Successor {
    lines: JsonLines,
    /// Id of its process; none if it can't be known.
    pub(crate) pid: Option<u32>,
    /// Hooks of this agent, which it needs if it has to take everything back.
    hooks: Option<Hooks>,
    /// Guard of the handover; none once it is done.
    handover: Option<HandoverGuard>,
}

/// Answers a request to hand over: waits until the new agent is ready, then sends it to the task that reads the events.
/// A handover that is refused, or breaks off before, is no error.
pub(crate) async fn prepare(
    lifecycle: &Arc<Lifecycle>,
    candidates: &mpsc::Sender<Successor>,
    stream: UnixStream,
    abi: u32,
) -> Result<()> {
    let peer = stream.peer_cred()?;
    let mut lines = JsonLines::new(stream);
    // One that has just taken over answers before it serves.
    lifecycle.drain().wait_for(|phase| phase != Phase::Starting).await;
    let begun = if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        Err("only to root, and to the agent's own user".to_owned())
    } else if abi != ssa_common::ABI_VERSION {
        let own = ssa_common::ABI_VERSION;
        Err(format!("it keeps its state in another form ({own}, and {abi} is asked for): it must be restarted"))
    } else {
        lifecycle.begin_handover().map_err(|error| error.to_string())
    };
    let handover = match begun {
        Ok(handover) => handover,
        Err(why) => return lines.write(&Answer::Error(why)).await,
    };
    let ready = async {
        lines.write(&Answer::HandingOver { pid: std::process::id() }).await?;
        match timeout(LOAD_LIMIT, lines.read()).await? {
            Ok(Message::RequestState) => Ok(()),
            Ok(Message::Serving | Message::Changed { .. }) => bail!("it speaks of something else"),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = ready.await {
        warn!(error = format!("{error:#}"), "an agent that was to take over did not come to it");
        return Ok(());
    }
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let successor = Successor { lines, pid, hooks: None, handover: Some(handover) };
    candidates.send(successor).await.ok().context("the agent ends")
}

impl Successor {
    /// Releases everything, and waits until the other serves. On an error this one has to [`Self::roll_back`].
    pub(crate) async fn release(&mut self, transfer: &Transfer, held: impl FnOnce() -> Vec<Vec<u8>>) -> Result<()> {
        let handover = self.handover.as_ref().context("it was handed over before")?;
        handover.quiesce(RELEASE_LIMIT).await.context("connections that are just made take too long")?;
        transfer.answers.leave_chains(true);
        let hooks = self.hooks.insert(transfer.hooks.lock().await.take().context("the agent ends")?);
        hooks.unlock();
        let state = TransferredState {
            texts: transfer.options.texts().await,
            names: transfer.enforcement.names.learned(),
            commands: transfer.services.commands(),
            pods: transfer.pods.all(),
            held: held(),
        };
        self.lines.write(&state).await?;
        match timeout(SERVE_LIMIT, self.lines.read()).await.context("it does not serve in time")?? {
            Message::Serving => {}
            Message::RequestState | Message::Changed { .. } => bail!("it speaks of something else"),
        }
        if let Some(handover) = self.handover.take() {
            handover.finish();
        }
        Ok(())
    }

    /// Takes everything back after a handover that failed: this agent goes on as it was. An error ends the agent.
    pub(crate) async fn roll_back(self, transfer: &Transfer) -> Result<()> {
        let Self { lines, hooks, handover, .. } = self;
        if let Some(mut hooks) = hooks {
            // The other one has ended, or hears by this that it has to.
            drop(lines);
            hooks.lock_again().await?;
            hooks.attach(&cgroup::mount()?)?;
            *transfer.hooks.lock().await = Some(hooks);
        }
        transfer.answers.leave_chains(false);
        let enforcement = Arc::clone(&transfer.enforcement);
        tokio::task::spawn_blocking(move || enforcement.put_in_force_again()).await??;
        // Connects are begun again from here on.
        drop(handover);
        Ok(())
    }

    /// Receives the next option that was set on one of this agent's connections; none when the other has ended.
    /// Cancellation loses nothing.
    pub(crate) async fn changed(&mut self) -> Option<Changed> {
        match self.lines.read().await {
            Ok(Message::Changed { slot, id, value }) => {
                Some(Changed { kind: EventKind::CHANGED, slot, id, value, reserved: 0 })
            }
            Ok(Message::RequestState | Message::Serving) | Err(_) => None,
        }
    }
}
