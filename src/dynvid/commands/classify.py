"""`dynvid classify`: label video files with early exit."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynvid import strict_json
from dynvid.commands.arguments import Arguments, add_audit, add_speed
from dynvid.text import printable, printable_label

if TYPE_CHECKING:
    from dynvid.inference import Recognition, Recognizer
    from dynvid.module import DynamicInferenceModule


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video could be read, else 1."""
    parser = Arguments("classify", "Label videos; each is decoded and computed as far as needed.")
    parser.add_argument("checkpoint", help="A checkpoint, or a folder that `dynvid export` wrote.")
    parser.add_argument("paths", nargs="+", help="Video files, folders of JPEG frames, or folders of either.")
    parser.add_argument(
        "--json",
        action="store_true",
        help=r"Print one JSON object per video; bytes of a name that are no UTF-8 are \udc80 to \udcff in it.",
    )
    parser.add_count("--batch-size", 8, "Videos that are computed together.")
    parser.add_count("--workers", None, "Threads that decode; by default one per CPU, up to 8.")
    add_speed(parser, graphs=True)
    add_audit(parser)
    parser.add_argument(
        "--out",
        help="A folder, or an address such as s3://bucket/results, for very many videos: Parquet parts and a manifest. "
        "The same command takes up what was stopped. Paths that end in .txt or .csv are lists of videos then.",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), help="With --out: this machine, or all that Ray knows (default: local)"
    )
    parser.add_count("--actors", None, "With --engine ray: how many actors; by default as many as there is room for.")
    parser.add_argument("--address", help="With --engine ray: of the cluster; by default RAY_ADDRESS, or this machine.")
    parser.add_count("--time-limit", None, "With --out: seconds without any answer that mean a hung process; 600.")
    parser.add_argument(
        "--retry-errors",
        action="store_true",
        default=None,
        help="With --out: do those again that could not be read.",
    )
    options = parser.parse_args(arguments)
    if options.out is None:
        for name in ("engine", "actors", "address", "time_limit", "retry_errors"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')}: goes with --out")
    else:
        return _many(parser, options)
    return classify(
        options.checkpoint,
        options.paths,
        options.json,
        options.batch_size,
        options.workers,
        options.precision,
        options.optimize,
        options.device,
        options.audit,
        options.runtime,
    )


def _many(parser: Arguments, options: Any) -> int:
    """Label very many videos, into a folder."""
    engine = options.engine or "local"
    if options.json:
        parser.error("--json: goes without --out, which writes Parquet")
    for name in ("actors", "address"):
        if engine != "ray" and getattr(options, name) is not None:
            parser.error(f"--{name}: goes with --engine ray")
    from dynvid.commands.bulk import classify_many

    return classify_many(
        options.checkpoint,
        options.paths,
        options.out,
        engine=engine,
        device=options.device,
        precision=options.precision,
        optimize=options.optimize,
        runtime=options.runtime,
        batch_size=options.batch_size,
        workers=options.workers,
        actors=options.actors,
        address=options.address,
        time_limit=float(options.time_limit or 600),
        audit=options.audit,
        retry_errors=bool(options.retry_errors),
    )


def classify(
    checkpoint: str,
    paths: list[str],
    json: bool = False,
    batch_size: int = 8,
    workers: int | None = None,
    precision: str = "auto",
    optimize: str = "default",
    device: str = "auto",
    audit: float | None = None,
    runtime: str = "torch",
) -> int:
    """Label videos with early exit: each is decoded and computed only as far as it needs.

    What cannot be read is named, and the others are labelled all the same. How much was passed over in folders, because
    it is no video, is said in one line on standard error, and so is a precision that is not float32.

    Args:
        checkpoint: What `Recognizer.load` takes.
        paths: Video files, folders of JPEG frames, or folders that are searched for either.
        json: Print one JSON object per video instead of a table (see `dynvid.strict_json`).
        batch_size: Videos that are computed together.
        workers: Threads that decode; None takes one per CPU, up to 8.
        precision: `auto`, `float32` or `bfloat16`, as `dynvid.inference.prepare` takes it.
        optimize: `none`, `default` or `compile`, likewise.
        device: `auto`, `cpu`, `cuda` or `cuda:1` and so on.
        audit: Share of videos that are audited; what they say of the promise comes last, on standard error.
        runtime: `torch`, `onnx` or `openvino`, as `Recognizer.load` takes it.

    Returns:
        0, or 1 if something could not be read.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: The checkpoint cannot be read.
    """
    from dynvid.commands.search import search
    from dynvid.data.dataset import Skipped
    from dynvid.inference import Recognizer

    found, passed = search(paths)  # a path that is missing is said before any work
    how: dict[str, Any] = {"device": device, "precision": precision, "optimize": optimize, "runtime": runtime}
    recognizer = Recognizer.load(checkpoint, **how, audit=audit)
    if passed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
        print(printable(f"dynvid: passed over: {kinds}"), file=sys.stderr)
    for note in recognizer.notes():
        print(f"dynvid: {note}", file=sys.stderr)
    results = recognizer.many((each.path for each in found if not each.error), batch_size, workers)
    rows: list[dict[str, Any]] = []
    try:
        for path, error in found:
            result = Skipped(str(path), error) if error else next(results)
            if isinstance(result, Skipped):
                rows.append({"path": str(path), "error": result.reason})
            else:
                rows.append({"path": str(path), **_row(recognizer, result)})
            if json:
                print(strict_json.dumps(rows[-1]), flush=True)
    finally:  # interrupted, too
        if not json:
            _print_table(rows)
        if recognizer.audit:
            print(f"dynvid: {recognizer.audit}", file=sys.stderr)
    return int(any("error" in row for row in rows))


def classify_video(module: "DynamicInferenceModule | Recognizer", path: str | Path) -> dict[str, Any]:
    """Classify one video file or folder of frames; frames are decoded when an exit asks for them.

    Args:
        module: A `dynvid.inference.Recognizer`, or a module, whose net is taken as it is.
        path: The file or folder.

    Returns:
        `path`, `label`, `probability`, the exit taken as `frames` (which is the number of frames read) and `depth`,
        `gmacs` spent, `saved`, the share of full inference's GMACs not spent, `milliseconds`, `labels`, the names of
        the label, and `answered`, false where the label is only the best guess.

    Raises:
        VideoError: The file cannot be read.
    """
    from dynvid.inference import Recognizer

    if not isinstance(module, Recognizer):
        sampling = module.sampling
        module = Recognizer(module.net, module.policy, module.class_names, reject=module.reject)
        module.preparation = module.preparation._replace(sampling=sampling)
    return {"path": str(path), **_row(module, module(path))}


def _row(recognizer: "Recognizer", result: "Recognition") -> dict[str, Any]:
    return {
        "label": result.label,
        "probability": result.probability,
        "frames": result.exit.frames,
        "depth": result.exit.depth,
        "gmacs": result.gmacs,
        "saved": 1 - result.gmacs / recognizer.full_gmacs,
        "milliseconds": result.milliseconds,
        "labels": list(result.labels),
        "answered": result.answered,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    table.add_column("video", overflow="fold")
    for heading in ("label", "probability", "exit", "GMACs", "saved", "frames read"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "error" in row:
            continue
        path = Text(printable(row["path"]))  # as text, in which brackets and colons mean nothing
        exit_taken = f"{row['frames']}x{row['depth']}"
        cells = [f"{row['gmacs']:.4g}", f"{100 * row['saved']:z.1f} %", str(row["frames"])]
        label = printable_label(row["label"])
        label = label if row["answered"] else f"unsure (best guess {label})"
        table.add_row(path, Text(label), f"{row['probability']:.3f}", exit_taken, *cells)
    if table.rows:
        Console(width=None if sys.stdout.isatty() else 4096).print(table)  # no line is broken on its way to a file
    for row in rows:
        if "error" in row:
            print(f"dynvid: {printable(row['error'])}", file=sys.stderr)
