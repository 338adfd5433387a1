"""Write the videos of a data set into shards, and find what lies in shards that others wrote."""

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple, cast, get_args

from dynvid.data.address import Place, place_at
from dynvid.data.datamodule import VideoDataModule
from dynvid.data.dataset import Split, Video
from dynvid.data.files import check_names, csv_line, parse_rows, quoted, read_lines
from dynvid.data.folders import SPLITS
from dynvid.data.manifest import MANIFEST, Manifest, Packed, is_shard_name, read_manifest
from dynvid.data.members import member_of, size_of, source_of
from dynvid.data.reading.container import check_regular
from dynvid.data.shards import (
    LAYOUT,
    Clip,
    Sample,
    chunk_of,
    index_of_chunks,
    read_layout,
    samples_of_chunk,
    samples_of_tar,
    tar_of,
)
from dynvid.data.store import RemoteFile, Store, inside, store_at
from dynvid.data.video import video_in
from dynvid.errors import InputError, MissingFileError, VideoError
from dynvid.text import printable

Format = Literal["webdataset", "litdata"]
_BEGUN = "begun.txt"
_UNREADABLE = "unreadable.csv"
_CLASSES = "classes.txt"
_HEADERS = 2**16  # bytes that are asked for at once where only headers are read


class Shard(NamedTuple):
    """A shard that is to be written.

    Attributes:
        name: Its name in the folder.
        first: Number of its first video in the split.
        videos: What goes into it.
    """

    name: str
    first: int
    videos: list[Video]


class Counts(NamedTuple):
    """What was packed of a split."""

    packed: int
    shards: int
    missing: int
    unreadable: int


def pack(
    data: VideoDataModule,
    out: str | Path,
    format: Format = "webdataset",
    shard_size: int = 256 * 10**6,
    done: Callable[[int, int], object] = lambda shards, of: None,
) -> dict[Split, Counts]:
    """Write the videos of a data module into shards of whole encoded files, and a manifest of them.

    The same call takes up what was stopped: shards that are there stay, and a shard is there whole or not at all. The
    splits are those of the data module, what it keeps back to validate on included; what it leaves out is left out.

    Args:
        data: Whose videos to pack. With `on_error="skip"` those that cannot be read are listed in `unreadable.csv`;
            nothing is decoded to see it, which is what `dynvid check` is for.
        out: A folder, or an address such as `s3://bucket/packed`.
        format: `webdataset`, tar files; or `litdata`, a folder of chunks per split.
        shard_size: Bytes of a shard; one that is larger holds a single video. About three times as much memory is
            taken.
        done: Told how many of the shards are there, and of how many.

    Returns:
        What was packed, by split.

    Raises:
        InputError: Other videos were begun there, or it cannot be written.
        VideoError: A video cannot be read, and `on_error` is "raise"; or it is a folder of frames.
        FileNotFoundError: More videos are missing than `max_missing` allows.
    """
    most = 2**32 - 1 if format == "litdata" else 2**40
    for name, value, fits, meant in (
        ("format", format, format in get_args(Format), " or ".join(get_args(Format))),
        ("shard_size", shard_size, 1 <= shard_size <= most, f"from 1 byte to {most}"),
    ):
        if not fits:
            raise InputError(f"{name}={printable(value)}: {meant}")
    if data.multi_label:
        raise InputError("sets of labels (`multi_label`) are not packed: train from the files, which may be in a store")
    data.prepare_data()
    videos = {split: data.videos(split) for split in get_args(Split)}
    shards = {split: _cut(listed, split, format, shard_size) for split, listed in videos.items()}
    plan = _plan(shards, data)
    store = store_at(out)
    try:
        _begin(store, plan, data.class_names)
        unreadable, clips, counts, number = _unreadable(store), list[Packed](), dict[Split, Counts](), 0
        for split, of_split in shards.items():
            if missing := data.missing[split]:
                store.write(f"missing_{split}.txt", "".join(f"{printable(name)}\n" for name in missing).encode())
            chunks, before = list[tuple[str, int, int]](), len(clips)
            for shard in of_split:
                size, found = _written(store, shard, split, data, unreadable)
                clips += found
                chunks += [(PurePosixPath(shard.name).name, len(found), size)] if found else []
                number += 1
                done(number, sum(map(len, shards.values())))
            if format == "litdata" and chunks:
                store.write(f"{split}/index.json", index_of_chunks(chunks))
            listed, packed = sum(len(shard.videos) for shard in of_split), len(clips) - before
            counts[split] = Counts(packed, len(of_split), len(missing), listed - packed)
        store.write(MANIFEST, Manifest(clips, data.class_names, data.hflip, plan).to_bytes())
        store.remove(_BEGUN)
        return counts
    finally:
        store.close()


def index_shards(folder: str | Path) -> dict[Split, Counts]:
    """Write the manifest of shards that others wrote, by one look at their headers.

    These are the tar files of a folder and of those in it, and LitData folders likewise; the name of a file or folder
    says the split (`train-000000.tar`, `val/chunk-0-0.bin`). What is said of a clip is `label` or `class`, and perhaps
    `split`, `group` and `path`: in its `.json` or `.cls`, or in the leaves of a LitData item. Where classes are
    numbers, `classes.txt` may give their names, one a line.

    Args:
        folder: The folder, or its address.

    Returns:
        What was found, by split.

    Raises:
        InputError: A shard cannot be read, a split or class is not said, or there is a manifest already.
        FileNotFoundError: There are no shards.
    """
    root = place_at(folder)
    if not root.is_dir():
        raise MissingFileError(f"{printable(root)}: no folder of shards; to write some, say with --config of what")
    for name, meant in ((MANIFEST, "remove it to look again"), (_BEGUN, "run the same `dynvid pack` to its end")):
        if (root / name).exists():
            raise InputError(f"{printable(root / name)}: is there already; {meant}")
    file = root / _CLASSES
    names = check_names(file, read_lines(file, "")) if file.exists() else []
    clips, shards = list[Packed](), Counter[Split]()
    for shard, samples in _shards_in(root):
        said = shard.partition("/")[0] if "/" in shard else re.split("[^A-Za-z]", shard)[0]
        of_shard = [_packed(sample, shard, said, names) for sample in samples]
        shards.update({clip.split for clip in of_shard})
        clips += of_shard
    if not clips:
        raise MissingFileError(f"{printable(root)}: no shards of clips (*.tar, or index.json and its chunks)")
    found = {clip.label for clip in clips}
    class_names = names or sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    store = store_at(folder)
    try:
        store.write(MANIFEST, Manifest(clips, class_names).to_bytes())
    finally:
        store.close()
    packed = Counter(clip.split for clip in clips)
    return {split: Counts(packed[split], shards[split], 0, 0) for split in get_args(Split)}


def _cut(videos: Sequence[Video], split: Split, format: Format, shard_size: int) -> list[Shard]:
    """Cut a list into shards by the sizes of its files."""
    with ThreadPoolExecutor(16) as pool:  # in object storage, a size is a request
        sizes = list(pool.map(size_of, (video.path for video in videos)))
    shards, room = list[Shard](), 0
    for number, (video, size) in enumerate(zip(videos, sizes, strict=True)):
        if not shards or size > room:
            count = len(shards)
            name = f"{split}-{count:06d}.tar" if format == "webdataset" else f"{split}/chunk-0-{count}.bin"
            shards.append(Shard(name, number, []))
            room = shard_size
        shards[-1].videos.append(video)
        room -= size
    return shards


def _plan(shards: dict[Split, list[Shard]], data: VideoDataModule) -> str:
    """A digest of what is to be packed, and how."""
    plan = hashlib.sha256(json.dumps([data.class_names, data.hflip]).encode())
    for of_split in shards.values():
        for name, first, videos in of_split:
            listed = [(_name(video.path, data.root), video.label, video.group) for video in videos]
            plan.update(json.dumps([name, first, listed]).encode())
    return plan.hexdigest()


def _begin(store: Store, plan: str, class_names: Sequence[str]) -> None:
    """Hold the folder against what was begun there.

    Raises:
        InputError: That was something else.
    """
    begun, manifest = store.read(_BEGUN), store.read(MANIFEST)
    same = begun is None or begun == plan.encode()
    if not same or (manifest is not None and read_manifest(manifest, MANIFEST).plan != plan):
        raise InputError(
            f"{store.name}: was begun with other videos or settings; bring those back, or name another folder"
        )
    if begun is None and manifest is None and {*store.names()} - {".lock"}:
        raise InputError(f"{store.name}: holds other files already; name a new folder")
    store.write(_BEGUN, plan.encode())
    store.write(_CLASSES, "".join(f"{name}\n" for name in class_names).encode())


def _unreadable(store: Store) -> dict[str, str]:
    """What could not be read so far, and why."""
    content = (store.read(_UNREADABLE) or b"path,reason\n").decode(errors="surrogateescape")
    rows = parse_rows(content, Path(_UNREADABLE), ["path", "reason"], "remove it", exact=True)
    return {row["path"]: row["reason"] for _, row in rows}


def _written(
    store: Store, shard: Shard, split: Split, data: VideoDataModule, unreadable: dict[str, str]
) -> tuple[int, list[Packed]]:
    """Write a shard, if it is not there; its bytes and its clips."""
    is_tar, path, file = shard.name.endswith(".tar"), inside(store.name, shard.name), None
    if (place_at(store.name) / shard.name).exists():
        file = _headers(path)
    else:
        clips, before = list[Clip](), len(unreadable)
        for video in shard.videos:
            try:
                clips.append(_clip(video, split, data))
            except VideoError as error:
                if data.on_error == "raise":
                    raise
                unreadable[video.path] = str(error)
        if len(unreadable) > before:
            rows = [("path", "reason"), *unreadable.items()]
            store.write(_UNREADABLE, "".join(map(csv_line, rows)).encode(errors="surrogateescape"))
        content = tar_of(clips, shard.first) if is_tar else chunk_of(clips)
        store.write(shard.name, content)
        file = io.BytesIO(content)
    samples = samples_of_tar(file, path) if is_tar else samples_of_chunk(file, LAYOUT, path)
    packed = [_packed(sample, shard.name, split, data.class_names) for sample in samples]
    return file.seek(0, io.SEEK_END), packed


def _clip(video: Video, split: Split, data: VideoDataModule) -> Clip:
    assert isinstance(video.label, int)
    content = _content(video.path)
    return Clip(
        content,
        PurePosixPath(video.path).suffix.lower(),
        data.class_names[video.label],
        video.label,
        split,
        video.group,
        _name(video.path, data.root),
        hashlib.sha256(content).hexdigest(),
    )


def _content(path: str) -> bytes:
    """The bytes of a video file.

    Raises:
        VideoError: It cannot be read, or is a folder of frames.
    """
    source = source_of(path)
    try:
        if not isinstance(source, str):
            return source.read()
        file = video_in(source)
        if os.path.isdir(file):
            raise VideoError(f"{path}: a folder of frames, which is not packed; encode it as a video, or leave it out")
        check_regular(file, path)
        return Path(file).read_bytes()
    except (OSError, InputError) as error:
        raise VideoError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _name(path: str, root: Place) -> str:
    """What a clip is called once it is packed: its path from the root, or its last three parts if that has fewer."""
    if member := member_of(path):
        return member.name
    place, parts = place_at(path), place_at(path).parts
    below = parts[len(root.parts) :] if parts[: len(root.parts)] == root.parts else ()
    name = "/".join(below if len(below) > 2 else place.parts[-3:])
    return name.encode("utf-8", "backslashreplace").decode()


def _packed(sample: Sample, shard: str, split: str, names: Sequence[str]) -> Packed:
    """A sample as a row of the manifest.

    Raises:
        InputError: Its class or split is not said.
    """
    said = sample.fields
    known = SPLITS.get(str(said.get("split", split)).lower())
    if known is None:
        raise InputError(f"{printable(shard)}: no split is said; call the shards train-..., val-... and test-...")
    where = f"{printable(shard)}, {printable(sample.name)}"
    key = "label" if "label" in said else "class"
    value = said.get(key, "")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} {quoted(str(value))} is neither a text nor a whole number")
    label = str(value)
    # What is called a class is a number, as in `.cls`, even where names look like numbers; a label is a name.
    if (key == "class" or label not in names) and label.isdecimal() and int(label) < len(names):
        label = names[int(label)]
    if not label or (names and label not in names):
        raise InputError(f"{where}: {f'class {quoted(label)} is not in {_CLASSES}' if label else 'no class is said'}")
    path, group, digest = (str(said.get(key, "")) for key in ("path", "group", "sha256"))
    return Packed(shard, sample.offset, sample.length, digest, label, known, group, path or sample.name)


def _shards_in(root: Place) -> Iterator[tuple[str, Iterator[Sample]]]:
    """The shards of a folder and of those in it, by their names, each with its samples."""
    folders = [place for place in root.iterdir() if place.is_dir()]
    for before, folder in [("", root), *((f"{place.name}/", place) for place in sorted(folders, key=str))]:
        names = sorted(place.name for place in folder.iterdir())
        layout = folder / "index.json"
        if "index.json" in names:
            found = read_layout(layout.read_bytes(), str(layout))
            for name in found.files:
                path = str(folder / name)
                yield before + name, samples_of_chunk(_headers(path), found, path)
        for name in names:
            if name.endswith(".tar"):
                if not is_shard_name(before + name):
                    raise InputError(f"{printable(folder / name)}: rename it, to letters, digits and ._@+- only")
                yield before + name, samples_of_tar(_headers(str(folder / name)), str(folder / name))


def _headers(path: str) -> BinaryIO:
    """A shard of which little is read."""
    return cast(BinaryIO, RemoteFile(path, block=_HEADERS))
