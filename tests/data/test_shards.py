"""Shards hold the very files, whoever reads them; what is damaged or hostile is one line; a stop loses nothing."""

import csv
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynvid.cli import main
from dynvid.data import ShardDataModule, VideoFolderDataModule, packing
from dynvid.data.manifest import MANIFEST, Manifest, Packed, read_manifest
from dynvid.data.members import member_of
from dynvid.data.packing import Format, index_shards, pack
from dynvid.data.shards import chunk_of, index_of_chunks, read_layout, samples_of_chunk, samples_of_tar, tar_of
from dynvid.data.store import Folder
from dynvid.errors import InputError, VideoError

from .conftest import WriteVideo
from .test_stores import Bucket

SMALL: dict[str, Any] = {"num_frames": 2, "size": 32, "batch_size": 2, "num_workers": 0}
FORMATS: tuple[Format, ...] = ("webdataset", "litdata")
HINT = "was begun with other videos or settings"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    """train (3 + 3), val (1 + 1) and test (1 + 1) by a CSV with recordings, in several containers."""
    folder = tmp_path_factory.mktemp("source")
    rows = []
    for split, clips in {"train": 3, "val": 1, "test": 1}.items():
        for name in ("wave", "jump"):
            for i in range(clips):
                path = folder / "clips" / split / f"{name} é {i}{('.mp4', '.MKV', '.avi')[i]}"
                write_video(path, frames=8 + i, seed=len(rows))
                rows.append(f"clips/{split}/{path.name},{name},{split},tape {i // 2}\n")
    (folder / "clips.csv").write_text("path,label,split,group\n" + "".join(rows))
    return folder


def run(*command: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command])


def data_in(folder: object, **arguments: Any) -> VideoFolderDataModule:
    return VideoFolderDataModule(str(folder), "clips.csv", **SMALL | arguments)


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shard_size", [1, 12_000, 10**9])
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_what_comes_of_shards_is_what_comes_of_the_files(
    source: Path, format: Format, shard_size: int, where: str, bucket: Bucket
) -> None:
    out = bucket[0] + "/packed" if where == "bucket" else str(bucket[1] / "packed")
    counts = pack(data_in(source), out, format, shard_size)
    assert {split: count.packed for split, count in counts.items()} == {"train": 6, "val": 2, "test": 2}
    if shard_size == 1:
        assert counts["train"].shards == 6
    if shard_size == 10**9:
        assert counts["train"].shards == 1
    files, shards = data_in(source), ShardDataModule(out, **SMALL)
    assert shards.class_names == files.class_names
    for split in ("train", "val", "test"):
        expected, found = files.videos(split), shards.videos(split)
        assert [(v.label, v.group) for v in found] == [(v.label, v.group) for v in expected]
        assert [Path(v.path).name for v in found] == [Path(v.path).name for v in expected]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        batches = []
        for data in (files, shards):
            torch.manual_seed(3)
            batches.append([*getattr(data, loader)(), *getattr(data, loader)()])  # of two epochs
        for theirs, ours in zip(*batches, strict=True):
            assert torch.equal(theirs["video"], ours["video"])
            assert torch.equal(theirs["label"], ours["label"])
            assert torch.equal(theirs["index"], ours["index"])


@pytest.mark.parametrize("format", FORMATS)
def test_no_byte_is_changed(source: Path, format: Format, tmp_path: Path) -> None:
    pack(data_in(source), tmp_path / "out", format, 20_000)
    table = pq.read_table(tmp_path / "out" / MANIFEST).to_pylist()
    assert len(table) == 10
    for row in table:
        content = (source / row["path"]).read_bytes()
        assert row["path"].startswith(f"clips/{row['split']}/{row['label']} ")
        assert (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["length"]] == content
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
    if format == "webdataset":
        for file in (tmp_path / "out").glob("*.tar"):
            with tarfile.open(file) as tar:
                names = [member.name for member in tar]
                kinds = [name.partition(".")[2] for name in names]
                assert kinds[::3] == ["json"] * (len(names) // 3)
                assert kinds[1::3] == ["cls"] * (len(names) // 3)
                for said, clip in zip(names[::3], names[2::3], strict=True):
                    fields = json.load(tar.extractfile(said))  # type: ignore[arg-type]
                    content = tar.extractfile(clip).read()  # type: ignore[union-attr]
                    assert content == (source / fields["path"]).read_bytes()


def test_shards_are_packed_again_as_they_were(source: Path, tmp_path: Path) -> None:
    pack(data_in(source), tmp_path / "one", "litdata", 20_000)
    pack(ShardDataModule(tmp_path / "one", **SMALL), tmp_path / "two", "webdataset", 20_000)
    pack(data_in(source), tmp_path / "three", "webdataset", 20_000)
    two, three = contents(tmp_path / "two"), contents(tmp_path / "three")
    assert {name: two[name] for name in two if name != MANIFEST} == {
        name: three[name] for name in three if name != MANIFEST
    }


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("format", FORMATS)
def test_a_stop_after_any_write_costs_nothing(
    source: Path, format: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    pack(data_in(source), whole, format, 12_000)
    out, total, write = tmp_path / "out", 0, Folder.write
    for allowed in range(40):
        written: list[str] = []

        def stopping(self: Folder, name: str, content: bytes, left: int = allowed, to: list[str] = written) -> None:
            if len(to) == left % 4 + 1:  # some more each time
                raise Stopped
            to.append(name)
            write(self, name, content)

        before = contents(out) if out.exists() else {}
        monkeypatch.setattr(Folder, "write", stopping)
        try:
            pack(data_in(source), out, format, 12_000)
            break
        except Stopped:
            total += 1
            shards = {name: content for name, content in contents(out).items() if name.endswith((".tar", ".bin"))}
            assert all(contents(whole)[name] == content for name, content in shards.items())
            with pytest.raises(FileNotFoundError, match="run `dynvid pack` to its end"):
                ShardDataModule(out, **SMALL).videos("train")
            with pytest.raises(InputError, match="is there already; run the same `dynvid pack`"):
                index_shards(out)
            assert not {name for name in written if name.endswith((".tar", ".bin"))} & before.keys()
        finally:
            monkeypatch.setattr(Folder, "write", write)
        if allowed % 4 == 3 and not total:
            raise AssertionError("it was never stopped")
    assert total >= 3
    pack(data_in(source), out, format, 12_000)
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_killed_and_taken_up(source: Path, tmp_path: Path) -> None:
    pack(data_in(source), tmp_path / "whole", "webdataset", 1)
    code = (
        "import sys, os, signal\nfrom dynvid.data import packing\nfrom dynvid.cli import main\n"
        "written = packing._written\n"
        "def slow(*a):\n    print('shard', flush=True)\n    sys.stdin.readline()\n    return written(*a)\n"
        "packing._written = slow\nmain(sys.argv[1:])"
    )
    command = ["pack", str(tmp_path / "out"), "--config", "folder.yaml", "--shard-size", "1"]
    command += ["--data.root", str(source), "--data.annotations", "clips.csv"]
    for shards in (2, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin
        assert process.stdout
        seen = 0
        for line in process.stdout:
            seen += "shard" in line
            if seen > shards:
                break
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out" / MANIFEST).exists()
    assert len([*(tmp_path / "out").glob("*.tar")]) == 3
    run(*command)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_missing_or_unreadable_is_listed(source: Path, tmp_path: Path, write_video: WriteVideo) -> None:
    folder = tmp_path / "data"
    for i in range(4):
        write_video(folder / f"{i}.mp4", frames=4, seed=i)
    rows = "".join(f"{i}.mp4,x,train\n" for i in (0, 1, 8, 2, 9, 3))
    (folder / "clips.csv").write_text("path,label,split\n" + rows)
    os.mkdir(folder / "frames")
    Image.new("RGB", (64, 48)).save(folder / "frames" / "1.jpg")
    with (folder / "clips.csv").open("a") as file:
        file.write("frames,x,train\n0.mp4,x,test\n")
    arguments = {"max_missing": 0.5, "val_fraction": 0.1}
    frames = rf"^{folder}/frames: a folder of frames, which is not packed; encode it as a video, or leave it out$"
    with pytest.raises(VideoError, match=frames):
        pack(data_in(folder, **arguments), tmp_path / "strict", shard_size=1)
    with pytest.raises(FileNotFoundError, match="2 of 7 listed"):
        pack(data_in(folder), tmp_path / "none")
    counts = pack(data_in(folder, on_error="skip", **arguments), tmp_path / "out", shard_size=1)
    assert [sum(of) for of in zip(*counts.values(), strict=True)] == [5, 6, 2, 1]
    missing = [line for file in (tmp_path / "out").glob("missing_*.txt") for line in file.read_text().splitlines()]
    assert sorted(missing) == [f"{folder}/8.mp4", f"{folder}/9.mp4"]
    with (tmp_path / "out" / "unreadable.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"{folder}/frames"]
    again = pack(data_in(folder, on_error="skip", **arguments), tmp_path / "out", shard_size=1)
    assert again == counts


def test_sets_of_labels_are_not_packed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sets of labels \(`multi_label`\) are not packed"):
        pack(data_in(source, multi_label=True), tmp_path / "out")


class TestWhatWasBegun:
    def test_stays_what_it_is(self, source: Path, tmp_path: Path) -> None:
        pack(data_in(source), tmp_path / "out")
        for changed, size in ((data_in(source, hflip=False), 256 * 10**6), (data_in(source), 12_000)):
            with pytest.raises(InputError, match=HINT):
                pack(changed, tmp_path / "out", shard_size=size)
        with pytest.raises(InputError, match=HINT):
            pack(data_in(source), tmp_path / "out", "litdata")
        (tmp_path / "half").mkdir()
        (tmp_path / "half" / "begun.txt").write_text("other videos")
        with pytest.raises(InputError, match=HINT):
            pack(data_in(source), tmp_path / "half")

    def test_holds_nothing_else(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        with pytest.raises(InputError, match=r"holds other files already; name a new folder$"):
            pack(data_in(source), tmp_path)

    @pytest.mark.parametrize(("name", "value"), [("format", "zip"), ("shard_size", 0)])
    def test_arguments_out_of_range(self, source: Path, tmp_path: Path, name: str, value: Any) -> None:
        with pytest.raises(InputError, match=f"^{name}={value}: "):
            pack(data_in(source), tmp_path / "out", **{name: value})


def test_clips_that_are_not_mirrored_stay_so(source: Path, tmp_path: Path) -> None:
    pack(data_in(source, hflip=False), tmp_path / "out")
    with pytest.raises(InputError, match=r"packed from data that are not mirrored.*set `hflip` to false"):
        ShardDataModule(tmp_path / "out", **SMALL).videos("train")
    assert len(ShardDataModule(tmp_path / "out", hflip=False, **SMALL).videos("train")) == 6


class TestShardsThatAreNotThere:
    def test_are_counted_as_missing(self, source: Path, tmp_path: Path) -> None:
        pack(data_in(source), tmp_path / "out", shard_size=1)
        (tmp_path / "out/train-000002.tar").unlink()
        with pytest.raises(FileNotFoundError, match=r"1 of 6 listed.*bring the shards back that .*parquet names"):
            ShardDataModule(tmp_path / "out", **SMALL).videos("train")
        data = ShardDataModule(tmp_path / "out", max_missing=0.2, **SMALL)
        assert len(data.videos("train")) == 5
        (missing,) = data.missing["train"]
        assert missing.startswith(f"{tmp_path}/out/train-000002.tar#")

    def test_or_cut_short(self, source: Path, tmp_path: Path) -> None:
        pack(data_in(source), tmp_path / "out")
        (shard,) = (tmp_path / "out").glob("train-*.tar")
        size = shard.stat().st_size - 15_000
        os.truncate(shard, size)
        with pytest.raises(InputError, match=rf"^{shard}: {size} bytes, fewer than the manifest says"):
            ShardDataModule(tmp_path / "out", **SMALL).videos("train")

    def test_nor_a_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="does not exist: run `dynvid pack` to its end, or"):
            ShardDataModule(tmp_path, **SMALL).videos("train")
        with pytest.raises(FileNotFoundError, match="nothing does not exist: set `root`"):
            ShardDataModule(tmp_path / "nothing", **SMALL).videos("train")


def as_footer(file: io.BytesIO) -> bytes:
    """An Arrow file as LitData ends a chunk with it."""
    return file.getvalue() + struct.pack("<I", len(file.getvalue())) + b"LDARW01\0"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class TestShardsOfOthers:
    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_tar_files_by_their_headers(self, source: Path, tmp_path: Path, form: int) -> None:
        clips = sorted((source / "clips/train").iterdir())
        deep = "a/" * 30 + "long" * (10 if form == tarfile.USTAR_FORMAT else 40)
        (tmp_path / "val").mkdir()
        for name, of_shard in (("train-0.tar", clips[:4]), ("val/a.tar", clips[4:])):
            with tarfile.open(tmp_path / name, "w", format=form) as tar:
                for n, clip in enumerate(of_shard):
                    add(tar, f"{deep}/{n}.cam1.MP4", clip.read_bytes())
                    add(tar, f"{deep}/{n}.cls", b"1\n" if "wave" in clip.name else b"0")
                    add(tar, f"{deep}/{n}.json", json.dumps({"group": "g", "fps": [1, {}]}).encode())
                add(tar, "./README.md", b"nothing")
        counts = index_shards(tmp_path)
        assert [count[:2] for count in counts.values()] == [(4, 1), (2, 1), (0, 0)]
        data = ShardDataModule(tmp_path, **SMALL)
        assert data.class_names == ["0", "1"]
        found = data.videos("train") + data.videos("val")
        assert [video.label for video in found] == ["wave" in clip.name for clip in clips]
        assert {video.group for video in found} == {"g"}
        for video, clip in zip(found, clips, strict=True):
            member = member_of(video.path)
            assert member is not None
            assert Path(member.shard).read_bytes()[member.offset :][: member.length] == clip.read_bytes()
        with pytest.raises(InputError, match="is there already; remove it to look again"):
            index_shards(tmp_path)
        (tmp_path / MANIFEST).unlink()
        (tmp_path / "classes.txt").write_text("jump\nwave\n")
        index_shards(tmp_path)
        assert ShardDataModule(tmp_path, **SMALL).class_names == ["jump", "wave"]

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_manifest_that_was_lost(self, source: Path, tmp_path: Path, format: Format) -> None:
        pack(data_in(source), tmp_path / "out", format, 12_000)
        before = read_manifest((tmp_path / "out" / MANIFEST).read_bytes(), "m")
        (tmp_path / "out" / MANIFEST).unlink()
        run("pack", str(tmp_path / "out"))
        after = read_manifest((tmp_path / "out" / MANIFEST).read_bytes(), "m")
        assert sorted(after.clips) == sorted(before.clips)
        assert after.class_names == before.class_names

    def test_arrow_chunks_of_newer_litdata(self, tmp_path: Path, source: Path) -> None:
        clips = [path.read_bytes() for path in sorted((source / "clips/train").iterdir())]
        batch = pa.record_batch({"n": pa.array(range(6)), "video": pa.array(clips, pa.binary())})
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch[:2])
            writer.write_batch(batch[2:])
        head = struct.pack("<8I", 6, *[32] * 7)
        layout = read_layout(index_of_chunks([("a.bin", 6, 9)]), "index.json")._replace(
            names=["n", "video"], formats=["int", "bytes"]
        )
        content = head + as_footer(sink)
        found = list(samples_of_chunk(io.BytesIO(content), layout, "a.bin"))
        assert [content[s.offset :][: s.length] for s in found] == clips
        assert [s.fields for s in found] == [{"n": n} for n in range(6)]
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(pa.record_batch({"n": pa.array(range(2)), "video": pa.array([bytes(10**5)] * 2)}))
        with pytest.raises(InputError, match=r"a\.bin: no shard of clips .*compressed"):
            list(samples_of_chunk(io.BytesIO(head + as_footer(sink)), layout, "a.bin"))

    def test_null_says_nothing(self, tmp_path: Path) -> None:
        null = json.dumps({"group": None, "label": None, "path": None, "split": None, "class": None}).encode()
        with tarfile.open(tmp_path / "val-0.tar", "w") as tar:
            for name, content in (("a.cls", b"3"), ("a.json", null), ("b.json", null), ("b.cls", b"4")):
                add(tar, name, content)
                if name in ("a.json", "b.cls"):
                    add(tar, f"{name[0]}.mp4", b"x")
        index_shards(tmp_path)
        found = read_manifest((tmp_path / MANIFEST).read_bytes(), "m").clips
        assert [clip[4:] for clip in found] == [("3", "val", "", "a.mp4"), ("4", "val", "", "b.mp4")]

    def test_null_says_nothing_in_arrow_either(self) -> None:
        batch = pa.record_batch({"path": pa.array([None], pa.string()), "video": pa.array([b"x"], pa.binary())})
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        layout = read_layout(index_of_chunks([("a.bin", 1, 9)]), "index.json")._replace(
            names=["path", "video"], formats=["str", "bytes"]
        )
        (found,) = samples_of_chunk(io.BytesIO(struct.pack("<8I", 1, *[32] * 7) + as_footer(sink)), layout, "a.bin")
        assert (found.name, found.fields) == ("0", {})

    @pytest.mark.parametrize("key", ["label", "class"])
    @pytest.mark.parametrize("value", [["a", "b"], {"a": 1}, True, 1.0])
    def test_what_is_no_class_is_refused(self, tmp_path: Path, key: str, value: object) -> None:
        with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
            add(tar, "clip7.json", json.dumps({key: value}).encode())
            add(tar, "clip7.mp4", b"x")
        with pytest.raises(InputError, match=rf"train-0\.tar, clip7\.mp4: {key} .* is neither a text nor a whole num"):
            index_shards(tmp_path)

    def test_a_class_is_a_number_and_a_label_a_name_where_names_are_numbers(self, tmp_path: Path) -> None:
        said = [{"class": 0}, {"class": "1"}, {"class": 3}, {"label": 1}, {"label": "2"}, {"label": 0}]
        with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
            for n, fields in enumerate(said):
                add(tar, f"{n}.json", json.dumps(fields).encode())
                add(tar, f"{n}.cls", b"2")
                add(tar, f"{n}.mp4", b"x")
            add(tar, "last.cls", b"2")
            add(tar, "last.mp4", b"x")
        (tmp_path / "classes.txt").write_text("1\n2\n3\n")
        index_shards(tmp_path)
        found = read_manifest((tmp_path / MANIFEST).read_bytes(), "m").clips
        assert [clip.label for clip in found] == ["1", "2", "3", "1", "2", "1", "3"]

    def test_what_they_do_not_say_is_asked_for(self, tmp_path: Path) -> None:
        def lines(name: str, *members: tuple[str, bytes]) -> str:
            folder = tmp_path / str(len([*tmp_path.iterdir()]))
            folder.mkdir()
            with tarfile.open(folder / name, "w") as tar:
                for member in members:
                    add(tar, *member)
            with pytest.raises((InputError, FileNotFoundError)) as caught:
                index_shards(folder)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        clip = "a.mp4", b"x"
        assert "no class is said" in lines("train-0.tar", clip)
        assert "no split is said" in lines("shard-0.tar", clip, ("a.cls", b"1"))
        assert "holds 2 videos; one clip a sample" in lines("train-0.tar", clip, ("a.avi", b"y"), ("a.cls", b"1"))
        assert "no shards of clips" in lines("train-0.tar", ("a.txt", b"x"))
        assert "no shard of clips that can be read" in lines("train-0.tar", clip, ("a.json", b"{"))
        assert "too many for what is said of a clip" in lines("train-0.tar", clip, ("a.json", bytes(2**20 + 1)))
        assert "rename it" in lines("train 0#.tar", clip, ("a.cls", b"1"))


def manifest(**changes: Any) -> Manifest:
    clip = Packed("train-0.tar", 512, 10, "", "x", "train", "", "a.mp4")._replace(**changes)
    return Manifest([clip, Packed("train-0.tar", 0, 9, "", "y", "val", "", "b.mp4")], ["x", "y"])


class TestHostile:
    @pytest.mark.parametrize(
        "changes",
        [
            *({"shard": shard} for shard in ("/etc/passwd", "../a", "a/../../b", "s3://b/a", "", "a#1+2/b", "a\nb")),
            *({"offset": offset} for offset in (-1, 10**15, None)),
            *({"length": -1}, {"label": "z"}, {"label": None}, {"split": "dev"}, {"path": None}),
        ],
    )
    def test_manifests_that_lead_astray(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"^m: no manifest of shards \([^\n]*\); pack again$"):
            read_manifest(manifest(**changes).to_bytes(), "m")

    def test_manifests_of_another_kind(self) -> None:
        good = manifest()
        assert read_manifest(good.to_bytes(), "m") == good
        file = io.BytesIO()
        pq.write_table(pa.table({"a": [1]}), file)
        bad = [file.getvalue(), b"", good._replace(class_names=["x", "x", "y"]).to_bytes()]
        bad += [good._replace(**other).to_bytes() for other in ({"class_names": [1, "y", "x"]}, {"hflip": "no"})]
        for content in bad:
            with pytest.raises(InputError, match=r"^m: no manifest of shards"):
                read_manifest(content, "m")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("data_format", ["pickle"] * 7),
            ("data_format", ["int", *["str"] * 4, "no_header_tensor", "bytes"]),
            ("data_format", ["int", *["str"] * 6]),
            ("data_format", ["bytes"]),
            *(("compression", "zstd"), ("ipc_compression", "lz4"), ("encryption", {}), ("item_loader", "TokensLoader")),
            *(("data_spec", "[1, {}]"), ("data_spec", None), ("data_format", None)),
        ],
    )
    def test_only_plain_items_of_litdata_are_read(self, key: str, value: object) -> None:
        index = json.loads(index_of_chunks([("a.bin", 1, 9)]))
        index["config"][key] = value
        with pytest.raises(InputError, match=r"^i: [^\n]*$"):
            read_layout(json.dumps(index).encode(), "i")

    @pytest.mark.parametrize("name", ["../a.bin", "/a.bin", "a/b.bin", "", None, ".a"])
    def test_only_chunks_of_the_folder(self, name: object) -> None:
        index = json.loads(index_of_chunks([("a.bin", 1, 9)]))
        index["chunks"][0]["filename"] = name
        with pytest.raises(InputError, match=r"^i: no shard of clips"):
            read_layout(json.dumps(index).encode(), "i")

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_whatever_is_changed_in_a_shard_is_read_or_said(self, data: st.DataObject) -> None:
        clips = [packing.Clip(bytes([n]) * 40, ".mp4", "x", 0, "train", "", "a", "") for n in range(3)]
        arrow = io.BytesIO()
        batch = pa.record_batch({"class": pa.array([0, 1]), "video": pa.array([b"ab", b"cd"])})
        with pa.ipc.new_file(arrow, batch.schema) as writer:
            writer.write_batch(batch)
        plain = read_layout(index_of_chunks([("a.bin", 1, 9)]), "i")
        kinds = {
            "tar": (tar_of(clips, 0), None),
            "chunk": (chunk_of(clips), plain),
            "arrow": (
                struct.pack("<4I", 2, 16, 16, 16) + as_footer(arrow),
                plain._replace(names=["class", "video"], formats=["int", "bytes"]),
            ),
        }
        content, layout = kinds[data.draw(st.sampled_from(sorted(kinds)))]
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(changed) - 1))
            changed[place : place + 1] = data.draw(st.binary(max_size=9))
            if not changed:
                break
        file = io.BytesIO(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
        found, said = [], "s: "
        try:
            found = list(samples_of_chunk(file, layout, "s") if layout else samples_of_tar(file, "s"))
        except InputError as error:
            said = str(error)
        assert said.startswith("s: ")
        assert "\n" not in said
        assert all(sample.offset >= 0 and sample.length >= 0 for sample in found)

    @settings(max_examples=100, deadline=None)
    @given(data=st.data())
    def test_whatever_is_changed_in_a_manifest_is_read_or_said(self, data: st.DataObject) -> None:
        changed = bytearray(manifest().to_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        said = "m: no manifest of shards"
        try:
            read_manifest(bytes(changed), "m")
        except InputError as error:
            said = str(error)
        assert said.startswith("m: no manifest of shards")
        assert "\n" not in said

    def test_a_header_cannot_ask_for_the_memory(self) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 2**40
        with pytest.raises(InputError, match="too many for what is no clip"):
            list(samples_of_tar(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)), "s"))


def test_the_command(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--config", "folder.yaml", "--data.root", str(source), "--data.annotations", "clips.csv"]
    run("pack", "out", *command, "--shard-size", "20KB", "--format", "litdata")
    assert "train: 6 clips in " in capsys.readouterr().out
    for arguments, said in (
        (["out", *command, "--shard-size", "12 parsecs"], "--shard_size 12 parsecs: a size such as 256MB"),
        (["out", *command], HINT),
        (["nowhere"], "nowhere: no folder of shards; to write some, say with --config of what"),
    ):
        with pytest.raises(SystemExit, match="1"):
            main(["pack", *arguments])
        line = capsys.readouterr().err
        assert said in line
        assert line.count("\n") == 1
    run("check", "--config", "folder.yaml", "--data", "ShardDataModule", "--data.root", "out", "--num_workers", "0")
    assert "10 videos checked, 0 unreadable" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_that_of_the_files_and_goes_on_as_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = ["--config", "folder.yaml", "--data.root", str(source), "--data.annotations", "clips.csv"]
    run("pack", "packed", *files, "--shard-size", "20KB")
    tiny = ["--data.num_frames", "4", "--data.size", "32", "--data.batch_size", "3", "--data.num_workers", "1"]
    tiny += ["--data.balanced", "true", "--model.net.backbone", "test_resnet", "--model.net.pretrained", "false"]
    shards = ["--config", "folder.yaml", "--data", "ShardDataModule", "--data.root", "packed"]
    final = {}
    for name, data in (("files", files), ("shards", shards)):
        common = [*data, *tiny, "--trainer.default_root_dir", name]
        main(["fit", *common, "--trainer.max_epochs", "1"])
        main(["fit", *common, "--trainer.max_epochs", "3", "--ckpt_path", "last"])
        (last,) = Path(name).rglob("last.ckpt")
        final[name] = torch.load(last, weights_only=True)
        capsys.readouterr()
        main(["test", *common, "--ckpt_path", "best"])
        main(["predict", *common, "--ckpt_path", "best"])
        (predictions,) = Path(name).rglob("predictions.csv")
        with predictions.open() as file:
            final[name]["predictions"] = [
                {key: Path(value).name if key == "path" else value for key, value in row.items() if key != "seconds"}
                for row in csv.DictReader(file)
            ]
        run_of = max(Path(name).rglob("report.html"), key=lambda path: path.stat().st_mtime)
        assert "data:image/jpeg" in run_of.read_text()
    one, two = final["files"], final["shards"]
    assert one["global_step"] == two["global_step"] == 6
    assert one["dynvid"]["listing"] == two["dynvid"]["listing"]  # videos that chose are known again
    assert len(one["predictions"]) == 2
    assert one["predictions"] == two["predictions"]
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][key], value) for key, value in two["state_dict"].items())
