import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from dynvid.calibration import calibration_error, fit_temperatures


def drawn(seed, videos, classes, scale=1.0, exits=1):
    """Random logits, and labels that they know something of."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(exits, videos, classes, generator=generator)
    labels = torch.randint(classes, (videos,), generator=generator)
    logits[:, torch.arange(videos), labels] += 1
    return scale * logits, labels


def likelihood(logits, labels, temperature):
    return cross_entropy(logits.double() / temperature, labels).item()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    videos=st.integers(1, 60),
    classes=st.integers(2, 9),
    scale=st.sampled_from([0.01, 0.3, 1.0, 4.0, 100.0]),
)
def test_no_temperature_of_a_fine_grid_is_better(seed, videos, classes, scale):
    logits, labels = drawn(seed, videos, classes, scale)
    (found,) = fit_temperatures(logits, labels)
    grid = np.geomspace(0.05, 20, 400)
    values = np.array([likelihood(logits[0], labels, t) for t in grid])
    best = int(values.argmin())
    assert likelihood(logits[0], labels, found) <= values[best] + 1e-12
    if values.max() - values.min() > 1e-9:  # else nearly all are as good
        assert grid[max(best - 1, 0)] <= found * (1 + 1e-9)
        assert found <= grid[min(best + 1, 399)] * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 6), st.sampled_from([0.3, 1.0, 4.0]))
def test_no_temperature_of_a_fine_grid_is_better_for_sets(seed, videos, classes, scale):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (videos, classes), generator=generator)
    logits = scale * (torch.randn(2, videos, classes, generator=generator) + 2 * labels - 1)
    grid = np.geomspace(0.05, 20, 400)
    for one, found in zip(logits.double(), fit_temperatures(logits, labels), strict=True):
        values = [binary_cross_entropy_with_logits(one / t, labels.double()).item() for t in grid]
        best = int(np.argmin(values))
        assert binary_cross_entropy_with_logits(one / found, labels.double()).item() <= values[best] + 1e-12
        assert grid[max(best - 1, 0)] * (1 - 1e-9) <= found <= grid[min(best + 1, 399)] * (1 + 1e-9)
    with pytest.raises(ValueError, match="leave out the videos without one"):
        fit_temperatures(logits, -labels.clamp(min=1))


def test_lbfgs_finds_the_same():
    logits, labels = drawn(0, 500, 10, scale=3.0)
    logits = logits * torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    found = fit_temperatures(logits, labels)
    for one, temperature in zip(logits.double(), found, strict=True):
        x = torch.zeros((), dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([x], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure(x=x, one=one, search=search):
            search.zero_grad()
            loss = cross_entropy(one * x.exp(), labels)
            loss.backward()
            return loss

        search.step(closure)
        assert temperature == pytest.approx(math.exp(-x.item()), rel=1e-5)
    assert found[2] / found[0] == pytest.approx(4, rel=1e-6)


@pytest.mark.parametrize("known", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_recovered(known):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * known * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial((logits / known).softmax(-1), 1, generator=generator).squeeze(1)
    (found,) = fit_temperatures(logits[None], labels)
    assert found == pytest.approx(known, rel=0.03)
    again = calibration_error((logits / found).softmax(-1).amax(-1)[None], (logits.argmax(-1) == labels)[None])
    assert again[0] < 0.015
    if known != 1:
        before = calibration_error(logits.softmax(-1).amax(-1)[None], (logits.argmax(-1) == labels)[None])
        assert before[0] > 0.1


def test_many_sure_and_right_beside_few_sure_and_wrong():
    """Where the slope is flat far from its root, Newton's method alone would creep or leap."""
    logits = torch.tensor([30.0, 0.0]).repeat(1, 1000, 1)
    labels = torch.zeros(1000, dtype=torch.long)
    labels[:3] = 1
    (found,) = fit_temperatures(logits, labels)
    assert found == pytest.approx(30 / math.log(997 / 3), rel=1e-6)  # where the probability is 0.997


@pytest.mark.parametrize(("label", "bound"), [(0, 0.05), (1, 20.0)])
@pytest.mark.parametrize("videos", [1, 50])
def test_always_right_and_always_wrong_are_held_at_the_bounds(label, bound, videos):
    logits = torch.tensor([2.0, 0.0]).repeat(1, videos, 1)
    assert fit_temperatures(logits, torch.full((videos,), label)) == (bound,)


def test_where_all_are_as_good_it_is_one():
    assert fit_temperatures(torch.zeros(2, 3, 4), torch.tensor([0, 1, 2])) == (1.0, 1.0)
    assert fit_temperatures(torch.tensor([[[1e30, 0.0]]]), torch.tensor([0])) == (1.0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_any_precision_are_taken_and_left_as_they_are(dtype):
    logits, labels = drawn(0, 50, 4)
    logits = logits.to(dtype)
    before = logits.clone()
    assert fit_temperatures(logits, labels) == pytest.approx(fit_temperatures(logits.float(), labels), rel=1e-6)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        (torch.zeros(1, 2, 3), torch.tensor([0, -1]), r"need labels: leave out the videos without one"),
        (torch.zeros(1, 2, 3), torch.tensor([0, 3]), r"label 3: the logits are of 3 classes"),
        (torch.zeros(1, 2, 3), torch.tensor([0]), r"logits \(1, 2, 3\), labels \(1,\): they must be \(K, N, classes\)"),
        (torch.zeros(2, 3), torch.tensor([0, 0, 0]), r"logits \(2, 3\), labels \(3,\)"),
        (torch.zeros(1, 0, 3), torch.tensor([], dtype=torch.long), r"there are none"),
        (torch.full((1, 1, 3), torch.nan), torch.tensor([0]), r"not finite"),
        (torch.tensor([[[torch.inf, 0.0]]]), torch.tensor([0]), r"not finite"),
    ],
)
def test_bad_input_says_what_is_wrong(logits, labels, reason):
    with pytest.raises(ValueError, match=reason):
        fit_temperatures(logits, labels)


def by_hand(probability, correct, bins):
    """Guo et al.'s error in plain loops."""
    error = 0.0
    for b in range(bins):
        inside = [n for n, p in enumerate(probability) if b / bins <= p < (b + 1) / bins or (b == bins - 1 and p == 1)]
        if inside:
            accuracy = sum(bool(correct[n]) for n in inside) / len(inside)
            confidence = sum(probability[n] for n in inside) / len(inside)
            error += len(inside) / len(probability) * abs(accuracy - confidence)
    return error


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 80), st.integers(1, 20))
def test_calibration_error_equals_plain_loops(seed, videos, bins):
    rng = np.random.default_rng(seed)
    probability, correct = rng.random((2, videos)), rng.random((2, videos)) < 0.6
    probability[rng.random((2, videos)) < 0.2] = 1  # float32 softmax says so often
    edges = np.arange(1, bins) / bins
    assume(not len(edges) or np.abs(probability[..., None] - edges).min() > 1e-9)
    found = calibration_error(torch.from_numpy(probability), torch.from_numpy(correct), bins)
    for k in range(2):
        assert found[k] == pytest.approx(by_hand(probability[k], correct[k], bins), abs=1e-9)


@pytest.mark.parametrize(
    ("probability", "correct", "reason"),
    [
        (torch.rand(1, 2), torch.ones(1, 3, dtype=torch.bool), r"probability \(1, 2\), correct \(1, 3\)"),
        (torch.rand(2), torch.ones(2, dtype=torch.bool), r"both must be \(K, N\)"),
        (torch.rand(1, 0), torch.ones(1, 0, dtype=torch.bool), r"with videos"),
        (torch.tensor([[1.5]]), torch.tensor([[True]]), r"in \[0, 1\]"),
        (torch.tensor([[torch.nan]]), torch.tensor([[True]]), r"in \[0, 1\]"),
    ],
)
def test_what_is_no_probability_is_refused(probability, correct, reason):
    with pytest.raises(ValueError, match=reason):
        calibration_error(probability, correct)
