import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynvid.policy import SCORES, ThresholdPolicy


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.sampled_from(sorted(SCORES)))
def test_offline_choice_equals_the_online_walk(exits, videos, seed, score):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(exits, videos, 4, generator=generator)
    policy = ThresholdPolicy(exits, score=score)
    policy.thresholds.copy_(policy.score(logits).median(dim=1).values)
    walked = []
    for video in range(videos):
        k = 0
        while k < exits - 1 and not policy.confident(k, logits[k, video : video + 1]):
            k += 1
        walked.append(k)
    assert policy.choose(logits).tolist() == walked


def test_scores_of_known_distributions():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    assert ThresholdPolicy(1).score(logits).item() == pytest.approx(0.7)
    assert ThresholdPolicy(1, score="margin").score(logits).item() == pytest.approx(0.5)
    entropy = sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert ThresholdPolicy(1, score="negative_entropy").score(logits).item() == pytest.approx(entropy)


def test_uncalibrated_is_full_inference():
    assert ThresholdPolicy(3).choose(torch.randn(3, 10, 5)).tolist() == [2] * 10


def test_thresholds_travel_in_the_state_dict():
    policy = ThresholdPolicy(thresholds=[0.5, 0.25])
    other = ThresholdPolicy(2)
    other.load_state_dict(policy.state_dict())
    assert other.thresholds.tolist() == [0.5, 0.25]


def test_thresholds_keep_their_precision_in_a_bf16_net():
    policy = ThresholdPolicy(thresholds=[0.9985, 0.25]).to(torch.bfloat16)
    assert policy.thresholds.dtype == torch.float32
    assert policy.thresholds[0].item() == pytest.approx(0.9985)


@pytest.mark.parametrize("arguments", [{}, {"num_exits": 2, "thresholds": [0.1]}, {"num_exits": 2, "score": "magic"}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"num_exits|one per exit|unknown score"):
        ThresholdPolicy(**arguments)
