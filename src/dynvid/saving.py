"""Files that are whole or absent, whatever stops the process that writes them; checkpoints among them."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from pytorch_lightning.strategies import Strategy

from dynvid.errors import InputError

UNFINISHED = ".unfinished"


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint beside its target and moves it there in one step; remote paths keep Lightning's way."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; a kill or a full disk leaves what was there before.

        Raises:
            InputError: The file cannot be written.
        """
        local = str(path).removeprefix("file://")
        if storage_options is not None or "://" in local:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch's own writer hides what the operating system says about a full disk
        torch.save(checkpoint, content)
        write_whole(local, content.getbuffer())


def use_whole_files(strategy: Strategy) -> None:
    """Let every checkpoint of a trainer's strategy be whole, unless it was given a way of saving of its own."""
    way = strategy.checkpoint_io
    if type(way) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFiles()
    elif isinstance(way, _WrappingCheckpointIO) and type(way.checkpoint_io) is TorchCheckpointIO:
        way._checkpoint_io = WholeFiles()  # the setter keeps the first one


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Replace a file in one step, its folder made where it is missing.

    A symbolic link at `path` is replaced, never followed: what it points to stays as it is.

    Raises:
        InputError: The file cannot be written; what was there before is still there.
    """
    path = Path(path)
    unfinished = path.with_name(f".{uuid4().hex}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with unfinished.open("xb") as file:
            _lock(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # there an open file cannot be moved
            os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; what was there stays") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # the name survives a power cut too, on file systems that can say so of a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: whoever still writes a file holds a lock on it."""
    for leftover in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError), leftover.open("rb+") as file:
            if _lock(file):
                leftover.unlink()


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else holds the lock, which goes when its holder ends; a file system without locks says no."""
    if sys.platform == "win32":
        return True  # there a file that is open cannot be removed anyway
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
