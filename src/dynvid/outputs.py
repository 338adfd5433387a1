"""What a net answered at every exit, video by video: recorded once, as a Parquet table, and worked on from there.

Calibration and reports are functions of this table: they need neither the videos nor the net.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dynvid import strict_json
from dynvid.calibration import ChosenBy, OperatingPoint, Reject, find_reject, listing_of, reject_level
from dynvid.errors import InputError, MissingFileError
from dynvid.multilabel import mistakes, multi_hot, plain_labels
from dynvid.policy import SCORE_NAMES, ThresholdPolicy, choose_exits
from dynvid.profile import Profile, read_profiles
from dynvid.routes import Exit, Route, check_route
from dynvid.text import printable
from dynvid.whole import write_whole

__all__ = ["OUT_OF_FOLD", "Outputs", "listing_of", "pooled", "recordings_of"]

OUT_OF_FOLD = "out-of-fold"  # a split: each video answered by a net that was trained without its recording
_KEY = b"dynvid"  # of the table's metadata
_VERSION, _VERSION_OF_SETS = 1, 2  # so that older versions of dynvid refuse in one line what they cannot know


@dataclass(frozen=True)
class Outputs:
    """The answers of a net at all K exits to N videos, and the policy that was in force.

    Attributes:
        logits: Of all exits, float (K, N, classes).
        labels: int64 (N,), -1 where unknown; of sets, 0 and 1 (N, classes), rows of -1 where unknown.
        paths: N files or folders of frames; bytes that are no UTF-8 are escaped as text.
        recordings: The recording that each video was cut from; its own path where it is its own.
        route: The K exits.
        gmacs: Cumulative GMACs per video up to each exit, heads on the way included, K numbers.
        full_gmacs: GMACs of full inference, with the last head only.
        policy: Thresholds, score, temperatures, and whether labels are sets.
        point: What these thresholds were asked to do; None where they were not calibrated.
        split: Such as `val` or `test`; `out-of-fold` where nets of folds answered.
        class_names: Names of the classes, where they are known.
        weights: A name for the weights of the net that these outputs are of, or, out of fold, are to calibrate.
        run: What else a reader wants to know of the run, as plain data.
        profiles: What the exits cost in milliseconds, as far as that was measured.
        reject: Which answers are withheld; None where none are.
        background: The class of videos that show none of the others; None where there is none.

    Example:
        >>> outputs = Outputs(
        ...     logits=torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]), labels=torch.tensor([1]), paths=["a.mp4"],
        ...     recordings=["a.mp4"], route=(Exit(2, 1), Exit(4, 1)), gmacs=(1.0, 2.0), full_gmacs=1.9,
        ...     policy=ThresholdPolicy(thresholds=[0.9, 0.0]), point=None, split="test", class_names=["x", "y"],
        ... )
        >>> outputs.predicted, outputs.taken
        (tensor([[0],
            [1]]), tensor([1]))
    """

    logits: Tensor
    labels: Tensor
    paths: list[str]
    recordings: list[str]
    route: Route
    gmacs: tuple[float, ...]
    full_gmacs: float
    policy: ThresholdPolicy
    point: OperatingPoint | None
    split: str
    class_names: list[str] | None = None
    weights: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    reject: Reject | None = None
    background: str | None = None

    @property
    def labelled(self) -> bool:
        """Whether all labels are known."""
        return bool((self.labels >= 0).all())

    @property
    def profile(self) -> Profile | None:
        """The profile that costs are shown in: the one that the point went by, else the newest."""
        by = "" if self.point is None else self.point.profile
        same = [profile for profile in self.profiles if str(profile) == by]
        return next(reversed(same or self.profiles), None)

    @cached_property
    def scores(self) -> Tensor:
        """How sure each exit is of each video, (K, N)."""
        return self.policy.score(self.logits)

    @property
    def multi_label(self) -> bool:
        """Whether labels are sets."""
        return self.policy.multi_label

    @cached_property
    def predicted(self) -> Tensor:
        """The label that each exit gives each video, int64 (K, N); of sets, bool (K, N, classes)."""
        return self.policy.answers(self.logits)

    @cached_property
    def probabilities(self) -> Tensor:
        """The probability of that label, (K, N)."""
        # Exit by exit, to hold few of them at once.
        return torch.stack([self.policy.probability(k, x) for k, x in enumerate(self.logits)])

    @cached_property
    def correct(self) -> Tensor:
        """Whether it is right, a set in all its names, bool (K, N)."""
        return mistakes(self.predicted, self.labels) == 0

    @cached_property
    def taken(self) -> Tensor:
        """The position of the exit that each video takes, int64 (N,)."""
        return self.policy.choose(self.logits)

    @property
    def answered(self) -> Tensor:
        """Whether each video is given the answer of the exit that it takes, or that is withheld, bool (N,)."""
        return self.probabilities.gather(0, self.taken[None])[0] >= reject_level(self.reject)

    def rejected(self, max_error: float, confidence: float | None, chosen_by: ChosenBy = "nothing") -> Reject:
        """Which of the answers that the policy leads to are to be withheld; see `dynvid.calibration.find_reject`.

        Raises:
            ValueError: A label is missing, or a number is out of its range.
        """
        if not self.labelled:
            raise InputError("max_error needs labels, which these videos do not have: nobody can tell what is wrong")
        taken = self.taken[None]
        probability, wrong = self.probabilities.gather(0, taken)[0], ~self.correct.gather(0, taken)[0]
        found = find_reject(probability, wrong, max_error, self.recordings, confidence, self.split, chosen_by)
        return replace(found, listing=listing_of(self.paths))

    def lost(self, with_labels: bool) -> Tensor:
        """Whether a video is lost if it takes an exit, bool (K, N).

        Args:
            with_labels: Lost is what full inference gets right and this exit wrong; of sets, what has more wrong names
                by this exit than by full inference. Else it is what this exit gives another label than full inference.
        """
        # With one name each there is one mistake at most, so both definitions are this one.
        wrong = mistakes(self.predicted, self.labels if with_labels else self.predicted[-1])
        return wrong > wrong[-1]

    def differing(self, thresholds: Tensor) -> float:
        """Share of the videos that these thresholds (K,) give another label than full inference does."""
        taken = choose_exits(self.scores, thresholds)
        return float(self.lost(with_labels=False).gather(0, taken[None]).double().mean())

    def of(self, chosen: Tensor) -> Self:
        """Some of the videos: bool (N,)."""
        rows = chosen.nonzero().squeeze(1)
        return replace(
            self,
            logits=self.logits[:, rows],
            labels=self.labels[rows],
            paths=[self.paths[row] for row in rows.tolist()],
            recordings=[self.recordings[row] for row in rows.tolist()],
        )

    def under(self, policy: ThresholdPolicy, point: OperatingPoint | None, reject: Reject | None = None) -> Self:
        """The same answers under another policy."""
        return replace(self, policy=policy, point=point, reject=reject)

    def save(self, path: str | Path) -> None:
        """Write the table, whole or not at all.

        Its columns are `path`, `label`, `recording`, for each exit, such as 4x2 (frames x depth), `label_4x2`,
        `probability_4x2`, `score_4x2` and `logits_4x2`, and `exit` (the position of the exit taken, from 1), `gmacs`
        and `answered`. Labels that are sets are lists of classes. What belongs to no single video is JSON in the
        table's metadata under `dynvid`.

        Raises:
            InputError: It cannot be written.
        """
        columns: dict[str, Any] = {
            "path": pa.array(map(_text, self.paths), pa.string()),
            "label": self._column(self.labels),
            "recording": pa.array(map(_text, self.recordings), pa.string()),
        }
        logits = self.logits.float().cpu()
        for k, (frames, depth) in enumerate(self.route):
            name = f"{frames}x{depth}"
            columns[f"label_{name}"] = self._column(self.predicted[k])
            columns[f"probability_{name}"] = self.probabilities[k].float().cpu().numpy()
            columns[f"score_{name}"] = self.scores[k].float().cpu().numpy()
            flat = pa.array(logits[k].flatten().numpy())
            columns[f"logits_{name}"] = pa.FixedSizeListArray.from_arrays(
                flat, type=pa.list_(pa.float32(), logits.shape[-1])
            )
        columns["exit"] = self.taken.cpu().numpy() + 1
        columns["gmacs"] = np.asarray(self.gmacs)[self.taken.cpu().numpy()]
        columns["answered"] = self.answered.cpu().numpy()
        about = {
            "version": _VERSION_OF_SETS if self.multi_label else _VERSION,
            "split": self.split,
            "route": [list(cell) for cell in self.route],
            "gmacs": list(self.gmacs),
            "full_gmacs": self.full_gmacs,
            "class_names": self.class_names,
            "weights": self.weights,
            "score": self.policy.score_name,
            "thresholds": [strict_json.named(x) for x in self.policy.thresholds.tolist()],
            "temperatures": list(self.policy.temperatures),
            "point": None if self.point is None else self.point.plain(),
            "run": self.run,
            "profiles": [profile.plain() for profile in self.profiles],
            "reject": None if self.reject is None else self.reject.plain(),
            "background": self.background,
        }
        table = pa.table(columns).replace_schema_metadata({_KEY: strict_json.dumps(about).encode()})
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        write_whole(path, file.getbuffer())

    def _column(self, labels: Tensor) -> Any:
        """Labels of the videos as a column: classes, or lists of them."""
        return pa.array(plain_labels(labels), pa.list_(pa.int64())) if self.multi_label else labels.cpu().numpy()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or no table of dynvid; the message names the file.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"{printable(path)}: no such file; `dynvid validate` and `test` write such files")
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {}).get(_KEY, b"null"))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{printable(path)}: cannot be read, it is damaged or no Parquet file") from error
        if not isinstance(about, dict) or about.get("version") not in (_VERSION, _VERSION_OF_SETS):
            raise InputError(f"{printable(path)}: not written by dynvid, or by another version of it")
        try:
            return cls._read(table, about)
        except (AttributeError, InputError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{printable(path)}: its parts do not fit together: {printable(error)}") from error

    @classmethod
    def _read(cls, table: pa.Table, about: dict[str, Any]) -> Self:
        cells = [Exit(int(frames), int(depth)) for frames, depth in about["route"]]
        route = check_route(cells, *cells[-1])
        score, names = about["score"], about["class_names"]
        if score not in SCORE_NAMES:
            raise InputError(f"score {score!r} is unknown")
        multi_label, logits = about["version"] == _VERSION_OF_SETS, []
        for frames, depth in route:
            name = f"logits_{frames}x{depth}"
            classes = getattr(table.schema.field(name).type, "list_size", 0)
            flat = _column(table, name, pa.list_(pa.float32(), classes)).flatten()
            logits.append(torch.from_numpy(flat.to_numpy().copy()).reshape(-1, classes))
        gmacs, full_gmacs = tuple(float(x) for x in about["gmacs"]), float(about["full_gmacs"])
        if len(gmacs) != len(route) or (names is not None and len(names) != logits[0].shape[1]):
            raise InputError("the route, the costs and the class names have other lengths")
        if not (0 < full_gmacs < np.inf and gmacs[0] > 0 and gmacs[-1] < np.inf and np.all(np.diff(gmacs) > 0)):
            raise InputError("the costs are not finite numbers above 0 that grow from exit to exit")
        if names is not None and not all(isinstance(name, str) for name in names):
            raise InputError("class_names are no names")
        thresholds = [float(x) for x in about["thresholds"]]
        if any(x != x for x in thresholds):
            raise InputError("a threshold is no number")
        labels = _sets(table, classes) if multi_label else _classes(table, classes)
        background = about.get("background")  # older tables lack it, and reject
        if background is not None and not (isinstance(background, str) and background in (names or ())):
            raise InputError("background is no class")
        order = about["run"].get("frame_order", [])
        if not (isinstance(order, list) and all(type(frame) is int for frame in order)):
            raise InputError("frame_order is no list of frames")
        return cls(
            logits=torch.stack(logits),
            labels=labels,
            paths=_column(table, "path", pa.string()).to_pylist(),
            recordings=_column(table, "recording", pa.string()).to_pylist(),
            route=route,
            gmacs=gmacs,
            full_gmacs=full_gmacs,
            policy=ThresholdPolicy(
                thresholds=thresholds,
                num_exits=len(route),
                score=score,
                temperatures=about["temperatures"],
                multi_label=multi_label,
            ),
            point=None if about["point"] is None else OperatingPoint.from_plain(about["point"]),
            split=str(about["split"]),
            class_names=names,
            weights=str(about["weights"]),
            run=dict(about["run"]),
            profiles=read_profiles(about.get("profiles"), route),
            reject=None if about.get("reject") is None else Reject.from_plain(about["reject"]),
            background=background,
        )


def pooled(parts: Sequence[Outputs]) -> Outputs:
    """Outputs of several nets of one kind as one table; what belongs to no single video is that of the first.

    Example:
        >>> parts = [Outputs(
        ...     logits=torch.tensor([[[1.0, 0.0]]]), labels=torch.tensor([k]), paths=[name], recordings=[name],
        ...     route=(Exit(2, 1),), gmacs=(1.0,), full_gmacs=1.0, policy=ThresholdPolicy(1), point=None, split="val",
        ... ) for k, name in enumerate(["a.mp4", "b.mp4"])]
        >>> pooled(parts).paths, pooled(parts).labels
        (['a.mp4', 'b.mp4'], tensor([0, 1]))
    """
    return replace(
        parts[0],
        logits=torch.cat([part.logits for part in parts], dim=1),
        labels=torch.cat([part.labels for part in parts]),
        paths=[path for part in parts for path in part.paths],
        recordings=[recording for part in parts for recording in part.recordings],
    )


def recordings_of(paths: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The recording of each video: its group, or its own path where it has none."""
    return [group or path for path, group in zip(paths, groups, strict=True)]


def _classes(table: pa.Table, classes: int) -> Tensor:
    """The labels, int64 (N,)."""
    values = _column(table, "label", pa.int64()).to_numpy()
    if len(values) and not (values.min() >= -1 and values.max() < classes):
        raise InputError("a label is no class")
    return torch.from_numpy(values.copy())


def _sets(table: pa.Table, classes: int) -> Tensor:
    """The labels that are sets, int64 (N, classes)."""
    column = table["label"].combine_chunks()
    if not pa.types.is_list(column.type) or column.type.value_type != pa.int64():
        raise InputError(f"column label is of type {column.type}, not a list of classes")
    inside = column.flatten()
    if inside.null_count or not all(0 <= label < classes for label in inside.unique().to_pylist()):
        raise InputError("a label is no class")
    return multi_hot([-1 if label is None else tuple(label) for label in column.to_pylist()], classes)


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    """A column that is of one type and complete."""
    column = table[name].combine_chunks()
    if column.type != kind or column.null_count:
        raise InputError(f"column {name} is of type {column.type}, not {kind}, or has gaps")
    return column


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
