"""`dynvid classify`: label video files with early exit."""

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dynvid import strict_json
from dynvid.commands.parser import Parser
from dynvid.commands.search import search
from dynvid.data import open_video
from dynvid.data.sampling import segment_indices
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.errors import DynvidError
from dynvid.module import DynamicInferenceModule
from dynvid.text import printable


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video could be read, else 1."""
    parser = Parser(prog="dynvid classify", description="Label videos; each is decoded and computed as far as needed.")
    parser.add_argument("checkpoint", help="A checkpoint of `dynvid fit`.")
    parser.add_argument("paths", nargs="+", help="Video files, folders of JPEG frames, or folders of either.")
    parser.add_argument(
        "--json",
        action="store_true",
        help=r"Print one JSON object per video; bytes of a name that are no UTF-8 are \udc80 to \udcff in it.",
    )
    options = parser.parse_args(arguments)
    return classify(options.checkpoint, options.paths, options.json)


def classify(checkpoint: str, paths: list[str], json: bool = False) -> int:
    """Label videos with early exit: each is decoded and computed only as far as it needs.

    What cannot be read is named, and the others are labelled all the same. How much was passed over in folders, because
    it is no video, is said in one line on standard error.

    Args:
        checkpoint: A checkpoint of `dynvid fit`.
        paths: Video files, folders of JPEG frames, or folders that are searched for either.
        json: Print one JSON object per video instead of a table (see `dynvid.strict_json`).

    Returns:
        0, or 1 if something could not be read.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: The checkpoint cannot be read.
    """
    module = DynamicInferenceModule.load_from_checkpoint(checkpoint)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    found, passed = search(paths)  # a path that is missing is said before any work
    if passed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
        print(printable(f"dynvid: passed over: {kinds}"), file=sys.stderr)
    if not module.calibrated:
        print("dynvid: not calibrated: every video gets full inference", file=sys.stderr)
    rows = []
    for path, error in found:
        rows.append({"path": str(path), "error": error} if error else _classified(module, path))
        if json:
            print(strict_json.dumps(rows[-1]), flush=True)
    if not json:
        _print_table(rows)
    return int(any("error" in row for row in rows))


def _classified(module: DynamicInferenceModule, path: Path) -> dict[str, Any]:
    try:
        return classify_video(module, path)
    except (DynvidError, OSError) as error:
        return {"path": str(path), "error": str(error)}
    except Exception as error:  # whatever it is, one file must not stop the labelling of the others
        reason = " ".join(str(error).split()) or "no reason given"
        return {"path": str(path), "error": printable(f"{path}: {type(error).__name__}: {reason}")}


def classify_video(module: DynamicInferenceModule, path: str | Path) -> dict[str, Any]:
    """Classify one video file or folder of frames; frames are decoded when an exit asks for them.

    Returns:
        `path`, `label`, `probability`, the exit taken as `frames` (which is the number of frames read) and `depth`,
        `gmacs` spent, and `saved`, the share of full inference's GMACs not spent.

    Raises:
        VideoError: The file cannot be read.
    """
    net = module.net
    reader = open_video(path)
    indices = segment_indices(len(reader), net.num_frames)
    transform = eval_transform(net.input_size)

    def frames(_: Tensor, wanted: list[int]) -> Tensor:
        clip: Tensor = transform(reader.read(indices[wanted].tolist(), decode_size(net.input_size)))
        return clip[None]

    label, probability, position = (x.item() for x in net.predict(frames, module.policy, batch=1))
    exit_taken = net.route[int(position)]
    names = module.class_names
    return {
        "path": str(path),
        "label": names[int(label)] if names else str(label),
        "probability": probability,
        "frames": exit_taken.frames,
        "depth": exit_taken.depth,
        "gmacs": net.gmacs[int(position)],
        "saved": 1 - net.gmacs[int(position)] / net.full_gmacs,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
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
        table.add_row(path, Text(printable(row["label"])), f"{row['probability']:.3f}", exit_taken, *cells)
    if table.rows:
        Console(width=None if sys.stdout.isatty() else 4096).print(table)  # no line is broken on its way to a file
    for row in rows:
        if "error" in row:
            print(f"dynvid: {printable(row['error'])}", file=sys.stderr)
