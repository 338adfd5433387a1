import pytest
import timm
import torch

from dynvid.nets.stages import TimmBackbone

FAMILIES = ["resnet18", "regnetx_002", "mobilenetv2_035", "mobilenetv3_small_050", "efficientnet_b0", "test_convnext"]


@pytest.mark.parametrize("name", FAMILIES)
def test_segments_give_exactly_timms_features(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0).eval()
    pyramid = timm.create_model(name, features_only=True).eval()
    pyramid.load_state_dict(dict(zip(pyramid.state_dict(), whole.state_dict().values(), strict=False)))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = backbone.features(image)
        assert torch.equal(ours[-1], whole.forward_features(image))
        # The pyramid's last level comes before the 1x1 convolution that EfficientNets end with.
        theirs = pyramid(image)[-len(ours) : -1]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False))
    assert [x.shape[1] for x in ours] == backbone.channels


def test_weights_from_a_file(tmp_path):
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone("test_resnet", pretrained=str(tmp_path / "weights.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.features(image)[-1], model.eval().forward_features(image))


def test_a_net_that_is_no_chain_says_so():
    with pytest.raises(ValueError, match=r"hrnet_w18_small .* cut exactly"):
        TimmBackbone("hrnet_w18_small")


def test_missing_weights_name_the_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        TimmBackbone("test_resnet", pretrained="nowhere.pth")
