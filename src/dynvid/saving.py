"""Checkpoints that are whole or absent, whatever stops the process that writes them."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from pytorch_lightning.strategies import Strategy

from dynvid.whole import write_whole

__all__ = ["WholeFiles", "use_whole_files", "write_whole"]


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
