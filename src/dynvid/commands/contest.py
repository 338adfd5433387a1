"""What `dynvid benchmark` measures, put together from its arguments; imported once they are read."""

import copy
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynvid.checkpoint import net_from_checkpoint, policy_from_checkpoint, read_checkpoint
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError
from dynvid.inference.benchmark import By, Contender, compare
from dynvid.inference.forced import EveryDepth, ForcedExits, HeldClip, PlainTSM, random_clips, unzeroed
from dynvid.inference.machine import machine
from dynvid.inference.recipe import Disagreement, Recipe, disagreement, prepare
from dynvid.inference.timing import clock_of, matrix_rate
from dynvid.nets import ExitNet, InputExitNet, UnifiedExitNet
from dynvid.policy import ThresholdPolicy

BATCHES = 4  # that begin, where frames are random


class _Entry(NamedTuple):
    """A net that takes part.

    Attributes:
        name: What it is called.
        net: As fast as it was made.
        recipe: How it was made so.
        policy: Makes the policy of one pass; None where there is full inference only.
        trained: The net and policy of a checkpoint as they were saved; None where weights are random.
        sampling: Which frame of each segment it takes.
    """

    name: str
    net: ExitNet
    recipe: Recipe
    policy: Callable[[], ThresholdPolicy] | None
    trained: tuple[ExitNet, ThresholdPolicy] | None = None
    sampling: Sampling = "center"


def contest(options: Namespace) -> dict[str, Any]:
    """Measure what `dynvid benchmark` was asked for: plain data.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: A checkpoint or video cannot be read, or shares and exits differ in number.
    """
    paths = _videos(options.paths if options.backbone else options.paths[1:])
    entries = _entries(options)
    device, before = entries[0].recipe.device, torch.get_num_threads()
    torch.set_num_threads(options.threads or (1 if device.type == "cpu" else before))
    try:
        # Of one thread, the processor's time is what it costs, however many others there are.
        by: By = "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"
        rates = [matrix_rate(device, entries[0].net.dtype, clock_of(device))]
        held = [_decoded(entry, paths) for entry in entries]
        batches = [_batch(options, entries, held, paths, size, by) for size in options.batch_size]
        rates.append(matrix_rate(device, entries[0].net.dtype, clock_of(device)))
        ceiling = max(getattr(rate, by) for rate in rates)  # whatever else the machine did, it was once so fast
        for batch in batches:
            if "rows" in batch:
                batch["share_of_ceiling"] = batch["full_gflops"] / ceiling
        first = next((batch for batch in batches if "rows" in batch), {})
        return {
            **{key: value for key, value in first.items() if "saved" in key},
            **machine(device),
            "nets": [_described(entry) for entry in entries],
            "ratios_by": f"{by} time",
            "decoding": "included" if paths else "left out: random frames in memory",
            "workers": options.workers,
            "forced_exits": options.forced_exits,
            "ceiling_gflops": ceiling,
            "disagreement": [
                f"{entry.name}: {_disagreement(entry, clips)}"
                for entry, clips in zip(entries, held, strict=True)
                if clips and entry.trained
            ],
            "batches": batches,
        }
    finally:
        torch.set_num_threads(before)


def _batch(
    options: Namespace,
    entries: Sequence[_Entry],
    held: Sequence[list[HeldClip]],
    paths: Sequence[Path],
    size: int,
    by: By,
) -> dict[str, Any]:
    """Measure at one batch size; one that does not fit the GPU is skipped, and that is said."""
    contenders = []
    for entry, clips in zip(entries, held, strict=True):
        if not clips:
            clips = random_clips(entry.net, ForcedExits(options.forced_exits).rounded_up(BATCHES * size))
        files = [partial(_open, entry, path) for path in paths]
        contenders.append(Contender(entry.name, entry.net, entry.policy, clips, files))
    # Kernels are chosen or compiled for each size of a step; elsewhere the first batch has what all others have.
    once = entries[0].recipe.device.type == "cuda" or options.optimize == "compile"
    warm_up = None if once else size
    try:
        return compare(contenders, size, options.repeats, options.workers, by, None, options.seconds, warm_up)
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # here, where the error no longer holds what did not fit
    print(f"dynvid: batch size {size} is skipped: out of memory", file=sys.stderr)
    return {"batch_size": size, "skipped": "out of memory"}


def _entries(options: Namespace) -> list[_Entry]:
    """The net, and the one that it is compared with."""
    if options.backbone:
        net = _random(options)
        entries = [_entry(options, options.backbone, net, None, options.optimize, options.precision)]
    else:
        entries = [_saved(options, options.paths[0])]
        net = entries[0].net
    if options.against == "tsm":
        plain = unzeroed(PlainTSM(net))
        entries.append(_entry(options, "plain TSM", plain, None, "none", "float32"))
    elif options.against:
        entries.append(_saved(options, options.against))
    return entries


def _random(options: Namespace) -> ExitNet:
    cls = {"depth": EveryDepth, "input": InputExitNet, "unified": UnifiedExitNet}[options.route]
    net = cls(options.backbone, options.num_classes, options.num_frames, input_size=options.size)
    return unzeroed(net)


def _saved(options: Namespace, path: str) -> _Entry:
    checkpoint = read_checkpoint(path)
    net, policy = net_from_checkpoint(checkpoint, path), policy_from_checkpoint(checkpoint)
    entry = _entry(options, path, net, policy, options.optimize, options.precision)
    return entry._replace(sampling=checkpoint["dynvid"].get("sampling", "center"))


def _entry(
    options: Namespace, name: str, net: ExitNet, policy: ThresholdPolicy | None, optimize: Any, precision: Any
) -> _Entry:
    """A net made fast, with the policy that decides on its exits."""
    chosen: Callable[[], ThresholdPolicy] | None = None
    if options.forced_exits and not isinstance(net, PlainTSM):
        shares, exits = options.forced_exits, ", ".join(f"{e.frames}x{e.depth}" for e in net.route)
        if len(shares) != len(net.route):
            raise InputError(f"--forced-exits has {len(shares)} shares for {len(net.route)} exits of {name}: {exits}")
        chosen = partial(ForcedExits, shares)
    elif policy:
        chosen = partial(copy.deepcopy, policy)
    _ = net.eval().gmacs, net.full_gmacs  # counted on the net as it is described; copies keep them
    fast, recipe = prepare(net, optimize, precision, options.device)
    return _Entry(name, fast, recipe, chosen, (net, policy) if policy else None)


def _described(entry: _Entry) -> dict[str, Any]:
    net = entry.net
    return {
        "name": entry.name,
        "recipe": str(entry.recipe),
        "optimize": entry.recipe.optimize,
        "precision": entry.recipe.precision,
        "route": [list(e) for e in net.route],
        "num_frames": net.num_frames,
        "input_size": net.input_size,
        "gmacs": net.gmacs,
        "full_gmacs": net.full_gmacs,
    }


def _videos(paths: Sequence[str]) -> list[Path]:
    """All videos at the paths; here one that cannot be read is an error, not a row."""
    if not paths:
        return []
    from dynvid.commands.search import search  # beside what is read, for nothing else needs a decoder

    found, _ = search(paths)
    for _, error in found:
        if error:
            raise InputError(error)
    return [path for path, _ in found]


def _open(entry: _Entry, path: Path) -> Any:
    from dynvid.inference.preparation import Preparation

    return Preparation(entry.net.num_frames, entry.net.input_size, entry.sampling).open(path)


def _decoded(entry: _Entry, paths: Sequence[Path]) -> list[HeldClip]:
    return [HeldClip(_open(entry, path).read(range(entry.net.num_frames))) for path in paths]


def _disagreement(entry: _Entry, clips: Sequence[HeldClip]) -> Disagreement:
    """Between the net as it was made fast and as it was saved, by the thresholds of the checkpoint."""
    assert entry.trained
    net, policy = entry.trained
    videos: list[Tensor] = [torch.stack([clip.frames for clip in clips[at : at + 8]]) for at in range(0, len(clips), 8)]
    return disagreement(net.to(entry.recipe.device), entry.net, policy, videos)
