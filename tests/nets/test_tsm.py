"""Checkpoints are synthetic: the names and shapes of torchvision's ResNet, wrapped as the authors' code wraps it."""

import pytest
import torch
import torchvision

from dynvid import ExitNet, UnifiedExitNet
from dynvid.nets.shift import Frames, running
from dynvid.nets.tsm import from_tsm_keys, load_tsm_checkpoint

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def state_of(name, classes=7, shift=True):
    """Random weights under the authors' names; from 23 blocks in layer3 on, every second block is shifted."""
    step = 2 if BLOCKS[name][2] >= 23 else 1
    shifted = {f"layer{i}.{k}.conv1" for i, n in enumerate(BLOCKS[name], 1) for k in range(0, n, step)} if shift else ()
    state = {}
    for key, value in getattr(torchvision.models, name)(num_classes=1).state_dict().items():
        layer, _, parameter = key.rpartition(".")
        if layer != "fc":
            wrapped = f"{layer}.net" if layer in shifted else layer
            # Weights are random from the start; norms are not, and two equal ones could change places unseen.
            state[f"module.base_model.{wrapped}.{parameter}"] = (
                value + 0.1 * torch.randn(len(value)) if value.dim() == 1 else value
            )
    return state | {"module.new_fc.weight": torch.randn(classes, 2048), "module.new_fc.bias": torch.randn(classes)}


@pytest.fixture(scope="module")
def checkpoint():
    return state_of("resnet50")


def make(cls=ExitNet, name="resnet50", **arguments):
    return cls(name, num_frames=4, **{"num_classes": 7, "shift": "bidirectional"} | arguments).eval()


def test_names():
    names = {
        "module.base_model.conv1.weight": "segments.0.conv1.weight",
        "module.base_model.bn1.running_var": "segments.0.bn1.running_var",
        "module.base_model.layer1.0.conv1.net.weight": "segments.0.layer1.0.conv1.1.weight",
        "module.base_model.layer3.1.conv1.weight": "segments.2.layer3.1.conv1.weight",
        "module.base_model.layer4.0.downsample.1.bias": "segments.3.layer4.0.downsample.1.bias",
        "module.new_fc.weight": "heads.4.1.weight",
        "base_model.fc.bias": "heads.4.1.bias",
    }
    assert from_tsm_keys(dict.fromkeys(names, 0)) == dict.fromkeys(names.values(), 0)


@pytest.mark.parametrize("shift", ["bidirectional", "online"])
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.slow
def test_every_weight_finds_its_place(name, shift):
    state, net = state_of(name), make(name=name, shift=shift)
    assert load_tsm_checkpoint(net, state) == ()
    assert sorted(from_tsm_keys(state)) == sorted(key for key in net.state_dict() if key not in ("mean", "std"))
    for key, value in from_tsm_keys(state).items():
        assert torch.equal(net.state_dict()[key], value)


def test_a_net_with_a_tsn_gives_the_logits_of_the_resnet():
    state, net = state_of("resnet50", shift=False), make(shift="none")
    assert load_tsm_checkpoint(net, {"epoch": 50, "state_dict": state}) == ()
    whole = torchvision.models.resnet50(num_classes=7).eval()
    whole.load_state_dict(
        {key.removeprefix("module.base_model.").replace("module.new_fc", "fc"): value for key, value in state.items()}
    )
    video = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        expected = whole(video.flatten(0, 1)).view(2, 4, 7).mean(1)
        torch.testing.assert_close(net(video)[0] / expected.std(), expected / expected.std(), atol=1e-4, rtol=0.0)
    assert expected.std(0).min() > 1e-3 * expected.std()


def test_shifted_convolutions_are_loaded_behind_the_shift(checkpoint):
    net = make()
    load_tsm_checkpoint(net, checkpoint)
    x = torch.randn(4, 64, 8, 8)
    expected = torch.zeros_like(x)
    expected[:-1, :8], expected[1:, 8:16], expected[:, 16:] = x[1:, :8], x[:-1, 8:16], x[:, 16:]
    weight = checkpoint["module.base_model.layer1.0.conv1.net.weight"]
    with running(Frames((True, False, False, False))), torch.no_grad():
        found = net.segments[0].layer1.get_submodule("0").conv1(x)
    torch.testing.assert_close(found, torch.nn.functional.conv2d(expected, weight))


def test_shallow_heads_and_other_classes_stay(checkpoint, tmp_path):
    path = tmp_path / "ckpt.best.pth.tar"
    torch.save({"epoch": 50, "state_dict": checkpoint, "best_prec1": 74.1}, path)
    for classes in (7, 5):
        net = make(UnifiedExitNet, num_classes=classes, shift="online")
        before = {key: value.clone() for key, value in net.heads.state_dict().items()}
        left_out = load_tsm_checkpoint(net, path)
        stay = [f"heads.{key}" for key in before if classes == 5 or not key.startswith("4.")]
        assert list(left_out) == stay
        for key, value in net.heads.state_dict().items():
            assert torch.equal(value, before[key]) == (f"heads.{key}" in stay)


def test_heads_of_their_own_all_get_the_classifier(checkpoint):
    net = make(route=[(1, 4), (2, 4), (4, 4)], heads="exit", shift="online")
    assert load_tsm_checkpoint(net, checkpoint) == ()
    for head in net.heads.values():
        assert torch.equal(head[1].weight, checkpoint["module.new_fc.weight"])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda s: s | {"module.base_model.layer1.0.nl.g.weight": torch.zeros(1)}, {}, r"1 unknown: .*nl\.g\.weight$"),
        (
            lambda s: {k: v for k, v in s.items() if k != "module.new_fc.bias"},
            {},
            r"not of this ResNet with this shift: 1 missing: heads\.4\.1\.bias$",
        ),
        (
            lambda s: s | {"module.base_model.bn1.bias": torch.zeros(3)},
            {},
            r"1 of another shape: segments\.0\.bn1\.bias$",
        ),
        (lambda s: s, {"shift": "none"}, "16 missing: .*16 unknown: "),
        (lambda s: s, {"name": "resnet101"}, "missing: .*unknown: "),
    ],
)
def test_checkpoint_that_does_not_fit(checkpoint, change, arguments, message):
    net = make(**arguments)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_tsm_checkpoint(net, change(checkpoint))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
