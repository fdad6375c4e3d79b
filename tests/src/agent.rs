//! An agent that serves a cgroup of the test's own.

use std::{
    fmt::Display,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use tempfile::TempDir;

use crate::eventually;

/// The agent's executable, which `cargo xtask test` has built beside the tests.
pub fn executable() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    // Tests are in release/deps, the bench is in release.
    let executable =
        test.ancestors().skip(1).take(2).map(|folder| folder.join("ssa-agent")).find(|path| path.is_file());
    let executable = executable.unwrap_or_else(|| test.with_file_name("ssa-agent"));
    assert!(executable.is_file(), "{} is missing; run `cargo xtask test`", executable.display());
    executable
}

/// Log filter of agents: the hooks' own messages too, but not aya's.
const LOG: &str = "debug,aya=info,aya_obj=info";

/// Way in which an agent ends in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ends {
    /// `--plaintext`: the guards are taken away, when no TLS socket is open.
    Plaintext,
    /// As it does by default: the guards stay if something depends on them.
    Closed,
    /// `--leave-guards`: the guards stay.
    AlwaysClosed,
}

/// A running agent. Dropping it stops it in order, and removes the cgroup.
pub struct Agent {
    cgroup: PathBuf,
    folder: TempDir,
    child: Option<Child>,
    /// The agent that has taken the child's place; no child of ours.
    successor: Option<Pid>,
    /// Agents that were replaced, and may still finish connections.
    replaced: Vec<Child>,
    log: Arc<Mutex<Vec<String>>>,
    filter: &'static str,
    /// How agents that are started from now on end in order.
    pub ends: Ends,
}

impl Agent {
    /// Starts an agent with limits that suit tests: 2 s to connect, 2 s for the handshake.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts an agent ([`Agent::start`]) with this in its configuration, too.
    pub fn start_with(config: impl Display) -> Self {
        let mut agent = Self::absent();
        agent.configure(config);
        agent.restart();
        agent
    }

    /// Writes the configuration, for the next start or reload.
    pub fn configure(&mut self, config: impl Display) {
        let config = config.to_string();
        let times = if config.contains("[time]") { "" } else { "[time]\nconnect_seconds = 2\nhandshake_seconds = 2\n" };
        fs::write(self.config(), format!("{times}{config}")).expect("the folder is ours");
    }

    /// Path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// `ssa-agent reload`: the exit status, and what it said.
    pub fn reload(&self) -> (bool, String) {
        let output =
            Command::new(executable()).arg("reload").arg("--cgroup").arg(&self.cgroup).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Logs what is wrong only: a log costs more than a connect.
    pub fn start_quiet() -> Self {
        let mut agent = Self::absent();
        agent.restart_quiet();
        agent
    }

    /// Starts an agent again, which logs as one of [`Agent::start_quiet`] does, and so do later ones.
    pub fn restart_quiet(&mut self) {
        self.filter = "warn,access=error";
        self.restart();
    }

    /// A cgroup that no agent has ever served.
    pub fn absent() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_mount().join(format!("ssa-test-{}-{count}", std::process::id()));
        fs::create_dir(&cgroup).expect("root can make cgroups");
        let folder = tempfile::Builder::new().prefix("ssa-agent").tempdir().expect("a folder can be made");
        let mut agent = Self {
            cgroup,
            folder,
            child: None,
            successor: None,
            replaced: Vec::new(),
            log: Arc::default(),
            filter: LOG,
            ends: Ends::Plaintext,
        };
        agent.configure("");
        agent
    }

    /// Starts an agent, after the last one was killed or has ended.
    pub fn restart(&mut self) {
        self.restart_by(Command::new(executable()));
    }

    /// Starts an agent again by a command that runs its executable.
    pub fn restart_by(&mut self, mut command: Command) {
        assert!(self.child.is_none() && self.successor.is_none(), "the last agent still runs");
        let mut child = command
            .args(["run", "--log", self.filter])
            .args(match self.ends {
                Ends::Plaintext => Some("--plaintext"),
                Ends::Closed => None,
                Ends::AlwaysClosed => Some("--leave-guards"),
            })
            .arg("--cgroup")
            .arg(&self.cgroup)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::clone(&self.log);
        log.lock().expect("no panic holds it").clear();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().expect("no panic holds it").push(line);
            }
        });
        self.child = Some(child);
        eventually("the agent is ready", Duration::from_secs(30), || {
            let ended = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
            assert!(!ended, "the agent ended:\n{}", self.log());
            self.log().contains("ssa-agent: ready")
        });
    }

    /// Starts one more agent of this cgroup, which SIGKILL ends at its bpf(2) call number `at`: each thread counts its own. What
    /// it logs goes to `log`.
    pub fn killed_at(&self, at: usize, arguments: &[&str], log: Stdio) -> Child {
        Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject=bpf:signal=SIGKILL:when={at}")])
            .arg(executable())
            .args(["run", "--log", "info", "--cgroup"])
            .arg(&self.cgroup)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("strace is installed")
    }

    /// Programs with this agent's maps that are attached to the root of the cgroups, as the kernel lists them.
    pub fn attached(&self) -> usize {
        let maps = ["SOCKETS", "CGROUPS"].map(|map| {
            let path = self.pins().join(map);
            bpftool(&["map", "show", "pinned", path.to_str().expect("it is UTF-8")])["id"].as_u64()
        });
        let own = |program: &serde_json::Value| {
            let used = program["map_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
            used.iter().any(|map| maps.contains(&map.as_u64()))
        };
        let loaded = bpftool(&["prog", "show"]);
        let own: Vec<&serde_json::Value> = loaded.as_array().expect("a list").iter().filter(|one| own(one)).collect();
        let root = bpftool(&["cgroup", "show", cgroup_mount().to_str().expect("it is UTF-8")]);
        let attached = root.as_array().expect("a list").iter();
        attached.filter(|one| own.iter().any(|program| program["id"] == one["id"])).count()
    }

    /// `ssa-agent upgrade`: what it said, if a new agent has taken over; else why not.
    pub fn upgrade(&mut self) -> Result<String, String> {
        let output =
            Command::new(executable()).arg("upgrade").arg("--cgroup").arg(&self.cgroup).output().expect("it runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            return Err(said);
        }
        let pid = said.split(' ').nth(1).and_then(|pid| pid.parse().ok());
        self.successor = Some(Pid::from_raw(pid.unwrap_or_else(|| panic!("no pid: {said}"))));
        self.replaced.extend(self.child.take());
        Ok(said)
    }

    /// Whether all that were replaced have ended.
    pub fn is_alone(&mut self) -> bool {
        self.replaced.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        self.replaced.is_empty()
    }

    /// SIGKILL, and waits for the end, and until the kernel has closed the guards: it does so a moment later
    /// (`prog_array_map_clear` in kernel/bpf/arraymap.c, which leaves it to a work queue).
    pub fn kill(&mut self) {
        let live = live_programs(self.pid());
        if let Some(pid) = self.successor.take() {
            kill(pid, Signal::SIGKILL).expect("it runs");
            eventually("it has ended", Duration::from_secs(10), || !runs(pid));
        } else {
            let mut child = self.child.take().expect("the agent runs");
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
        eventually("the guards are closed", Duration::from_secs(10), || {
            loaded_programs().is_some_and(|loaded| loaded.iter().all(|(id, _name)| !live.contains(id)))
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is our child");
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        if let Some(pid) = self.successor.take() {
            kill(pid, Signal::SIGTERM).expect("it runs");
            return eventually("the agent has ended", Duration::from_secs(20), || !runs(pid));
        }
        if let Some(child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
            kill(pid, Signal::SIGTERM).expect("it is our child");
            self.child = Some(child);
            self.wait_for_end();
        }
    }

    /// Waits for the end of an agent that was told to stop.
    pub fn wait_for_end(&mut self) {
        if let Some(mut child) = self.child.take() {
            eventually("the agent has ended", Duration::from_secs(20), || matches!(child.try_wait(), Ok(Some(_))));
        }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        if let Some(pid) = self.successor {
            return pid;
        }
        let id = self.child.as_ref().expect("the agent runs").id();
        Pid::from_raw(i32::try_from(id).expect("pids are small"))
    }

    /// The cgroup's path.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The log of the running agent so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic holds it").join("\n")
    }

    /// Folder in which the guards and maps are pinned.
    pub fn pins(&self) -> PathBuf {
        use std::os::unix::fs::MetadataExt as _;
        let inode = fs::metadata(&self.cgroup).expect("the cgroup is there").ino();
        PathBuf::from(format!("/sys/fs/bpf/ssa/v{}-{inode}", ssa_common::ABI_VERSION))
    }

    /// Entries of one of its pinned maps.
    pub fn entries(&self, map: &str) -> usize {
        let mut bpftool = Command::new("bpftool");
        let output = bpftool.args(["-j", "map", "dump", "pinned"]).arg(self.pins().join(map)).output();
        let output = output.expect("bpftool is installed");
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout).expect("bpftool speaks JSON");
        dump.as_array().expect("a list of entries").len()
    }

    /// Open descriptors of the agent.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the agent runs").count()
    }

    /// Resident memory of the agent, in KiB.
    pub fn memory_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("--- the end of the agent's log ---");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // Applications that a failed test has left would keep the agent waiting.
        let _gone = fs::write(self.cgroup.join("cgroup.kill"), "1");
        if let Some(pid) = self.successor.take() {
            let _gone = kill(pid, Signal::SIGTERM);
            for _tick in 0..400 {
                if !runs(pid) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _gone = kill(pid, Signal::SIGKILL);
        }
        for mut child in self.replaced.drain(..) {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("pids are small"));
            for signal in [Signal::SIGCONT, Signal::SIGTERM] {
                let _gone = kill(pid, signal);
            }
            let mut ended = false;
            for _tick in 0..400 {
                ended = matches!(child.try_wait(), Ok(Some(_)));
                if ended {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            if !ended {
                let _gone = child.kill();
                let _gone = child.wait();
            }
        }
        let name = self.pins().file_name().and_then(|name| name.to_str()?.split('-').nth(1).map(str::to_owned));
        let _left = Command::new(executable())
            .args(["cleanup", "--plaintext", "--name", &name.expect("pins have the agent's name")])
            .output();
        for _tick in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What bpftool says, as JSON.
fn bpftool(words: &[&str]) -> serde_json::Value {
    let output = Command::new("bpftool").arg("-j").args(words).output().expect("bpftool is installed");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("bpftool {words:?}: {error}"))
}

/// The programs of an agent that the guards call for as long as it lives.
fn live_programs(pid: Pid) -> Vec<u64> {
    let fdinfo = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = fdinfo.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let own: Vec<u64> = texts
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect();
    let loaded = loaded_programs().unwrap_or_default().into_iter();
    loaded.filter(|(id, name)| own.contains(id) && name.starts_with("ssa_live")).map(|(id, _name)| id).collect()
}

/// Ids and names of the programs that the kernel has; none if one went while they were listed.
fn loaded_programs() -> Option<Vec<(u64, String)>> {
    let output = Command::new("bpftool").args(["-j", "prog", "show"]).output().expect("bpftool is installed");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let programs = list.as_array()?.iter();
    Some(programs.filter_map(|one| Some((one["id"].as_u64()?, one["name"].as_str()?.to_owned()))).collect())
}

/// Whether a process is there, and no zombie.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

/// Mount point of cgroup2.
pub fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
    PathBuf::from(line.split(' ').nth(1).expect("mounts have a path"))
}
