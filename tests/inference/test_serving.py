"""Requests as they come: each gets what it would get alone, within limits of its own, and none is forgotten."""

import asyncio
import json
import threading
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import UnifiedExitNet
from dynvid.data.synthetic import write_clip
from dynvid.errors import InputError, VideoError
from dynvid.inference.pool import GoneError, Limits, Pool, at_once
from dynvid.inference.preparation import Preparation
from dynvid.inference.recognizer import Recognizer
from dynvid.inference.runtimes import Program
from dynvid.inference.serving.app import App
from dynvid.inference.serving.metrics import Histogram
from dynvid.inference.serving.uploads import Reading, Upload
from dynvid.inference.serving.walks import FaultError, Walks
from dynvid.policy import ThresholdPolicy

FRAMES = 6


class Clip:
    def __init__(self, number):
        generator = torch.Generator().manual_seed(number)
        self.video = torch.randint(0, 256, (FRAMES, 3, 32, 32), generator=generator, dtype=torch.uint8)
        self.read_so_far = []

    def read(self, positions):
        self.read_so_far += positions
        return self.video[positions]


@pytest.fixture(scope="module")
def net(scramble_net):
    return scramble_net(UnifiedExitNet)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=10),
    st.integers(1, 4),
    st.lists(st.floats(0.2, 0.5), min_size=3, max_size=3),
    st.integers(0, 100),
)
def test_each_gets_what_it_gets_alone_within_its_limits(net, requests, batch_size, thresholds, seed):
    """`requests`: how many steps are run before it comes, its last exit, and whether its client leaves at once."""
    policy = ThresholdPolicy(thresholds=[*thresholds, 0.0])
    pool = Pool(net, policy, batch_size, at_once)
    told = [[] for _ in requests]
    ended, clips = {}, [Clip(seed + number) for number in range(len(requests))]
    for number, (steps, last, leaves) in enumerate(requests):
        for _ in range(steps):
            pool.step()
            ended |= pool.ended()
        opener = partial(clips.__getitem__, number)
        video = pool.begin(number, opener, Limits(last), on_answer=told[number].append)
        video.gone = leaves
    while pool.step():
        ended |= pool.ended()
    ended |= pool.ended()
    assert sorted(ended) == list(range(len(requests)))
    for number, (_, last, leaves) in enumerate(requests):
        if leaves:
            assert isinstance(ended[number], GoneError)
            assert told[number] == []
            continue
        assert told[number] == ended[number]
        alone = net.predict(clips[number].video[None], policy)
        assert [a.position for a in told[number]] == list(range(min(int(alone.exit), last) + 1))
        if int(alone.exit) <= last:
            assert told[number][-1].label == int(alone.label)
            assert told[number][-1].probability == pytest.approx(float(alone.probability), abs=1e-5)
        assert clips[number].read_so_far == net.order[: net.route[told[number][-1].position].frames]


def test_the_oldest_goes_first_however_many_come(net):
    pool = Pool(net, ThresholdPolicy(4), 2, at_once)  # none is ever sure
    ended = []
    for number in range(12):
        pool.begin(number, partial(Clip, number))
        pool.begin(100 + number, partial(Clip, number))
        pool.step()
        ended += pool.ended()
    while pool.step():
        ended += pool.ended()
    ended += pool.ended()
    assert len(ended) == 24
    assert ended.index(0) == min(ended.index(number) for number in range(12))
    assert [number for number in ended if number < 100] == list(range(12))
    assert all(size <= 3 for _, size in pool.steps)


class Prepared(Preparation):
    """Takes numbers for videos."""

    def open(self, video):
        video = video if isinstance(video, bytes) else video.read()
        if video == b"broken":
            raise OSError("broken")
        return Clip(int(video))


@pytest.fixture
def recognizer(net):
    found = Recognizer(net, ThresholdPolicy(thresholds=[0.35, 0.35, 0.35, 0.0]))
    found.preparation = Prepared(FRAMES, 32)
    return found


class Told:
    """Keeps what is told, and whether it ended."""

    def __init__(self):
        self.said, self.ended = [], threading.Event()

    def __call__(self, what):
        self.said.append(what)
        if not hasattr(what, "position"):
            self.ended.set()


def test_all_that_came_are_answered_before_it_closes(recognizer):
    sizes = []
    walks = Walks(recognizer, 4, 2, sizes.append)
    told = [Told() for _ in range(40)]

    def client(start):
        for number in range(start, 40, 4):
            walks.begin(b"broken" if number % 10 == 7 else str(number).encode(), told[number])

    threads = [threading.Thread(target=client, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    walks.close()
    assert not walks.alive
    for number, one in enumerate(told):
        *steps, outcome = one.said
        if number % 10 == 7:
            assert isinstance(outcome, OSError)
            assert not steps
            continue
        assert steps == outcome
        alone = recognizer.net.predict(Clip(number).video[None], recognizer.policy)
        assert (outcome[-1].position, outcome[-1].label) == (int(alone.exit), int(alone.label))
    assert sum(sizes) == sum(len(one.said) - 1 for one in told)


def test_who_leaves_is_dropped_and_a_fault_ends_nobody_else(recognizer, monkeypatch, caplog):
    walks = Walks(recognizer, 4, 2)
    go_on, reading = threading.Event(), threading.Event()
    real = Clip.read

    def slow(self, positions):
        reading.set()
        assert go_on.wait(20)
        return real(self, positions)

    monkeypatch.setattr(Clip, "read", slow)
    left = Told()
    walk = walks.begin(b"1", left)
    assert reading.wait(20)
    walks.leave(walk)  # while its frames are read, which are not waited for
    assert left.ended.wait(20)
    assert isinstance(left.said[0], GoneError)
    go_on.set()

    monkeypatch.setattr(type(recognizer.net), "classify", lambda *_: 1 / 0)
    failed = Told()
    walks.begin(b"2", failed)
    assert failed.ended.wait(20)
    assert isinstance(failed.said[0], FaultError)
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    good = Told()
    walks.begin(b"3", good, deadline_ms=0)
    assert good.ended.wait(20)
    assert len(good.said[-1]) == 1  # the first exit, and no step after the deadline
    with pytest.raises(InputError, match="deadline_ms"):
        walks.begin(b"3", good, deadline_ms=float("nan"))
    walks.close()


def posted(recognizer, sent):
    """Status and body of the answer to a request."""
    app, said = App(recognizer), []
    app.warm_up()
    body = iter([{"type": "http.request", "body": sent}])

    async def receive():
        return next(body, None) or await asyncio.sleep(20)

    async def send(message):
        said.append(message)

    scope = {"path": "/predict", "method": "POST", "headers": [], "query_string": b""}
    try:
        asyncio.run(app(scope, receive, send))
    finally:
        app.walks.close()
    return said[0]["status"], json.loads(said[1]["body"])


def test_a_file_that_is_closed_under_a_decoder_ends_there(net, tmp_path, capfd):
    """Whoever leaves has its file closed, which a thread may be reading: PyAV would print a traceback for each try."""
    write_clip(tmp_path / "clip.mp4", np.zeros((8, 32, 32, 3), np.uint8))
    upload, reads = Upload(), []
    upload.write((tmp_path / "clip.mp4").read_bytes())
    upload.seek(0)
    reading = Reading(upload)
    assert Recognizer(net)(reading).frames_read == FRAMES
    real = reading.read

    def read(size=-1):
        reads.append(size)
        if len(reads) == 2:
            upload.close()
        return real(size)

    reading.read = read
    with pytest.raises(VideoError, match=r"^upload: "):
        Recognizer(net)(reading)
    assert len(reads) >= 2
    assert (reading.read(), reading.seek(0), reading.tell()) == (b"", 0, 0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("raised", "status"), [(torch.OutOfMemoryError("x"), 503), (MemoryError(), 503), (ZeroDivisionError(), 500)]
)
def test_a_full_memory_is_said_to_pass(recognizer, monkeypatch, raised, status):
    def failing(*_):
        raise raised

    monkeypatch.setattr(App, "warm_up", lambda _: None)
    monkeypatch.setattr(type(recognizer.net), "classify", failing)
    got, answer = posted(recognizer, b"1")
    assert got == status
    assert ("not enough memory" in answer["error"]) == (status == 503)


def test_exported_steps_are_served_as_their_net_is(recognizer, steps_of):
    program = Program(recognizer.net, steps_of(recognizer.net))
    exported = Recognizer(program, recognizer.policy)
    exported.preparation = recognizer.preparation
    (status, found), (_, expected) = (posted(one, b"1") for one in (exported, recognizer))
    assert status == 200
    for key in ("label", "exit", "frames_read", "gmacs"):
        assert found[key] == expected[key]
    assert len(found["trace"]) == len(expected["trace"]) > 1


@given(st.lists(st.floats(0, 100, allow_nan=False), max_size=30))
def test_a_histogram_counts_what_is_at_most_each_bound(values):
    bounds = (1.0, 5.0, 50.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.add(value)
    lines = list(histogram.lines("x"))
    counts = [int(line.rpartition(" ")[2]) for line in lines[:4]]
    assert counts == [sum(value <= bound for value in values) for bound in (*bounds, float("inf"))]
    assert lines[-1] == f"x_count {len(values)}"
