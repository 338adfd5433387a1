"""Exported steps run by ONNX Runtime or OpenVINO; to the pool, and so to a `Recognizer`, they look like a net.

State stands outside of the graphs, as arrays with the videos on dimension 1: so videos leave a batch, and batches are
joined, without any runtime knowing of it.
"""

import copy
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynvid.checkpoint import fingerprint
from dynvid.errors import InputError, MissingFileError
from dynvid.extras import require
from dynvid.folder import Int8, check_graphs, read_int8
from dynvid.inference.export import GraphRuntime, graph_name
from dynvid.inference.recipe import Recipe
from dynvid.nets import ExitNet
from dynvid.nets.stream import FrameSource

Runtime = Literal["torch", "onnx", "openvino"]
Run = Callable[[list[NDArray[Any]]], Sequence[NDArray[Any]]]
"""One step: frames, where it takes any, and state, to logits and state."""
GraphPrecision = Literal["float32", "bfloat16", "int8"]


class Program:
    """The steps of a route, run elsewhere; whatever the pool asks of a net, it has.

    Args:
        like: The net that the steps were made of; its weights are not used.
        steps: One per exit.

    Attributes:
        route, order, num_classes, num_frames, input_size: Those of the net.
        device: Where frames are wanted.
    """

    def __init__(self, like: ExitNet, steps: Sequence[Run]) -> None:
        if len(steps) != len(like.route):
            raise InputError(f"{len(steps)} graphs for {len(like.route)} exits")
        self.route, self.order, self.num_classes = like.route, like.order, like.num_classes
        self.num_frames, self.input_size = like.num_frames, like.input_size
        self.device = torch.device("cpu")
        self.steps = list(steps)
        self._outline = copy.deepcopy(like).to("meta")  # costs are counted on it; it holds no weights

    @property
    def gmacs(self) -> tuple[float, ...]:
        """As those of the net."""
        return self._outline.gmacs

    @property
    def full_gmacs(self) -> float:
        """As that of the net."""
        return self._outline.full_gmacs

    def eval(self) -> Self:
        """As it is: there is nothing to train."""
        return self

    def stream(self, video: Tensor | FrameSource, batch: int | None = None) -> "ProgramStream":
        """Walk the route exit by exit, as `ExitNet.stream` does.

        Args:
            video: uint8 (B, T, 3, H, W); or a function as `Stream` takes it.
            batch: Number of videos, where `video` is a function.

        Raises:
            ValueError: The video is of another type or shape.
        """
        if not isinstance(video, Tensor):
            if batch is None:
                raise InputError("give batch, the number of videos, when frames come from a function")
            return ProgramStream(self, video, batch)
        shape = (self.num_frames, 3, self.input_size, self.input_size)
        if video.dtype != torch.uint8 or video.dim() != 5 or tuple(video.shape[1:]) != shape:
            raise InputError(f"video is {video.dtype} {tuple(video.shape)}: this program takes uint8 (B, *{shape})")
        return ProgramStream(self, lambda rows, frames: video[rows[:, None], torch.tensor(frames)], len(video))


class ProgramStream:
    """The state of a batch of videos on its way through a `Program`; used as a `dynvid.Stream` is.

    Attributes:
        position: Number of exits taken so far.
        videos: Row numbers of the videos still under way, int64 (b,).
    """

    def __init__(self, program: Program, source: FrameSource, batch: int) -> None:
        self.program, self.position = program, 0
        self.videos = torch.arange(batch)
        self._read = source
        self._state: list[NDArray[Any]] = []  # (m, b, ...)

    @property
    def finished(self) -> bool:
        """Whether the last exit was taken."""
        return self.position == len(self.program.route)

    def advance(self) -> Tensor:
        """Run the next step and return its logits, float32 (b, classes), for the videos still under way.

        Raises:
            StopIteration: The last exit was taken.
        """
        if self.finished:
            raise StopIteration("the route is at its end")
        route, order = self.program.route, self.program.order
        before = route[self.position - 1].frames if self.position else 0
        given = self._state
        if new := order[before : route[self.position].frames]:
            given = [np.ascontiguousarray(self._read(self.videos, new).numpy()), *given]
        logits, *self._state = self.program.steps[self.position](given)
        self.position += 1
        return torch.from_numpy(logits)

    def keep(self, alive: Tensor) -> None:
        """Go on with some of the videos only: bool (b,)."""
        self.keep_rows(alive.nonzero().squeeze(1))

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with some of the videos only: their places among those still under way, int64 (rows,)."""
        self.videos = self.videos[rows]
        self._state = [x[:, rows.numpy()] for x in self._state]

    @classmethod
    def join(cls, streams: Sequence["ProgramStream"], source: FrameSource) -> "ProgramStream":
        """Walk on with the videos of several streams as one batch; see `Stream.join`.

        Raises:
            ValueError: The streams do not stand at the same place.
        """
        first = streams[0]
        if any((s.program, s.position) != (first.program, first.position) for s in streams):
            raise InputError("streams of one program that stand at the same exit can be joined, and no others")
        joined = cls(first.program, source, sum(len(s.videos) for s in streams))
        joined.position = first.position
        joined._state = [np.concatenate(parts, 1) for parts in zip(*(s._state for s in streams), strict=True)]
        return joined


def load_program(
    folder: Path, like: ExitNet, runtime: Runtime, precision: str, optimize: str, device: str | torch.device
) -> tuple[Program, Recipe, Int8 | None]:
    """The exported steps of a model's folder, ready to run in as many threads as torch uses.

    Args:
        folder: Holds a folder `onnx`, `openvino` or `int8` with one graph per step. OpenVINO reads ONNX too.
        like: The net in the folder.
        runtime: Who runs them.
        precision: `auto` is float32; `bfloat16` and `int8` are for OpenVINO.
        optimize: Anything but `compile`: a runtime does it its own way.
        device: The processor.

    Returns:
        The program, what it is, and what is known of the graphs where they are int8.

    Raises:
        FileNotFoundError: The folder has no such graphs.
        ValueError: The runtime is not installed, or does not have this precision here; or a graph is damaged, or not
            one of this net or of its weights.
    """
    if runtime not in ("onnx", "openvino"):
        raise InputError(f"runtime is {runtime!r}: use {', '.join(get_args(Runtime))}")
    if str(device) not in ("auto", "cpu") or optimize == "compile":
        asked = "optimize='compile'" if optimize == "compile" else f"device {device}"
        raise InputError(f"{asked} is for runtime torch; {runtime} computes on the processor, its own way")
    precision = "float32" if precision == "auto" else precision
    if precision not in (("float32",) if runtime == "onnx" else get_args(GraphPrecision)):
        raise InputError(
            f"precision is {precision!r}: onnx has float32, openvino {', '.join(get_args(GraphPrecision))}"
        )
    if not folder.is_dir():
        raise InputError(f"{folder}: has no graphs; `dynvid export {folder} FOLDER --runtime {runtime}` makes some")
    known = read_int8(folder, len(like.route)) if precision == "int8" else None
    steps = _onnx(folder, like) if runtime == "onnx" else _openvino(folder, like, precision)
    return Program(like, steps), Recipe("default", precision, torch.device("cpu"), 0, runtime), known  # type: ignore[arg-type]


def _onnx(folder: Path, like: ExitNet) -> list[Run]:
    return [_onnx_step(path, like, k) for k, path in enumerate(_graphs(folder, "onnx", "onnx", like))]


def _openvino(folder: Path, like: ExitNet, precision: str) -> list[Run]:
    where, kind = ("int8" if precision == "int8" else "openvino"), "openvino"
    if where == "openvino" and not (folder / where).is_dir() and (folder / "onnx").is_dir():
        where = kind = "onnx"
    core, steps = require("openvino").Core(), []
    for k, path in enumerate(_graphs(folder, where, kind, like)):  # type: ignore[arg-type]  # one of both
        if kind == "onnx":
            _read_onnx(path)
        try:
            model = core.read_model(path)
        except Exception as error:  # whatever the runtime says of it
            raise InputError(f"{path}: cannot be read by OpenVINO, it is damaged or no graph") from error
        steps.append(openvino_step(model, like, k, precision == "bfloat16", path, core))
    return steps


def _graphs(folder: Path, where: str, kind: GraphRuntime, like: ExitNet) -> list[Path]:
    paths = [folder / where / graph_name(kind, k) for k in range(len(like.route))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        how = "--int8 VIDEOS" if where == "int8" else f"--runtime {where}"
        raise MissingFileError(f"{missing[0]}: no such graph; `dynvid export {folder} NEW_FOLDER {how}` makes them")
    check_graphs(folder, fingerprint({f"net.{name}": x for name, x in like.state_dict().items()}))
    return paths


def _read_onnx(path: Path) -> bytes:
    """The bytes of a graph that keeps all its weights, as dynvid writes them.

    Raises:
        ValueError: It names another file, which a runtime would look for wherever the graph says.
    """
    content = path.read_bytes()
    # Such a tensor has an entry of the key `location`: these letters after their number, in however many bytes it is.
    if re.search(rb"(\x08|\x88\x80*\x00)location", content):
        raise InputError(f"{path}: names a file of weights beside it; only graphs of `dynvid export` are read")
    return content


def _onnx_step(path: Path, like: ExitNet, position: int) -> Run:
    onnxruntime, content = require("onnxruntime"), _read_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and no other, which may name files too
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a dozen kinds of them
        raise InputError(f"{path}: cannot be read by ONNX Runtime, it is damaged or no graph") from error
    inputs, outputs = session.get_inputs(), [x.name for x in session.get_outputs() if x.type.startswith("tensor(")]
    _check(path, like, position, [x.type == "tensor(uint8)" for x in inputs], len(outputs))
    names, classes = [x.name for x in inputs], like.num_classes

    def run(given: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        try:
            answers: Sequence[NDArray[Any]] = session.run(outputs, dict(zip(names, given, strict=True)))
        except Exception as error:
            raise InputError(_failed(path, error)) from error
        return _fitting(answers, given, classes, path)

    return run


def openvino_step(
    model: Any, like: ExitNet, position: int, bfloat16: bool = False, name: str | Path = "a graph", core: Any = None
) -> Run:
    """A step that OpenVINO runs.

    Args:
        model: An `openvino.Model`; what is quantised in it is computed in int8.
        like: The net that it was made of.
        position: Of the exit that it leads to.
        bfloat16: Compute the rest in bfloat16, and not in float32.
        name: What errors call it.
        core: An `openvino.Core`, to be used for several.

    Raises:
        ValueError: It is not of this net, or cannot be run here.
    """
    _check(name, like, position, [x.element_type.to_string() == "u8" for x in model.inputs], len(model.outputs))
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    core = core or require("openvino").Core()
    if bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("precision bfloat16: OpenVINO has none on this processor, and would take float32")
    try:
        compiled = core.compile_model(model, "CPU", hints)
    except Exception as error:
        raise InputError(f"{name}: OpenVINO cannot run it here ({' '.join(str(error).split())[:200]})") from error
    lock, classes = threading.Lock(), like.num_classes  # a compiled model holds one request

    def run(given: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        try:
            with lock:
                answers = list(compiled(given).values())
        except Exception as error:
            raise InputError(_failed(name, error)) from error
        return _fitting(answers, given, classes, name)

    return run


def _check(name: str | Path, like: ExitNet, position: int, are_frames: list[bool], outputs: int) -> None:
    """Whether a graph takes frames where its step does, and nowhere else; shapes are the runtime's to check.

    Raises:
        ValueError: It does not.
    """
    before = like.route[position - 1].frames if position else 0
    new = like.route[position].frames > before
    fits = bool(are_frames) and are_frames == [new, *([False] * (len(are_frames) - 1))]
    if not fits or outputs < 1 or (position == 0 and len(are_frames) > 1):
        raise InputError(f"{name}: is no graph of step {position + 1} of this net")


def _fitting(
    answers: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]], classes: int, name: str | Path
) -> Sequence[NDArray[Any]]:
    """What a graph gives, once it is known to be logits of this net, and state of all videos.

    Raises:
        ValueError: It is something else.
    """
    videos = given[0].shape[0 if given[0].dtype == np.uint8 else 1]
    logits, *state = answers
    if logits.dtype != np.float32 or logits.shape != (videos, classes):
        said = f"{logits.dtype} {logits.shape}, not float32 {(videos, classes)}"
        raise InputError(f"{name}: gives logits {said}: it is no graph of this net")
    if any(x.ndim < 2 or x.shape[1] != videos for x in state):
        raise InputError(f"{name}: gives state of other videos than it is given: it is no graph of this net")
    return answers


def _failed(name: str | Path, error: Exception) -> str:
    return f"{name}: does not run on what it is given ({' '.join(str(error).split())[:200]})"
