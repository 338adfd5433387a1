"""Whether a promise is kept on new videos, told without labels, at any time and as often as one looks.

Some videos, drawn at random, are taken on to the last exit: it says whether full inference would have given them
another label. Two bets are held on that, both valid at all times at once (Ville, 1939; Ramdas et al., 2023):

- an interval for the share of videos given another label, as long as videos keep coming from one source: what a bet on
  every share (Robbins's mixture, with the Krichevsky-Trofimov weights) has not refuted;
- an alarm where the share exceeds the limit, from whichever video on: a bet begun before each audited video, on shares
  above the limit. Its money is divided among all beginnings, so that a drift after a long good time is found too.
"""

import math
import random
import threading
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import numpy as np

from dynvid.calibration.intervals import Interval, bounded_interval, crossing, highest_share
from dynvid.calibration.point import OperatingPoint
from dynvid.errors import InputError

Status = Literal["nothing promised", "not yet known", "kept", "broken"]
CONFIDENCE = 0.95


class Audit:
    """Counts how often audited videos were given another label than by full inference, and what that says.

    The status is `broken` once the share of such videos has been above the limit (wrongly so in at most 5 % of
    deployments, however long they run), `kept` while an interval that holds at all times with 95 % confidence is within
    what was promised, and else `not yet known`. A promise without labels (`max_disagreement`) has its target for a
    limit. A promise with labels (`max_drop`) permits videos that both answers get wrong, and nobody can see which these
    are: it is kept if no more than its target differ at all, and broken if more differ than the calibration videos
    allow; new videos are then not like those.

    Args:
        share: Of the videos that are audited, in (0, 1].
        point: What was promised; None or a point without a promise leaves `limit`.
        limit: The permitted share of videos given another label than by full inference, where nothing else says it.
        seed: Of the draw; by default nobody can foresee it.

    Attributes:
        videos: Videos that could have been drawn.
        audited: Videos that were, and have come to the last exit.
        differing: Of these, those that were given another label than by full inference.

    Raises:
        ValueError: A share is out of its range.

    Example:
        >>> audit = Audit(share=0.02, limit=0.05, seed=0)
        >>> for _ in range(200):
        ...     audit.add(differs=False)
        >>> print(audit)
        promise kept: 0 of 200 audited videos were given another label than by full inference, which is at most 3.1 % \
of all, at any time with 95 % confidence; 5 % are permitted
    """

    def __init__(
        self,
        share: float,
        point: OperatingPoint | None = None,
        limit: float | None = None,
        seed: int | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise InputError(f"audit={share}: the share of videos that are audited, above 0 and up to 1")
        if limit is not None and not 0 < limit < 1:
            raise InputError(f"limit={limit}: a share above 0 and below 1")
        self.share = share
        self.permitted = limit
        """The share of videos that may be given another label; None where nothing was promised."""
        self.limit = limit
        """The share of videos beyond which the promise is broken; None where no such share is known."""
        error = 1 - CONFIDENCE
        if limit is None and point is not None and point.promised:
            if point.target is None or not 0 < point.target < 1:
                raise InputError(f"target={point.target}: what is promised must lie above 0 and below 1")
            self.permitted = self.limit = point.target
            if point.rule == "max_drop":
                self.limit = _allowed(point)
                error /= 2  # the other half is that of the limit
        self.videos = self.audited = self.differing = 0
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._alarm_at = 1 / error
        self._broken = False
        self._odds = {} if self.limit is None else _odds(self.limit)
        self._money = np.zeros(len(self._odds.get(True, [])))  # of the bets that have begun, by share

    def draw(self) -> bool:
        """Whether the next video is audited."""
        with self._lock:
            self.videos += 1
            return self._draw.random() < self.share

    def add(self, differs: bool) -> None:
        """Take in an audited video: whether it was given another label than by full inference."""
        with self._lock:
            self.audited += 1
            self.videos = max(self.videos, self.audited)  # whoever draws otherwise does not call `draw`
            self.differing += differs
            if self.limit is not None and not self._broken:
                begins = _not_begun(self.audited - 1) - _not_begun(self.audited)
                self._money = (self._money + begins) * self._odds[differs]
                self._broken = self._money.mean() + _not_begun(self.audited) >= self._alarm_at

    @property
    def interval(self) -> Interval:
        """The share of all videos given another label; holds at all times at once, while their source is one."""
        return anytime_interval(self.differing, self.audited, CONFIDENCE)

    @property
    def status(self) -> Status:
        """What is known of the promise."""
        if self.permitted is None:
            return "nothing promised"
        if self._broken:
            return "broken"
        return "kept" if self.interval.high <= self.permitted else "not yet known"

    def __str__(self) -> str:
        """One line in plain words."""
        low, high = self.interval
        of = f"{self.differing} of {self.audited} audited videos were given another label than by full inference"
        if self.permitted is None:
            return f"{self.status}: {of}, which is {100 * low:.1f} to {100 * high:.1f} % of all"
        permitted = f"{100 * self.permitted:g} % are permitted"
        if self.status == "broken" and self.limit is not None:
            allowed = "" if self.limit == self.permitted else f", and calibration videos allow {100 * self.limit:.1f} %"
            return f"promise broken: {of}; {permitted}{allowed}. New videos are not like the calibration videos"
        said = f"{of}, which is at most {100 * high:.1f} % of all, at any time with {100 * CONFIDENCE:g} % confidence"
        return f"promise {self.status}: {said}; {permitted}"

    def plain(self) -> dict[str, Any]:
        """As what JSON could hold; `resume` goes on from it."""
        low, high = self.interval
        return {
            "status": self.status,
            "videos": self.videos,
            "audited": self.audited,
            "differing": self.differing,
            "at_least": low,
            "at_most": high,
            "permitted": self.permitted,
            "limit": self.limit,
            "bets": self._money.tolist(),
        }

    def resume(self, plain: Mapping[str, Any]) -> Self:
        """Go on from what `plain` gave in another process, of the same promise.

        Raises:
            ValueError: It is of another promise, or its numbers are no counts.
        """
        videos, audited, differing = (plain.get(name) for name in ("videos", "audited", "differing"))
        bets, whole = plain.get("bets"), all(type(n) is int for n in (videos, audited, differing))
        counts = whole and 0 <= differing <= audited <= videos < 2**53  # type: ignore[operator]  # they are numbers
        numbers = isinstance(bets, list) and all(isinstance(x, float) and 0 <= x < math.inf for x in bets)
        if not counts or not numbers or plain.get("status") not in get_args(Status):
            raise InputError("an audit that is to go on has other parts than it should")
        if plain.get("limit") != self.limit or len(plain["bets"]) != len(self._money):
            raise InputError(f"the audit was of a limit of {plain.get('limit')}, this promise has {self.limit}")
        with self._lock:
            self.videos, self.audited, self.differing = videos, audited, differing  # type: ignore[assignment]
            self._money, self._broken = np.array(plain["bets"]), plain["status"] == "broken"
        return self


def anytime_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """An interval for the share of hits that holds at all times at once, while they come one after the other.

    Args:
        hits: Hits so far.
        count: Of so many.
        confidence: In (0, 1): the chance that all intervals, whenever looked at, hold the share.

    Example:
        >>> low, high = anytime_interval(0, 500)
        >>> f"{low:.4f} {high:.4f}"
        '0.0000 0.0133'
    """
    if not count:
        return Interval(0.0, 1.0)
    misses, least = count - hits, math.log(1 / (1 - confidence))
    mixture = math.lgamma(hits + 0.5) + math.lgamma(misses + 0.5) - math.lgamma(count + 1) - math.log(math.pi)

    def refuted(share: float) -> bool:
        """Whether the bet on all shares has won so much against this one."""
        lost = (hits * math.log(share) if hits else 0.0) + (misses * math.log1p(-share) if misses else 0.0)
        return mixture - lost >= least

    mean = hits / count
    low = crossing(lambda p: p >= mean or not refuted(p)) if hits else 0.0
    high = crossing(lambda p: p > mean and refuted(p)) if misses else 1.0
    return Interval(low, high)


def _not_begun(audited: int) -> float:
    """The part of the money whose bets begin later than this."""
    return 1 / math.log2(2 + audited)


def _odds(limit: float) -> "dict[bool, np.ndarray[Any, np.dtype[np.float64]]]":
    """What bets on shares above the limit, whose odds double from it on, pay where a video differs, and where not."""
    ratio = limit / (1 - limit) * 2.0 ** np.arange(1, 20)
    shares = ratio / (1 + ratio)
    shares = shares[: max(1, int((shares < 0.98).sum()))]
    return {True: shares / limit, False: (1 - shares) / (1 - limit)}


def _allowed(point: OperatingPoint) -> float | None:
    """The most that may differ by the calibration videos, with 97.5 % confidence; None where none were compared."""
    if point.differing is None:
        return None
    if point.recordings < point.videos:
        high = bounded_interval(point.differing, point.recordings, CONFIDENCE).high
    else:
        high = highest_share(round(point.differing * point.videos), point.videos, CONFIDENCE)
    return max(high, point.target or 0.0) if high < 1 else None
