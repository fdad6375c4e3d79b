"""Resolves a name if there is one, and connects. Arguments: port, perhaps a name."""

from names import *

if len(args) > 1:
    Resolver("127.0.6").resolve(args[1], "127.0.0.1")
out(talk("127.0.0.1"))
