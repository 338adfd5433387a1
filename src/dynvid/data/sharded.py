"""Videos in shards, as `dynvid pack` writes them, or others do."""

import re
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import OnError, Split, Video
from dynvid.data.manifest import MANIFEST, Manifest, Packed, read_manifest
from dynvid.data.members import Member, member_of
from dynvid.data.sampling import Sampling
from dynvid.data.store import inside, read
from dynvid.data.walk import entries_once, is_folder
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable

_SHA256 = re.compile("[0-9a-f]{64}")  # names a file of features: nothing else may


class ShardDataModule(VideoDataModule):
    """Whole encoded clips in shards, on a disk or in object storage: WebDataset's tar files, LitData's chunks.

    `dynvid pack` writes them, and the manifest that says which bytes of which shard are a clip; it writes a manifest of
    shards that others wrote, too. A clip is read by one request for its bytes and decoded as a file of its own would
    be, so frames, order, groups and resuming are those of the data that was packed. Nothing is copied to this machine.

    Splits are those of the manifest; where it has no validation split, some of train is kept back for it (`carve`).
    The clips of a shard that is not there count as missing.

    Args:
        root: Folder of the manifest, or its address.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        hflip: bool = True,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        super().__init__(
            root,
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            hflip=hflip,
            mixup=mixup,
            on_error=on_error,
            max_missing=max_missing,
            exclude=exclude,
            val_fraction=val_fraction,
            seed=seed,
            test_clips=test_clips,
            test_crops=test_crops,
            sampling=sampling,
            balanced=balanced,
            background=background,
        )

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order in which they were packed."""
        return self._manifest.class_names

    def listed(self, split: Split) -> list[Video]:
        """The clips of a split, in the order of the manifest."""
        if split == "train" and self.hflip and self._manifest.hflip is False:
            raise InputError(
                f"{printable(self.root)}: packed from data that are not mirrored, since labels may know left from "
                "right; set `hflip` to false"
            )
        label_of = {name: label for label, name in enumerate(self.class_names)}
        return [Video(path, label_of[clip.label], clip.group) for path, clip in self._clips() if clip.split == split]

    def digests(self) -> dict[str, str]:
        """Those of the manifest, if `dynvid pack` took them; what others said of their shards is not believed."""
        if not self._manifest.plan:
            return {}
        return {path: clip.sha256 for path, clip in self._clips() if _SHA256.fullmatch(clip.sha256)}

    def find(self, paths: Collection[str]) -> dict[str, str]:
        """Where listed clips are: exactly there, if their shard is.

        Raises:
            InputError: A shard is shorter than the manifest says.
        """
        sizes, found = self._once(self._sizes), dict[str, str]()
        for path in paths:
            member = member_of(path)
            assert member is not None
            if (size := sizes.get(member.shard)) is not None:
                if member.offset + member.length > size:
                    raise InputError(
                        f"{printable(member.shard)}: {size} bytes, fewer than the manifest says; copy or pack it again"
                    )
                found[path] = path
        return found

    def _clips(self) -> Iterator[tuple[str, Packed]]:
        """The clips of the manifest, with the paths as which they are listed."""
        place_of = {shard: inside(str(self.root), shard) for shard in {clip.shard for clip in self._manifest.clips}}
        for clip in self._manifest.clips:
            yield Member(place_of[clip.shard], clip.offset, clip.length, clip.path).path, clip

    def _sizes(self) -> dict[str, int]:
        """The bytes of each file of the folder and of those in it."""
        sizes: dict[str, int] = {}
        folders = [str(self.root)]
        for folder in folders:
            for entry in entries_once(folder, set()) or ():
                if not is_folder(entry):
                    sizes[inside(folder, entry.name)] = entry.stat().st_size
                elif folder == str(self.root):
                    folders.append(inside(folder, entry.name))
        return sizes

    @property
    def _to_correct(self) -> str:
        """What to correct where clips are missing."""
        return f"bring the shards back that {printable(self.root / MANIFEST)} names"

    @cached_property
    def _manifest(self) -> Manifest:
        name = inside(str(self.root), MANIFEST)
        content = read(name)
        if content is None and not self.root.exists():
            raise MissingFileError(f"{printable(self.root)} does not exist: set `root` to where the shards are")
        if content is None:
            raise MissingFileError(
                f"{printable(name)} does not exist: run `dynvid pack` to its end, or, for shards that others wrote, "
                f"`dynvid pack {printable(self.root)}`"
            )
        return read_manifest(content, name)
