"""The manifest of a folder of shards: which bytes of which shard are a clip, and what it is."""

import io
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from dynvid.data.dataset import Split
from dynvid.errors import InputError
from dynvid.text import printable

MANIFEST = "manifest.parquet"
"""What it is called in its folder."""

_VERSION = 1
_MOST_CLIPS = 100_000_000
_SHARD = re.compile(r"(?:[\w.@+ -]+/)*[\w.@+ -]+", re.ASCII)


class Packed(NamedTuple):
    """A clip in a shard.

    Attributes:
        shard: The shard's name, from the manifest's folder.
        offset: First byte of the clip there.
        length: Bytes of the clip.
        sha256: Digest of these bytes, in hexadecimal; empty where nobody took it.
        label: Name of the class.
        split: train, val or test.
        group: The recording; empty where the clip is its own.
        path: What it was called where it was packed.
    """

    shard: str
    offset: int
    length: int
    sha256: str
    label: str
    split: Split
    group: str
    path: str


class Manifest(NamedTuple):
    """What a folder of shards holds.

    Attributes:
        clips: In their order.
        class_names: In the order of the labels.
        hflip: Whether the clips may be mirrored; None where nobody said.
        plan: Digest of what was to be packed; empty for shards that others wrote.
    """

    clips: list[Packed]
    class_names: list[str]
    hflip: bool | None = None
    plan: str = ""

    def to_bytes(self) -> bytes:
        """As a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        said = {"version": _VERSION, "class_names": self.class_names, "hflip": self.hflip, "plan": self.plan}
        schema = pa.schema(_columns(), metadata={"dynvid": json.dumps(said)})
        columns = [pa.array([getattr(clip, name) for clip in self.clips], kind) for name, kind in _columns()]
        table = pa.table(columns, schema)
        file = io.BytesIO()
        pq.write_table(table, file)
        return file.getvalue()


def read_manifest(content: bytes, name: str) -> Manifest:
    """Read a manifest; everything in it is checked, but for the sizes of the shards.

    Args:
        content: What the file holds.
        name: What errors call it.

    Raises:
        InputError: It is none, or names what is not below its folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > _MOST_CLIPS:
            raise InputError(f"{file.metadata.num_rows} clips, more than {_MOST_CLIPS}")
        if [(field.name, field.type) for field in file.schema_arrow] != _columns():
            raise InputError("other columns")
        said = json.loads(file.schema_arrow.metadata[b"dynvid"])
        if said["version"] != _VERSION:
            raise InputError(f"version {said['version']!r:.20} of manifests, this dynvid reads {_VERSION}")
        table = file.read()
        table.validate(full=True)
        clips = [Packed(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
        class_names, hflip, plan = said["class_names"], said["hflip"], said["plan"]
        if not _are_names(class_names) or hflip not in (True, False, None) or not isinstance(plan, str):
            raise InputError("its class names are no names")
        _check(clips, set(class_names))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{printable(name)}: no manifest of shards ({printable(said)}); pack again") from error
    return Manifest(clips, class_names, hflip, plan)


def _columns() -> list[tuple[str, Any]]:
    import pyarrow as pa

    kinds = {"offset": pa.int64(), "length": pa.int64()}
    return [(name, kinds.get(name, pa.string())) for name in Packed._fields]


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(n, str) and n for n in names) and len({*names}) == len(names) > 0


def _check(clips: Sequence[Packed], class_names: set[str]) -> None:
    """Refuse clips that are no part of a file below the manifest's folder."""
    for shard in {clip.shard for clip in clips}:
        if not is_shard_name(shard):
            raise InputError(f"{shard!r:.80} is no name of a shard")
    splits = get_args(Split)
    for clip in clips:
        if None in clip or not (0 <= clip.offset < 10**15 and 0 <= clip.length < 10**15):
            raise InputError(f"{clip.path!r:.80}: no part of a shard")
        if clip.label not in class_names or clip.split not in splits:
            raise InputError(f"{clip.path!r:.80}: class {clip.label!r:.80} or split {clip.split!r:.80} is not known")


def is_shard_name(name: str) -> bool:
    """Whether a name leads to no other place than below a folder.

    >>> is_shard_name("train/chunk-0-0.bin"), is_shard_name("../a.tar"), is_shard_name("/a.tar")
    (True, False, False)
    """
    return _SHARD.fullmatch(name) is not None and not {".", ".."} & {*name.split("/")}
