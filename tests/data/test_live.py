"""Frames as they come: real files, real servers that are killed on the way, and slow consumers."""

import http.server
import itertools
import socket
import subprocess
import sys
import threading
import time

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
        ("tcp://user:secret@127.0.0.1:1", VideoError, r"tcp://...@127.0.0.1:1: cannot open \("),
        (3.5, InputError, "not float"),
    ],
)
def test_what_cannot_be_opened_is_said_at_once(source, error, message):
    with pytest.raises(error, match=message) as caught:
        list(live_frames(source))
    assert "secret" not in str(caught.value)


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
