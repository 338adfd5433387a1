"""Which checkpoint `--ckpt_path last` and `best` mean."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from dynvid.checkpoint import read_run
from dynvid.errors import DynvidError, InputError
from dynvid.text import printable


def newest_checkpoint(wanted: Literal["last", "best"], config: Any) -> str:
    """The last or best checkpoint of the newest run of this config; whatever is taken in its place is said in a line.

    Raises:
        InputError: There is none, or it cannot be told by its name.
    """
    name = "last" if wanted == "last" else config.checkpoint.filename or "{epoch}-{step}"  # Lightning's default
    if "{" in name or (wanted == "best" and config.checkpoint.save_top_k != 1):
        raise InputError(f"--ckpt_path {wanted}: the checkpoint arguments make several files; give the path of one")
    folders = _checkpoint_folders(config)
    pattern = re.compile(rf"{re.escape(name)}(-v\d+)?\.ckpt")  # -v1: Lightning keeps a file of that name
    files = _newest_first(path for folder in folders for path in folder.glob("*.ckpt"))
    found = [path for path in files if pattern.fullmatch(path.name)]
    if not (files if wanted == "last" else found):
        where = config.checkpoint.dirpath or config.trainer.default_root_dir or "."
        raise InputError(f"--ckpt_path {wanted}: no {name}.ckpt under {where}; run `dynvid fit` with this config first")
    if wanted == "last":
        return str(_last_state(files, found))
    if found[0].parent != files[0].parent:
        print(f"{printable(files[0].parent)}, the newest run, has no {name}.ckpt; taking that of an older one")
    return str(found[0])


def _checkpoint_folders(config: Any) -> list[Path]:
    """The folders of checkpoints of all runs of a config."""
    logger = config.trainer.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else False  # Lightning keeps checkpoints under the first
    settings = getattr(logger, "init_args", None) or {}
    root = Path(settings.get("save_dir") or config.trainer.default_root_dir or ".")
    if config.checkpoint.dirpath:
        return [Path(config.checkpoint.dirpath)]
    of_folds = Path(config.trainer.default_root_dir or ".").glob("folds/*/final/checkpoints")
    if logger is False:
        return [root / "checkpoints", *of_folds]
    if logger is None or logger is True:
        return [*root.glob("lightning_logs/*/checkpoints"), *of_folds]
    # Under the name and the version that the logger has, or one of them.
    return [*root.glob("*/checkpoints"), *root.glob("*/*/checkpoints"), *of_folds]


def _last_state(files: list[Path], found: list[Path]) -> Path:
    """The newest state that can be read: that of the newest run, whatever its name, before any of older runs.

    A best file beside the `last` counts where it is ahead, since the run may have been killed between the two.

    Args:
        files: The checkpoints of all runs, newest first.
        found: The `last` files among them.

    Raises:
        InputError: None can be read.
    """
    runs = list(dict.fromkeys(path.parent for path in files))
    ranked = sorted(files, key=lambda path: (runs.index(path.parent), path not in found))  # stable: newest first
    state = next(((path, steps) for path in ranked if (steps := _steps(path)) is not None), None)
    if state is None:
        raise InputError(f"--ckpt_path last: {ranked[0]} cannot be read, nor any other checkpoint")
    taken, steps = state
    if taken != ranked[0]:
        print(f"{printable(ranked[0])} cannot be read; taking {printable(taken)}, the newest that can")
    elif taken not in found:
        name = printable(taken.name)
        print(f"{printable(runs[0])}, the newest run, was stopped before it wrote a last.ckpt; taking {name}")
    else:
        age = taken.lstat().st_mtime
        beside = [path for path in files if path.parent == runs[0] and path not in found]
        for path in beside:
            if path.lstat().st_mtime > age and (_steps(path) or 0) > steps:
                name = printable(path.name)
                print(f"{printable(taken)} is behind: the run was stopped before it wrote it anew; taking {name}")
                return path
    return taken


def _steps(path: Path) -> int | None:
    """The optimizer steps that a checkpoint has behind it; None where Lightning could not restore it."""
    try:
        return int(read_run(path).get("global_step", 0))
    except DynvidError:
        return None


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.lstat().st_mtime, reverse=True)  # of a link itself: it may dangle
