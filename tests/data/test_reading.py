"""What real files do that the encoders of the other tests do not: changes on the way, mirrors, cuts and damage."""

import io
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynvid.data import VIDEO_SUFFIXES, VideoError, VideoReader
from dynvid.data.reading.access import SequentialAccess
from dynvid.data.reading.nal import CODECS, is_instantaneous, parameter_sets
from dynvid.data.video import verified_video
from dynvid.errors import DamagedVideoError

from .conftest import METADATA, Frames, WriteVideo, decode_all, draw, same

REAL = Path(os.environ.get("DYNVID_REAL_DATA", "."))
REAL_FILES = sorted(
    path
    for folder in ("clips", "cases", "weizmann4", "ucf101_5")
    for number, path in enumerate(sorted((REAL / folder).rglob("*")))
    if path.suffix in VIDEO_SUFFIXES and (folder != "ucf101_5" or number % 200 == 0)
)
X264 = {"preset": "fast", "threads": "1", "g": "5", "bf": "2", "sc_threshold": "0"}
# Two encoders that make other parameter sets under the same number.
FIRST, SECOND = X264 | {"crf": "20"}, X264 | {"crf": "30", "coder": "0", "refs": "4", "x264-params": "8x8dct=0"}


def holds(path: Path, reference: Sequence[Frames]) -> None:
    """Any frames in any grouping are those of one full decode: backwards one by one, at random, all at once."""
    reader, rng = VideoReader(path), random.Random(0)
    assert len(reader) == len(reference)
    for i in reversed(range(len(reader))):
        assert same(reader.read([i]), reference, [i]), i
    for count in (2, 3, 5, 8):
        indices = [rng.randrange(len(reader)) for _ in range(count)]
        assert same(reader.read(indices), reference, indices), indices
    assert same(reader.read(range(len(reader))), reference, range(len(reader)))


def packets_of(path: Path) -> tuple[list[av.Packet], bytes]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [p for p in container.demux(stream) if p.size], bytes(stream.codec_context.extradata or b"")


def join_flv(first: Path, second: Path, target: Path) -> Path:
    """Append the tags of one FLV file to another, later in time, the second's parameter sets among them."""
    one, two = first.read_bytes(), second.read_bytes()
    joined, at, shift = bytearray(one), 13, 1600
    while at < len(two):
        size = int.from_bytes(two[at + 1 : at + 4])
        if two[at] == 9:  # video
            time = int.from_bytes(two[at + 7 : at + 8] + two[at + 4 : at + 7]) + shift
            joined += two[at : at + 4] + time.to_bytes(4)[1:] + time.to_bytes(4)[:1] + two[at + 8 : at + 15 + size]
        at += 15 + size
    target.write_bytes(joined)
    return target


def continued(second: bytes, first: bytes) -> bytes:
    """Let the packet counters of one transport stream go on where those of another end, so that none seems lost."""
    counters: dict[int, int] = {}
    joined = bytearray()
    for at in range(0, len(first), 188):
        counters[int.from_bytes(first[at + 1 : at + 3]) & 0x1FFF] = first[at + 3] & 15
    for at in range(0, len(second), 188):
        packet = bytearray(second[at : at + 188])
        number = int.from_bytes(packet[1:3]) & 0x1FFF
        counters[number] = (counters.get(number, 15) + bool(packet[3] & 16)) & 15
        packet[3] = packet[3] & 0xF0 | counters[number]
        joined += packet
    return bytes(joined)


def join_mkv(first: Path, second: Path, target: Path, every_key_frame: bool) -> Path:
    """Append one MP4 to another as Matroska joiners do: the second's parameter sets travel inside its packets."""
    (ours, _), (theirs, extradata) = packets_of(first), packets_of(second)
    count = int.from_bytes(extradata[6:8])  # one SPS, one PPS, as libx264 writes them
    sps, rest = extradata[8 : 8 + count], extradata[8 + count :]
    pps = rest[3 : 3 + int.from_bytes(rest[1:3])]
    sets = b"".join(len(unit).to_bytes(4) + unit for unit in (sps, pps))
    with av.open(str(first)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        begins = 40 * ours[0].duration
        for packet in ours:
            packet.stream = stream
            container.mux(packet)
        for number, packet in enumerate(theirs):
            inside = packet.is_keyframe and (every_key_frame or number == 0)
            new = av.Packet((sets if inside else b"") + bytes(packet))
            new.pts, new.dts, new.time_base = packet.pts + begins, packet.dts + begins, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, stream
            container.mux(new)
    return target


@pytest.mark.parametrize("kind", ["flv", "ts", "mkv", "mkv, once"])
def test_parameter_sets_that_change_on_the_way(tmp_path: Path, write_video: WriteVideo, kind: str) -> None:
    ending = {"flv": "flv", "ts": "ts"}.get(kind, "mp4")
    first = write_video(tmp_path / f"first.{ending}", options=FIRST)
    second = write_video(tmp_path / f"second.{ending}", options=SECOND, seed=5)
    expected = decode_all(first) + decode_all(second)
    if kind == "flv":
        joined = join_flv(first, second, tmp_path / "joined.flv")
    elif kind == "ts":
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + continued(second.read_bytes(), first.read_bytes()))
    else:
        joined = join_mkv(first, second, tmp_path / "joined.mkv", every_key_frame=kind == "mkv")
    reference = decode_all(joined)
    assert len(reference) == 80
    assert all(np.array_equal(a, b) for a, b in zip(reference, expected, strict=True))  # plain decoding masters it
    holds(joined, reference)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_joined_bytes_of_transport_streams_lose_no_more_than_the_joint(
    tmp_path: Path, write_video: WriteVideo, codec: str
) -> None:
    """The counters of packets jump there, so that FFmpeg's reader takes the last packet for damaged."""
    options = {"g": "5", "bf": "0"} if codec == "mpeg2video" else FIRST
    first = write_video(tmp_path / "first.ts", codec=codec, options=options)
    second = write_video(tmp_path / "second.ts", codec=codec, options=options, seed=5)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    reference, reader, refused = decode_all(joined), VideoReader(joined), []
    assert len(reader) == len(reference)
    for i in range(len(reader)):
        try:
            assert same(reader.read([i]), reference, [i])
        except DamagedVideoError:
            refused.append(i)
    # Nothing before the last group of pictures of the first part, nor once a group has begun far enough behind it.
    assert all(30 <= i < 65 for i in refused), refused


@pytest.mark.parametrize("ending", ["flv", "webm"])
def test_a_picture_size_that_changes_is_scaled_to_the_first(
    tmp_path: Path, write_video: WriteVideo, ending: str
) -> None:
    if ending == "flv":
        first = write_video(tmp_path / "first.flv", options=FIRST)
        second = write_video(tmp_path / "second.flv", options=FIRST, size=(64, 48), seed=5)
        path = join_flv(first, second, tmp_path / "joined.flv")
    else:
        path = tmp_path / "sizes.webm"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx", rate=25, options={"g": "10", "deadline": "realtime"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for start, size in ((0, (48, 64)), (20, (96, 64))):
                encoder = av.CodecContext.create("libvpx", "w")
                encoder.height, encoder.width, encoder.pix_fmt = *size, "yuv420p"
                encoder.time_base, encoder.framerate = av.time_base and 1 / stream.average_rate, stream.average_rate
                encoder.options = {"g": "10", "deadline": "realtime", "lag-in-frames": "0"}
                for t, image in enumerate(draw(20, *size)):
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts = start + t
                    for packet in encoder.encode(frame):
                        packet.stream = stream
                        container.mux(packet)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        assert len({(frame.height, frame.width) for frame in decoded}) == 2
        reference = [frame.to_ndarray(format="rgb24", width=64, height=48) for frame in decoded]
    holds(path, reference)
    last = VideoReader(path)
    assert (last.read([len(last) - 1]).shape, last.height, last.width) == ((1, 3, 48, 64), 48, 64)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("across", [1, -1])
def test_every_display_matrix(tmp_path: Path, write_video: WriteVideo, across: int, down: int, turned: bool) -> None:
    """A pixel at (x, y) is shown at (ax + cy, bx + dy), whatever quarter turn or mirror that is."""
    a, b, c, d = (0, down, across, 0) if turned else (across, 0, 0, down)
    plain = write_video(tmp_path / "plain.mp4", frames=3)
    path = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        if not hasattr(stream, "set_display_matrix"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for frame in source.decode(video=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    stored = decode_frames(path)[1]
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    expected = np.empty_like(stored.swapaxes(0, 1) if turned else stored)
    expected[shown_y - shown_y.min(), shown_x - shown_x.min()] = stored
    reader = VideoReader(path)
    assert (reader.height, reader.width) == expected.shape[:2]
    assert np.array_equal(reader.read([1])[0].permute(1, 2, 0).numpy(), expected)


def decode_frames(path: Path) -> list[Frames]:
    """As stored."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_display_matrix_holds_where_parameter_sets_change(real_data: Path, tmp_path: Path) -> None:
    """A decoder of a run's own does not hear of the file's matrix from FFmpeg."""
    content = bytearray((real_data / "cases/two_sample_descriptions.mp4").read_bytes())
    plain = VideoReader(bytes(content)).read([30, 2])
    at = content.index(b"tkhd") + 44  # version, flags and times of version 0 come before the matrix
    content[at : at + 4] = (-(1 << 16)).to_bytes(4, signed=True)
    mirrored = VideoReader(bytes(content)).read([30, 2])
    assert np.array_equal(mirrored.numpy(), plain.flip(-1).numpy())


def cut(path: Path, target: Path, first: int, without: int | None = None) -> Path:
    """Copy the packets from number `first` on, as a cut without encoding does; leave one out."""
    packets, _ = packets_of(path)
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in packets[first:without] + ([] if without is None else packets[without + 1 :]):
            packet.stream = stream
            container.mux(packet)
    return target


def test_a_stream_cut_inside_its_refresh_is_counted_by_decoding(tmp_path: Path, write_video: WriteVideo) -> None:
    """Streams with gradual refresh show nothing until a refresh is through, though packets say that they would."""
    whole = write_video(
        tmp_path / "whole.mkv",
        frames=60,
        options=X264 | {"g": "250", "bf": "0", "x264-params": "intra-refresh=1:keyint=12"},
    )
    packets, _ = packets_of(whole)
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    path = cut(whole, tmp_path / "cut.mkv", keys[1] if len(keys) > 1 else 20)
    reference = decode_all(path)
    assert 0 < len(reference) < len(packets_of(path)[0])
    holds(path, reference)


def test_frames_counted_by_decoding_keep_their_times(tmp_path: Path) -> None:
    path, times = tmp_path / "a.webm", [0, 40, 80, 400, 440, 1000, 3960]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25, options={"lag-in-frames": "0", "deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = av.time_base and 1 / stream.average_rate
        for time, image in zip(times, draw(len(times), 48, 64), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = time // 40
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reader = VideoReader(path)
    assert isinstance(reader._access, SequentialAccess)
    np.testing.assert_allclose(reader.timestamps, np.array(times) / 1000, atol=1e-3)
    assert reader.duration > 3.96


def test_one_reader_serves_several_threads(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60, options=X264 | {"crf": "25"})
    reader, reference, wrong, right = VideoReader(path), decode_all(path), [], []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15):
            indices = [rng.randrange(60) for _ in range(3)]
            (right if same(reader.read(indices), reference, indices) else wrong).append(indices)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(right) == 8 * 15  # an error in a thread ends that thread only


def with_damage(path: Path, number: int) -> bytes:
    """A copy with bits flipped in the middle of one packet."""
    packet, content = packets_of(path)[0][number], bytearray(path.read_bytes())
    for place in range(packet.size // 2, packet.size - 4, 7):
        content[packet.pos + place] ^= 0x55
    return bytes(content)


def test_what_needs_a_damaged_frame_is_an_error_and_the_rest_is_right(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", size=(96, 128), options=X264 | {"g": "10", "bf": "0", "crf": "15"})
    reference = decode_all(path)
    content = with_damage(path, 23)
    frames = list(av.open(io.BytesIO(content)).decode(video=0))
    assert [i for i, frame in enumerate(frames) if frame.is_corrupt] == [23]  # FFmpeg conceals it, and says so
    reader = VideoReader(content, name="a.mp4")
    good = [*range(23), *range(30, 40)]
    assert same(reader.read(good), reference, good)
    for i in range(23, 30):
        with pytest.raises(DamagedVideoError, match=r"a\.mp4: frame 23 is damaged"):
            reader.read([3, i])


def test_a_cut_avi_gives_the_frames_before_the_cut(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.avi", codec="mpeg4", size=(96, 128), options={"g": "10", "bf": "2", "qmax": "2"})
    reference, content = decode_all(path), path.read_bytes()
    packets, _ = packets_of(path)
    last = packets[20]
    reader = VideoReader(content[: last.pos + last.size // 2], name="cut.avi")
    shown_before = min(p.pts for p in packets[20:]) - min(p.pts for p in packets)
    good = range(shown_before - 2)
    assert same(reader.read(good), reference, good)
    with pytest.raises(DamagedVideoError, match=r"cut\.avi: "):
        reader.read(range(len(reader)))
    shorter = tmp_path / "shorter.avi"
    shorter.write_bytes(content[: packets[10].pos])
    with pytest.raises(DamagedVideoError, match=r"shorter\.avi: the file ends before the size that it states"):
        verified_video(shorter)


def test_a_picture_that_is_gone_does_not_shift_the_others(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.avi", codec="mpeg4", size=(96, 128), options={"g": "10", "bf": "0", "qmax": "2"})
    reference, content = decode_all(path), bytearray(path.read_bytes())
    packet = packets_of(path)[0][25]
    content[packet.pos : packet.pos + packet.size] = b"\x55" * packet.size
    with pytest.raises(VideoError, match="frame 25 could not be decoded"):  # not one frame less
        VideoReader(bytes(content))
    reader = VideoReader(with_damage(path, 25))  # its header is there, so it keeps its place
    indices = [*range(24), *range(30, 40)]
    assert len(reader) == 40
    assert same(reader.read(indices), reference, indices)


def test_verifying_refuses_what_is_damaged(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", size=(96, 128), options=X264 | {"g": "10", "bf": "0", "crf": "15"})
    (tmp_path / "damaged.mp4").write_bytes(with_damage(path, 23))
    with pytest.raises(DamagedVideoError, match=r"damaged\.mp4: damaged near frame 23"):
        verified_video(tmp_path / "damaged.mp4")


def test_verifying_finds_a_reference_that_is_gone(tmp_path: Path, write_video: WriteVideo) -> None:
    """FFmpeg puts another picture in its place and flags nothing."""
    path = write_video(tmp_path / "a.mkv", size=(96, 128), options=X264 | {"g": "20", "bf": "3"})
    gone = cut(path, tmp_path / "gone.mkv", 0, without=4)
    with av.open(str(gone)) as container:
        assert not any(frame.is_corrupt for frame in container.decode(video=0))
    with pytest.raises(DamagedVideoError, match=r"gone\.mkv: damaged near frame"):
        verified_video(gone)


def test_verifying_passes_an_avi_that_repeats_frames(tmp_path: Path) -> None:
    """It counts the empty chunks that stand for a repeated frame, which hold no picture."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for time, image in zip((0, 1, 2, 9, 10, 20), draw(6, 48, 64), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 6
    assert len(verified_video(path)) == 6


def test_verifying_passes_a_cut_whose_first_frames_are_never_shown(tmp_path: Path, write_video: WriteVideo) -> None:
    """Leading pictures of an open group lack what was cut off; an edit list hides them."""
    open_gop = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0"}
    whole = write_video(tmp_path / "whole.mp4", frames=50, options={"preset": "fast", "threads": "1"} | open_gop)
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.size]
        key = [i for i, p in enumerate(packets) if p.is_keyframe][1]
        begin = packets[key].pts
        for packet in packets[key:]:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            target.mux(packet)
    reference = decode_all(path)
    holds(path, reference)
    assert len(verified_video(path)) == len(reference)


def test_verifying_passes_what_is_whole(kind: tuple[Path, list[Frames]]) -> None:
    """Open groups of pictures and gradual refresh among them."""
    assert len(verified_video(kind[0])) == len(kind[1])


def test_a_cut_jpeg_is_no_frame(tmp_path: Path, write_video: WriteVideo) -> None:
    """FFmpeg's decoder flags nothing, and what is missing keeps the pixels of whatever lay there."""
    path = write_video(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=6, size=(96, 128))
    content, packet = bytearray(path.read_bytes()), packets_of(path)[0][3]
    content[packet.pos + packet.size // 2 : packet.pos + packet.size] = b"\xff" * (packet.size - packet.size // 2)
    with pytest.raises(VideoError, match="frame 3 could not be decoded"):
        VideoReader(bytes(content))


@pytest.mark.skipif(not REAL_FILES, reason="DYNVID_REAL_DATA is not set: no real clips to test on")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_any_reads_of_real_files_equal_a_full_decode(path: Path) -> None:
    """Pixels of one full decode as FFmpeg shows them, or an error; in any order and grouping."""
    reference, flags = shown(path)
    if len(reference[0]) * len(reference[0][0]) > 1000 * 1000:
        pytest.skip("decoding it whole takes seconds")
    reader, rng = VideoReader(path), random.Random(0)
    whole = path.stem not in ("corrupted", "one_bit_flipped", "truncated")
    if whole:
        assert len(reader) == len(reference)
    wanted = [[i] for i in rng.sample(range(len(reader)), min(6, len(reader)))]
    wanted += [[rng.randrange(len(reader)) for _ in range(count)] for count in (2, 4, 8, 16)]
    for indices in wanted:
        try:
            read = reader.read(indices)
        except DamagedVideoError:
            assert not whole
            continue
        assert same(read, reference, indices)
        assert not any(flags[i] for i in indices)
    if whole and path.stem != "three_bytes_flipped":  # which nothing notices
        assert len(verified_video(path)) == len(reference)


def shown(path: Path) -> tuple[list[Frames], list[bool]]:
    """Every frame by plain sequential decoding, scaled to the first and turned by FFmpeg's own filters."""
    frames, flags, graph = [], [], None
    with av.open(str(path), **METADATA) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type = "NONE"
        try:
            for frame in container.decode(stream):
                first = frames[0] if frames else None
                matrix = frame.side_data.get("DISPLAYMATRIX")
                flags.append(frame.is_corrupt)
                if frames and graph is None and matrix is None:
                    frames.append(frame.to_ndarray(format="rgb24", width=first.shape[1], height=first.shape[0]))
                    continue
                image = frame.reformat(format="rgb24")
                if matrix is not None:
                    graph = filters(image, np.frombuffer(bytes(matrix), np.int32).reshape(3, 3))
                    graph.push(image)
                    image = graph.pull()
                frames.append(image.to_ndarray())
        except av.FFmpegError:
            pass
    return frames, flags


def filters(frame: av.VideoFrame, matrix: np.ndarray) -> "av.filter.Graph":
    """The filters that the ffmpeg command puts before its output."""
    if matrix[0, 0] == 0:
        steps = [("transpose", "clock" if matrix[0, 1] > 0 else "cclock")]
    else:
        steps = [("hflip", "")] * bool(matrix[0, 0] < 0) + [("vflip", "")] * bool(matrix[1, 1] < 0)
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=None, width=frame.width, height=frame.height, format=frame.format, time_base=1)]
    nodes += [graph.add(name, argument) if argument else graph.add(name) for name, argument in steps]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg command is not installed")
@pytest.mark.parametrize("name", ["mirrored.mp4", "flipped.mp4", "size_changes.webm"])
def test_real_cases_look_as_the_ffmpeg_command_shows_them(real_data: Path, name: str) -> None:
    path = real_data / "cases" / name
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        path,
        "-sws_flags",
        "bilinear",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    read = VideoReader(path).read(range(50)).permute(0, 2, 3, 1).numpy()
    expected = np.frombuffer(raw, np.uint8).reshape(read.shape)
    assert np.abs(read.astype(int) - expected).mean() < 0.5  # versions of FFmpeg may round differently


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(codec=st.sampled_from(sorted(CODECS)), extradata=st.binary(max_size=40), packet=st.binary(max_size=200))
def test_packets_of_any_content_are_taken_apart(codec: str, extradata: bytes, packet: bytes) -> None:
    for prefix in (b"", b"\1"):
        assert all(unit in packet for unit in parameter_sets(codec, prefix + extradata, packet))
        is_instantaneous(codec, prefix + extradata, packet)


@pytest.fixture(scope="module")
def fuzz() -> Callable[..., object]:
    import importlib.util

    path = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_damaged_videos_give_right_frames_or_an_error(fuzz) -> None:  # type: ignore[no-untyped-def]
    """A few of the mutations of benchmarks/fuzz.py; not VP8's, where FFmpeg leaves in silence what it cannot decode."""
    found = [result for result in fuzz.try_seeds(list(range(120))) if result[1] != "vp8.webm"]
    assert len(found) > 80
    assert not [result for result in found if result[2] & {"wrong", "flagged", "crashed", "slow"}]
    assert sum("refused" in result[2] for result in found) > 20
