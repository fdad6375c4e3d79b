//! Applications in the agent's cgroup: they know sockets, and nothing else of ours.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::agent::{self, Agent};

/// Time limit of an application.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs a script ([`App::start`]) in the agent's cgroup to its end, and returns what it gave to `out(...)` last. Panics if it
/// fails.
pub fn python(agent: &Agent, script: &str, arguments: &[&str]) -> Value {
    App::start(agent, script, arguments).finish()
}

/// A script that listens with a chain and a key, tells its port, and echoes to each client on a thread, until it is killed. With
/// a third argument it sets the files' texts instead of their paths.
pub const ECHO_LISTENER: &str = "echo_listener.py";

/// A Python script that runs: an application that knows sockets, and nothing else of ours.
pub struct App {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl App {
    /// Starts `script` in the agent's cgroup: a file of `programs/` by its name (`bulk.py`), or the text of a short one, which has
    /// all of `programs/ssa.py` at hand.
    pub fn start(agent: &Agent, script: &str, arguments: &[&str]) -> Self {
        Self::start_by(command(agent, "python3"), script, arguments)
    }

    /// Starts `script` ([`Self::start`]) by a command that ends in a Python.
    pub fn start_by(mut command: Command, script: &str, arguments: &[&str]) -> Self {
        if is_file(script) {
            command.arg(programs().join(script));
        } else {
            command.args(["-c", &format!("from ssa import *\n{script}")]);
        }
        let mut child = command
            .args(arguments)
            .env("PYTHONPATH", programs())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let reader = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    /// Waits for the script's next `out(...)`, and returns its value.
    pub fn said(&mut self) -> Value {
        self.said_within(LIMIT)
    }

    /// Waits for the next `out(...)` within `limit`.
    pub fn said_within(&mut self, limit: Duration) -> Value {
        let line = match self.lines.recv_timeout(crate::long(limit)) {
            Ok(line) => line,
            Err(error) => {
                let _gone = self.child.kill();
                panic!("the application said nothing ({error}); {:?}", self.child.wait());
            }
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Returns the next `out(...)`, or none within `limit`.
    pub fn try_said(&mut self, limit: Duration) -> Option<Value> {
        let line = self.lines.recv_timeout(limit).ok()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// Lets the script's `wait()` return.
    pub fn go(&mut self) {
        self.say("");
    }

    /// Gives the script a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it was not closed");
        writeln!(stdin, "{line}").expect("the application reads");
        stdin.flush().expect("the application reads");
    }

    /// Waits for the end; returns the last `out(...)`.
    pub fn finish(mut self) -> Value {
        drop(self.stdin.take());
        let mut last = Value::Null;
        while let Ok(line) = self.lines.recv_timeout(crate::long(LIMIT)) {
            last = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the application failed: {status}; its last words: {last}");
        last
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A command that runs `executable` as an application in the agent's cgroup.
pub fn command(agent: &Agent, executable: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(agent::executable());
    // Whether an agent serves it or not: some tests are about that.
    command.arg("exec").arg("--plaintext").arg("--cgroup").arg(agent.cgroup()).arg("--").arg(executable);
    command
}

/// Whether a set was refused as in a cgroup that nobody serves: by the kernel, or by guards of another test's agent that
/// was killed. Those can't know whose a cgroup is that was made since.
pub fn is_unserved(said: &Value) -> bool {
    said == "ENOPROTOOPT" || said == "ENOTCONN"
}

/// Compiles a C source of `programs/`, and returns its path, which lives as long as `folder`.
pub fn compile(folder: &Path, source: &Path, compiler: &str, flags: &[&str]) -> PathBuf {
    let binary = folder.join(source.file_stem().expect("sources have names"));
    let output: Output = Command::new(compiler)
        .args(flags)
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&binary)
        .output()
        .expect("a compiler is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    binary
}

/// Whether a script is a file of `programs/`, and not the text of one.
pub fn is_file(script: &str) -> bool {
    script.ends_with(".py")
}

/// The folder of the tests' applications.
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is inside the workspace").to_owned()
}
