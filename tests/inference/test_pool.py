"""The pool: each video gets what it would get alone, in order, and no more is computed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial, partialmethod
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import DepthExitNet, InputExitNet, UnifiedExitNet
from dynvid.calibration import Audit
from dynvid.errors import InputError
from dynvid.inference.pool import Limits, Pool, at_once
from dynvid.inference.walk import Track
from dynvid.inference.windows import Windows
from dynvid.multilabel import plain_labels
from dynvid.nets import Stream
from dynvid.policy import ThresholdPolicy

FRAMES = 6


class Clip:
    """A video in memory that counts what is read of it, and may be unreadable at its opening or later on."""

    def __init__(self, number, breaks_after=None):
        self.video = torch.randint(0, 256, (FRAMES, 3, 32, 32), generator=torch.Generator().manual_seed(number))
        self.video = self.video.to(torch.uint8).contiguous(memory_format=torch.channels_last)
        self.left, self.read_so_far = breaks_after, []

    def read(self, positions):
        self.read_so_far += positions
        if self.left is not None:
            self.left -= len(positions)
            if self.left < 0:
                raise OSError("broken")
        return self.video[positions]


class ByContent(ThresholdPolicy):
    """Leaves by an exit that depends on the video alone; the labels that it decides by are those of the net."""

    def __init__(self, exits, chosen):
        super().__init__(exits)
        self.chosen = chosen

    def confident(self, position, logits, earlier=None):
        return torch.tensor([self.chosen(row) <= position for row in logits])


@pytest.fixture(scope="module", params=[DepthExitNet, InputExitNet, UnifiedExitNet])
def net(request, scramble_net):
    return scramble_net(request.param)


def walk(net, policy, clips, batch_size, submit=at_once, limits=None):
    pool = Pool(net, policy, batch_size, submit, limits)
    with torch.inference_mode():
        return list(pool.run(partial(lambda c: c, clip) for clip in clips)), pool


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 14),
    st.integers(1, 5),
    st.lists(st.floats(0.2, 0.5), min_size=4, max_size=4),
    st.sampled_from(["max_probability", "patience"]),
    st.dictionaries(st.integers(0, 14), st.integers(0, FRAMES), max_size=3),
    st.integers(0, 100),
    st.booleans(),
)
def test_videos_together_get_what_each_gets_alone(net, count, batch_size, thresholds, score, broken, seed, sets):
    exits = len(net.route)
    policy = ThresholdPolicy(thresholds=[*thresholds[: exits - 1], 0.0], score=score, multi_label=sets)
    clips = [Clip(seed + i, broken.get(i)) for i in range(count)]
    with ThreadPoolExecutor(3) as executor:
        together, pool = walk(net, policy, clips, batch_size, executor.submit)
    assert len(together) == count
    for i, outcome in enumerate(together):
        if isinstance(outcome, Exception):
            assert i in broken
            continue
        alone = net.predict(clips[i].video[None], policy)
        assert [a.position for a in outcome] == list(range(int(alone.exit) + 1))
        assert [outcome[-1].label] == plain_labels(alone.label)
        assert outcome[-1].probability == pytest.approx(float(alone.probability), abs=1e-5)
        # Read are the frames up to the exit taken, each once.
        assert clips[i].read_so_far == net.order[: net.route[outcome[-1].position].frames]
        assert i not in broken or broken[i] >= len(clips[i].read_so_far)
    for i, left in broken.items():
        if i < count and left < net.route[0].frames:
            assert isinstance(together[i], OSError)
    if not broken:
        assert sum(size for _, size in pool.steps) == sum(map(len, together))


def test_steps_are_full_while_videos_are_coming(scramble_net):
    net = scramble_net(UnifiedExitNet)
    leaves = {}

    def chosen(row):  # one half leaves at once, a quarter next, and so on
        return leaves.setdefault(tuple(row.tolist()), len(leaves)) % 4

    clips = [Clip(i) for i in range(64)]
    found, pool = walk(net, ByContent(4, chosen), clips, 8)
    assert all(isinstance(outcome, list) for outcome in found)
    small = [step for step in pool.steps if step[1] < 8]
    last = max(i for i, (position, _) in enumerate(pool.steps) if position == 0)
    assert all(size >= 8 for position, size in list(pool.steps)[: last - 1])
    assert len(small) <= len(net.route)  # what is left at the end, from the first exit to the last
    assert [position for position, _ in small] == sorted(position for position, _ in small)


class Numbered(ThresholdPolicy):
    """Answers with the number of the step, and keeps what it is told of the exits before."""

    def __init__(self, exits):
        super().__init__(exits, score="patience")
        self.steps, self.told = 0, []

    def answers(self, logits):
        self.steps += 1
        return torch.full((len(logits),), self.steps)

    def confident(self, position, logits, earlier=None):
        self.told.append(earlier[:, 0].tolist())
        return torch.zeros(len(logits), dtype=torch.bool)


def test_scores_that_look_back_are_told_what_the_exits_before_said_in_their_order(scramble_net):
    net = scramble_net(UnifiedExitNet)
    by_pool, by_windows = Numbered(len(net.route)), Numbered(len(net.route))
    walk(net, by_pool, [Clip(0)], 1)
    windows, track = Windows(net, by_windows), Track()
    for frame in Clip(0).video:
        windows.add(track, frame)
    windows.go_on([windows.begin(track, 0)])
    assert by_pool.told == by_windows.told == [[], [1], [1, 2], [1, 2, 3]]


def test_no_more_is_taken_than_results_are_and_no_video_waits_for_ever(scramble_net):
    net = scramble_net(DepthExitNet)
    taken = []

    def clips():
        for i in range(200):
            taken.append(i)
            yield partial(Clip, i)

    pool = Pool(net, ThresholdPolicy(thresholds=[0.0] * len(net.route)), 2, at_once)
    results = pool.run(clips())
    assert taken == []  # nothing before it is asked for
    for given_so_far in range(40):
        next(results)
        assert len(taken) <= given_so_far + pool.most_opened + pool.batch_size
    results.close()
    assert len(taken) < 60

    first = {}  # the first video goes on to the last exit, all others leave at once

    def stays(row):
        return 2 if first.setdefault("row", row.tolist()) == row.tolist() else 0

    pool = Pool(net, ByContent(3, stays), 2, at_once)
    pool.most_ahead = 20
    taken.clear()
    with torch.inference_mode():
        assert len(next(pool.run(clips()))) > 1
    assert len(taken) == 20


def test_a_slow_video_holds_up_neither_the_others_nor_the_end(scramble_net):
    net = scramble_net(UnifiedExitNet)
    go_on = threading.Event()

    class Slow(Clip):
        def read(self, positions):
            go_on.wait(20)
            return super().read(positions)

    policy = ThresholdPolicy(thresholds=[0.0] * len(net.route))
    clips = [Slow(0), *(Clip(i) for i in range(1, 9))]
    with ThreadPoolExecutor(2) as executor:
        pool = Pool(net, policy, 4, executor.submit)
        results = pool.run(partial(lambda c: c, clip) for clip in clips)
        threading.Timer(0.3, go_on.set).start()
        assert len(list(results)) == 9
    assert list(pool.steps) == [(0, 4), (0, 4), (0, 1)]


def test_one_host_synchronisation_per_exit(scramble_net, monkeypatch):
    net = scramble_net(UnifiedExitNet)
    waits = []
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__float__"):
        real = getattr(torch.Tensor, name)
        counted = partialmethod(lambda self, real, name, *rest: waits.append(name) or real(self, *rest), real, name)
        monkeypatch.setattr(torch.Tensor, name, counted)
    _, pool = walk(net, ThresholdPolicy(4), [Clip(i) for i in range(8)], 4)
    assert waits == ["tolist"] * len(pool.steps)
    assert len(pool.steps) == 8


def test_limits_end_a_walk(scramble_net):
    net = scramble_net(UnifiedExitNet)
    never = ThresholdPolicy(len(net.route))
    for last in range(len(net.route)):
        clip = Clip(0)
        (answers,), _ = walk(net, never, [clip], 1, limits=Limits(last))
        assert [a.position for a in answers] == list(range(last + 1))
        assert len(clip.read_so_far) == net.route[last].frames
    (answers,), _ = walk(net, never, [Clip(0)], 1, limits=Limits(3, seconds=0.0))
    assert [a.position for a in answers] == [0]  # one answer there always is


def test_the_memory_of_what_waits_is_handed_on_in_batches(scramble_net):
    net = scramble_net(UnifiedExitNet)
    videos = torch.stack([Clip(i).video for i in range(5)])

    def source(rows, frames):
        return videos[rows][:, frames]

    whole = net.stream(videos)
    parts = [net.stream(videos[:2]), net.stream(videos[2:])]
    with torch.no_grad():
        expected, found = whole.advance(), torch.cat([part.advance() for part in parts])
        torch.testing.assert_close(found, expected)
        joined = Stream.join(parts, source)
        for _ in range(3):
            torch.testing.assert_close(joined.advance(), whole.advance())
        with pytest.raises(InputError, match="same exit"):
            Stream.join([joined, net.stream(videos)], source)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 12),
    st.integers(1, 5),
    st.lists(st.floats(0.2, 0.5), min_size=4, max_size=4),
    st.dictionaries(st.integers(0, 12), st.integers(0, FRAMES), max_size=3),
    st.integers(0, 100),
)
def test_audits_change_no_answer_and_see_what_full_inference_says(net, count, batch_size, thresholds, broken, seed):
    policy = ThresholdPolicy(thresholds=[*thresholds[: len(net.route) - 1], 0.0])
    plain, _ = walk(net, policy, [Clip(seed + i, broken.get(i)) for i in range(count)], batch_size)
    audit = Audit(1.0, limit=0.5)
    clips = [Clip(seed + i, broken.get(i)) for i in range(count)]
    with ThreadPoolExecutor(3) as executor, torch.inference_mode():
        pool = Pool(net, policy, batch_size, executor.submit, audit=audit)
        # As who has a result for each video asks for no more.
        audited = list(islice(pool.run(partial(lambda c: c, clip) for clip in clips), count))
    for one, other in zip(plain, audited, strict=True):
        assert isinstance(one, Exception) == isinstance(other, Exception)
        if not isinstance(one, Exception):
            assert [(a.position, a.label) for a in one] == [(a.position, a.label) for a in other]
    # Those of which all frames can be read come to the last exit; by hand:
    whole = [i for i in range(count) if broken.get(i, FRAMES) >= FRAMES]
    differing = 0
    for i in whole:
        with torch.no_grad():
            full = net(clips[i].video[None])[-1].argmax(-1)
        differing += int(full) != audited[i][-1].label
        assert sorted(clips[i].read_so_far) == list(range(FRAMES))
    assert (audit.videos, audit.audited, audit.differing) == (count, len(whole), differing)


def test_audits_do_not_pile_up_behind_videos_that_keep_coming(scramble_net):
    net, audit, most = scramble_net(UnifiedExitNet), Audit(1.0, limit=0.5), 0
    pool = Pool(net, ThresholdPolicy(thresholds=[0.0] * 4), 3, at_once, audit=audit)
    for number in range(40):  # each leaves by the first exit, and another is there at once
        pool.begin(number, partial(Clip, number))
        pool.step()
        most = max(most, sum(len(b.videos) for batches in pool._waiting for b in batches))
        while pool._waiting[0]:
            pool.step()
        assert pool.ended().keys() == {number}
    assert most <= 2 * 3
    assert audit.audited >= 40 - most


def test_videos_with_limits_are_not_audited(net):
    audit, last = Audit(1.0, limit=0.5), len(net.route) - 1
    policy = ThresholdPolicy(len(net.route))
    for limits in (Limits(last - 1), Limits(last, seconds=100.0)):
        list(Pool(net, policy, 2, at_once, limits, audit).run([lambda: Clip(0)]))
    assert (audit.videos, audit.audited) == (0, 0)
    list(Pool(net, policy, 2, at_once, Limits(last), audit).run([lambda: Clip(0)]))
    assert (audit.videos, audit.audited, audit.differing) == (1, 1, 0)
