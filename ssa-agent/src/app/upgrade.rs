//! One agent in the place of another: the new one takes over what is in the kernel and serves all that is new; the old one
//! finishes its connections, and ends.
//!
//! They speak over the old one's control socket, in lines of JSON after the command `hand_over`:
//!
//! 1. The new one loads its programs beside the old one's, then says [`Heir::Take`].
//! 2. The old one lets go: it starts no connection any more, finishes the step at which programs hear of theirs, and leaves
//!    the events, the names of its sockets and the lock to the other, with an [`Estate`]. Connects that it was at begin
//!    anew when their SYN comes again.
//! 3. The new one puts its programs into the links, takes up the listeners, and says [`Heir::Serving`]. If it ends before,
//!    the old one takes everything back.
//! 4. From then on it tells of what concerns the old one's connections ([`Heir::Changed`]).
//!
//! The tokens by which the kernel knows that an agent lives are nobody else's: each agent has its own programs in the hooks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};
use tracing::{info, warn};

use super::run::Agent;
use crate::{
    control::server::{self as control, Answer, Command},
    enforce::learned_names::Learned,
    kernel::loader::Hooks,
    options::store::BroughtText,
    services::pods::Pod,
};

/// What the kernel does not keep. The texts may be private keys: the socket is root's, or the agent's own user's.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Estate {
    pub(crate) texts: Vec<BroughtText>,
    pub(crate) names: Vec<Learned>,
    /// Cgroups that were detached by command.
    pub(crate) detached: Vec<u64>,
    pub(crate) pods: Vec<(String, Pod)>,
    /// Connects that are on their way: [`ssa_common::event::Held`].
    pub(crate) held: Vec<Vec<u8>>,
}

/// What the new one says.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Heir {
    /// It is ready to take over.
    Take,
    /// It has taken over.
    Serving,
    /// A program has set an option of a connection: slot, socket, value.
    Changed { slot: u32, id: u64, value: i32 },
}

/// How long the new one may take to load, and to take up listeners; and how long the old one may take to let go.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
const SERVE_LIMIT: Duration = Duration::from_secs(60);
const LET_GO_LIMIT: Duration = Duration::from_secs(20);

/// One of the two, as the other hears and tells it.
pub(crate) struct Line {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Line {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    /// Cancellation loses nothing.
    async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.lines.next_line().await?.context("the other agent has ended")?;
        Ok(serde_json::from_str(&line)?)
    }

    async fn say(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        Ok(self.write.write_all(&line).await?)
    }
}

/// The agent that runs already, to the one that takes its place.
pub(crate) struct Predecessor(Line);

impl Predecessor {
    /// Asks the agent of this name to hand over. None if there is none.
    pub(crate) async fn ask(name: &str) -> Result<Option<Self>> {
        let Ok(stream) = UnixStream::connect(control::path(name)).await else { return Ok(None) };
        let mut line = Line::new(stream);
        line.say(&control::request(Command::HandOver { abi: ssa_common::ABI_VERSION })).await?;
        let answer = line.hear().await?;
        if let Answer::Error(error) = answer {
            bail!("the agent that runs does not hand over: {error}");
        }
        let Answer::HandingOver { pid } = answer else { bail!("the agent that runs speaks of something else") };
        info!(pid, "taking the place of an agent");
        Ok(Some(Self(line)))
    }

    /// Says that this one is ready. The other lets go of everything.
    pub(crate) async fn take(&mut self) -> Result<Estate> {
        self.0.say(&Heir::Take).await?;
        timeout(LET_GO_LIMIT * 2, self.0.hear()).await.context("the agent that runs did not let go in time")?
    }

    /// Says that this one serves. Returns where to tell of options that were set on the other's connections.
    pub(crate) async fn serving(mut self) -> Result<mpsc::UnboundedSender<ssa_common::event::Changed>> {
        self.0.say(&Heir::Serving).await.context("the agent before this one has taken everything back")?;
        let (tell, mut told) = mpsc::unbounded_channel::<ssa_common::event::Changed>();
        tokio::spawn(async move {
            while let Some(changed) = told.recv().await {
                let said = Heir::Changed { slot: changed.slot, id: changed.id, value: changed.value };
                if self.0.say(&said).await.is_err() {
                    return;
                }
            }
        });
        Ok(tell)
    }
}

/// Whether this agent is at it, or has a successor.
#[derive(Default)]
pub(crate) struct Succession {
    /// One at a time.
    begun: AtomicBool,
    done: AtomicBool,
}

impl Succession {
    /// Whether another agent serves in this one's place.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

/// Waits until the new one is ready, on the old one's side; then hands the line to the task that reads the events.
pub(crate) async fn prepare(agent: &Arc<Agent>, stream: UnixStream, abi: u32) -> Result<()> {
    let peer = stream.peer_cred()?;
    let mut line = Line::new(stream);
    let refused = if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        Some("only to root, and to the agent's own user".to_owned())
    } else if abi != ssa_common::ABI_VERSION {
        let own = ssa_common::ABI_VERSION;
        Some(format!("it keeps its state in another form ({own}, and {abi} is asked for): it must be restarted"))
    } else if agent.succession.begun.swap(true, Ordering::SeqCst) {
        Some("another one is taking over already".to_owned())
    } else {
        None
    };
    if let Some(why) = refused {
        return line.say(&Answer::Error(why)).await;
    }
    let ready = async {
        line.say(&Answer::HandingOver { pid: std::process::id() }).await?;
        match timeout(LOAD_LIMIT, line.hear()).await? {
            Ok(Heir::Take) => Ok(()),
            Ok(Heir::Serving | Heir::Changed { .. }) => bail!("it speaks of something else"),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = ready.await {
        agent.succession.begun.store(false, Ordering::SeqCst);
        warn!(error = format!("{error:#}"), "an agent that was to take over did not come to it");
        return Ok(());
    }
    let heir = Successor { line, pid: peer.pid().and_then(|pid| u32::try_from(pid).ok()), hooks: None };
    agent.heirs.send(heir).await.ok().context("the agent ends")
}

/// The agent that takes this one's place.
pub(crate) struct Successor {
    line: Line,
    pub(crate) pid: Option<u32>,
    /// This agent's, which it needs if it has to take everything back.
    hooks: Option<Hooks>,
}

impl Successor {
    /// Lets go of everything, and waits until the other serves. On an error this one has to take everything back.
    pub(crate) async fn take(&mut self, agent: &Agent, held: impl FnOnce() -> Vec<Vec<u8>>) -> Result<()> {
        agent.retiring().cancel();
        agent.resuming.close();
        let quiet = timeout(LET_GO_LIMIT, agent.resuming.wait()).await;
        quiet.context("connections that are just made take too long")?;
        agent.chains.retire(true);
        let hooks = self.hooks.insert(agent.services.take_hooks().await.context("the agent ends")?);
        hooks.unlock();
        let estate = Estate {
            texts: agent.contexts.texts().await,
            names: agent.names.learned(),
            detached: agent.services.detached(),
            pods: agent.pods.all(),
            held: held(),
        };
        self.line.say(&estate).await?;
        match timeout(SERVE_LIMIT, self.line.hear()).await.context("it does not serve in time")?? {
            Heir::Serving => {}
            Heir::Take | Heir::Changed { .. } => bail!("it speaks of something else"),
        }
        agent.succession.done.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// What the other tells; none when it has ended.
    pub(crate) async fn changed(&mut self) -> Option<(u32, u64, i32)> {
        match self.line.hear().await {
            Ok(Heir::Changed { slot, id, value }) => Some((slot, id, value)),
            Ok(Heir::Take | Heir::Serving) | Err(_) => None,
        }
    }
}

/// After a handover that failed: this agent goes on as it was.
pub(crate) async fn take_back(agent: &Arc<Agent>, heir: Successor) -> Result<()> {
    if let Some(mut hooks) = heir.hooks {
        // The other one has ended, or hears by this that it has to.
        drop(heir.line);
        hooks.lock_again().await?;
        agent.services.put_hooks(hooks).await?;
    }
    agent.chains.retire(false);
    let own = Arc::clone(agent);
    tokio::task::spawn_blocking(move || -> Result<()> {
        let file = own.rules.file();
        own.rules.replace(Arc::clone(&file))?;
        own.policies.replace(file)?;
        Ok(())
    })
    .await??;
    agent.renew_retiring();
    agent.resuming.reopen();
    agent.succession.begun.store(false, Ordering::SeqCst);
    Ok(())
}
