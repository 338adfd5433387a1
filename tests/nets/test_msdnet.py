import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from dynvid.nets import DepthExitNet, ExitNet, UnifiedExitNet
from dynvid.nets import shift as shift_module
from dynvid.nets.msdnet import MSDNet, from_original_keys, load_msdnet_checkpoint, msdnet38

SMALL = {"num_blocks": 3, "base": 3, "step": 2, "channels": 8, "growth_rate": 4}
CIFAR = {
    "num_blocks": 3,
    "base": 1,
    "step": 1,
    "step_mode": "lin_grow",
    "channels": 8,
    "growth_rate": 6,
    "growth_factors": (1, 2, 4),
    "bottleneck_factors": (1, 2, 4),
    "stem": "cifar",
}


def make(cls=DepthExitNet, config=SMALL, **kwargs):
    kwargs = {"num_classes": 5, "num_frames": 1, "shift": "none"} | kwargs
    return cls("msdnet38", backbone_args=dict(config), **kwargs).eval()


def randomise(net, seed=0):
    """Batch norm with statistics of its own, so that nothing cancels."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


class Original:
    """The equations of the ICLR paper, written as functions.

    It draws its weights on the way, under the names they have in the authors' code. Scales are
    numbered from 0, the finest, and keep their number when finer ones are dropped.
    """

    def __init__(
        self,
        num_blocks=5,
        base=7,
        step=7,
        step_mode="even",
        channels=32,
        growth_rate=16,
        growth_factors=(1, 2, 4, 4),
        bottleneck_factors=(1, 2, 4, 4),
        prune="max",
        reduction=0.5,
        bottleneck=True,
        stem="imagenet",
    ):
        self.lengths = [base] + [step if step_mode == "even" else step * i + 1 for i in range(1, num_blocks)]
        self.channels, self.growth_rate = channels, growth_rate
        self.growth, self.width = growth_factors, bottleneck_factors
        self.prune, self.reduction, self.bottleneck, self.stem = prune, reduction, bottleneck, stem
        self.weights = {}
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, name, *shape, low=None, high=None, std=0.1):
        if low is None:
            value = torch.randn(*shape, generator=self.generator) * std
        else:
            value = torch.rand(*shape, generator=self.generator) * (high - low) + low
        return self.weights.setdefault(f"module.{name}", value)

    def conv(self, name, first, x, out, kernel, stride=1, bias=False):
        """Convolution `name.first`, batch norm `name.(first + 1)`, ReLU."""
        std = math.sqrt(2 / (x.shape[1] * kernel**2))
        weight = self.tensor(f"{name}.{first}.weight", out, x.shape[1], kernel, kernel, std=std)
        bias = self.tensor(f"{name}.{first}.bias", out) if bias else None
        x = F.conv2d(x, weight, bias, stride, kernel // 2)
        norm = f"{name}.{first + 1}"
        gamma, beta = self.tensor(f"{norm}.weight", out, low=0.5, high=1.5), self.tensor(f"{norm}.bias", out)
        mean = self.tensor(f"{norm}.running_mean", out)
        var = self.tensor(f"{norm}.running_var", out, low=0.5, high=1.5)
        self.weights[f"module.{norm}.num_batches_tracked"] = torch.tensor(7)
        return F.relu(F.batch_norm(x, mean, var, gamma, beta))

    def branch(self, name, x, out, stride, width):
        if not self.bottleneck:
            return self.conv(f"{name}.net", 0, x, out, 3, stride)
        x = self.conv(f"{name}.net", 0, x, min(x.shape[1], width * out), 1)
        return self.conv(f"{name}.net", 3, x, out, 3, stride)

    def first_layer(self, image):
        name, x = "blocks.0.0.layers", {}
        for s, factor in enumerate(self.growth):
            if s > 0:
                x[s] = self.conv(f"{name}.{s}.net", 0, x[s - 1], self.channels * factor, 3, 2)
            elif self.stem == "cifar":
                x[s] = self.conv(f"{name}.0.net", 0, image, self.channels * factor, 3)
            else:
                x[s] = self.conv(f"{name}.0", 0, image, self.channels * factor, 7, 2, bias=True)
                x[s] = F.max_pool2d(x[s], 3, 2, 1)
        return x

    def layer(self, name, x, offset):
        y = {}
        for i, s in enumerate(range(offset, len(self.growth))):
            new = self.growth_rate * self.growth[s]
            branch = f"{name}.layers.{i}.conv"
            if s - 1 in x:
                down = self.branch(f"{branch}_down", x[s - 1], new // 2, 2, self.width[s - 1])
                same = self.branch(f"{branch}_normal", x[s], new // 2, 1, self.width[s])
                y[s] = torch.cat([x[s], down, same], dim=1)
            else:
                y[s] = torch.cat([x[s], self.branch(f"{branch}_normal", x[s], new, 1, self.width[s])], dim=1)
        return y

    def __call__(self, image, num_classes):
        layers, scales, n, logits = sum(self.lengths), len(self.growth), 0, []
        offset, x = 0, self.first_layer(image)
        for b, length in enumerate(self.lengths):
            position = 1 if b == 0 else 0
            for n in range(n + 1, n + length + 1):  # noqa: B020
                before = offset
                if self.prune == "max":
                    offset = math.floor((n - 1) / math.ceil(layers / scales))
                    shrink = offset > before
                else:
                    offset = scales - min(scales, layers - n + 1)
                    shrink = n in (math.floor(layers / 3), math.floor(2 * layers / 3))
                x = self.layer(f"blocks.{b}.{position}", x, offset)
                position += 1
                if shrink and self.reduction > 0:
                    for i, s in enumerate(sorted(x)):
                        base = x[s].shape[1] // self.growth[s]
                        out = math.floor(base * self.reduction) * self.growth[s]
                        x[s] = self.conv(f"blocks.{b}.{position}.m.{i}.net", 0, x[s], out, 1)
                    position += 1
            y = x[scales - 1]
            hidden = 128 if self.stem == "cifar" else y.shape[1]
            for i in range(2):
                y = self.conv(f"classifier.{b}.m.{i}.net", 0, y, hidden, 3, 2)
            y = F.avg_pool2d(y, 2).flatten(1)
            weight = self.tensor(f"classifier.{b}.linear.weight", num_classes, hidden)
            logits.append(F.linear(y, weight, self.tensor(f"classifier.{b}.linear.bias", num_classes)))
        return torch.stack(logits)


def test_parameters_of_msdnet38():
    with torch.device("meta"):
        body = msdnet38()
        for num_classes, expected in ((1000, 62_314_472), (400, 60_314_672)):
            exits = [m for d in body.exit_depths for m in (body.embedding(d), body.head(d, num_classes, 0.0))]
            assert sum(p.numel() for m in [body, *exits] for p in m.parameters()) == expected
    assert body.channels == [576, 640, 608, 528, 976]
    assert body.exit_depths == (1, 2, 3, 4, 5)


@pytest.mark.slow
def test_macs_of_msdnet38():
    with torch.device("meta"):
        net = make(config={}, num_classes=400, num_frames=16, shift="online")
    assert net.gmacs == pytest.approx([9.79, 22.88, 36.40, 47.34, 51.91], rel=1e-3)
    # Figures for images count the linear layer for each frame, not once for their mean.
    linear = itertools.accumulate(400 * channels * 15 / 16 / 1e6 for channels in (576, 640, 608, 528, 976))
    per_frame = [gmacs / 16 * 1000 + more for gmacs, more in zip(net.gmacs, linear, strict=True)]
    assert per_frame == pytest.approx([611.7, 1430.1, 2275.3, 2958.5, 3244.2], abs=0.05)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({}, 160),
        (SMALL, 224),
        (SMALL | {"prune": "min"}, 160),
        (SMALL | {"reduction": 0.0, "growth_factors": (1, 2, 4), "bottleneck_factors": (1, 1, 2)}, 80),
        (SMALL | {"bottleneck": False, "reduction": 0.3}, 160),
        (CIFAR, 32),
        (CIFAR | {"prune": "min", "step": 2}, 32),
    ],
    ids=["msdnet38", "small", "min", "no transition", "no bottleneck", "cifar", "cifar min"],
)
def test_equals_the_equations(config, size):
    original = Original(**config)
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original(image, num_classes=5)
        net = make(config=config)
        assert load_msdnet_checkpoint(net, original.weights) == ()
        found = net(image[:, None])
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("shift", ["online", "none"])
@pytest.mark.parametrize(("config", "size"), [(SMALL, 64), (CIFAR, 32)], ids=["small", "cifar"])
@pytest.mark.parametrize("route", [None, [(1, 3), (2, 3), (8, 3)], [(2, 1), (4, 2), (8, 2), (8, 3)]])
def test_progressive_equals_full(config, size, shift, route):
    net = randomise(make(UnifiedExitNet, config, num_frames=8, route=route, shift=shift))
    video = torch.randn(3, 8, 3, size, size)
    with torch.no_grad():
        full, stream = net(video), net.stream(video)
        for logits in full:
            torch.testing.assert_close(stream.advance(), logits[stream.videos], rtol=1e-4, atol=1e-5)
            stream.keep(torch.arange(len(stream.videos)) != 0 if len(stream.videos) > 1 else torch.tensor([True]))


def test_shift_goes_into_what_layers_read_and_not_into_what_they_keep():
    config = SMALL | {"base": 2, "step": 4}  # nothing is dropped in the first block
    net, plain = (make(config=config, num_frames=4, shift=shift) for shift in ("online", "none"))
    plain.load_state_dict(net.state_dict())  # the shift changes no parameter's name
    randomise(net), randomise(plain)
    shifts = [m for m in net.modules() if isinstance(m, shift_module.OnlineTemporalShift)]
    reads = [m for m in plain.modules() if type(m).__name__ == "DenseInput"]
    assert len(shifts) == len(reads)
    video = torch.randn(1, 4, 3, 64, 64)
    frames = shift_module.Frames(net.fresh)
    with torch.no_grad():
        shifted, still = (n.run_segment(1, n.to_frames(video), frames) for n in (net, plain))
    for with_shift, without, channels in zip(shifted, still, (8, 16, 32, 32), strict=True):
        torch.testing.assert_close(with_shift[:, :channels], without[:, :channels])
        assert not torch.allclose(with_shift[1:, channels:], without[1:, channels:])


def test_gradients_reach_every_parameter():
    net = make(num_frames=2, shift="online", config=SMALL | {"step": 4}).train()
    net(torch.randn(2, 2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_original_names():
    names = {
        "blocks.0.0.layers.0.0.bias": "segments.0.0.scales.0.0.bias",
        "blocks.0.0.layers.2.net.1.running_var": "segments.0.0.scales.2.1.running_var",
        "blocks.0.3.layers.0.conv_normal.net.3.weight": "segments.0.3.scales.0.normal.3.weight",
        "blocks.4.1.layers.1.conv_down.net.0.weight": "segments.4.1.scales.1.down.0.weight",
        "blocks.1.4.m.2.net.0.weight": "segments.1.4.scales.2.0.weight",
        "classifier.0.m.1.net.1.num_batches_tracked": "embeddings.1.1.1.num_batches_tracked",
        "classifier.4.linear.weight": "heads.5.1.weight",
    }
    assert list(from_original_keys(dict.fromkeys(names, torch.zeros(1)))) == list(names.values())
    with_module = {f"module.{name}": torch.zeros(1) for name in names}
    assert list(from_original_keys(with_module)) == list(names.values())


@pytest.fixture(scope="module")
def checkpoint():
    original = Original(**SMALL)
    original(torch.zeros(1, 3, 160, 160), num_classes=7)
    return original.weights


@pytest.mark.parametrize("shift", ["online", "none"])
def test_checkpoint_file_for_other_classes(checkpoint, tmp_path, shift):
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 89, "arch": "msdnet", "state_dict": checkpoint, "best_prec1": 75.0}, path)
    net = make(shift=shift)
    before = {name: value.clone() for name, value in net.heads.state_dict().items()}
    left_out = load_msdnet_checkpoint(net, path)
    assert left_out == tuple(f"heads.{d}.1.{p}" for d in (1, 2, 3) for p in ("weight", "bias"))
    assert all(torch.equal(value, before[name]) for name, value in net.heads.state_dict().items())
    first = net.segments[0][1].scales[0]["normal"][0].weight
    assert torch.equal(first, checkpoint["module.blocks.0.1.layers.0.conv_normal.net.0.weight"])


def test_checkpoint_for_some_exits_and_heads_of_their_own(checkpoint):
    route = [(1, 2), (2, 3), (4, 3)]
    net = make(ExitNet, num_classes=7, num_frames=4, route=route, heads="exit")
    assert load_msdnet_checkpoint(net, checkpoint) == ()
    for position, (_, depth) in enumerate(route):
        weight = net.heads[str(position)][1].weight
        assert torch.equal(weight, checkpoint[f"module.classifier.{depth - 1}.linear.weight"])


def test_checkpoint_without_batch_counts(checkpoint):
    old = {name: value for name, value in checkpoint.items() if not name.endswith("num_batches_tracked")}
    assert load_msdnet_checkpoint(make(num_classes=7), old) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"module.blocks.0.0.extra": torch.zeros(1)}, r"1 unknown: module.blocks.0.0.extra$"),
        (lambda w: w | {"module.classifier.3.linear.bias": torch.zeros(7)}, "1 unknown: module.classifier.3"),
        (
            lambda w: {k: v for k, v in w.items() if k != "module.classifier.1.linear.bias"},
            r"1 missing: heads.2.1.bias$",
        ),
        (
            lambda w: w | {"module.blocks.0.0.layers.0.0.bias": torch.zeros(3)},
            r"1 of another shape: segments.0.0.scales.0.0.bias$",
        ),
        (lambda w: {}, r"\d+ missing: .* and \d+ more"),
    ],
)
def test_checkpoint_that_does_not_fit(checkpoint, change, message):
    net = make(num_classes=7)
    before = net.segments[0][1].scales[0]["normal"][0].weight.clone()
    with pytest.raises(ValueError, match=message):
        load_msdnet_checkpoint(net, change(checkpoint))
    assert torch.equal(before, net.segments[0][1].scales[0]["normal"][0].weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prune": "mid"}, "prune is 'mid': use max or min"),
        ({"step_mode": "odd"}, "use even or lin_grow"),
        ({"stem": "mnist"}, "use imagenet or cifar"),
        ({"num_blocks": 0}, "num_blocks=0: give a positive number"),
        ({"growth_rate": -4}, "growth_rate=-4: give a positive number"),
        ({"growth_factors": (1, 2, 4)}, "as many bottleneck_factors as growth_factors, 3"),
    ],
)
def test_unknown_options(config, message):
    with pytest.raises(ValueError, match=message):
        MSDNet(**config)
