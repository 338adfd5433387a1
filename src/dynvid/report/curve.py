"""What sets of thresholds would lead to on recorded outputs, from cheap to dear."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynvid import strict_json
from dynvid.calibration import resampled_means
from dynvid.errors import InputError
from dynvid.outputs import Outputs
from dynvid.policy import choose_exits

CONFIDENCE = 0.95
Thresholds = Sequence[Sequence[float | str]] | Tensor
"""Sets of thresholds, (M, K); infinity may be spelt `inf`, as JSON has no other word for it."""


def curve_points(
    outputs: Outputs, right: Tensor, groups: Sequence[str] | None, measure: str, given: Thresholds | None
) -> list[dict[str, Any]]:
    """The points of the curve from cheap to dear, each with the interval of its accuracy."""
    rows = _rows(outputs.run.get("curve_thresholds") if given is None else given, len(outputs.route))
    if not len(rows):
        return []
    scores = outputs.scores.cpu()
    spent = {"gmacs": outputs.gmacs} | (
        {} if outputs.profile is None else {"milliseconds": outputs.profile.milliseconds}
    )
    hits, costs = [], []
    for row in rows:
        exit_taken = choose_exits(scores, row)
        hits.append(right.gather(0, exit_taken[None])[0])
        shares = np.bincount(exit_taken.numpy(), minlength=len(outputs.route)) / len(exit_taken)
        costs.append({name: float(shares @ np.asarray(of_exits)) for name, of_exits in spent.items()})
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled_means(torch.stack(hits), groups), [tail, 1 - tail], axis=0)
    return [
        {
            **costs[m],
            measure: float(hits[m].double().mean()),
            "interval": [float(low[m]), float(high[m])],
            "thresholds": [strict_json.named(x) for x in rows[m].tolist()],
        }
        for m in sorted(range(len(rows)), key=lambda m: costs[m]["gmacs"])
    ]


def _rows(given: Thresholds | None, exits: int) -> Tensor:
    """Sets of thresholds (M, K) without those that repeat the one before."""
    if given is None:
        return torch.empty(0, exits)
    try:
        listed = given.tolist() if isinstance(given, Tensor) else given
        if not len(listed):
            return torch.empty(0, exits)
        rows = torch.tensor([[float(x) for x in row] for row in listed])
    except (TypeError, ValueError) as error:
        raise InputError(f"curve_thresholds: not rows of numbers ({error})") from error
    if rows.shape[1:] != (exits,) or rows.isnan().any():
        raise InputError(f"curve_thresholds: {tuple(rows.shape)} numbers, not one for each of {exits} exits in a row")
    kept: Tensor = torch.unique_consecutive(rows, dim=0)
    return kept
