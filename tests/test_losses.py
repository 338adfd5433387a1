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
