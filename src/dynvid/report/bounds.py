"""What chance and hindsight would make of the same exits: bounds to hold a curve of early exit against.

Either is a line that is concave in the mean cost per video, given by its corners; `height` reads it at a cost. Costs
are GMACs, or milliseconds all the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Corner(NamedTuple):
    """A point where such a line bends: mean GMACs per video, and the share of the videos that are right."""

    gmacs: float
    accuracy: float


def random_exit(gmacs: Sequence[float], accuracy: Sequence[float]) -> list[Corner]:
    """The best that can be had without looking at a video.

    Each video is sent to an exit that is drawn at random, with the shares that are right most often among those that
    cost at most so much in the mean: the upper concave hull of the static exits, level after its highest point.

    Args:
        gmacs: Cumulative cost of each exit, K numbers, ascending.
        accuracy: Share of the videos that each exit gets right.

    Example:
        >>> random_exit([1.0, 2.0, 3.0], [0.5, 0.6, 0.9])  # the middle exit is worth less than a mixture of the others
        [Corner(gmacs=1.0, accuracy=0.5), Corner(gmacs=3.0, accuracy=0.9)]
    """
    corners: list[Corner] = []
    for point in map(Corner, gmacs, accuracy):
        if corners and point.accuracy <= corners[-1].accuracy:
            continue  # dearer, and right no more often than what is there
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def oracle_exit(gmacs: Sequence[float], correct: NDArray[np.bool_]) -> list[Corner]:
    """The best that can be had by whoever knows the labels.

    A video that some exit gets right leaves at the first one that does, as far as the cost allows, the cheapest of them
    before the dearer ones; all others leave at the first exit. At the last corner every such video does.

    Args:
        gmacs: Cumulative cost of each exit, K numbers, ascending.
        correct: Whether each exit gets each video right, (K, N).

    Example:
        >>> oracle_exit([1.0, 3.0], np.array([[True, False], [False, True]]))
        [Corner(gmacs=1.0, accuracy=0.5), Corner(gmacs=2.0, accuracy=1.0)]
    """
    exits, videos = correct.shape
    first = np.where(correct.any(0), correct.argmax(0), exits)
    shares = np.bincount(first, minlength=exits + 1)[:exits] / videos
    spent = gmacs[0] + np.cumsum(shares * (np.asarray(gmacs) - gmacs[0]))
    return [
        Corner(float(cost), float(right))
        for k, (cost, right) in enumerate(zip(spent, np.cumsum(shares), strict=True))
        if k == 0 or shares[k]
    ]


def height(corners: Sequence[Corner], gmacs: float) -> float:
    """The share of the videos that are right at a mean cost; level before the first corner and after the last.

    Example:
        >>> height([Corner(1.0, 0.5), Corner(3.0, 0.9)], 2.0)
        0.7
    """
    return float(np.interp(gmacs, [c.gmacs for c in corners], [c.accuracy for c in corners]))


def _slope(left: Corner, right: Corner) -> float:
    return (right.accuracy - left.accuracy) / (right.gmacs - left.gmacs)
