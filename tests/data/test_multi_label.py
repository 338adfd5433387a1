"""Videos of several classes: from CSV files, from links in folders, and what is drawn, kept back and said of them."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.data import Video, VideoFolderDataModule, carve, mixup
from dynvid.data.check import check_data
from dynvid.data.dataset import VideoDataset, collate
from dynvid.data.folders import read_csv
from dynvid.data.overview import doubts

NAMES = st.lists(st.sampled_from(["jump", "run", "sing", "a b"]), unique=True, max_size=4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_noise):
    return write_noise(tmp_path_factory.mktemp("clip") / "a.mp4", 0, frames=8)


def table(folder, *rows):
    (folder / "all.csv").write_text("path,label,split\n" + "".join(f"{row}\n" for row in rows))
    return folder / "all.csv"


@settings(deadline=None, max_examples=40)
@given(st.lists(NAMES, min_size=1, max_size=6))
def test_labels_go_through_a_csv_as_they_are_said(tmp_path_factory, sets):
    folder = tmp_path_factory.mktemp("csv")
    rows = [f"{n}.mp4,{' ; '.join(names)},train" for n, names in enumerate(sets)]
    file = table(folder, "x.mp4,run;jump,train", *rows)
    for n in range(len(sets)):
        (folder / f"{n}.mp4").touch()
    (folder / "x.mp4").touch()
    data = VideoFolderDataModule(folder, file, multi_label=True)
    assert data.class_names == sorted({"run", "jump", *(name for names in sets for name in names)})
    listed = data.listed("train")
    assert {data.class_names[label] for label in listed[0].label} == {"run", "jump"}
    for video, names in zip(listed[1:], sets, strict=True):
        assert list(video.label) == sorted(video.label)
        assert {data.class_names[label] for label in video.label} == set(names)
    # What is answered is joined in the order of the classes, and is such a cell again.
    joined = [";".join(data.class_names[label] for label in video.label) for video in listed]
    again = VideoFolderDataModule(folder, table(folder, *(f"{n},{cell},train" for n, cell in enumerate(joined))))
    again.multi_label = True
    assert [video.label for video in again.listed("train")] == [video.label for video in listed]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a.mp4,run;;jump,train"], "all.csv, line 2: label 'run;;jump': names of classes between ';', each once"),
        (["a.mp4,run;run,train"], "all.csv, line 2: label 'run;run'"),
        (["a.mp4,run,train", "a.mp4,jump,train"], "all.csv, line 3: 'a.mp4' is in line 2 already; a video of several"),
        (["a.mp4,,train"], "no training videos"),
        (["a.mp4,run,train", "b.mp4,run;sing,val"], "b.mp4: class 'sing' is in val but not in train"),
    ],
)
def test_what_is_no_set_of_names_is_said_in_one_line(tmp_path, rows, said):
    data = VideoFolderDataModule(tmp_path, table(tmp_path, *rows), multi_label=True)
    with pytest.raises(ValueError, match=re.escape(said)):
        data.listed("train")


def test_without_multi_label_a_semicolon_is_part_of_a_name_and_no_label_is_an_error(tmp_path):
    data = VideoFolderDataModule(tmp_path, table(tmp_path, "a.mp4,run;jump,train"))
    assert data.class_names == ["run;jump"]
    assert data.listed("train")[0].label == 0
    with pytest.raises(ValueError, match="path or label is empty"):
        read_csv(table(tmp_path, "a.mp4,,train"))


@pytest.fixture
def links(tmp_path, write_noise, clip):
    """Three videos in class jump: one is also in run as a symbolic link, one in sing as a hard link, one copied."""
    for split in ("train", "test"):
        for name in ("jump", "run", "sing"):
            (tmp_path / split / name).mkdir(parents=True)
    (tmp_path / "val" / "jump").mkdir(parents=True)
    write_noise(tmp_path / "val" / "jump" / "v.mp4", 9, frames=4)
    jump, run, sing = (tmp_path / "train" / name for name in ("jump", "run", "sing"))
    for n in range(3):
        write_noise(jump / f"{n}.mp4", n, frames=4)
    (run / "other name.mp4").symlink_to(jump / "0.mp4")
    (sing / "deep").mkdir()
    os.link(jump / "1.mp4", sing / "deep" / "1.mp4")
    os.link(jump / "1.mp4", run / "1.mp4")
    (sing / "copy.mp4").write_bytes((jump / "2.mp4").read_bytes())
    for name in ("jump", "run", "sing"):
        os.link(clip, tmp_path / "test" / name / "t.mp4")
    os.link(jump / "0.mp4", tmp_path / "test" / "sing" / "0.mp4")  # of another split, so another video
    return tmp_path


def test_one_file_in_several_classes_is_one_video(links):
    data = VideoFolderDataModule(links, multi_label=True)
    found = {str(Path(video.path).relative_to(links / "train")): video.label for video in data.videos("train")}
    assert found == {"jump/0.mp4": (0, 1), "jump/1.mp4": (0, 1, 2), "jump/2.mp4": (0,), "sing/copy.mp4": (2,)}
    assert sorted(video.label for video in data.videos("test")) == [(0, 1, 2), (2,)]
    assert data.class_counts() == [3, 2, 2]
    assert data.num_training_videos() == 4


def test_a_folder_of_frames_that_is_linked_is_one_video_and_a_dead_link_is_missing(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "a" / "x").mkdir()
    for n in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a" / "x" / f"{n}.png")
    (tmp_path / "train" / "b" / "y").symlink_to(tmp_path / "train" / "a" / "x")
    data = VideoFolderDataModule(tmp_path, multi_label=True)
    assert [video.label for video in data.videos("train")] == [(0, 1)]


def test_a_class_whose_name_cannot_be_joined_is_refused(tmp_path, clip):
    (tmp_path / "train" / "a;b").mkdir(parents=True)
    os.link(clip, tmp_path / "train" / "a;b" / "x.mp4")
    with pytest.raises(ValueError, match="class 'a;b' holds ';', which stands between the names of a set"):
        _ = VideoFolderDataModule(tmp_path, multi_label=True).class_names
    assert VideoFolderDataModule(tmp_path).class_names == ["a;b"]


def test_check_names_multi_label_where_one_file_has_two_classes_and_copies_all_the_same(links, tmp_path, capsys):
    check_data(VideoFolderDataModule(links), tmp_path / "single", num_workers=0, splits=("train",))
    said = capsys.readouterr().out
    assert "3 videos have two labels" in said
    assert "these are one file: data.multi_label true takes it for a video of both classes" in said
    check_data(VideoFolderDataModule(links, multi_label=True), tmp_path / "sets", num_workers=0, splits=("train",))
    said = capsys.readouterr().out
    assert "1 videos have two labels, such as" in said
    assert "(jump)" in said
    assert "one file" not in said
    assert re.search(r"jump +3\s+run +2\s+sing +2\s", said)


def test_one_class_that_is_there_or_not_is_enough_to_tell_apart():
    assert doubts({"train": [Video("a", 0), Video("b", 0)]}, 1)
    assert not doubts({"train": [Video("a", (0,)), Video("b", ())]}, 1)


def test_items_and_batches_hold_sets_as_numbers_and_mixup_mixes_them(clip):
    videos = [Video(str(clip), (0, 2)), Video(str(clip), ()), Video(str(clip), (1,))]
    dataset = VideoDataset(videos, 2, lambda frames: frames, classes=3)
    batch = collate([dataset[n] for n in range(3)])
    assert batch["label"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    _, mixed = mixup(batch["video"], batch["label"], 3, 0.4)
    truth = batch["label"].float()
    shares = {round(float(a), 5) for a in mixed.flatten()}
    assert mixed.dtype == torch.float32
    assert len(shares) <= 4  # 0, 1, the share and what is left of it
    torch.testing.assert_close(mixed.sum(0), truth.sum(0))  # each is mixed with one other, so classes keep their sum


def test_balanced_draws_as_the_rarest_class_of_a_video_asks(tmp_path):
    names = [*["run"] * 6, *["run;jump"] * 2, *[""] * 4]
    file = table(tmp_path, *(f"{n}.mp4,{name},train" for n, name in enumerate(names)), "0.mp4,run,val")
    for n in range(len(names)):
        (tmp_path / f"{n}.mp4").touch()
    data = VideoFolderDataModule(tmp_path, file, multi_label=True, balanced=True, num_workers=0)
    weights = data.train_dataloader().sampler.weights.tolist()
    assert weights == pytest.approx([*[1 / 8] * 6, *[1 / 2] * 2, *[1 / 4] * 4])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 3)), st.integers(0, 7)), min_size=1, max_size=40),
    st.floats(0.05, 0.95),
    st.integers(0, 9),
)
def test_carving_keeps_groups_whole_and_a_training_video_of_each_class(drawn, fraction, seed):
    videos = [Video(f"{n}.mp4", tuple(sorted(labels)), f"g{group}") for n, (labels, group) in enumerate(drawn)]
    train, val = carve(videos, fraction, seed)
    assert sorted([*train, *val], key=videos.index) == videos
    assert not {video.group for video in train} & {video.group for video in val}
    groups = {label: {v.group for v in videos if label in (v.label or (-1,))} for label in range(-1, 4)}
    for label, own in groups.items():
        if own:
            assert any(label in (video.label or (-1,)) for video in train)
    # A class that shares no group with another has a video to validate on, where it has groups enough.
    shared = Counter(group for own in groups.values() for group in own)
    for label, own in groups.items():
        if len(own) > 1 and all(shared[group] == 1 for group in own):
            assert any(label in (video.label or (-1,)) for video in val)
