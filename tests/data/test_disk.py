"""Large files: packets stay on the disk, and nothing else changes."""

import os
import random
from pathlib import Path

import pytest
import torch

from dynvid.data import VideoReader, segment_indices
from dynvid.data.reading import container
from dynvid.data.reading.container import demux
from dynvid.data.reading.disk import DiskPackets, Head
from dynvid.data.video import verified_video
from dynvid.errors import DamagedVideoError, VideoError

from .conftest import KINDS, Frames, WriteVideo, decode_all, same
from .test_clip import NETS_ORDER, read_both
from .test_reading import FIRST, REAL_FILES, SECOND, X264, continued, holds, join_flv, join_mkv, with_damage


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every file for a large one."""
    monkeypatch.setattr(container, "_IN_MEMORY", 0)


@pytest.mark.usefixtures("on_disk")
def test_frames_are_those_of_a_full_decode(kind: tuple[Path, list[Frames]]) -> None:
    path, reference = kind
    packets = demux(path).packets
    assert isinstance(packets, DiskPackets) or path.name in {"mpeg4.avi", "mpeg4.mp4", "mpeg2.mpg"}
    holds(path, reference)
    clip = VideoReader(path).clip(segment_indices(len(reference), 16))
    for position in NETS_ORDER:
        assert same(clip.read([position]), reference, [clip.indices[position]])


def test_packets_are_those_in_memory(kind: tuple[Path, list[Frames]], monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, with their times and flags."""
    in_memory = demux(kind[0])
    monkeypatch.setattr(container, "_IN_MEMORY", 0)
    track = demux(kind[0])
    if not isinstance(track.packets, DiskPackets):
        return
    assert len(track.packets) == len(in_memory.packets)
    for i in [*random.Random(0).sample(range(len(track.packets)), 12), *range(3), 0]:
        one, two = track.packets[i], in_memory.packets[i]
        assert bytes(one) == bytes(two)
        assert (one.pts, one.dts, one.is_keyframe) == (two.pts, two.dts, two.is_keyframe)
        head = track.heads[i]
        assert (head.pts, head.is_keyframe, head.is_discard) == (two.pts, two.is_keyframe, two.is_discard)
        assert head.is_corrupt == two.is_corrupt


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("joint", ["flv", "ts", "mkv", "mkv, once"])
def test_parameter_sets_that_change(tmp_path: Path, write_video: WriteVideo, joint: str) -> None:
    ending = {"flv": "flv", "ts": "ts"}.get(joint, "mp4")
    first = write_video(tmp_path / f"first.{ending}", options=FIRST)
    second = write_video(tmp_path / f"second.{ending}", options=SECOND, seed=5)
    if joint == "flv":
        joined = join_flv(first, second, tmp_path / "joined.flv")
    elif joint == "ts":
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + continued(second.read_bytes(), first.read_bytes()))
    else:
        joined = join_mkv(first, second, tmp_path / "joined.mkv", every_key_frame=joint == "mkv")
    holds(joined, decode_all(joined))


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("name", ["h264.mp4", "open_gop.mp4", "all_key.mp4", "ten_bit.mp4"])
def test_mp4_files_are_not_read_through(tmp_path: Path, write_video: WriteVideo, name: str) -> None:
    """Their tables list what reading through gives."""
    path = write_video(tmp_path / name, **KINDS[name])  # type: ignore[arg-type]
    listed, through = demux(path), demux(path, trust_tables=False)
    assert isinstance(listed.packets, DiskPackets)
    assert listed.packets._next == 0  # none was read
    assert list(listed.heads) == list(through.heads)


@pytest.mark.usefixtures("on_disk")
def test_tables_that_hide_parameter_sets(tmp_path: Path, write_video: WriteVideo) -> None:
    """An MP4 file whose packets carry others than it states, which its kind must not."""
    first = write_video(tmp_path / "first.mp4", options=FIRST)
    second = write_video(tmp_path / "second.mp4", options=SECOND, seed=5)
    joined = join_mkv(first, second, tmp_path / "joined.mp4", every_key_frame=True)
    holds(joined, reference := decode_all(joined))
    reader = VideoReader(joined)
    early, late = reader.clip([3, 20, 60]), reader.clip([70, 45])
    assert same(early.read([1]), reference, [20])
    assert same(late.read([0]), reference, [70])  # here it comes out
    assert same(early.read([2, 0]), reference, [60, 3])
    assert same(late.read([1]), reference, [45])


@pytest.mark.usefixtures("on_disk")
def test_tables_that_lie(tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", options=X264)
    reference, tell = decode_all(path), container.listed_heads

    def shifted(*arguments: object) -> list[Head]:
        heads = tell(*arguments)  # type: ignore[arg-type]
        return [*heads[:-1], heads[-1]._replace(pts=heads[-1].pts + 10**6)]  # type: ignore[operator]

    monkeypatch.setattr(container, "listed_heads", shifted)
    reader = VideoReader(path)
    assert same(reader.read([3]), reference, [3])
    with pytest.raises(VideoError, match=r"a\.mp4: its tables list other frames than it holds; remux it"):
        reader.read([39])


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("number", [0, 12, 23, 39])
def test_damage_is_what_it_is_in_memory(tmp_path: Path, write_video: WriteVideo, number: int) -> None:
    path = write_video(tmp_path / "whole.mp4", size=(96, 128), options=X264 | {"g": "10", "bf": "2", "crf": "15"})
    damaged = tmp_path / "a.mp4"
    damaged.write_bytes(with_damage(path, number))
    reader, clip = VideoReader(damaged.read_bytes(), name=str(damaged)), VideoReader(damaged).clip(range(40))
    assert all(read_both(reader, clip, position) for position in random.Random(0).sample(range(40), 40))
    with pytest.raises(DamagedVideoError):
        verified_video(damaged)


@pytest.mark.usefixtures("on_disk")
def test_a_file_that_is_cut_or_removed_after_it_was_opened(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mkv", size=(128, 192), options=X264 | {"qp": "1"})
    reference, reader = decode_all(path), VideoReader(path)
    assert path.stat().st_size > 300_000  # more than FFmpeg reads at once
    assert same(reader.read([3]), reference, [3])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(VideoError, match=r"a\.mkv: "):
        reader.read([38])
    assert same(reader.read([4]), reference, [4])
    path = write_video(tmp_path / "b.mp4", options=X264)
    reference, reader = decode_all(path), VideoReader(path)
    path.unlink()
    assert same(reader.read([38, 3]), reference, [38, 3])  # the file stays open


@pytest.mark.usefixtures("on_disk")
@pytest.mark.skipif(not REAL_FILES, reason="DYNVID_REAL_DATA is not set: no real clips to test on")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_real_files(path: Path) -> None:
    on_disk, in_memory = VideoReader(path), VideoReader(path.read_bytes(), name=str(path))
    assert len(on_disk) == len(in_memory)
    if on_disk.height * on_disk.width > 1000 * 1000:
        pytest.skip("decoding it whole takes seconds")
    indices = random.Random(path.name).sample(range(len(on_disk)), min(5, len(on_disk)))
    try:
        expected = in_memory.read(indices, short_side=64)
    except DamagedVideoError as error:
        with pytest.raises(DamagedVideoError, match=str(error).replace(str(path), ".*")):
            on_disk.read(indices, short_side=64)
        return
    assert torch.equal(on_disk.read(indices, short_side=64), expected)
