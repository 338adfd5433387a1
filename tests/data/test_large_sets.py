"""How often lists are read and folders listed, and that nothing stale is given for it."""

import gc
import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import dynvid.data.files
from dynvid.data import KineticsDataModule, Video, VideoFolderDataModule, VideoListDataModule, carve
from dynvid.data.overview import doubts

from .conftest import WriteVideo

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}


class Nothing(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.layer(torch.zeros(1, 1)).sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """Two classes of four training videos and one to test on."""
    root = tmp_path_factory.mktemp("kinetics")
    (root / "annotations").mkdir()
    for split, file, count in (("train", "train.csv", 4), ("val", "validate.csv", 1)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for name in ("jump", "wave"):
            for i in range(count):
                write_video(root / split / name / f"{split}{name}{i}_000000_000010.mp4", frames=4, seed=i)
                lines.append(f"{name},{split}{name}{i},0,10,{split}")
        (root / "annotations" / file).write_text("\n".join(lines))
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Lists that were read and folders that were listed, by path."""
    counts: Counter[str] = Counter()
    read, scan, listing = dynvid.data.files.read_text, os.scandir, os.listdir

    def counting_read(file: Path, *rest: Any) -> str:
        counts[str(file)] += 1
        return read(file, *rest)

    def counting_scan(folder: Any = ".") -> Any:
        counts[str(folder)] += 1
        return scan(folder)

    def counting_listing(folder: Any = ".") -> Any:
        counts[str(folder)] += 1
        return listing(folder)

    monkeypatch.setattr(dynvid.data.files, "read_text", counting_read)
    monkeypatch.setattr(os, "scandir", counting_scan)
    monkeypatch.setattr(os, "listdir", counting_listing)
    return counts


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_fit_reads_each_list_and_lists_each_folder_once(
    kinetics: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    trainer(tmp_path).fit(Nothing(), datamodule=KineticsDataModule(kinetics, val_fraction=0.3, **SMALL))
    below = {path: times for path, times in counted.items() if path.startswith(str(kinetics))}
    below.pop(str(kinetics / "annotations"))  # where the files are looked for by pattern too
    folders = [kinetics, *(kinetics / split / name for split in ("train", "val") for name in ("", "jump", "wave"))]
    lists = [kinetics / "annotations" / name for name in ("train.csv", "validate.csv")]
    assert below == {str(path): 1 for path in [*folders, *lists]}


@pytest.mark.parametrize("kept_back", [True, False])
def test_lists_by_path_too(kinetics: Path, tmp_path: Path, counted: Counter[str], kept_back: bool) -> None:
    videos = [f"train/{name}/train{name}{i}_000000_000010.mp4 {label}" for label, name in enumerate(("jump", "wave"))
              for i in range(4)]  # fmt: skip
    for name, lines in {"train": videos[::2], "val": videos[1::4], "test": videos[3::4]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    (tmp_path / "classes.txt").write_text("jump\nwave\n")
    lists = [tmp_path / f"{name}.txt" for name in ("train", "test", "classes", "val")]
    data = VideoListDataModule(kinetics, *lists[:3], val_list=None if kept_back else lists[3], **SMALL)
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert sum(len(loader.dataset) for loader in loaders) == (6 if kept_back else 8)  # type: ignore[arg-type]
    expected = [*lists[: 3 if kept_back else 4], kinetics / "train/jump", kinetics / "train/wave"]
    assert counted == {str(path): 1 for path in expected}


def test_another_setup_looks_again(kinetics: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").symlink_to(kinetics / "annotations")
    (tmp_path / "val").symlink_to(kinetics / "val")
    videos = sorted((kinetics / "train").rglob("*.mp4"))
    for video in videos[:-1]:
        (tmp_path / video.name).symlink_to(video)
    data = KineticsDataModule(tmp_path, max_missing=0.5, **SMALL)

    def sizes() -> list[int]:
        return [len(data._loader(split).dataset) for split in ("train", "val", "test")]  # type: ignore[arg-type]

    data.setup("fit")
    assert sum(sizes()) == 7 + 2
    (tmp_path / videos[-1].name).symlink_to(videos[-1])
    data.setup("fit")
    assert sum(sizes()) == 8 + 2
    (tmp_path / "no.csv").write_text(f"path,reason\n{tmp_path / videos[0].name},x\n")
    data.exclude = tmp_path / "no.csv"  # by hand: the loaders look for themselves
    assert sum(sizes()) == 7 + 2
    (tmp_path / "lists").mkdir()
    for file in (kinetics / "annotations").iterdir():
        lines = file.read_text().splitlines()
        (tmp_path / "lists" / file.name).write_text("\n".join(lines[:-1] if file.name == "train.csv" else lines))
    data.annotations = tmp_path / "lists"
    assert sum(sizes()) == 6 + 2


def test_a_list_that_cannot_be_read_hides_no_other(kinetics: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.csv").symlink_to(kinetics / "annotations/train.csv")
    (tmp_path / "train").symlink_to(kinetics / "train")
    data = KineticsDataModule(tmp_path, **SMALL)
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 6  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"holds no validate\.csv"):
        data.test_dataloader()
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(kinetics: Path, tmp_path: Path, enabled: bool) -> None:
    data = KineticsDataModule(tmp_path, **SMALL)
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(FileNotFoundError):
            data.setup("fit")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_fit_starts_the_workers_of_a_loader_once(
    kinetics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = _MultiProcessingDataLoaderIter.__init__

    def counting(self: Any, loader: Any) -> None:
        started.append(len(loader.dataset))
        start(self, loader)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__init__", counting)
    data = KineticsDataModule(kinetics, val_fraction=0.3, **SMALL | {"num_workers": 1})
    trainer(tmp_path).fit(Nothing(), datamodule=data)
    assert sorted(started) == [2, 6]  # though it was trained and validated three times, and validated before


def carved_simply(videos: Sequence[Video], fraction: float, seed: int) -> tuple[list[Video], list[Video]]:
    """By the words of `carve`, with sets."""
    key_of = {video: (video.group, "" if video.group else video.path) for video in videos}
    labels_of, groups_of = defaultdict(set), defaultdict(set)
    for video, key in key_of.items():
        labels_of[key].add(video.label)
        groups_of[video.label].add(key)
    draw, held = random.Random(seed), set[tuple[str, str]]()
    for label in sorted(groups_of):
        groups = groups_of[label]
        wanted = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        for key in draw.sample(sorted(groups), len(groups)):
            if len(groups & held) >= wanted:
                break
            if all(groups_of[other] - held - {key} for other in labels_of[key]):
                held.add(key)
    return [v for v in videos if key_of[v] not in held], [v for v in videos if key_of[v] in held]


@settings(max_examples=150, deadline=None)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 30)), max_size=80),
    fraction=st.floats(0.02, 0.9),
    seed=st.integers(0, 9),
)
def test_carve_draws_what_it_drew_by_sets(drawn: list[tuple[int, int, int]], fraction: float, seed: int) -> None:
    videos = [Video(f"{path}.mp4", label, str(group) if group else "") for label, group, path in drawn]
    assert carve(videos, fraction, seed) == carved_simply(videos, fraction, seed)


def test_doubts_name_the_first() -> None:
    names = ["a", "b", "c", "b", "d"]
    sets = {"train": [Video(name, 0) for name in names], "val": [Video(name, 0) for name in "edc"]}
    assert doubts(sets, 2) == [  # type: ignore[arg-type]
        "2 videos are in two splits, such as c in train and val",
        "1 videos are listed twice in one split, such as b",
    ]


def test_a_video_is_small_and_still_a_value() -> None:
    video = Video("a.mp4", 1, "g")
    assert not hasattr(video, "__dict__")
    assert len({video, Video("a.mp4", 1, "g")}) == 1


def test_folders_are_listed_once(kinetics: Path, tmp_path: Path, counted: Counter[str]) -> None:
    data = VideoFolderDataModule(kinetics, **SMALL)
    counted.clear()
    data.setup("fit")
    data.train_dataloader(), data.val_dataloader()
    # Once as a class is searched for videos, once as these are looked for by path.
    assert max(counted.values()) == 2
