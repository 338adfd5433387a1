"""Nets made fast for inference, and what that changes."""

import copy
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dynvid.errors import InputError, ModeError
from dynvid.inference.compiled import CompiledSegment
from dynvid.inference.fold import fold_batch_norm
from dynvid.inference.shifted import shift_in_place
from dynvid.multilabel import mistakes
from dynvid.nets import ExitNet
from dynvid.policy import ThresholdPolicy

Optimize = Literal["none", "default", "compile"]
Precision = Literal["auto", "float32", "bfloat16"]

# What a processor with bf16 in hardware calls it, best first; without one of these bf16 is emulated, and slower.
_BF16 = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX-512 bf16", "sve_bf16": "SVE bf16", "bf16": "NEON bf16"}


class Recipe(NamedTuple):
    """How a net was made fast; `str` says it in one line.

    Attributes:
        optimize: What was asked for.
        precision: Of weights and activations, `float32`, `bfloat16` or `int8`.
        device: Where the net is.
        folded: Batch norms that are gone.
        runtime: Who computes: `torch`, `onnx` or `openvino`.
    """

    optimize: Optimize
    precision: Literal["float32", "bfloat16", "int8"]
    device: torch.device
    folded: int
    runtime: str = "torch"

    def __str__(self) -> str:
        """As in `cpu (AMX bf16), bfloat16, 53 batch norms folded, channels-last`."""
        if self.runtime != "torch":
            return f"{self.device}, {self.precision}, graphs run by {self.runtime}"
        parts = [f"{self.device}{_said(self.device)}", self.precision]
        if self.folded:
            parts.append(f"{self.folded} batch norms folded")
        parts.append("channels-last")
        if self.optimize == "compile":
            parts.append("compiled")
        return ", ".join(parts)


def prepare(
    net: ExitNet, optimize: Optimize = "default", precision: Precision = "auto", device: str | torch.device = "auto"
) -> tuple[ExitNet, Recipe]:
    """A copy of a net that answers faster, for inference only; the net that is given stays as it is.

    Route, cost and description are those of the net; its weights are not, so keep the net to save it. Answers are
    equal to rounding; `disagreement` counts the labels and exits that rounding moves.

    Args:
        net: In eval mode.
        optimize: `none`: as it is; `default`: batch norm folded; `compile`: also compiled, which takes tens of
            seconds at first use.
        precision: `auto`: bfloat16 where the processor computes in it (float32 with `none`).
        device: `auto`: the first GPU, or the processor where there is none.

    Returns:
        The copy, and what was done.

    Raises:
        RuntimeError: The net is in training mode.
        ValueError: An unknown word, no such device, or a processor that cannot run compiled nets in bfloat16.

    Example:
        >>> net = ExitNet("test_resnet", num_classes=5, num_frames=2).eval()
        >>> fast, recipe = prepare(net, precision="float32", device="cpu")
        >>> print(recipe.precision, recipe.folded)
        float32 15
    """
    if net.training:
        raise ModeError("a net is prepared in eval mode: call net.eval() first")
    if optimize not in get_args(Optimize):
        raise InputError(f"optimize is {optimize!r}: use {', '.join(get_args(Optimize))}")
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}: use {', '.join(get_args(Precision))}")
    place = _device(device)
    if precision == "auto":
        precision = "bfloat16" if optimize != "none" and has_bf16(place) else "float32"
    if optimize == "compile" and precision == "bfloat16" and place.type == "cpu" and not packs_bf16():
        raise InputError("this processor cannot run compiled nets in bfloat16: take float32, or `default`")
    fast = copy.deepcopy(net).float().requires_grad_(False)
    folded = 0
    if optimize != "none":
        folded = fold_batch_norm(fast)
        shift_in_place(fast.segments)
    fast.to(place, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if optimize == "compile":
        fast.segments = nn.ModuleList(CompiledSegment(segment) for segment in fast.segments)
    return fast, Recipe(optimize, precision, place, folded)


def _device(device: str | torch.device) -> torch.device:
    """Where to compute.

    Raises:
        ValueError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch built without it says so by an assertion
        raise InputError(f"device {device}: there is none such here; use auto, cpu, or cuda with a GPU") from error
    return place


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by its own instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(_instructions())


def packs_bf16() -> bool:
    """Whether oneDNN can pack bfloat16 weights on this processor, as compiled nets ask it to."""
    have = torch.cpu.get_capabilities()
    wide = all(have.get(name) for name in ("avx512_bw", "avx512_vl", "avx512_dq"))
    return have.get("architecture") != "x86_64" or wide or bool(have.get("avx_ne_convert"))


def _instructions() -> str:
    """The best bf16 instructions of the processor, empty without any."""
    have = torch.cpu.get_capabilities()
    return next((said for name, said in _BF16.items() if have.get(name)), "")


def _said(device: torch.device) -> str:
    if device.type == "cuda":
        return f" ({torch.cuda.get_device_name(device)})"
    return f" ({_instructions()})" if device.type == "cpu" and _instructions() else ""


class Disagreement(NamedTuple):
    """How many videos a prepared net answers otherwise than the net that it was made of.

    Attributes:
        videos: Videos that were classified.
        labels: Of them, those with another label.
        exits: Of them, those that left by another exit.
    """

    videos: int
    labels: int
    exits: int

    def __str__(self) -> str:
        """As in `of 200 videos 1 has another label and 3 leave by another exit than in float32`."""
        labels = f"{self.labels} {'has' if self.labels == 1 else 'have'} another label"
        exits = f"{self.exits} {'leaves' if self.exits == 1 else 'leave'} by another exit"
        return f"of {self.videos} videos {labels} and {exits} than in float32"


def disagreement(reference: ExitNet, net: ExitNet, policy: ThresholdPolicy, videos: Iterable[Tensor]) -> Disagreement:
    """Classify videos with both nets and count those that come out otherwise.

    Args:
        reference: The net in float32.
        net: What `prepare` made of it.
        policy: Says when an exit is sure enough; stays where it is.
        videos: Batches (B, T, C, H, W), uint8 or normalised float.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4).eval()
        >>> fast, _ = prepare(net, precision="float32")
        >>> print(disagreement(net, fast, ThresholdPolicy(len(net.route)), [torch.zeros(2, 4, 3, 32, 32)]))
        of 2 videos 0 have another label and 0 leave by another exit than in float32
    """
    count = labels = exits = 0
    for video in videos:
        expected, found = (_predicted(n, policy, video) for n in (reference, net))
        count += len(video)
        labels += int((mistakes(expected[0], found[0]) > 0).sum())
        exits += int((expected[1] != found[1]).sum())
    return Disagreement(count, labels, exits)


def _predicted(net: ExitNet, policy: ThresholdPolicy, video: Tensor) -> tuple[Tensor, Tensor]:
    found = net.predict(video, copy.deepcopy(policy).to(net.device))
    return found.label.cpu(), found.exit.cpu()
