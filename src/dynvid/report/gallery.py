"""Videos that left early, half way and at the end, with the frames in the order in which the net asked for them."""

import base64
import io
from typing import Any

import torch
from PIL import Image

from dynvid.data import cheap_indices, open_video, segment_indices
from dynvid.data.store import is_uri
from dynvid.data.video import open_listed
from dynvid.errors import DynvidError, InputError
from dynvid.multilabel import plain_labels
from dynvid.outputs import Outputs
from dynvid.report.summary import class_name

SIDE = 96  # longest side of a picture, in pixels
EACH = 2  # videos per exit
TRIED = 10  # per exit, until so many can be read
BYTES = 1_000_000  # of all pictures together, so that the page can be mailed


def make_gallery(outputs: Outputs) -> dict[str, Any]:
    """Two videos each that left at the first exit, at a middle one and at the last, as plain data.

    They are those whose scores are nearest to the median of all that left there: neither the best nor the worst.

    Returns:
        `exits`: each with `exit` (from 1), `share` and `videos`; a video has `path`, `class`, `dynamic` (its answer),
        `unread` (frames never asked for) and `steps`, one per exit passed: the new frames as data URIs in `pictures`,
        `score`, `threshold` (None at the last exit) and `leaves`. `missing`: videos that could not be read, and
        `example`, the path of one; `left_out`: those whose pictures would make the page too large.

    Raises:
        ValueError: `frame_order` in `outputs.run` is no order of the frames.
    """
    order = _frame_order(outputs)
    count, room = len(outputs.route), BYTES
    exits, missing, left_out = [], [], 0
    leaving = torch.bincount(outputs.taken, minlength=count)
    middle = 1 + int(leaving[1:-1].argmax()) if count > 2 else 0  # the one between at which most leave
    for k in sorted({0, middle, count - 1}):
        shown: list[dict[str, Any]] = []
        for n in _typical(outputs, k):
            try:
                pictures = _pictures(
                    outputs.paths[n], order, outputs.route[k].frames, outputs.run.get("sampling", "center")
                )
            except (DynvidError, OSError):
                missing.append(outputs.paths[n])
                continue
            size = sum(map(len, pictures))
            if size > room:
                left_out += 1
                break
            room -= size
            shown.append(_described(outputs, n, k, pictures))
            if len(shown) == EACH:
                break
        if shown:
            share = float((outputs.taken == k).double().mean())
            exits.append({"exit": k + 1, "share": share, "videos": shown})
    example = missing[0] if missing else ""
    return {"exits": exits, "missing": len(missing), "example": example, "left_out": left_out}


def _frame_order(outputs: Outputs) -> list[int]:
    frames = outputs.route[-1].frames
    order = outputs.run.get("frame_order")
    if order is None:
        return list(range(frames))
    if not isinstance(order, list) or sorted(order, key=str) != sorted(range(frames), key=str):
        raise InputError(f"frame_order: not each of the frames 0 to {frames - 1} once")
    return order


def _typical(outputs: Outputs, k: int) -> list[int]:
    """Some of the videos that left at an exit, those nearest to the median score first."""
    rows = (outputs.taken == k).nonzero().squeeze(1)
    if not len(rows):
        return []
    scores = outputs.scores[k, rows]
    nearest = (scores - scores.median()).abs().argsort(stable=True)
    return [int(n) for n in rows[nearest][:TRIED]]


def _pictures(path: str, order: list[int], frames: int, sampling: str) -> list[str]:
    """The first frames in processing order, as data URIs."""
    # What a table from elsewhere names never reaches the network.
    reader, count = open_video(path) if is_uri(path) else open_listed(path), len(order)
    sampled = cheap_indices(reader.decode_costs, count) if sampling == "cheap" else segment_indices(len(reader), count)
    indices = sampled[torch.tensor(order[:frames])]
    return [_uri(frame.permute(1, 2, 0).numpy()) for frame in reader.read(indices, SIDE)]


def _uri(pixels: Any) -> str:
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _described(outputs: Outputs, n: int, k: int, pictures: list[str]) -> dict[str, Any]:
    steps, before, last = [], 0, len(outputs.route) - 1
    for position in range(k + 1):
        frames = outputs.route[position].frames
        steps.append(
            {
                "exit": position + 1,
                "pictures": pictures[before:frames],
                "score": float(outputs.scores[position, n]),
                "threshold": None if position == last else float(outputs.policy.thresholds[position]),
                "leaves": position == k,
            }
        )
        before = frames
    (label,), (answer,) = plain_labels(outputs.labels[n : n + 1]), plain_labels(outputs.predicted[k, n : n + 1])
    assert answer is not None
    return {
        "path": outputs.paths[n],
        "class": None if label is None else class_name(outputs, label),
        "dynamic": class_name(outputs, answer),
        "unread": outputs.route[-1].frames - before,
        "steps": steps,
    }
