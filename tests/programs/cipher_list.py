"""Sets, edits and reads the list of cipher suites.

Arguments: three suites of the list.
"""

from ciphers import *

came = []
sock = tls("name.test")
whole = listed(sock)
came.append([len(whole) > 10, len(set(whole)) == len(whole), "TLS_AES_256_GCM_SHA384" in whole])
a, b, c = "TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
came.append([put(sock, LIST, f"{b}:{a}:{b}:{c}"), listed(sock)])
came.append([put(sock, DISABLE, a), listed(sock), put(sock, DISABLE, a), listed(sock)])
came.append([put(sock, ENABLE, c), listed(sock), put(sock, ENABLE, a), listed(sock)])
came.append([put(sock, LIST, "TLS_AES_128_GCM_SHA256:TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), listed(sock)])
before = listed(sock)
wrong = [
    put(sock, LIST, value)
    for value in (
        ":",
        f"{a}:",
        f":{a}",
        f"{a}::{b}",
        "NO-SUCH-SUITE",
        f"{a}:nope",
        a.lower(),
        "HIGH",
        "x" * 4000,
        a + " ",
        ":".join([a] * 170),
        ":".join([a] * 40),
    )
]
wrong += [
    put(sock, option, value)
    for option in (DISABLE, ENABLE)
    for value in ("NO-SUCH-SUITE", f"{a}:{b}", "x" * 100, "x")
]
came.append([wrong, listed(sock) == [a]])
came.append(
    [
        put(sock, ENABLE, "NULL-SHA256"),
        put(sock, LIST, f"{a}:NULL-SHA256"),
        put(sock, ENABLE, "ADH-AES256-GCM-SHA384"),
        listed(sock) == [a],
    ]
)
came.append([put(sock, LIST, ":".join(whole)), listed(sock) == whole])
for name_ in whole:
    put(sock, DISABLE, name_)
came.append(listed(sock))
small = tls("name.test")
put(small, LIST, a)
came.append([attempt(big, small, LIST, size) for size in (len(a), len(a) + 1, 8192)])
out(came)
