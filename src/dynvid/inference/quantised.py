"""int8, after training: NNCF quantises each step of an exported program by clips, and thresholds are found anew.

Logits drift along the frames, since state is handed on in rounded activations. So no threshold, and no promise, of the
float32 net holds for it: both are found on what the int8 graphs answer themselves.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dynvid.calibration import Target, find_point, listing_of
from dynvid.errors import InputError
from dynvid.extras import require
from dynvid.folder import Int8
from dynvid.inference.export import graph_name, write_openvino
from dynvid.inference.runtimes import Program, Run, openvino_step
from dynvid.multilabel import mistakes
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy

QUANTISING = 128  # clips at most


class Quantised:
    """The steps of a net in int8.

    Args:
        net: The net, in eval mode.
        models: An `openvino.Model` per step, in float32.
        clips: By which ranges of activations are measured: batches uint8 (B, T, 3, H, W).

    Attributes:
        program: Runs them.
        models: The `openvino.Model` of each.
    """

    def __init__(self, net: ExitNet, models: Sequence[Any], clips: Sequence[Tensor]) -> None:
        nncf = require("nncf")
        if not clips:
            raise InputError("no clips to quantise by")
        runs = [openvino_step(model, net, k) for k, model in enumerate(models)]
        mixed, logger = nncf.QuantizationPreset.MIXED, logging.getLogger("nncf")
        level, self.models = logger.level, []
        logger.setLevel(logging.ERROR)
        try:
            with redirect_stdout(sys.stderr):  # where progress goes
                for k, model in enumerate(models):
                    inputs = nncf.Dataset(_Inputs(net, runs, k, clips))
                    self.models.append(nncf.quantize(model, inputs, preset=mixed, subset_size=len(clips)))
        finally:
            logger.setLevel(level)
        self.program = Program(net, [openvino_step(model, net, k) for k, model in enumerate(self.models)])

    def write(self, folder: Path) -> None:
        """Write the graphs."""
        for k, model in enumerate(self.models):
            write_openvino(model, folder / graph_name("openvino", k))


class _Inputs:
    """What one step is given when clips walk through the float32 program; made anew each time, since it is large."""

    def __init__(self, net: ExitNet, runs: Sequence[Run], position: int, clips: Sequence[Tensor]) -> None:
        self.net, self.runs, self.position, self.clips = net, runs, position, clips

    def __iter__(self) -> Iterator[list[NDArray[Any]]]:
        given: list[list[NDArray[Any]]] = []

        def note(inputs: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
            given.append(inputs)
            return self.runs[self.position](inputs)

        steps = [note if k == self.position else run for k, run in enumerate(self.runs)]
        program = Program(self.net, steps)
        for video in self.clips:
            stream = program.stream(video)
            while stream.position <= self.position:
                stream.advance()
            yield given.pop()


def answers(program: Program, video: Tensor) -> Tensor:
    """What all exits say of a batch, none of which leaves: uint8 (B, T, 3, H, W) -> logits (K, B, classes)."""
    stream, logits = program.stream(video), []
    while not stream.finished:
        logits.append(stream.advance())
    return torch.stack(logits)


def calibrate(
    logits: Tensor,
    like: Tensor,
    net: ExitNet,
    policy: ThresholdPolicy,
    target: Target,
    paths: Sequence[str],
    recordings: Sequence[str],
    split: str,
) -> Int8:
    """Thresholds for int8 graphs, found on their own outputs.

    A video is lost where an exit gives another label than the int8 graphs' full inference does.

    Args:
        logits: What they answer at all exits, (K, N, classes).
        like: What float32 answers, (K, N, classes); only compared with.
        net: The net.
        policy: Its score and temperatures are gone by.
        target: What is asked for; `max_disagreement` or `budget`.
        paths: Of the N videos.
        recordings: Of each of them.
        split: What they are called.
    """
    policy = policy.at()
    predicted = policy.answers(logits)
    thresholds, point = find_point(
        policy.score(logits),
        mistakes(predicted, predicted[-1]) > 0,
        net.gmacs,
        target,
        recordings,
        split,
        "nothing",
        net.full_gmacs,
    )
    point = replace(point, listing=listing_of(paths))
    same = (mistakes(predicted, policy.answers(like)) == 0).double().mean(1).tolist()
    return Int8(thresholds.tolist(), point, logits.shape[1], same, (logits - like).abs().amax((1, 2)).tolist())
