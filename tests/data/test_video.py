import io
import os
import random
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynvid.data import VIDEO_SUFFIXES, FrameFolder, VideoError, VideoReader, open_video
from dynvid.data.reading import access as access_module

from .conftest import METADATA, Frames, WriteVideo, decode_all, same

REAL = Path(os.environ.get("DYNVID_REAL_DATA", "."))
REAL_CLIPS = [
    *sorted(p for p in REAL.glob("clips/*/*") if p.suffix in VIDEO_SUFFIXES and p.stem != "corrupted"),
    *sorted(REAL.glob("ucf101_5/*/*.avi"))[::200],
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_frames_equal_a_full_decode(kind: tuple[Path, list[Frames]], data: st.DataObject) -> None:
    path, reference = kind
    indices = data.draw(st.lists(st.integers(0, len(reference) - 1), max_size=6))
    reader = VideoReader(path)
    assert len(reader) == len(reference)
    assert same(reader.read(indices), reference, indices)


def test_one_reader_serves_many_reads(kind: tuple[Path, list[Frames]]) -> None:
    path, reference = kind
    reader, everything = VideoReader(path), list(range(len(reference)))
    for indices in ([0], everything, everything[::-1], [3, 3], [len(reference) - 1]):
        assert same(reader.read(indices), reference, indices)


def test_facts(kind: tuple[Path, list[Frames]]) -> None:
    path, reference = kind
    reader = VideoReader(path)
    assert (reader.height, reader.width) == reference[0].shape[:2]
    assert reader.fps == pytest.approx(25)
    assert reader.timestamps.dtype == np.float64
    # WebM and Matroska round times to milliseconds.
    np.testing.assert_allclose(reader.timestamps, np.arange(len(reference)) / 25, atol=1e-3)
    assert reader.duration == pytest.approx(len(reference) / 25, abs=2e-3)


def test_output_is_uint8_in_the_order_asked(tmp_path: Path, write_video: WriteVideo) -> None:
    frames = VideoReader(write_video(tmp_path / "a.mp4")).read(torch.tensor([5, 1, 5]))
    assert frames.dtype == torch.uint8
    assert frames.shape == (3, 3, 48, 64)
    assert torch.equal(frames[0], frames[2])
    assert not torch.equal(frames[0], frames[1])


def test_no_index_gives_no_frame(tmp_path: Path, write_video: WriteVideo) -> None:
    assert VideoReader(write_video(tmp_path / "a.mp4")).read([], short_side=24).shape == (0, 3, 24, 32)


def test_key_frames(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        expected = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert VideoReader(path).key_frames == expected == [0, 10, 20, 30]


def test_few_frames_decode_few_packets(tmp_path: Path, write_video: WriteVideo) -> None:
    """Only the group of pictures that holds the frame is decoded."""
    reader = VideoReader(write_video(tmp_path / "a.mp4", options={"g": "10", "bf": "0", "sc_threshold": "0"}))
    assert reader._access._index.runs([12, 35]) == [(10, [12]), (30, [35])]


@pytest.mark.parametrize("source", [str, Path, Path.read_bytes, lambda path: io.BytesIO(path.read_bytes())])
def test_sources(tmp_path: Path, write_video: WriteVideo, source: "object") -> None:
    path = write_video(tmp_path / "a.mp4", frames=10)
    assert same(VideoReader(source(path)).read([7, 2]), decode_all(path), [7, 2])  # type: ignore[operator]


def test_open_file(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=10)
    with path.open("rb") as file:
        reader = VideoReader(file)
    assert reader.name == str(path)
    assert same(reader.read([4]), decode_all(path), [4])


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((48, 64), 24, (24, 32)), ((64, 48), 24, (32, 24)), ((48, 64), 48, (48, 64)), ((48, 64), 90, (48, 64))],
)
@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_short_side_keeps_aspect_and_never_enlarges(
    tmp_path: Path,
    write_video: WriteVideo,
    size: tuple[int, int],
    short_side: int,
    expected: tuple[int, int],
    suffix: str,
) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3, size=size)
    if not suffix:
        path = save_frames(decode_all(path), tmp_path / "frames")
    assert open_video(path).read([1], short_side).shape == (1, 3, *expected)


def test_shrunk_frames_look_like_area_averages(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3)
    shrunk = VideoReader(path).read([1], short_side=24)[0].float()
    full = torch.from_numpy(decode_all(path)[1].copy()).permute(2, 0, 1).float()
    averages = torch.nn.functional.avg_pool2d(full, 2)
    assert (shrunk - averages).abs().mean() < 4


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_undone(tmp_path: Path, write_video: WriteVideo, degrees: int) -> None:
    """A file turned by the display matrix shows what turning the pixels of the plain file shows."""
    plain = write_video(tmp_path / "plain.mp4", frames=4)
    turned = write_video(tmp_path / "turned.mp4", frames=4, rotation=degrees)
    reader = VideoReader(turned)
    expected = np.rot90(decode_all(plain)[2], degrees // 90)
    assert (reader.height, reader.width) == expected.shape[:2]
    assert np.array_equal(reader.read([2])[0].permute(1, 2, 0).numpy(), expected)
    assert min(reader.read([2], short_side=24).shape[-2:]) == 24


def test_frames_are_not_kept_beyond_the_limit(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mpg", codec="mpeg2video", options={"bf": "2"})
    monkeypatch.setattr(access_module, "_KEEP_BYTES", 20_000)
    reader, reference = VideoReader(path), decode_all(path)
    assert not reader._access._kept
    assert same(reader.read([39, 0, 17]), reference, [39, 0, 17])


@pytest.mark.parametrize("index", [-1, 40])
def test_out_of_range(tmp_path: Path, write_video: WriteVideo, index: int) -> None:
    path = write_video(tmp_path / "a.mp4")
    with pytest.raises(IndexError, match=rf"a\.mp4: frame {index} is out of range"):
        VideoReader(path).read([0, index])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4: cannot open \(No such file"):
        open_video(tmp_path / "gone.mp4")


def test_text_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video " * 100)
    with pytest.raises(VideoError, match=r"notes\.mp4: cannot open"):
        VideoReader(path)


def test_sound_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.mp4: no video stream"):
        VideoReader(path)


def test_given_name_is_in_errors() -> None:
    with pytest.raises(VideoError, match=r"clip 7 of the archive: cannot open"):
        VideoReader(b"nonsense", name="clip 7 of the archive")


def test_damage_is_an_error_where_it_matters(tmp_path: Path, write_video: WriteVideo) -> None:
    """Garbage in one packet: frames of other groups still read exactly, those behind it raise."""
    path = write_video(tmp_path / "a.mp4", options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        position, size = packets[20].pos, packets[20].size
    content = bytearray(path.read_bytes())
    content[position : position + size] = b"\xff" * size
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    reader = VideoReader(damaged)
    assert same(reader.read([5, 32]), decode_all(path), [5, 32])
    with pytest.raises(VideoError, match=r"damaged\.mp4: frame 25 could not be decoded"):
        reader.read([5, 25])


def save_frames(frames: list[Frames], folder: Path) -> Path:
    folder.mkdir()
    for i, frame in enumerate(frames, 1):
        Image.fromarray(np.ascontiguousarray(frame)).save(folder / f"img_{i}.png")
    return folder


def test_frame_folder(tmp_path: Path, write_video: WriteVideo) -> None:
    reference = decode_all(write_video(tmp_path / "a.mp4", frames=12))
    folder = save_frames(reference, tmp_path / "frames")  # img_1 ... img_12: sorted by number
    (folder / "notes.txt").touch()
    (folder / "._img_1.png").touch()
    reader = open_video(folder)
    assert isinstance(reader, FrameFolder)
    assert len(reader) == 12
    assert (reader.height, reader.width) == (48, 64)
    assert same(reader.read([11, 1, 1]), reference, [11, 1, 1])
    assert reader.read([]).shape == (0, 3, 48, 64)
    with pytest.raises(IndexError, match="frames: frame 12 is out of range"):
        reader.read([12])


def test_frame_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no JPEG or PNG"):
        FrameFolder(tmp_path)
    (tmp_path / "img_1.jpg").write_bytes(b"nonsense")
    with pytest.raises(VideoError, match=r"img_1\.jpg: frame 0 could not be decoded"):
        FrameFolder(tmp_path).read([0])


@pytest.mark.skipif(not REAL_CLIPS, reason="DYNVID_REAL_DATA is not set: no real clips to test on")
@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: path.name)
def test_real_clips(path: Path) -> None:
    with av.open(str(path), **METADATA) as container:
        large = container.streams.video[0].width > 1000
    if large:
        pytest.skip("decoding it whole takes seconds")
    reference, draw = decode_all(path), random.Random(0)
    reader = VideoReader(path)
    assert len(reader) == len(reference)
    for count in (1, 3, 6):
        indices = draw.choices(range(len(reader)), k=count)
        assert same(reader.read(indices), reference, indices)


def test_real_corrupted_clip(real_data: Path) -> None:
    reader = VideoReader(real_data / "clips/odd/corrupted.mp4")
    with pytest.raises(VideoError, match=r"corrupted\.mp4: frame \d+ could not be decoded"):
        reader.read(range(len(reader)))


@pytest.mark.parametrize("source", ["video_90.mov", "video_180.mov"])
def test_real_rotation(real_data: Path, source: str, tmp_path: Path) -> None:
    """FFmpeg's own filters, told to turn the frame, agree."""
    path = real_data / "clips/odd" / source
    steps = {"video_90.mov": ["transpose=clock"], "video_180.mov": ["hflip", "vflip"]}[source]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).reformat(format="rgb24")
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=None, width=frame.width, height=frame.height, format=frame.format, time_base=1)]
    for step in steps:
        nodes.append(graph.add(*step.split("=")))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    expected = graph.pull().to_ndarray()
    assert np.array_equal(VideoReader(path).read([0])[0].permute(1, 2, 0).numpy(), expected)


def test_real_frame_folder(real_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(real_data / "clips/frames", tmp_path / "frames")
    read = open_video(folder).read([9])[0].permute(1, 2, 0).numpy().astype(float)
    reference = decode_all(folder / "img_00010.jpg")[0]  # FFmpeg and libjpeg round colours differently
    assert np.abs(read - reference).mean() < 2


def test_sixteen_bit_grey_frames_keep_their_brightness(tmp_path: Path) -> None:
    grey = np.array([[0, 0x12FF], [0x8000, 0xFFFF]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "1.png")
    assert open_video(tmp_path).read([0])[0].unique(dim=0).tolist() == [[[0, 0x12], [0x80, 0xFF]]]
