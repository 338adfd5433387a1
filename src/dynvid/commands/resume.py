"""Which checkpoint `--ckpt_path last` and `best` mean."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dynvid.errors import DynvidError, InputError
from dynvid.module import read_checkpoint
from dynvid.text import printable


def newest_checkpoint(wanted: Literal["last", "best"], config: Any) -> str:
    """The last or best checkpoint of the newest run of this config; in place of a damaged last one, the one before.

    Raises:
        InputError: There is none, or it cannot be told by its name.
    """
    name = "last" if wanted == "last" else config.checkpoint.filename or "{epoch}-{step}"  # Lightning's default
    if "{" in name or (wanted == "best" and config.checkpoint.save_top_k != 1):
        raise InputError(f"--ckpt_path {wanted}: the checkpoint arguments make several files; give the path of one")
    folders = _checkpoint_folders(config)
    pattern = re.compile(rf"{re.escape(name)}(-v\d+)?\.ckpt")  # -v1: Lightning keeps a file of that name
    found = _newest_first(p for folder in folders for p in folder.glob("*.ckpt") if pattern.fullmatch(p.name))
    if not found:
        where = config.checkpoint.dirpath or config.trainer.default_root_dir or "."
        raise InputError(f"--ckpt_path {wanted}: no {name}.ckpt under {where}; run `dynvid fit` with this config first")
    return str(found[0] if wanted == "best" else _last_state(found))


def _checkpoint_folders(config: Any) -> list[Path]:
    """The folders of checkpoints of all runs of a config."""
    logger = config.trainer.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else False  # Lightning keeps checkpoints under the first
    settings = getattr(logger, "init_args", None) or {}
    root = Path(settings.get("save_dir") or config.trainer.default_root_dir or ".")
    if config.checkpoint.dirpath:
        return [Path(config.checkpoint.dirpath)]
    if logger is False:
        return [root / "checkpoints"]
    if logger is None or logger is True:
        return [*root.glob("lightning_logs/*/checkpoints")]
    # Under the name and the version that the logger has, or one of them.
    return [*root.glob("*/checkpoints"), *root.glob("*/*/checkpoints")]


def _last_state(found: list[Path]) -> Path:
    """The newest state that can be read, given the `last` files of all runs, newest first.

    A best file beside the newest `last` counts where it is ahead, since the run may have been killed between the two.

    Raises:
        InputError: None can be read.
    """
    newest = found[0]
    beside = _newest_first(path for path in newest.parent.glob("*.ckpt") if path not in found)
    steps = _steps(newest)
    if steps is not None:
        age = newest.stat().st_mtime
        ahead = [path for path in beside if path.stat().st_mtime > age and (_steps(path) or 0) > steps]
        if ahead:
            print(f"{printable(newest)} is behind: the run was stopped before it wrote it anew; taking {ahead[0].name}")
        return ahead[0] if ahead else newest
    for path in [*(p for p in found[1:] if p.parent == newest.parent), *beside, *found[1:]]:
        if _steps(path) is not None:
            print(f"{printable(newest)} cannot be read; taking {printable(path)}, the newest that can")
            return path
    raise InputError(f"--ckpt_path last: {newest} cannot be read, nor any other checkpoint")


def _steps(path: Path) -> int | None:
    """The optimizer steps that a checkpoint has behind it; None where it cannot be read."""
    try:
        return int(read_checkpoint(path).get("global_step", 0))
    except DynvidError:
        return None


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.lstat().st_mtime, reverse=True)  # of a link itself: it may dangle
