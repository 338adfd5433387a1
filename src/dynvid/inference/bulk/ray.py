"""Many machines: the videos go to Ray Data's actors, each of which has them read by a process of its own.

Ray moves blocks of paths to the actors and rows back; the driver alone writes parts and manifest, so both are what they
are with one machine, and a run is taken up in the same way. Ray restarts actors whose machine is lost, so many times
and no more, and gives their blocks to another. A video that kills the process that reads it never kills the actor.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from dynvid.errors import InputError, ModeError
from dynvid.extras import require
from dynvid.inference.bulk.child import Settings
from dynvid.inference.bulk.rows import Row
from dynvid.inference.bulk.supervisor import Supervisor

_BLOCK = 16  # batches of videos in a block: what is done again when a machine is lost
_WAVE = 2**20  # videos that Ray is given at once, so that memory does not grow with their number
_RESTARTS = 20  # of one actor, whose machine was lost; the run ends after that, and can be taken up
_RETRIES = 3  # of one block


class Cluster:
    """Labels videos by Ray Data's actors.

    Args:
        settings: What each of them loads.
        time_limit: See `Supervisor`.
        actors: How many; None takes as many as there is room for.
        address: Of the cluster; None takes that of `RAY_ADDRESS`, or starts Ray on this machine.
        say: See `Supervisor`; each line is said once, whoever of them says it.

    Attributes:
        precision: See `Supervisor`.

    Raises:
        InputError: There is no such cluster.
    """

    audit = None  # of one process each, which would say little

    def __init__(
        self,
        settings: Settings,
        time_limit: float,
        actors: int | None,
        address: str | None,
        say: Callable[[str], None],
    ) -> None:
        self._ray, self._data = require("ray"), require("ray.data")
        # Ray gives an actor as many processors, where a process of its own would take all that it sees.
        self._settings = replace(settings, workers=settings.workers or 1)
        self._time_limit, self._actors, self._say = time_limit, actors, say
        self._told: set[str] = set()
        self.precision = settings.precision
        self._started = not self._ray.is_initialized()
        if self._started:
            quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
            try:
                self._ray.init(address=address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split())
                raise InputError(f"address={address}: Ray finds no cluster there ({said})") from error
        self._data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and progress: ours is shown instead

    def run(self, videos: Iterable[str]) -> Iterator[Row]:
        """Label videos, in no particular order; what cannot be read is a row too."""
        waiting = iter(videos)
        try:
            while wave := list(islice(waiting, _WAVE)):
                yield from self._wave(wave)
        except self._ray.exceptions.RayError as error:
            raise ModeError(_reason(error)) from error

    def close(self) -> None:
        """Let go of Ray, if it was started here."""
        if self._started:
            self._ray.shutdown()

    def _wave(self, paths: list[str]) -> Iterator[Row]:
        size = _BLOCK * self._settings.batch_size
        # Made block by block, since Ray would put all of a list of paths, which is small, into one.
        blocks = [_paths(paths[start : start + size]) for start in range(0, len(paths), size)]
        gpus = 0
        if self._settings.device != "cpu" and self._ray.cluster_resources().get("GPU"):
            gpus = 1
        pool = {"size": self._actors} if self._actors else {"min_size": 1, "max_size": len(blocks)}
        with warnings.catch_warnings():
            # Ray means to name these two otherwise from 2.64 on; until then there is no other way to bound them.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            rows = self._data.from_arrow(blocks).map_batches(
                Actor,
                fn_constructor_args=(self._settings, self._time_limit),
                compute=self._data.ActorPoolStrategy(**pool),
                batch_size=None,  # a block as it is
                batch_format="pyarrow",
                zero_copy_batch=True,
                num_cpus=self._settings.workers,
                num_gpus=gpus,
                max_restarts=_RESTARTS,
                max_task_retries=_RETRIES,
            )
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for said in filter(None, table["said"].to_pylist()):
                self._hear(*json.loads(said))
            yield from _rows(table)

    def _hear(self, precision: str, lines: list[str]) -> None:
        """Take in what an actor has said."""
        if self.precision not in ("auto", precision):
            raise ModeError(
                f"the machines compute in {self.precision} and in {precision}, each as it is faster; take one: "
                f"--precision {self.precision}"
            )
        self.precision = precision
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                self._say(line)


def _reason(error: BaseException) -> str:
    """Why Ray has ended the work: what an actor raised on purpose, where there is such a thing.

    Of an exception in an actor Ray hands on the traceback as text; its kind is lost on the way.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    on_purpose = re.findall(r"^dynvid\.errors\.\w+: (.+)$", text, re.MULTILINE)
    return on_purpose[-1] if on_purpose else f"Ray has ended the work: {text.partition(chr(10))[0]}"


class Actor:
    """What runs in each of Ray's actors.

    Args:
        settings: What its process loads.
        time_limit: See `Supervisor`.
    """

    def __init__(self, settings: Settings, time_limit: float) -> None:
        self._said: list[str] = []
        self._supervisor = Supervisor(settings, time_limit, say=self._said.append)

    def __call__(self, paths: pa.Table) -> pa.Table:
        """Label the videos of a block."""
        names = [os.fsdecode(path) for path in paths["path"].to_pylist()]
        rows = list(self._supervisor.run(names))
        said = json.dumps([self._supervisor.precision, self._said])
        self._said.clear()
        return _table(rows, said)


def _paths(paths: list[str]) -> pa.Table:
    return pa.table({"path": pa.array([os.fsencode(path) for path in paths], pa.binary())})


_COLUMNS = dict.fromkeys(("path", "label", "error", "said"), pa.binary()) | {
    **dict.fromkeys(("frames", "depth"), pa.int32()),
    "answered": pa.bool_(),
}
_SCHEMA = pa.schema([(name, _COLUMNS.get(name, pa.float64())) for name in (*Row._fields, "said")])


def _table(rows: list[Row], said: str) -> pa.Table:
    """Rows as a table, the first with what is said: words as bytes, since names of files may be no UTF-8."""
    words = [said, *[None] * (len(rows) - 1)]
    columns = [
        pa.array([os.fsencode(x) if isinstance(x, str) else x for x in values], each.type)
        for values, each in zip([*zip(*rows, strict=True), words], _SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _rows(table: pa.Table) -> Iterator[Row]:
    columns: list[Any] = [table[name].to_pylist() for name in Row._fields]
    for values in zip(*columns, strict=True):
        yield Row(*(os.fsdecode(x) if isinstance(x, bytes) else x for x in values))  # type: ignore[arg-type]
