"""Files from strangers: they open nothing but themselves, and take no more memory than a video may."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynvid.data import FrameFolder, VideoError, VideoReader, open_video
from dynvid.data.reading import container
from dynvid.data.video import is_video

from .conftest import Frames, WriteVideo, decode_all, draw, same

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(pwned) print showpage\n%%EOF\n"


@pytest.fixture
def opened() -> list[str]:
    """The programs that are started; none should be."""
    found: list[str] = []
    sys.addaudithook(lambda event, args: found.append(str(args[:2])) if event == "subprocess.Popen" else None)
    return found


@pytest.mark.parametrize("name", ["img_1.jpg", "img_1.png"])
def test_postscript_under_another_name_starts_no_program(tmp_path: Path, opened: list[str], name: str) -> None:
    (tmp_path / name).write_bytes(EPS)
    opened.clear()
    with pytest.raises(VideoError, match=rf"{name}: frame 0 could not be decoded"):
        open_video(tmp_path).read([0])
    assert not opened


@pytest.mark.parametrize("ending", ["gif", "bmp", "tiff", "ppm", "webp", "tga"])
def test_other_pictures_under_the_name_of_a_frame(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{ending}")
    (tmp_path / f"a.{ending}").rename(tmp_path / "img_1.jpg")
    with pytest.raises(VideoError, match=r"img_1\.jpg: frame 0 could not be decoded"):
        open_video(tmp_path).read([0])


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-VERSION:3\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
}


@pytest.mark.parametrize("form", ["path", "bytes", "file"])
@pytest.mark.parametrize("ending", ["mp4", "m3u8", "ts", "ffconcat", "mpd"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_nothing(tmp_path: Path, write_video: WriteVideo, kind: str, ending: str, form: str) -> None:
    secret = write_video(tmp_path / "secret" / "secret.ts", frames=5)
    path = tmp_path / f"list.{ending}"
    path.write_text(PLAYLISTS[kind].format(target=os.path.relpath(secret, tmp_path)))
    source = {"path": path, "bytes": path.read_bytes(), "file": io.BytesIO(path.read_bytes())}[form]
    with pytest.raises(VideoError, match="cannot open"):
        VideoReader(source)  # type: ignore[arg-type]


def test_the_network_is_never_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        (tmp_path / "list.mp4").write_text(PLAYLISTS["hls"].format(target=url))
        for source in (url, url.replace("http", "tcp"), tmp_path / "list.mp4", (tmp_path / "list.mp4").read_bytes()):
            with pytest.raises(VideoError, match="cannot open"):
                VideoReader(source)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "name", ["concat:a.mp4", "file:a.mp4", "data:a.mp4", "pipe:0", "a|b.mp4", "%03d.mp4", "ünï\udcff.mp4"]
)
def test_names_that_look_like_something_else_are_files(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain = write_video(tmp_path / "plain.mp4", frames=6)
    reference = decode_all(plain)
    plain.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):  # relative and absolute
        assert same(VideoReader(path).read([4]), reference, [4])


def kinds_of_files(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe.mp4")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket.mp4"))
    listener.close()
    (folder / "folder.mp4").mkdir()
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    found = kinds_of_files(tmp_path)
    for kind, words in {
        "pipe": "a pipe, socket or device",
        "socket": "a pipe, socket or device",
        "device": "a pipe, socket or device",
        "folder": "a folder",
        "gone": "No such file",
    }.items():
        with pytest.raises(VideoError, match=words):
            VideoReader(found[kind])
    with pytest.raises(VideoError, match="null"):
        VideoReader("a\0.mp4")
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames" / "img_1.jpg")
    with pytest.raises(VideoError, match=r"img_1\.jpg: cannot open \(it is a pipe"):
        open_video(tmp_path / "frames").read([0])


SCRIPT = """
import resource, sys
from dynvid.data import VideoError, eval_transform, open_video
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        eval_transform(224)(open_video(path).read([0], 256))
    except VideoError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write_blank(path: Path, side: int) -> Path:
    """One blank frame, which takes a few kilobytes whatever its size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def png(width: int, height: int) -> bytes:
    """A PNG that only states its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height) if width * height < 10**7 else b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_frames_of_monstrous_size_or_shape_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    files = [write_blank(tmp_path / "6000.mp4", 6000)]
    for width, height in ((50_000, 1), (1, 50_000), (30_000, 30_000), (12_000, 12_000)):
        folder = tmp_path / f"{width}x{height}"
        folder.mkdir()
        (folder / "img_1.png").write_bytes(png(width, height))
        files.append(folder)
    assert sum(path.stat().st_size for path in files) < 200_000
    run = subprocess.run([sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, timeout=60, check=True)
    *said, memory = run.stdout.splitlines()
    assert len(said) == len(files)
    assert all(str(path) in line for path, line in zip(files, said, strict=True))
    assert int(memory) < 60  # MiB; a frame of 6000 x 6000 alone takes 51, and its decoder several


def test_thin_videos_are_refused(tmp_path: Path, write_video: WriteVideo) -> None:
    with pytest.raises(VideoError, match="one side is over 32 times the other"):
        VideoReader(write_video(tmp_path / "a.mp4", frames=2, size=(16, 1024)))


def element(number: bytes, content: bytes) -> bytes:
    """An element of EBML."""
    return number + (len(content) | 1 << 56).to_bytes(8) + content


def test_packets_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    """Matroska may compress them: zeros shrink a thousandfold."""
    block = zlib.compress(bytes(8 * 2**20), 9)
    video = element(b"\xb0", b"\x40") + element(b"\xba", b"\x30")  # 64 x 48
    zlib_compression = element(b"\x50\x34", element(b"\x42\x54", b"\0"))
    encoding = element(b"\x6d\x80", element(b"\x62\x40", zlib_compression))
    fields = {b"\xd7": b"\1", b"\x73\xc5": b"\1", b"\x83": b"\1", b"\x86": b"V_VP8", b"\xe0": video}
    track = b"".join(element(number, content) for number, content in fields.items()) + encoding
    cluster = element(b"\xe7", b"\0") + b"".join(
        element(b"\xa3", b"\x81" + time.to_bytes(2) + b"\x80" + block) for time in range(40)
    )
    segment = element(b"\x16\x54\xae\x6b", element(b"\xae", track)) + element(b"\x1f\x43\xb6\x75", cluster)
    head = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"matroska"))
    path = tmp_path / "a.mkv"
    path.write_bytes(head + element(b"\x18\x53\x80\x67", segment))
    assert path.stat().st_size < 500_000
    with pytest.raises(VideoError, match=r"a\.mkv: its packets unpack to many times the size of the file"):
        VideoReader(path)


def test_a_table_that_states_frames_without_end_is_refused(tmp_path: Path, write_video: WriteVideo) -> None:
    """In MP4 a size that is the same for all samples is stored once, for as many as one likes."""
    path = write_video(tmp_path / "a.mp4", frames=20)
    content = bytearray(path.read_bytes())
    at = content.index(b"stsz") + 8
    content[at : at + 8] = (100).to_bytes(4) + (60_000_000).to_bytes(4)
    path.write_bytes(content)
    for source in (path, bytes(content), io.BytesIO(bytes(content))):
        with pytest.raises(VideoError, match="states more than 500000 frames"):
            VideoReader(source)


def test_numbers_of_sound_are_not_frames(tmp_path: Path, write_video: WriteVideo) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container_:
        sound = container_.add_stream("pcm_s16le", rate=48_000)
        stream = container_.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in draw(3, 48, 64):
            container_.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for _ in range(12):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 48_000), np.int16), format="s16", layout="stereo")
            frame.rate = 48_000
            container_.mux(sound.encode(frame))
        container_.mux(stream.encode(None))
        container_.mux(sound.encode(None))
    assert len(VideoReader(path)) == 3


@pytest.mark.parametrize("names", [["²1.png", "²2.png"], ["１.png", "２.png"], ["a١.png", "a٢.png"]])
def test_digits_of_other_scripts_are_letters(tmp_path: Path, names: list[str]) -> None:
    save(tmp_path, names, draw(2, 24, 32))
    assert same(open_video(tmp_path).read([0, 1]), draw(2, 24, 32), [0, 1])


def test_the_number_of_frames_is_limited(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", frames=30)
    monkeypatch.setattr(container, "MAX_FRAMES", 30)
    assert len(VideoReader(path)) == 30
    monkeypatch.setattr(container, "MAX_FRAMES", 29)
    with pytest.raises(VideoError, match="more than 29 frames; cut it into parts"):
        VideoReader(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["jpg", "png"]))
def test_damaged_pictures_are_an_error_or_a_picture(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    file = io.BytesIO()
    Image.fromarray(draw(1, 24, 32)[0]).save(file, "JPEG" if suffix == "jpg" else "PNG")
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / f"img_1.{suffix}").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for file_ in tmp_path.iterdir():
        if file_.suffix != f".{suffix}":
            file_.unlink()
    try:
        shape = open_video(tmp_path).read([0]).shape
    except VideoError:
        return
    assert shape[:2] == (1, 3)


EXIF = {  # what the EXIF standard says that a viewer has to do, with numpy
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", EXIF)
def test_frames_are_upright_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(draw(1, 24, 32)[0]).save(tmp_path / "img_1.jpg", exif=exif, quality=95)
    Image.fromarray(draw(1, 24, 32)[0]).save(tmp_path / "plain.jpg", quality=95)
    stored = np.asarray(Image.open(tmp_path / "plain.jpg"))
    reader = open_video(tmp_path)
    shown = reader.read([0])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(shown, EXIF[orientation](stored))
    assert (reader.height, reader.width) == shown.shape[:2]


def save(folder: Path, names: list[str], frames: Frames) -> None:
    folder.mkdir(exist_ok=True)
    for name, image in zip(names, frames, strict=True):
        Image.fromarray(image).save(folder / name)


@pytest.mark.parametrize(
    "flow", ["flow_x_{:05}.png", "flow_y_{:05}.png", "x_{:05}.png", "tvl1_u_{:05}.png", "v_flow_{}.png"]
)
def test_optical_flow_beside_the_frames_is_passed_over(tmp_path: Path, flow: str) -> None:
    rgb, other = draw(4, 24, 32), draw(4, 24, 32, seed=9)
    save(tmp_path, [f"img_{i:05}.png" for i in range(4)], rgb)
    save(tmp_path, [flow.format(i) for i in range(4)], other)
    reader = open_video(tmp_path)
    assert len(reader) == 4
    assert same(reader.read(range(4)), rgb, range(4))


def test_several_series_of_frames_are_refused(tmp_path: Path) -> None:
    save(tmp_path, [f"left_{i}.png" for i in range(3)], draw(3, 24, 32))
    save(tmp_path, [f"right_{i}.png" for i in range(2)], draw(2, 24, 32))
    with pytest.raises(VideoError, match=r"several series of frames \(3 left_\*\.png, 2 right_\*\.png\)"):
        open_video(tmp_path)


def test_a_picture_without_a_number_beside_the_frames_is_none(tmp_path: Path) -> None:
    save(tmp_path, ["thumb.png", "1.png", "2.png", "10.png"], draw(4, 24, 32))
    assert same(open_video(tmp_path).read([0, 1, 2]), draw(4, 24, 32)[1:], [0, 1, 2])


def test_a_folder_with_a_video_and_its_thumbnail_is_the_video(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "id1" / "id1.mp4", frames=8)
    save(tmp_path / "id1", ["id1.jpg"], draw(1, 24, 32))
    assert not is_video(tmp_path / "id1")  # it holds one
    assert same(open_video(tmp_path / "id1").read([7]), decode_all(path), [7])
    assert len(FrameFolder(tmp_path / "id1")) == 1
    write_video(tmp_path / "id1" / "id2.mp4", frames=2)
    with pytest.raises(VideoError, match="a folder of 2 videos; name one of them"):
        open_video(tmp_path / "id1")
