"""The page as people see it: a real server, a real upload, Chromium on a desk and on a phone, a fake camera."""

import asyncio
import copy
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.calibration import Reject, num_candidates
from dynvid.inference import Recognizer
from dynvid.inference.serving.uploads import Bounds
from dynvid.inference.timeline import timeline
from dynvid.module import DynamicInferenceModule
from dynvid.policy import ThresholdPolicy
from dynvid.showcase.page import Demo, Parts, make_app
from dynvid.showcase.picture import draw, moments, segments
from dynvid.showcase.walk import watch

from ..chromium import launched

pytestmark = pytest.mark.extra
NAMES = ["a", "b", "c", "d", "<script>alert(1)</script>"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_noise):
    return write_noise(tmp_path_factory.mktemp("clips") / "clip.mp4", 0)


@pytest.fixture(scope="module")
def net(scramble):
    torch.manual_seed(0)
    return scramble(UnifiedExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32))


@pytest.fixture(scope="module")
def recognizer(net, clip):
    """It leaves the clip at the second exit."""
    trace = Recognizer(net)(clip).trace
    thresholds = [min(trace[0].probability + 0.05, 1.0), trace[1].probability - 0.01, 0.9, 0.0]
    return Recognizer(net, ThresholdPolicy(thresholds=thresholds), NAMES)


@pytest.fixture(scope="module")
def curve(recognizer):
    rows = torch.full((num_candidates(4), 4), torch.inf)
    rows[0], rows[1] = 0.0, recognizer.policy.thresholds
    rows[:, -1] = -torch.inf
    return rows


def test_what_is_shown_is_what_happens(recognizer, clip):
    found, full = recognizer(clip), Recognizer(recognizer.net, class_names=NAMES)(clip)
    walk = watch(recognizer, clip)
    assert len(walk.steps) == len(found.trace) == 2
    for step, passed in zip(walk.steps, found.trace, strict=True):
        assert step.passed[:2] == passed[:2]
        assert step.passed[2:4] == pytest.approx(passed[2:4])
        assert step.score == pytest.approx(passed.probability)  # the score is the highest probability
        assert step.passed.milliseconds > 0
    assert [place for step in walk.steps for place in step.frames] == recognizer.net.order[: found.frames_read]
    assert sorted(walk.pictures) == sorted(recognizer.net.order[: found.frames_read])
    assert (walk.full.label, walk.full.exit) == (full.label, full.exit)
    assert walk.full.probability == pytest.approx(full.probability, abs=1e-5)
    assert walk.saved == pytest.approx(1 - found.gmacs / recognizer.full_gmacs)


def test_the_walk_is_drawn_bit_by_bit(recognizer, clip):
    walk = watch(recognizer, io.BytesIO(clip.read_bytes()))
    shown = [draw(walk, moment) for moment, _ in moments(walk)]
    frames, bars = [html.count("<img") for html in shown], [html.count('class="value"') for html in shown]
    assert frames == sorted(frames)
    assert (frames[0], frames[-1]) == (0, len(walk.pictures))
    assert (bars[0], bars[-1]) == (0, 2)
    assert all(b - a <= 1 for a, b in itertools.pairwise(frames))
    assert ["saved" in html for html in shown] == [False] * (len(shown) - 1) + [True]
    assert not any("<script" in html for html in shown)
    assert shown[-1] == draw(walk)


@pytest.mark.parametrize("score", ["margin", "negative_entropy", "patience"])
def test_every_score_is_drawn_within_its_ground(recognizer, clip, score):
    policy = ThresholdPolicy(thresholds=[9.0, 9.0, 9.0, 0.0], score=score)
    html = draw(watch(recognizer, clip, policy))
    heights = [float(y) for y in re.findall(r'class="(?:go|stop)" x="[\d.]+" y="([\d.]+)"', html)]
    assert len(heights) == 4
    assert all(34 <= y <= 190 for y in heights)


def test_an_answer_that_is_withheld_is_shown_as_a_guess(recognizer, clip):
    unsure = copy.copy(recognizer)
    probability = recognizer(clip).probability
    for level, said in ((probability, "It is <b>"), (min(probability + 1e-6, 1.0), "it would rather say nothing")):
        unsure.reject = Reject(0.05, threshold=level)
        assert said in draw(watch(unsure, clip))


def test_the_slider_moves_along_the_curve(recognizer, curve, clip):
    demo = Demo(recognizer, curve, pace=0)
    assert demo.policy(demo.preset) is recognizer.policy
    first, last = (demo.policy(effort).thresholds.tolist() for effort in (0, 100))
    assert first[:3] == [0, 0, 0]
    assert last[:3] == [float("inf")] * 3
    stops = [watch(recognizer, clip, demo.policy(effort)).steps for effort in (0, demo.preset, 100)]
    assert [len(steps) for steps in stops] == [1, 2, 4]
    assert not len(Demo(recognizer, torch.full((9, 4), torch.inf)).rows)  # an uncalibrated net has no slider


def test_the_slider_begins_where_no_threshold_is_finite(net, clip):
    rows = torch.full((3, 4), torch.inf)
    rows[0], rows[1, 1:] = -torch.inf, -torch.inf
    demo = Demo(Recognizer(net, ThresholdPolicy(thresholds=rows[1])), rows, pace=0)
    assert demo.preset == 50
    assert [len(watch(demo.recognizer, clip, demo.policy(effort)).steps) for effort in (0, 50, 100)] == [1, 2, 4]
    assert all("result" in demo.show_at_once(str(clip), effort) for effort in (0, 50, 100))


def test_what_is_no_video_is_said_without_where_it_lay(recognizer, curve, tmp_path):
    path = tmp_path / "secret" / "notes.mp4"
    path.parent.mkdir()
    path.write_text("no video")
    demo = Demo(recognizer, curve, parts=lambda video: Parts([(0, 1, recognizer(video).label, 0.5)], 0.5))
    for said in (*demo.show(str(path)), demo.show_at_once(str(path), 30), list(demo.show_parts(str(path)))[-1]):
        assert "could not be read as a video" in said
        assert "secret" not in said
    assert "Drop a video" in "".join(demo.show(None))


def test_a_long_video_holds_up_no_short_one_and_ends_with_who_asked(recognizer, curve, clip):
    ended, ends = threading.Event(), time.monotonic() + 20

    def parts(video):
        try:
            while time.monotonic() < ends:
                video.seek(0)
                timeline(recognizer, video)
        finally:
            ended.set()
        return Parts([], 0.0)

    demo = Demo(recognizer, curve, pace=0, parts=parts)
    first, second = demo.show_parts(str(clip)), demo.show_parts(str(clip))
    assert "Watching the whole video" in [next(first), next(first)][-1]
    assert "Another long video" in next(second)
    assert "result" in demo.show_at_once(str(clip))
    assert not ended.is_set()
    first.close()  # as Gradio does when the page is left
    assert ended.wait(10)
    assert "Watching the whole video" in [next(second), next(second)][-1]
    ended.clear()
    demo.close()
    assert ended.is_set()
    assert time.monotonic() < ends


def test_parts_of_a_long_video_are_drawn():
    html = segments([(0, 4, "<b>up", 0.9), (4, 9.5, "none", 0.4), (9.5, 3700, "left", 1.0)], 0.25)
    assert html.count("<rect") == html.count("<tr class") == 3
    assert "<b>up" not in html
    assert "1:01:40.0" in html
    assert "25 %" in html
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', html)]
    assert sum(widths) == pytest.approx(360, abs=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, recognizer, curve):
    folder = tmp_path_factory.mktemp("checkpoint")
    module = DynamicInferenceModule(copy.deepcopy(recognizer.net))  # which is put into training mode
    module.class_names = NAMES
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.set_thresholds(recognizer.policy.thresholds)
    module.curve_thresholds.copy_(curve)
    trainer.save_checkpoint(folder / "net.ckpt")
    return folder / "net.ckpt"


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    for name in ("here", "temporary"):
        (folder / name).mkdir()
    (folder / "here" / "secret.txt").write_text("secret")
    command = [sys.executable, "-c", "from dynvid.cli import main; main()", "demo", str(checkpoint), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    process = subprocess.Popen(
        [*command, "--max-upload-mb", "1"],
        cwd=folder / "here",
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"TMPDIR": str(folder / "temporary")},
    )
    said = process.stderr.readline()
    assert "is shown at" in said, said + process.stderr.read()
    yield said.split()[-1], folder
    process.terminate()
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    assert [*(folder / "temporary").iterdir()] == []  # no upload is left
    assert [path.name for path in (folder / "here").iterdir()] == ["secret.txt"]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """The whole of Chromium, with a camera that shows a film: its headless shell has none."""
    film = tmp_path_factory.mktemp("film") / "film.y4m"
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 8), np.uint8).repeat(20, 1).repeat(20, 2)
    chroma = bytes([128]) * (60 * 80 * 2)
    with open(film, "wb") as file:
        file.write(b"YUV4MPEG2 W160 H120 F15:1 Ip A1:1 C420jpeg\n")
        for image in images:
            file.write(b"FRAME\n" + image.tobytes() + chroma)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    camera += [f"--use-file-for-fake-video-capture={film}"]
    with launched(["--headless=new", *camera]) as found:
        yield found


class Page:
    """A page, what it loaded, and what went wrong on it."""

    def __init__(self, chromium, url, width, scheme):
        self.page = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.wrong, self.loaded = [], []
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.loaded.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#picture .told", timeout=60_000)
        self.url, self.width = url, width

    def close(self):
        elsewhere = [url for url in self.loaded if not url.startswith((self.url, "data:", "blob:"))]
        assert elsewhere == []
        assert self.wrong == []
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width
        self.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_video_is_dropped(server, chromium, clip, recognizer, width, scheme):
    found = recognizer(clip)
    opened = Page(chromium, server[0], width, scheme)
    page = opened.page
    assert "stops when it is sure" in page.inner_text("h1")
    ink, ground = page.evaluate(
        "[getComputedStyle(document.querySelector('.dv h1')).color, getComputedStyle(document.body).backgroundColor]"
    )
    ink, ground = (sum(map(float, re.findall(r"[\d.]+", colour)[:3])) for colour in (ink, ground))
    assert (ground > ink) is (scheme == "light")
    assert abs(ground - ink) > 400
    page.set_input_files("#video input[type=file]", clip)
    page.wait_for_selector("#picture .result", timeout=60_000)
    assert page.locator("#picture .frame img").count() == found.frames_read
    assert page.evaluate("[...document.querySelectorAll('#picture img')].every(image => image.naturalWidth > 0)")
    assert f"It is {found.label}" in page.inner_text("#picture .says")
    assert f"{100 * (1 - found.gmacs / recognizer.full_gmacs):.0f} % saved" in page.inner_text("#picture .result")
    assert page.evaluate("document.querySelector('#picture svg').getBoundingClientRect().width") > 280
    top = page.evaluate("document.querySelector('#picture').getBoundingClientRect().top")
    assert top < 844  # in sight, on a phone too
    # The slider, at its end: full inference.
    page.locator("#effort input[type=number]").fill("100")
    page.locator("#effort input[type=number]").press("Enter")
    page.locator("#effort input[type=range]").focus()
    page.keyboard.press("End")
    page.locator("#effort input[type=range]").dispatch_event("pointerup")
    page.wait_for_function("document.querySelectorAll('#picture .frame img').length == 6", timeout=60_000)
    assert "everything" in page.inner_text("#picture .says")
    opened.close()


def test_a_page_says_what_it_cannot_read(server, chromium, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    opened = Page(chromium, server[0], 1280, "light")
    opened.page.set_input_files("#video input[type=file]", tmp_path / "notes.mp4")
    opened.page.wait_for_selector("#picture .told:has-text('could not be read as a video')", timeout=60_000)
    assert str(server[1]) not in opened.page.inner_text("#picture")
    opened.close()


def test_the_webcam_is_recorded(server, chromium):
    opened = Page(chromium, server[0], 1280, "light")
    page = opened.page
    page.click("#video button[aria-label='Capture from camera']")
    page.click("#video button:has-text('Click to Access Webcam')")
    page.click("#video button:has-text('Record')")
    page.wait_for_timeout(1500)  # of film
    page.click("#video button:has-text('Stop')")
    page.wait_for_selector("#picture .result", timeout=60_000)
    assert page.locator("#picture .frame img").count() > 0
    opened.close()


def test_a_long_video_gets_its_own_place(server, chromium, clip):
    opened = Page(chromium, server[0], 390, "light")
    page = opened.page
    page.click("button[role=tab]:has-text('A long video')")
    page.set_input_files("#long input[type=file]", clip)
    page.wait_for_selector("#timeline table", timeout=60_000)
    assert page.locator("#timeline tr").count() > 1
    assert page.locator("#timeline svg rect").count() > 0
    opened.close()


def ask(url, data=None, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_no_other_file_is_given_or_taken(server, clip):
    url, folder = server
    for path in ("/etc/passwd", str(folder / "here" / "secret.txt"), "secret.txt", "../secret.txt", str(clip)):
        status, said = ask(f"{url}/gradio_api/file={quote(path)}")
        assert status in (403, 404)
        assert b"secret" not in said or b"secret.txt" in said
    head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="../../here/big.mp4"\r\n\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    file = head + b"0" * 600_000 + b"\r\n"
    for sent in (head + b"0" * 1_100_000 + b"\r\n--x--\r\n", file + file + b"--x--\r\n"):
        status, _ = ask(f"{url}/gradio_api/upload", sent, **kind)
        assert status == 413
    # What was not uploaded is not opened, whoever asks for it: neither a file of the machine nor an address.
    status, said = ask(f"{url}/gradio_api/upload", head + clip.read_bytes() + b"\r\n--x--\r\n", **kind)
    assert status == 200
    (uploaded,) = json.loads(said)
    config = json.loads(ask(f"{url}/config")[1])
    shows = [call["id"] for call in config["dependencies"] if call["inputs"] and call["backend_fn"]]
    assert len(shows) == 3
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0)
    named = [str(clip), "/etc/passwd", f"http://127.0.0.1:{listening.getsockname()[1]}/x.mp4"]
    named.append(f"{folder}/temporary/../../{clip.parent.name}/{clip.name}")
    for path in (*named, uploaded):
        for url_of in (None, path):
            for number in shows:
                data = [{"path": path, "url": url_of, "meta": {"_type": "gradio.FileData"}}, 50]
                sent = json.dumps({"data": data, "fn_index": number, "session_hash": "x"}).encode()
                ask(f"{url}/gradio_api/queue/join", sent, **{"content-type": "application/json"})
            ends, said = time.monotonic() + 60, ""
            with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash=x", timeout=30) as stream:
                while said.count("process_completed") < len(shows) and time.monotonic() < ends:
                    said += stream.readline().decode()
            assert said.count("process_completed") == len(shows)
            completed = [line for line in said.splitlines() if "process_completed" in line]
            assert [f'"success":{str(path == uploaded).lower()}' in line for line in completed] == [True] * len(shows)
    with pytest.raises(BlockingIOError):
        listening.accept()
    listening.close()


@pytest.mark.parametrize(
    ("how", "status"), [("stalls", 408), ("drips", 408), ("is too large", 413), ("leaves", 400)]
)  # who leaves sees none
def test_an_upload_that_is_refused_leaves_no_file(recognizer, curve, tmp_path, monkeypatch, how, status):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    bounds = Bounds(upload_bytes=10_000, upload_seconds=0.6, pause_seconds=0.3)
    app, sent, came = make_app(Demo(recognizer, curve), bounds), [], 0

    async def receive():
        nonlocal came
        came += 1
        if came == 1:
            head = b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
            return {"type": "http.request", "body": head + b"0" * 5000, "more_body": True}
        assert len([*filter(Path.is_file, tmp_path.iterdir())]) == 1
        if how == "leaves":
            return {"type": "http.disconnect"}
        await asyncio.sleep({"stalls": 60, "drips": 0.1, "is too large": 0}[how])
        return {"type": "http.request", "body": b"0" * (5000 if how == "is too large" else 1), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"x")],
        "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    with ThreadPoolExecutor(1) as executor:  # a loop of its own: Playwright's runs in this thread
        executor.submit(asyncio.run, app(scope, receive, send)).result(20)
    assert sent[0]["status"] == status
    assert not any(map(Path.is_file, tmp_path.iterdir()))
