"""Serves more clients than the agent has ports for, one after the other."""

from veth import *

chain, key, ca = args
connect_ends(("10.9.2.1/24", "fd00:10::1/64"), ("10.9.2.2/24", "fd00:10::2/64"))
run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")


def serve(sock):
    while True:
        conn, _ = sock.accept()
        with conn:
            while data := conn.recv(16):
                conn.sendall(data)


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
        codes.append(
            subprocess.run(
                [*there, sys.executable, "-c", client, host, str(sock.getsockname()[1]), ca, pause]
            ).returncode
        )
finally:
    other.kill()
out(codes)
os._exit(0)
