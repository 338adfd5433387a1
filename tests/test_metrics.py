"""The metric against an independent numpy loop, in one process and in two."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import frontier
from dynvid.metrics import FlopsAccuracy, FlopsAccuracyCurve, plot_curve
from dynvid.policy import ThresholdPolicy

GMACS = [1.0, 3.0, 4.0]


def numpy_curve(logits, target, thresholds):
    """Mean accuracy and cost of each row of thresholds: loops over videos and exits, softmax by hand."""
    exits, videos, _ = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    points = []
    for row in thresholds:
        right = spent = 0.0
        for n in range(videos):
            for k in range(exits):
                if k == exits - 1 or p[k, n].max() >= row[k]:
                    right += p[k, n].argmax() == target[n]
                    spent += GMACS[k]
                    break
        points.append((spent / videos, right / videos))
    return points


def data(seed, videos=30):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 4, videos)
    logits = rng.normal(0, 1, (3, videos, 4)).astype(np.float32)
    logits[:, np.arange(videos), target] += np.array([0.5, 1.0, 2.0], dtype=np.float32)[:, None]
    return logits, target


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 30))
def test_curve_equals_a_numpy_loop(seed, batch):
    logits, target = data(seed)
    thresholds = np.random.default_rng(seed).random((5, 3)).astype(np.float32)
    metric = FlopsAccuracyCurve(GMACS)
    metric.thresholds = torch.from_numpy(thresholds)
    for i in range(0, 30, batch):
        rows = slice(i, i + batch)
        index = torch.arange(30)[rows]
        metric.update(torch.from_numpy(logits[:, rows]), torch.from_numpy(target[rows]), index)
    found = metric.compute()
    expected = sorted(numpy_curve(logits, target, thresholds), key=lambda point: point[0])
    assert found.gmacs.tolist() == pytest.approx([g for g, _ in expected], rel=1e-5)
    assert dict(zip(found.gmacs.tolist(), found.accuracy.tolist(), strict=True)) == pytest.approx(
        {float(g): a for g, a in zip(found.gmacs, [a for _, a in expected], strict=True)}, rel=1e-5
    )
    assert found.exit_accuracy.tolist() == pytest.approx([(x.argmax(-1) == target).mean() for x in logits])


def test_repeated_videos_count_once():
    logits, target = data(0)
    once, padded = FlopsAccuracyCurve(GMACS), FlopsAccuracyCurve(GMACS)
    once.update(torch.from_numpy(logits), torch.from_numpy(target), torch.arange(30))
    rows = [*range(30), 0, 1, 2, 2]  # as a distributed sampler pads
    padded.update(torch.from_numpy(logits[:, rows]), torch.from_numpy(target[rows]), torch.tensor(rows))
    found = vars(padded.compute())
    for name, value in vars(once.compute()).items():
        assert torch.equal(value, found[name])


@pytest.mark.parametrize("videos", [1, 5])
def test_a_single_exit_is_still_a_dimension(videos):
    """Torchmetrics squeezes tensors of one element."""
    metric = FlopsAccuracyCurve([2.0])
    metric.update(torch.randn(1, videos, 4), torch.zeros(videos, dtype=torch.long), torch.arange(videos))
    found = metric.compute()
    assert (found.exit_accuracy.shape, found.exit_gmacs.tolist()) == ((1,), [2.0])
    assert found.scores.shape == found.correct.shape == (1, videos)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_without_thresholds_the_curve_runs_from_the_cheapest_point_to_full_inference(seed):
    logits, target = data(seed)
    metric = FlopsAccuracyCurve(GMACS)
    metric.update(torch.from_numpy(logits), torch.from_numpy(target), torch.arange(30))
    found = metric.compute()
    assert (found.gmacs.diff() >= 0).all()
    assert found.gmacs[0] == GMACS[0]
    assert found.gmacs[-1] == GMACS[-1]
    assert found.accuracy[-1] == found.exit_accuracy[-1]
    # It begins as the frontier of these videos, which ends where they lose nothing.
    best = frontier(found.scores, found.correct, GMACS).thresholds.unique_consecutive(dim=0)
    assert torch.equal(found.thresholds[: len(best)], best)


def test_wrong_number_of_exits_says_so():
    with pytest.raises(ValueError, match=r"\(2, 5, 4\), not \(3 exits, 5 videos"):
        FlopsAccuracyCurve(GMACS).update(torch.zeros(2, 5, 4), torch.zeros(5, dtype=torch.long), torch.arange(5))


def test_plot_draws_the_curve_and_the_exits():
    logits, target = data(2)
    metric = FlopsAccuracyCurve(GMACS)
    metric.update(torch.from_numpy(logits), torch.from_numpy(target), torch.arange(30))
    found = metric.compute()
    _, ax = metric.plot(found)
    curve, exits = ax.get_lines()
    assert curve.get_xdata().tolist() == found.gmacs.tolist()
    assert exits.get_ydata() == pytest.approx(100 * found.exit_accuracy.numpy())


def plotted(accuracy, **more):
    """A drawn curve of so many points, over 40 videos."""
    points = torch.tensor(accuracy)
    curve = FlopsAccuracy(
        gmacs=torch.linspace(1, 4, len(points)),
        accuracy=points,
        thresholds=torch.zeros(len(points), 2),
        exit_gmacs=torch.tensor([1.0, 4.0]),
        exit_accuracy=points[[0, -1]],
        scores=torch.zeros(2, 40),
        correct=torch.zeros(2, 40, dtype=torch.bool),
    )
    figure, ax = plot_curve(curve, **more)
    figure.savefig(io.BytesIO())  # which lays it out
    return figure, ax


def test_the_title_says_what_is_shown():
    _, ax = plotted([0.2, 0.8], split="test")
    assert ax.get_title() == "Top-1 against mean cost: 40 videos of test"


@pytest.mark.parametrize(
    ("accuracy", "zoomed"), [([0.2, 0.8], False), ([0.9, 0.95], True), ([1.0, 1.0], True), ([0.0, 0.0], False)]
)
def test_an_axis_that_does_not_start_at_0_says_so(accuracy, zoomed):
    _, ax = plotted(accuracy)
    low, high = ax.get_ylim()
    assert bool(low > 0) is zoomed
    assert ("does not start at 0" in ax.get_ylabel()) is zoomed
    assert low <= 100 * min(accuracy)
    assert 100 * max(accuracy) < high
    assert high - low > 0.5


def test_the_legend_covers_nothing():
    figure, ax = plotted([0.2, 0.8], bands=torch.tensor([[0.1, 0.3], [0.7, 0.9]]))
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    assert ax.get_legend().get_window_extent().x1 <= figure.bbox.x1


def test_bands_are_shaded():
    _, ax = plotted([0.2, 0.5, 0.8], bands=torch.tensor([[0.1, 0.3], [0.4, 0.7], [0.7, 0.9]]))
    (band,) = ax.collections
    corners = {tuple(round(float(x), 4) for x in corner) for corner in band.get_paths()[0].vertices}
    assert {(1.0, 10.0), (1.0, 30.0), (2.5, 40.0), (2.5, 70.0), (4.0, 70.0), (4.0, 90.0)} <= corners
    assert ax.get_ylim()[1] > 90


@pytest.mark.slow
def test_two_processes_agree_with_one():
    """Two real gloo processes, each with half of the videos and one video twice."""
    script = Path(__file__).parent / "ddp_metric.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("equal") == 2


def test_the_curve_of_sets_counts_whole_sets():
    logits = torch.tensor([[[4.0, -4.0], [0.3, 0.2]], [[5.0, -1.0], [-2.0, 3.0]]])
    labels = torch.tensor([[1, 0], [0, 1]])
    policy = ThresholdPolicy(2, multi_label=True)
    curve = FlopsAccuracyCurve([1.0, 4.0], policy)
    for n in (1, 0, 1):  # one is seen twice
        curve.update(logits[:, n : n + 1], labels[n : n + 1], torch.tensor([n]))
    found = curve.compute()
    assert found.exit_accuracy.tolist() == [0.5, 1.0]
    assert torch.equal(found.labels, labels)
    assert found.accuracy[-1] == 1
    _, axes = curve.plot(found)
    assert axes.get_title().startswith("Set accuracy against mean cost: 2 videos")
    assert axes.get_ylabel() == "set accuracy (%)"
