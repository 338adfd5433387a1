"""The server as its clients see it: a process of its own, sockets, good and bad requests."""

import asyncio
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.cli import main
from dynvid.data import SyntheticDataModule
from dynvid.inference import Recognizer
from dynvid.inference.serving.server import _protocol, listen
from dynvid.module import DynamicInferenceModule

pytestmark = pytest.mark.extra
LARGEST, SLOWEST, AT_ONCE = 2_000_000, 3.0, 16
NAMES = ["a", "b", "c", "d", 'e"\n<é>']


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_noise):
    folder = tmp_path_factory.mktemp("clips")
    return [write_noise(folder / f"{i}.mp4", i, frames=10 + i, most=40 * (i % 6 + 1)) for i in range(12)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, scramble, clips):
    """A random net with thresholds by which a third of the videos that come to an exit leave there."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    net = scramble(UnifiedExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32))
    traces = [found.trace for found in Recognizer(net).many(clips)]
    module = DynamicInferenceModule(net)
    module.class_names = NAMES
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    levels = []
    for k in range(3):
        levels.append(float(np.quantile([trace[k].probability for trace in traces], 0.7)))
        traces = [trace for trace in traces if trace[k].probability < levels[k]]
    module.set_thresholds(torch.tensor([*levels, 0.0]))
    trainer.save_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt"


@pytest.fixture(scope="module")
def expected(checkpoint, clips):
    found = list(Recognizer.load(checkpoint, precision="float32", optimize="none").many(clips))
    assert len({answer.exit for answer in found}) > 2
    return found


class Server:
    """`dynvid serve` in a process of its own, in a folder of its own."""

    def __init__(self, checkpoint, folder, *options):
        for name in ("here", "temporary"):
            (folder / name).mkdir()
        self.folder = folder
        command = [sys.executable, "-c", "from dynvid.cli import main; main()", "serve", str(checkpoint), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--precision", "float32", "--optimize", "none", *options],
            cwd=folder / "here",
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder / "temporary")},
        )
        said = self.process.stderr.readline()
        assert "answers POST" in said, said + self.process.stderr.read()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/predict", said)[1])

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method, path, body=None, headers=None, **options):
        """Status, headers and body of one answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {}, **options)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def predict(self, body, query="", **headers):
        status, got, said = self.ask("POST", "/predict" + query, body, headers)
        assert got["content-type"] == "application/json"
        assert said.endswith(b"\n")
        assert said.count(b"\n") == 1
        return status, json.loads(said)

    def metrics(self):
        status, _, page = self.ask("GET", "/metrics")
        assert status == 200
        rows = [line.rpartition(" ") for line in page.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    def until(self, holds):
        """Wait until the metrics fulfil something."""
        ends = time.monotonic() + 20
        while not holds(self.metrics()):
            assert time.monotonic() < ends, self.metrics()
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    options = ["--max-upload-mb", str(LARGEST / 1e6), "--upload-seconds", str(SLOWEST), "--max-requests", str(AT_ONCE)]
    found = Server(checkpoint, tmp_path_factory.mktemp("server"), *options)
    yield found
    found.process.terminate()
    assert found.process.wait(30) == 0
    assert found.process.stderr.read() == ""
    # Whatever was sent, nothing is left of it, and nothing was written elsewhere.
    assert [*(found.folder / "here").iterdir(), *(found.folder / "temporary").iterdir()] == []


def form(data, name="file", filename="clip.mp4"):
    head = f'--limit\r\ncontent-disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + data + b"\r\n--limit--\r\n"


MULTIPART = {"content-type": "multipart/form-data; boundary=limit"}


def check(answer, found):
    assert answer["label"] == found.label
    assert answer["exit"] == {"frames": found.exit.frames, "depth": found.exit.depth}
    assert answer["frames_read"] == found.frames_read
    assert answer["gmacs"] == pytest.approx(found.gmacs)
    assert answer["probability"] == pytest.approx(found.probability, abs=1e-5)
    assert [step["label"] for step in answer["trace"]] == [step.label for step in found.trace]


def events_of(body):
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", body.decode())
    assert "".join(f"event: {name}\ndata: {data}\n\n" for name, data in found) == body.decode()
    return [(name, json.loads(data)) for name, data in found]


def test_answers_are_those_of_the_recognizer(server, clips, expected):
    for path, found in zip(clips, expected, strict=True):
        status, answer = server.predict(path.read_bytes())
        assert status == 200
        check(answer, found)
        status, again = server.predict(form(path.read_bytes(), filename="../../../etc/passwd"), **MULTIPART)
        assert status == 200
        check(again, found)
        assert answer["saved"] == pytest.approx(again["saved"])


def test_each_exit_is_told_as_the_walk_goes_on(server, clips, expected):
    for path, found in zip(clips, expected, strict=True):
        headers = {"accept": "text/event-stream"}
        status, got, body = server.ask("POST", "/predict", path.read_bytes(), headers)
        assert (status, got["content-type"]) == (200, "text/event-stream")
        *steps, (last, answer) = events_of(body)
        assert last == "answer"
        check(answer, found)
        assert [name for name, _ in steps] == ["exit"] * len(found.trace)
        assert [step for _, step in steps] == answer["trace"]
    status, got, body = server.ask("POST", "/predict", b"no video", headers)
    assert (status, got["content-type"]) == (422, "application/json")


def test_a_request_has_limits_of_its_own(server, checkpoint, clips):
    alone = Recognizer.load(checkpoint, precision="float32", optimize="none")
    for path in clips[:4]:
        _, answer = server.predict(path.read_bytes(), "?deadline_ms=0")
        assert len(answer["trace"]) == 1
        for gmacs in alone.gmacs:
            _, answer = server.predict(path.read_bytes(), f"?max_gmacs={gmacs * 1.0001}")
            check(answer, alone(path, max_gmacs=gmacs * 1.0001))
    for query, said in [
        (f"?max_gmacs={alone.gmacs[0] / 2}", "the first exit takes"),
        ("?max_gmacs=much", "max_gmacs=much: a number"),
        ("?deadline_ms=-1", "deadline_ms=-1: 0 or more"),
        ("?deadline_ms=nan", "0 or more"),
        ("?deadline_ms=inf", "0 or more"),
        ("?max_gmac=1", "max_gmac: no such option; there are max_gmacs, deadline_ms"),
        ("?" + "a=1&" * 1000, "cannot be read"),
    ]:
        status, answer = server.predict(clips[0].read_bytes(), query)
        assert status == 400
        assert said in answer["error"]


def test_many_clients_at_once_get_what_each_gets_alone(server, clips, expected):
    before = server.metrics()

    def client(number):
        connection = server.connect()  # one for all its requests
        for k in range(6):
            place = (number + 5 * k) % len(clips)
            connection.request("POST", "/predict", clips[place].read_bytes())
            answer = connection.getresponse()
            assert answer.status == 200
            check(json.loads(answer.read()), expected[place])
        connection.close()
        return 6

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(client, range(8))) == 48
    after = server.metrics()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    taken = [expected[(number + 5 * k) % len(clips)] for number in range(8) for k in range(6)]
    assert grown['dynvid_requests_total{code="200"}'] == grown["dynvid_request_seconds_count"] == 48
    assert grown["dynvid_gmacs_spent_total"] == pytest.approx(sum(found.gmacs for found in taken))
    for exit in {found.exit for found in taken}:
        name = f'dynvid_exits_total{{frames="{exit.frames}",depth="{exit.depth}"}}'
        assert grown[name] == sum(found.exit == exit for found in taken)
    assert grown["dynvid_step_videos_sum"] == sum(len(found.trace) for found in taken)
    assert grown["dynvid_step_videos_count"] < grown["dynvid_step_videos_sum"]  # some walked together
    assert after["dynvid_requests_in_progress"] == after["dynvid_upload_bytes_held"] == 0


@pytest.fixture(scope="module")
def nobody():
    """An address that files name; nobody may come."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"
    with pytest.raises(BlockingIOError):
        listening.accept()
    listening.close()


def test_what_is_no_video_is_refused_in_one_line(server, clips, nobody, tmp_path):
    good = clips[0].read_bytes()
    (tmp_path / "list.txt").write_text(f"file '{clips[0]}'")
    bodies = [
        *(b"\0" * 1000, good[:200], b"RIFF\xff\xff\xff\xffAVI LIST", b"\x1aE\xdf\xa3" + b"\xff" * 64, os.urandom(5000)),
        *(str(clips[0]).encode(), f"file:{clips[0]}".encode(), f"concat:{clips[0]}|{clips[0]}".encode()),
        *(nobody.encode(), f"#EXTM3U\n#EXTINF:1,\n{nobody}\n".encode(), f"#EXTM3U\n#EXTINF:1,\n{clips[0]}\n".encode()),
        f"ffconcat version 1.0\nfile '{clips[0]}'\n".encode(),
        f"<MPD><BaseURL>{nobody}</BaseURL></MPD>".encode(),
        f"v=0\nc=IN IP4 127.0.0.1\nm=video {nobody.split(':')[2].split('/')[0]} RTP/AVP 33\n".encode(),
        b"%PDF-1.4", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"GIF89a\x01\x00\x01\x00",
    ]  # fmt: skip
    for body in bodies:
        for sent, headers in ((body, {}), (form(body, filename=nobody), MULTIPART)):
            status, answer = server.predict(sent, **headers)
            assert status == 422, (body, answer)
            assert answer["error"].startswith("upload: ")
            assert not re.search(r"/tmp|\.py|Error|site-packages", answer["error"])


def test_damaged_files_never_break_it(server, clips):
    random = np.random.default_rng(0)
    codes = set()
    for path in clips[:6] * 5:
        data = bytearray(path.read_bytes())
        for place in random.integers(0, len(data), 20):
            data[place] = random.integers(0, 256)
        status, answer = server.predict(bytes(data))
        assert status in (200, 422), answer
        codes.add(status)
    assert codes == {200, 422}
    assert server.predict(clips[0].read_bytes())[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {}, 400, "no file came"),
        (form(b""), MULTIPART, 400, "no file came"),
        (form(b"x", name="files"), MULTIPART, 400, "no field file"),
        (form(b"x").replace(b"--limit--", form(b"x")[:-2]), MULTIPART, 400, "several fields"),
        (form(b"x")[:-20], MULTIPART, 400, "cut short"),
        (b"--other\r\n\r\n", MULTIPART, 400, "malformed"),
        (b"--limit\r\nno header\r\n\r\nx", MULTIPART, 400, "malformed"),
        (b"--limit\r\na: " + b"b" * 9000, MULTIPART, 400, None),
        (form(b"x"), {"content-type": "multipart/form-data"}, 400, "without a boundary"),
        (b"x", {"content-encoding": "gzip"}, 415, "as it is"),
    ],
)
def test_a_malformed_request_is_refused(server, body, headers, status, said):
    got, answer = server.predict(body, **headers)
    assert (got, *answer) == (status, "error")
    assert said is None or said in answer["error"]


@pytest.mark.parametrize("option", ["f*=a; f*0=b", f"f*{'9' * 5000}=b"])
def test_a_header_that_breaks_its_parser_is_refused(server, option):
    body = form(b"x").replace(b'name="file"', b'name="file"; ' + option.encode())
    for headers in (MULTIPART, {"content-type": f"{MULTIPART['content-type']}; {option}"}):
        assert server.predict(body, **headers)[0] in (400, 422)  # newer versions read on, to what is no video


def test_paths_and_methods_are_told(server):
    for method, path, status in [
        *(("GET", "/predict", 405), ("POST", "/metrics", 405), ("DELETE", "/health", 405)),
        *(("GET", "/", 404), ("GET", "/../../etc/passwd", 404), ("POST", "/predict/x", 404)),
    ]:
        got, _, body = server.ask(method, path)
        assert got == status
        assert json.loads(body)["error"]
    assert server.ask("GET", "/health")[0] == 200
    status, _, body = server.ask("GET", "/ready")
    assert status == 200
    assert json.loads(body)["classes"] == NAMES


def test_what_is_too_large_is_refused_whether_it_says_so_or_not(server):
    large = b"x" * (2 * LARGEST)
    sent = b""

    def pieces():
        nonlocal sent
        for start in range(0, len(large), 65536):
            sent += large[start : start + 65536]
            yield large[start : start + 65536]

    for body, chunked in ((large, False), (pieces(), True)):
        status, _, said = server.ask("POST", "/predict", body, encode_chunked=chunked, headers=dict(
            [("transfer-encoding", "chunked")] if chunked else []
        ))  # fmt: skip
        assert status == 413
        assert json.loads(said) == {"error": "the upload is larger than 2 MB"}
    # Stated only: no byte of it need be sent.
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\nexpect: 100-continue\r\n\r\n"
    )
    assert connection.recv(20).startswith(b"HTTP/1.1 413")
    connection.close()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("why", ["full", "missing"])
def test_an_upload_without_room_is_refused(server, clips, why, wrapped):
    body, headers = (form(b"x" * 1_900_000), MULTIPART) if wrapped else (b"x" * 1_900_000, {})
    temporary, away = server.folder / "temporary", server.folder / "away"
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    if why == "missing":
        temporary.rename(away)
    else:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        assert server.predict(body, **headers) == (503, {"error": "no room for the upload; try again"})
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        if why == "missing":
            away.rename(temporary)
    assert server.metrics()["dynvid_upload_bytes_held"] == 0
    assert server.predict(clips[0].read_bytes())[0] == 200


@pytest.mark.parametrize("how", ["nothing", "headers", "body", "drop by drop"])
def test_slow_clients_are_sent_away(server, how):
    began = time.monotonic()
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(20)
    if how == "headers":
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\nx-slow: ")
    elif how != "nothing":
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
    ended = threading.Event()

    def drip():
        while not ended.wait(0.2):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    if how == "drop by drop":
        threading.Thread(target=drip).start()
    said = b""
    try:
        while piece := connection.recv(4096):
            said += piece
    except ConnectionError:
        pass
    finally:
        ended.set()
        connection.close()
    assert SLOWEST - 0.2 < time.monotonic() - began < SLOWEST + 10
    if how in ("body", "drop by drop"):
        assert said.startswith(b"HTTP/1.1 408")
        assert b"the upload is too slow" in said


def test_who_does_not_take_its_answers_is_sent_away(server):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(SLOWEST + 10)  # of one send that is not taken: the server reads no further
    connection.connect(("127.0.0.1", server.port))
    with pytest.raises(ConnectionError):
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 10**6)
    connection.close()


def test_only_so_many_are_taken_on_at_once(server, clips):
    held = []
    for _ in range(AT_ONCE):
        held.append(socket.create_connection(("127.0.0.1", server.port)))
        held[-1].sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
    server.until(lambda now: now["dynvid_requests_in_progress"] == AT_ONCE)
    assert server.ask("GET", "/ready")[0] == 503
    status, headers, said = server.ask("POST", "/predict", clips[0].read_bytes())
    assert (status, headers["retry-after"]) == (503, "1")
    assert "try again" in json.loads(said)["error"]
    for connection in held:
        connection.close()
    server.until(lambda now: now["dynvid_requests_in_progress"] == 0)
    assert server.predict(clips[0].read_bytes())[0] == 200


def test_who_leaves_is_not_waited_for(server, clips):
    before = server.metrics().get('dynvid_requests_total{code="499"}', 0)
    data = clips[0].read_bytes()
    for part in (data[:100], data):
        connection = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + part)
        connection.close()
    server.until(lambda now: now.get('dynvid_requests_total{code="499"}', 0) > before)
    server.until(lambda now: now["dynvid_requests_in_progress"] == now["dynvid_upload_bytes_held"] == 0)
    assert server.predict(data)[0] == 200


def test_the_example_asks_it(server, clips, expected):
    example = Path(__file__).parents[2] / "examples" / "09_client.py"
    said = subprocess.run(
        [sys.executable, example, f"http://127.0.0.1:{server.port}", *clips[:2], example],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    for path, found in zip(clips[:2], expected, strict=False):
        assert f"{path}: {found.label!r}, {found.probability:.0%}" in said
    assert f"{example}: 422, upload: cannot open" in said


def test_own_data_from_a_folder_to_an_answer(tmp_path):
    SyntheticDataModule(tmp_path / "own", clips_per_class=5, clip_frames=6, size=32).prepare_data()
    options = {"data.num_frames": 4, "data.size": 32, "model.net.backbone": "test_resnet", "trainer.max_epochs": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    call = [
        sys.executable,
        Path(__file__).parents[2] / "examples" / "10_own_data.py",
        "own",
        *words,
        "--model.net.pretrained",
        "false",
    ]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"mp4: \w+ \(\d+%\), -?\d+% of the GMACs saved", done.stdout)
    assert (tmp_path / "model" / "README.md").is_file()


def test_what_is_wrong_at_its_start_is_said_in_one_line(server, checkpoint, tmp_path, capsys):
    for arguments, said in [
        ([str(checkpoint), "--port", str(server.port)], f"cannot listen on 127.0.0.1 port {server.port} (Address"),
        ([str(checkpoint), "--port", "70000"], "'70000': a port, 0 to 65535"),
        ([str(checkpoint), "--max-upload-mb", "0"], "'0': a number above 0"),
        ([str(tmp_path / "none.ckpt"), "--port", "0"], "none.ckpt"),
        (["none.ckpt", "--audit", "0.5", "--deadline-ms", "9"], "--audit: nothing is audited with --deadline-ms;"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        assert ended.value.code in (1, 2)
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1


def test_told_to_end_it_finishes_what_it_has_begun(server, clips, expected):  # the last test: it ends the server
    data = clips[0].read_bytes()
    begun = []
    for _ in range(4):
        connection = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:100])
        begun.append(connection)
    server.until(lambda now: now["dynvid_requests_in_progress"] == 4)
    server.process.send_signal(signal.SIGTERM)
    ends = time.monotonic() + 20
    while time.monotonic() < ends:  # until nobody else is let in
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("it still listens")
    for connection in begun:
        connection.sendall(data[100:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        check(json.loads(answer.read()), expected[0])
        connection.close()
    assert server.process.wait(30) == 0


def test_answers_are_sent_at_once():
    """The end of an answer is not held back until the client has acknowledged its beginning."""
    import uvicorn
    from uvicorn.server import ServerState

    async def app(scope, receive, send):
        raise AssertionError("nothing is asked")

    async def accepted():
        config = uvicorn.Config(app, log_level="critical")
        config.load()
        made = []

        def protocol():
            made.append(_protocol(5.0)(config=config, server_state=ServerState(), app_state={}))
            return made[0]

        with listen("127.0.0.1", 0) as listening:
            server = await asyncio.get_running_loop().create_server(protocol, sock=listening)
            _, writer = await asyncio.open_connection(*listening.getsockname())
            while not (made and made[0].transport):
                await asyncio.sleep(0.01)
            given = made[0].transport.get_extra_info("socket")
            found = given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            server.close()
        return found

    assert asyncio.run(accepted())
