import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynvid import Exit, UnifiedExitNet
from dynvid.checkpoint import described
from dynvid.outputs import Outputs
from dynvid.policy import SCORE_NAMES, SCORES, ThresholdPolicy

TEMPERATURES = st.lists(st.floats(0.05, 20), min_size=5, max_size=5)


@given(
    exits=st.integers(1, 5),
    videos=st.integers(1, 5),
    classes=st.sampled_from([2, 4, 37, 400]),
    seed=st.integers(0, 99),
    score=st.sampled_from(SCORE_NAMES),
    temperatures=TEMPERATURES,
)
def test_offline_choice_equals_the_online_walk(exits, videos, classes, seed, score, temperatures):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(exits, videos, classes, generator=generator)
    policy = ThresholdPolicy(exits, score=score, temperatures=temperatures[:exits])
    policy.thresholds.copy_(policy.score(logits).median(dim=1).values)  # scores that occur: to the bit, or not at all
    labels = logits.argmax(-1)
    walked = []
    for video in range(videos):
        k, one = 0, slice(video, video + 1)
        while k < exits - 1 and not policy.confident(k, logits[k, one], labels[:k, one]):
            k += 1
        walked.append(k)
    assert policy.choose(logits).tolist() == walked


FRAMES = 6


def videos_of(seed, count):
    """Noise of several colours."""
    generator = torch.Generator().manual_seed(seed)
    colour = 3 * torch.randn(count, 1, 3, 1, 1, generator=generator)
    return colour + 2 * torch.randn(count, FRAMES, 3, 32, 32, generator=generator)


@pytest.fixture(scope="module")
@torch.no_grad()
def net(scramble_net):
    """A net whose exits agree on some of these videos: its classifiers are standardised, two classes prevail."""
    torch.manual_seed(0)
    net = scramble_net(UnifiedExitNet, route=[(1, 2), (2, 3), (4, 3), (4, 4), (FRAMES, 4)])
    logits = net(videos_of(0, 64))
    for name, head in net.heads.items():
        own = logits[[k for k, one in enumerate(net.head_of) if one == name]].flatten(0, 1)
        head[-1].bias.copy_(2 * (head[-1].bias - own.mean(0)) / own.std(0))
        head[-1].weight.mul_(2 / own.std(0)[:, None])
        head[-1].bias[2:] -= 3
    return net


@pytest.mark.parametrize("score", SCORE_NAMES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    count=st.integers(1, 12),
    temperatures=TEMPERATURES,
    ranks=st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
@pytest.mark.slow
def test_predictions_take_the_exits_that_are_chosen_offline(net, seed, count, score, temperatures, ranks):
    video = videos_of(seed, count)
    with torch.no_grad():
        logits = net(video)
    policy = ThresholdPolicy(5, score=score, temperatures=temperatures)
    for k, scores in enumerate(policy.score(logits)):
        levels = torch.cat([scores.amin()[None] - 1, scores.sort().values, scores.amax()[None] + 1])
        rank = int(ranks[k] * count)
        policy.thresholds[k] = (levels[rank] + levels[rank + 1]) / 2  # between what occurs
        assume((scores - policy.thresholds[k]).abs().min() > 1e-3)  # walk and full pass round differently
    best = logits.topk(2, dim=-1).values
    assume((best[..., 0] - best[..., 1]).min() > 1e-3)
    found = net.predict(video, policy)
    assert torch.equal(found.exit, policy.choose(logits))
    rows = torch.arange(count)
    assert torch.equal(found.label, logits.argmax(-1)[found.exit, rows])
    recorded = policy.probabilities(logits)[found.exit, rows, found.label]
    torch.testing.assert_close(found.probability, recorded, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("score", SCORE_NAMES)
def test_that_walk_sends_videos_to_every_exit(net, score):
    """What the test above stands on: its nets agree and disagree, and its videos leave at different exits."""
    video = videos_of(1, 150)
    with torch.no_grad():
        logits = net(video)
    policy = ThresholdPolicy(5, score=score)
    policy.thresholds.copy_(policy.score(logits).quantile(0.7, dim=1, interpolation="midpoint"))
    found = net.predict(video, policy)
    assert torch.equal(found.exit, policy.choose(logits))
    assert found.exit.unique().tolist() == [0, 1, 2, 3, 4]
    agreeing = ThresholdPolicy(5, score="patience").score(logits).floor()
    assert [agreeing[k].unique().tolist() for k in range(5)] == [list(range(k + 1)) for k in range(5)]


def counted_by_hand(labels):
    """How many exits directly before each gave its label, lists (exits, videos)."""
    counts = []
    for k, row in enumerate(labels):
        counts.append([])
        for video, label in enumerate(row):
            count = 0
            while count < k and labels[k - 1 - count][video] == label:
                count += 1
            counts[-1].append(count)
    return counts


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 999), st.integers(0, 3), TEMPERATURES)
def test_patience_equals_a_plain_loop(exits, videos, seed, patience, temperatures):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(exits, videos, 2, generator=generator).double()
    logits[:, ::2] *= 40  # to the point where float32 says 1
    policy = ThresholdPolicy(thresholds=[patience] * exits, score="patience", temperatures=temperatures[:exits])
    counts = counted_by_hand(logits.argmax(-1).tolist())
    score = policy.score(logits)
    assert score.floor().long().tolist() == counts  # never the next whole number, however sure
    fraction = (score - score.floor()).double()
    divided = logits / torch.tensor(policy.temperatures, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(fraction, divided.softmax(-1).amax(-1), atol=1e-5, rtol=0.0)
    # PABEE stops at the first exit where that many before it agree.
    stops = [[k for k in range(exits) if counts[k][video] >= patience] for video in range(videos)]
    assert policy.choose(logits).tolist() == [stop[0] if stop else exits - 1 for stop in stops]


def test_patience_decides_among_equals_by_probability():
    logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 4.0]]])
    score = ThresholdPolicy(2, score="patience").score(logits)
    assert score[1, 0] < score[1, 1]
    assert score[0, 0] > score[0, 1]


def test_patience_needs_the_labels_before():
    policy = ThresholdPolicy(2, score="patience")
    assert policy.looks_back
    with pytest.raises(ValueError, match="labels of the exits before"):
        policy.confident(1, torch.zeros(3, 4))


@pytest.mark.parametrize("score", sorted(SCORES))
@given(st.integers(0, 99), st.sampled_from([2, 5, 174, 400]))
def test_temperature_one_changes_no_bit(score, seed, classes):
    logits = 5 * torch.randn(3, 7, classes, generator=torch.Generator().manual_seed(seed))
    p = logits.softmax(-1)
    best = p.topk(2, dim=-1).values
    log_p = logits.log_softmax(-1)
    before = {
        "max_probability": p.amax(-1),
        "margin": best[..., 0] - best[..., 1],
        "negative_entropy": (log_p.exp() * log_p).sum(-1),
    }
    policy = ThresholdPolicy(3, score=score)
    assert not policy.looks_back
    assert torch.equal(policy.score(logits), before[score])
    assert torch.equal(policy.probabilities(logits), p)
    assert torch.equal(policy.probability(1, logits[1]), p[1].amax(-1))


@pytest.mark.parametrize("score", sorted(SCORES))
def test_each_exit_has_its_own_temperature(score):
    logits = torch.randn(3, 4, 5)
    policy = ThresholdPolicy(3, score=score, temperatures=[0.5, 1.0, 4.0])
    divided = torch.stack([logits[0] * 2, logits[1], logits[2] / 4])
    assert torch.equal(policy.score(logits), SCORES[score](divided))
    assert torch.equal(policy.probabilities(logits), divided.softmax(-1))
    assert torch.equal(policy.probability(2, logits[2]), divided[2].softmax(-1).amax(-1))


def test_scores_of_known_distributions():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    assert ThresholdPolicy(1).score(logits).item() == pytest.approx(0.7)
    assert ThresholdPolicy(1, score="margin").score(logits).item() == pytest.approx(0.5)
    entropy = sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert ThresholdPolicy(1, score="negative_entropy").score(logits).item() == pytest.approx(entropy)


def test_uncalibrated_is_full_inference():
    assert ThresholdPolicy(3).choose(torch.randn(3, 10, 5)).tolist() == [2] * 10


def test_thresholds_travel_in_the_state_dict():
    policy = ThresholdPolicy(thresholds=[0.5, 0.25], temperatures=[2.0, 3.0])
    assert policy.state_dict().keys() == {"thresholds"}
    other = ThresholdPolicy(2)
    other.load_state_dict(policy.state_dict())
    assert other.thresholds.tolist() == [0.5, 0.25]
    assert other.temperatures == (1.0, 1.0)


def test_thresholds_keep_their_precision_in_a_bf16_net():
    policy = ThresholdPolicy(thresholds=[0.9985, 0.25]).to(torch.bfloat16)
    assert policy.thresholds.dtype == torch.float32
    assert policy.thresholds[0].item() == pytest.approx(0.9985)


@pytest.mark.parametrize("arguments", [{}, {"num_exits": 2, "thresholds": [0.1]}, {"num_exits": 2, "score": "magic"}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"num_exits|one per exit|unknown score"):
        ThresholdPolicy(**arguments)


def test_an_unknown_score_is_told_the_known_ones():
    with pytest.raises(ValueError, match="use max_probability, margin, negative_entropy, patience"):
        ThresholdPolicy(2, score="magic")


@pytest.mark.parametrize("temperatures", [[], [1.0], [1.0, 0.0], [1.0, -2.0], [1.0, math.inf], [1.0, math.nan]])
def test_bad_temperatures(temperatures):
    with pytest.raises(ValueError, match="one above 0 per exit"):
        ThresholdPolicy(2, temperatures=temperatures)


def test_logits_of_other_exits_are_refused():
    with pytest.raises(ValueError, match="logits of 3 exits, the policy decides on 2"):
        ThresholdPolicy(2).score(torch.zeros(3, 1, 4))


@pytest.mark.parametrize("score", SCORE_NAMES)
def test_every_score_is_known_where_files_are_read(score, tmp_path):
    saved = {"net": {"class_path": "x", "init_args": {}}, "score": score, "class_names": None}
    assert described({"dynvid": saved})["score"] == score
    outputs = Outputs(
        logits=torch.randn(2, 3, 4),
        labels=torch.tensor([0, 1, 2]),
        paths=["a", "b", "c"],
        recordings=["a", "b", "c"],
        route=(Exit(1, 1), Exit(2, 1)),
        gmacs=(1.0, 2.0),
        full_gmacs=2.0,
        policy=ThresholdPolicy(thresholds=[0.5, 0.0], score=score, temperatures=[2.0, 0.3]),
        point=None,
        split="test",
    )
    outputs.save(tmp_path / "outputs.parquet")
    again = Outputs.read(tmp_path / "outputs.parquet")
    assert (again.policy.score_name, again.policy.temperatures) == (score, (2.0, 0.3))
    assert torch.equal(again.scores, outputs.scores)


def test_files_with_an_unknown_score_are_told_the_known_ones():
    saved = {"net": {"class_path": "x", "init_args": {}}, "score": "magic", "class_names": None}
    with pytest.raises(ValueError, match="score is 'magic': use max_probability, margin, negative_entropy, patience"):
        described({"dynvid": saved})
