//! Others are left alone: plain sockets, other options, other agents.

use std::io::{Read as _, Write as _};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::{App, python},
    server::Server,
};

#[test]
fn plain_sockets_of_the_cgroup_are_left_alone() {
    let mut agent = Agent::start();
    let server = Server::tcp("127.0.0.1", |mut stream| {
        let mut buffer = [0; 100];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let _gone = stream.write_all(&buffer[..read]);
        }
    });
    let script = r#"
port, = args
def work():
    sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.sendall(b"plain")
    listener = socket.create_server(("127.0.0.1", 0))
    second = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    second.sendall(b"there")
    return [sock.recv(10).decode(), accepted.recv(10).decode(), sock.getpeername()[1] == int(port)]
out(work()); wait()
out(work())
"#;
    let mut app = App::start(&agent, script, &[&server.port()]);
    assert_eq!(app.said(), json!(["plain", "there", true]));
    agent.kill();
    app.go();
    assert_eq!(app.said(), json!(["plain", "there", true]), "with the agent dead, too");
}

#[test]
fn second_agent_for_a_cgroup_is_refused() {
    let agent = Agent::start();
    let output = std::process::Command::new(ssa_tests::agent::executable())
        .args(["run", "--cgroup"])
        .arg(agent.cgroup())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another agent of this name runs"), "{said}");
}

#[test]
fn nested_cgroup_is_not_attached_twice() {
    let agent = Agent::start();
    let inner = agent.cgroup().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let output = std::process::Command::new(ssa_tests::agent::executable())
        .args(["run", "--cgroup"])
        .arg(&inner)
        .output()
        .unwrap();
    std::fs::remove_dir(&inner).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is served by another agent"), "{said}");
}

#[test]
fn long_values_of_other_options_reach_the_kernel() {
    let agent = Agent::start();
    let script = r#"
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket()
value = ctypes.create_string_buffer(struct.pack("i", 1 << 16) + b"\0" * 8188, 8192)
size = ctypes.c_uint32(8192)
came = [libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, socket.SO_RCVBUF, value, 8192)]
came += [libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, socket.SO_RCVBUF, value, ctypes.byref(size)), size.value]
out(came + [struct.unpack("i", value.raw[:4])[0] >= 1 << 16])
"#;
    assert_eq!(python(&agent, script, &[]), json!([0, 0, 4, true]));
}
