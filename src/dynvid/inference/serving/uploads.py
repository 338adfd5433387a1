"""What is read of a request: so many bytes, in so much time, and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from dynvid.extras import require

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
_IN_MEMORY = 2**20  # of a larger upload, in bytes, a temporary file is made, which has no name
# What is wrong with a form is said to who sent it, not to who runs the server.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())
_HEADERS = 8192  # bytes of a part's headers


@dataclass(frozen=True)
class Bounds:
    """What a server takes on.

    Attributes:
        upload_bytes: Of a request's body.
        upload_seconds: In which it must have come.
        pause_seconds: Most between two pieces of it, and for the headers of a request.
        requests: That are being read or answered at the same time.
        held_bytes: Of all of them together.
        seconds: From the end of an upload to its answer; then the answer so far is given.
    """

    upload_bytes: int = 200 * 10**6
    upload_seconds: float = 120
    pause_seconds: float = 10
    requests: int = 64
    held_bytes: int = 10**9
    seconds: float = 60


class RefusedError(Exception):
    """A request that is not answered, with the status and the reason that its sender is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class LeftError(Exception):
    """The client is gone."""


class Upload(SpooledTemporaryFile[bytes]):
    """A file that was sent: in memory or, where it is large, on disk without a name; gone when it is closed.

    Attributes:
        bytes: That were read for it.
    """

    def __init__(self) -> None:
        super().__init__(_IN_MEMORY)
        self.bytes = 0

    name = "upload"  # what errors call it: neither the sender's name nor the machine's

    def close(self) -> None:
        """Let go of it, whatever could not be written."""
        with suppress(OSError):
            super().close()


class Reading:
    """An upload as a decoder reads it: if it is closed meanwhile, for a client that has left, it ends there.

    What else is raised in it PyAV prints, as a traceback each time.
    """

    name = Upload.name

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def read(self, size: int = -1) -> bytes:
        """As a file does; nothing once it is closed."""
        return self._unless_closed(b"", self._upload.read, size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file does; 0 once it is closed."""
        return self._unless_closed(0, self._upload.seek, offset, whence)

    def tell(self) -> int:
        """As a file does; 0 once it is closed."""
        return self._unless_closed(0, self._upload.tell)

    def _unless_closed(self, otherwise: T, method: Callable[..., T], *arguments: int) -> T:
        try:
            return method(*arguments)
        except ValueError:
            if self._upload.closed:
                return otherwise
            raise


class Held:
    """How much is held of all requests together.

    Args:
        bounds: The most.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.requests, self.bytes = bounds, 0, 0

    @property
    def full(self) -> bool:
        """Whether no other request is taken on."""
        return self.requests >= self.bounds.requests or self.bytes >= self.bounds.held_bytes


async def pieces(receive: Receive, held: Held) -> AsyncIterator[bytes]:
    """A request's body as it comes, whether it states its length or not.

    Raises:
        RefusedError: It is too large or too slow, or all requests together are too large.
        LeftError: The client is gone.
    """
    bounds, got, loop = held.bounds, 0, asyncio.get_running_loop()
    ends = loop.time() + bounds.upload_seconds
    while True:
        left = min(ends - loop.time(), bounds.pause_seconds)
        try:
            message = await asyncio.wait_for(receive(), max(left, 0))
        except TimeoutError:
            raise RefusedError(408, f"the upload is too slow: {got} bytes came") from None
        if message["type"] == "http.disconnect":
            raise LeftError
        piece = message.get("body", b"")
        got += len(piece)
        if got > bounds.upload_bytes:
            raise RefusedError(413, too_large(bounds))
        if held.bytes + len(piece) > bounds.held_bytes:
            raise RefusedError(503, "the server holds as many uploads as it may; try again")
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


def too_large(bounds: Bounds) -> str:
    """What the sender of too large an upload is told."""
    return f"the upload is larger than {bounds.upload_bytes / 1e6:g} MB"


async def read_upload(headers: dict[str, str], receive: Receive, held: Held, into: Upload) -> None:
    """Read the file that a request carries: its body, or the field `file` of a form.

    Args:
        headers: Of the request, by their names in lower case.
        receive: Gives the body, as ASGI has it.
        held: Counts what is held of all; it is the caller's to take `into.bytes` off when the file is closed.
        into: Takes the file.

    Raises:
        RefusedError: It carries no file, or more than that, or is too large or too slow, or there is no room for it.
        LeftError: The client is gone.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > held.bounds.upload_bytes:
        raise RefusedError(413, too_large(held.bounds))  # before it is sent, where the client waits for a word
    if headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "content-encoding: send the file as it is")
    kind = headers.get("content-type", "")
    form = _Form(kind, into) if kind.partition(";")[0].strip().lower() == "multipart/form-data" else None
    try:
        async for piece in pieces(receive, held):
            held.bytes += len(piece)
            into.bytes += len(piece)
            if form:
                form.write(piece)
            else:
                into.write(piece)
        if form:
            form.finish()
        if not into.tell():
            raise RefusedError(400, "no file came: send it as the body, or as the field file of a form")
        into.seek(0)  # which writes what has not been written
    except OSError:
        raise RefusedError(503, "no room for the upload; try again") from None


class _Form:
    """A form with one field, `file`."""

    def __init__(self, content_type: str, into: Upload) -> None:
        library = require("python_multipart")
        boundary = _options(content_type).get(b"boundary")
        if not boundary or len(boundary) > 70:  # RFC 2046
            raise RefusedError(400, "multipart/form-data without a boundary, or with a long one")
        self._error: type[Exception] = library.exceptions.FormParserError
        self._into, self._parts, self._ended = into, 0, False
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value, self._size = b"", b"", 0
        self._parser = library.MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": lambda data, start, end: self._into.write(data[start:end]),
                "on_end": self._on_end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        try:
            self._parser.write(piece)
        except self._error:
            raise RefusedError(400, "the form is malformed") from None

    def finish(self) -> None:
        """Take note that the body has ended."""
        if not self._ended:
            raise RefusedError(400, "the form is cut short")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > 1:
            raise RefusedError(400, "a form with several fields: send one file in the field file, options in the query")
        self._headers = {}

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += self._counted(data[start:end])

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _counted(self, part: bytes) -> bytes:
        self._size += len(part)
        if self._size > _HEADERS:
            raise RefusedError(400, "the form's headers are too long")
        return part

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        if _options(self._headers.get(b"content-disposition", b"")).get(b"name") != b"file":
            raise RefusedError(400, "the form has no field file")

    def _on_end(self) -> None:
        self._ended = True


def _options(header: str | bytes) -> dict[bytes, bytes]:
    """What a header states after its first word."""
    try:
        options: dict[bytes, bytes] = require("python_multipart").multipart.parse_options_header(header)[1]
    except Exception:  # older versions let out whatever the standard library raises on `f*=a; f*0=b`, and more
        raise RefusedError(400, "the form is malformed") from None
    return options
