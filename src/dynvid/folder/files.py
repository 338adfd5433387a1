"""The files of a model's folder, which may come from strangers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors.torch
import torch
from torch import Tensor

import dynvid
from dynvid import strict_json
from dynvid.calibration import OperatingPoint
from dynvid.errors import InputError, MissingFileError
from dynvid.nets import ExitNet
from dynvid.nets.description import shown

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1
LARGEST_CONFIG = 2**26  # bytes; a thousand times what one of a large net takes
_LARGEST = torch.finfo(torch.float32).max
_DAMAGED = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)  # what reading numbers may come to
THRESHOLDS = {"policy.thresholds": "thresholds", "curve_thresholds": "curve_thresholds"}  # by their name in config.json


def read_folder(folder: str | Path) -> dict[str, Any]:
    """Read a model's folder as the checkpoint that it was made of: `dynvid` and `state_dict`, still to be checked.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: One is damaged, or was not written by dynvid, or by a later one.
    """
    config = _read_config(Path(folder))
    path = Path(folder, CONFIG)
    state = {f"net.{name}": value for name, value in _read_weights(Path(folder, WEIGHTS)).items()}
    for name, key in THRESHOLDS.items():
        try:
            state[name] = _numbers(config[key])
        except _DAMAGED as error:
            raise InputError(f"{path}: {key} are not numbers, or inf by its name, row by row") from error
    return {"dynvid": config["dynvid"], "state_dict": state}


class Int8(NamedTuple):
    """What is known of the int8 graphs of a folder.

    Attributes:
        thresholds: Found on their own outputs, one per exit.
        point: What these were asked to do.
        videos: Those that they were found on, and compared with float32 on.
        same_label: Share of them that each exit labels as it does in float32.
        largest_difference: Of its logits to those in float32.
    """

    thresholds: list[float]
    point: OperatingPoint
    videos: int
    same_label: list[float]
    largest_difference: list[float]

    def plain(self) -> dict[str, Any]:
        """As what JSON could hold."""
        return self._asdict() | {"thresholds": _named(self.thresholds), "point": self.point.plain()}

    @classmethod
    def from_plain(cls, plain: Any, exits: int) -> Self:
        """Read what `plain` gave; it may come from somebody else's file.

        Raises:
            ValueError: A part is missing, or is another than it should be.
        """
        if not isinstance(plain, dict) or plain.keys() != set(cls._fields):
            raise InputError("has other parts than it should")
        rows = [_numbers(plain[name]) for name in ("thresholds", "same_label", "largest_difference")]
        if any(row.shape != (exits,) for row in rows):
            raise InputError(f"is not of {exits} exits")
        if not isinstance(plain["videos"], int) or not 0 <= plain["videos"] < 2**53:
            raise InputError(f"videos are {shown(plain['videos'])}")
        thresholds, same, largest = (row.tolist() for row in rows)
        return cls(thresholds, OperatingPoint.from_plain(plain["point"]), plain["videos"], same, largest)


def read_int8(folder: str | Path, exits: int) -> Int8:
    """What is known of the int8 graphs of a model's folder, whose net has so many exits.

    Raises:
        ValueError: The folder holds no int8 graphs, or what is said of them is damaged.
    """
    said = _read_config(Path(folder)).get("int8")
    if said is None:
        raise InputError(f"{folder}: holds no int8 graphs; `dynvid export {folder} NEW_FOLDER --int8 VIDEOS` adds them")
    try:
        return Int8.from_plain(said, exits)
    except _DAMAGED as error:
        raise InputError(f"{Path(folder, CONFIG)}: int8: {' '.join(str(error).split())[:200]}") from error


def check_graphs(folder: str | Path, weights: str) -> None:
    """Whether the graphs of a model's folder were made of these weights, by their `dynvid.checkpoint.fingerprint`.

    Raises:
        ValueError: They were made of others.
    """
    if _read_config(Path(folder)).get("graphs_of") != weights:
        raise InputError(
            f"{folder}: its graphs are of other weights; `dynvid export {folder} NEW_FOLDER` makes new ones, with "
            "--runtime or --int8"
        )


def write_files(
    folder: Path,
    checkpoint: Mapping[str, Any],
    net: ExitNet,
    card: str,
    int8: Int8 | None = None,
    graphs_of: str | None = None,
) -> None:
    """Write a model into a folder that `dynvid.whole.whole_folder` gave.

    Args:
        folder: Where to.
        checkpoint: As `read_checkpoint` gives it, checked.
        net: What is in it.
        card: The model card.
        int8: What is known of the int8 graphs, where the folder is to hold some.
        graphs_of: The fingerprint of the weights, where it is to hold any graphs.
    """
    state = checkpoint["state_dict"]
    weights = {name.removeprefix("net."): x for name, x in state.items() if name.startswith("net.")}
    # Each on its own: safetensors refuses what shares memory, and writes no memory format.
    plain = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in weights.items()}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(plain, {"format": "pt"}))
    config: dict[str, Any] = {
        "format": FORMAT,
        "dynvid_version": dynvid.__version__,
        "dynvid": checkpoint["dynvid"],
        **{key: _named(state[name].float().tolist()) for name, key in THRESHOLDS.items()},
        "frames": frames_said(checkpoint, net),
    }
    if graphs_of is not None:
        config["graphs_of"] = graphs_of
    if int8 is not None:
        config["int8"] = int8.plain()
    lines = ",\n".join(f"{json.dumps(key)}: {strict_json.dumps(value)}" for key, value in config.items())
    (folder / CONFIG).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def frames_said(checkpoint: Mapping[str, Any], net: ExitNet) -> dict[str, Any]:
    """How a video is made into what the net takes, for whoever does it by hand; dynvid itself goes by the net."""
    from dynvid.data.transforms import decode_size  # with torchvision, which readers need not wait for

    return {
        "num_frames": net.num_frames,
        "order": list(net.order),
        "size": net.input_size,
        "sampling": checkpoint["dynvid"].get("sampling", "center"),
        "resize": f"short side to {decode_size(net.input_size)}, antialiased; then the centre",
        "input": "uint8 RGB (videos, frames, 3, height, width); the net and its graphs normalise",
        "mean": [round(x, 6) for x in net.mean.flatten().tolist()],
        "std": [round(x, 6) for x in net.std.flatten().tolist()],
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(f"{folder}: is no model's folder, it has no {CONFIG}")
    if path.stat().st_size > LARGEST_CONFIG:
        raise InputError(f"{path}: has more than {LARGEST_CONFIG} bytes")
    try:
        config = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read, it is damaged or no JSON") from error
    if not isinstance(config, dict) or "dynvid" not in config:
        raise InputError(f"{path}: not written by dynvid (it has no 'dynvid' entry)")
    if config.get("format") != FORMAT:
        raise InputError(f"{path}: format is {shown(config.get('format'))}, this dynvid reads {FORMAT}: update it")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file of weights")
    try:
        # From memory, so that a file that is cut short later takes nothing with it.
        return safetensors.torch.load(path.read_bytes())
    except Exception as error:  # the library's own kind, and torch's
        raise InputError(f"{path}: is no safetensors file, or is truncated") from error


def _refuse(constant: str) -> float:
    raise InputError(f"{constant} is no number of JSON")


def _numbers(given: Any) -> Tensor:
    """Numbers, or lists of them; infinite ones by their names."""
    return torch.tensor(_read(given), dtype=torch.float32)


def _read(given: Any) -> Any:
    if isinstance(given, list):
        return [_read(inside) for inside in given]
    if given in ("inf", "-inf"):
        return float(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= _LARGEST:
        raise InputError(f"{shown(given)} is no number")
    return float(given)


def _named(given: Any) -> Any:
    return [_named(inside) for inside in given] if isinstance(given, list) else strict_json.named(given)
