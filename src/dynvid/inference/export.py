"""A net as graphs, one for each step of its route: new frames and state in, logits and state out.

The rule that stops a video stands outside of them, in Python, and so does the choice of the videos that go on. State is
explicit, since graphs that keep theirs inside fix the number of videos, or are wrong where it changes.

Shapes: B videos, n new frames; state tensors are (m, B, ...), of m frames where they are activations, else m = 1.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_flatten, tree_unflatten

from dynvid.errors import InputError, ModeError
from dynvid.extras import require
from dynvid.inference.fold import fold_batch_norm
from dynvid.nets import ExitNet, Stream

GraphRuntime = Literal["onnx", "openvino"]
ENDINGS: dict[GraphRuntime, str] = {"onnx": ".onnx", "openvino": ".xml"}
MOST_VIDEOS = 4096  # of a batch; compilers want a bound


class Step(nn.Module):
    """What leads to the exit at a position of the route, as a function of tensors; a `Stream` computes it.

    Args:
        net: In eval mode, on the processor.
        position: Of the exit.

    Attributes:
        frames: New frames n that it takes; 0 where it only goes deeper.
        takes: Names of the state tensors that it takes, which the step before gives.
        gives: Names of those that it gives.

    Example:
        >>> from dynvid import UnifiedExitNet
        >>> step = Step(UnifiedExitNet("test_resnet", num_classes=5, num_frames=8, input_size=32).eval(), 1)
        >>> step.frames, step.takes
        (2, ('memory_1_1', 'waiting_2', 'memory_2_1'))
        >>> logits, *state = step(*step.example)
        >>> logits.shape, len(state) == len(step.gives)
        (torch.Size([2, 5]), True)
    """

    def __init__(self, net: ExitNet, position: int) -> None:
        super().__init__()
        if net.training:
            raise ModeError("a net is exported in eval mode: call net.eval() first")
        self.net, self.position = net, range(len(net.route))[position]
        before = net.route[self.position - 1].frames if self.position else 0
        self._new = net.order[before : net.route[self.position].frames]
        self.frames = len(self._new)
        size = net.input_size
        video = torch.zeros(2, net.num_frames, 3, size, size, dtype=torch.uint8)
        with torch.no_grad():
            walk = net.stream(video)
            while walk.position < self.position:
                walk.advance()
            names, state, self._spec = _flat(walk)
            self.takes = tuple(names)
            frames = video[:, self._new] if self.frames else None
            self.example: tuple[Tensor | None, ...] = (frames, *state)
            walk.advance()
            self.gives = tuple(_flat(walk)[0])

    def forward(self, frames: Tensor | None, *state: Tensor) -> tuple[Tensor, ...]:
        """Go on from what the step before gave.

        Args:
            frames: uint8 (B, n, 3, H, W), in processing order; None where there are no new ones.
            state: As `takes` names it.

        Returns:
            Logits (B, classes), and the state as `gives` names it.
        """
        batch = state[0].shape[1] if frames is None else frames.shape[0]
        for x in state:
            torch._check(x.shape[1] == batch)  # one number of videos, not one for each tensor
        walk = Stream(self.net, lambda _, __: _given(frames), batch)
        walk.resume(self.position, tree_unflatten([x.flatten(0, 1) for x in state], self._spec))
        return (walk.advance(), *_flat(walk)[1])


def export_program(net: ExitNet, position: int) -> ExportedProgram:
    """One step of a net's route as a program of torch, for any number of videos.

    Args:
        net: In eval mode, on the processor, not compiled.
        position: Of the exit that the step leads to.

    Returns:
        Of the inputs `frames`, uint8 (B, n, 3, H, W), where the step takes new ones, and the state that the step before
        gave; gives logits (B, classes) and the state that the next one takes. `torch.export.save` writes it.

    Raises:
        RuntimeError: The net is in training mode.
        ValueError: It cannot be exported.

    Example:
        >>> from dynvid import InputExitNet
        >>> net = InputExitNet("test_resnet", num_classes=5, num_frames=2, input_size=32, shift="none").eval()
        >>> first = export_program(net, 0).module()
        >>> logits, summed = first(torch.zeros(3, 1, 3, 32, 32, dtype=torch.uint8))
        >>> logits.shape, summed.shape
        (torch.Size([3, 5]), torch.Size([1, 3, 96]))
    """
    return _exported(Step(net, position))


def export_graphs(net: ExitNet, folder: str | Path, runtime: GraphRuntime) -> list[Path]:
    """Write the graphs of all steps of a net, in float32 and with batch norms folded; the net stays as it is.

    Args:
        net: In eval mode.
        folder: Where they go; made where it is missing.
        runtime: `onnx` writes ONNX, which both runtimes read; `openvino` OpenVINO's own format.

    Returns:
        The files, `step_1.onnx` and so on.

    Raises:
        RuntimeError: The net is in training mode.
        ValueError: The runtime's packages are missing, or the net cannot be exported.
    """
    if runtime not in get_args(GraphRuntime):
        raise InputError(f"runtime is {runtime!r}: use {' or '.join(get_args(GraphRuntime))}")
    for module in {"onnx": ("onnx", "onnxscript"), "openvino": ("openvino",)}[runtime]:
        require(module)
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for position, step in enumerate(_steps(net)):
        path = Path(folder, graph_name(runtime, position))
        with _quiet():
            if runtime == "onnx":
                _write_onnx(step, path)
            else:
                write_openvino(_converted(step), path)
        written.append(path)
    return written


def openvino_models(net: ExitNet) -> list[Any]:
    """The same graphs as `export_graphs` writes for OpenVINO, as an `openvino.Model` each."""
    require("openvino")
    models = []
    for step in _steps(net):
        with _quiet():
            models.append(_converted(step))
    return models


def write_openvino(model: Any, path: Path) -> None:
    """Write an `openvino.Model` with its weights as they are."""
    require("openvino").save_model(model, path, compress_to_fp16=False)


def graph_name(runtime: GraphRuntime, position: int) -> str:
    """The file of a step's graph.

    >>> graph_name("onnx", 0)
    'step_1.onnx'
    """
    return f"step_{position + 1}{ENDINGS[runtime]}"


def _exported(step: Step) -> ExportedProgram:
    videos = Dim("videos", min=1, max=MOST_VIDEOS)
    frames, *state = step.example
    shapes: tuple[Any, ...] = (None if frames is None else {0: videos},)
    if state:
        shapes += (tuple({1: videos} for _ in state),)
    try:
        return torch.export.export(step, (frames, *state), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever torch or the backbone's own code says, what the user can do is the same
        frames_at = f"{step.net.route[step.position].frames}x{step.net.route[step.position].depth}"
        raise InputError(f"the step to exit {frames_at} cannot be exported ({_said(error)})") from error


def _steps(net: ExitNet) -> Iterator[Step]:
    """The steps of a copy that is fit for it."""
    if net.training:
        raise ModeError("a net is exported in eval mode: call net.eval() first")
    net = copy.deepcopy(net).cpu().float().requires_grad_(False)
    fold_batch_norm(net)
    for position in range(len(net.route)):
        yield Step(net, position)


def _write_onnx(step: Step, path: Path) -> None:
    inputs = [*(["frames"] if step.frames else []), *step.takes]
    outputs = ["logits", *(f"next_{name}" for name in step.gives)]  # a name means one thing in a graph
    try:
        made = torch.onnx.export(
            _exported(step), dynamo=True, verbose=False, input_names=inputs, output_names=outputs, external_data=False
        )
        assert made is not None
        made.save(path, external_data=False)
    except Exception as error:
        raise InputError(f"{path.name} cannot be written as ONNX ({_said(error)})") from error


def _converted(step: Step) -> Any:
    program = _exported(step)
    try:
        return require("openvino").convert_model(program)
    except Exception as error:
        raise InputError(f"step {step.position + 1} cannot be converted for OpenVINO ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _given(frames: Tensor | None) -> Tensor:
    assert frames is not None  # a step without new frames reads none
    return frames


def _flat(walk: Stream) -> tuple[list[str], list[Tensor], Any]:
    """Names and tensors (m, B, ...) of what a walk holds, and how to put it together again."""
    held, batch = walk.held(), walk.videos.shape[0]
    names = []
    for depth, parts in enumerate(held, 1):
        for name, part in parts.items():
            count = len(tree_flatten(part)[0])
            names += [f"{name}_{depth}"] if name != "memory" and count == 1 else []
            names += [f"{name}_{depth}_{k}" for k in range(1, count + 1)] if name == "memory" or count > 1 else []
    leaves, spec = tree_flatten(held)
    return names, [x.view(-1, batch, *x.shape[1:]) for x in leaves], spec


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
