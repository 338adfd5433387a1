"""Sockets and signals: an application under uvicorn, until it is told to end."""

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from dynvid.errors import InputError
from dynvid.extras import require
from dynvid.text import printable


def listen(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any that is free.

    Raises:
        ValueError: It is in use, or not of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {printable(host)} port {port} ({reason})") from error


def url_of(listening: socket.socket) -> str:
    """Where it is reached from this machine.

    >>> with listen("127.0.0.1", 0) as listening:
    ...     url_of(listening).rpartition(":")[0]
    'http://127.0.0.1'
    """
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Any,
    listening: socket.socket,
    on_start: Callable[[], None],
    pause_seconds: float,
    connections: int,
    patience: int = 120,
    lifespan: Literal["on", "off"] = "off",
) -> None:
    """Answer requests until SIGTERM or SIGINT; what was begun by then is finished first.

    Args:
        app: An ASGI application.
        listening: The socket.
        on_start: Called once requests are answered.
        pause_seconds: In which the headers of a request must have come, and a client must take what it is sent.
        connections: Most at the same time; others are told 503.
        patience: Seconds in which what was begun must end.
        lifespan: Whether the application wants to be told of its start and end.
    """
    uvicorn = require("uvicorn")

    class Server(uvicorn.Server):  # type: ignore[misc,name-defined]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            on_start()

    config = uvicorn.Config(
        app,
        http=_protocol(pause_seconds),
        ws="none",
        lifespan=lifespan,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=patience,
    )
    # uvicorn raises the signal once more when it has ended; the end that was asked for is no failure.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def _protocol(seconds: float) -> type[Any]:
    """Uvicorn's HTTP, with an end to clients who do not send their headers, or do not take their answers.

    It waits for both for ever.
    """
    protocol = require("uvicorn.protocols.http.h11_impl").H11Protocol

    class Protocol(protocol):  # type: ignore[misc,valid-type]
        waits: Any = None
        stuck: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Else the end of an answer is held back until the client has acknowledged its beginning, after 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport.set_write_buffer_limits(high=0)  # so that writing pauses wherever the client takes nothing more
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stuck = self.stuck or self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unstick()

        def _unstick(self) -> None:
            if self.stuck:
                self.stuck.cancel()
                self.stuck = None

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unstick()
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if self.waits and (not idle or self.transport.is_closing()):
                self.waits.cancel()
                self.waits = None
            elif not self.waits and idle and not self.transport.is_closing():
                self.waits = self.loop.call_later(seconds, self.transport.close)

    return Protocol
