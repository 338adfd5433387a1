"""An operating point: what thresholds were asked to do, by which videos, and what that promises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Self, get_args

from dynvid.calibration.intervals import Interval
from dynvid.errors import InputError

Rule = Literal["max_drop", "max_disagreement", "budget", "budget_ms", "thresholds"]
ChosenBy = Literal["nothing", "others", "these", "folds"]
MOST_VIDEOS = 10**9  # of a calibration; more are a mistake, or meant to take memory


class Offer(NamedTuple):
    """What the videos of a calibration can promise at another risk.

    Attributes:
        risk: Share of new videos that may be lost.
        saved: Share of full inference's GMACs saved; None where so few videos cannot promise it.
        needed: Videos (or recordings) that it takes if none of them is lost.
    """

    risk: float
    saved: float | None
    needed: int


@dataclass(frozen=True)
class OperatingPoint:
    """What thresholds were asked to do, by which videos, and what that promises.

    It is written into checkpoints and recorded outputs as plain data.

    Attributes:
        rule: What was asked for; `thresholds` are given by hand.
        target: The permitted share of videos lost, or GMACs or milliseconds per video; None for thresholds by hand.
        confidence: That of the promise; None for no promise.
        split: Where the videos are from, such as `val`.
        videos: How many.
        recordings: Of how many recordings.
        chosen_by: Which videos of the split chose the checkpoint: none of them, others than these, or these too;
            "folds" where these were answered by other nets, each trained without their recordings, and this net was
            trained on all of them.
        full_inference: Whether no exit before the last is in use.
        lost: Share of them that is lost: full inference is right, or says something else where there are no labels.
        gmacs: Mean GMACs per video of them.
        interval: Of the mean over new videos, with 95 % confidence, by recording: of the milliseconds where costs were
            counted in them, else of the GMACs.
        offers: What they can promise at other risks.
        listing: A name for the list of these videos.
        milliseconds: Mean milliseconds per video of them, where costs were counted in them.
        profile: The profile that these are of, in words.
        differing: Share of them that the exit taken labels otherwise than full inference does; None where that was not
            looked at.

    Example:
        >>> print(OperatingPoint("max_drop", 0.01, 0.95, "val", 400, 400, lost=0.0025, gmacs=0.03))
        promised with 95 % confidence: at most 1 % of new videos lost (0.2 % of 400 videos of val are)
    """

    rule: Rule
    target: float | None = None
    confidence: float | None = None
    split: str = ""
    videos: int = 0
    recordings: int = 0
    chosen_by: ChosenBy = "nothing"
    full_inference: bool = False
    lost: float | None = None
    gmacs: float | None = None
    interval: Interval | None = None
    offers: tuple[Offer, ...] = ()
    listing: str = ""
    milliseconds: float | None = None
    profile: str = ""
    differing: float | None = None

    @property
    def promised(self) -> bool:
        """Whether it promises anything of new videos."""
        asked = self.rule in ("max_drop", "max_disagreement") and self.confidence is not None
        return asked and self.chosen_by != "folds"

    def __str__(self) -> str:
        """One line in plain words."""
        if self.rule == "thresholds":
            return "no promise: thresholds were given by hand"
        of = f"{counted_as(self.videos, self.recordings)} of {self.split}"
        lost = "lost" if self.rule != "max_disagreement" else "given another label than full inference gives"
        if self.rule in ("budget", "budget_ms"):
            between = "" if self.interval is None else " ({:.4g} to {:.4g} on new videos)".format(*self.interval)
            spent, where = f"{self.gmacs:.4g} GMACs", ""
            if self.rule == "budget_ms":
                spent, where = f"{self.milliseconds:.4g} ms", f", by the profile of {self.profile}"
            return f"no promise on accuracy: {spent} per video{between}, on {of}{where}"
        target = f"{100 * (self.target or 0):g} %"
        if self.confidence is None:
            return f"no promise: {100 * (self.lost or 0):.1f} % of {of} are {lost}, {target} are permitted"
        sure = f"{100 * self.confidence:g} % confidence"
        if self.chosen_by == "folds":
            return self._estimated(of, lost, target, sure)
        if self.chosen_by == "these":
            return f"full inference: {of} chose the checkpoint, so they cannot promise anything of new ones"
        if self.full_inference:
            return f"full inference: {of} cannot promise with {sure} that at most {target} of new videos are {lost}"
        return (
            f"promised with {sure}: at most {target} of new videos {lost} ({100 * (self.lost or 0):.1f} % of {of} are)"
        )

    def _estimated(self, of: str, lost: str, target: str, sure: str) -> str:
        """What folds say: it was tested on other nets than this one, and so is no promise of it."""
        by = "answered by nets trained without their recordings"
        if self.full_inference:
            return f"full inference: {of}, {by}, do not show with {sure} that at most {target} of videos are {lost}"
        return (
            f"cross-validated, no promise for this net: tested with {sure} for at most {target} of videos {lost} "
            f"({100 * (self.lost or 0):.1f} % of {of} are, {by})"
        )

    def offered(self) -> str:
        """A table of what else its videos can promise, and the ways on; empty where that was not looked at."""
        if not self.offers:
            return ""
        unit = "recordings" if self.recordings < self.videos else "videos"
        chose = self.chosen_by == "these"
        can = "pass, by cross-validation" if self.chosen_by == "folds" else "promise"
        part, kept = ("two thirds of ", ", if kept apart from the start") if chose else ("", "")
        rows = [
            (
                "at most lost" if self.rule == "max_drop" else "another label",
                "GMACs saved, about" if chose else "GMACs saved",
            )
        ]
        for risk, saved, needed in self.offers:
            rows.append((f"{100 * risk:g} %", f"needs {needed} {unit}" if saved is None else f"{100 * saved:z.1f} %"))
        return "\n".join(
            [
                f"what {part}{counted_as(self.videos, self.recordings)} can {can}, with "
                f"{100 * (self.confidence or 0):g} % confidence each{kept}:",
                *(f"  {risk:>13}   {saved}" for risk, saved in rows),
                "other ways on: a budget, or confidence null, which takes what these videos show and promises nothing",
            ]
        )

    def plain(self) -> dict[str, Any]:
        """As what JSON could hold."""
        return asdict(self) | {
            "interval": None if self.interval is None else list(self.interval),
            "offers": [list(offer) for offer in self.offers],
        }

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """Read what `plain` gave; it may come from somebody else's file.

        Raises:
            ValueError: A part is missing, unknown or of another type.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(plain, Mapping) or not names - _ADDED <= plain.keys() <= names:
            raise InputError("operating_point has other parts than it should")
        wrong = [name for name, value in plain.items() if not FITS[name](value)]
        if wrong:
            raise InputError(f"operating_point: {', '.join(wrong)} of another type or out of range")
        measured = plain["rule"] == "thresholds" or None not in (plain["target"], plain["gmacs"], plain["lost"])
        if not measured:
            raise InputError(f"operating_point: {plain['rule']} without target, gmacs or lost")
        if plain["rule"] in ("max_drop", "max_disagreement"):  # as `Target` takes it
            target, promised = plain["target"], plain["confidence"] is not None
            if not 0 <= target <= 1 or (promised and target in (0, 1)):
                raise InputError(f"operating_point: {plain['rule']} is {target}, no share that can be asked for")
        if plain["rule"] == "budget_ms" and plain.get("milliseconds") is None:
            raise InputError("operating_point: budget_ms without milliseconds")
        interval = plain["interval"]
        return cls(
            **dict(plain)
            | {
                "interval": None if interval is None else Interval(*interval),
                "offers": tuple(Offer(*offer) for offer in plain["offers"]),
            }
        )


def counted(recordings: Sequence[str]) -> str:
    """How many videos, and of how many recordings where that is not the same.

    >>> counted(["a", "a", "b"])
    '3 videos of 2 recordings'
    """
    return counted_as(len(recordings), len(set(recordings)))


def counted_as(videos: int, recordings: int) -> str:
    """As `counted`, told by numbers alone."""
    of = f" of {recordings} recording{'s' * (recordings != 1)}" if recordings < videos else ""
    return f"{videos} video{'s' * (videos != 1)}{of}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15


def _count(value: object) -> bool:
    return _number(value) and isinstance(value, int)


def _number_or_none(value: object) -> bool:
    return value is None or _number(value)


def _videos(value: object) -> bool:
    return _count(value) and value < MOST_VIDEOS  # type: ignore[operator]  # a number, as was seen


def _share_or_none(value: object) -> bool:
    return value is None or (_number(value) and value <= 1)  # type: ignore[operator]  # likewise


def _offer(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    risk, saved, needed = value
    signed = isinstance(saved, float) and -1 < saved <= 1  # the heads on the way can cost more than what is saved
    return _number(risk) and (saved is None or signed) and _count(needed)


_ADDED = {"milliseconds", "profile", "differing"}  # older files lack them
FITS: dict[str, Callable[[Any], bool]] = {  # of what a stranger's file says
    "rule": lambda x: x in get_args(Rule),
    "target": _number_or_none,
    "confidence": lambda x: x is None or (_number(x) and 0 < x < 1),
    "split": lambda x: isinstance(x, str) and len(x) <= 1000,
    "videos": _videos,
    "recordings": _videos,
    "chosen_by": lambda x: x in get_args(ChosenBy),
    "full_inference": lambda x: isinstance(x, bool),
    "lost": _share_or_none,
    "gmacs": _number_or_none,
    "interval": lambda x: x is None or (isinstance(x, list | tuple) and len(x) == 2 and all(map(_number, x))),
    "listing": lambda x: isinstance(x, str) and len(x) <= 100,
    "milliseconds": _number_or_none,
    "profile": lambda x: isinstance(x, str) and len(x) <= 1000,
    "differing": _share_or_none,
    "offers": lambda x: isinstance(x, list | tuple) and len(x) <= 100 and all(map(_offer, x)),
}
