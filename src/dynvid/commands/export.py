"""`dynvid export`: a model's folder, to hand on, with graphs for other runtimes."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynvid.commands.arguments import Arguments
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable

if TYPE_CHECKING:
    from dynvid.inference.preparation import Preparation
    from dynvid.inference.saving import Int8Graphs
    from dynvid.nets import ExitNet
    from dynvid.policy import ThresholdPolicy


def run(arguments: list[str]) -> int:
    """Run the command; 0 if the folder is written and every video could be read, else 1."""
    parser = Arguments("export", "Write a model as a folder: weights, config, card, and graphs for other runtimes.")
    parser.add_argument("model", help="A checkpoint, a model's folder, or the name of one on the Hugging Face hub.")
    parser.add_argument("folder", help="The new folder; nothing is replaced.")
    parser.add_argument(
        "--runtime", nargs="+", choices=("onnx", "openvino"), default=[], help="Write graphs for these."
    )
    parser.add_argument(
        "--report", help="Folder of a run of `dynvid test`, for the card (default: one of these weights near by)."
    )
    parser.add_argument(
        "--int8", nargs="+", metavar="VIDEOS", help="Write graphs in int8 for openvino, by these files or folders."
    )
    parser.add_argument(
        "--max-disagreement",
        "--max_disagreement",
        type=float,
        metavar="SHARE",
        help="Of new videos that the int8 thresholds may give another label than int8 full inference does.",
    )
    parser.add_argument("--budget", type=float, metavar="GMACS", help="Mean per video, in its place; promises nothing.")
    parser.add_argument("--confidence", type=float, default=0.95, help="Of the promise (default: 0.95).")
    parser.add_argument(
        "--group", metavar="REGEX", help="What it finds in a path of --int8 names the recording of the clip."
    )
    parser.add_count("--batch-size", 8, "Videos of --int8 that are computed together.")
    return export(parser.parse_args(arguments))


def export(options: Any) -> int:
    """Write the folder, and say what is in it.

    Args:
        options: As `run` parses them.

    Returns:
        0, or 1 if a video could not be read.

    Raises:
        FileNotFoundError: There is no such model, report or video.
        ValueError: Something at the folder would be replaced, or the model or a package cannot be used.
    """
    _check(options)
    from dynvid.checkpoint import net_from_checkpoint, policy_from_checkpoint, read_checkpoint
    from dynvid.extras import require
    from dynvid.folder import local
    from dynvid.inference.preparation import Preparation
    from dynvid.inference.saving import save_model
    from dynvid.whole import check_new_folder

    check_new_folder(options.folder)  # before anything that takes its time
    for module in [*(["onnx", "onnxscript"] if "onnx" in options.runtime else []), *(["nncf"] if options.int8 else [])]:
        require(module)
    place = local(options.model, "openvino")
    checkpoint = read_checkpoint(place)
    net = net_from_checkpoint(checkpoint, options.model).eval()
    report = _report(options.report, place, checkpoint)
    int8, unread = None, 0
    if options.int8:
        sampling = checkpoint["dynvid"].get("sampling", "center")
        preparation = Preparation(net.num_frames, net.input_size, sampling)
        int8, unread = _quantised(options, net, policy_from_checkpoint(checkpoint), preparation)
    graphs_of = place if place.is_dir() else None
    save_model(options.folder, checkpoint, options.model, options.runtime, report, int8, graphs_of)
    point = checkpoint["dynvid"].get("operating_point")
    print(f"weights, config and card: {printable(options.folder)}")
    print(f"promise: {_promise(point)}")
    if int8 is not None:
        _say(int8, net)
    return int(unread > 0)


def _check(options: Any) -> None:
    """Whether options go together.

    Raises:
        InputError: They do not.
    """
    asked = [name for name in ("max_disagreement", "budget") if getattr(options, name) is not None]
    if options.int8 and len(asked) != 1:
        raise InputError(
            "--int8 needs one of --max-disagreement and --budget: its thresholds are found on its own outputs"
        )
    if not options.int8 and (asked or options.group is not None):
        given = asked[0].replace("_", "-") if asked else "group"
        raise InputError(f"--{given} is for --int8; `dynvid calibrate` changes the thresholds of a checkpoint")
    options.runtime = list(dict.fromkeys(options.runtime))


def _promise(plain: object) -> str:
    from dynvid.calibration import OperatingPoint

    return "none, it is not calibrated" if plain is None else printable(OperatingPoint.from_plain(plain))


def _report(given: str | None, place: Path, checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the report of these weights and thresholds says; None where there is none, and none was asked for.

    Raises:
        FileNotFoundError: There is none where it was said to be.
        InputError: It is of other weights or thresholds, or no report.
    """
    from dynvid import strict_json
    from dynvid.checkpoint import fingerprint

    weights = fingerprint(checkpoint["state_dict"])
    *levels, _ = map(strict_json.named, checkpoint["state_dict"]["policy.thresholds"].tolist())
    if given is not None:
        path = Path(given) if Path(given).is_file() else Path(given, "report.json")
        if not path.is_file():
            raise MissingFileError(f"{path}: no such report; `dynvid test` writes one")
        report = _read_report(path)
        if report is None:
            raise InputError(f"{path}: is no report of dynvid")
        if not _is_of(report, weights, levels):
            raise InputError(f"{path}: is of other weights or thresholds than the model has")
        return report
    for path in _near(place.absolute()):
        report = _read_report(path)
        if report is not None and _is_of(report, weights, levels) and report["split"] == "test":
            print(f"report: {printable(path)}")
            return report
    return None


def _near(place: Path) -> list[Path]:
    """Reports beside a model, the newest first; what cannot be read is passed over."""
    folders = [place.parent]
    if place.parent.name == "checkpoints":  # of RUN/checkpoints/best.ckpt: a run of `dynvid test` lies beside RUN
        run = place.parents[1]
        folders += [run, *run.parent.glob("*/")]
    found = {}
    for path in (folder / "report.json" for folder in folders):
        with suppress(OSError):
            if path.is_file():
                found[path] = path.stat().st_mtime
    return sorted(found, key=lambda path: found[path], reverse=True)


def _read_report(path: Path) -> dict[str, Any] | None:
    import json

    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and {"weights", "exits", "split"} <= report.keys() else None


def _is_of(report: Mapping[str, Any], weights: str, levels: list[float | str]) -> bool:
    exits = report["exits"]
    if not isinstance(exits, list) or not all(isinstance(e, dict) for e in exits):
        return False
    return report["weights"] == weights and [e.get("threshold") for e in exits[:-1]] == levels


def _quantised(
    options: Any, net: "ExitNet", policy: "ThresholdPolicy", preparation: "Preparation"
) -> tuple["Int8Graphs", int]:
    """Graphs in int8, with thresholds of their own, and how many videos could not be read.

    A third of the recordings, at most `QUANTISING` clips of them, are quantised by; the others calibrate.
    """
    import torch

    from dynvid.calibration import Target, counted, kept_apart
    from dynvid.commands.recordings import name_recordings
    from dynvid.commands.search import search
    from dynvid.data.files import short
    from dynvid.inference.export import openvino_models
    from dynvid.inference.quantised import QUANTISING, Quantised, answers, calibrate
    from dynvid.inference.runtimes import Program, openvino_step
    from dynvid.inference.saving import Int8Graphs

    target = Target(max_disagreement=options.max_disagreement, budget=options.budget, confidence=options.confidence)
    found, _ = search(options.int8)
    paths = [str(each.path) for each in found if not each.error]
    for each in found:
        if each.error:
            print(f"dynvid: {printable(each.error)}", file=sys.stderr)
    unread = len(found) - len(paths)
    groups = name_recordings(paths, options.group)
    recordings = [group or path for path, group in zip(paths, groups, strict=True)]
    apart = kept_apart(recordings).tolist()
    quantising = [path for path, is_apart in zip(paths, apart, strict=True) if not is_apart]
    quantising = quantising[:: -(-len(quantising) // QUANTISING) or 1]  # evenly, since folders are sorted by class
    batches, size = [], options.batch_size
    for start in range(0, len(quantising), size):
        clips, read = _read(preparation, quantising[start : start + size])
        unread += len(quantising[start : start + size]) - len(read)
        batches += [clips] if read else []
    if not batches or not any(apart):
        raise InputError(f"{printable(options.int8[0])}: {len(paths)} videos are too few to quantise and calibrate by")
    print(f"quantised by: {sum(map(len, batches))} videos", flush=True)
    models = openvino_models(net)
    quantised = Quantised(net, models, batches)
    float32 = Program(net, [openvino_step(model, net, k) for k, model in enumerate(models)])
    rows = [row for row, is_apart in enumerate(apart) if is_apart]
    kept, logits, like = [], [], []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        clips, read = _read(preparation, [paths[row] for row in part])
        unread += len(part) - len(read)
        if read:
            kept += [part[k] for k in read]
            logits.append(answers(quantised.program, clips))
            like.append(answers(float32, clips))
    if not kept:
        raise InputError(f"{printable(options.int8[0])}: no video to calibrate on could be read")
    # By their last names, since folders are handed on, and where things lie here is nobody's business.
    name = f"videos: {printable(short(', '.join(Path(path).name for path in options.int8)))}"
    known = [recordings[row] for row in kept]
    print(f"calibration: {counted(known)} of {name}")
    said = calibrate(
        torch.cat(logits, 1), torch.cat(like, 1), net, policy, target, [paths[row] for row in kept], known, name
    )
    return Int8Graphs(said, quantised.write), unread


def _read(preparation: "Preparation", paths: list[str]) -> tuple[Any, list[int]]:
    """Clips, uint8 (B, T, 3, H, W), and the places of those that could be read; the others are named."""
    import torch

    from dynvid.errors import VideoError

    clips, read = [], []
    for place, path in enumerate(paths):
        try:
            clips.append(preparation.open(path).read(range(preparation.num_frames)))
            read.append(place)
        except VideoError as error:
            print(f"dynvid: {printable(error)}", file=sys.stderr)
    return (torch.stack(clips) if clips else None), read


def _say(int8: "Int8Graphs", net: "ExitNet") -> None:
    said = int8.said
    print(f"int8, against float32 on the same {said.videos} videos:")
    for (frames, depth), same, most in zip(net.route, said.same_label, said.largest_difference, strict=True):
        print(f"  {frames}x{depth}: {100 * same:.1f} % of labels the same, logits differ by {most:.3g} at most")
    shown = zip(net.route, said.thresholds, strict=True)
    print(f"int8 thresholds: {', '.join(f'{n}x{d} {x:.4g}' for (n, d), x in shown if x > float('-inf'))}")
    print(f"int8 promise: {printable(said.point)}")
    if said.point.gmacs is not None:
        print(f"saved there: {100 * (1 - said.point.gmacs / net.full_gmacs):z.1f} % of the GMACs of full inference")
    if offered := said.point.offered():
        print(offered)
