"""A TLS server by GnuTLS that staples a response to each certificate of its chain: OpenSSL's servers staple one.

Arguments: port, chain, key, file with OCSP responses in PEM, priority string.
"""

import ctypes
import socket
import sys

SERVER, CERTIFICATE, PEM = 1, 1, 1
AGAIN = (-28, -52)

port, chain, key, responses, priority = sys.argv[1:]
tls = ctypes.CDLL("libgnutls.so.30")


def check(code):
    if code < 0:
        tls.gnutls_strerror.restype = ctypes.c_char_p
        sys.exit(tls.gnutls_strerror(code).decode())


credentials = ctypes.c_void_p()
check(tls.gnutls_certificate_allocate_credentials(ctypes.byref(credentials)))
check(tls.gnutls_certificate_set_x509_key_file(credentials, chain.encode(), key.encode(), PEM))
check(tls.gnutls_certificate_set_ocsp_status_request_file2(credentials, responses.encode(), 0, PEM))
listener = socket.create_server(("127.0.0.1", int(port)))
while True:
    conn, _ = listener.accept()
    session = ctypes.c_void_p()
    check(tls.gnutls_init(ctypes.byref(session), SERVER))
    check(tls.gnutls_priority_set_direct(session, priority.encode(), None))
    check(tls.gnutls_credentials_set(session, CERTIFICATE, credentials))
    tls.gnutls_transport_set_int2(session, conn.fileno(), conn.fileno())
    while (code := tls.gnutls_handshake(session)) in AGAIN:
        pass
    if code == 0:
        buffer = ctypes.create_string_buffer(1)
        while tls.gnutls_record_recv(session, buffer, ctypes.c_size_t(1)) in AGAIN:
            pass
        tls.gnutls_bye(session, 0)
    tls.gnutls_deinit(session)
    conn.close()
