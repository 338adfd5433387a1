"""The authors' key names, written down independently of the loader."""

import pytest
import timm
import torch

from dynvid import UnifiedExitNet
from dynvid.nets import load_tsm_checkpoint


def authors_state_dict(name, classes, step):
    """What TSM's training saves: DataParallel's prefix, a ResNet's own names, `.net` where a shift wraps conv1."""
    state = {}
    for key, value in timm.create_model(name, num_classes=0).state_dict().items():
        value = torch.randn_like(value) if value.is_floating_point() else value + 7
        parts = key.split(".")
        if parts[0].startswith("layer") and parts[2] == "conv1" and int(parts[1]) % step == 0:
            key = ".".join([*parts[:3], "net", *parts[3:]])
        state[f"module.base_model.{key}"] = value
    return state | {"module.new_fc.weight": torch.randn(classes, 2048), "module.new_fc.bias": torch.randn(classes)}


@pytest.mark.parametrize(("name", "step"), [("resnet50", 1), ("resnet101", 2)])
def test_weights_arrive_where_they_belong(name, step, tmp_path):
    given = authors_state_dict(name, 7, step)
    torch.save({"epoch": 50, "state_dict": given}, tmp_path / "tsm.pth")
    net = UnifiedExitNet(name, num_classes=7, num_frames=8)
    left_out = load_tsm_checkpoint(net, tmp_path / "tsm.pth")
    own = net.state_dict()
    assert all(key.startswith("heads.") and not key.startswith("heads.4.") for key in left_out)
    assert torch.equal(own["heads.4.1.weight"], given["module.new_fc.weight"])
    wrapped = "module.base_model.layer3.2.conv1.net.weight"
    assert torch.equal(own["segments.2.layer3.2.conv1.1.weight"], given[wrapped])
    plain = "layer3.1.conv1.net.weight" if step == 1 else "layer3.1.conv1.weight"
    mine = "layer3.1.conv1.1.weight" if step == 1 else "layer3.1.conv1.weight"
    assert torch.equal(own[f"segments.2.{mine}"], given[f"module.base_model.{plain}"])
    ours = sum(v.double().sum().item() for k, v in own.items() if k.startswith("segments."))
    theirs = sum(v.double().sum().item() for k, v in given.items() if "base_model" in k)
    assert ours == pytest.approx(theirs)


def test_other_classes_leave_the_classifier_out():
    net = UnifiedExitNet("resnet50", num_classes=5, num_frames=8)
    before = net.state_dict()["heads.4.1.weight"].clone()
    assert "heads.4.1.weight" in load_tsm_checkpoint(net, authors_state_dict("resnet50", 7, 1))
    assert torch.equal(net.state_dict()["heads.4.1.weight"], before)


def test_what_is_missing_is_named_and_nothing_changes():
    net = UnifiedExitNet("resnet50", num_classes=7, num_frames=8)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    given = authors_state_dict("resnet50", 7, 1)
    del given["module.base_model.layer2.0.conv2.weight"]
    with pytest.raises(ValueError, match=r"1 missing: segments\.1\.layer2\.0\.conv2\.weight"):
        load_tsm_checkpoint(net, given)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
