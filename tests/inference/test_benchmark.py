"""What is measured in turns: pairs, medians and counts are exact, whatever the clock."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import DepthExitNet, ExitNet, UnifiedExitNet
from dynvid.errors import InputError
from dynvid.inference import benchmark as module
from dynvid.inference.benchmark import Contender, Saving, compare, last_exit_alone, quantile
from dynvid.inference.forced import EveryDepth, ForcedExits, HeldClip, PlainTSM, random_clips, unzeroed
from dynvid.inference.timing import Spread, Time, in_turns, matrix_rate
from dynvid.nets.grid import Grid
from dynvid.policy import ThresholdPolicy


@pytest.fixture
def work(monkeypatch):
    """A clock that goes on by one with every image that passes a segment."""
    done, real = [0], Grid.run_segment

    def run_segment(self, depth, x, frames):
        done[0] += len(x)
        return real(self, depth, x, frames)

    monkeypatch.setattr(Grid, "run_segment", run_segment)
    return lambda: Time(float(done[0]), 2.0 * done[0])


def net_of(cls, frames=4):
    return cls("test_resnet", num_classes=5, num_frames=frames, input_size=32).eval()


def test_programs_take_turns_and_every_second_round_is_backwards():
    ran, now = [], [0.0]

    def program(name, seconds):
        ran.append(name)
        now[0] += seconds
        return name

    programs = [lambda: program("a", 1), lambda: program("b", 2), lambda: program("c", 4)]
    rounds = in_turns(programs, 3, lambda: Time(now[0], now[0] / 2))
    assert "".join(ran) == "abccbaabc"
    assert rounds == [[(Time(1, 0.5), "a"), (Time(2, 1), "b"), (Time(4, 2), "c")]] * 3
    ran.clear()
    assert len(in_turns(programs, 100, lambda: Time(now[0], 0), seconds=8)) == 2  # at 0 and 7, not at 14
    assert len(in_turns(programs, 100, lambda: Time(now[0], 0), seconds=0)) == 1


def test_ratios_are_medians_over_pairs_of_one_round():
    saving = Saving.of(0.5, full=[10, 100, 20], dynamic=[5, 80, 12])
    assert saving.time == pytest.approx(Spread(0.4, 0.2, 0.5))  # not what 12 of 20 and the medians would give
    assert saving.per == pytest.approx(Spread(0.8, 0.4, 1.0))
    assert saving.plain()["time_saved_per_macs_saved"] == pytest.approx(0.8)
    assert all(x != x for x in Saving.of(0.0, [1.0], [1.0]).per)  # no MACs saved


def test_quantiles():
    assert [quantile([1.0], share) for share in (0.5, 0.95)] == [1.0, 1.0]
    assert quantile([float(x) for x in range(1, 101)], 0.95) == 95.0


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_forced_shares_come_out_exactly_however_videos_arrive(data):
    shares = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
    policy = ForcedExits(shares)
    videos = policy.rounded_up(data.draw(st.integers(1, 40)))
    assert videos % policy.period == 0
    coming, left = videos, []
    for position in range(len(shares)):
        leaving, come = 0, 0
        while come < coming:
            step = data.draw(st.integers(1, coming - come))
            leaving += int(policy.confident(position, torch.zeros(step, 3)).sum())
            come += step
        left.append(leaving)
        coming -= leaving
    assert left == [share * videos // sum(shares) for share in shares]


@pytest.mark.parametrize("shares", [[0, 0], [5, -1]])
def test_shares_that_are_none(shares):
    with pytest.raises(InputError, match="0 or more, and not all 0"):
        ForcedExits(shares)


def test_forced_exits_are_shuffled_and_always_the_same():
    drawn = [ForcedExits([50, 50, 0]).confident(0, torch.zeros(2, 3)).tolist() for _ in range(2)]
    assert drawn[0] == drawn[1]
    many = ForcedExits([10, 10, 9, 71]).confident(0, torch.zeros(100, 3))
    assert not many[:10].all()


@pytest.mark.parametrize("cls", [DepthExitNet, UnifiedExitNet, EveryDepth])
def test_the_last_exit_alone_is_full_inference_to_the_bit(cls, scramble):
    net = scramble(net_of(cls))
    exits = len(net.route)
    video = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = net.stream(video, exits=[-1]).advance()
        alone = last_exit_alone(net)
        assert torch.equal(alone.stream(video).advance(), expected)
    assert alone.gmacs == (net.full_gmacs,)
    assert len(net.route) == len(net.head_of) == len(net.gmacs) == exits


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_what_is_computed_is_what_is_counted(work, batch_size):
    net = net_of(EveryDepth)
    clips = random_clips(net, 20)
    policy = lambda: ForcedExits([60, 20, 15, 5])  # noqa: E731
    found = compare([Contender("it", net, policy, clips)], batch_size, 3, clock=work)
    full, dynamic = found["rows"]
    assert (full["exits"], dynamic["exits"]) == ([20], [12, 4, 3, 1])
    assert full["total_ms"]["wall"] == {"median": 16000.0, "low": 16000.0, "high": 16000.0}  # 4 frames, 4 segments
    assert full["total_ms"]["cpu"]["median"] == 32000.0
    mean = (12 * 4 + 4 * 8 + 3 * 12 + 1 * 16) / 20
    assert dynamic["model_ms"]["wall"]["median"] == dynamic["total_ms"]["wall"]["median"] == 1000 * mean
    assert found["time_saved"] == pytest.approx(1 - mean / 16)
    assert found["time_saved_low_high"] == pytest.approx([1 - mean / 16] * 2)
    spent = [12, 4, 3, 1] @ torch.tensor(net.gmacs, dtype=torch.double).numpy() / 20
    assert found["macs_saved"] == pytest.approx(1 - spent / net.full_gmacs)
    assert found["time_saved_per_macs_saved"] == pytest.approx(found["time_saved"] / found["macs_saved"])
    assert dynamic["time_ratio"]["median"] == pytest.approx(mean / 16)
    assert dynamic["macs_ratio"] == pytest.approx(spent / net.full_gmacs)
    assert full["videos_per_second"]["median"] == pytest.approx(1 / 16)
    assert (found["batch_size"], found["videos"], found["repeats"]) == (batch_size, 20, 3)
    assert full["decode_ms"] is dynamic["decode_ms"] is None
    assert found["full_gflops"] == pytest.approx(2 * net.full_gmacs / 16)


def test_a_second_net_is_compared_with_the_first(work):
    net, other = net_of(EveryDepth), net_of(EveryDepth, frames=2)
    never = lambda: ThresholdPolicy(4)  # noqa: E731
    contenders = [
        Contender("it", net, never, random_clips(net, 4)),
        Contender("other", other, never, random_clips(other, 4)),
        Contender("plain", PlainTSM(net).eval(), None, random_clips(net, 4)),
    ]
    rows = compare(contenders, 2, 1, clock=work)["rows"]
    assert [(row["net"], row["inference"], row["time_ratio"]["median"]) for row in rows] == [
        ("it", "full", 1.0),
        ("it", "dynamic", 1.0),
        ("other", "full", 0.5),
        ("other", "dynamic", 0.5),
        ("plain", "full", 1.0),
    ]


class Unhurried:
    def __init__(self, clip):
        self.clip, self.asked = clip, []

    def read(self, positions):
        self.asked += positions
        return self.clip.read(positions)


@pytest.mark.parametrize(("warm_up", "before"), [(None, 20), (2, 2)])
def test_some_videos_go_before(work, warm_up, before):
    net = net_of(EveryDepth)
    assert net.full_gmacs > 0  # counted before: that runs segments too
    began = work().wall
    compare([Contender("it", net, None, random_clips(net, 20))], 2, 3, clock=work, warm_up=warm_up)
    assert work().wall - began == (before + 3 * 20) * 16


@pytest.mark.parametrize("batch_size", [1, 4])
def test_files_are_read_as_far_as_exits_ask(batch_size):
    net, opened = net_of(UnifiedExitNet), []
    clips = random_clips(net, 8)

    def opener(clip):
        opened.append(Unhurried(clip))
        return opened[-1]

    files = [lambda clip=clip: opener(clip) for clip in clips]
    first = lambda: ForcedExits([1, 0, 0, 0])  # noqa: E731
    found = compare([Contender("it", net, first, clips, files)], batch_size, 2, workers=2)
    assert [row["exits"] for row in found["rows"]] == [[8], [8, 0, 0, 0]]
    assert (
        sorted(len(one.asked) for one in opened) == [1] * 24 + [4] * 24
    )  # two passes of eight and one before, each way
    assert all(row["decode_ms"]["wall"]["median"] > 0 for row in found["rows"])


def test_a_file_that_cannot_be_read_ends_it():
    net = net_of(UnifiedExitNet)

    def broken():
        raise InputError("b.mp4: cannot open")

    with pytest.raises(InputError, match=r"b\.mp4"):
        compare([Contender("it", net, None, random_clips(net, 2), [broken] * 2)], 2, 1)


@pytest.mark.parametrize(("nets", "clips", "batch_size"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one(nets, clips, batch_size):
    net = net_of(UnifiedExitNet)
    with pytest.raises(InputError, match="1 or more"):
        compare([Contender("it", net, None, random_clips(net, 1) * clips)] * nets, batch_size)


def test_plain_tsm_is_tsm_with_channels_first(scramble):
    like = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32, shift_div=4)
    plain = scramble(PlainTSM(like))
    tsm = ExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32, shift="bidirectional", shift_div=4).eval()
    tsm.load_state_dict(plain.state_dict())
    video = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(plain(video), tsm(video), atol=1e-5)
        assert torch.allclose(plain(video.float()), tsm(video.float()), rtol=1e-4)
    assert plain.to_frames(video).is_contiguous()
    assert all(p.is_contiguous() for p in plain.parameters())


def test_fresh_nets_have_no_branch_of_zeros():
    net = unzeroed(net_of(UnifiedExitNet))
    assert all(m.weight.any() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_held_clip_gives_its_frames():
    frames = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 2, 2).to(torch.uint8)
    clip = HeldClip(frames)
    assert clip.read([2, 0])[:, 0, 0, 0].tolist() == clip.read([2, 0])[:, 0, 0, 0].tolist() == [2, 0]


def test_the_best_of_several_products_is_the_ceiling():
    seconds = iter([9.0, 4.0, 2.0, 3.0])
    now = [0.0]

    def clock():
        now[0] += next(seconds) if clock.odd else 0.0
        clock.odd = not clock.odd
        return Time(now[0], now[0])

    clock.odd = False
    rate = matrix_rate(torch.device("cpu"), torch.float32, clock, repeats=3)
    assert rate.wall == pytest.approx(2 * 1024**3 / 1e9 / 2.0)


@pytest.mark.slow
def test_neither_a_decoder_nor_lightning_is_imported_without_data():
    code = (
        "import sys\nfrom dynvid.cli import main\n"
        "arguments = 'benchmark --backbone test_resnet --forced-exits 1,1,1,1 --size 32 --num-frames 2 --repeats 1'\n"
        "try:\n    main([*arguments.split(), '--batch-size', '1', '--json'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*{'av', 'jsonargparse', 'pytorch_lightning', 'torchmetrics', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == ""
    assert module.__name__ == "dynvid.inference.benchmark"
