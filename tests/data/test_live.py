"""Frames as they come: real files, real servers that are killed on the way, and slow consumers."""

import http.server
import io
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import av
import numpy as np
import pytest

from dynvid.data import VideoReader
from dynvid.data.reading.forward import ForwardVideo
from dynvid.data.reading.live import _Clock, live_frames
from dynvid.data.synthetic import write_clip
from dynvid.errors import InputError, VideoError


def numbered(count, size=32):
    """Frames whose grey says which they are."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None] * 4, size * size * 3, 1).reshape(count, size, size, 3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    write_clip(path, numbered(40), fps=10)
    return path


SERVER = """
import socket, sys, time, av, numpy as np
port, count = int(sys.argv[1]), int(sys.argv[2])
listening = socket.create_server(("127.0.0.1", port))
print("ready", flush=True)
connection, _ = listening.accept()
class Out:
    def write(self, data):
        connection.sendall(data)
        return len(data)
with av.open(Out(), "w", format="mpegts", options={"flush_packets": "1"}) as out:
    stream = out.add_stream("mpeg2video", rate=25, options={"g": "5"})
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.bit_rate = 400000
    for i in range(count):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), i % 200, np.uint8), format="rgb24")))
        time.sleep(0.02)
"""


def serve(port, count=100_000):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(count)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_file_gives_the_frames_and_times_of_the_reader(clip):
    reader = VideoReader(clip)
    frames = list(live_frames(clip))
    assert [f.timestamp for f in frames] == pytest.approx(reader.timestamps.tolist())
    whole = reader.read(range(len(reader))).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(f.image(), one) for f, one in zip(frames, whole, strict=True))
    small = reader.read([7], short_side=16)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(list(live_frames(clip, short_side=16))[7].image(), small)


def test_real_files_give_the_frames_of_the_reader(real_data):
    for name in ("hmdb51", "kinetics", "somethingv2", "ucf101"):
        path = min((real_data / "clips" / name).rglob("*.*"))
        reader = VideoReader(path)
        frames = list(ForwardVideo(path, short_side=32))
        assert len(frames) == len(reader)
        assert [f.timestamp for f in frames] == pytest.approx(reader.timestamps.tolist(), abs=0.02)
        for i in (0, len(reader) // 2, len(reader) - 1):
            expected = reader.read([i], short_side=32)[0].permute(1, 2, 0).numpy()
            assert np.array_equal(frames[i].image(), expected)


@pytest.mark.slow
def test_a_file_in_real_time_drops_what_is_not_taken_in_time(clip):
    began = time.monotonic()
    with live_frames(clip, realtime=True) as frames:
        first = next(frames)
        time.sleep(1.0)
        second = next(frames)
        dropped = frames.dropped
        last = [frame.timestamp for frame in frames][-1]
    assert first.timestamp == 0
    assert 0.5 <= second.timestamp <= time.monotonic() - began  # newest wins
    assert dropped >= 4
    assert round(10 * second.timestamp) == dropped + 1
    assert last == pytest.approx(3.9)
    assert time.monotonic() - began >= 3.9


def test_a_server_that_dies_and_comes_back_is_found_again():
    port, said = free_port(), []
    server = serve(port)
    times, greys = [], []
    try:
        with live_frames(f"tcp://127.0.0.1:{port}", tries=5, say=said.append) as frames:
            for frame in frames:
                times.append(frame.timestamp)
                greys.append(int(frame.image().mean()))
                if len(times) == 10:
                    server.kill()
                    server.wait()
                    server = serve(port)
                if frames.reconnects and len(times) > 20:
                    break
    finally:
        server.kill()
        server.wait()
    assert frames.reconnects == 1
    assert all(a < b for a, b in itertools.pairwise(times))
    jump = max(range(1, len(times)), key=lambda i: times[i] - times[i - 1])
    assert times[jump] - times[jump - 1] > 0.4  # real time went by, half a second of it before the next try
    assert greys[jump] < greys[jump - 1] or greys[jump] < 60  # the new server counts anew, the times go on
    assert said
    assert all(line.startswith(f"tcp://127.0.0.1:{port}: lost (") for line in said)


def stream(kinds, count=12):
    """An MPEG transport stream of these kinds, video and audio, with `count` frames of each."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as out:
        streams = []
        if "video" in kinds:
            video = out.add_stream("mpeg2video", rate=25, options={"g": "5"})
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            streams.append((video, av.VideoFrame(64, 48, "yuv420p")))
        if "audio" in kinds:
            sound = av.AudioFrame("s16", "mono", 1152)
            sound.sample_rate = 44100
            streams.append((out.add_stream("mp2", rate=44100, layout="mono"), sound))
        for i in range(count):
            for one, frame in streams:
                frame.pts = i * (1 if one.type == "video" else 1152)
                out.mux(one.encode(frame))
        for one, _ in streams:
            out.mux(one.encode(None))
    return file.getvalue()


def answer_with(contents, keep=None):
    """The port of a server whose connections get one of the contents each, the last one stays open for `keep`."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer():
        for i, content in enumerate(contents):
            connection, _ = listening.accept()
            connection.sendall(content)
            if keep and i == len(contents) - 1:
                keep.wait(30)
            connection.close()
        listening.close()

    threading.Thread(target=answer, daemon=True).start()
    return listening.getsockname()[1]


def test_what_answers_without_a_video_after_a_loss_is_tried_again(monkeypatch):
    monkeypatch.setattr("dynvid.data.reading.live._DELAYS", (0.05,))
    said, over = [], threading.Event()
    listed = b"ffconcat version 1.0\nfile /etc/passwd\n" * 100
    port = answer_with([stream(["video"]), listed, stream(["audio"]), stream(["video"], 500)], keep=over)
    with live_frames(f"tcp://127.0.0.1:{port}", tries=3, say=said.append) as frames:
        for _ in frames:
            if frames.reconnects:
                break
    over.set()
    frames._thread.join(10)  # it waited for data
    assert [line.partition(": lost ")[2].partition(";")[0] for line in said] == [
        "(it ended)",
        "(in no video format that is read)",
        "(no video stream, or no decoder for it)",
    ]


def test_what_answers_without_a_video_at_first_is_an_error_at_once():
    with pytest.raises(VideoError, match=r"^tcp://127.0.0.1:\d+: no video stream, or no decoder for it$"):
        list(live_frames(f"tcp://127.0.0.1:{answer_with([stream(['audio'])])}"))
    port = answer_with([b"ffconcat version 1.0\nfile /etc/passwd\n" * 100])
    address = f"tcp://user:secret@127.0.0.1:{port}"
    with pytest.raises(VideoError, match=r"cannot open \(in no video format that is read\)") as caught:
        list(live_frames(address))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_stream_that_appears_on_the_way_is_said_in_one_line(tmp_path):
    (tmp_path / "late.ts").write_bytes(stream(["video"], 300) + stream(["video", "audio"], 75))
    code = """
import sys
from dynvid.data.reading.forward import ForwardVideo
from dynvid.data.reading.live import live_frames
class Pipe:
    def __init__(self): self.file = open(sys.argv[1], "rb")
    def read(self, size): return self.file.read(size)
for frames in (ForwardVideo(Pipe(), "a pipe"), live_frames(sys.argv[2], tries=0)):
    try:
        for frame in frames: pass
    except Exception as error:
        print(type(error).__name__, error)
"""
    address = f"tcp://127.0.0.1:{answer_with([(tmp_path / 'late.ts').read_bytes()])}"
    # PyAV looks into memory that nobody has set: glibc sets it here, so that it is the same each time.
    command = [sys.executable, "-c", code, str(tmp_path / "late.ts"), address]
    printed = subprocess.run(command, env=os.environ | {"MALLOC_PERTURB_": "80"}, capture_output=True, text=True)
    assert printed.stdout.splitlines() == [
        "VideoError a pipe: cannot be read further (its streams change on the way)",
        f"VideoError {address}: lost (its streams change on the way), and not found again in 0 tries",
    ], printed.stderr


def opened(path):
    """How often this process has a file open."""
    return [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")].count(str(path))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux only")
@pytest.mark.parametrize("realtime", [False, True])
def test_closing_lets_go_of_the_file_and_ends_the_frames(clip, realtime):
    with live_frames(clip, realtime=realtime) as frames:
        first = next(frames)
        assert opened(clip) == 1
    assert opened(clip) == 0
    assert list(frames) == []
    assert first.image().shape == (32, 32, 3)
    assert not (frames._thread and frames._thread.is_alive())
    unused = live_frames(clip, realtime=realtime)
    unused.close()
    unused.close()
    assert list(unused) == []


def test_closing_while_a_frame_is_taken_ends_the_frames():
    def pairs():
        for second in range(9):
            yield second, np.zeros((4, 4, 3), np.uint8)
            if second:
                frames.close()

    frames = live_frames(pairs())
    assert [frame.timestamp for frame in frames] == [0, 1, 2]


def test_a_server_that_stays_away_is_given_up():
    port, said = free_port(), []
    server = serve(port, 12)
    lost = rf"tcp://127.0.0.1:{port}: lost \(.*\), and not found again in 1 tries"
    with (
        live_frames(f"tcp://127.0.0.1:{port}", tries=1, say=said.append) as frames,
        pytest.raises(VideoError, match=lost),
    ):
        list(frames)
    server.wait(10)
    assert len(said) == 1
    assert "try 1 of 1 in 0.5 s" in said[0]


def test_a_file_on_a_server_ends_with_it(clip):
    content = clip.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with live_frames(f"http://127.0.0.1:{server.server_port}/clip.mp4") as frames:
            seen = [frame.timestamp for frame in frames]
    finally:
        server.shutdown()
    assert seen[-1] == pytest.approx(3.9)
    assert frames.reconnects == 0


def test_a_playlist_on_a_server_opens_no_local_file(clip, tmp_path):
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(playlist)))
            self.end_headers()
            self.wfile.write(playlist)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/list.m3u8"
        with live_frames(address, tries=0) as frames, pytest.raises(VideoError, match=r"list\.m3u8"):
            list(frames)
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("ftp://host/a.mp4", InputError, "no such kind of address; use rtsp"),
        ("concat:a.mp4|b.mp4", VideoError, "cannot open"),
        ("missing.mp4", VideoError, "missing.mp4: cannot open"),
        ("97", VideoError, "/dev/video97: cannot open"),
        ("tcp://user:secret@127.0.0.1:1", VideoError, r"tcp://127.0.0.1:1: cannot open \("),
        (" tcp://user:secret@127.0.0.1:1", VideoError, r" tcp://127.0.0.1:1: cannot open \("),
        ("ftp://user:secret@host/a", InputError, "ftp://host/a: no such kind"),
        (3.5, InputError, "not float"),
        (b"content", InputError, "not bytes"),
    ],
)
def test_what_cannot_be_opened_is_said_at_once(source, error, message):
    with pytest.raises(error, match=message) as caught:
        list(live_frames(source))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://user:secret@host:554/a", "rtsp://host:554/a"),
        ("rtsp://user:sec@ret@host/a", "rtsp://host/a"),
        ("rtsp://user:sec/ret@host/a", "rtsp://host/a"),
        ("rtsp://user:sec?ret@host/a", "rtsp://..."),
        ("RTSP://[::1]:554/a?user=admin&password=secret", "RTSP://[::1]:554/a"),
        ("http://host/a?user=x@y&password=secret", "http://..."),
        ("http://host/a#secret", "http://host/a"),
        ("rtsp://host/user=admin&password=secret&channel=1", "rtsp://host/user"),
        ("rtmp://user:secret@host:1935/live/secret", "rtmp://host:1935"),
        ("a/b@c?d=e.mp4", "a/b@c?d=e.mp4"),
    ],
)
def test_names_of_addresses_hold_no_secret(source, name):
    assert live_frames(source).name == name


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this machine has no /dev/shm")
def test_a_file_below_dev_is_no_camera(clip):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "clip.mp4")
        path.write_bytes(clip.read_bytes())
        assert len(list(live_frames(path))) == 40


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"no\.mp4: cannot open"):
        list(ForwardVideo(tmp_path / "no.mp4"))
    with pytest.raises(InputError, match="tries=-1"):
        live_frames("0", tries=-1)


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    path = tmp_path / "clip.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("mpeg2video", rate=25, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            noise = np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        out.mux(stream.encode(None))
    whole = list(ForwardVideo(path))
    assert len(whole) == 40
    content = bytearray(path.read_bytes())
    middle = len(content) // 376 * 188
    content[middle : middle + 188 * 6] = bytes(188 * 6)
    video = ForwardVideo(bytes(content))
    kept = list(video)
    assert video.damaged
    assert 10 < len(kept) < 40
    assert all(a.timestamp < b.timestamp for a, b in itertools.pairwise(kept))


def test_the_clock_goes_by_the_source_and_by_the_wall_where_that_breaks_off():
    now = 100.0
    clock = _Clock(lambda: now)

    def at(wall, stated):
        nonlocal now
        now = wall
        return round(clock.of(stated), 3)

    assert at(100.0, 5.0) == 0
    assert at(100.2, 5.04) == 0.04  # it came late
    assert at(100.2, 5.08) == 0.08
    clock.lose()
    assert at(103.2, 0.0) == 3.08  # three seconds on the wall
    assert at(103.3, 0.04) == 3.12
    assert at(103.4, 0.04) == 3.22  # stands still: by the wall
    assert at(103.5, 0.08) == 3.26
    assert at(103.6, 9999.0) == 3.36  # jumps
    assert at(103.7, None) == 3.46
    assert at(103.8, 9999.2) == 3.56
