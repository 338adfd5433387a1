"""Live video: windows answer what clips of the same frames do, with bounded memory and work, whatever comes when."""

import gc
import weakref
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import DepthExitNet, ExitNet, InputExitNet, UnifiedExitNet
from dynvid.costs import count_gmacs
from dynvid.data.transforms import eval_transform
from dynvid.errors import InputError
from dynvid.inference import LiveAnswer, LiveRecognizer, Recognizer
from dynvid.inference.windows import Windows
from dynvid.multilabel import plain_labels
from dynvid.nets.shift import Frames
from dynvid.policy import ThresholdPolicy

FRAMES, SIZE = 6, 32
NETS = {
    "unified": (UnifiedExitNet, {}),
    "unified, no shift": (UnifiedExitNet, {"shift": "none"}),
    "input": (InputExitNet, {}),
    "input, coarse to fine": (InputExitNet, {"frame_order": "coarse_to_fine"}),
    "input, in order, no shift": (InputExitNet, {"frame_order": "chronological", "shift": "none"}),
    "depth": (DepthExitNet, {}),
    "depth, no shift": (DepthExitNet, {"shift": "none"}),
    "a head per exit": (UnifiedExitNet, {"heads": "exit"}),
    "a head per exit, no shift": (UnifiedExitNet, {"heads": "exit", "shift": "none"}),
    "own route": (ExitNet, {"route": [(1, 1), (2, 1), (2, 3), (5, 4), (6, 4)], "frame_order": "thue_morse"}),
    "own route, no shift": (ExitNet, {"route": [(1, 1), (3, 1), (3, 3), (6, 4)], "shift": "none"}),
    "unified, in order": (UnifiedExitNet, {"frame_order": "chronological"}),
    "input, in order": (InputExitNet, {"frame_order": "chronological"}),
    "own route, in order": (
        ExitNet,
        {"route": [(1, 1), (2, 1), (2, 3), (5, 4), (6, 4)], "frame_order": "chronological"},
    ),
    "static": (ExitNet, {"shift": "bidirectional"}),
}


@pytest.fixture(scope="module")
def net_of(scramble_net):
    @lru_cache
    def made(name):
        cls, arguments = NETS[name]
        return scramble_net(cls, input_size=SIZE, **arguments)

    return made


def images(count, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 6, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)  # 40 x 48


def clip_of(frames, times, start, window):
    """The frames of a window by hand: the newest at or before the middle of each of T segments."""
    middles = start + (np.arange(FRAMES) + 0.5) * window / FRAMES
    chosen = np.searchsorted(times, middles + 1e-6, side="right") - 1
    return eval_transform(SIZE)(torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2))


def pushed(live, frames, times):
    return [answer for frame, t in zip(frames, times, strict=True) for answer in live.push(frame, t)]


HOW = (
    st.sampled_from(sorted(NETS)),
    st.integers(1, FRAMES),
    st.integers(1, 3),
    st.lists(st.floats(0.2, 0.5), min_size=5, max_size=5),
    st.sampled_from(["max_probability", "patience", "margin"]),
    st.booleans(),
    st.integers(0, 1000),
)


@settings(max_examples=8, deadline=None)
@given(*HOW)
def test_windows_answer_as_clips_of_the_same_frames(net_of, name, hop, streams, thresholds, score, together, seed):
    check(net_of(name), hop, streams, thresholds, score, together, seed)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(*HOW)
def test_windows_of_all_kinds_answer_as_clips(net_of, name, hop, streams, thresholds, score, together, seed):
    check(net_of(name), hop, streams, thresholds, score, together, seed)


def check(net, hop, streams, thresholds, score, together, seed, count=36):
    rng, window = np.random.default_rng(seed), 3.0
    exits = len(net.route)
    temperatures = rng.uniform(0.5, 2, exits).tolist()
    sets, names = seed % 2 == 1, list("abcde")
    policy = ThresholdPolicy(None, [*thresholds[: exits - 1], 0.0], score, temperatures, multi_label=sets)
    live = LiveRecognizer(net, policy, names, window, hop)
    frames = {s: images(count, seed + s) for s in range(streams)}
    steps = rng.uniform(0.05, 0.3, count)
    times = {s: 100 * s * (not together) + np.cumsum(steps if together else rng.permutation(steps)) for s in frames}
    answers = []
    for i in range(count):
        if together:
            answers += live.push({s: frames[s][i] for s in frames}, times[0][i])
        else:
            for s in frames:
                answers += live.push({s: frames[s][i]}, times[s][i])
    for s in frames:
        own = [a for a in answers if a.stream == s]
        last = [a for a in own if a.is_last]
        taken = int((times[s][-1] - times[s][0]) / window * FRAMES + 0.5)
        assert len(last) == max(0, (taken - FRAMES) // hop + 1)
        for number, answer in enumerate(last):
            start = times[s][0] + number * hop * window / FRAMES
            assert (answer.start, answer.end) == pytest.approx((start, start + window))
            clip = clip_of(frames[s], times[s], start, window)
            expected = net.predict(clip[None], policy)
            (label,) = plain_labels(expected.label)
            assert answer.labels == tuple(names[n] for n in (label if sets else (label,)))
            assert (answer.label, answer.exit) == (";".join(answer.labels), net.route[int(expected.exit)])
            assert answer.probability == pytest.approx(float(expected.probability), abs=1e-5)
            assert answer.is_final
        if net.spec()["init_args"]["heads"] == "depth" and net.shift_kind != "bidirectional":
            assert len(own) == taken  # an answer for each frame that is taken, the first ones included
        assert [a.timestamp for a in own] == sorted(a.timestamp for a in own)


def never(net):
    return ThresholdPolicy(len(net.route))


def test_answers_begin_with_the_first_frame_and_stop_with_a_sure_exit(net_of):
    net = net_of("input, in order, no shift")
    live = LiveRecognizer(net, never(net), window=FRAMES)
    answers = pushed(live, images(FRAMES), np.arange(FRAMES) + 0.5)
    # Slots lie half a second behind the first frame, so that the first frame is not due at once.
    assert [a.exit.frames for a in answers] == [1, 2, 3, 4, 5]
    assert [a.is_final for a in answers] == [False] * 5
    sure = ThresholdPolicy(thresholds=[0.0] * len(net.route))
    live = LiveRecognizer(net, sure, window=FRAMES)
    answers = pushed(live, images(FRAMES), np.arange(FRAMES) + 0.5)
    assert [a.exit.frames for a in answers] == [1] * 5
    assert all(a.is_final for a in answers)
    assert len({(a.label, a.probability, a.gmacs) for a in answers}) == 1


@pytest.mark.parametrize(
    "name", ["unified", "own route", "unified, no shift", "own route, no shift", "a head per exit"]
)
def test_what_was_spent_is_counted_on_what_was_run(net_of, name):
    net = net_of(name)
    live = LiveRecognizer(net, never(net), window=3.0)
    last = [a for a in pushed(live, images(70), np.arange(70) / 10) if a.is_last]
    assert len(last) == 2
    walked = live._windows.route
    along = net.along(walked) if len(walked) > len(net.route) else net
    for answer in last:  # windows side by side share nothing
        assert answer.gmacs == pytest.approx(count_gmacs(along)[-1])


@pytest.mark.parametrize(("name", "runs"), [("input, in order, no shift", 1), ("input", FRAMES)])
def test_windows_that_overlap_share_frames_where_there_is_no_shift(net_of, name, runs, monkeypatch):
    net, rows = net_of(name), []
    real = type(net).run_segment

    def counted(self, depth, x, frames):
        rows.append((depth, len(x)))
        return real(self, depth, x, frames)

    monkeypatch.setattr(type(net), "run_segment", counted)
    live, full = LiveRecognizer(net, never(net), window=6.0, hop=1), net.full_gmacs
    rows.clear()  # of counting what the route costs
    count, taken = 4 * FRAMES, 4 * FRAMES - 1
    answers = pushed(live, images(count), np.arange(count) + 0.5)
    assert len(answers) == taken
    last = [a for a in answers if a.is_last]
    assert len(last) == taken - FRAMES + 1
    first = sum(number for depth, number in rows if depth == 1)
    # Each frame once; or each in every window, whose frames at the end have not all come.
    assert first == taken if runs == 1 else (len(last) - 1) * runs <= first <= taken * runs
    # The program as counted costs what its windows say.
    assert (last[-1].gmacs < full) == (runs == 1)


@pytest.mark.parametrize(
    ("name", "hop", "count"),
    [
        ("unified", 2, 120),
        ("unified, in order", 1, 120),
        pytest.param("unified", 2, 2000, marks=pytest.mark.slow),
        pytest.param("unified", FRAMES, 2000, marks=pytest.mark.slow),
        pytest.param("unified, no shift", 1, 2000, marks=pytest.mark.slow),
        pytest.param("unified, in order", 1, 2000, marks=pytest.mark.slow),
    ],
)
def test_memory_and_work_do_not_grow(net_of, name, hop, count, monkeypatch):
    net, every = net_of(name), count // 10
    policy = ThresholdPolicy(thresholds=[0.3, 0.3, 0.3, 0.0])
    live = LiveRecognizer(net, policy, window=0.6, hop=hop, continual=name == "unified, in order")
    frames, alive, tensors, steps = images(50), [], [], []
    monkeypatch.setattr(Windows, "_step", counted_in(steps, Windows._step))
    per_frame = []
    for i in range(count):
        before = len(steps)
        live.push({"a": frames[i % 50], "b": frames[-i % 50]}, i / 10)
        per_frame.append(len(steps) - before)
        if i % every == every - 1:
            gc.collect()
            alive.append(len(gc.get_objects()))
            tensors.append(sum(isinstance(x, torch.Tensor) for x in gc.get_objects()))
    assert max(tensors[1:]) <= tensors[0] + 20
    assert max(alive[5:]) <= max(alive[1:5]) + 200
    # At most a step for each exit, of windows of both streams together.
    assert max(per_frame) <= len(live._windows.route)
    live.finish()
    assert not live._streams


def counted_in(calls, function):
    def counted(*arguments):
        calls.append(arguments[1])  # no windows, which would be kept alive
        return function(*arguments)

    return counted


def test_a_window_that_is_over_keeps_nothing_alive(net_of):
    net = net_of("unified")
    live = LiveRecognizer(net, never(net), window=0.6)
    pushed(live, images(4), np.arange(4) / 10)
    (stream,) = live._streams.values()
    window = weakref.ref(stream.track.windows[0])
    del stream
    pushed(live, images(10), 0.4 + np.arange(10) / 10)
    gc.collect()
    assert window() is None


def test_streams_that_come_together_are_computed_together(net_of):
    net = net_of("unified")
    live = LiveRecognizer(net, never(net), window=0.6)
    frames = images(13)
    for i in range(13):
        live.push({s: frames[(i + s) % 13] for s in range(5)}, i / 10)
    sizes = {size for _, size in live._windows.steps}
    assert sizes == {5}


def test_a_stream_that_stalls_leaves_the_others_alone(net_of):
    net, policy = net_of("unified"), ThresholdPolicy(thresholds=[0.3, 0.3, 0.3, 0.0])
    frames = {s: images(40, ord(s)) for s in "abc"}
    together = LiveRecognizer(net, policy, window=0.6)
    answers = []
    for i in range(40):
        answers += together.push({s: frames[s][i] for s in "abc" if s != "b" or i % 7 < 3}, i / 10)
    for s in "abc":
        alone = LiveRecognizer(net, policy, window=0.6)
        expected = []
        for i in range(40):
            if s != "b" or i % 7 < 3:
                expected += alone.push({s: frames[s][i]}, i / 10)
        own = [a for a in answers if a.stream == s]
        assert [same(a) for a in own] == [same(a) for a in expected]
        assert [a.probability for a in own] == pytest.approx([a.probability for a in expected], abs=1e-5)
    assert any(a.missing for a in answers if a.stream == "b")


def same(answer):
    return answer._replace(milliseconds=0, probability=0)


def test_frames_that_are_lost_are_stood_in_for_and_a_long_gap_begins_anew(net_of):
    net = net_of("input, in order, no shift")
    live = LiveRecognizer(net, never(net), window=6.0)
    times = [0, 1, 2, 5, 6.5, 7, 20, 21, 22]
    answers = pushed(live, images(len(times)), times)
    # Slots at 0.5, 1.5, ...: those at 3.5 and 4.5 have no newer frame than that of 2.
    assert [(a.timestamp, a.missing, a.is_last) for a in answers] == [
        (0, 0, False),
        (1, 0, False),
        (2, 0, False),
        (2, 1, False),
        (2, 2, False),
        (5, 2, True),
        (6.5, 0, False),
        (7, 0, True),
        (20, 0, False),
        (21, 0, False),
    ]
    closed, new = answers[-3], answers[-2]
    assert (closed.exit.frames, closed.gap, closed.is_final) == (1, 0, True)
    assert (new.start, new.gap, new.exit.frames) == (20, 13, 1)
    end = live.finish(25.0)
    assert [(a.timestamp, a.is_last) for a in end] == [(22, False), (22, False), (22, False), (22, True)]
    assert live.finish() == []


def test_the_deadline_begins_no_step_and_leaves_nothing_behind(net_of, monkeypatch):
    net, now = net_of("unified"), 0.0
    for module in ("live", "windows"):
        monkeypatch.setattr(f"dynvid.inference.{module}.time.perf_counter", lambda: now)
    real = type(net).run_segment

    def slow(self, *arguments):  # each segment takes a second
        nonlocal now
        now += 1.0
        return real(self, *arguments)

    monkeypatch.setattr(type(net), "run_segment", slow)
    frames, times = images(30), np.arange(30) / 10
    whole = [a for a in pushed(LiveRecognizer(net, never(net), window=0.6), frames, times) if a.is_last]
    assert {a.exit.frames for a in whole} == {FRAMES}
    live = LiveRecognizer(net, never(net), window=0.6, deadline_ms=1500)
    for i, t in enumerate(times):
        began = now
        answers = live.push(frames[i], t)
        assert now - began <= 1.5 + 4  # late by one step at most, of four segments
        assert all(a.is_final for a in answers if a.is_last)
    (stream,) = live._streams.values()
    assert len(stream.track.windows) <= 1
    short = [a for a in pushed(LiveRecognizer(net, never(net), window=0.6, deadline_ms=0), frames, times) if a.is_last]
    assert len(short) == len(whole)
    assert {tuple(a.exit) for a in short} == {tuple(LiveRecognizer(net, never(net))._windows.route[0])}


def test_a_budget_is_kept(net_of):
    net = net_of("unified, no shift")
    route = LiveRecognizer(net, never(net))._windows
    for position in range(len(net.route)):
        k = route.route.index(net.route[position])
        live = LiveRecognizer(net, never(net), window=0.6, max_gmacs=route.gmacs[k])
        last = [a for a in pushed(live, images(10), np.arange(10) / 10) if a.is_last]
        assert {a.exit for a in last} == {net.route[position]}
        assert all(a.gmacs <= route.gmacs[k] + 1e-12 for a in last)


def test_a_window_as_long_as_a_file_is_the_clip_of_that_file(net_of, tmp_path):
    from dynvid.data import VideoReader
    from dynvid.data.reading.live import live_frames
    from dynvid.data.synthetic import write_clip

    path = tmp_path / "clip.mp4"
    write_clip(path, images(30), fps=10)
    net = net_of("unified")
    recognizer = Recognizer(net, ThresholdPolicy(thresholds=[0.25, 0.25, 0.25, 0.0]), list("vwxyz"))
    live = recognizer.live(window=VideoReader(path).duration)
    answers = [a for f in live_frames(path, live.short_side) for a in live.push(f.image, f.timestamp)]
    answers += live.finish(VideoReader(path).duration)
    (last,) = [a for a in answers if a.is_last]
    clip = recognizer(path)
    assert (last.label, last.exit) == (clip.label, clip.exit)
    assert last.probability == pytest.approx(clip.probability, abs=1e-6)


CONTINUAL = ("unified, in order", "input, in order", "own route, in order", "depth", "unified, no shift")


@torch.no_grad()
def endless(net, frames):
    """What full inference says of each T frames of a video that goes through the net in one run."""
    x = net.to_frames(frames[None])
    for depth in range(1, len(net.segments) + 1):
        x = net.run_segment(depth, x, Frames((True, *(False for _ in frames[1:]))))
    windows = net.embed(len(net.segments), x).unfold(0, net.num_frames, 1).mean(-1)
    return net.classify(len(net.route) - 1, windows).softmax(-1)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(CONTINUAL), st.integers(1, FRAMES), st.integers(1, 3), st.integers(0, 1000), st.integers(14, 30))
def test_a_net_that_is_never_reset_answers_as_one_pass_over_the_whole_video(net_of, name, hop, streams, seed, count):
    net = net_of(name)
    live = LiveRecognizer(net, never(net), window=FRAMES, hop=hop, continual=True)
    frames = {s: images(count + 1, seed + s) for s in range(streams)}
    answers = [a for i in range(count + 1) for a in live.push({s: frames[s][i] for s in frames}, i + 0.5)]
    for s in frames:
        taken = eval_transform(SIZE)(torch.from_numpy(frames[s][:count]).permute(0, 3, 1, 2))
        expected = endless(net, taken)[::hop]
        last = [a for a in answers if a.stream == s and a.is_last]
        assert len(last) == len(expected)
        assert [a.probability for a in last] == pytest.approx(expected.max(-1).values.tolist(), abs=1e-5)
        assert [int(a.label) for a in last] == expected.argmax(-1).tolist()


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(CONTINUAL),
    st.integers(1, FRAMES),
    st.lists(st.floats(0.2, 0.5), min_size=5, max_size=5),
    st.integers(0, 1000),
)
def test_streams_that_are_never_reset_leave_each_other_alone(net_of, name, hop, thresholds, seed):
    net, rng = net_of(name), np.random.default_rng(seed)
    policy = ThresholdPolicy(thresholds=[*thresholds[: len(net.route) - 1], 0.0])
    frames, here = {s: images(24, seed + s) for s in range(3)}, rng.random((3, 24)) < 0.8

    def given_to(live, streams):
        pushes = ({s: frames[s][i] for s in streams if here[s, i]} for i in range(24))
        return [a for i, given in enumerate(pushes) if given for a in live.push(given, i + 0.5)]

    together = given_to(LiveRecognizer(net, policy, window=FRAMES, hop=hop, continual=True), range(3))
    for s in range(3):
        alone = given_to(LiveRecognizer(net, policy, window=FRAMES, hop=hop, continual=True), [s])
        own = [a for a in together if a.stream == s]
        assert [same(a) for a in own] == [same(a) for a in alone]
        assert [a.probability for a in own] == pytest.approx([a.probability for a in alone], abs=1e-5)


def test_a_net_that_is_never_reset_computes_each_frame_once(net_of, monkeypatch):
    net, rows = net_of("unified, in order"), []
    real = type(net).run_segment

    def counted(self, depth, x, frames):
        rows.append((depth, len(x)))
        return real(self, depth, x, frames)

    live = LiveRecognizer(net, never(net), window=FRAMES, continual=True)
    monkeypatch.setattr(type(net), "run_segment", counted)
    answers = pushed(live, images(40), np.arange(40) + 0.5)
    assert len(answers) == 39
    for depth in range(1, len(net.segments) + 1):
        assert sum(number for d, number in rows if d == depth) == 39
    last = [a.gmacs for a in answers if a.is_last]
    # The frame itself is paid by the window of each frame that asks first; what a frame costs, not what a clip does.
    assert np.mean(last[FRAMES:]) == pytest.approx(net.full_gmacs / FRAMES, rel=0.02)


def test_a_gap_resets_a_net_that_is_else_never_reset(net_of):
    net = net_of("unified, in order")
    live = LiveRecognizer(net, never(net), window=FRAMES, continual=True)
    first, then = images(20), images(20, 1)
    pushed(live, first, np.arange(20) + 0.5)
    answers = pushed(live, then, np.arange(20) + 100.5)
    fresh = pushed(LiveRecognizer(net, never(net), window=FRAMES, continual=True), then, np.arange(20) + 100.5)
    assert [a.probability for a in answers][-len(fresh) :] == pytest.approx([a.probability for a in fresh], abs=1e-6)
    assert max(a.gap for a in answers) == 81.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unified", "out of order; train one with frame_order chronological"),
        ("static", "looks ahead"),
        ("a head per exit", "its own classifier"),
    ],
)
def test_nets_that_cannot_go_on_for_ever_are_refused(net_of, name, said):
    with pytest.raises(InputError, match=f"continual: .*{said}"):
        Recognizer(net_of(name)).live(continual=True)


def test_audits_would_change_what_a_net_that_is_never_reset_says(net_of):
    with pytest.raises(InputError, match="audit goes without continual"):
        Recognizer(net_of("unified, in order"), audit=0.5).live(continual=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window=0: seconds, above 0"),
        ({"window": float("nan")}, "window=nan"),
        ({"hop": 0}, "hop=0: 1 to 6, the frames of a window"),
        ({"hop": 7}, "hop=7: 1 to 6"),
        ({"deadline_ms": -1}, "deadline_ms=-1: 0 or more"),
        ({"max_gmacs": 0}, "max_gmacs=0: the first exit takes"),
    ],
)
def test_wrong_arguments_are_refused(net_of, arguments, message):
    with pytest.raises(InputError, match=message):
        Recognizer(net_of("unified")).live(**arguments)


def test_wrong_frames_are_refused(net_of):
    live = Recognizer(net_of("unified")).live(window=0.6)
    image = images(1)[0]
    live.push(image, 1.0)
    with pytest.raises(InputError, match=r"a frame at 1 s after one at 1 s: times must grow"):
        live.push(image, 1.0)
    with pytest.raises(InputError, match="a timestamp is nan"):
        live.push(image, float("nan"))
    for wrong in (image.astype(float), image[..., 0], image[..., :2]):
        with pytest.raises(InputError, match=r"give RGB, uint8 \(height, width, 3\)"):
            live.push({"other": image, "wrong": wrong}, 2.0)
    assert set(live._streams) == {""}  # nothing was taken
    assert LiveAnswer._fields[0] == "stream"


@pytest.mark.parametrize("bad", [0, 7, 8])
def test_a_frame_that_fails_is_left_out_and_other_streams_go_on(net_of, bad):
    net, count = net_of("unified"), 30
    frames = {s: images(count, ord(s)) for s in "ab"}
    live, alone = (LiveRecognizer(net, never(net), window=0.6) for _ in "ab")

    def broken():
        raise OSError("gone")

    answers, expected, failed = [], [], 0
    for i in range(count):
        given = {"b": broken if i == bad else frames["b"][i], "a": frames["a"][i]}
        expected += alone.push({"a": given["a"]}, i / 10 + (i % 2) / 20)
        try:
            answers += live.push(given, i / 10 + (i % 2) / 20)
        except OSError:
            failed += 1
    answers += live.finish()
    expected += alone.finish()
    assert failed == 1
    for_a = [same(a) for a in answers if a.stream == "a"]
    assert for_a == [same(a) for a in expected]
    assert [a.is_last for a in answers if a.stream == "b"].count(True) >= [a.is_last for a in expected].count(True) - 1


def test_frames_that_are_not_taken_are_not_converted(net_of):
    live = Recognizer(net_of("unified")).live(window=6.0)
    asked = []

    def image(i):
        asked.append(i)
        return images(1)[0]

    for i in range(50):
        live.push(lambda i=i: image(i), i / 10)
    assert asked == [5, 15, 25, 35, 45]
