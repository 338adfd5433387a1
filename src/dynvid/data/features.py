"""Features of videos on disk: what a frozen net makes of their frames, found again by what is in the videos."""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Dataset

from dynvid.data.dataset import Skipped, Video, label_of
from dynvid.data.members import source_of
from dynvid.errors import DynvidError, InputError, MissingFileError, VideoError
from dynvid.text import printable
from dynvid.whole import write_whole


class Features:
    """A folder with a file for each video and view, named by the content of the video.

    Files are whole or absent, so that runs and processes may share the folder, and may be deleted between runs.

    Attributes:
        folder: Where they are; its name tells the net and what it is shown, so that others have folders of their own.
        digests: By path, what is in the videos: `digest_of_video`.
        unreadable: By path, why there are no features of a video.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder = Path(folder)
        self.digests: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    def file(self, path: str, mirrored: bool) -> Path:
        """Where the features of a video are, once they are there."""
        digest = self.digests[path]
        # Folders of a few files each: each file that is written looks through the folder for what was left behind.
        return self.folder / digest[:2] / f"{digest}{'.mirrored' if mirrored else ''}.safetensors"

    def write(self, path: str, mirrored: bool, embedded: Mapping[int, Tensor]) -> None:
        """Keep what exits average: for each depth the frames (n, C) in the order of the net.

        Raises:
            InputError: The file cannot be written.
        """
        named = {str(depth): x.cpu().contiguous() for depth, x in embedded.items()}
        write_whole(self.file(path, mirrored), safetensors.torch.save(named | {"sha256": _digest(named)}))

    def read(self, path: str, mirrored: bool) -> dict[int, Tensor]:
        """What `write` kept.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It is damaged.
        """
        file = self.file(path, mirrored)
        try:
            # Not mapped into memory: a file that is cut short meanwhile would end the process.
            named = safetensors.torch.load(file.read_bytes())
            whole = torch.equal(named.pop("sha256"), _digest(named))
            embedded = {int(depth): x for depth, x in named.items()}
        except FileNotFoundError as error:
            raise MissingFileError(f"{printable(file)}: no such file") from error
        except (SafetensorError, OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{printable(file)}: is damaged ({' '.join(str(error).split())[:200]})") from error
        if not whole:
            raise InputError(f"{printable(file)}: is damaged, its values are not those that were written")
        return embedded


class FeatureDataset(Dataset[dict[str, object] | Skipped]):
    """Features in place of frames: items are as those of `VideoDataset`, with `features`, by depth, for `video`.

    Args:
        videos: Whose.
        features: Where they are.
        mirror: Take those of the mirrored video every second time, by torch's default generator.
        classes: As for `VideoDataset`.
    """

    def __init__(
        self, videos: Sequence[Video], features: Features, mirror: bool = False, classes: int | None = None
    ) -> None:
        self.videos, self.features, self.mirror, self.classes = videos, features, mirror, classes

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, object] | Skipped:
        video = self.videos[index]
        if video.path in self.features.unreadable:
            return Skipped(video.path, self.features.unreadable[video.path])
        mirrored = self.mirror and bool(torch.rand(()) < 0.5)
        try:
            found = self.features.read(video.path, mirrored)
        except MissingFileError as error:
            raise InputError(f"{printable(self.features.folder)}: removed while in use; begin again") from error
        return {"features": found, "label": label_of(video, self.classes), "index": index, "path": video.path}


def digest_of_video(path: str) -> str:
    """SHA-256 of what is in a video file, or of the names and contents of a folder of frames, in hexadecimal.

    Raises:
        VideoError: It cannot be read.
    """
    digest, source = sha256(), source_of(path)
    try:
        if not isinstance(source, str):
            _add(source, digest)
        elif os.path.isdir(path):
            for name in sorted(os.listdir(path)):
                place = os.path.join(path, name)
                digest.update(os.fsencode(name) + b"\0" + str(os.path.getsize(place)).encode() + b"\0")
                if os.path.isfile(place):
                    _add(place, digest)
        elif os.path.exists(path) and not os.path.isfile(path):
            raise VideoError(f"{path}: no regular file")
        else:
            _add(path, digest)
    except VideoError:
        raise
    except (OSError, DynvidError) as error:
        raise VideoError(f"{path}: cannot open ({getattr(error, 'strerror', None) or error})") from error
    return digest.hexdigest()


def _add(source: str | BinaryIO, digest: Any) -> None:
    """Add what is in a file to a digest."""
    with open(source, "rb") if isinstance(source, str) else source as content:
        while chunk := content.read(2**20):
            digest.update(chunk)


def _digest(named: Mapping[str, Tensor]) -> Tensor:
    """What tells tensors by name from others: SHA-256 of names, types, shapes and values, uint8 (32,)."""
    digest = sha256()
    for name in sorted(named):
        x = named[name]
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\0".encode())
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
