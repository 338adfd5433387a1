"""Shards of whole encoded clips, as WebDataset and LitData lay them out: where in them each clip lies, and what it is.

A WebDataset shard is a tar file, in which `key.mp4`, `key.json` and `key.cls` are one sample. A LitData folder holds
`index.json` and chunks of items, whose leaves follow one another (as Arrow record batches where a newer LitData wrote
them). In either the bytes of a clip stand together, so that one request reads them. Only plain data is read: nothing
that a shard says can name code.
"""

import io
import json
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby, pairwise
from typing import Any, BinaryIO, NamedTuple

from dynvid.data.suffixes import VIDEO_SUFFIXES
from dynvid.errors import DynvidError, InputError
from dynvid.text import printable

_CLIP = VIDEO_SUFFIXES | {".video"}  # the latter for what had no such ending where it was packed
_TEXT = 2**20  # most bytes of a text in a shard
_MOST = 16 * _TEXT  # that are read at once of what is no clip
_ARROW = b"LDARW01\0"  # ends a chunk whose items are an Arrow file, of the length that stands in front of this
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError, OSError),
    *(tarfile.TarError, struct.error, DynvidError),
)
_LEAVES = {"bytes", "str", "int", "float", "bool"}  # of LitData's serializers, those that hold plain data


class Sample(NamedTuple):
    """A clip in a shard.

    Attributes:
        offset: Its first byte in the shard.
        length: Its bytes.
        name: What it is called there.
        fields: What is said of it: `label` or `class`, and perhaps `split`, `group`, `path`, `sha256`.
    """

    offset: int
    length: int
    name: str
    fields: dict[str, Any]


class Clip(NamedTuple):
    """A clip to be written: its encoded bytes, and what is said of it.

    Attributes:
        content: The file as it is.
        ending: Of its name, in lower case.
        label: Name of its class.
        number: Of its class.
        split: train, val or test.
        group: The recording; empty where the clip is its own.
        path: What it was called.
        sha256: Digest of `content`, in hexadecimal.
    """

    content: bytes
    ending: str
    label: str
    number: int
    split: str
    group: str
    path: str
    sha256: str

    @property
    def fields(self) -> dict[str, str | int]:
        """What is said of it, by the names that shards have for it."""
        said = {name: getattr(self, name) for name in ("label", "split", "group", "path", "sha256")}
        return {"class": self.number, **said}


class Layout(NamedTuple):
    """What a LitData folder says of its items.

    Attributes:
        files: Its chunks.
        names: Of the leaves.
        formats: Of the leaves, as LitData calls its serializers.
    """

    files: list[str]
    names: list[str]
    formats: list[str]


LAYOUT = Layout(
    files=[],
    names=["class", "label", "split", "group", "path", "sha256", "video"],
    formats=["int", *["str"] * 5, "bytes"],
)
"""Of the folders that are written here."""


def tar_of(clips: Iterable[Clip], first: int) -> bytes:
    """A WebDataset shard: of each clip `key.json`, `key.cls` (the number of its class), then the clip.

    Args:
        clips: In their order.
        first: Number of the first; keys count from it.
    """
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, clip in enumerate(clips, first):
            ending = clip.ending if clip.ending in _CLIP else ".video"
            for name, content in (
                (".json", json.dumps(clip.fields).encode()),
                (".cls", str(clip.number).encode()),
                (ending, clip.content),
            ):
                member = tarfile.TarInfo(f"{number:09d}{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def samples_of_tar(file: BinaryIO, name: str) -> Iterator[Sample]:
    """The samples of a WebDataset shard, by its headers.

    Args:
        file: The shard; of its clips nothing is read.
        name: What errors call it.

    Raises:
        InputError: It is no tar file, or a sample holds several videos.
    """
    with _plain(name), tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:  # type: ignore[call-overload]
        for key, members in groupby(_members(tar), lambda each: each[0]):
            found, fields = [], dict[str, Any]()
            for _, ending, member in members:
                if ending in _CLIP:
                    found.append(member)
                elif ending == ".json":
                    fields |= _object(_text_in(tar, member))
                elif ending == ".cls":
                    fields.setdefault("class", _text_in(tar, member).strip())
            if len(found) > 1:
                raise InputError(f"{printable(key)} holds {len(found)} videos; one clip a sample")
            for member in found:
                yield Sample(member.offset_data, member.size, member.name, fields)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """The files of a tar file, with the keys of their samples and their endings in lower case."""
    while member := tar.next():
        tar.members = []  # type: ignore[attr-defined]  # which would keep all of them
        folder, _, base = member.name.rpartition("/")
        stem, _, endings = base.partition(".")
        if member.isreg() and not member.issparse() and stem:
            yield f"{folder}/{stem}", f".{endings.rpartition('.')[2].lower()}", member


def _text_in(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    if member.size > _TEXT or file is None:
        raise InputError(f"{member.name} holds {member.size} bytes, too many for what is said of a clip")
    return file.read().decode()


def chunk_of(clips: Sequence[Clip]) -> bytes:
    """A LitData chunk, as every LitData reads it: the number of items, their offsets, the items.

    An item is the sizes of its leaves, then the leaves: those of `LAYOUT`, the clip last.

    Raises:
        InputError: It is larger than its offsets of four bytes can say.
    """
    items = []
    for clip in clips:
        leaves = [struct.pack("<q", v) if isinstance(v, int) else v.encode() for v in clip.fields.values()]
        sizes = [len(leaf) for leaf in (*leaves, clip.content)]
        items.append(b"".join([struct.pack(f"<{len(sizes)}I", *sizes), *leaves, clip.content]))
    starts = list(accumulate(map(len, items), initial=4 * (len(items) + 2)))
    if starts[-1] >= 2**32:
        raise InputError(f"a LitData chunk of {starts[-1]} bytes: it holds less than 4 GiB; take the format webdataset")
    return b"".join([struct.pack(f"<{len(items) + 2}I", len(items), *starts), *items])


def index_of_chunks(chunks: Sequence[tuple[str, int, int]]) -> bytes:
    """The `index.json` of a LitData folder with such items.

    Args:
        chunks: File, items and bytes of each.
    """
    names = LAYOUT.names
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    spec = {"type": "builtins.dict", "context": json.dumps(names), "children_spec": [leaf] * len(names)}
    config = {
        "chunk_bytes": None,
        "chunk_size": max((items for _, items, _ in chunks), default=1),
        "compression": None,
        "data_format": LAYOUT.formats,
        "data_spec": json.dumps([1, spec]),
        "encryption": None,
        "item_loader": "PyTreeLoader",
    }
    listed = [
        {"chunk_bytes": size - 4 * (items + 2), "chunk_size": items, "dim": None, "filename": file}
        for file, items, size in chunks
    ]
    return json.dumps({"chunks": listed, "config": config, "updated_at": "0"}).encode()


def read_layout(content: bytes, name: str) -> Layout:
    """Read the `index.json` of a LitData folder.

    Args:
        content: What it holds.
        name: What errors call it.

    Raises:
        InputError: Its items are no plain data, compressed or encrypted, or it is no such file.
    """
    with _plain(name):
        index = json.loads(content)
        config = index["config"]
        for key, fits, meant in (
            ("compression", config.get("compression") is None and not config.get("ipc_compression"), "no compression"),
            ("encryption", config.get("encryption") is None, "no encryption"),
            ("item_loader", config.get("item_loader") in (None, "PyTreeLoader"), "PyTreeLoader"),
            ("data_format", {*config["data_format"]} <= _LEAVES, f"of {', '.join(sorted(_LEAVES))} only"),
            ("data_format", config["data_format"].count("bytes") == 1, "with one clip, as bytes"),
        ):
            if not fits:
                said = printable(config.get(key))
                raise InputError(f"{key} {said:.200}: shards of clips are read, {meant}")
        spec = json.loads(config["data_spec"])[1]
        names = json.loads(spec["context"]) if spec["type"] == "builtins.dict" else None
        files = [chunk["filename"] for chunk in index["chunks"]]
        if not isinstance(names, list) or len(names) != len(config["data_format"]) or not all(map(_is_name, files)):
            raise InputError("its items are no flat dictionaries of a clip and what is said of it")
        return Layout(files, [str(each) for each in names], config["data_format"])


def samples_of_chunk(file: BinaryIO, layout: Layout, name: str) -> Iterator[Sample]:
    """The items of a LitData chunk; where they are Arrow record batches, it is read through.

    Args:
        file: The chunk.
        layout: What its folder says of it.
        name: What errors call it.

    Raises:
        InputError: It is no such chunk.
    """
    with _plain(name):
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        (count,) = struct.unpack("<I", file.read(4))
        if 4 * (count + 2) > size:
            raise InputError("it is cut short")
        starts = struct.unpack(f"<{count + 1}I", _read(file, 4 * (count + 1)))
        file.seek(max(size - 12, 0))
        length, mark = struct.unpack("<I8s", file.read(12))
        if mark == _ARROW and length > size - 12:
            raise InputError("its Arrow file is longer than it")
        if mark == _ARROW:
            yield from _samples_of_arrow(file, size - 12 - length, length, layout)
            return
        if any(start > end for start, end in zip(starts, (*starts[1:], size), strict=True)):
            raise InputError("its items are not one after the other")
        for number, (start, end) in enumerate(pairwise(starts)):
            file.seek(start)
            head = 4 * len(layout.formats)
            sizes = struct.unpack(f"<{len(layout.formats)}I", _read(file, head))
            if head + sum(sizes) != end - start:
                raise InputError(f"item {number} is not as long as its parts")
            fields, place, clip = dict[str, Any](), start + head, (0, 0)
            for leaf, kind, length in zip(layout.names, layout.formats, sizes, strict=True):
                if kind == "bytes":
                    clip = place, length
                elif kind in ("str", "int"):
                    file.seek(place)
                    content = _read(file, length)
                    fields[leaf] = content.decode() if kind == "str" else struct.unpack("<q", content)[0]
                place += length
            yield Sample(*clip, str(fields.get("path", number)), fields)


def _samples_of_arrow(file: BinaryIO, start: int, length: int, layout: Layout) -> Iterator[Sample]:
    import numpy as np
    import pyarrow as pa

    file.seek(start)
    content = pa.py_buffer(file.read(length))
    clip = layout.names[layout.formats.index("bytes")]
    said = [name for name, kind in zip(layout.names, layout.formats, strict=True) if kind in ("str", "int")]
    reader, number = pa.ipc.open_file(content), 0
    for k in range(reader.num_record_batches):
        batch = reader.get_batch(k)
        batch.validate(full=True)  # offsets of a stranger's file are taken for true otherwise
        column = batch[clip]
        kind = {pa.binary(): np.int32, pa.large_binary(): np.int64}[column.type]
        _, offsets, values = column.buffers()
        bounds = np.frombuffer(offsets, kind)[column.offset :][: len(column) + 1].tolist()
        before = values.address - content.address if values else 0
        for (first, last), fields in zip(pairwise(bounds), map(_said, batch.select(said).to_pylist()), strict=True):
            if before < 0 or before + last > len(content):
                raise InputError("its record batches are compressed")
            yield Sample(start + before + first, last - first, str(fields.get("path", number)), fields)
            number += 1


def _is_name(file: object) -> bool:
    return isinstance(file, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", file) is not None


def _object(text: str) -> dict[str, Any]:
    content = json.loads(text)
    return _said(content) if isinstance(content, dict) else {}


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, which says nothing."""
    return {name: value for name, value in fields.items() if value is not None}


def _read(file: BinaryIO, size: int) -> bytes:
    content = file.read(size) if size <= _MOST else b""
    if len(content) < size:
        raise InputError("it is cut short" if size <= _MOST else f"{size} bytes are too many for what is no clip")
    return content


class _Bounded:
    """A file of which little is read at once: headers of tar files may ask for any number of bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST:
            raise InputError(f"{size} bytes are too many for what is no clip")
        return self._file.read(size)


@contextmanager
def _plain(name: str) -> Iterator[None]:
    """Whatever a damaged or hostile shard makes its reader say is an error of one line that names it."""
    try:
        yield
    except _DAMAGE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{printable(name)}: no shard of clips that can be read ({printable(said)})") from error
