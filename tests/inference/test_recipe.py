"""Prepared nets answer as the net that they were made of."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynvid import DepthExitNet, ExitNet, InputExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.errors import InputError, ModeError
from dynvid.inference.fold import fold_batch_norm
from dynvid.inference.recipe import Disagreement, disagreement, has_bf16, prepare
from dynvid.nets import Backbone, MSDNet


def trained(net):
    """The net with batch norms that do something."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def walked(net, video):
    stream = net.stream(video)
    return torch.stack([stream.advance() for _ in net.route])


def norms(net):
    return sum(isinstance(module, _BatchNorm) for module in net.modules())


@pytest.mark.parametrize("cls", [DepthExitNet, InputExitNet, UnifiedExitNet])
@pytest.mark.parametrize("shift", ["online", "none"])
@torch.no_grad()
def test_folding_keeps_answers_and_cost(cls, shift):
    net = trained(cls("test_resnet", num_classes=5, num_frames=4, shift=shift))
    before = {name: x.clone() for name, x in net.state_dict().items()}
    fast, recipe = prepare(net, precision="float32", device="cpu")
    video = torch.randint(0, 256, (2, 4, 3, 48, 48), dtype=torch.uint8)
    expected = net(video)
    torch.testing.assert_close(fast(video), expected)
    torch.testing.assert_close(walked(fast, video), expected)
    assert norms(fast) == 0
    assert recipe.folded == norms(net) > 10
    assert (fast.gmacs, fast.route, fast.spec()) == (net.gmacs, net.route, net.spec())
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("mobilenetv3_small_050", 0),  # batch norm with its activation
        ("resnetv2_18", None),  # batch norm before the convolution as well, which stays
        (MSDNet(num_blocks=2, base=2, step=2, channels=8, growth_rate=4), 0),
    ],
)
@torch.no_grad()
def test_other_nets_fold_what_can_be_folded(backbone, left):
    net = trained(ExitNet(backbone, num_classes=5, num_frames=2))
    fast, recipe = prepare(net, precision="float32", device="cpu")
    video = torch.randn(1, 2, 3, 64, 64)
    torch.testing.assert_close(fast(video), net(video), rtol=1e-4, atol=1e-5)
    assert recipe.folded > 0
    assert recipe.folded + sum(type(m).__name__.startswith("BatchNorm") for m in fast.modules()) == norms(net)
    assert left is None or norms(fast) == left


class Tangled(nn.Module):
    """Three convolutions that look as if their batch norm could be folded."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = y + self.bn1(y)  # its output is read twice
        y = self.bn2(self.conv2(self.bn2(self.conv2(y))))  # runs twice
        y = self.bn3(self.conv3(y).relu())  # something lies between
        return self.bn4(self.conv4(y))  # the only one


class TangledBackbone(Backbone):
    def __init__(self):
        super().__init__()
        self.segments, self.exit_depths = nn.ModuleList([Tangled()]), (1,)

    def embedding(self, depth):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def head(self, depth, num_classes, dropout):
        return nn.Linear(4, num_classes)


@torch.no_grad()
def test_only_proven_pairs_are_folded():
    net = trained(ExitNet(TangledBackbone(), num_classes=5, num_frames=2, shift="none"))
    video = torch.randn(1, 2, 3, 16, 16)
    expected = net(video)
    assert fold_batch_norm(net) == 1
    assert isinstance(net.segments[0].bn4, nn.Identity)
    torch.testing.assert_close(net(video), expected)


class Slipping(Tangled):
    """Answers by another path than the one that is watched, once its batch norm is gone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        return y if isinstance(self.bn1, nn.BatchNorm2d) else 2 * y


@torch.no_grad()
def test_what_answers_otherwise_is_put_back():
    body = TangledBackbone()
    body.segments = nn.ModuleList([Slipping()])
    net = trained(ExitNet(body, num_classes=5, num_frames=2, shift="none"))
    segment = net.segments[0]
    assert fold_batch_norm(net) == 0
    assert net.segments[0] is segment


def test_none_changes_nothing():
    net = trained(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    fast, recipe = prepare(net, "none", device="cpu")
    assert recipe.precision == "float32"
    assert fast.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(x, net.state_dict()[name]) for name, x in fast.state_dict().items())


@torch.no_grad()
def test_bfloat16_where_the_processor_has_it(monkeypatch):
    net = trained(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    for have in ({}, {"avx512_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda have=have: have)
        assert has_bf16(torch.device("cpu")) == bool(have)
        fast, recipe = prepare(net, device="cpu")
        assert recipe.precision == ("bfloat16" if have else "float32")
        assert next(fast.parameters()).dtype == (torch.bfloat16 if have else torch.float32)
    assert str(recipe) == "cpu (AVX-512 bf16), bfloat16, 17 batch norms folded, channels-last"
    video = torch.randint(0, 256, (2, 4, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(fast(video).float(), net(video), rtol=0.05, atol=0.05)
    torch.testing.assert_close(walked(fast, video), fast(video), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_images_are_normalised_in_float32_at_least(precision):
    net = ExitNet("test_resnet", num_classes=5, num_frames=2)
    video = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    expected = net.to_frames(video)
    frames = net.to(precision).to_frames(video)
    assert frames.dtype == net.dtype == precision
    torch.testing.assert_close(frames, expected.to(precision), rtol=1e-6, atol=1e-6)
    assert torch.equal(net.float().to_frames(video), expected)


def test_disagreement_is_counted():
    class Fixed:
        device = torch.device("cpu")

        def __init__(self, labels, exits):
            self.answers = iter(zip(labels, exits, strict=True))

        def predict(self, video, policy):
            label, left = next(self.answers)
            return type("P", (), {"label": torch.tensor(label), "exit": torch.tensor(left)})

    reference, net = Fixed([[1, 2], [3]], [[0, 0], [1]]), Fixed([[1, 4], [3]], [[1, 0], [2]])
    found = disagreement(reference, net, ThresholdPolicy(3), [torch.zeros(2), torch.zeros(1)])
    assert found == Disagreement(3, labels=1, exits=2)
    assert str(found) == "of 3 videos 1 has another label and 2 leave by another exit than in float32"


def test_mistakes_are_named():
    net = ExitNet("test_resnet", num_classes=5, num_frames=2)
    with pytest.raises(ModeError, match=r"net\.eval"):
        prepare(net)
    with pytest.raises(InputError, match="none, default, compile"):
        prepare(net.eval(), "fast")
    with pytest.raises(InputError, match="auto, float32, bfloat16"):
        prepare(net, precision="fp16")


def test_layers_that_are_called_by_keywords_are_no_obstacle():
    net = ExitNet("eva02_tiny_patch14_224", num_classes=3, num_frames=1, shift="none").eval()
    fast, _ = prepare(net, precision="float32", device="cpu")
    video = torch.zeros(1, 1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(fast(video), net(video), atol=1e-4, rtol=1e-4)
