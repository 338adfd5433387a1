"""Profiles: plain data from strangers, what is measured by a clock that only the test moves, and budgets in them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import UnifiedExitNet
from dynvid.calibration import OperatingPoint, Target, find_point, thresholds_for_budget, thresholds_for_risk
from dynvid.checkpoint import net_from_checkpoint
from dynvid.data.reading.reader import FrameReader
from dynvid.errors import InputError
from dynvid.inference.measuring import measure
from dynvid.module import DynamicInferenceModule
from dynvid.outputs import Outputs
from dynvid.profile import Profile, Timing, choose_profile, read_profiles, this_device, with_profile
from dynvid.report import summarise
from dynvid.routes import Exit, check_route

GMACS = (1.0, 2.0, 4.0)


def make_profile(milliseconds=(4.0, 9.0, 11.0), **changes):
    timings = tuple(Timing(ms, 0.9 * ms, 1.2 * ms, 0.25 * ms) for ms in milliseconds)
    parts = {
        **{"device": "cpu", "processor": "some CPU", "precision": "float32", "optimize": "default", "batch_size": 1},
        **{"threads": 2, "route": tuple(Exit(n, 1) for n in range(1, len(timings) + 1)), "exits": timings},
        **{"full": timings[-1], "clips": 8, "repeats": 5, "versions": {"torch": "2.9"}, "date": "2026-01-31"},
    }
    return Profile(**parts | changes)


def test_a_profile_survives_as_plain_data():
    profile = make_profile(clips=0)
    assert Profile.from_plain(profile.plain()) == profile
    assert read_profiles(None) == ()
    assert read_profiles([profile.plain()], profile.route) == (profile,)
    assert str(profile) == "some CPU, float32, optimize default, batch 1, 2 threads, without decoding"


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(0, 2), max_size=2),
    st.lists(st.lists(st.floats(), min_size=4, max_size=4), min_size=3, max_size=3),
    st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(make_profile().plain())), JUNK)
def test_what_is_no_profile_is_refused_or_is_one(name, junk):
    plain = make_profile().plain() | {name: junk}
    try:
        profile = Profile.from_plain(plain)
    except InputError:
        return
    # What is taken is complete, in order and finite.
    assert check_route(profile.route, *profile.route[-1]) == profile.route
    assert len(profile.exits) == len(profile.route)
    assert all(np.isfinite(timing).all() and timing.lowest > 0 for timing in (*profile.exits, profile.full))
    assert list(profile.milliseconds) == sorted(set(profile.milliseconds))
    assert min(profile.batch_size, profile.threads, profile.repeats) >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"exits": make_profile().plain()["exits"][::-1]},
        {"exits": [[4.0, 3.0, 5.0, float("nan")]] * 3},
        {"exits": [[1.0, 1.0, 1.0, 2.0], [3.0, 3.0, 3.0, 0.0], [4.0, 4.0, 4.0, 0.0]]},  # more decoding than time
        {"route": [[1, 1], [2, 1]]},
        {"route": [[1, 1], [2, 1], [2, 1]]},
        {"batch_size": True},
        {"versions": {"torch": 2}},
        {"processor": "x" * 201},
    ],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(InputError, match=r"profile|stands still"):
        Profile.from_plain(make_profile().plain() | change)
    with pytest.raises(InputError, match="other parts"):
        Profile.from_plain({})


def test_a_checkpoint_keeps_one_profile_for_each_way():
    first, other = make_profile(), make_profile(batch_size=8)
    again = make_profile((5.0, 6.0, 7.0), date="2026-02-01")
    assert with_profile((first, other), again) == (other, again)
    assert with_profile((first,), make_profile(clips=0)) == (first, make_profile(clips=0))


def test_the_profile_is_the_one_for_this_device_or_has_to_be_named():
    device, processor = this_device()
    here = make_profile(device=device, processor=processor)
    elsewhere, batch = make_profile(processor="other"), replace(here, batch_size=8)
    exact = replace(here, optimize="none")
    assert choose_profile([elsewhere]) == elsewhere
    assert choose_profile([elsewhere, batch, here]) == here
    assert choose_profile([elsewhere, batch, exact, here]) == here
    assert choose_profile([elsewhere, batch], number=2) == batch
    for profiles, number, said in [
        ([], None, "dynvid profile"),
        ([elsewhere, batch], None, "2: .*batch 8"),
        ([here], 2, "profile 2: there are 1: "),
        ([here], 0, "profile 0"),
    ]:
        with pytest.raises(InputError, match=said):
            choose_profile(profiles, number)


class Time:
    """A clock that goes on only when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


class Net:
    """Looks like a net with two exits; each step of a walk takes the time that the list says next."""

    training, num_frames, input_size, device, dtype = False, 4, 32, torch.device("cpu"), torch.float32
    route = (Exit(1, 1), Exit(4, 1))

    def __init__(self, time, seconds):
        self.time, self.seconds = time, {name: iter(values) for name, values in seconds.items()}

    def stream(self, source, batch, exits=None):
        return Walk(self, source, batch, ["full"] if exits else ["first", "last"])


class Walk:
    def __init__(self, net, source, batch, steps):
        self.net, self.source, self.batch, self.steps = net, source, batch, steps

    @property
    def finished(self):
        return not self.steps

    def advance(self):
        step = self.steps.pop(0)
        frames = {"first": [0], "last": [1, 2, 3], "full": [0, 1, 2, 3]}[step]
        assert self.source(torch.arange(self.batch), frames).shape == (self.batch, len(frames), 3, 32, 32)
        self.net.time.now += next(self.net.seconds[step])
        return torch.zeros(self.batch, 5)


WARM = 1000.0  # the first round is not counted


def test_medians_and_spread_are_of_the_repeats():
    time = Time()
    net = Net(time, {"first": [WARM, 2, 8, 4], "last": [WARM, 6, 2, 10], "full": [WARM, 5, 7, 6]})
    profile = measure(net, batch_size=2, repeats=3, optimize="default", clock=time)
    # Two videos in a batch: half of the seconds each.
    assert profile.exits == (Timing(2000, 1000, 4000), Timing(5000, 4000, 7000))
    assert profile.full == Timing(3000, 2500, 3500)
    assert (profile.clips, profile.repeats, profile.batch_size, profile.optimize) == (0, 3, 2, "default")
    assert (profile.precision, profile.device, profile.threads) == ("float32", "cpu", torch.get_num_threads())


def test_files_are_opened_and_read_as_a_walk_asks_for_them_and_that_counts(monkeypatch):
    time, opened = Time(), []

    class Reader(FrameReader):
        decode_costs = np.ones(40)

        def __init__(self, path):
            opened.append(path)
            self.name = path
            time.now += 3

        def __len__(self):
            return 40

        def _images(self, wanted, short_side):
            time.now += len(wanted) * 0.5
            return {i: np.zeros((short_side, short_side, 3), np.uint8) for i in wanted}

    monkeypatch.setattr("dynvid.inference.preparation.open_video", Reader)
    net = Net(time, {name: [1.0] * 6 for name in ("first", "last", "full")})
    profile = measure(net, ["a", "b", "c"], batch_size=1, repeats=1, clock=time)
    assert sorted(opened) == sorted(["a", "b", "c"] * 2 * 2)  # two walks in each of two rounds
    assert profile.exits == (Timing(4500, 4500, 4500, 3500), Timing(7000, 7000, 7000, 5000))
    assert profile.full == Timing(6000, 6000, 6000, 5000)
    assert profile.clips == 3
    # In batches of two the first clip comes again to fill the second batch; everything takes as long per video, but
    # computing, which a batch shares.
    net = Net(time, {name: [1.0] * 4 for name in ("first", "last", "full")})
    profile = measure(net, ["a", "b", "c"], batch_size=2, repeats=1, clock=time)
    assert profile.full == Timing(5500, 5500, 5500, 5000)


def test_only_nets_in_eval_mode_are_measured():
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)
    with pytest.raises(InputError, match="eval mode"):
        measure(net.train())
    with pytest.raises(InputError, match="1 or more"):
        measure(net.eval(), repeats=0)


def outcomes(videos, seed):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.random((3, videos), dtype=np.float32))
    lost = torch.from_numpy(rng.random((3, videos)) < 0.3 * (1 - scores.numpy()) ** 2)
    lost[-1] = False
    return scores, lost


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(-4, 8), st.floats(1.0, 4.5))
def test_milliseconds_in_proportion_to_gmacs_give_the_very_thresholds_of_the_budget(seed, power, budget):
    scores, lost = outcomes(60, seed)
    names, scale = [*map(str, range(60))], 2.0**power  # by a power of two, so that nothing is rounded otherwise
    profile = make_profile(tuple(scale * cost for cost in GMACS))
    expected, by_gmacs = find_point(scores, lost, GMACS, Target(budget=budget), names)
    thresholds, point = find_point(scores, lost, GMACS, Target(budget_ms=scale * budget), names, profile=profile)
    assert torch.equal(thresholds, expected)
    assert point.gmacs == by_gmacs.gmacs
    assert point.milliseconds == scale * by_gmacs.gmacs
    assert point.interval == pytest.approx([scale * end for end in by_gmacs.interval])


def test_a_budget_in_milliseconds_counts_these_alone():
    scores, lost = outcomes(400, 1)
    profile, names = make_profile((4.0, 5.0, 20.0)), [*map(str, range(400))]
    thresholds, point = find_point(scores, lost, GMACS, Target(budget_ms=9.0), names, profile=profile)
    assert torch.equal(thresholds, thresholds_for_budget(scores, ~lost, (4.0, 5.0, 20.0), 9.0))
    taken = [next((k for k in range(2) if scores[k, n] >= thresholds[k]), 2) for n in range(400)]
    assert point.milliseconds == pytest.approx(sum((4.0, 5.0, 20.0)[k] for k in taken) / 400)
    assert point.gmacs == pytest.approx(sum(GMACS[k] for k in taken) / 400)
    assert (point.rule, point.target, point.promised) == ("budget_ms", 9.0, False)
    assert f"{point.milliseconds:.4g} ms per video" in str(point)
    assert "by the profile of some CPU" in str(point)
    assert OperatingPoint.from_plain(point.plain()) == point


def test_a_promise_may_save_milliseconds():
    scores, lost = outcomes(800, 2)
    profile, names = make_profile((4.0, 5.0, 20.0)), [*map(str, range(800))]
    thresholds, point = find_point(scores, lost, GMACS, Target(max_drop=0.05), names, profile=profile)
    assert torch.equal(thresholds, thresholds_for_risk(scores, lost, (4.0, 5.0, 20.0), 0.05))
    assert point.promised
    assert 4 < point.milliseconds < 20


@pytest.mark.parametrize(
    ("target", "profile", "said"),
    [
        (Target(budget_ms=9.0), None, "dynvid profile"),
        (Target(budget=2.0), make_profile(), "use budget_ms"),
        (Target(budget_ms=9.0), make_profile((1.0, 2.0)), "2 exits, the net 3"),
        (Target(budget_ms=3.0), make_profile(), "3 milliseconds is below the first exit, which costs 4"),
    ],
)
def test_a_budget_without_its_costs_is_refused(target, profile, said):
    scores, lost = outcomes(20, 0)
    with pytest.raises(InputError, match=said):
        find_point(scores, lost, GMACS, target, [*map(str, range(20))], profile=profile)


def test_a_target_is_one_thing():
    with pytest.raises(InputError, match="budget=1 beside budget_ms=2"):
        Target(budget=1.0, budget_ms=2.0)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="milliseconds above 0"):
            Target(budget_ms=value)
    assert not Target(budget_ms=1.0).promises


def test_points_of_older_files_are_read_and_a_budget_in_milliseconds_has_some():
    point = OperatingPoint("budget", 2.0, None, "val", 7, 4, lost=0.0, gmacs=2.0)
    older = {name: value for name, value in point.plain().items() if name not in ("milliseconds", "profile")}
    assert OperatingPoint.from_plain(older) == point
    for change in ({"rule": "budget_ms"}, {"milliseconds": -1.0}, {"profile": 3}):
        with pytest.raises(InputError, match="operating_point"):
            OperatingPoint.from_plain(point.plain() | change)


def test_checkpoints_keep_profiles_and_refuse_those_of_other_exits():
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)
    module = DynamicInferenceModule(net)
    profile = make_profile((1.0, 2.0, 3.0, 4.0), route=net.route)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["dynvid"]["profiles"] == []
    module.profiles = (profile,)
    module.on_save_checkpoint(checkpoint)
    assert len(net_from_checkpoint(checkpoint, "x.ckpt").route) == 4
    other = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32))
    other._restore(checkpoint)
    assert other.profiles == (profile,)
    checkpoint["dynvid"]["profiles"] = [make_profile().plain()]
    with pytest.raises(InputError, match=r"x\.ckpt: a profile is of other exits"):
        net_from_checkpoint(checkpoint, "x.ckpt")
    checkpoint["dynvid"]["profiles"] = "fast"
    with pytest.raises(InputError, match=r"x\.ckpt: profiles are of type str"):
        net_from_checkpoint(checkpoint, "x.ckpt")
    del checkpoint["dynvid"]["profiles"]  # an older file
    assert len(net_from_checkpoint(checkpoint, "x.ckpt").route) == 4


@pytest.mark.parametrize("views", [1, 3])
def test_recorded_outputs_carry_profiles_of_one_view(views, tmp_path):
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32)
    module = DynamicInferenceModule(net)
    module.profiles = (make_profile((1.0, 2.0, 3.0, 4.0), route=net.route),)
    module.test_curve.gmacs = tuple(views * gmacs for gmacs in net.gmacs)
    module.test_curve.update(torch.randn(4, 6, 5), torch.zeros(6, dtype=torch.long), torch.arange(6))
    module.curve = module.test_curve.compute()
    outputs = module.outputs()
    outputs.save(tmp_path / "outputs.parquet")
    read = Outputs.read(tmp_path / "outputs.parquet")
    assert read.profiles == outputs.profiles == (module.profiles if views == 1 else ())
    assert (summarise(read)["time"] is None) == (views == 3)
