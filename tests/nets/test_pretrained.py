"""Weights from a file, whoever wrote it; a file that does not fit is named and nothing is left half loaded."""

import argparse
import re

import pytest
import timm
import torch

from dynvid import DepthExitNet, ExitNet, UnifiedExitNet

ARGUMENTS = {"num_classes": 5, "num_frames": 4, "input_size": 32}


def lightning(net):
    """As Lightning's trainer writes it."""
    return {"state_dict": {f"net.{key}": value for key, value in net.state_dict().items()} | {"policy.thresholds": 0},
            "dynvid": {"net": net.spec()}}  # fmt: skip


def test_a_dynvid_checkpoint_goes_on_with_other_classes_and_another_route(tmp_path):
    path = tmp_path / "k400.ckpt"
    old = UnifiedExitNet("test_resnet", **ARGUMENTS)
    torch.save(lightning(old), path)
    for classes in (5, 7):
        new = DepthExitNet("test_resnet", **ARGUMENTS | {"num_classes": classes}, pretrained=str(path))
        state, before = new.state_dict(), old.state_dict()
        same = {key for key in state if state[key].shape == before[key].shape and torch.equal(state[key], before[key])}
        classifiers = {key for key in state if key[:6] == "heads." and state[key].shape[:1] == (classes,)}
        assert same >= state.keys() - classifiers
        assert (classes == 5) == (same >= classifiers)


def test_a_dynvid_checkpoint_of_another_net_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save(lightning(UnifiedExitNet("test_resnet", shift="none", **ARGUMENTS)), path)
    with pytest.raises(ValueError, match=r"other\.ckpt: the checkpoint is not of a net with this backbone and shift"):
        UnifiedExitNet("test_resnet", pretrained=str(path), **ARGUMENTS)


def test_a_public_tsm_checkpoint(tmp_path):
    whole = timm.create_model("resnet50", num_classes=5)
    state = {f"module.base_model.{key}": value for key, value in whole.state_dict().items() if key[:3] != "fc."}
    state = {key.replace(".conv1.", ".conv1.net.") if ".layer" in key else key: v for key, v in state.items()}
    state |= {f"module.new_fc.{key}": value for key, value in whole.fc.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "tsm.pth")
    net = ExitNet("resnet50", shift="bidirectional", pretrained=str(tmp_path / "tsm.pth"), **ARGUMENTS)
    assert torch.equal(net.segments[0].conv1.weight, whole.conv1.weight)
    assert torch.equal(net.heads["4"][1].weight, whole.fc.weight)


def authors_name(key):
    """Of one of our weights of an MSDNet, in the authors' code."""
    key = re.sub(r"^segments\.0\.0\.scales\.0\.", "blocks.0.0.layers.0.", key)
    key = re.sub(r"^segments\.0\.0\.scales\.(\d)\.", r"blocks.0.0.layers.\1.net.", key)
    key = re.sub(r"^segments\.(\d\.\d)\.scales\.(\d)\.(down|normal)\.", r"blocks.\1.layers.\2.conv_\3.net.", key)
    key = re.sub(r"^segments\.(\d\.\d)\.scales\.(\d)\.", r"blocks.\1.m.\2.net.", key)
    key = re.sub(r"^embeddings\.(\d)\.", lambda found: f"classifier.{int(found[1]) - 1}.m.", key)
    key = re.sub(r"(\.m\.\d)\.(\d\.\w+)$", r"\1.net.\2", key) if "classifier" in key else key
    return "module." + re.sub(r"^heads\.(\d)\.1\.", lambda found: f"classifier.{int(found[1]) - 1}.linear.", key)


def test_the_authors_msdnet(tmp_path):
    small = {"num_blocks": 2, "base": 2, "step": 1, "channels": 8, "growth_rate": 4}
    arguments = {"backbone_args": small, "shift": "none", **ARGUMENTS}
    trained = DepthExitNet("msdnet38", **arguments).state_dict()
    state = {authors_name(key): value for key, value in trained.items() if key not in ("mean", "std")}
    assert "module.blocks.0.1.layers.1.conv_down.net.0.weight" in state
    torch.save({"epoch": 89, "state_dict": state}, tmp_path / "msdnet.pth")
    net = DepthExitNet("msdnet38", pretrained=str(tmp_path / "msdnet.pth"), **arguments)
    for key, value in net.state_dict().items():
        assert torch.equal(value, trained[key]), key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"something.else": torch.zeros(3, 3)}, "holds no weights of test_resnet"),
        ({"state_dict": {}, "args": argparse.Namespace(lr=1)}, "holds more than plain data"),
        ([1, 2], "holds no weights by name"),
        ({"state_dict": 3}, "holds no weights by name"),
        ({5: torch.zeros(3)}, "holds no weights by name"),
        ({"dynvid": {}, "state_dict": [1]}, "holds no weights by name"),
        ({"conv1.0.weight": torch.zeros(3, 3)}, r"no weights of test_resnet \(RuntimeError: .*size mismatch"),
        ({"base_model.conv1.weight": "text"}, r"1 unknown: base_model\.conv1\.weight"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"weights\.pth: .*{message}"):
        UnifiedExitNet("test_resnet", pretrained=str(path), **ARGUMENTS)


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"weights\.pth: is no file of weights, is truncated"):
        ExitNet("test_resnet", pretrained=str(path), **ARGUMENTS)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file"):
        ExitNet("test_resnet", pretrained="nowhere.pth", **ARGUMENTS)


def broken(value):
    """A checkpoint of dynvid with one weight replaced, and the names of a public backbone likewise."""
    state = lightning(UnifiedExitNet("test_resnet", **ARGUMENTS))
    weight = state["state_dict"]["net.segments.0.conv1.0.weight"]
    state["state_dict"]["net.segments.0.conv1.0.weight"] = value(weight)
    return state


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda w: w / 0, "holds values that are not finite"),
        (lambda w: w.int(), "1 of another type"),
        (lambda w: w[:1, :1, :1, :1].clone().expand(w.shape), "repeats fewer values"),
        (lambda w: "text", "is of type str, not a tensor"),
    ],
)
def test_weights_of_another_kind_are_named(tmp_path, value, message):
    path = tmp_path / "weights.ckpt"
    torch.save(broken(value), path)
    with pytest.raises(ValueError, match=rf"weights\.ckpt: .*{message}") as caught:
        UnifiedExitNet("test_resnet", pretrained=str(path), **ARGUMENTS)
    assert len(str(caught.value).splitlines()) == 1


def test_backbone_weights_that_are_not_finite(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    state["layer1.0.conv1.weight"][0] = torch.nan
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: holds weights that are not finite"):
        ExitNet("test_resnet", pretrained=str(tmp_path / "weights.pth"), **ARGUMENTS)


def test_what_is_no_safetensors_file_is_named(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"weights\.safetensors: no weights of test_resnet"):
        ExitNet("test_resnet", pretrained=str(tmp_path / "weights.safetensors"), **ARGUMENTS)
