"""The cells of the grid of frames and depth: what every walk along a route is made of."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dynvid.errors import InputError
from dynvid.nets.activations import Activations
from dynvid.nets.parts import run_in_parts
from dynvid.nets.shift import Frames, looks_ahead, running
from dynvid.routes import Route


class Grid(nn.Module):
    """Segments, embeddings and heads, and the route that leads through them; `ExitNet` builds it.

    Attributes:
        segments: One per depth, run in this order.
        embeddings: By depth, as text: activations -> one vector per frame, (n * B, ...) -> (n * B, C).
        heads: By name: mean embedding -> logits, (B, C) -> (B, classes).
        head_of: Name of the head of each exit, K names.
        route: The exits (frames, depth).
        order: Temporal indices of the T frames in processing order.
        fresh: Whether each of these frames begins a group, T flags.
        mean, std: What images are normalised with, (3, 1, 1), float32 or more in a net of any precision.
    """

    segments: nn.ModuleList
    embeddings: nn.ModuleDict
    heads: nn.ModuleDict
    head_of: list[str]
    route: Route
    order: list[int]
    fresh: tuple[bool, ...]
    num_classes: int
    num_frames: int
    input_size: int
    mean: Tensor
    std: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the net."""
        return next(self.heads.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.mean.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.mean, self.std
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean.dtype.itemsize < 4:  # bf16 moves all of an image by up to 0.005 of its spread
            self.mean, self.std = (x.to(self.device) for x in exact)
        return self

    def check_video(self, video: Tensor) -> None:
        """Raise ValueError unless `video` is (B, num_frames, 3, H, W)."""
        if video.dim() != 5 or video.shape[1] != self.num_frames or video.shape[2] != 3:
            raise InputError(f"video has shape {tuple(video.shape)}: this net takes (B, {self.num_frames}, 3, H, W)")

    def to_frames(self, video: Tensor) -> Tensor:
        """(B, n, C, H, W), uint8 or float -> frame-major normalised (n * B, C, H, W) in channels-last."""
        x = video.transpose(0, 1).flatten(0, 1).to(self.device)
        if not x.is_floating_point():
            x = x.to(self.mean.dtype).sub_(self.mean * 255).div_(self.std * 255)
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def run_segment(self, depth: int, x: Activations, frames: Frames) -> Activations:
        """Take activations through segment `depth` (1 is the first); `frames` says which frames they are.

        On a processor, without gradients, on a few images at a time: faster, see `run_in_parts`.
        """
        segment = self.segments[depth - 1]

        def run(x: Activations, frames: Frames) -> Activations:
            with running(frames):
                y: Activations = segment(x)
            return y

        of_use = self.device.type == "cpu" and not torch.compiler.is_compiling()
        if not of_use or self.training or torch.is_grad_enabled() or looks_ahead(segment):
            return run(x, frames)
        return run_in_parts(run, x, frames, getattr(segment, "images", None))

    def embed(self, depth: int, x: Activations) -> Tensor:
        """One vector per frame: activations of n * B frames at `depth` -> (n * B, C)."""
        embedded: Tensor = self.embeddings[str(depth)](x)
        return embedded

    def classify(self, position: int, embedded: Tensor) -> Tensor:
        """Mean embedding (B, C) -> logits (B, classes) of the exit at `position` of the route."""
        logits: Tensor = self.heads[self.head_of[position]](embedded)
        return logits
