import numpy as np
import pytest
import torch

from dynvid.losses import ExitLoss


def test_sum_of_cross_entropies_by_hand():
    logits, target = torch.randn(3, 4, 5), torch.tensor([0, 1, 2, 4])
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    per_exit = -log_p[:, torch.arange(4), target].mean(1)
    assert ExitLoss()(logits, target).item() == pytest.approx(per_exit.sum().item(), rel=1e-5)
    weighted = ExitLoss(weights=[1.0, 0.0, 2.0])(logits, target)
    assert weighted.item() == pytest.approx((per_exit[0] + 2 * per_exit[2]).item(), rel=1e-5)


def test_weights_must_fit_the_exits():
    with pytest.raises(ValueError, match="2 given for 3 exits"):
        ExitLoss(weights=[1.0, 1.0])(torch.zeros(3, 1, 2), torch.tensor([0]))


def test_weights_of_classes_by_hand():
    logits, target = torch.randn(2, 4, 3), torch.tensor([0, 0, 0, 1])
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    given, balanced = ExitLoss(class_weights=[1.0, 3.0, 5.0]), ExitLoss(class_weights="balanced")
    of_videos = torch.tensor([1.0, 1.0, 1.0, 3.0])
    expected = (-log_p[:, torch.arange(4), target] * of_videos).sum(1) / of_videos.sum()
    assert given(logits, target).item() == pytest.approx(expected.sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="balanced needs the training videos"):
        balanced(logits, target)
    balanced.balance([300, 100, 0])
    assert balanced(logits, target).item() == pytest.approx(expected.sum().item(), rel=1e-5)
    assert balanced.per_class.tolist() == pytest.approx([400 / (2 * 300), 400 / (2 * 100), 0])
    assert not balanced.state_dict()  # checkpoints do not change
    with pytest.raises(ValueError, match="3 given for 4 classes"):
        balanced(torch.zeros(2, 1, 4), torch.tensor([0]))
    for wrong in ([1.0, -1.0], [float("nan")], "equal"):
        with pytest.raises(ValueError, match="class_weights="):
            ExitLoss(class_weights=wrong)


def test_distillation_by_hand():
    logits, target = torch.randn(3, 4, 5, requires_grad=True), torch.tensor([0, 1, 2, 4])
    loss = ExitLoss(distillation=0.7, temperature=2.0)
    found = loss(logits, target)
    p = np.exp(logits.detach().numpy() / 2)
    p /= p.sum(-1, keepdims=True)
    kl = (p[2] * (np.log(p[2]) - np.log(p[:2]))).sum(-1).mean(1)  # of both exits before the last
    expected = ExitLoss()(logits, target).item() + 0.7 * 2.0**2 * kl.sum()
    assert found.item() == pytest.approx(expected, rel=1e-5)
    (by_last,) = torch.autograd.grad(found, logits)
    (plain,) = torch.autograd.grad(ExitLoss()(logits, target), logits)
    torch.testing.assert_close(by_last[2], plain[2])  # the teacher learns nothing from its pupils
    assert not torch.allclose(by_last[0], plain[0])


def test_probabilities_as_targets():
    logits, target = torch.randn(2, 3, 4), torch.tensor([0, 3, 1])
    one_hot = torch.eye(4)[target]
    torch.testing.assert_close(ExitLoss()(logits, one_hot), ExitLoss()(logits, target))


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="temperature=0"):
        ExitLoss(distillation=1.0, temperature=0)


def test_label_smoothing_by_hand():
    logits, target = torch.randn(2, 3, 4), torch.tensor([0, 3, 1])
    soft = 0.9 * torch.eye(4)[target] + 0.1 / 4
    expected = -(soft * logits.log_softmax(-1)).sum(-1).mean(1).sum()
    torch.testing.assert_close(ExitLoss(label_smoothing=0.1)(logits, target), expected)


def cross_entropy_of_sets(logits, target):
    """Of each decision, in numpy and float64: (K, B, classes)."""
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    y = target.double().numpy()
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)), p


def test_sets_are_a_mean_of_decisions_by_hand():
    logits, target = torch.randn(2, 4, 3), torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]])
    entropies, _ = cross_entropy_of_sets(logits, target)
    expected = entropies.mean((1, 2)).sum()
    assert ExitLoss(multi_label=True)(logits, target).item() == pytest.approx(expected, rel=1e-5)
    mixed = torch.lerp(target.float(), target.flip(0).float(), 0.3)
    entropies, _ = cross_entropy_of_sets(logits, mixed)
    assert ExitLoss(multi_label=True)(logits, mixed).item() == pytest.approx(entropies.mean((1, 2)).sum(), rel=1e-5)
    smoothed, _ = cross_entropy_of_sets(logits, target * 0.8 + 0.1)
    found = ExitLoss(multi_label=True, label_smoothing=0.2)(logits, target).item()
    assert found == pytest.approx(smoothed.mean((1, 2)).sum(), rel=1e-5)


def test_classes_of_sets_are_weighed_by_their_positives():
    logits, target = torch.randn(2, 4, 3), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
    entropies, _ = cross_entropy_of_sets(logits, target)
    loss = ExitLoss(class_weights="balanced", multi_label=True)
    loss.balance([4, 1, 0], videos=4)
    assert loss.per_class.tolist() == [0.25, 3.0, 4.0]  # by hand: at least one of both sides, so that all are learned
    weights = np.where(target.numpy() == 1, [0.25, 3.0, 4.0], 1.0)
    expected = (entropies * weights).mean((1, 2)).sum()
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_of_sets_by_hand():
    logits, target = torch.randn(3, 4, 5), torch.randint(2, (4, 5))
    found = ExitLoss(distillation=0.7, temperature=2.0, multi_label=True)(logits, target).item()
    _, p = cross_entropy_of_sets(logits / 2, target)
    kl = p[2] * np.log(p[2] / p[:2]) + (1 - p[2]) * np.log((1 - p[2]) / (1 - p[:2]))
    expected = ExitLoss(multi_label=True)(logits, target).item() + 0.7 * 2.0**2 * kl.mean((1, 2)).sum()
    assert found == pytest.approx(expected, rel=1e-5)
