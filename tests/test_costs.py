"""Counted costs against ptflops, against hooks on real runs, and against the paper."""

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn

from dynvid import DepthExitNet, ExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.costs import count_gmacs


def test_resnet50_full_inference_costs_what_the_paper_says():
    net = UnifiedExitNet("resnet50", num_classes=400, num_frames=16)
    assert net.full_gmacs == pytest.approx(65.4, abs=0.05)
    # Per frame after layer2, layer3, layer4; the heads run once per exit.
    assert net.gmacs[0] == pytest.approx(4 * 1.8136 + 0.0019, abs=1e-3)
    assert net.gmacs[2] == pytest.approx(8 * 4.0871, rel=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "regnetx_002", "efficientnet_b0"])
def test_full_inference_equals_ptflops(name):
    net = ExitNet(name, num_classes=10, num_frames=2, shift="none")
    # The aten backend counts convolutions and products as we do; the other one adds batch norm and activations (1-2 %).
    macs, _ = get_model_complexity_info(
        net, (2, 3, 224, 224), as_strings=False, print_per_layer_stat=False, backend="aten", verbose=False
    )
    assert net.full_gmacs == pytest.approx(macs / 1e9, rel=0.02)


@pytest.mark.parametrize("taken", range(4))
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035"])
def test_counted_equals_what_a_real_run_computes(scramble, name, taken):
    net = scramble(UnifiedExitNet(name, num_classes=5, num_frames=8, input_size=64))
    macs = []

    def count(layer, args, out):
        per_output = layer.weight[0].numel()  # multiply-adds behind one output value
        macs.append(out.numel() * per_output)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    counted = net.gmacs[taken]
    macs.clear()  # counting runs hooks too
    thresholds = [-1.0 if k == taken else torch.inf for k in range(4)]
    found = net.predict(torch.randn(1, 8, 3, 64, 64), ThresholdPolicy(thresholds=thresholds))
    assert found.exit.item() == taken
    assert sum(macs) / 1e9 == pytest.approx(counted, rel=1e-6)


def test_costs_follow_the_input_size_and_leave_the_net_alone():
    net = DepthExitNet("test_resnet", num_classes=5, num_frames=2, input_size=64)
    assert count_gmacs(net, size=128)[-1] == pytest.approx(4 * net.gmacs[-1], rel=0.01)
    assert net.gmacs == tuple(sorted(net.gmacs))
    assert net.training
    assert not any(p.is_meta for p in net.parameters())


def test_attention_pooling_is_counted_too():
    """Its query is a parameter, which the counter would follow backwards."""
    net = DepthExitNet("test_vit3", 5, 2, input_size=32, backbone_args={"img_size": 32, "depth": 4})
    attention = net.embeddings["4"].get_submodule("attn_pool")
    dim, tokens = attention.q.in_features, (32 // 16) ** 2
    assert net.gmacs[-1] > 2 * tokens * 2 * dim * dim / 1e9  # the keys and values of both frames alone


def test_a_size_that_the_net_does_not_take_is_named():
    net = DepthExitNet("deit_tiny_patch16_224", 5, 2, backbone_args={"img_size": 32, "depth": 4})
    with pytest.raises(ValueError, match=r"takes no videos of 224 x 224 pixels .*: set input_size"):
        net.gmacs  # noqa: B018
