"""`dynvid demo`: a page on which a net stops early before one's eyes."""

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from dynvid.commands.arguments import Arguments, add_listening, add_speed
from dynvid.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from dynvid.inference import Recognizer
    from dynvid.showcase.page import Parts

DESCRIPTION = """\
A page in the browser: drop a video or use the webcam, and watch which frames the net looks at and where it stops. The
page loads nothing from elsewhere, uploads are removed, and only this machine reaches it unless --host says otherwise
(browsers then give it no webcam, except through HTTPS). There is no public link.
"""


def run(arguments: list[str]) -> int:
    """Run the command until it is told to end; 0."""
    parser = Arguments("demo", DESCRIPTION)
    parser.add_argument("model", help="A checkpoint, or a folder that `dynvid export` wrote.")
    add_listening(parser, 7860)
    add_speed(parser)
    options = parser.parse_args(arguments)
    from dynvid.extras import require
    from dynvid.inference.serving.server import listen, url_of
    from dynvid.inference.serving.server import run as answer

    listening = listen(options.host, options.port)  # said at once where it is taken
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # before it is imported
    with tempfile.TemporaryDirectory(prefix="dynvid-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        require("gradio")  # before the model is loaded
        from dynvid.checkpoint import read_checkpoint
        from dynvid.inference import Recognizer
        from dynvid.inference.serving.uploads import Bounds
        from dynvid.showcase.page import Demo, make_app, warm_up

        recognizer = Recognizer.load(options.model, options.device, options.precision, options.optimize)
        curve = read_checkpoint(options.model)["state_dict"]["curve_thresholds"]
        warm_up(recognizer)
        bounds = Bounds(upload_bytes=int(options.max_upload_mb * 1e6))
        demo = Demo(recognizer, curve, parts=None if recognizer.policy.multi_label else _parts(recognizer))
        app = make_app(demo, bounds)
        said = printable(f"dynvid: {options.model} is shown at {url_of(listening)}")
        try:
            answer(
                *(app, listening, lambda: print(said, file=sys.stderr, flush=True)),
                pause_seconds=bounds.pause_seconds,
                connections=256,
                patience=2,
                lifespan="on",
            )
        finally:
            demo.close()
    return 0


def _parts(recognizer: "Recognizer") -> "Callable[[BinaryIO], Parts]":
    """What finds the parts of a long video."""
    from dynvid.inference.timeline import timeline
    from dynvid.showcase.page import Parts

    def found(video: "BinaryIO") -> Parts:
        segments = timeline(recognizer, video)
        return Parts(segments, 1 - segments.gmacs / segments.full_gmacs if segments.full_gmacs else 0.0)

    return found
