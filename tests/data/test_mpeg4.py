"""DivX and Xvid files: read at random, exactly, and without decoding the rest; odd ones as decoding them tells."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from dynvid.data import VideoError, VideoReader
from dynvid.data.reading import access

from .conftest import METADATA, Frames, WriteVideo, decode_all, same

START = b"\0\0\1\xb6"
NOT_CODED = START + b"\x50\x80"
BIG = {"b": "4000000"}  # no tiny pictures, which may be skipped ones


def contents_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def kind(picture: bytes) -> str:
    return "IPBS"[picture[picture.index(START) + 4] >> 6]


def remux(source: Path, target: Path, contents: Sequence[bytes]) -> Path:
    """Write packets of any content with the headers of another file."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(container.streams.video[0])
        for time, content in enumerate(contents):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts = copy, time, time
            packet.is_keyframe = START in content and kind(content) == "I"
            out.mux(packet)
    return target


def pack(contents: list[bytes], mark: bytes = b"\0\0\1\xb2DivX503b1393p") -> list[bytes]:
    """As DivX does it: a B-frame goes into the packet before it, and leaves a filler behind."""
    start = contents[0].index(START)
    contents = [contents[0][:start] + mark + contents[0][start:], *contents[1:]]
    packed: list[bytes] = []
    for i, picture in enumerate(contents):
        if kind(picture) == "B" and contents[i - 1] is packed[-1]:
            packed[-1] += picture
            packed.append(NOT_CODED)
        else:
            packed.append(picture)
    return packed


def sequential(path: Path) -> tuple[list[Frames], bool]:
    """Frames of plain decoding up to the first error, and whether there was one."""
    frames: list[Frames] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError:
        return frames, True
    return frames, False


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("b_frames", ["0", "1", "2"])
def test_frames_are_found_without_decoding_the_file(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, b_frames: str, packed: bool
) -> None:
    options = {"g": "10", "bf": b_frames} | BIG
    path = write_video(tmp_path / "a.avi", size=(96, 128), codec="mpeg4", options=options)
    reference = decode_all(path)
    if packed:
        path = remux(path, tmp_path / "packed.avi", pack(contents_of(path)))
        assert len(decode_all(path)) == len(reference)
    monkeypatch.delattr(access, "SequentialAccess")
    reader = VideoReader(path)
    assert len(reader) == len(reference)
    for indices in ([0], [len(reader) - 1], [7, 3, 21, 3], list(range(len(reader)))):
        assert same(reader.read(indices), reference, indices)


def test_a_packed_frame_without_its_filler_at_the_end(tmp_path: Path, write_video: WriteVideo) -> None:
    options = {"g": "10", "bf": "1"} | BIG
    path = write_video(tmp_path / "a.avi", frames=15, size=(96, 128), codec="mpeg4", options=options)
    path = remux(path, tmp_path / "packed.avi", pack(contents_of(path))[:-1])
    reference = decode_all(path)
    reader = VideoReader(path)
    assert isinstance(reader._access, access.RandomAccess)
    assert len(reader) == len(reference) == 14
    assert same(reader.read(range(14)), reference, range(14))


ODD = (
    "leading B-frames",
    "no key frame first",
    "a picture that is not coded",
    "packed without saying so",
    "no B-frames, then B-frames",
    "B-frames, then none",
    "low delay with B-frames",
    "Xvid from the middle on",
)


@pytest.mark.parametrize("odd", ODD)
def test_odd_streams_are_as_decoding_tells(tmp_path: Path, write_video: WriteVideo, odd: str) -> None:
    options = {"g": "10", "bf": "2", "sc_threshold": "1000000000"} | BIG
    size = (96, 128)
    source = write_video(tmp_path / "a.avi", size=size, codec="mpeg4", options=options)
    plain = write_video(tmp_path / "b.avi", size=size, codec="mpeg4", options=options | {"bf": "0"}, seed=1)
    contents, others = contents_of(source), contents_of(plain)
    keys = [i for i, content in enumerate(contents) if kind(content) == "I"]
    middle = keys[1]
    if odd == "leading B-frames":
        changed = contents[middle:]
        assert kind(changed[1]) == "B"
    elif odd == "no key frame first":
        changed = contents[[kind(content) for content in contents].index("P") :]
    elif odd == "a picture that is not coded":
        changed = [*contents[:3], NOT_CODED + bytes(24), *contents[3:]]
    elif odd == "packed without saying so":
        changed = pack(contents, mark=b"")
    elif odd == "no B-frames, then B-frames":
        changed = others + contents
    elif odd == "B-frames, then none":
        changed = contents + others
    elif odd == "low delay with B-frames":
        start = contents[0].index(START)
        changed = [others[0][: others[0].index(START)] + contents[0][start:], *contents[1:]]
    else:
        start = contents[middle].index(START)
        late = contents[middle][:start] + b"\0\0\1\xb2XviD0046" + contents[middle][start:]
        changed = [*contents[:middle], late, *contents[middle + 1 :]]
    path = remux(source, tmp_path / "odd.avi", changed)
    reference, failed = sequential(path)
    try:
        reader = VideoReader(path)
    except VideoError:
        assert failed
        return
    assert isinstance(reader._access, access.SequentialAccess)  # decoded whole
    assert len(reader) == len(reference)
    for indices in (range(len(reference)), [len(reference) - 1], [0]):
        assert same(reader.read(indices), reference, indices)


def test_real_files_are_not_decoded_to_be_counted(real_data: Path) -> None:
    files = sorted((real_data / "clips").rglob("*.avi"))
    assert files
    for file in files:
        with av.open(str(file), **METADATA) as container:
            if container.streams.video[0].codec_context.name != "mpeg4":
                continue
        reader, reference = VideoReader(file), decode_all(file)
        assert isinstance(reader._access, access.RandomAccess), file
        assert len(reader) == len(reference)
        chosen = np.random.default_rng(0).permutation(len(reference))[:16].tolist()
        assert same(reader.read(chosen), reference, chosen)
