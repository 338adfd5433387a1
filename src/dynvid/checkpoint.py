"""Checkpoints and models' folders, which may come from strangers: checked before a net is built. No Lightning."""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from dynvid.calibration import ChosenBy, OperatingPoint, Reject, num_candidates
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError
from dynvid.folder import local, read_folder
from dynvid.nets import ExitNet
from dynvid.nets.compiled import plain_name
from dynvid.nets.description import check_plain, shown
from dynvid.nets.spec import net_from_state
from dynvid.nets.weights.file import check_tensors, read_file
from dynvid.policy import SCORE_NAMES, ThresholdPolicy
from dynvid.profile import read_profiles

THRESHOLDS = ("policy.thresholds", "curve_thresholds")  # these may be infinite: an exit that is off
# What Lightning takes as it is when it restores a run: the type of each part, and of what is in it.
LIGHTNING: dict[str, tuple[type, type | None]] = {
    "global_step": (int, None),
    "epoch": (int, None),
    "loops": (dict, dict),
    "callbacks": (dict, dict),
    "optimizer_states": (list, dict),
    "lr_schedulers": (list, dict),
}


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`, or a model's folder as the checkpoint that it was made of.

    Args:
        path: The file or folder; where there is neither, `user/name` is a model on the Hugging Face hub.
        map_location: See `torch.load`; a folder's weights are read on the processor.

    Raises:
        FileNotFoundError: There is no such file, folder or model.
        ValueError: The file is damaged, holds more than plain data, is no checkpoint, or has weights that are not
            finite; or the hub cannot be reached.
    """
    place = local(path)
    checkpoint = read_folder(place) if place.is_dir() else read_file(place, "checkpoint", map_location)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{path}: holds no Lightning checkpoint")
    try:
        check_tensors(checkpoint["state_dict"], may_be_infinite=THRESHOLDS)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    checkpoint["state_dict"] = {plain_name(name): x for name, x in checkpoint["state_dict"].items()}
    return checkpoint


def read_run(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that Lightning is to restore, by `read_checkpoint`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: See `read_checkpoint`; or what Lightning wrote beside the weights is missing or of another type.
    """
    checkpoint = read_checkpoint(path)
    version = checkpoint.get("pytorch-lightning_version")
    number = r"\d{1,9}(\.\d{1,9}){1,4}((a|b|rc|\.?dev|\.?post)\d{1,9}){0,3}(\+[a-z0-9.]{1,40})?"
    if not isinstance(version, str) or not re.fullmatch(number, version, re.ASCII):
        raise InputError(f"{path}: pytorch-lightning_version is {shown(version)}, so Lightning cannot restore it")
    for key, (kind, inner) in LIGHTNING.items():
        part = checkpoint.get(key)
        inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if key in checkpoint and not (isinstance(part, kind) and all(isinstance(x, inner or object) for x in inside)):
            wanted = kind.__name__ + (f" of {inner.__name__}s" if inner else "")
            raise InputError(f"{path}: {key} is {shown(part)}, not of type {wanted}")
    return checkpoint


def described(checkpoint: Mapping[str, Any], path: str | Path = "the checkpoint") -> dict[str, Any]:
    """What dynvid wrote into a checkpoint: the net's description, the score, and the names of the classes.

    Raises:
        ValueError: It was not written by dynvid, or a part of it is of another type.
    """
    if "dynvid" not in checkpoint:
        raise InputError(f"{path}: not written by dynvid (it has no 'dynvid' entry)")
    saved = checkpoint["dynvid"]
    lacking = {"net", "score", "class_names"} - (saved.keys() if isinstance(saved, dict) else set())
    if lacking:
        raise InputError(f"{path}: its 'dynvid' entry lacks {', '.join(sorted(lacking))}")
    net, score, names = saved["net"], saved["score"], saved["class_names"]
    if not isinstance(net, dict) or not isinstance(net.get("init_args"), dict):
        raise InputError(f"{path}: net is {shown(net)}, not a class_path with init_args")
    if not isinstance(score, str) or score not in SCORE_NAMES:
        raise InputError(f"{path}: score is {shown(score)}: use {', '.join(SCORE_NAMES)}")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{path}: class_names is {shown(names)}, not a list of names")
    background = saved.get("background")
    if background is not None and not (isinstance(background, str) and background in (names or ())):
        raise InputError(f"{path}: background is {shown(background)}, not the name of a class")
    for name in ("calibrated", "multi_label", "freeze_backbone"):
        if not isinstance(saved.get(name, True), bool):
            raise InputError(f"{path}: {name} is {shown(saved[name])}, not true or false")
    if saved.get("chosen_by") not in (None, *get_args(ChosenBy)):
        raise InputError(f"{path}: chosen_by is {shown(saved['chosen_by'])}: use {', '.join(get_args(ChosenBy))}")
    if not isinstance(saved.get("listing"), str | None):
        raise InputError(f"{path}: listing is {shown(saved['listing'])}, not a name")
    if saved.get("sampling", "center") not in get_args(Sampling):
        raise InputError(f"{path}: sampling is {shown(saved['sampling'])}: use {' or '.join(get_args(Sampling))}")
    costs = saved.get("gmacs")
    if costs is not None and not (isinstance(costs, list) and all(map(_is_positive, costs))):
        raise InputError(f"{path}: gmacs are {shown(costs)}, not a list of numbers above 0")
    temperatures = saved.get("temperatures")
    if temperatures is not None and not (isinstance(temperatures, list) and all(map(_is_positive, temperatures))):
        raise InputError(f"{path}: temperatures are {shown(temperatures)}, not a list of numbers above 0")
    try:
        if saved.get("operating_point") is not None:
            OperatingPoint.from_plain(saved["operating_point"])
        if saved.get("reject") is not None:
            Reject.from_plain(saved["reject"])
        read_profiles(saved.get("profiles"))
        check_plain("init_args", net["init_args"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return dict(saved)


def net_from_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> ExitNet:
    """The net of a checkpoint that was read, with its weights.

    Raises:
        ValueError: The description is out of range, or weights, thresholds or class names are not of the net that it
            describes; the message names the file.
    """
    saved, state = described(checkpoint, path), checkpoint["state_dict"]
    try:
        weights = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
        net = net_from_state(saved["net"], weights)
        exits, names = len(net.route), saved["class_names"]
        for name, shape in zip(THRESHOLDS, [(exits,), (num_candidates(exits), exits)], strict=True):
            if name not in state or state[name].shape != shape or not state[name].is_floating_point():
                raise InputError(f"{name} must be float {shape} for {exits} exits")
        if saved.get("temperatures") and len(saved["temperatures"]) != exits:
            raise InputError(f"{len(saved['temperatures'])} temperatures for {exits} exits")
        if saved.get("gmacs") and len(saved["gmacs"]) != exits + 1:
            raise InputError(f"{len(saved['gmacs'])} gmacs for {exits} exits and full inference")
        read_profiles(saved.get("profiles"), net.route)
        if names is not None and len(names) != net.num_classes:
            raise InputError(f"class_names has {len(names)} names, the net {net.num_classes} classes")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return net


def policy_from_checkpoint(checkpoint: Mapping[str, Any]) -> ThresholdPolicy:
    """The thresholds, score, temperatures and kind of labels of a checkpoint that `net_from_checkpoint` has checked."""
    saved, thresholds = checkpoint["dynvid"], checkpoint["state_dict"]["policy.thresholds"]
    sets = saved.get("multi_label", False)  # of which older files know nothing
    return ThresholdPolicy(None, thresholds, saved["score"], saved.get("temperatures"), sets)


def reject_from_checkpoint(checkpoint: Mapping[str, Any]) -> Reject | None:
    """Which answers of a checkpoint that `net_from_checkpoint` has checked are withheld; None in older ones."""
    plain = checkpoint["dynvid"].get("reject")
    return None if plain is None else Reject.from_plain(plain)


def is_calibrated(checkpoint: Mapping[str, Any]) -> bool:
    """Whether thresholds were found for its weights; in older files, which do not say so, unless all are off."""
    infinite = checkpoint["state_dict"].get("policy.thresholds", torch.tensor(torch.inf)).isposinf().all()
    return bool(checkpoint["dynvid"].get("calibrated", not infinite))


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A name for the net's weights and buffers in a state dict, to the bit and wherever they lie."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if name.startswith("net.")):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_positive(value: object) -> bool:
    return isinstance(value, float) and 0 < value < math.inf
