"""When an answer is better withheld: a threshold with a promise on the errors among what is answered.

Selective classification with guaranteed risk (Geifman and El-Yaniv, NeurIPS 2017). Of the surest m videos k are
answered wrongly; whether that clears m is told by the exact binomial test. The m are tested from few to many, and the
first that is not cleared ends the search. The fewest are cleared only without an error, which is much to ask: so the
search begins several times, at numbers of videos that double and are fixed before anything is seen. Each beginning has
a part of the permitted probability of error; where a test is cleared, the next one has what it had, and where it is
not, that is lost (the fallback procedure: Wiens, Pharmaceutical Statistics 2003). All tests together err as seldom as
one would.

That they do so takes one thing for granted: the higher the threshold, the smaller the share of wrong answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from dynvid.calibration.binomial import at_most
from dynvid.calibration.point import FITS, ChosenBy, counted_as
from dynvid.calibration.promise import one_of_each
from dynvid.errors import InputError

OFFERED = (0.01, 0.02, 0.05, 0.10, 0.20)  # errors that are looked at where what was asked for cannot be promised


class RejectOffer(NamedTuple):
    """What the videos of a calibration can promise at another error.

    Attributes:
        max_error: Permitted share of wrong answers among those given.
        answered: Share of the videos that is answered; None where nothing can be promised.
        needed: Videos (or recordings) that must be answered if no answer is wrong.
    """

    max_error: float
    answered: float | None
    needed: int


@dataclass(frozen=True)
class Reject:
    """Which answers are withheld, found by which videos, and what that promises of the others.

    It is written into checkpoints and recorded outputs as plain data. It is of one set of thresholds, score and
    temperatures, for it judges the answers that these lead to.

    Attributes:
        max_error: Permitted share of wrong answers among those given.
        confidence: That of the promise; None for no promise.
        threshold: An answer is given where its probability reaches this; None withholds nothing, since these videos
            can promise no threshold.
        split: Where the videos are from, such as `val`.
        videos: How many.
        recordings: Of how many recordings.
        chosen_by: Which videos of the split chose the checkpoint: none of them, others than these, or these too.
        answered: Share of them that is answered.
        error: Share of wrong answers among these; None where there are none.
        offers: What they can promise at other errors.
        listing: A name for the list of these videos.

    Example:
        >>> print(Reject(0.05, 0.95, 0.7, "val", 400, 400, answered=0.87, error=0.031))
        promised with 95 % confidence: at most 5 % of the answers given to new videos are wrong \
(3.1 % are, and 87.0 % of 400 videos of val are answered)
    """

    max_error: float
    confidence: float | None = 0.95
    threshold: float | None = None
    split: str = ""
    videos: int = 0
    recordings: int = 0
    chosen_by: ChosenBy = "nothing"
    answered: float = 1.0
    error: float | None = None
    offers: tuple[RejectOffer, ...] = ()
    listing: str = ""

    @property
    def promised(self) -> bool:
        """Whether it promises anything of new videos."""
        return self.threshold is not None and self.confidence is not None

    def __str__(self) -> str:
        """One line in plain words."""
        of = f"{counted_as(self.videos, self.recordings)} of {self.split}"
        permitted = f"{100 * self.max_error:g} %"
        wrong = f"{100 * (self.error or 0):.1f} % are, and {100 * self.answered:.1f} % of {of} are answered"
        if self.confidence is None:
            nothing = "nothing is withheld: no threshold keeps to it on them; " if self.threshold is None else ""
            return f"{nothing}no promise: at most {permitted} of the answers given shall be wrong ({wrong})"
        sure = f"{100 * self.confidence:g} % confidence"
        if self.chosen_by == "these":
            return f"nothing is withheld: {of} chose the checkpoint, so they cannot promise anything of new ones"
        if self.threshold is None:
            return (
                f"nothing is withheld: {of} cannot promise with {sure} that at most {permitted} of the answers given "
                "to new videos are wrong"
            )
        return f"promised with {sure}: at most {permitted} of the answers given to new videos are wrong ({wrong})"

    def offered(self) -> str:
        """A table of what else its videos can promise; empty where that was not looked at."""
        if not self.offers:
            return ""
        unit = "recordings" if self.recordings < self.videos else "videos"
        rows = [("at most wrong", "answered")]
        for error, answered, needed in self.offers:
            why = "none: too many of the surest are wrong"
            if needed > self.recordings:
                why = f"none: needs {needed} {unit}, and no wrong answer among them"
            rows.append((f"{100 * error:g} %", why if answered is None else f"{100 * answered:.1f} %"))
        return "\n".join(
            [
                f"what {counted_as(self.videos, self.recordings)} can promise of answers, with "
                f"{100 * (self.confidence or 0):g} % confidence each:",
                *(f"  {error:>13}   {answered}" for error, answered in rows),
            ]
        )

    def plain(self) -> dict[str, Any]:
        """As what JSON could hold."""
        return asdict(self) | {"offers": [list(offer) for offer in self.offers]}

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """Read what `plain` gave; it may come from somebody else's file.

        Raises:
            ValueError: A part is missing, unknown or of another type.
        """
        if not isinstance(plain, Mapping) or plain.keys() != {field.name for field in fields(cls)}:
            raise InputError("reject has other parts than it should")
        wrong = [name for name, value in plain.items() if not _FITS[name](value)]
        if wrong:
            raise InputError(f"reject: {', '.join(wrong)} of another type or out of range")
        if plain["threshold"] is not None and plain["confidence"] is not None and plain["chosen_by"] == "these":
            raise InputError("reject: a promise by videos that chose the checkpoint")
        return cls(**dict(plain) | {"offers": tuple(RejectOffer(*offer) for offer in plain["offers"])})


def reject_level(reject: Reject | None) -> float:
    """The probability that an answer must reach to be given; -inf where none is withheld.

    >>> reject_level(None), reject_level(Reject(0.05, threshold=0.75))
    (-inf, 0.75)
    """
    return -math.inf if reject is None or reject.threshold is None else reject.threshold


def find_reject(
    probability: Tensor,
    wrong: Tensor,
    max_error: float,
    recordings: Sequence[str],
    confidence: float | None = 0.95,
    split: str = "val",
    chosen_by: ChosenBy = "nothing",
) -> Reject:
    """The lowest threshold with which at most `max_error` of the answers given are wrong, and what is known of it.

    Args:
        probability: Of the answer that each video is given, at the temperature of the exit taken, float (N,).
        wrong: Whether it is wrong, bool (N,).
        max_error: In (0, 1); 0.05 permits one wrong answer in twenty.
        recordings: The recording of each video, N names; see `thresholds_for_risk`.
        confidence: With what probability, over the draw of these videos, this holds for new ones. None takes the most
            videos of which no more are wrong here, and promises nothing.
        split: What these videos are called.
        chosen_by: See `OperatingPoint`.

    Raises:
        ValueError: Shapes do not fit, a number is out of its range, or a probability is none.

    Example:
        >>> probability = torch.linspace(0.99, 0.4, 300)
        >>> found = find_reject(probability, probability < 0.6, 0.05, [*map(str, range(300))])
        >>> f"{found.threshold:.2f}, {found.answered:.0%} answered"
        '0.59, 67% answered'
    """
    check_max_error(max_error, confidence)
    videos = len(probability)
    if probability.dim() != 1 or wrong.shape != probability.shape or len(recordings) != videos or not videos:
        shapes = f"probability {tuple(probability.shape)}, wrong {tuple(wrong.shape)}, {len(recordings)} recordings"
        raise InputError(f"{shapes}: they must be (N,), (N,) and N, with videos")
    probability, wrong = probability.float().cpu(), wrong.cpu()
    if wrong.dtype != torch.bool or not ((probability >= 0) & (probability <= 1)).all():  # so written, it refuses NaN
        raise InputError("wrong must be bool, and probability numbers in [0, 1]; NaN means that training has diverged")
    drawn = one_of_each(recordings, videos) if len(set(recordings)) < videos else torch.arange(videos)
    found = Reject(max_error, confidence, None, split, videos, len(set(recordings)), chosen_by)

    def lowest(error: float) -> float | None:
        if confidence is None:
            return _observed(probability, wrong, error)
        return None if chosen_by == "these" else _cleared(probability[drawn], wrong[drawn], error, 1 - confidence)

    found = _measured(replace(found, threshold=lowest(max_error)), probability, wrong)
    if found.threshold is not None or confidence is None or chosen_by == "these":
        return found
    offers = []
    for error in OFFERED:
        threshold = lowest(error)
        share = None if threshold is None else float((probability >= threshold).double().mean())
        offers.append(RejectOffer(error, share, _without_errors(error, 1 - confidence)))
    return replace(found, offers=tuple(offers))


def check_max_error(max_error: float, confidence: float | None) -> None:
    """Refuse what cannot be asked for.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0 < max_error < 1:  # so written, it refuses NaN too
        raise InputError(f"max_error={max_error}: the permitted share of wrong answers, above 0 and below 1")
    if confidence is not None and not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: above 0 and below 1, or null for no promise")


def starts(videos: int, max_error: float, error: float) -> list[int]:
    """The numbers of videos at which the search begins, each twice the one before, as many as there is room for.

    The first is cleared only if none is wrong, at its part of the probability of error.

    >>> starts(300, 0.05, 0.05), starts(58, 0.05, 0.05)
    ([72, 144], [])
    """
    found: list[int] = []
    while True:
        parts = len(found) + 1
        first = _without_errors(max_error, error / parts)
        if first << parts - 1 > videos:
            return found
        found = [first << j for j in range(parts)]


def _cleared(probability: Tensor, wrong: Tensor, max_error: float, error: float) -> float | None:
    """The lowest threshold that is cleared; None where there is none."""
    begins = starts(len(probability), max_error, error)
    part = error / max(len(begins), 1)
    held, before, best, known = 0.0, 0, None, -1
    for threshold, answered, errors in answered_at(probability, wrong):
        held, before = held + part * sum(before < begin <= answered for begin in begins), answered
        clears = errors == known  # as with fewer videos, which were cleared
        if held and not clears and errors <= max_error * answered:
            clears = at_most(errors, answered, max_error) <= held * (1 + 1e-12)
        if clears:
            best, known = threshold, errors
        else:
            held, known = 0.0, -1
    return best


def _observed(probability: Tensor, wrong: Tensor, max_error: float) -> float | None:
    """The lowest threshold that keeps to an error on these videos themselves; None where there is none."""
    kept = [t for t, answered, errors in answered_at(probability, wrong) if errors <= max_error * answered * (1 + 1e-9)]
    return kept[-1] if kept else None


def answered_at(probability: Tensor, wrong: Tensor) -> list[tuple[float, int, int]]:
    """From high to low: each probability, and how many videos reach it, and how many of these are wrong.

    Args:
        probability: Of the answer that each video is given, float (N,).
        wrong: Whether it is wrong, bool (N,).

    Example:
        >>> answered_at(torch.tensor([0.5, 0.75, 0.5]), torch.tensor([True, False, False]))
        [(0.75, 1, 0), (0.5, 3, 1)]
    """
    ordered, order = probability.sort(descending=True)
    errors = wrong[order].cumsum(0)
    last = torch.ones_like(wrong)
    last[:-1] = ordered[1:] != ordered[:-1]  # videos of one probability are answered together
    ends = last.nonzero()[:, 0]
    return list(zip(ordered[ends].tolist(), (ends + 1).tolist(), errors[ends].tolist(), strict=True))


def _measured(reject: Reject, probability: Tensor, wrong: Tensor) -> Reject:
    """With the share of the videos that is answered, and of the wrong ones among these."""
    given = probability >= reject_level(reject)
    return replace(reject, answered=float(given.double().mean()), error=float(wrong[given].double().mean()))


def _without_errors(max_error: float, error: float) -> int:
    """How many answered videos clear an error if none of them is wrong."""
    return math.ceil(math.log(error) / math.log1p(-max_error) - 1e-12)


def _offer(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    error, answered, needed = value
    return FITS["lost"](error) and error is not None and FITS["lost"](answered) and FITS["videos"](needed)


def _share(value: object) -> bool:
    return value is not None and FITS["lost"](value)


_FITS = {name: FITS[name] for name in ("confidence", "split", "videos", "recordings", "chosen_by", "listing")} | {
    "max_error": lambda x: _share(x) and 0 < x < 1,
    "threshold": FITS["lost"],
    "answered": _share,
    "error": FITS["lost"],
    "offers": lambda x: isinstance(x, list | tuple) and len(x) <= 100 and all(map(_offer, x)),
}
