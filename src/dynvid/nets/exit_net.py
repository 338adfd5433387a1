"""Nets with exits on a grid of frames and depth.

Shapes: B videos, T frames of a clip, n of them seen by an exit, K exits, C channels; activations are frame-major,
(n * B, ...); see `activations`.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from dynvid.costs import CellCosts, count_gmacs
from dynvid.errors import DynvidError, InputError, ModeError
from dynvid.nets.activations import Activations, by_frame, first_rows
from dynvid.nets.cells import count_cells
from dynvid.nets.description import check_arguments, said, shown
from dynvid.nets.gradients import balance_exits, computed_again
from dynvid.nets.grid import Grid
from dynvid.nets.msdnet import MSDNet
from dynvid.nets.shift import Frames, Shift, insert_shift
from dynvid.nets.stages import Backbone, TimmBackbone
from dynvid.nets.stream import FrameSource, Stream
from dynvid.nets.weights.read import load_weights, read_weights
from dynvid.policy import ThresholdPolicy
from dynvid.routes import (
    Exit,
    FrameOrder,
    Route,
    check_route,
    depth_route,
    frame_groups,
    input_route,
    unified_route,
)

Heads = Literal["depth", "exit"]


class Prediction(NamedTuple):
    """What early exit found, all of shape (B,).

    Attributes:
        label: Class index, int64; sets of them, where the policy reads logits so, bool (B, classes).
        probability: Of that label at the exit's temperature, float.
        exit: Position on the route of the exit taken, int64.
    """

    label: Tensor
    probability: Tensor
    exit: Tensor


class ExitNet(Grid):
    """A 2-D backbone with exits along a route through frames and depth.

    The base class has one exit, full inference: with `shift="bidirectional"` it is TSM, with `shift="none"` TSN.
    `DepthExitNet`, `InputExitNet` and `UnifiedExitNet` differ in their default route and frame order only.

    Videos are (B, T, C, H, W) in temporal order: uint8 RGB, which the net normalises, or float, taken as normalised.

    Args:
        backbone: A timm model name, `msdnet38`, or a `Backbone` of your own.
        num_classes: Classes.
        num_frames: Frames T of a clip.
        route: Exits (frames, depth); the class has a default.
        frame_order: Processing order of the frames; the class has a default.
        shift: `online`: features go to the next frame of the group; `bidirectional`: TSM's shift, which needs all
            frames at once; `none`.
        heads: `depth`: exits at the same depth share their classifier; `exit`: each exit has its own.
        pretrained: True for timm's weights, or the path of a file: weights of the backbone as timm reads them, a
            checkpoint of dynvid (whose classifiers are left out where they are for another number of classes), a public
            TSM or TSN checkpoint, or with `msdnet38` the authors'.
        dropout: Before the last layer of each head.
        input_size: Height and width in pixels that the net is used, and its cost counted, with.
        shift_div: One channel in `shift_div` is shifted.
        backbone_args: More arguments for `timm.create_model`, or for `MSDNet`.

    Attributes:
        gradient_equilibrium: Set it to scale gradients in training so that those of all exits weigh the same at every
            depth: with m exits from here on, n of them here, each hands back 1 / m and the rest of the net (m - n) / m
            (Li et al., Improved Techniques for Training Adaptive Deep Networks, ICCV 2019).
        gradient_checkpointing: Set it to keep only the activations between segments in training and compute the rest
            again: less memory for about a third more time.

    Raises:
        ValueError: An argument out of its range, an unknown backbone, an invalid route, a shift that the route does not
            allow, or weights of another net.
        FileNotFoundError: There is no file of that name.

    Example:
        >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
        >>> [tuple(e) for e in net.route]
        [(2, 2), (4, 3), (4, 4), (8, 4)]
        >>> net(torch.zeros(2, 8, 3, 64, 64)).shape  # one row of logits per exit
        torch.Size([4, 2, 5])
    """

    default_frame_order: ClassVar[FrameOrder] = "chronological"

    def __init__(
        self,
        backbone: str | Backbone = "resnet50",
        num_classes: int = 400,
        num_frames: int = 16,
        route: Sequence[tuple[int, int]] | None = None,
        frame_order: FrameOrder | None = None,
        shift: Shift = "online",
        heads: Heads = "depth",
        pretrained: bool | str = False,
        dropout: float = 0.0,
        input_size: int = 224,
        shift_div: int = 8,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        given = dict(locals())
        check_arguments(given)
        super().__init__()
        self.gradient_equilibrium = self.gradient_checkpointing = False
        self.num_classes, self.num_frames, self.input_size = num_classes, num_frames, input_size
        weights = read_weights(pretrained, backbone)
        body = _backbone(backbone, weights.for_timm, backbone_args or {})
        self._lay_route(body, route, frame_order or self.default_frame_order)
        _check_shift(shift, self.route, self.frame_order)
        self._build(body, shift, shift_div, heads, dropout)
        load_weights(self, weights)
        self.pretrained_by = {name: weights.said.get(name) for name in ("chosen_by", "listing")}
        self._description = _described(
            given | {"route": [list(e) for e in self.route], "frame_order": self.frame_order}
        )

    def _lay_route(self, body: Backbone, route: Sequence[tuple[int, int]] | None, frame_order: FrameOrder) -> None:
        """Which exits there are, and which frames they see."""
        if route is None:
            route = self.default_route(self.num_frames, body.exit_depths)
        self.route = check_route(route, self.num_frames, len(body.segments))
        self.frame_order = frame_order
        groups = frame_groups(self.num_frames, frame_order)
        self.order = [t for group in groups for t in group]
        self.fresh = tuple(t == group[0] for group in groups for t in group)

    def _build(self, body: Backbone, shift: Shift, shift_div: int, heads: Heads, dropout: float) -> None:
        """Put the parts of the backbone where the route has its exits."""
        self.segments = body.segments
        insert_shift(self.segments, shift, shift_div)
        self.embeddings = nn.ModuleDict({str(d): body.embedding(d) for d in sorted({e.depth for e in self.route})})
        self.head_of = [str(e.depth if heads == "depth" else k) for k, e in enumerate(self.route)]
        self.heads = nn.ModuleDict()
        for name, e in zip(self.head_of, self.route, strict=True):
            if name not in self.heads:
                self.heads[name] = body.head(e.depth, self.num_classes, dropout)
        self.register_buffer("mean", torch.tensor(body.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(body.std).view(3, 1, 1))
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def default_route(num_frames: int, depths: Sequence[int]) -> Route:
        """The route of this class over `num_frames` frames and the backbone's exit depths."""
        return (Exit(num_frames, depths[-1]),)

    def spec(self) -> dict[str, Any]:
        """This net as plain data, `{"class_path", "init_args"}`, without its weights; `net_from_spec` builds it.

        Raises:
            ValueError: The backbone is an object of your own. For checkpoints, make a subclass of ExitNet that builds
                it in its `__init__`, and let its `spec` name that class and its arguments.
        """
        if self._description["backbone"] is None:
            raise InputError("a net around your own Backbone cannot describe itself: override spec() in a subclass")
        cls = type(self)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(self._description)}

    def forward(self, video: Tensor) -> Tensor:
        """Compute all exits in one parallel pass, for training and evaluation.

        Args:
            video: uint8 or normalised float (B, T, C, H, W).

        Returns:
            Logits (K, B, classes), in the order of the route.

        Raises:
            ValueError: The video has another shape.
        """
        return self._answer(self._embedded(video, self.route), self.route, self.head_of)

    def embedded(self, video: Tensor) -> dict[int, Tensor]:
        """What the exits average: for each depth with exits the embedded frames that they see, in processing order.

        Everything before the mean over frames, which a frozen backbone computes once: `answer` is the rest.

        Args:
            video: As for `forward`.

        Returns:
            By depth, (n, B, C).

        Example:
            >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
            >>> video = torch.zeros(2, 8, 3, 64, 64)
            >>> {depth: tuple(x.shape) for depth, x in net.embedded(video).items()}
            {2: (2, 2, 48), 3: (4, 2, 192), 4: (8, 2, 96)}
            >>> torch.equal(net.answer(net.embedded(video)), net(video))
            True
        """
        return self._embedded(video, self.route)

    def answer(self, embedded: Mapping[int, Tensor]) -> Tensor:
        """The logits of all exits, (K, B, classes), from what `embedded` gives."""
        return self._answer(embedded, self.route, self.head_of)

    def cells(self, video: Tensor) -> Tensor:
        """Compute all cells whose depth has a head in one parallel pass: what an exit there would answer.

        The answers are those that this net gives along any other route over these depths, to rounding: features do not
        depend on the route. `dynvid.calibration.best_route` looks for a better one in them.

        Args:
            video: As for `forward`.

        Returns:
            Logits (T, D, B, classes) after n = 1, ..., T frames in processing order, at the depths `head_depths`.

        Raises:
            RuntimeError: The net is in training mode, where batch norm would mix the videos.
            ValueError: Each exit has its own head, the shift looks at later frames, or the video has another shape.

        Example:
            >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
            >>> net.head_depths, net.cells(torch.zeros(2, 8, 3, 64, 64)).shape
            ((2, 3, 4), torch.Size([8, 3, 2, 5]))
        """
        if self.training:
            raise ModeError("cells needs eval mode: call net.eval() first")
        if self._description["shift"] == "bidirectional" and self.num_frames > 1:
            raise InputError("the bidirectional shift looks at later frames, so only full inference has an answer")
        cells = [Exit(n, depth) for n in range(1, self.num_frames + 1) for depth in self.head_depths]
        logits = self._answer(self._embedded(video, cells), cells, [str(e.depth) for e in cells])
        return logits.view(self.num_frames, -1, *logits.shape[1:])

    def _embedded(self, video: Tensor, cells: Sequence[Exit]) -> dict[int, Tensor]:
        """The embedded frames that the cells at each depth see, (n, B, C)."""
        self.check_video(video)
        batch = len(video)
        x: Activations = self.to_frames(video[:, self.order])  # (T * B, 3, H, W)
        embedded = {}
        for depth in range(1, len(self.segments) + 1):
            x = self._run_all(depth, x)  # (T * B, ...)
            frames = [e.frames for e in cells if e.depth == depth]
            if frames:
                seen = first_rows(x, max(frames) * batch)  # (n * B, ...)
                seen, x = self._balance(depth, seen, x)
                embedded[depth] = by_frame(self.embed(depth, seen), batch)  # (n, B, C)
        return embedded

    def _answer(self, embedded: Mapping[int, Tensor], cells: Sequence[Exit], heads: Sequence[str]) -> Tensor:
        """The logits at M cells, each by the head of that name: (M, B, classes)."""
        means = [embedded[e.depth][: e.frames].mean(0) for e in cells]  # (B, C)
        return torch.stack([self.heads[head](mean) for head, mean in zip(heads, means, strict=True)])

    def _run_all(self, depth: int, x: Activations) -> Activations:
        """Take all T frames through segment `depth`; in training as `gradient_checkpointing` says."""
        frames = Frames(self.fresh)
        if self.training and self.gradient_checkpointing:
            return computed_again(self.segments[depth - 1], lambda: self.run_segment(depth, x, frames))
        return self.run_segment(depth, x, frames)

    def _balance(self, depth: int, seen: Activations, x: Activations) -> tuple[Activations, Activations]:
        """What the exits at `depth` see, and what goes on; in training as `gradient_equilibrium` says."""
        if self.training and self.gradient_equilibrium:
            depths = [e.depth for e in self.route]
            return balance_exits(seen, x, here=depths.count(depth), ahead=sum(d >= depth for d in depths))
        return seen, x

    def stream(
        self,
        video: Tensor | FrameSource,
        batch: int | None = None,
        exits: Sequence[int] | None = None,
    ) -> Stream:
        """Walk the route exit by exit, computing only what is new; see `Stream` for the arguments."""
        return Stream(self, video, batch, exits)

    @torch.no_grad()
    def predict(self, video: Tensor | FrameSource, policy: ThresholdPolicy, batch: int | None = None) -> Prediction:
        """Classify each video at the first exit that is sure enough; finished videos leave the batch.

        Args:
            video: As for `stream`.
            policy: Says when an exit is sure enough.
            batch: Number of videos, where `video` is a function.

        Raises:
            RuntimeError: The net is in training mode, where batch norm would mix the videos.
            ValueError: The policy was made for another number of exits.

        Example:
            >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
            >>> policy = ThresholdPolicy(thresholds=[0.0, 0.9, 0.9, 0.0])  # the first exit is always sure
            >>> net.predict(torch.zeros(2, 8, 3, 64, 64), policy).exit
            tensor([0, 0])
        """
        if self.training:
            raise ModeError("predict needs eval mode: call net.eval() first")
        if policy.num_exits != len(self.route):
            raise InputError(f"the policy has {policy.num_exits} thresholds, the route {len(self.route)} exits")
        stream = self.stream(video, batch)
        device = self.device
        videos = len(stream.videos)
        answers = policy.answers(torch.zeros(videos, self.num_classes, device=device))  # none yet, but of their shape
        labels = answers.new_zeros(len(self.route), *answers.shape)
        probability = torch.zeros(videos, device=device)
        exit_taken = torch.zeros(videos, dtype=torch.long, device=device)
        while len(rows := stream.videos):
            position, logits = stream.position, stream.advance()
            # Written for all that are still there: what a video keeps is what the exit that it leaves by wrote.
            labels[position, rows] = policy.answers(logits)
            probability[rows] = policy.probability(position, logits)
            exit_taken[rows] = position
            if policy.looks_back:
                done = policy.confident(position, logits, labels[:position, rows])
            else:
                done = policy.confident(position, logits)
            stream.keep(~(done | stream.finished))
        return Prediction(labels[exit_taken, torch.arange(videos, device=device)], probability, exit_taken)

    def along(self, route: Sequence[tuple[int, int]]) -> Self:
        """This net along another route over its `head_depths`: the same modules, so that nothing is copied.

        Args:
            route: Exits (frames, depth).

        Raises:
            ValueError: The route is not valid, needs a depth without a head, or each exit has its own head.

        Example:
            >>> net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=8).eval()
            >>> net.along([(1, 2), (8, 4)])(torch.zeros(2, 8, 3, 64, 64)).shape
            torch.Size([2, 2, 5])
        """
        other = copy.copy(self)
        other.route = check_route(route, self.num_frames, len(self.segments))
        if missing := {e.depth for e in other.route} - set(self.head_depths):
            raise InputError(f"no head at depth {min(missing)}: this net has them at {self.head_depths}")
        other.head_of = [str(e.depth) for e in other.route]
        _check_shift(self.shift_kind, other.route, self.frame_order)
        other._description = self._description | {"route": [list(e) for e in other.route]}
        other.__dict__["head_depths"] = self.head_depths  # also those that the other route passes by
        for name in ("gmacs", "full_gmacs"):
            other.__dict__.pop(name, None)
        return other

    @property
    def shift_kind(self) -> Shift:
        """How features go from frame to frame: `online`, `bidirectional` or `none`."""
        kind: Shift = self._description["shift"]
        return kind

    @cached_property
    def head_depths(self) -> tuple[int, ...]:
        """The D depths with a head that an exit with any number of frames could use, ascending.

        Raises:
            ValueError: Each exit has its own head.
        """
        if self._description["heads"] != "depth":
            raise InputError("each exit has its own head, which answers for no other cell: train with heads='depth'")
        return tuple(sorted({e.depth for e in self.route}))

    @cached_property
    def cell_costs(self) -> CellCosts:
        """What any route over the `head_depths` costs, at `input_size`."""
        return count_cells(self, self.head_depths)

    @cached_property
    def gmacs(self) -> tuple[float, ...]:
        """GMACs per video up to each exit, all heads on the way included, at `input_size`."""
        return count_gmacs(self)

    @cached_property
    def full_gmacs(self) -> float:
        """GMACs per video of full inference, which evaluates the last exit's head only, at `input_size`."""
        return count_gmacs(self, exits=[-1])[0]


class DepthExitNet(ExitNet):
    """Depth-wise dynamic inference: all frames at once, one exit per depth (Figure 2(a)).

    Example:
        >>> [tuple(e) for e in DepthExitNet("test_resnet", num_classes=5, num_frames=8).route]
        [(8, 2), (8, 3), (8, 4)]
    """

    @staticmethod
    def default_route(num_frames: int, depths: Sequence[int]) -> Route:
        """See `depth_route`."""
        return depth_route(num_frames, depths)


class InputExitNet(ExitNet):
    """Input-wise dynamic inference: full depth, an exit after 1, 2, 4, ... permuted frames (Figure 2(c)).

    `frame_order="chronological"` makes it Figure 2(b).

    Example:
        >>> [tuple(e) for e in InputExitNet("test_resnet", num_classes=5, num_frames=8).route]
        [(1, 4), (2, 4), (4, 4), (8, 4)]
    """

    default_frame_order = "thue_morse"

    @staticmethod
    def default_route(num_frames: int, depths: Sequence[int]) -> Route:
        """See `input_route`."""
        return input_route(num_frames, depths)


class UnifiedExitNet(ExitNet):
    """Unified dynamic inference: a staircase through frames and depth (Figure 2(d)).

    Example:
        >>> [tuple(e) for e in UnifiedExitNet("test_resnet", num_classes=5, num_frames=16).route]
        [(4, 2), (8, 3), (8, 4), (16, 4)]
    """

    default_frame_order = "thue_morse"

    @staticmethod
    def default_route(num_frames: int, depths: Sequence[int]) -> Route:
        """See `unified_route`."""
        return unified_route(num_frames, depths)


def _backbone(name: str | Backbone, pretrained: bool | str, kwargs: dict[str, Any]) -> Backbone:
    if isinstance(name, Backbone):
        if pretrained:
            raise InputError("pretrained is for backbones by name: load the weights of your own Backbone yourself")
        return name
    if not isinstance(name, str):
        raise InputError(f"backbone is {shown(name)}: give the name of a timm model, msdnet38, or a Backbone")
    if name == "msdnet38" and pretrained:
        raise InputError("msdnet38 has no weights to download: give the path of the authors' checkpoint")
    try:
        return MSDNet(**kwargs) if name == "msdnet38" else TimmBackbone(name, pretrained, **kwargs)
    except DynvidError:
        raise
    except Exception as error:  # whatever timm's own code raises, what the user can do is the same
        if pretrained is True:
            raise  # the network's
        at_fault = f"{pretrained}: no weights of {name}" if pretrained else f"{name} takes no such backbone_args"
        raise InputError(f"{at_fault} ({said(error)})") from error


def _check_shift(shift: Shift, route: Route, frame_order: FrameOrder) -> None:
    if shift not in ("online", "bidirectional", "none"):
        raise InputError(f"unknown shift {shown(shift)}: use online, bidirectional or none")
    if shift == "bidirectional" and (route[0].frames != route[-1].frames or frame_order != "chronological"):
        raise InputError(
            "the bidirectional shift looks at later frames: it needs all frames at every exit and "
            "frame_order='chronological'; use shift='online' for progressive routes"
        )


def _described(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an `ExitNet` without its weights, as plain data."""
    left_out = ("self", "__class__", "pretrained")
    plain = {name: value for name, value in arguments.items() if name not in left_out}
    if isinstance(plain["backbone"], Backbone):
        plain["backbone"] = None
    return plain
