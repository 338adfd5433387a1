"""What is said on which path, as an ASGI application."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl

import torch

from dynvid import strict_json
from dynvid.errors import InputError, VideoError
from dynvid.inference.pool import Answer
from dynvid.inference.recognizer import Passed, Recognition, Recognizer
from dynvid.inference.serving.metrics import Metrics
from dynvid.inference.serving.uploads import (
    Bounds,
    Held,
    LeftError,
    Message,
    Reading,
    Receive,
    RefusedError,
    Upload,
    read_upload,
)
from dynvid.inference.serving.walks import FaultError, Walk, Walks
from dynvid.routes import Exit
from dynvid.text import printable

Send = Callable[[Message], Awaitable[None]]
EVENTS = "text/event-stream"
_LINGER = 2.0  # seconds in which the rest of a refused upload is read, so that its sender sees why


class App:
    """Answers `POST /predict`, `GET /health`, `/ready` and `/metrics`.

    Args:
        recognizer: What answers.
        bounds: What is taken on.
        deadline_ms: Of requests that state none.
        batch_size: Videos of a step.
        workers: Threads that decode.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        bounds: Bounds | None = None,
        deadline_ms: float | None = None,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        self.recognizer, self.bounds, self.deadline_ms = recognizer, bounds or Bounds(), deadline_ms
        self.held, self.metrics = Held(self.bounds), Metrics()
        self.walks = Walks(recognizer, batch_size, workers, self.metrics.stepped)

    def warm_up(self) -> None:
        """Walk the route once, on nothing, so that the first request does not pay for what is made on first use."""
        net = self.recognizer.net
        stream = net.stream(torch.zeros(1, net.num_frames, 3, net.input_size, net.input_size, dtype=torch.uint8))
        with torch.inference_mode():
            while not stream.finished:
                stream.advance()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        paths = {"/predict": "POST", "/health": "GET", "/ready": "GET", "/metrics": "GET"}
        path, method = scope["path"], scope["method"]
        if path not in paths:
            await _say(send, 404, {"error": f"there are {', '.join(paths)}"})
        elif method not in (paths[path], *(("HEAD",) if paths[path] == "GET" else ())):
            await _say(send, 405, {"error": f"{path} takes {paths[path]}"}, [(b"allow", paths[path].encode())])
        elif path == "/predict":
            await self._counted(scope, receive, send)
        elif path == "/health":
            alive = self.walks.alive
            await _say(send, 200 if alive else 500, {"status": "alive" if alive else "the computing thread has ended"})
        elif path == "/ready":
            await _say(send, 503 if self.held.full else 200, self._ready())
        else:
            page = self.metrics.text(self._now())
            await _send(send, 200, page.encode(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])

    def _ready(self) -> dict[str, Any]:
        recognizer = self.recognizer
        point, audit = recognizer.point, recognizer.audit
        return {
            "status": "full" if self.held.full else "ready",
            "calibrated": recognizer.calibrated,
            "classes": recognizer.class_names or [str(k) for k in range(recognizer.net.num_classes)],
            "exits": [
                {**_plain_exit(exit), "gmacs": gmacs}
                for exit, gmacs in zip(recognizer.net.route, recognizer.gmacs, strict=True)
            ],
            "full_gmacs": recognizer.full_gmacs,
            "operating_point": point and point.plain(),
            "audit": audit and audit.plain(),
        }

    def _now(self) -> dict[str, float]:
        audit = self.recognizer.audit
        audited = (
            {}
            if audit is None
            else {
                "audited_videos": audit.audited,
                "audited_videos_differing": audit.differing,
                "audited_differing_at_most": audit.interval.high,
                "promise_kept": float(audit.status == "kept"),
                "promise_broken": float(audit.status == "broken"),
            }
        )
        return {
            "requests_in_progress": self.held.requests,
            "requests_waiting": self.walks.waiting,
            "upload_bytes_held": self.held.bytes,
            **audited,
        }

    async def _counted(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request for a prediction, refusals included, and count it."""
        began, body, code = time.perf_counter(), _Body(receive), 500
        try:
            if self.held.full:
                raise RefusedError(503, f"{self.held.requests} requests are being answered; try again")
            code = await self._held(scope, body.receive, send)
        except RefusedError as refused:
            code = refused.status
            await _refuse(body, send, code, str(refused))
        except LeftError:
            code = 499
        finally:
            self.metrics.answered(code, time.perf_counter() - began)

    async def _held(self, scope: Message, receive: Receive, send: Send) -> int:
        """Answer a request that is taken on; the status."""
        upload = Upload()
        self.held.requests += 1
        try:
            return await self._predict(scope, receive, send, upload)
        finally:
            self.held.requests -= 1
            self.held.bytes -= upload.bytes
            upload.close()

    async def _predict(self, scope: Message, receive: Receive, send: Send, upload: Upload) -> int:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        max_gmacs, deadline_ms = self._options(scope["query_string"])
        try:
            self.recognizer.limits(max_gmacs, deadline_ms)  # before anything is sent
        except InputError as error:
            raise RefusedError(400, str(error)) from None
        await read_upload(headers, receive, self.held, upload)
        client = _Client(self, receive)
        walk = self.walks.begin(cast(BinaryIO, Reading(upload)), client.tell, max_gmacs, deadline_ms)
        streams = any(part.partition(";")[0].strip() == EVENTS for part in headers.get("accept", "").split(","))
        return await client.answer(walk, send if streams else None, send)

    def _options(self, query: bytes) -> tuple[float | None, float | None]:
        options: dict[str, float | None] = {"max_gmacs": None, "deadline_ms": self.deadline_ms}
        try:
            given = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=8)
        except ValueError:
            raise RefusedError(400, "the query cannot be read") from None
        for name, value in given:
            if name not in options:
                raise RefusedError(400, f"{printable(name)[:40]}: no such option; there are {', '.join(options)}")
            try:
                options[name] = float(value)
            except ValueError:
                raise RefusedError(400, f"{name}={printable(value)[:40]}: a number") from None
            if not 0 <= float(value) < math.inf:
                raise RefusedError(400, f"{name}={printable(value)[:40]}: 0 or more")
        return options["max_gmacs"], options["deadline_ms"]


class _Client:
    """Waits for what comes of one walk, and gives it on; ends the walk where nobody is there to take it."""

    def __init__(self, app: App, receive: Receive) -> None:
        self._app, self._receive, self._recognizer = app, receive, app.recognizer
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self._answers: list[Answer] = []

    def tell(self, what: object) -> None:
        """Take what comes of the walk, from the thread that computes."""
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._told.put_nowait, what)

    async def answer(self, walk: Walk, events: Send | None, send: Send) -> int:
        """Send the answer, or each exit's as it comes; its status."""
        left = asyncio.ensure_future(self._gone())
        ends = self._loop.time() + self._app.bounds.seconds
        soon = self._loop.time() + walk.limits.seconds
        found, started = None, False
        try:
            while found is None:
                said = await self._next(left, min(soon, ends) if self._answers else ends)
                if isinstance(said, Answer):
                    self._answers.append(said)
                    if events:
                        await _event(events, "exit", self._plain_exit(said), first=not started)
                        started = True
                elif isinstance(said, list) or (said is None and self._answers):
                    found = self._recognizer._said(self._answers, Upload.name)
                else:
                    code, reason = _fault(said)
                    if not started:
                        raise RefusedError(code, reason)
                    await _event(send, "error", {"error": reason}, last=True)
                    return code
        finally:
            self._app.walks.leave(walk)
            left.cancel()
        self._app.metrics.recognised(found, self._recognizer.full_gmacs)
        if events:
            await _event(send, "answer", self._plain(found), last=True)
        else:
            await _say(send, 200, self._plain(found))
        return 200

    async def _next(self, left: "asyncio.Future[None]", until: float) -> Any:
        """What is told next; None where nothing is until then."""
        told = asyncio.ensure_future(self._told.get())
        try:
            await asyncio.wait({told, left}, timeout=max(until - self._loop.time(), 0), return_when="FIRST_COMPLETED")
            if told.done():
                return told.result()
            if left.done():
                raise LeftError
            return None
        finally:
            told.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _plain_exit(self, answer: Answer) -> dict[str, Any]:
        return _plain_passed(self._recognizer._said([answer], "").trace[0])

    def _plain(self, found: Recognition) -> dict[str, Any]:
        return {
            "label": found.label,
            "probability": found.probability,
            "answered": found.answered,
            "exit": _plain_exit(found.exit),
            "frames_read": found.frames_read,
            "gmacs": found.gmacs,
            "saved": 1 - found.gmacs / self._recognizer.full_gmacs,
            "milliseconds": found.milliseconds,
            "trace": [_plain_passed(passed) for passed in found.trace],
            "labels": list(found.labels),
        }


def _fault(error: BaseException | None) -> tuple[int, str]:
    """Status and reason of what went wrong with a walk; None is that nothing came in time."""
    if error is None:
        return 504, "no exit was reached in time"
    if isinstance(error, VideoError):
        return 422, str(error)
    error = error.__cause__ if isinstance(error, FaultError) and error.__cause__ else error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return 503, "not enough memory; try again"
    # Whatever else a decoder raises: not in its own words, which may tell of the machine.
    return 500, f"the server failed on it ({type(error).__name__})"


def _plain_exit(exit: Exit) -> dict[str, int]:
    return {"frames": exit.frames, "depth": exit.depth}


def _plain_passed(passed: Passed) -> dict[str, Any]:
    return {**passed._asdict(), "exit": _plain_exit(passed.exit)}


class _Body:
    """A request's body on its way, and whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.ended = receive, False

    async def receive(self) -> Message:
        """As ASGI has it."""
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body", False)
        return message


async def _refuse(body: _Body, send: Send, code: int, reason: str) -> None:
    """Say why; where the body has not come whole, read on for a while: else its sender may never see what was said."""
    said = _line({"error": reason})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
    headers += [(b"retry-after", b"1")] if code == 503 else []
    headers += [] if body.ended else [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": said, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while not body.ended:
                await body.receive()
    await send({"type": "http.response.body"})


async def _say(send: Send, code: int, plain: dict[str, Any], headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await _send(send, code, _line(plain), [(b"content-type", b"application/json"), *(headers or [])])


async def _send(send: Send, code: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": code, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _event(send: Send, name: str, plain: dict[str, Any], first: bool = False, last: bool = False) -> None:
    """Send one event of a stream."""
    if first:
        headers = [(b"content-type", EVENTS.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = f"event: {name}\ndata: ".encode() + _line(plain) + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _line(plain: dict[str, Any]) -> bytes:
    return (strict_json.dumps(plain) + "\n").encode()
