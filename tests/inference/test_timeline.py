"""Timelines: windows are clips of the same frames, segments cover the video, memory does not grow with it."""

import gc
import itertools
import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from dynvid import InputExitNet, UnifiedExitNet
from dynvid.calibration import Reject
from dynvid.data.synthetic import write_clip
from dynvid.data.transforms import decode_size, eval_transform
from dynvid.data.video import VideoReader
from dynvid.errors import InputError, VideoError
from dynvid.inference import Recognizer, Segment, Timeline
from dynvid.inference import timeline as module
from dynvid.inference.timeline import _Segments, timeline
from dynvid.policy import ThresholdPolicy

SIZE, FRAMES = 32, 6
NAMES = ["a", "b", "c", "d", "background"]


@pytest.fixture(scope="module", params=["online", "none"])
def recognizer(request, scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=SIZE, shift=request.param)
    return Recognizer(net, ThresholdPolicy(thresholds=[0.25, 0.25, 0.25, 0.0], temperatures=[1, 2, 1, 0.5]), NAMES)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    images = np.random.default_rng(0).integers(0, 256, (26, 5, 6, 3), np.uint8).repeat(5, 0)
    write_clip(path, images.repeat(8, 1).repeat(8, 2), fps=10)  # 130 frames, 13 s
    return path


def by_hand(recognizer, path, window, starts):
    """What the net says of each window: (label, probabilities, exit)."""
    reader, net, policy = VideoReader(path), recognizer.net, recognizer.policy
    for start in starts:
        middles = start + (np.arange(FRAMES) + 0.5) * window / FRAMES
        frames = np.searchsorted(reader.timestamps, middles + 1e-6, side="right") - 1
        clip = eval_transform(SIZE)(reader.read(frames.tolist(), decode_size(SIZE)))
        with torch.no_grad():
            logits = net(clip[None])
        k = int(policy.choose(logits))
        yield policy.probabilities(logits)[k, 0].numpy(), k


def test_slots_have_the_mean_of_the_windows_over_them(recognizer, video, monkeypatch):
    slots = []
    monkeypatch.setattr(_Segments, "add", lambda self, start, end, p: slots.append((start, end, p[:-1])))
    monkeypatch.setattr(_Segments, "finish", lambda self, end: None)
    found = timeline(recognizer, video, window=3.0, hop=1.0, batch_size=3)
    # 26 slots of half a second; windows of 6 of them, every second one, and one that ends with the video.
    starts = [0.5 * slot for slot in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)]
    expected = list(by_hand(recognizer, video, 3.0, starts))
    assert found.windows == len(starts)
    assert found.exits == [sum(k == e for _, k in expected) for e in range(4)]
    assert [start for start, _, _ in slots] == pytest.approx([0.5 * i for i in range(26)])
    for i, (start, end, p) in enumerate(slots):
        over = [q for (q, _), s in zip(expected, starts, strict=True) if s - 1e-9 <= 0.5 * i < s + 3.0 - 1e-9]
        assert end - start == pytest.approx(0.5)
        np.testing.assert_allclose(p, np.mean(over, 0), atol=1e-5)
    assert found.full_gmacs == pytest.approx(found.windows * recognizer.net.full_gmacs)
    if recognizer.net.shift_kind == "online":
        assert found.gmacs == pytest.approx(sum(recognizer.net.gmacs[k] for _, k in expected))
    else:
        assert found.gmacs < sum(recognizer.net.gmacs[k] for _, k in expected)


def test_audits_change_nothing_but_what_they_count(recognizer, video):
    audited = Recognizer(recognizer.net, recognizer.policy, NAMES, audit=1.0)
    found, plain = (timeline(one, video, window=3.0, hop=1.0) for one in (audited, recognizer))
    assert audited.audit.audited == found.windows
    assert found.plain() == plain.plain()


def test_frames_that_are_far_apart_are_covered_too(recognizer, tmp_path):
    path = tmp_path / "sparse.mkv"  # which states 25 frames per second
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 25)
        for number in range(10):  # one every eight seconds
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts = 8 * 25 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = timeline(recognizer, path, window=3.0, min_probability=0.0, min_length=0.0)
    assert found.windows == 10
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(72, abs=1)
    for one, following in itertools.pairwise(found):
        assert one.end == following.start
    looked_at = [s for s in found if s.label != "none"]
    assert len(looked_at) == 10


def test_windows_that_do_not_fit_end_with_the_video(recognizer, video, monkeypatch):
    slots = []
    monkeypatch.setattr(_Segments, "add", lambda self, start, end, p: slots.append(p[:-1]))
    monkeypatch.setattr(_Segments, "finish", lambda self, end: None)
    found = timeline(recognizer, video, window=3.0, hop=2.5)  # starts at slots 0, 5, 10, 15, 20
    assert (found.windows, found.hop) == (5, 2.5)
    slots.clear()
    found = timeline(recognizer, video, window=3.0, hop=3.0)  # starts at slots 0, 6, 12, 18, and 20
    assert found.windows == 5
    ((last, _),) = by_hand(recognizer, video, 3.0, [10.0])
    np.testing.assert_allclose(slots[-1], last, atol=1e-5)


def test_segments_cover_the_video_and_each_frame_is_decoded_once(recognizer, video, monkeypatch):
    converted = []
    real = module.Slots._image
    monkeypatch.setattr(module.Slots, "_image", lambda self: converted.append(self.newest) or real(self))
    found = timeline(recognizer, video, window=3.0, min_probability=0.0)
    assert len(set(converted)) == len(converted) == 26
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(13.0)
    assert all(a.end == b.start and a.label != b.label for a, b in itertools.pairwise(found))
    assert all(s.end - s.start >= 1.5 - 1e-6 for s in found)
    assert {s.label for s in found} <= {"a", "b", "c", "d", "none"}
    assert {s.label for s in timeline(recognizer, video, min_probability=1.0)} == {"none"}
    content = timeline(recognizer, video.read_bytes(), window=3.0, min_probability=0.0)
    assert list(content) == list(found)


def test_a_video_that_is_shorter_than_a_window_is_one(recognizer, tmp_path):
    write_clip(tmp_path / "short.mp4", np.zeros((12, 32, 32, 3), np.uint8), fps=10)
    found = timeline(recognizer, tmp_path / "short.mp4")
    assert (found.windows, found.window) == (1, pytest.approx(1.2))
    assert [(s.start, s.end) for s in found] == [(0.0, pytest.approx(1.2))]
    found = timeline(recognizer, tmp_path / "short.mp4", window=5.0)
    assert found.windows == 1
    assert [(s.start, s.end) for s in found] == [(0.0, pytest.approx(1.2))]
    write_clip(tmp_path / "one.mp4", np.zeros((1, 32, 32, 3), np.uint8), fps=10)
    assert len(timeline(recognizer, tmp_path / "one.mp4")) == 1


def segments_of(probabilities, min_length=0.0, floor=0.5, names=NAMES, withheld=(), background=None):
    class Named:
        class_names = names
        reject = None

        class net:
            num_classes = len(names)

    Named.background = background
    found = Timeline(1, 1.0, 1.0)
    segments = _Segments(found, Named, floor, min_length)
    for i, p in enumerate(probabilities):
        if p is not None:
            segments.add(float(i), i + 1.0, np.array([*p, 0.6 if i in withheld else 0.4]))
    segments.finish(float(len(probabilities)))
    return [(s.start, s.end, s.label, round(s.probability, 3)) for s in found]


A, B, C = [0.8, 0.1, 0.1, 0, 0], [0.1, 0.7, 0.2, 0, 0], [0.3, 0.1, 0.6, 0, 0]
EMPTY, UNSURE = [0.1, 0, 0, 0, 0.9], [0.4, 0.3, 0.3, 0, 0]


@pytest.mark.parametrize(
    ("slots", "min_length", "expected"),
    [
        ([A, A, B], 0, [(0, 2, "a", 0.8), (2, 3, "b", 0.7)]),
        ([A, UNSURE, EMPTY, B], 0, [(0, 1, "a", 0.8), (1, 3, "none", 0.65), (3, 4, "b", 0.7)]),
        ([A, A, B, A], 2, [(0, 4, "a", 0.625)]),  # a short one between equals
        (
            [A, A, C, B, B],
            2,
            [(0, 3, "a", round((0.8 * 2 + 0.3) / 3, 3)), (3, 5, "b", 0.7)],
        ),  # nearer to what was before
        ([B, B, C, A, A], 2, [(0, 2, "b", 0.7), (2, 5, "a", round((0.8 * 2 + 0.3) / 3, 3))]),  # or to what follows
        ([C, A, A], 2, [(0, 3, "a", round((0.8 * 2 + 0.3) / 3, 3))]),  # nothing before
        ([A, A, B], 2, [(0, 3, "a", round((0.8 * 2 + 0.1) / 3, 3))]),  # nothing after
        ([A, B, A, B, A, B], 2, [(0, 6, "b", 0.4)]),
        ([A, A, None, None, A, A], 0, [(0, 2, "a", 0.8), (2, 4, "none", 0.0), (4, 6, "a", 0.8)]),  # no frames
        ([UNSURE, UNSURE], 0, [(0, 2, "none", 0.4)]),
    ],
)
def test_segments_are_made_of_slots(slots, min_length, expected):
    found = segments_of(slots, min_length)
    assert [f[:3] for f in found] == [e[:3] for e in expected]
    if min_length == 0 or len(slots) < 6:
        assert [f[3] for f in found] == pytest.approx([e[3] for e in expected], abs=2e-3)


def test_where_answers_are_withheld_or_the_background_is_there_is_no_event(recognizer, video):
    assert segments_of([A, A, B], withheld=[1]) == [(0, 1, "a", 0.8), (1, 2, "none", 0.8), (2, 3, "b", 0.7)]
    assert segments_of([A, B, B], background="b") == [(0, 1, "a", 0.8), (1, 3, "none", 0.7)]
    letters = list("abcde")  # none of which stands for no class
    answering = Recognizer(recognizer.net, recognizer.policy, letters)
    unsure = Recognizer(recognizer.net, recognizer.policy, letters, reject=Reject(0.05, threshold=1.0))
    assert "none" not in {s.label for s in timeline(answering, video, window=3.0, min_probability=0.0)}
    assert {s.label for s in timeline(unsure, video, window=3.0, min_probability=0.0)} == {"none"}


def test_a_long_video_takes_no_more_memory_than_a_short_one(scramble_net, tmp_path):
    net = scramble_net(InputExitNet, input_size=SIZE, shift="none")
    recognizer = Recognizer(net, ThresholdPolicy(thresholds=[0.0] * len(net.route)))
    path = tmp_path / "hour.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "60"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for i in range(3600):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), i % 7 * 30, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    held = []
    real = module._Stretch._go_on

    def counted(self):
        real(self)
        if self._given % 300 < 60:
            gc.collect(0)
            walk = self._windows._walk
            held.append((len(self._track.frames) + sum(map(len, walk._known.values())), len(self._sums)))

    module._Stretch._go_on = counted
    try:
        found = timeline(recognizer, path, window=24.0, hop=12.0, min_probability=0.0)
    finally:
        module._Stretch._go_on = real
    assert found[-1].end == pytest.approx(3600.0)
    assert found.windows == 299
    step = 3  # slots
    assert len(held) > 5
    assert max(frames for frames, _ in held) <= 8 * step + 2 * FRAMES
    assert max(sums for _, sums in held) <= 2 * FRAMES


def test_outputs_say_the_same(recognizer, video, tmp_path):
    found = Timeline(2, 4.0, 1.0)
    found += [
        Segment(0.0, 1.5, "a & <b>\n--> c", 0.987),
        Segment(1.5, 2.0, "none", 0.3),
        Segment(2.0, 3723.0401, 'd, "e"', 0.5),
        Segment(3723.0401, 3723.0404, "too short to show", 0.5),
    ]
    found.windows, found.gmacs, found.full_gmacs, found.exits = 4, 1.0, 4.0, [3, 1]
    plain = json.loads(json.dumps(found.plain()))
    assert plain["saved"] == 0.75
    assert plain["segments"][1] == {"start": 1.5, "end": 2.0, "label": "none", "probability": 0.3}
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert [(float(r["start"]), r["label"]) for r in rows][2] == (2.0, 'd, "e"')
    assert len(rows) == 4
    assert found.vtt() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\na &amp; &lt;b&gt;\\x0a--&gt; c (99 %)\n\n"
        '00:00:02.000 --> 01:02:03.040\nd, "e" (50 %)\n'
    )
    path = tmp_path / "found.vtt"
    path.write_text(found.vtt())
    with av.open(str(path)) as container:  # FFmpeg's parser
        texts = [bytes(packet).decode() for packet in container.demux() if packet.size]
        assert container.format.name == "webvtt"
    assert len(texts) == 2
    assert "a &amp; &lt;b&gt;" in texts[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window=0: seconds, above 0"),
        ({"hop": float("inf")}, "hop=inf: seconds, above 0"),
        ({"hop": 5}, "hop=5: at most a window, 4 seconds"),
        ({"min_length": -1}, "min_length=-1: seconds, 0 or more"),
        ({"min_probability": 1.5}, "min_probability=1.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_gmacs": 0}, "max_gmacs=0: the first exit takes"),
    ],
)
def test_wrong_arguments_are_refused(recognizer, video, arguments, message):
    with pytest.raises(InputError, match=message):
        timeline(recognizer, video, **arguments)
    with pytest.raises(VideoError, match="cannot open"):
        timeline(recognizer, "missing.mp4")
