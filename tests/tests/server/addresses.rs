//! Addresses and ports of clients, also from another network namespace.

use serde_json::json;

use crate::site::*;

#[test]
fn real_addresses_are_shown_also_from_another_namespace() {
    let site = site();
    let script = r#"
import subprocess
chain, key, ca = args
assert libc.unshare(0x40000000) == 0
def run(*words): subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
run("ip", "addr", "add", "10.9.1.1/24", "dev", "d0"); run("ip", "addr", "add", "fd00:9::1/64", "dev", "d0", "nodad"); run("ip", "link", "set", "d0", "up")
run(*there, "ip", "addr", "add", "10.9.1.2/24", "dev", "d1"); run(*there, "ip", "addr", "add", "fd00:9::2/64", "dev", "d1", "nodad"); run(*there, "ip", "link", "set", "d1", "up")
came = []
try:
    for host, family, to in (("10.9.1.1", socket.AF_INET, "10.9.1.1"), ("0.0.0.0", socket.AF_INET, "10.9.1.1"),
                             ("fd00:9::1", socket.AF_INET6, "[fd00:9::1]"), ("::", socket.AF_INET6, "[fd00:9::1]"), ("::", socket.AF_INET6, "10.9.1.1")):
        def dual(sock):
            if host == "::": sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock = listener(chain, key, host=host, family=family, before=dual); sock.settimeout(10)
        port = sock.getsockname()[1]
        client = subprocess.Popen([*there, "openssl", "s_client", "-connect", f"{to}:{port}", "-servername", "server.ssa.test", "-CAfile", ca, "-verify_return_error", "-quiet"],
                                  stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        conn, peer = sock.accept()
        came.append([peer[0], conn.getpeername()[:2] == peer[:2], conn.getsockname()[0], conn.getsockname()[1] == port])
        client.kill(); conn.close(); sock.close()
    plain = subprocess.run([*there, "timeout", "3", "bash", "-c", f"echo hi > /dev/tcp/10.9.1.1/{port}"], stderr=subprocess.DEVNULL)
finally:
    other.kill()
out(came)
"#;
    let came = site.start(script, &[&site.pki.ca()]).finish();
    let mapped = json!(["::ffff:10.9.1.2", true, "::ffff:10.9.1.1", true]);
    assert_eq!(came[0], json!(["10.9.1.2", true, "10.9.1.1", true]));
    assert_eq!(came[1], came[0]);
    assert_eq!(came[2], json!(["fd00:9::2", true, "fd00:9::1", true]));
    assert_eq!(json!([came[3], came[4]]), json!([came[2], mapped]));
}

#[test]
fn ports_of_ended_connections_do_not_run_out() {
    let site = site();
    // 64 ports instead of 28,000, and more clients than that within the minute that an ended connection keeps
    // its port for.
    let script = r#"
import ssl, subprocess, threading
chain, key, ca = args
assert libc.unshare(0x40000000) == 0
def run(*words): subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
for word, side, device in ([], 1, "d0"), (there, 2, "d1"):
    run(*word, "ip", "addr", "add", f"10.9.2.{side}/24", "dev", device); run(*word, "ip", "addr", "add", f"fd00:10::{side}/64", "dev", device, "nodad")
    run(*word, "ip", "link", "set", device, "up")
run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")
def serve(sock):
    while True:
        conn, _ = sock.accept()
        with conn:
            while data := conn.recv(16): conn.sendall(data)
client = """
import socket, ssl, sys, time
host, port, ca, pause = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
for turn in range(100):
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="server.ssa.test") as sock:
        sock.sendall(b"hello"); assert sock.recv(16) == b"hello", turn; sock.unwrap()
    time.sleep(float(pause))
"""
codes = []
try:
    for host, family, pause in ("10.9.2.1", socket.AF_INET, "0"), ("fd00:10::1", socket.AF_INET6, "0.05"):
        sock = listener(chain, key, host=host, family=family)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()
        codes.append(subprocess.run([*there, sys.executable, "-c", client, host, str(sock.getsockname()[1]), ca, pause]).returncode)
finally:
    other.kill()
out(codes); os._exit(0)
"#;
    assert_eq!(site.start(script, &[&site.pki.ca()]).said(), json!([0, 0]));
}
