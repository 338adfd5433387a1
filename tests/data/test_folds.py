"""Folds by recording: how they are dealt, and what a data module makes of them."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynvid.data import Video, VideoFolderDataModule
from dynvid.data.datamodule import folds_of
from dynvid.data.overview import few_recordings
from dynvid.errors import InputError

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}


def recording(video: Video) -> tuple[str, str]:
    return (video.group, "") if video.group else ("", video.path)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60),
    st.integers(2, 6),
    st.integers(0, 5),
    st.booleans(),
)
def test_folds_divide_the_recordings_evenly(pairs: list[tuple[int, int]], folds: int, seed: int, shared: bool) -> None:
    """Group 0 is none; `shared` groups span classes."""
    videos = [
        Video(f"{n}.mp4", label, (f"g{group}" if shared else f"c{label}g{group}") if group else "")
        for n, (label, group) in enumerate(pairs)
    ]
    recordings = {recording(video) for video in videos}
    if folds > len(recordings):
        with pytest.raises(InputError, match=f"folds={folds}: there are {len(recordings)} recordings"):
            folds_of(videos, folds, seed)
        return
    numbers = folds_of(videos, folds, seed)
    assert numbers == folds_of(videos, folds, seed)
    assert set(numbers) == set(range(1, folds + 1))
    assert len({(recording(video), k) for video, k in zip(videos, numbers, strict=True)}) == len(recordings)
    if not shared:
        for label in range(4):
            own = {(recording(video), k) for video, k in zip(videos, numbers, strict=True) if video.label == label}
            counts = Counter(k for _, k in own)
            assert max(counts.values(), default=0) - min(counts[k] for k in range(1, folds + 1)) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_order_of_a_list() -> None:
    videos = [Video(f"{n}.mp4", n % 2, f"g{n // 4}" if n < 40 else "") for n in range(60)]
    fold_of = dict(zip((video.path for video in videos), folds_of(videos, 5, 0), strict=True))
    assert list(fold_of.values()) != folds_of(videos, 5, 1)
    mixed = random.Random(0).sample(videos, len(videos))
    assert {video.path: k for video, k in zip(mixed, folds_of(mixed, 5, 0), strict=True)} == fold_of


@pytest.mark.parametrize("folds", [-1, 0, 1])
def test_fewer_than_two_folds_are_none(folds: int) -> None:
    with pytest.raises(InputError, match=rf"folds={folds}: 2 or more"):
        folds_of([Video("a", 0), Video("b", 0)], folds, 0)


def test_classes_with_few_recordings_are_named() -> None:
    videos = [Video(f"{n}", 0) for n in range(5)] + [Video("x", 1, "tape"), Video("y", 1, "tape")]
    assert few_recordings(videos, ["run", "walk"], 1) is None
    assert few_recordings(videos, ["run", "walk"], 5) == (
        "1 of 2 classes have fewer recordings than there are folds (5), such as walk with 1; whoever answers the only "
        "one has not seen its class"
    )
    assert str(few_recordings(videos, ["run", "walk"], 6)).startswith("2 of 2")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 videos of 8 recordings in train, 4 of 2 in val and 2 in test, of two classes."""
    root = tmp_path_factory.mktemp("listed")
    rows = ["path,label,split,group"]
    for n in range(22):
        split = "train" if n < 16 else "val" if n < 20 else "test"
        rows.append(f"{n},{'xy'[n // 2 % 2]},{split},tape {n // 2}")
        (root / f"{n}").mkdir()
        for frame in range(2):
            Image.new("RGB", (32, 32), (n, 0, 0)).save(root / f"{n}" / f"{frame}.png")
    (root / "a.csv").write_text("\n".join(rows))
    return root


def test_a_fold_takes_the_place_of_val_and_leaves_test_alone(listed: Path) -> None:
    data = VideoFolderDataModule(listed, annotations="a.csv", **SMALL)
    everything = data.videos("train") + data.videos("val")
    test, answered = data.videos("test"), []
    for fold in range(1, 4):
        data.fold = (fold, 3)
        train, val = data.videos("train"), data.videos("val")
        assert sorted(train + val, key=str) == sorted(everything, key=str)
        assert not {video.group for video in train} & {video.group for video in val}
        assert data.videos("test") == test
        assert data.class_counts() == [sum(video.label == label for video in train) for label in range(2)]
        answered += val
    assert sorted(answered, key=str) == sorted(everything, key=str)
    data.fold = (0, 3)
    assert (data.videos("train"), data.videos("val")) == (everything, [])
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 20  # type: ignore[arg-type]


def test_what_is_missing_or_excluded_moves_nothing_to_another_fold(listed: Path) -> None:
    (listed / "bad.csv").write_text(f"path,reason\n{listed}/3,x\n")
    whole = VideoFolderDataModule(listed, annotations="a.csv", **SMALL)
    less = VideoFolderDataModule(listed, annotations="a.csv", exclude=listed / "bad.csv", max_missing=0.2, **SMALL)
    (listed / "9").rename(listed / "moved")
    try:
        for fold in range(1, 4):
            less.fold = (fold, 3)
            kept = {video.path for video in less.videos("val")}
            (listed / "moved").rename(listed / "9")
            whole.fold = (fold, 3)
            every = {video.path for video in whole.videos("val")}
            (listed / "9").rename(listed / "moved")
            assert kept == every - {str(listed / "3"), str(listed / "9")}
        less.max_missing = 0.0
        with pytest.raises(FileNotFoundError, match=r"1 of 20 listed train and val videos \(5.0%\) are missing: .*9;"):
            less.videos("train")
    finally:
        (listed / "moved").rename(listed / "9")
