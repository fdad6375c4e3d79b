"""Connects at a rate, and tells how many connections came out right, and what was wrong with the others.

Arguments: host name, CA file, port, connections a second, seconds.
"""

from ssa import *

host, ca, port, rate, seconds = args
rate, seconds = float(rate), float(seconds)
done, wrong = 0, []
payload = bytes(range(256)) * 16
lock = threading.Lock()
began = time.monotonic()


def work(share):
    global done
    turn = 0
    while (left := began + turn / share - time.monotonic()) < 1e9 and time.monotonic() - began < seconds:
        if left > 0:
            time.sleep(left)
        turn += 1
        try:
            sock = tls(host, ca)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", int(port)))
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)
            why = None if read_all(sock) == payload else "other bytes"
        except OSError as failed:
            why = f"{failed}; {error(sock)}"
        sock.close()
        with lock:
            done += 1
            if why:
                wrong.append(why)


threads = [threading.Thread(target=work, args=[rate / 8]) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out([done, wrong])
