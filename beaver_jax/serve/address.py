"""Where a server is reached."""

import contextlib
import errno
import socket

_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # e.g. ::1 without IPv6


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets at all addresses of a host, which take no connections yet.

    Args:
      host: A name or an address.
      port: 0 for one that is free.

    Raises:
      ValueError: The port is out of range.
      OSError: It is taken, or the host is not this machine.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f'--port={port}; must be 0 to 65535.')
    with contextlib.ExitStack() as opened:
        try:
            sockets = _bind(host, port, opened)
        except OSError as error:
            reason = error.strerror or error
            taken = error.errno == errno.EADDRINUSE
            what = '; choose another --port, or 0 for a free one' if taken else ''
            raise OSError(f'--host={host} --port={port}: {reason}{what}') from error
        opened.pop_all()
        return sockets


def _bind(host: str, port: int, opened: contextlib.ExitStack) -> list[socket.socket]:
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    places = {
        (family, address)
        for family, *_, address in socket.getaddrinfo(
            host, port, type=kind, flags=flags
        )
    }
    found: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in sorted(places):
        try:
            one = opened.enter_context(socket.socket(family, kind))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # IPv4 has a socket of its own
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            missing = error
        else:
            found.append(one)
    if missing is not None and not found:
        raise missing
    return found
