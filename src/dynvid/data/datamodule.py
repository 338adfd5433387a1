"""What all data modules share: from lists of videos to loaders."""

import gc
import math
import os
import random
import warnings
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, WeightedRandomSampler

from dynvid.data.address import place_at
from dynvid.data.dataset import (
    OnError,
    Split,
    UnreadVideos,
    Video,
    VideoDataset,
    by_path,
    classes_of,
    collate,
    count_classes,
)
from dynvid.data.features import FeatureDataset, Features
from dynvid.data.files import find_all, read_excluded, whole_path, write_missing
from dynvid.data.overview import doubts
from dynvid.data.sampling import Sampling
from dynvid.data.transforms import (
    Transform,
    decode_size,
    eval_transform,
    mixup,
    three_crop_transform,
    train_transform,
)
from dynvid.errors import DynvidError, InputError, MissingFileError
from dynvid.text import printable

T = TypeVar("T")
Recording = tuple[str, str]  # a group, or the path of a video that is its own
_PREDICTED_AT_ONCE = 32  # batches: the last steps of a pool, which are not full, are few among so many
_STATE = {"trainer", "class_names", "missing", "excluded", "skipped", "features"}  # what is no argument


class VideoDataModule(pl.LightningDataModule, ABC):
    """Loaders for training, validation, test and prediction over labelled videos.

    A subclass says what the annotations list (`listed`) and what the classes are called (`class_names`);
    everything else is here. Where the data has no validation split, some of train is kept back for it (`carve`).
    Batches are those of `dynvid.data.collate`, without "skipped". Prediction runs on the test videos. The data sets
    take the arguments below by keyword and describe their own only.

    What is listed but missing is left out, up to `max_missing`: said in one line, and listed by name in
    `missing_<split>.txt` beside the trainer's logs.

    Args:
        root: Folder that holds the data, or its address in object storage, such as `s3://bucket/videos`.
        num_frames: Frames per video.
        size: Height and width of the frames, in pixels.
        batch_size: Videos per batch.
        num_workers: Decoding processes per loader; None takes one per CPU, up to 8.
        hflip: Mirror training clips at random. False where left and right carry the label.
        mixup: Mix training clips of a batch with shares from Beta(mixup, mixup); 0 for none.
        on_error: "raise" stops at a video that cannot be read, "skip" leaves it out and warns at the end; a batch of
            which nothing can be read stops the run all the same, so run `dynvid check` first.
        max_missing: Share of the listed videos that may be missing, in [0, 1].
        exclude: CSV file of videos to leave out, such as the `unreadable.csv` of `dynvid check`.
        val_fraction: Share of the training sources to validate on, in (0, 1), where the data has no validation split.
        seed: Seed of that choice.
        test_clips: Clips per video in the test of a static net, 10 in most published tables.
        test_crops: Crops per clip there, 1 or 3. With more than one view in all, test batches hold videos of
            `(B, V, T, C, H, W)`, V = crops x clips, whose probabilities are to be averaged.
        sampling: Which frame of each segment is taken in evaluation: the one at its centre ("center"), or the one that
            is cheapest to decode ("cheap").
        balanced: Draw training videos so that all classes come equally often, those of rare classes again and again;
            an epoch is as long as without. Or weigh the loss instead (`ExitLoss(class_weights="balanced")`). A video of
            several classes is drawn as often as the rarest of them asks; one of none as if that were a class.
        background: The class of videos that show none of the others, as it is named. It is trained as any class;
            timelines make no event of it, and reports count false alarms and what it took from the others.

    Attributes:
        multi_label: Whether labels are sets.
        fold: `(k, n)`: the recordings of train and val together are divided into n folds (`folds_of`), of which the kth
            takes the place of val and the others that of train; `(0, n)` trains on all of them, without val. None for
            the splits as they are.
        missing: `{split: names}` of the listed videos that are not on disk.
        excluded: `{split: paths}` of the videos left out by `exclude`.
        skipped: `{path: reason}` of the unreadable videos left out so far.
        features: Those of a frozen backbone, which training and validation videos are then taken from.
    """

    multi_label = False

    def __init__(
        self,
        root: str | Path,
        num_frames: int = 16,
        size: int = 224,
        batch_size: int = 16,
        num_workers: int | None = None,
        hflip: bool = True,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, fits, meant in (
            ("num_frames", num_frames, num_frames >= 1, "1 or more"),
            ("size", size, size >= 1, "1 or more"),
            ("batch_size", batch_size, batch_size >= 1, "1 or more"),
            ("num_workers", num_workers, num_workers is None or num_workers >= 0, "0 or more"),
            ("mixup", mixup, 0 <= mixup < math.inf, "0 or more, and finite"),
            ("on_error", on_error, on_error in get_args(OnError), "raise or skip"),
            ("max_missing", max_missing, 0 <= max_missing <= 1, "from 0 to 1"),
            ("val_fraction", val_fraction, 0 < val_fraction < 1, "between 0 and 1"),
            ("test_clips", test_clips, test_clips >= 1, "1 or more"),
            ("test_crops", test_crops, test_crops in (1, 3), "1 or 3"),
            ("sampling", sampling, sampling in get_args(Sampling), "center or cheap"),
        ):
            if not fits:  # nor does nan
                raise InputError(f"{name}={printable(value)}: {meant}")
        self.min_area = 0.25  # of a training crop
        self.root = place_at(root)
        self.num_frames = num_frames
        self.size = size
        self.batch_size = batch_size
        self.num_workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
        self.hflip = hflip
        self.mixup = mixup
        self.on_error = on_error
        self.max_missing = max_missing
        self.exclude = exclude
        self.val_fraction = val_fraction
        self.seed = seed
        self.test_clips = test_clips
        self.test_crops = test_crops
        self.sampling = sampling
        self.balanced = balanced
        self.background = background
        self.fold: tuple[int, int] | None = None
        self.missing: dict[Split, list[str]] = {}
        self.excluded: dict[Split, list[str]] = {}
        self.skipped: dict[str, str] = {}
        self.features: Features | None = None
        self._ready: dict[Split, list[Video]] = {}  # what `setup` found,
        self._ready_for = ""  # and with which arguments: by hand, they may change before the loaders are made
        self._had: dict[tuple[Hashable, ...], Any] | None = None  # in one look at lists and folders
        self._together: tuple[Split, ...] = ()  # splits whose videos that look is for
        self._said: set[str] = set()

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""

    @abstractmethod
    def listed(self, split: Split) -> list[Video]:
        """The videos that the annotations list for a split, in a fixed order, on disk or not.

        Their paths are what `find` takes. Empty for val where the data has none.
        """

    def find(self, paths: Collection[str]) -> dict[str, str]:
        """Where listed videos are: by default, files or folders of that name anywhere below `root`."""
        # One walk finds those of all splits that are looked for.
        everywhere = self._once(find_all, self.root, self._once(self._names).union(paths))
        wanted = paths if isinstance(paths, Set) else set(paths)
        found = {name: places for name, places in everywhere.items() if name in wanted}
        doubled = [places for places in found.values() if len(places) > 1]
        several = [places for places in doubled if len(set(map(os.path.realpath, places))) > 1]
        if several:
            first, second, *_ = map(printable, several[0])
            self._say(
                f"{printable(self.root)}: {len(several)} names are found in several places, such as {first} and "
                f"{second}; the first of each is taken"
            )
        return {name: places[0] for name, places in found.items()}

    def _names(self) -> frozenset[str]:
        """What is listed for the splits that are looked for together, as far as their lists can be read."""
        names: set[str] = set()
        for split in self._together:
            with suppress(DynvidError):
                names.update(video.path for video in self._once(self.listed, split))
        return frozenset(names)

    @contextmanager
    def _one_look(self, *splits: Split) -> Iterator[None]:
        """Within it, `_once` keeps what it had; the videos of all these splits are found in one walk."""
        if self._had is not None:  # a part of another
            yield
            return
        self._had, self._together = {}, splits
        collecting = gc.isenabled()
        gc.disable()  # looking for circles among ever more videos, where there are none, takes as long as listing them
        try:
            yield
        finally:
            self._had, self._together = None, ()
            if collecting:
                gc.enable()

    def _once(self, ask: Callable[..., T], *arguments: Hashable) -> T:
        """What a function of lists or folders gives: asked once in one look at the data."""
        if self._had is None:
            return ask(*arguments)
        if (ask, *arguments) not in self._had:
            self._had[ask, *arguments] = ask(*arguments)
        found: T = self._had[ask, *arguments]
        return found

    @property
    def _to_correct(self) -> str:
        """What to correct where videos are missing."""
        return f"correct `root` ({printable(self.root)})"

    def videos(self, split: Split) -> list[Video]:
        """The videos of a split, in a fixed order, less the missing and the excluded.

        Raises:
            FileNotFoundError: More than `max_missing` of a list is missing; says how much and names the first.
        """
        if not self.root.exists():
            raise MissingFileError(f"{printable(self.root)} does not exist: set `root` to where the videos are")
        fold = None if split == "test" else self.fold
        with self._one_look(split):
            carved = split != "test" and fold is None and not self._once(self.listed, "val")
            sources: tuple[Split, ...] = ("train", "val") if fold else ("train",) if carved else (split,)
            listed = [video for source in sources for video in self._once(self.listed, source)]
            path_of = self._once(self._found, *sources)
        missing = [video.path for video in listed if video.path not in path_of]
        if len(missing) > self.max_missing * len(listed):
            share = f"{len(missing) / len(listed):.1%}"
            raise MissingFileError(
                f"{len(missing)} of {len(listed)} listed {' and '.join(sources)} videos ({share}) are missing: "
                f"{_some(missing)}; "
                f"{self._to_correct}, or raise `max_missing` to do without them"
            )
        # From the list, so that the split does not depend on what is missing.
        if fold:
            numbers = folds_of(listed, fold[1], self.seed)
            listed = [video for video, k in zip(listed, numbers, strict=True) if (k == fold[0]) == (split == "val")]
        elif carved:
            listed = carve(listed, self.val_fraction, self.seed)[split == "val"]
        found = [_at(path_of[video.path], video) for video in listed if video.path in path_of]
        excluded = read_excluded(self.exclude) if self.exclude else set()
        kept = [video for video in found if whole_path(video.path) not in excluded] if excluded else found
        self.missing[split] = [video.path for video in listed if video.path not in path_of]
        self.excluded[split] = (
            sorted({video.path for video in found} - {video.path for video in kept}) if excluded else []
        )
        return kept

    def _found(self, *sources: Split) -> dict[str, str]:
        return self.find({video.path for source in sources for video in self._once(self.listed, source)})

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def setup(self, stage: str) -> None:
        """Say before training how many videos there are, split by split, and how many of the listed are left out."""
        self._ready = {}
        if self.background is not None and self.background not in self.class_names:
            raise InputError(f"background={printable(self.background)}: no class, which are {_some(self.class_names)}")
        if self.background is not None and self.multi_label:
            raise InputError("background beside multi_label: of sets, the empty one says that; leave background out")
        if stage == "fit":
            with self._one_look("train", "val", "test"):
                found: dict[Split, list[Video]] = {"train": self.videos("train")}
                others: tuple[Split, ...] = ("val", "test")
                for split in others:
                    with suppress(DynvidError):  # said by its loader: training may do without
                        found[split] = self.videos(split)
            counted = []
            for split, videos in found.items():
                left = len(self.missing[split]) + len(self.excluded[split])
                if videos or left:
                    counted.append(f"{split} {len(videos)}" + (f" ({left} left out)" if left else ""))
            classes = f"{self.num_classes} class{'es' if self.num_classes > 1 else ''}"
            rank_zero_info(f"{', '.join(counted)} videos of {classes}")
            for line in doubts(found, self.num_classes):
                rank_zero_info(f"warning: {line}")
            self._ready, self._ready_for = found, self._arguments()

    def class_counts(self) -> list[int]:
        """Training videos of each class."""
        counts = count_classes(self._known("train"))
        return [counts[label] for label in range(self.num_classes)]

    def num_training_videos(self) -> int:
        """How many there are; their classes have more together, or fewer, where labels are sets."""
        return len(self._known("train"))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training videos; an incomplete last batch is left out unless it is the only one."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation videos in their order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test videos in their order, with `test_clips` x `test_crops` views of each."""
        return self._loader("test", self.test_clips, self.test_crops)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test videos by their paths, in batches `{"path": list of str, "index": int64 (B,)}`: nothing is read yet.

        Prediction decodes each only as far as it needs, `batch_size` of them together, by `num_workers` threads.
        """
        return DataLoader(
            UnreadVideos(self._videos_for("test")), batch_size=_PREDICTED_AT_ONCE * self.batch_size, collate_fn=by_path
        )

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Take "skipped" off the batch and record it."""
        self.skipped |= batch.pop("skipped", {})
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Mix training clips where `mixup` asks for it, on the device; labels become probabilities (B, classes)."""
        if self.mixup and self.trainer and self.trainer.training:
            batch["video"], batch["label"] = mixup(batch["video"], batch["label"], self.num_classes, self.mixup)
        return batch

    def teardown(self, stage: str) -> None:
        """Say how many videos were left out, and which."""
        self._ready, self.features = {}, None
        if self.skipped:
            reasons = list(self.skipped.values())
            warnings.warn(f"{len(reasons)} unreadable video(s) left out: {_some(reasons)}", stacklevel=2)

    def views(self) -> dict[str, set[bool]]:
        """By path, the views of a training or validation video that features are computed of: `True` is mirrored."""
        train = {video.path: {False, True} if self.hflip else {False} for video in self._known("train")}
        with suppress(DynvidError):  # said by its loader
            return {video.path: {False} for video in self._known("val")} | train
        return train

    def digests(self) -> dict[str, str]:
        """By path, SHA-256 of what is in videos, in hexadecimal, where it is known without reading them."""
        return {}

    def frames(self, paths: Sequence[str]) -> DataLoader[Any]:
        """Frames of videos as evaluation takes them: batches are lists of items, and of `Skipped`, in this order."""
        dataset = self._dataset([Video(path, 0) for path in paths], eval_transform(self.size), on_error="skip")
        return DataLoader(dataset, self.batch_size, num_workers=self.num_workers, collate_fn=list)

    def _dataset(self, videos: Sequence[Video], transform: Transform, **arguments: Any) -> VideoDataset:
        return VideoDataset(
            videos,
            num_frames=self.num_frames,
            transform=transform,
            short_side=decode_size(self.size),
            sampling=self.sampling,
            **arguments,
        )

    def _loader(self, split: Split, clips: int = 1, crops: int = 1) -> DataLoader[Any]:
        train = split == "train"
        videos = self._videos_for(split)
        classes = self.num_classes if self.multi_label else None
        dataset: VideoDataset | FeatureDataset
        if self.features is not None and split != "test":
            dataset, num_workers = FeatureDataset(videos, self.features, train and self.hflip, classes), 0
        else:
            evaluate = eval_transform if crops == 1 else three_crop_transform
            transform = train_transform(self.size, self.hflip, self.min_area) if train else evaluate(self.size)
            dataset = self._dataset(
                videos, transform, train=train, clips=clips, on_error=self.on_error, classes=classes
            )
            num_workers = self.num_workers
        sampler = None
        if train and self.balanced:
            counts = count_classes(videos)
            weights = [max(1 / counts[label] for label in classes_of(video)) for video in videos]
            sampler = WeightedRandomSampler(weights, len(videos))
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=train and sampler is None,
            sampler=sampler,
            drop_last=train and len(dataset) > self.batch_size * (self.trainer.world_size if self.trainer else 1),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )

    def _videos_for(self, split: Split) -> list[Video]:
        """The videos that a loader is for; what is left out is said."""
        videos = self._known(split)
        self._report(split, len(videos))
        if not videos:
            raise InputError(f"{self.root}: no {split} videos; add some, or do without the {split} step")
        return videos

    def _known(self, split: Split) -> list[Video]:
        """The videos of a split, which `setup` may have found already."""
        ready = self._ready if self._ready_for == self._arguments() else {}
        return ready.get(split) or self.videos(split)

    def _arguments(self) -> str:
        """All arguments as they are now, in one text."""
        return repr({name: value for name, value in vars(self).items() if name[0] != "_" and name not in _STATE})

    def _say(self, line: str) -> None:
        """Say a line in the first process, once however often the videos are listed."""
        if line not in self._said:
            self._said.add(line)
            rank_zero_info(line)

    def _report(self, split: Split, kept: int) -> None:
        """Say in one line what is left out of a split, and list what is missing beside the logs."""
        log_dir = self.trainer.log_dir if self.trainer else None  # asks all processes: not below an if
        missing, excluded = self.missing[split], self.excluded[split]
        where = ""
        if missing and log_dir and self.trainer and self.trainer.is_global_zero:
            file = write_missing(missing, log_dir, split)
            where = f", listed in {file}"
        if missing or excluded:
            total = kept + len(missing) + len(excluded)
            rank_zero_info(f"{split}: {total} videos listed, {len(missing)} missing{where}, {len(excluded)} excluded")


def carve(videos: Sequence[Video], fraction: float, seed: int) -> tuple[list[Video], list[Video]]:
    """Split videos into training and validation parts by source group, class by class.

    Clips of one group stay together: they come from one recording, and a net that saw one knows the others. Videos of
    several classes count for each of them, and those of none are a class of their own.
    About `fraction` of the groups of each class go to validation: at least one where a class has two or more,
    never all. Where groups span classes, a class may go without so that none loses its last training group.

    Args:
        videos: What to split.
        fraction: Share of the groups, in (0, 1).
        seed: Equal seeds give equal splits.

    Returns:
        Training and validation videos, each in the order given.

    Raises:
        ValueError: `fraction` is not between 0 and 1.

    >>> videos = [Video(f"{group}{clip}.avi", 0, group) for group in "abcd" for clip in range(3)]
    >>> train, val = carve(videos, fraction=0.25, seed=0)
    >>> len(train), len(val), len({video.group for video in val})
    (9, 3, 1)
    """
    if not 0 < fraction < 1:
        raise InputError(f"the validation fraction must be between 0 and 1, not {fraction}")
    keys, labels_of, groups_of = _by_recording(videos)
    left = {label: len(groups) for label, groups in groups_of.items()}  # for training
    draw = random.Random(seed)
    held: set[Recording] = set()
    for label, groups in sorted(groups_of.items()):
        wanted = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        for key in draw.sample(sorted(groups), len(groups)):
            if len(groups) - left[label] >= wanted:
                break
            if key not in held and all(left[other] > 1 for other in labels_of[key]):  # no class loses its last group
                held.add(key)
                for other in labels_of[key]:
                    left[other] -= 1
    train = [video for video, key in zip(videos, keys, strict=True) if key not in held]
    return train, [video for video, key in zip(videos, keys, strict=True) if key in held]


def folds_of(videos: Sequence[Video], folds: int, seed: int) -> list[int]:
    """The fold of each video, from 1: folds by source group, as `carve` splits, and class by class.

    The groups of each class are dealt out, in an order that is drawn, each to the fold that has fewest of that class,
    and among those to the one with fewest videos. So where no group spans classes, the folds' numbers of groups of a
    class differ by at most one.

    Args:
        videos: What to divide.
        folds: How many, 2 or more.
        seed: Equal seeds give equal folds.

    Raises:
        ValueError: There are fewer than two folds, or more than groups.

    >>> videos = [Video(f"{group}{clip}.avi", 0, group) for group in "abcd" for clip in range(3)]
    >>> folds_of(videos, folds=2, seed=0)
    [1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1]
    """
    if folds < 2:
        raise InputError(f"folds={folds}: 2 or more")
    keys, labels_of, groups_of = _by_recording(videos)
    if folds > len(labels_of):
        raise InputError(f"folds={folds}: there are {len(labels_of)} recordings in train and val, and a fold needs one")
    sizes, draw = Counter(keys), random.Random(seed)
    fold_of: dict[Recording, int] = {}
    of_class, in_all = Counter[tuple[int, int]](), Counter[int]()
    for label, groups in sorted(groups_of.items()):
        for key in draw.sample(sorted(groups), len(groups)):
            if key not in fold_of:
                fold = min(range(1, folds + 1), key=lambda k: (of_class[label, k], in_all[k], k))
                fold_of[key] = fold
                in_all[fold] += sizes[key]
                of_class.update((other, fold) for other in labels_of[key])
    return [fold_of[key] for key in keys]


def _by_recording(
    videos: Sequence[Video],
) -> tuple[list[Recording], dict[Recording, tuple[int, ...]], dict[int, list[Recording]]]:
    """The recording of each video, the labels of each recording, and the recordings of each label."""
    # A video without a group is its own; the pair keeps its path apart from a group of that name.
    keys = [(video.group, "" if video.group else video.path) for video in videos]
    labels_of: dict[Recording, tuple[int, ...]] = {}
    groups_of: dict[int, list[Recording]] = defaultdict(list)
    for video, key in zip(videos, keys, strict=True):
        for label in classes_of(video):
            if label not in (labels := labels_of.get(key, ())):
                labels_of[key] = (*labels, label)
                groups_of[label].append(key)
    return keys, labels_of, groups_of


def _at(path: str, video: Video) -> Video:
    """The same video where it is found."""
    # `replace` takes three times as long.
    return Video(path, video.label, video.group) if type(video) is Video else replace(video, path=path)


def _some(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
