"""The results of very many videos: Parquet parts, and a manifest that alone says which of them count.

A part is written under a temporary name, synced, renamed and its folder synced; only then is the manifest written, in
the same way, that names it. So whatever stops the process, a power cut too, the manifest names whole parts only, each
video is in one of them at most, and what is in none is done again.

The columns of a part, one row per video:

| column | type | |
|---|---|---|
| `key` | uint64 | of the path's bytes, see `dynvid.inference.bulk.keys.key_of`; resuming goes by it |
| `path` | string | absolute, or an address; bytes that are no UTF-8 are escaped, such as `caf\\udce9` |
| `label` | string | name of the class, or its number where classes have no names; of a set, names joined with `;` |
| `probability` | double | of that class |
| `frames`, `depth` | int32 | the exit taken |
| `gmacs` | double | spent on the video |
| `saved` | double | share of full inference's GMACs that was not spent |
| `milliseconds` | double | from asking for the video to the answer, waiting in the batch included |
| `error` | string | why it could not be read; all others from `label` on are null then, and this one is null else |
| `answered` | bool | whether the label is an answer, or only the best guess; parts of older versions lack it |
"""

import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import dynvid
from dynvid import strict_json
from dynvid.data.store import Store, inside, read, store_at
from dynvid.errors import InputError, MissingFileError
from dynvid.inference.bulk.keys import Keys, key_of
from dynvid.inference.bulk.rows import Row, Totals

MANIFEST = "manifest.json"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("frames", pa.int32()),
        ("depth", pa.int32()),
        ("gmacs", pa.float64()),
        ("saved", pa.float64()),
        ("milliseconds", pa.float64()),
        ("error", pa.string()),
        ("answered", pa.bool_()),
    ]
)
_VERSION = 1
_PART = re.compile(r"part-[0-9]{6,}\.parquet")


class Results:
    """The results in a folder or in object storage: those of earlier runs, and those that are added.

    Args:
        out: The folder, or an address such as `s3://bucket/results`.
        identity: What the results are results of, as plain data, one value per name; results of another are refused.
            Where the precision in its `settings` is `auto`, it is what the results there were made in.
        part_rows: Rows of a full part.
        part_seconds: Seconds after which a part is written although it is not full.
        retry_errors: Withdraw the rows of videos that could not be read, so that these are done again.
        written: Called with the keys of the rows that a part has just made durable.

    Attributes:
        store: Where they lie.
        identity: What they are results of.
        totals: Over all rows, those that are not in a part yet included.
        audit: What the audit says so far, for the manifest; None without one.

    Raises:
        InputError: Another process writes there, the results are of something else, or they are damaged.
    """

    def __init__(
        self,
        out: str | Path,
        identity: dict[str, Any],
        part_rows: int = 10_000,
        part_seconds: float = 60.0,
        retry_errors: bool = False,
        written: Callable[[list[int]], None] = lambda keys: None,
    ) -> None:
        self.store: Store = store_at(out)
        self.written = written
        self.identity, self._part_rows, self._part_seconds = identity, part_rows, part_seconds
        self._keys, self.totals = Keys(), Totals()
        self.audit: dict[str, Any] | None = None
        self._rows: list[Row] = []
        self._parts: list[dict[str, Any]] = []
        self._finished = False
        self._next = 0  # the number of the next part
        self._doubtful: dict[str, Any] | None = None  # a part of which it is not known whether the manifest names it
        self._begun = time.monotonic()
        try:
            self._resume(retry_errors)
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.commit()
        finally:
            self.store.close()

    def take(self, path: str) -> bool:
        """Whether a video is neither done nor taken before; it is taken then, and the results are finished no more.

        Raises:
            InputError: The manifest, which says so, cannot be written.
        """
        is_new = self._keys.add(key_of(path))
        if is_new and self._finished:
            self._write_manifest(self._parts, finished=False)
        return is_new

    def add(self, row: Row) -> None:
        """Take in a row of a video that was taken; a part is written when it is full, or due.

        Raises:
            InputError: It cannot be written; the parts before stay.
        """
        self._rows.append(row)
        self.totals.add(row)
        if len(self._rows) >= self._part_rows or time.monotonic() - self._begun >= self._part_seconds:
            self.commit()

    def commit(self) -> None:
        """Make all rows so far durable.

        Raises:
            InputError: They cannot be written; the parts before stay.
        """
        self._begun = time.monotonic()
        self._settle()
        if not self._rows:
            return
        keys = [key_of(row.path) for row in self._rows]
        name = _name_of(self._next)
        self.store.write(name, _parquet(self._rows, keys))
        sums = Totals()
        for row in self._rows:
            sums.add(row)
        part = {"file": name, "rows": sums.videos, "gmacs": sums.gmacs, "saved": sums.saved, "errors": sums.errors}
        # A name is never given twice: the manifest may have it by now.
        self._doubtful, self._next = part, self._next + 1
        self._write_manifest([*self._parts, part], finished=False)
        self._count_in(part)
        self.written(keys)

    def finish(self) -> None:
        """Make all rows durable, and say in the manifest that no video is left."""
        self.commit()
        self._write_manifest(self._parts, finished=True)

    def _settle(self) -> None:
        """Look whether a part counts whose manifest failed to be written, or was interrupted."""
        if self._doubtful is not None:
            manifest = _manifest(self.store.name, self.store.read(MANIFEST))
            if manifest is not None and self._doubtful in manifest["parts"]:
                self._count_in(self._doubtful)
            self._doubtful = None

    def _count_in(self, part: dict[str, Any]) -> None:
        """The manifest names a part of the first rows: all at once, since an interrupt may come between two lines."""
        self._parts, self._rows, self._doubtful = [*self._parts, part], self._rows[part["rows"] :], None

    def _write_manifest(self, parts: list[dict[str, Any]], finished: bool) -> None:
        said = {
            "dynvid_results": _VERSION,
            "dynvid": dynvid.__version__,
            **self.identity,
            "finished": finished,
            "audit": self.audit,
            "parts": parts,
        }
        self.store.write(MANIFEST, (strict_json.dumps(said, indent=1) + "\n").encode())
        self._finished = finished

    def _resume(self, retry_errors: bool) -> None:
        name = self.store.name
        manifest = _manifest(name, self.store.read(MANIFEST))
        there = sorted(each for each in self.store.names() if _PART.fullmatch(each))
        if manifest is None and there:
            raise InputError(f"{name}: holds {there[0]} but no {MANIFEST}; take another folder")
        named = [part["file"] for part in manifest["parts"]] if manifest else []
        self._next = 1 + max(map(_number_of, [*there, *named]), default=-1)
        if manifest is None or not named:
            self._write_manifest([], finished=False)
            return
        settings, made = self.identity.get("settings", {}), manifest.get("settings")
        if settings.get("precision") == "auto" and isinstance(made, dict):
            self.identity = self.identity | {"settings": settings | {"precision": made.get("precision")}}
        _refuse_another(name, manifest, json.loads(strict_json.dumps(self.identity)))
        self._parts, self.audit, self._finished = manifest["parts"], manifest["audit"], manifest["finished"]
        if retry_errors and any(part["errors"] for part in self._parts):
            self._withdraw_errors()
        for part in self._parts:
            self._count(part)
        for each in {*there} - {part["file"] for part in self._parts}:
            self.store.remove(each)  # written, but stopped before the manifest could name it

    def _withdraw_errors(self) -> None:
        """Write the parts with errors anew, less these and under new names; then the manifest names those instead."""
        parts = []
        for part in self._parts:
            if part["errors"]:
                table = self._table(part, None)
                table = table.filter(table["error"].is_null())
                name, self._next = _name_of(self._next), self._next + 1
                part = part | {"file": name, "rows": len(table), "errors": {}}
                if not len(table):
                    continue
                self.store.write(name, _written(table))
            parts.append(part)
        parts.sort(key=lambda part: _number_of(part["file"]))
        self._write_manifest(parts, finished=False)
        self._parts = parts

    def _count(self, part: dict[str, Any]) -> None:
        """Take in a part of an earlier run."""
        self._table(part, ["key"], count=True)
        self.totals.include(Totals(part["rows"], part["gmacs"], part["saved"], Counter(part["errors"])))

    def _table(self, part: dict[str, Any], columns: list[str] | None, count: bool = False) -> pa.Table:
        """Columns of a part that the manifest names, or all; to count it takes in its keys, which must be new."""
        name = inside(self.store.name, part["file"])
        content = self.store.read(part["file"])
        try:
            if content is None:
                raise InputError("it is gone")
            table = pq.read_table(pa.BufferReader(content), columns=columns)
            if len(table) != part["rows"] or (count and self._keys.update(table["key"].to_numpy()) != len(table)):
                raise InputError("it holds other rows")
        except (InputError, pa.ArrowException, OSError, KeyError) as error:
            raise InputError(
                f"{name}: counted by {MANIFEST}, but cannot be read ({' '.join(str(error).split())}); "
                "bring it back, or take another folder"
            ) from error
        return table


def parts_of(out: str | Path) -> list[str]:
    """The Parquet files of a results folder that count, for whatever reads Parquet.

    Args:
        out: The folder, or an address such as `s3://bucket/results`; another process may be writing there.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: The manifest is damaged.

    Example:
        >>> import tempfile, pyarrow.parquet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Results(folder, {"model": "a"}) as results:
        ...         results.add(Row("/a.mp4", "swim", 0.9, 4, 2, 1.5, 0.6, 12.0))
        ...     [part] = parts_of(folder)
        ...     pyarrow.parquet.read_table(part)["label"].to_pylist()
        ['swim']
    """
    out = str(out)
    manifest = _manifest(out, read(inside(out, MANIFEST)))
    if manifest is None:
        raise MissingFileError(f"{out}: no results are there ({MANIFEST} is missing)")
    return [inside(out, part["file"]) for part in manifest["parts"]]


def _manifest(name: str, content: bytes | None) -> dict[str, Any] | None:
    """Read and check a manifest; None where there is none."""
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        if manifest["dynvid_results"] != _VERSION:
            raise InputError(f"version {manifest['dynvid_results']!r}, {_VERSION} is known")
        if not isinstance(manifest["finished"], bool):
            raise InputError(f"finished is {manifest['finished']!r}")
        if manifest["audit"] is not None and not isinstance(manifest["audit"]["said"], str):
            raise InputError("audit is no audit")
        last = -1
        for part in manifest["parts"]:
            if not _PART.fullmatch(part["file"]) or _number_of(part["file"]) <= last:
                raise InputError(f"a part is called {part['file']!r}")
            last = _number_of(part["file"])
            Totals(int(part["rows"]), float(part["gmacs"]), float(part["saved"]), Counter(part["errors"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{inside(name, MANIFEST)}: no manifest of results ({error}); take another folder") from error
    found: dict[str, Any] = manifest
    return found


def _name_of(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _number_of(name: str) -> int:
    return int(name[len("part-") : -len(".parquet")])


def _refuse_another(name: str, manifest: dict[str, Any], identity: dict[str, Any]) -> None:
    for what, value in identity.items():
        there = manifest.get(what)
        if there != value:
            other = "another model" if what == "model" else f"other {what}"
            raise InputError(f"{name}: holds results of {other}: {_difference(there, value)}; take another folder")


def _difference(there: Any, value: Any) -> str:
    """What differs, named; of two lists or dictionaries the first entry that does."""
    if isinstance(there, dict) and isinstance(value, dict):
        for key in [*there, *value]:
            if there.get(key) != value.get(key):
                return f"{key} {_short(there.get(key))}, now {_short(value.get(key))}"
    return f"{_short(there)}, now {_short(value)}"


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    text = str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]


def _parquet(rows: list[Row], keys: list[int]) -> bytes:
    columns: list[Any] = [pa.array(np.array(keys, np.uint64))]
    for number, column in enumerate(SCHEMA.names[1:]):
        values = [row[number] for row in rows]
        columns.append(pa.array([_text(v) if isinstance(v, str) else v for v in values], SCHEMA.field(column).type))
    return _written(pa.Table.from_arrays(columns, schema=SCHEMA))


def _written(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
