"""A server until it is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import uvicorn

from asr_pathways.errors import PathwaysError
from asr_pathways.serve.app import make_app
from asr_pathways.serve.service import Options, Service

MESSAGE = 1 << 20
"""Bytes of a message of a WebSocket, at most."""

GRACE = 3
"""Seconds in which requests may end once the server is to end."""


def serve(
    model: Path, host: str, port: int, options: Options, ready: Callable[[str], None], wyoming_port: int | None = None
) -> None:
    """Serves a MODEL until the process is interrupted.

    Args:
        host, port: to listen at; port 0: any that is free.
        ready: is called with the server's address once it listens, and with that of Wyoming.
        wyoming_port: to serve Wyoming's clients at, likewise; None: not at all.

    Raises:
        PathwaysError: if there is no such MODEL, an address cannot be listened at, or a token is asked for where
            clients cannot send it.
    """
    if wyoming_port is not None and options.token is not None:
        raise PathwaysError("--wyoming: its clients send no token: leave --token out, or serve Wyoming by itself")
    with ExitStack() as stack:
        name = f"[{host}]" if ":" in host else host
        listener = stack.enter_context(listen(host, port))
        second = None if wyoming_port is None else stack.enter_context(listen(host, wyoming_port))
        service = Service(model, options)
        server = make_server(service, host, second)
        ready(f"http://{name}:{listener.getsockname()[1]}")
        if second is not None:
            ready(f"tcp://{name}:{second.getsockname()[1]}")
        with suppress(KeyboardInterrupt):  # which is how it ends
            server.run(sockets=[listener])
        if service.jobs:  # what has begun cannot be stopped, and the interpreter would wait for it
            os._exit(0)


def make_server(service: Service, host: str, for_wyoming: socket.socket | None) -> uvicorn.Server:
    """A server that listens at ``host``, with what bounds a connection; and at a socket for Wyoming's clients."""
    beside = None
    if for_wyoming is not None:
        from asr_pathways.serve.wyoming import wyoming

        beside = wyoming(service, for_wyoming)
    config = uvicorn.Config(
        make_app(service, local=is_loopback(host), beside=beside),
        log_level="warning",  # what is below that has the addresses of streams, with their tokens
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_error)
    return uvicorn.Server(config)


def _is_error(record: logging.LogRecord) -> bool:
    """Not what uvicorn says of each stream that is refused by a status instead of a handshake, or cut at the end."""
    return "returned without completing" not in str(record.msg)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        PathwaysError: if the address is none of this machine's, or in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
            reason = os.strerror(error.errno)  # without what Python adds to it
            if error.errno == errno.EADDRINUSE:
                reason += ": choose another port, or 0, which is any that is free"
        raise PathwaysError(f"{host} port {port}: cannot listen there: {reason}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
