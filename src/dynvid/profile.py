"""What an exit costs in milliseconds, as measured once on one machine: plain data that checkpoints and outputs keep."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from dynvid.errors import InputError
from dynvid.routes import Exit, Route, check_route

LONGEST = 200  # characters of a name


class Timing(NamedTuple):
    """Milliseconds per video up to an exit, opening and decoding the file included, over the repeats.

    Attributes:
        median: What counts as the cost.
        lowest: Of the repeats.
        highest: Of the repeats.
        decoding: Median of what opening, decoding and scaling take of it; 0 where nothing was decoded.
    """

    median: float
    lowest: float
    highest: float
    decoding: float = 0.0


@dataclass(frozen=True)
class Profile:
    """Milliseconds per video up to each of K exits, all exits before it passed, and how they were measured.

    Attributes:
        device: `cpu`, or the kind of accelerator.
        processor: Its name.
        precision: What the net computes in, such as `float32`.
        optimize: How the net was prepared; `none` as it was trained.
        batch_size: Videos in a batch, none of which left it before.
        threads: Of the processor, that torch used.
        route: The K exits.
        exits: One timing per exit.
        full: Of full inference, which passes no exit on its way.
        clips: Video files that were read; 0 where random frames took their place, so that nothing was decoded.
        repeats: Rounds over all of them, behind each median.
        versions: Of dynvid and torch.
        date: ISO 8601.

    Raises:
        ValueError: Exits and timings do not fit each other, or the milliseconds do not grow from exit to exit.

    Example:
        >>> exits = (Timing(4.0, 3.9, 4.4, 1.0), Timing(9.0, 8.7, 9.1, 1.5))
        >>> profile = Profile(
        ...     device="cpu", processor="EPYC", precision="float32", optimize="none", batch_size=1, threads=2,
        ...     route=(Exit(2, 1), Exit(4, 1)), exits=exits, full=exits[-1], clips=8, repeats=5,
        ...     versions={"torch": "2.9"}, date="2026-01-31",
        ... )
        >>> print(profile)
        EPYC, float32, optimize none, batch 1, 2 threads, decoding included
        >>> profile.milliseconds, Profile.from_plain(profile.plain()) == profile
        ((4.0, 9.0), True)
    """

    device: str
    processor: str
    precision: str
    optimize: str
    batch_size: int
    threads: int
    route: Route
    exits: tuple[Timing, ...]
    full: Timing
    clips: int
    repeats: int
    versions: dict[str, str]
    date: str

    def __post_init__(self) -> None:
        """Check what calibration relies on."""
        if len(self.exits) != len(self.route):
            raise InputError(f"profile: {len(self.exits)} timings for {len(self.route)} exits")
        if any(late <= early for early, late in pairwise(self.milliseconds)):
            raise InputError(f"profile: milliseconds {self.milliseconds} do not grow from exit to exit")

    @property
    def milliseconds(self) -> tuple[float, ...]:
        """The cost of each exit, K numbers."""
        return tuple(timing.median for timing in self.exits)

    @property
    def key(self) -> tuple[str, str, str, str, int, int, bool]:
        """What it is a profile of, with decoding or without; a checkpoint keeps one profile for each."""
        how = self.batch_size, self.threads, self.clips > 0
        return self.device, self.processor, self.precision, self.optimize, *how

    def __str__(self) -> str:
        """One line in plain words."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        decoding = "decoding included" if self.clips else "without decoding"
        return (
            f"{self.processor}, {self.precision}, optimize {self.optimize}, batch {self.batch_size}, "
            f"{threads}, {decoding}"
        )

    def plain(self) -> dict[str, Any]:
        """As what JSON could hold."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "route": [list(cell) for cell in self.route],
            "exits": [list(timing) for timing in self.exits],
            "full": list(self.full),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """Read what `plain` gave; it may come from somebody else's file.

        Raises:
            ValueError: A part is missing, unknown, of another type or out of range.
        """
        if not isinstance(plain, Mapping) or plain.keys() != _FITS.keys():
            raise InputError("profile has other parts than it should")
        wrong = [name for name, value in plain.items() if not _FITS[name](value)]
        if wrong:
            raise InputError(f"profile: {', '.join(wrong)} of another type or out of range")
        cells = [Exit(*cell) for cell in plain["route"]]
        return cls(
            **dict(plain)
            | {
                "route": check_route(cells, *cells[-1]),
                "exits": tuple(Timing(*timing) for timing in plain["exits"]),
                "full": Timing(*plain["full"]),
                "versions": dict(plain["versions"]),
            }
        )


def read_profiles(plain: object, route: Route | None = None) -> tuple[Profile, ...]:
    """The profiles that a file keeps, as a list of what `Profile.plain` gave; none where it has no such part.

    Raises:
        ValueError: See `Profile.from_plain`; there is no list, or one is of another route.
    """
    if not isinstance(plain, list | None):
        raise InputError(f"profiles are of type {type(plain).__name__}, not a list")
    profiles = tuple(map(Profile.from_plain, plain or ()))
    if route is not None and any(profile.route != route for profile in profiles):
        raise InputError("a profile is of other exits than the net has")
    return profiles


def with_profile(profiles: Sequence[Profile], new: Profile) -> tuple[Profile, ...]:
    """The profiles with a new one behind them, which takes the place of the one with its key."""
    return (*(profile for profile in profiles if profile.key != new.key), new)


def choose_profile(profiles: Sequence[Profile], number: int | None = None) -> Profile:
    """The profile to count costs by: the only one, the one for single videos on this device, or one by its number.

    Where there are several of these, it is that of a net made fast by default, with decoding.

    Args:
        profiles: Those of a checkpoint.
        number: From 1.

    Raises:
        ValueError: There is none, none of that number, or several would do.
    """
    if not profiles:
        raise InputError("no profile: milliseconds take `dynvid profile CHECKPOINT VIDEOS` first")
    listed = "; ".join(f"{n}: {profile}" for n, profile in enumerate(profiles, 1))
    if number is not None:
        if not 1 <= number <= len(profiles):
            raise InputError(f"profile {number}: there are {listed}")
        return profiles[number - 1]
    likely = list(profiles)
    if len(likely) > 1:
        likely = [p for p in likely if (p.device, p.processor, p.batch_size) == (*this_device(), 1)]
    if len(likely) > 1:
        likely = [p for p in likely if p.optimize == "default" and p.clips]
    if len(likely) != 1:
        raise InputError(f"several profiles: take one by --profile and its number; {listed}")
    return likely[0]


def this_device(kind: str | None = None) -> tuple[str, str]:
    """A kind of device, by default the one that nets run on here, and the name of its processor."""
    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    return kind, torch.cuda.get_device_name() if kind == "cuda" else processor_name()


def processor_name() -> str:
    """The name of the CPU; its architecture where the system does not tell more."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8", "replace").splitlines() if about.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST


def _count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 10**9


def _timing(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 4:
        return False
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value):
        return False
    median, lowest, highest, decoding = value
    return bool(0 < lowest <= median <= highest < 1e12 and 0 <= decoding <= median)


def _timings(value: object) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= 1000 and all(map(_timing, value))


def _cells(value: object) -> bool:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= 1000:
        return False
    return all(isinstance(cell, list | tuple) and len(cell) == 2 and all(map(_count, cell)) for cell in value)


def _versions(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= 20 and all(map(_name, [*value.keys(), *value.values()]))


_FITS: dict[str, Callable[[Any], bool]] = {
    "device": _name,
    "processor": _name,
    "precision": _name,
    "optimize": _name,
    "batch_size": _count,
    "threads": _count,
    "route": _cells,
    "exits": _timings,
    "full": _timing,
    "clips": lambda x: _count(x, 0),
    "repeats": _count,
    "versions": _versions,
    "date": _name,
}
