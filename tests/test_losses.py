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
