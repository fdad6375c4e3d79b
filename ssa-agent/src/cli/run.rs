//! `ssa-agent run`: serves a cgroup until it is told to stop, or until one command has ended.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::selftest;
use crate::{
    app::{self, RunOptions},
    kernel::release,
    sys::{capabilities, cgroup},
};

/// Serve a cgroup: its applications' TLS sockets connect through this agent
///
/// Loads and attaches the eBPF programs, and stays up until SIGINT or SIGTERM. Then it resets the open TLS connections.
/// If a rule or an open TLS socket depends on the guards, they stay attached, and refuse what was TLS until the next
/// run; else it detaches them. A second signal ends it at once, and leaves the guards.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A cgroup, as a path of the file system or below the cgroup2 mount; made if it is not there. May be given several
    /// times. Without it, the agent of the machine is started, to which `ssa-agent attach` gives cgroups
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<PathBuf>,
    /// Folder that maps and programs are pinned in; a bpffs is mounted if none is there
    #[arg(long, value_name = "PATH", default_value = super::args::BPFFS)]
    bpffs: PathBuf,
    #[command(flatten)]
    config: super::args::ConfigArgs,
    /// Filter of the log: error, warn, info, debug, trace, or one such as `warn,ssa_agent=debug`. At debug the eBPF
    /// programs' own messages come as target `ssa_hooks`
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// At the end, leave the guards attached even if no rule and no open TLS socket depends on them: they refuse every
    /// TLS socket until the next run, which takes up what was attached
    #[arg(long, conflicts_with = "plaintext")]
    leave_guards: bool,
    /// At the end, take the guards away although rules depend on them: what they made TLS is PLAINTEXT from then on.
    /// The end waits until the applications have closed the TLS sockets that they have asked for
    #[arg(long)]
    plaintext: bool,
    /// Take the place of an agent of the same name, if one runs: it finishes its connections and ends, and nobody is
    /// refused meanwhile. `ssa-agent upgrade` starts an agent in this way
    #[arg(long, conflicts_with = "command")]
    take_over: bool,
    /// Prove first that it works: a plain socket in the cgroup fetches from a TLS server of our own
    #[arg(long)]
    prove: bool,
    /// Run this command in the cgroup, and end with it and its exit status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs `ssa-agent run`: the exit status is that of the command, if one is given.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let log = args.log.as_deref().unwrap_or(if args.command.is_empty() { "info" } else { "warn" });
    super::logging::start_logging(log)?;
    // Before anything is attached: a bad file is the most likely mistake.
    args.config.config().read()?.load_all()?;
    check_machine()?;
    cgroup::join_machine()?;
    raise_file_limit();
    ensure!(
        !args.cgroup.is_empty() || (args.command.is_empty() && !args.prove),
        "--prove and a command want a --cgroup to be run in"
    );
    let mut made = Vec::new();
    let mut cgroups = Vec::new();
    for path in &args.cgroup {
        let path = cgroup::resolve(path)?;
        if cgroup::create(&path)? {
            made.push(path.clone());
        }
        cgroups.push(path);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(&args, cgroups, made));
    runtime.shutdown_background();
    served
}

/// Checks what the agent needs of the machine: one clear sentence for what the kernel would say in many.
fn check_machine() -> Result<()> {
    let effective = capabilities::effective_capabilities();
    let lacking: Vec<&str> = capabilities::CAPABILITIES
        .iter()
        .filter(|capability| effective >> capability.number & 1 == 0)
        .map(|capability| capability.name)
        .collect();
    ensure!(
        lacking.is_empty(),
        "it must run as root, or as a user with these capabilities: {}; `ssa-agent doctor` says what each is for",
        lacking.join(", ")
    );
    let (major, minor) = release();
    ensure!(
        (major, minor) >= (6, 1),
        "Linux 6.1 or later is needed, for errnos of connect hooks; this is {major}.{minor}"
    );
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel lacks type information (/sys/kernel/btf/vmlinux; CONFIG_DEBUG_INFO_BTF)"
    );
    Ok(())
}

/// Raises the limit of open files to all that the administrator allows: each connection takes two.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(args: &Args, cgroups: Vec<PathBuf>, made: Vec<PathBuf>) -> Result<ExitCode> {
    let name =
        cgroups.first().map_or_else(|| Ok(super::args::MACHINE.to_owned()), |path| super::args::agent_name(path))?;
    let config = args.config.config();
    let options = RunOptions {
        name,
        cgroups: cgroups.clone(),
        bpffs: args.bpffs.clone(),
        config,
        made,
        leave_guards: args.leave_guards,
        plaintext: args.plaintext,
        take_over: args.take_over,
    };
    let asked = CancellationToken::new();
    let mut code = ExitCode::SUCCESS;
    let attended = async || attended(args, &cgroups, &asked, &mut code).await;
    tokio::select! {
        done = app::run(options, attended) => done?,
        () = second_signal(&asked) => bail!("ended at once: the guards stay attached and refuse every TLS socket"),
    }
    Ok(code)
}

/// Does what the command line asks for while the agent serves: proves that it works, runs the command, waits for the
/// end.
async fn attended(args: &Args, cgroups: &[PathBuf], asked: &CancellationToken, code: &mut ExitCode) -> Result<()> {
    let Some(path) = cgroups.first() else {
        eprintln!("ssa-agent: ready. `ssa-agent attach CGROUP` gives it cgroups to serve.");
        asked.cancelled().await;
        return Ok(());
    };
    if args.prove {
        print!("{}", selftest::run(path).await.context("the self-test failed")?);
    }
    if args.command.is_empty() {
        cgroups.iter().for_each(|path| print_ready(path));
        asked.cancelled().await;
        return Ok(());
    }
    let mut child = spawn(path, &args.bpffs, &args.command)?;
    let status = tokio::select! {
        status = child.wait() => status?,
        () = asked.cancelled() => end(&mut child).await?,
    };
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    *code = ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX));
    Ok(())
}

fn print_ready(path: &Path) {
    eprintln!("ssa-agent: ready. Applications in {} speak TLS by IPPROTO_TLS options.", path.display());
    eprintln!("ssa-agent: start one there:  ssa-agent exec --cgroup {} -- COMMAND", path.display());
    eprintln!("ssa-agent: or move one in:   echo PID > {}/cgroup.procs", path.display());
}

/// Starts a command inside the cgroup.
fn spawn(path: &Path, bpffs: &Path, command: &[OsString]) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["exec".as_ref(), "--bpffs".as_ref(), bpffs.as_os_str()])
        .args(["--cgroup".as_ref(), path.as_os_str(), "--".as_ref()])
        .args(command)
        .kill_on_drop(true)
        .spawn()
        .context("starting the command")
}

/// Asks a command to end, and waits until it has; a second signal to the agent ends it at once.
async fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // Gone, if it has ended by itself: the terminal's Ctrl-C goes to it as well.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    child.wait().await
}

/// Asks to end at the first SIGINT or SIGTERM; completes at the second, or if signals can't be had.
async fn second_signal(asked: &CancellationToken) {
    let signals = || Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    let Ok((mut interrupt, mut terminate)) = signals() else { return };
    for _time in 0..2 {
        tokio::select! {
            _signal = interrupt.recv() => {}
            _signal = terminate.recv() => {}
        }
        asked.cancel();
    }
}
