import pytest
import timm
import torch
from torch import nn

from dynvid import ExitNet
from dynvid.nets.spec import net_from_state
from dynvid.nets.stages import StagePool, TimmBackbone

CHAINS = ["resnet18", "regnetx_002", "mobilenetv2_035", "mobilenetv3_small_050", "efficientnet_b0", "test_convnext"]


@pytest.mark.parametrize("name", CHAINS)
def test_segments_give_the_levels_of_timms_own_pyramid(name):
    """The pyramid is cut by other code, so it is an independent word on where the stages end."""
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
    assert [x.shape[1] for x in ours[:-1]] == backbone.channels[:-1]


def test_names_of_the_weights_are_timms():
    backbone, whole = TimmBackbone("resnet50"), timm.create_model("resnet50", num_classes=0)
    names = [name.split(".", 2)[2] for name in backbone.state_dict()]
    assert names == list(whole.state_dict())


def test_equal_blocks_are_cut_into_quarters():
    backbone = TimmBackbone("test_vit3", img_size=32, depth=6)
    blocks = [sum(type(m).__name__ == "Block" for m in segment.modules()) for segment in backbone.segments]
    assert blocks == [2, 1, 2, 1]
    assert backbone.exit_depths == (2, 3, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "by_hand"),
    [
        ("test_resnet", {}, lambda x: x.mean((2, 3))),
        ("test_mambaout", {}, lambda x: x.mean((1, 2))),  # (n, H, W, C)
        ("deit_tiny_patch16_224", {"img_size": 32, "depth": 4}, lambda x: x[:, 1:].mean(1)),  # class token in front
        ("cait_xxs24_224", {"img_size": 32, "depth": 4}, lambda x: x.mean(1)),  # class token comes at the end only
        ("pit_ti_224", {"img_size": 64}, lambda x: x[0].mean((2, 3))),  # image and class token are a list
    ],
)
def test_embeddings_are_the_mean_over_the_image(name, arguments, by_hand):
    backbone = TimmBackbone(name, **arguments).eval()
    image = torch.randn(3, 3, 64, 64) if arguments.get("img_size") != 32 else torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for depth, x in enumerate(backbone.features(image)[:-1], 1):
            embedded = backbone.embedding(depth)(x)
            assert embedded.shape == (3, backbone.channels[depth - 1])
            torch.testing.assert_close(embedded, by_hand(x))


def test_channels_last_is_told_from_a_square_image():
    """At 64 pixels the first stage of test_mambaout is 16 x 16 x 16."""
    pools = [TimmBackbone("test_mambaout").embedding(depth) for depth in (1, 2, 3)]
    assert all(isinstance(pool, StagePool) and pool.tokens for pool in pools)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_convnext", "vit_base_patch16_siglip_224"])
def test_the_last_embedding_is_what_timms_classifier_reads(name):
    """Convolutions, norms and attention pooling behind the features included."""
    arguments = {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3} if "siglip" in name else {}
    torch.manual_seed(0)
    backbone = TimmBackbone(name, **arguments).eval()
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, **arguments).eval()
    image = torch.randn(2, 3, arguments.get("img_size", 64), arguments.get("img_size", 64))
    with torch.no_grad():
        embedded = backbone.embedding(4).eval()(backbone.features(image)[-1])
        assert torch.equal(embedded, whole(image))
    assert embedded.shape[1] == backbone.channels[-1]


def test_every_parameter_is_kept_for_training():
    """Position embeddings and class tokens are computed with in the segments, not written into them as constants."""
    net = ExitNet("deit_tiny_patch16_224", 5, 1, shift="none", backbone_args={"img_size": 32, "depth": 4})
    net(torch.randn(2, 1, 3, 32, 32)).square().sum().backward()
    names = {name.split(".", 2)[2] for name, p in net.named_parameters() if p.grad is not None}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight"} <= names
    assert all(p.grad is not None for p in net.parameters())


def test_a_net_on_the_meta_device_is_cut_alike():
    with torch.device("meta"):
        meta = TimmBackbone("deit_tiny_patch16_224", img_size=32, depth=4)
    real = TimmBackbone("deit_tiny_patch16_224", img_size=32, depth=4)
    assert [segment.code for segment in meta.segments] == [segment.code for segment in real.segments]
    assert meta.channels == real.channels


def test_an_inexact_cut_does_not_slip_through(monkeypatch):
    plain = timm.create_model

    def with_a_trap(*args, **kwargs):
        model = plain(*args, **kwargs)
        forward, calls = model.forward_features, []

        def changed(x):
            calls.append(x)
            return forward(x) + len(calls)  # what was recorded is not what runs

        model.forward_features = changed
        return model

    monkeypatch.setattr(timm, "create_model", with_a_trap)
    with pytest.raises(ValueError, match="its stages do not give its features"):
        TimmBackbone("test_resnet")


def test_what_is_not_one_tensor_per_frame_does_not_slip_through():
    """TNT's pixel embeddings have one row per patch: they could not be taken apart by video."""
    with pytest.raises(ValueError, match="not one tensor per frame"):
        TimmBackbone("tnt_s_patch16_224")


def test_weights_from_a_file(tmp_path):
    model = timm.create_model("test_resnet")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone("test_resnet", pretrained=str(tmp_path / "weights.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.features(image)[-1], model.eval().forward_features(image))


def test_segments_train_and_eval_like_modules():
    backbone = TimmBackbone("test_resnet")
    assert all(m.training for m in backbone.modules())
    assert not any(m.training for m in backbone.eval().modules() if isinstance(m, nn.BatchNorm2d))


def test_a_net_that_is_no_chain_says_so():
    with pytest.raises(ValueError, match=r"hrnet_w18_small cannot be cut exactly .*04_custom_backbone\.py"):
        TimmBackbone("hrnet_w18_small")


def test_an_image_size_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="no images of 80 pixels"):
        TimmBackbone("test_coatnet", img_size=80)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "swin_tiny_patch4_window7_224"])
@pytest.mark.slow
def test_a_net_of_a_checkpoint_is_the_net_that_was_saved(scramble, backbone):
    size = 224 if backbone.startswith("swin") else 64  # Swin keeps a table that is not saved
    net = scramble(ExitNet(backbone, num_classes=3, num_frames=2, shift="none", input_size=size))
    state = {name: x.clone() for name, x in net.state_dict().items()}
    again = net_from_state(net.spec(), state).eval()
    video = torch.randint(0, 256, (1, 2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again(video), net(video))
    assert all(p.requires_grad for p in again.parameters())
    half = {name: x.half() if x.is_floating_point() else x for name, x in state.items()}
    assert net_from_state(net.spec(), half).mean.dtype == torch.float32
