"""Data sets in object storage are those on a disk: what is listed, what is missing, and every frame."""

import io
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynvid.data import (
    SyntheticDataModule,
    UCF101DataModule,
    Video,
    VideoDataset,
    VideoFolderDataModule,
    VideoListDataModule,
    collate,
    eval_transform,
    open_video,
    store,
    train_transform,
)
from dynvid.data.address import Address, place_at
from dynvid.data.check import check_data
from dynvid.data.members import Member, member_of, source_of
from dynvid.data.store import RemoteFile
from dynvid.data.video import open_listed
from dynvid.errors import InputError, VideoError

from .conftest import Frames, WriteVideo, same

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
Bucket = tuple[str, Path]


def below(videos: list[Video], root: object) -> list[tuple[str, int, str]]:
    """Videos by their paths from a root."""
    assert all(video.path.startswith(f"{root}/") for video in videos)
    return [(video.path.removeprefix(f"{root}/"), video.label, video.group) for video in videos]


@pytest.fixture
def tree(bucket: Bucket, write_video: WriteVideo) -> Bucket:
    """train (4 + 4 clips), Val (1 + 1) and test (1 + 1) of two classes, among what is no video."""
    uri, folder = bucket
    for split, clips in {"train": 4, "Val": 1, "test": 1}.items():
        for name in ("wave", "jump"):
            for i in range(clips):
                write_video(folder / split / name / f"part {i % 2}" / f"{name} (HQ) {i}!.mp4", frames=6, seed=i)
    for nothing in ("train/wave/.hidden.mp4", "train/.cache/a.mp4", "train/wave/notes.txt", "extra/a.mp4"):
        (folder / nothing).parent.mkdir(exist_ok=True)
        (folder / nothing).touch()
    return uri, folder


def test_folders_are_listed_as_on_a_disk(tree: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    uri, folder = tree
    there, here = (VideoFolderDataModule(root, **SMALL) for root in (uri, folder))
    assert there.class_names == here.class_names == ["jump", "wave"]
    said = []
    for data in (there, here):
        caplog.clear()
        data.setup("fit")
        said.append([line.replace(uri, "ROOT").replace(str(folder), "ROOT") for line in caplog.messages])
    assert said[0] == said[1]
    for split in ("train", "val", "test"):
        assert below(there.videos(split), uri) == below(here.videos(split), folder)
    assert len(there.videos("train")) == 8


def test_folders_of_frames_are_passed_over_and_said(tree: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    uri, folder = tree
    (folder / "train/jump/frames").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "train/jump/frames/1.jpg")
    assert len(VideoFolderDataModule(uri, **SMALL).videos("train")) == 8
    assert "1 folders of frames, which are read from a disk only" in caplog.text
    assert len(VideoFolderDataModule(folder, **SMALL).videos("train")) == 9


def test_a_csv_there_with_groups_missing_and_excluded_videos(tree: Bucket, tmp_path: Path) -> None:
    uri, folder = tree
    clips = [f"train/{name}/part {i % 2}/{name} (HQ) {i}!.mp4" for name in ("wave", "jump") for i in range(4)]
    rows = [f"{clip},{clip.split('/')[1]},train,tape {n // 2}\n" for n, clip in enumerate(clips)]
    rows += ["gone.mp4,wave,train,tape 9\n", "train/wave,wave,train,tape 9\n"]
    (folder / "clips.csv").write_text("path,label,split,group\n" + "".join(rows))
    with pytest.raises(FileNotFoundError, match=rf"2 of 10 listed .*missing: {uri}/gone.mp4, .*clips\.csv"):
        VideoFolderDataModule(uri, "clips.csv", **SMALL).videos("train")
    (tmp_path / "out.csv").write_text(f"path,reason\n{uri}/{clips[3]},dull\n")
    (folder / "train/wave").joinpath("x").mkdir()
    trainer = pl.Trainer(logger=False, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    data = VideoFolderDataModule(
        uri, "clips.csv", max_missing=0.3, val_fraction=0.3, exclude=tmp_path / "out.csv", **SMALL
    )
    data.trainer = trainer
    data.train_dataloader()
    listed = (tmp_path / "missing_train.txt").read_text().splitlines()
    assert set(listed) == {f"{uri}/gone.mp4", f"{uri}/train/wave"} & set(data.missing["train"])
    on_disk = VideoFolderDataModule(folder, "clips.csv", max_missing=0.3, val_fraction=0.3, **SMALL)
    for split in ("train", "val"):
        expected = below(on_disk.videos(split), folder)
        kept = [video for video in expected if video[0] not in (clips[3], "train/wave")]
        assert below(data.videos(split), uri) == kept
    assert len(data.excluded["train"]) + len(data.excluded["val"]) == 1


def test_videos_found_by_name_and_in_lists(bucket: Bucket, write_video: WriteVideo) -> None:
    uri, folder = bucket
    names = [f"v_{name}_g{group:02d}_c01" for name in ("Swim", "Walk") for group in range(1, 4)]
    for n, name in enumerate(names):
        write_video(folder / "deep" / "er" / f"{name}.avi", frames=4, seed=n, codec="mpeg4")
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Swim\n2 Walk\n")
    (lists / "trainlist01.txt").write_text("".join(f"{n.split('_')[1]}/{n}.avi 1\n" for n in names))
    (lists / "testlist01.txt").write_text(f"Swim/{names[0]}.avi\n")
    for split in ("train", "val", "test"):
        there, here = (UCF101DataModule(root, **SMALL).videos(split) for root in (uri, folder))
        assert below(there, uri) == below(here, folder)
        assert there
    (folder / "all.txt").write_text("".join(f"deep/er/{name}.avi {n // 3}\n" for n, name in enumerate(names)))
    (folder / "classes.txt").write_text("Swim\nWalk\n")
    there, here = (
        VideoListDataModule(root, "all.txt", "all.txt", "classes.txt", **SMALL).videos("train")
        for root in (uri, folder)
    )
    assert below(there, uri) == below(here, folder)


def test_every_frame_of_every_kind_is_that_of_the_file(kind: tuple[Path, list[Frames]], bucket: Bucket) -> None:
    path, reference = kind
    uri, folder = bucket
    shutil.copy(path, folder / path.name)
    content = path.read_bytes()
    (folder / "some.tar").write_bytes(b"before" + content + b"behind")
    member = Member("some.tar", 6, len(content), f"train/{path.name}")
    for place in (uri, str(folder)):
        for source in (f"{uri}/{path.name}", member._replace(shard=f"{place}/some.tar").path):
            reader = open_listed(source)
            assert reader.name == source
            assert same(reader.read(range(len(reader))), reference, range(len(reference)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), train=st.booleans(), clips=st.integers(1, 3))
def test_items_are_those_of_the_disk(seed: int, train: bool, clips: int, request: pytest.FixtureRequest) -> None:
    uri, folder = request.getfixturevalue("two_clips")
    items = []
    for root in (uri, str(folder)):
        videos = [Video(f"{root}/{name}", 0) for name in ("a.mp4", "b.mp4")]
        transform = train_transform(32) if train else eval_transform(32)
        dataset = VideoDataset(videos, 3, transform, train=train, clips=1 if train else clips, short_side=40)
        torch.manual_seed(seed)
        items.append([dataset[0]["video"], dataset[1]["video"]])  # type: ignore[call-overload, index]
    assert all(map(torch.equal, *items))


@pytest.fixture
def two_clips(bucket: Bucket, write_video: WriteVideo) -> Bucket:
    write_video(bucket[1] / "a.mp4", frames=20, seed=1)
    write_video(bucket[1] / "b.mp4", frames=30, seed=2, options={"g": "5"})
    return bucket


class TestWhatCannotBeRead:
    def test_names_the_address(self, two_clips: Bucket) -> None:
        uri, folder = two_clips
        (folder / "c.mp4").write_bytes(b"no video")
        videos = [Video(f"{uri}/{name}", 0) for name in ("a.mp4", "gone.mp4", "c.mp4")]
        with pytest.raises(VideoError, match=rf"^{uri}/gone.mp4: cannot open"):
            VideoDataset(videos, 2, eval_transform(32))[1]
        dataset = VideoDataset(videos, 2, eval_transform(32), on_error="skip")
        batch = collate([dataset[i] for i in range(3)])
        assert set(batch["skipped"]) == {f"{uri}/gone.mp4", f"{uri}/c.mp4"}
        assert batch["path"] == [f"{uri}/a.mp4"]

    def test_is_one_line_whatever_the_store_says(self, two_clips: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object) -> None:
            raise OSError("When reading information:\n AWS Error ACCESS_DENIED during HeadObject operation")

        system = SimpleNamespace(open_input_file=denied, get_file_info=denied)
        monkeypatch.setattr(store, "_root", lambda *_: (system, ""))
        with pytest.raises(VideoError, match=r"^s3://other/a.mp4: cannot open \(When reading.*ACCESS_DENIED"):
            open_listed("s3://other/a.mp4")
        line = r"^s3://other/?: cannot be read \(When reading information: AWS Error ACCESS_DENIED [^\n]*\)$"
        for ask in (
            VideoFolderDataModule("s3://other", **SMALL).videos,
            UCF101DataModule("s3://other", **SMALL).videos,
        ):
            with pytest.raises(InputError, match=line):
                ask("train")

    def test_a_part_that_is_cut_short(self, two_clips: Bucket) -> None:
        size = (two_clips[1] / "a.mp4").stat().st_size
        for root in map(str, two_clips):
            with pytest.raises(
                VideoError, match=rf"a\.mp4#1\+{size}/x\.mp4: cannot be read \(the file ends before byte {size + 1}"
            ):
                open_listed(Member(f"{root}/a.mp4", 1, size, "x.mp4").path)

    def test_nothing_but_a_file_is_taken_for_a_shard(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("pipe", ".", "gone"):
            with pytest.raises(VideoError, match="there is no such file"):
                open_listed(f"{tmp_path}/{name}#0+5/x.mp4")

    def test_clips_are_not_generated_there(self) -> None:
        with pytest.raises(InputError, match="s3://bucket/x: generated clips are written to a disk"):
            SyntheticDataModule("s3://bucket/x").prepare_data()


def test_only_what_a_data_module_lists_is_fetched(two_clips: Bucket) -> None:
    uri, folder = two_clips
    with pytest.raises(VideoError, match="URLs are not read"):
        open_video(f"{uri}/a.mp4")
    (folder / "clips.csv").write_text(f"path,label,split\n{uri}/a.mp4,x,train\n")
    with pytest.raises(FileNotFoundError, match="1 of 1 listed"):
        VideoFolderDataModule(folder, "clips.csv", **SMALL).videos("train")


def test_a_check_reads_them_too(tree: Bucket, tmp_path: Path) -> None:
    uri, folder = tree
    shutil.copy(folder / "train/wave/part 0/wave (HQ) 0!.mp4", folder / "test/jump/copy.mp4")
    (folder / "train/wave/bad.mp4").write_bytes(b"no video")
    data = VideoFolderDataModule(uri, **SMALL)
    summary = check_data(data, tmp_path / "check", num_workers=0)
    assert (summary.videos, summary.unreadable) == (14, 1)
    assert f"\n{uri}/train/wave/bad.mp4," in (tmp_path / "check/unreadable.csv").read_text()
    assert f"{uri}/test/jump/copy.mp4" in (tmp_path / "check/duplicates.csv").read_text()
    data = VideoFolderDataModule(uri, exclude=tmp_path / "check/unreadable.csv", **SMALL)
    assert len(data.videos("train")) == 8


class TestFiles:
    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_reads_as_any_binary_file(self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
        content = data.draw(st.binary(max_size=200))
        path = tmp_path_factory.mktemp("file") / "file"
        path.write_bytes(content)
        first = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - first))
        ours, theirs = RemoteFile(str(path), (first, length), block=7), io.BytesIO(content[first : first + length])
        for _ in range(data.draw(st.integers(1, 8))):
            if data.draw(st.booleans()):
                place = data.draw(st.integers(0, 250))
                assert ours.seek(place) == theirs.seek(place)
            else:
                size = data.draw(st.integers(-1, 60))
                part = ours.read(size)
                assert theirs.getvalue()[theirs.tell() :][: len(part)] == part
                assert len(part) == len(theirs.read(size)) or len(part) > 0
                theirs.seek(ours.tell())
        assert ours.seek(0, io.SEEK_END) == length

    def test_a_clip_is_one_request(self, two_clips: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        uri, folder = two_clips
        requests = []

        class Counted:
            def __init__(self, path: str) -> None:
                self.content = (folder / path.lstrip("/")).read_bytes()

            def size(self) -> int:
                return len(self.content)

            def read_at(self, size: int, offset: int) -> bytes:
                requests.append(size)
                return self.content[offset : offset + size]

        monkeypatch.setattr(store, "_root", lambda *_: (SimpleNamespace(open_input_file=Counted), ""))
        for path in (f"{uri}/a.mp4", Member(f"{uri}/b.mp4", 0, (folder / "b.mp4").stat().st_size, "x").path):
            requests.clear()
            reader = open_listed(path)
            reader.read([0, 5, len(reader) - 1])
            assert len(requests) == 1


class TestPaths:
    @given(
        shard=st.text(min_size=1), offset=st.integers(0, 10**15 - 1), length=st.integers(0, 10**15 - 1), name=st.text()
    )
    def test_a_member_is_one_path(self, shard: str, offset: int, length: int, name: str) -> None:
        member = Member(f"/{shard.replace('#', '')}", offset, length, name)
        assert "\0" in member.path or member_of(member.path) == member

    def test_a_file_that_is_called_so_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.tar").touch()
        path = f"{tmp_path}/x.tar#1+2/a.mp4"
        assert member_of(path) is not None
        (tmp_path / "x.tar#1+2").mkdir()
        (tmp_path / "x.tar#1+2" / "a.mp4").touch()
        assert member_of(path) is None
        assert source_of(path) == path

    def test_a_place_is_a_folder_or_an_address(self) -> None:
        root = place_at("s3://bucket/a/?region=x")
        assert isinstance(root, Address)
        assert str(root / "b" / "c.txt") == "s3://bucket/a/b/c.txt?region=x"
        assert (root / "b" / "c.txt").parent == root / "b"
        assert ((root / "b.TXT").name, (root / "b.TXT").suffix, root.parent.name) == ("b.TXT", ".TXT", "")
        assert root / "s3://other/c" == Address("s3://other/c")
        assert place_at("file:///a/b") == Path("/a/b")
        assert place_at("a/b") == Path("a/b")
        assert re.search(r"Address\('s3://bucket/a\?region=x'\)", repr(root))
