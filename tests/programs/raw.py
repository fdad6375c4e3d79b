"""Option calls by libc itself: Python's own wrappers hide pointers and lengths."""

from ssa import *


def raw_set(sock, option, value, length, level=IPPROTO_TLS):
    pointer = value if value is None or isinstance(value, int) else ctypes.c_char_p(value)
    if isinstance(pointer, int):
        pointer = ctypes.c_void_p(pointer)
    return name(
        0 if libc.setsockopt(sock.fileno(), level, option, pointer, length) == 0 else ctypes.get_errno()
    )


def raw_get(sock, option, length, pointer=True, level=IPPROTO_TLS):
    buffer = ctypes.create_string_buffer(b"\xee" * max(length, 1), max(length, 1) + 16)
    size = ctypes.c_uint32(length)
    target = buffer if pointer is True else pointer
    done = libc.getsockopt(sock.fileno(), level, option, target, ctypes.byref(size))
    return [name(0 if done == 0 else ctypes.get_errno()), size.value, buffer.raw[: max(size.value, 1)].hex()]
