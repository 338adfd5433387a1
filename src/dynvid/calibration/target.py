"""From what is asked for to thresholds and the operating point that they are."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import torch
from torch import Tensor

from dynvid.calibration.candidates import thresholds_for_budget, thresholds_for_drop
from dynvid.calibration.intervals import mean_interval
from dynvid.calibration.operate import operate
from dynvid.calibration.point import ChosenBy, Offer, OperatingPoint, Rule
from dynvid.calibration.promise import smallest_risk, thresholds_for_risk, videos_needed
from dynvid.errors import InputError
from dynvid.policy import choose_exits
from dynvid.profile import Profile

OFFERED = (0.01, 0.02, 0.05, 0.10)  # risks that are looked at where a split cannot promise what was asked for
LARGEST_BUDGET = 1e15  # GMACs or milliseconds; more is no number of anything
CALIBRATING = 2 / 3  # share of the recordings that calibrate; the others choose the checkpoint
_RULES: tuple[Rule, ...] = ("max_drop", "max_disagreement", "budget", "budget_ms")
_UNITS: dict[Rule, str] = {"budget": "GMACs", "budget_ms": "milliseconds"}


@dataclass(frozen=True)
class Target:
    """What thresholds shall do: one of the four besides `confidence`.

    Args:
        max_drop: Share of the videos that may be lost: full inference is right, and the exit taken is wrong. 0.01 is
            one in a hundred.
        max_disagreement: Share that may be given another label than full inference gives; needs no labels.
        budget: Mean GMACs per video to spend; promises nothing.
        confidence: With what probability, over the draw of the calibration videos, the first two hold for new videos.
            None takes the largest saving that keeps to them on the calibration videos themselves, which promises
            nothing: it is wrong for about half of all new data.
        budget_ms: Mean milliseconds per video to spend, as a `Profile` counts them; promises nothing.

    Raises:
        ValueError: Not one of the four, or a number is out of its range.

    Example:
        >>> Target(max_drop=0.02).rule
        'max_drop'
    """

    max_drop: float | None = None
    max_disagreement: float | None = None
    budget: float | None = None
    confidence: float | None = 0.95
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        given = self._given()
        if len(given) != 1:
            asked = " beside ".join(f"{name}={value:g}" for name, value in given.items()) or "none"
            raise InputError(f"calibration: {asked}: give one of {', '.join(_RULES[:-1])} and {_RULES[-1]}")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise InputError(f"confidence={self.confidence}: above 0 and below 1, or null for no promise")
        rule, value = self.rule, self.value
        if rule in _UNITS:
            if not 0 < value < LARGEST_BUDGET:  # so written, it refuses NaN too
                raise InputError(f"{rule}={value}: {_UNITS[rule]} above 0, and below {LARGEST_BUDGET:g}")
        elif not 0 <= value <= 1:
            raise InputError(f"{rule}={value}: a share in [0, 1], 0.01 is one in a hundred")
        elif self.confidence is not None and not 0 < value < 1:
            raise InputError(
                f"{rule}={value}: what is promised must lie above 0 and below 1; confidence: null takes any share, "
                "and promises nothing"
            )

    @property
    def rule(self) -> Rule:
        """Which of the four it is."""
        return next(iter(self._given()))

    @property
    def value(self) -> float:
        """The number given for it."""
        return next(iter(self._given().values()))

    def possible(self, recordings: int) -> bool:
        """Whether so many recordings can promise it, if none is lost; True where nothing is promised."""
        return not self.promises or smallest_risk(recordings, self.confidence or 0.95) <= self.value

    @property
    def promises(self) -> bool:
        """Whether new videos are promised anything."""
        return self.rule not in _UNITS and self.confidence is not None

    def _given(self) -> dict[Rule, float]:
        return {rule: value for rule in _RULES if (value := getattr(self, rule)) is not None}


def kept_apart(recordings: Sequence[str]) -> Tensor:
    """Which videos of a validation split calibrate and have no part in choosing the checkpoint: bool (N,).

    A promise takes videos that the weights do not depend on, and the best of many checkpoints depends on those that
    chose it. So about two thirds of the recordings calibrate, and the others choose. Each recording is decided on by
    its own name (the last three parts of a path, wherever the data lies), so that it stays on its side whichever others
    could be read.

    Args:
        recordings: The recording of each video.

    Example:
        >>> kept_apart(["clips/run/a.mp4", "clips/run/b.mp4", "clips/run/c.mp4"])
        tensor([ True, False, False])
    """
    first = [hashlib.sha256(_anywhere(name)).digest()[:8] for name in recordings]
    return torch.tensor([int.from_bytes(digest) < CALIBRATING * 2**64 for digest in first], dtype=torch.bool)


def listing_of(paths: Sequence[str]) -> str:
    """A name for a list of videos, whatever its order and wherever they lie.

    Example:
        >>> listing_of(["/a/val/x/1.mp4", "/a/val/x/2.mp4"]) == listing_of(["/b/val/x/2.mp4", "/b/val/x/1.mp4"])
        True
    """
    return hashlib.sha256(b"\0".join(sorted(map(_anywhere, paths)))).hexdigest()[:16]


def _anywhere(name: str) -> bytes:
    """The last three parts of a path, which are the same wherever the data lies; a plain name as it is."""
    return "/".join(PurePath(name).parts[-3:]).encode("utf-8", "surrogateescape")


def find_point(
    scores: Tensor,
    lost: Tensor,
    gmacs: Sequence[float],
    target: Target,
    recordings: Sequence[str],
    split: str = "val",
    chosen_by: ChosenBy = "nothing",
    full_gmacs: float | None = None,
    profile: Profile | None = None,
) -> tuple[Tensor, OperatingPoint]:
    """Thresholds (K,) that do what is asked for, and what is known of them.

    Args:
        scores: How sure each exit is of each video, float (K, N).
        lost: Whether a video is lost if it takes the exit, bool (K, N); see `thresholds_for_risk`.
        gmacs: Cumulative cost of each exit, K numbers.
        target: What is asked for.
        recordings: The recording of each video, N names.
        split: What these videos are called.
        chosen_by: See `OperatingPoint`.
        full_gmacs: GMACs of full inference, `gmacs[-1]` by default; `offers` are counted against it.
        profile: Where it is given, what is cheapest is counted in its milliseconds instead of `gmacs`; `budget_ms`
            takes one.

    Raises:
        ValueError: The budget does not reach the first exit, the scores are not finite, `budget_ms` has no profile or
            `budget` has one, or it is of other exits.

    Example:
        >>> scores = torch.tensor([[0.9], [0.8]]).repeat(1, 300)
        >>> lost = torch.zeros(2, 300, dtype=torch.bool)
        >>> thresholds, point = find_point(scores, lost, [1.0, 3.0], Target(max_drop=0.01), [*map(str, range(300))])
        >>> thresholds, point.gmacs
        (tensor([0.9000,   -inf]), 1.0)
    """
    risk, confidence = target.value, target.confidence
    chose = target.promises and chosen_by == "these"
    costs = _costs(gmacs, target, profile)
    if len(gmacs) == 1:
        thresholds = torch.tensor([-torch.inf])
    elif target.rule in _UNITS:
        thresholds = thresholds_for_budget(scores, ~lost, costs, target.value, _UNITS[target.rule])
    elif confidence is None:
        thresholds = thresholds_for_drop(scores, ~lost, costs, risk)
    elif chose:
        thresholds = torch.tensor([torch.inf] * (len(gmacs) - 1) + [-torch.inf])
    else:
        thresholds = thresholds_for_risk(scores, lost, costs, risk, confidence, _groups(recordings))
    sure = confidence if target.promises else None
    point = OperatingPoint(target.rule, target.value, sure, split, chosen_by=chosen_by)
    point = measured(point, thresholds, scores, lost, gmacs, recordings, profile)
    if target.promises and point.full_inference and len(gmacs) > 1:
        point = replace(point, offers=_offers(scores, lost, gmacs, costs, recordings, target, chose, full_gmacs))
    return thresholds, point


def measured(
    point: OperatingPoint,
    thresholds: Tensor,
    scores: Tensor,
    lost: Tensor,
    gmacs: Sequence[float],
    recordings: Sequence[str],
    profile: Profile | None = None,
) -> OperatingPoint:
    """The operating point with what its thresholds cost and lose on these videos; arguments as for `find_point`."""
    taken = choose_exits(scores, thresholds)
    cost = torch.tensor(gmacs, dtype=torch.float64)[taken]
    time = None if profile is None else torch.tensor(profile.milliseconds, dtype=torch.float64)[taken]
    return replace(
        point,
        videos=scores.shape[1],
        recordings=len(set(recordings)),
        full_inference=bool(thresholds[:-1].isposinf().all()),
        lost=float(lost.gather(0, taken[None]).double().mean()),
        gmacs=float(cost.mean()),
        interval=mean_interval(cost if time is None else time, _groups(recordings)),
        milliseconds=None if time is None else float(time.mean()),
        profile="" if profile is None else str(profile),
    )


def _costs(gmacs: Sequence[float], target: Target, profile: Profile | None) -> Sequence[float]:
    """What the search counts: the milliseconds of a profile, or GMACs."""
    if target.rule == "budget_ms" and profile is None:
        raise InputError("budget_ms takes a profile: `dynvid profile CHECKPOINT VIDEOS` measures one")
    if target.rule == "budget" and profile is not None:
        raise InputError("budget is in GMACs and takes no profile: use budget_ms")
    if profile is None:
        return gmacs
    if len(profile.milliseconds) != len(gmacs):
        raise InputError(f"the profile has {len(profile.milliseconds)} exits, the net {len(gmacs)}")
    return profile.milliseconds


def _offers(
    scores: Tensor,
    lost: Tensor,
    gmacs: Sequence[float],
    costs: Sequence[float],
    recordings: Sequence[str],
    target: Target,
    chose: bool,
    full_gmacs: float | None,
) -> tuple[Offer, ...]:
    """What these videos can promise at other risks; where they chose the checkpoint, what two thirds of them could."""
    confidence, offers = target.confidence or 0.95, []
    share = CALIBRATING if chose else 1
    least = smallest_risk(int(share * len(set(recordings))), confidence)
    risks = [*OFFERED] + ([math.ceil(100 * least) / 100] if OFFERED[-1] < least <= 0.5 else [])
    for risk in risks:
        saved = None
        if least <= risk:
            thresholds = thresholds_for_risk(scores, lost, costs, risk, confidence, _groups(recordings))
            cost = float(operate(scores, ~lost, gmacs, thresholds[None]).gmacs)
            saved = 1 - cost / (full_gmacs or gmacs[-1])
        offers.append(Offer(risk, saved, math.ceil(videos_needed(risk, confidence) / share)))
    return tuple(offers)


def _groups(recordings: Sequence[str]) -> Sequence[str] | None:
    """The recordings where some have several videos; else each video stands for itself, and nothing is drawn."""
    return recordings if len(set(recordings)) < len(recordings) else None
