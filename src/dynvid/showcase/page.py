"""The page itself: Gradio's parts, and what they do.

Nothing is loaded from elsewhere, by the page or by the server: fonts are the system's, and a header forbids the rest.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from dynvid.calibration import OperatingPoint
from dynvid.errors import DynvidError, VideoError
from dynvid.extras import require
from dynvid.inference.recognizer import Recognizer
from dynvid.inference.serving.uploads import Bounds, Held, LeftError, Message, Receive, RefusedError, pieces
from dynvid.policy import ThresholdPolicy
from dynvid.showcase.picture import draw, moments, segments, told
from dynvid.showcase.walk import Walk, settings, watch


class Parts(NamedTuple):
    """The parts of a long video.

    Attributes:
        segments: Seconds from and to, label and probability of each.
        saved: The share of full inference's GMACs that was saved on the way.
    """

    segments: Sequence[tuple[float, float, str, float]]
    saved: float


HEAD = """\
<div class="dv head"><h1>A video classifier that stops when it is sure</h1>
<p>Usual classifiers look at every frame with the whole network, however easy the video. This one looks at a few frames
with the first part of its network, and asks itself: <b>am I sure?</b> If so, it stops and saves the rest. If not, it
looks at more. Give it a video and watch where it stops.</p></div>"""
WAITING = "Drop a video into the box, or record a few seconds with the webcam. Here you will see what it looks at."
WAITING_LONG = "Drop a long video into the box. Here you will see what happens in it, and when."
WAITING_ITS_TURN = "Another long video is being watched. Yours comes next …"
SCROLL = """() => {
  const picture = document.getElementById("picture");
  if (picture.getBoundingClientRect().top > 0.6 * innerHeight) picture.scrollIntoView({behavior: "smooth"});
}"""  # on a phone it lies below the video
FONTS = ["system-ui", "sans-serif"]
ALLOWED = {
    "default-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob: mediastream:",
    "font-src": "'self' data:",
    "style-src": "'self' 'unsafe-inline'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "worker-src": "'self' blob:",
    "connect-src": "'self' data: blob:",
    "frame-ancestors": "'self'",
    "form-action": "'self'",
}  # what a page may load, and from where


class Demo:
    """What the page does with a recognizer.

    One short video is computed at a time, so that times can be compared; beside it, one long video.

    Args:
        recognizer: What answers.
        curve: Thresholds from the cheapest to full inference, (M, K), as a checkpoint's `curve_thresholds`.
        pace: How fast a walk is shown: 0 is at once.
        parts: Finds the parts of a long video; by default the page has no place for one.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        curve: Tensor,
        pace: float = 1.0,
        parts: Callable[[BinaryIO], Parts] | None = None,
    ) -> None:
        self.recognizer, self.rows, self.pace, self.parts = recognizer, settings(curve), pace, parts
        self._one = threading.Lock()
        self._long, self._closed = ThreadPoolExecutor(1, "dynvid-long"), threading.Event()
        self.preset = self._nearest()

    def show(self, path: str | None, effort: float | None = None) -> Iterator[str]:
        """Label a video and show it bit by bit.

        Args:
            path: The file; None where it was taken away.
            effort: Place of the slider, in percent; by default the thresholds that the recognizer has.

        Yields:
            The picture, as HTML.
        """
        walk = self._watched(path, effort)
        if isinstance(walk, str):
            yield walk
            return
        for moment, pause in moments(walk):
            if self.pace or moment.done:
                yield draw(walk, moment)
                time.sleep(pause * self.pace)

    def show_at_once(self, path: str | None, effort: float | None = None) -> str:
        """The same without the way there: for another place of the slider."""
        walk = self._watched(path, effort)
        return walk if isinstance(walk, str) else draw(walk)

    def show_parts(self, path: str | None) -> Iterator[str]:
        """Find the parts of a long video and show them; the search ends when nobody waits for what is yielded."""
        if path is None or self.parts is None:
            yield told(WAITING_LONG)
            return
        left = threading.Event()
        found = self._long.submit(self._parts, self.parts, path, left)
        try:
            while not found.done():
                yield told("Watching the whole video …" if found.running() else WAITING_ITS_TURN)
                wait([found], timeout=1)
            parts = found.result()
        except (DynvidError, OSError) as error:
            yield told(_reason(error, path))
            return
        finally:
            left.set()
            found.cancel()
        yield segments(parts.segments, parts.saved)

    def close(self) -> None:
        """End the search through a long video that is under way, so that the process can end."""
        self._closed.set()
        self._long.shutdown(cancel_futures=True)

    def _parts(self, parts: Callable[[BinaryIO], Parts], path: str, left: threading.Event) -> Parts:
        with open(path, "rb") as file:
            return parts(_named(file, lambda: left.is_set() or self._closed.is_set()))

    def policy(self, effort: float | None) -> ThresholdPolicy:
        """The policy at a place of the slider."""
        mine = self.recognizer.policy
        if effort is None or not len(self.rows) or round(effort) == self.preset:
            return mine
        place = min(max(effort, 0.0), 100.0) / 100
        row = self.rows[round(place * (len(self.rows) - 1))]
        return mine.at(row).to(mine.thresholds.device)

    def _watched(self, path: str | None, effort: float | None) -> Walk | str:
        if path is None:
            return told(WAITING)
        try:
            with self._one, open(path, "rb") as file:
                return watch(self.recognizer, _named(file), self.policy(effort))
        except (DynvidError, OSError) as error:
            return told(_reason(error, path))

    def _nearest(self) -> int:
        """The place of the slider that is nearest to the recognizer's own thresholds."""
        if not len(self.rows):
            return 100
        own = self.recognizer.policy.thresholds.cpu()
        finite = self.rows[self.rows.isfinite()].tolist() or [0.0]
        capped = [rows[..., :-1].clamp(min(finite) - 1e-3, max(finite) + 1e-3) for rows in (self.rows, own)]
        row = int((capped[0] - capped[1]).abs().sum(-1).argmin())
        return round(100 * row / (len(self.rows) - 1))


def make_page(demo: Demo) -> Any:
    """The page, as Gradio's Blocks."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, too
    gr = require("gradio")

    muted = {"include_audio": False}  # no microphone is asked for
    options = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="dynvid", analytics_enabled=False, delete_cache=(300, 1800)) as page:
        gr.HTML(HEAD)
        with gr.Tabs():
            with gr.Tab("A short video"), gr.Row(elem_id="short"):
                with gr.Column(min_width=300):
                    camera = gr.WebcamOptions(mirror=False)
                    video = _as_it_came(gr.Video(**muted, label="Your video", webcam_options=camera, elem_id="video"))
                with gr.Column(scale=2, min_width=320):
                    picture = gr.HTML(told(WAITING), elem_id="picture")
                with gr.Column(min_width=300):
                    effort = gr.Slider(
                        0,
                        100,
                        value=demo.preset,
                        step=1,
                        label="How careful should it be?",
                        info="Left: stops sooner, and errs more often. Right: looks longer.",
                        visible=bool(len(demo.rows)),
                        elem_id="effort",
                    )
                    gr.HTML(f'<div class="dv"><p class="small">{setting_in_words(demo)}</p></div>')
            if demo.parts:
                with gr.Tab("A long video"):
                    long = _as_it_came(gr.Video(**muted, label="Your video", sources=["upload"], elem_id="long"))
                    timeline = gr.HTML(told(WAITING_LONG), elem_id="timeline")
        video.change(None, js=SCROLL, show_progress="hidden", queue=False)
        shown = video.change(demo.show, [video, effort], picture, concurrency_limit=8, **options)
        effort.release(demo.show_at_once, [video, effort], picture, cancels=[shown], concurrency_limit=8, **options)
        if demo.parts:
            long.change(demo.show_parts, long, timeline, concurrency_limit=8, **options)
    page.queue(max_size=32)
    return page


def _as_it_came(video: Any) -> Any:
    """Let a video be handed on as it came, if it came by an upload.

    Gradio's own way to mute it runs ffmpeg. And in a page that is mounted it takes whatever path or address a client
    names: it asks whether a file was uploaded only in pages that it has launched itself.
    """

    async def uploaded(path: str) -> str:
        gr = require("gradio")
        if not Path(path).resolve().is_relative_to(Path(gr.utils.get_upload_folder()).resolve()):
            raise gr.Error("no file that was uploaded", print_exception=False)
        return path

    video.async_move_resource_to_block_cache = uploaded
    video.preprocess = lambda payload: None if payload is None else str(payload.path)
    return video


def make_app(demo: Demo, bounds: Bounds) -> Any:
    """The page as an ASGI application.

    Args:
        demo: What it does.
        bounds: Of what is sent to it: the bytes of a request, and the time in which they must have come.
    """
    page = make_page(demo)
    gr = require("gradio")
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    app = gr.mount_gradio_app(
        require("fastapi").FastAPI(openapi_url=None),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=bounds.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "monospace"], primary_hue="blue").set(
            block_info_text_color="#5a5f66", block_info_text_color_dark="#aab0b8"
        ),
        css=css,
    )
    return _Guarded(app, bounds)


class _Guarded:
    """An application that takes what is sent within bounds, and whose answers forbid a page to load from elsewhere."""

    def __init__(self, app: Any, bounds: Bounds) -> None:
        self._app, self._bounds = app, bounds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        policy = "; ".join(f"{kind} {places}" for kind, places in ALLOWED.items())
        body = _Body(receive, self._bounds)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *headers]
                message["status"] = body.refused or message["status"]
            await send(message)

        await self._app(scope, body.receive if scope.get("method") == "POST" else receive, guarded)


class _Body:
    """A request's body on its way, within bounds.

    Attributes:
        refused: The status of a refusal.
    """

    def __init__(self, receive: Receive, bounds: Bounds) -> None:
        self._receive, self._pieces = receive, pieces(receive, Held(bounds))
        self._ended, self.refused = False, 0

    async def receive(self) -> Message:
        """As ASGI has it."""
        if self._ended:
            return await self._receive()
        try:
            piece = await anext(self._pieces, None)
        except (RefusedError, LeftError) as error:
            self.refused = getattr(error, "status", 0)
            # To Gradio a broken form: then it removes the files that it has begun, as it does for nothing else.
            broken: Exception = require("gradio.route_utils").MultiPartException(str(error))
            raise broken from None
        self._ended = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": not self._ended}


def setting_in_words(demo: Demo) -> str:
    """What the slider's first place means, in a sentence or two."""
    if not demo.recognizer.calibrated:
        return "This model is not calibrated, so it never stops early: `dynvid calibrate` finds when it may."
    point = demo.recognizer.point
    first = f"It starts at {demo.preset}, where this model was set." if len(demo.rows) else ""
    return " ".join(filter(None, [first, promise_in_words(point)]))


def promise_in_words(point: OperatingPoint | None) -> str:
    """What an operating point promises, for people who have never heard of one."""
    if point is None or not point.promised or point.target is None or point.confidence is None:
        return ""
    lost = "are answered wrongly because it stopped early"
    if point.rule == "max_disagreement":
        lost = "get another answer than from the whole network"
    sure = f"with {100 * point.confidence:g} % confidence"
    return f"There, at most {100 * point.target:g} in 100 new videos {lost}, {sure}."


def warm_up(recognizer: Recognizer) -> None:
    """Walk the route once, on nothing, so that the first video does not pay for what is made on first use."""
    net = recognizer.net
    stream = net.stream(torch.zeros(1, net.num_frames, 3, net.input_size, net.input_size, dtype=torch.uint8))
    with torch.inference_mode():
        while not stream.finished:
            stream.advance()


class _Named:
    name = "this file"

    def __init__(self, file: BinaryIO, is_over: Callable[[], bool]) -> None:
        self._file, self._is_over = file, is_over
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self._is_over():
            raise VideoError("nobody waits for it")
        return self._file.read(size)


def _named(file: BinaryIO, is_over: Callable[[], bool] = lambda: False) -> BinaryIO:
    """A file under a name that tells nothing of the machine, which is not read further once it `is_over`."""
    return cast(BinaryIO, _Named(file, is_over))


def _reason(error: Exception, path: str) -> str:
    """What was wrong with a file, without where it lay."""
    said = str(error).replace(path, "this file")
    return f"This could not be read as a video. ({said})"
