"""`dynvid serve`: a model behind HTTP."""

import re
import sys
from argparse import ArgumentTypeError

from dynvid.commands.arguments import Arguments, add_audit, add_speed
from dynvid.text import printable

DESCRIPTION = """\
Answer over HTTP: POST a video to /predict, as the body or as the field `file` of a form; `?deadline_ms=` and
`?max_gmacs=` limit one request, and `Accept: text/event-stream` gives each exit's answer as it comes. /health, /ready
and /metrics are for whoever watches it. There is no password: what should not answer everybody stays on the loopback,
behind a proxy.
"""


def run(arguments: list[str]) -> int:
    """Run the command until it is told to end; 0."""
    parser = Arguments("serve", DESCRIPTION)
    parser.add_argument("model", help="A checkpoint, or a folder that `dynvid export` wrote.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: 127.0.0.1, this machine).")
    parser.add_argument("--port", type=port, default=8000, help="0 takes any that is free (default: 8000).")
    parser.add_argument(
        *("--max-upload-mb", "--max_upload_mb"),
        type=above_zero,
        default=200.0,
        metavar="MB",
        help="Largest upload (default: 200).",
    )
    parser.add_argument(
        *("--upload-seconds", "--upload_seconds"),
        type=above_zero,
        default=120.0,
        metavar="S",
        help="In which an upload must have come, with pauses of 10 at most (default: 120).",
    )
    parser.add_argument(
        *("--deadline-ms", "--deadline_ms"),
        type=above_zero,
        metavar="MS",
        help="From the end of an upload; then the answer so far is given. For requests that state none.",
    )
    parser.add_count("--max-requests", 64, "Requests at the same time; others get 503, to try again")
    parser.add_count("--batch-size", 8, "Videos that are computed together")
    parser.add_count("--workers", None, "Threads that decode; by default one per CPU, up to 8.")
    add_speed(parser)
    add_audit(parser)
    options = parser.parse_args(arguments)
    import os

    from dynvid.extras import require

    for package in ("uvicorn", "python_multipart"):
        require(package)  # before the model is loaded
    from dynvid.inference.serving.server import listen, url_of
    from dynvid.inference.serving.server import run as answer

    listening = listen(options.host, options.port)  # said at once where it is taken
    from dynvid.inference import Recognizer
    from dynvid.inference.serving.app import App
    from dynvid.inference.serving.uploads import Bounds

    recognizer = Recognizer.load(
        options.model, options.device, options.precision, options.optimize, audit=options.audit
    )
    if not recognizer.calibrated:
        print("dynvid: not calibrated: every video gets full inference", file=sys.stderr)
    upload = int(options.max_upload_mb * 1e6)
    bounds = Bounds(
        upload_bytes=upload,
        upload_seconds=options.upload_seconds,
        pause_seconds=min(10, options.upload_seconds),
        requests=options.max_requests,
        held_bytes=max(4 * upload, 10**9),
    )
    workers = options.workers or min(os.cpu_count() or 1, 8)
    app = App(recognizer, bounds, options.deadline_ms, options.batch_size, workers)
    try:
        app.warm_up()
        said = printable(f"dynvid: {options.model} answers POST {url_of(listening)}/predict")
        answer(
            *(app, listening, lambda: print(said, file=sys.stderr, flush=True)),
            pause_seconds=bounds.pause_seconds,
            connections=4 * bounds.requests + 64,
        )
    finally:
        app.walks.close()
        if recognizer.audit:
            print(f"dynvid: {recognizer.audit}", file=sys.stderr)
    return 0


def port(text: str) -> int:
    """Read a port number."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r}: a port, 0 to 65535")
    return int(text)


def above_zero(text: str) -> float:
    """Read a number above 0."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not float(text):
        raise ArgumentTypeError(f"{text!r}: a number above 0")
    return float(text)
