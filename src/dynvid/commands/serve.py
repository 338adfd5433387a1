"""`dynvid serve`: a model behind HTTP."""

import sys

from dynvid.commands.arguments import Arguments, add_audit, add_listening, add_speed, refuse_audit
from dynvid.commands.numbers import above_zero
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
    add_listening(parser, 8000)
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
    add_speed(parser, graphs=True)
    add_audit(parser)
    options = parser.parse_args(arguments)
    refuse_audit(parser, options, "deadline_ms")
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

    how = (options.device, options.precision, options.optimize, options.runtime, options.audit)
    recognizer = Recognizer.load(options.model, *how)
    for note in recognizer.notes():
        print(f"dynvid: {note}", file=sys.stderr)
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
