"""Every architecture family of timm that is cut exactly: one small model of each, one test body.

The number of families stands in the docs; `test_the_docs_name_the_number_of_families` keeps it right.
"""

import re
from pathlib import Path

import pytest
import timm
import torch

from dynvid import UnifiedExitNet
from dynvid.nets.shift import insert_shift
from dynvid.nets.stages import TimmBackbone

# By family, as timm.list_modules() names it: a small model, the side of its images, what makes the model smaller.
FAMILIES = {
    "beit": ("beit_base_patch16_224", 32, {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3}),
    "byoanet": ("botnet26t_256", 256, {}),
    "byobnet": ("test_byobnet", 64, {}),
    "cait": ("cait_xxs24_224", 32, {"img_size": 32, "depth": 4}),
    "convit": ("convit_tiny", 32, {"img_size": 32, "depth": 4, "local_up_to_layer": 3}),
    "convmixer": ("convmixer_768_32", 64, {}),
    "convnext": ("test_convnext", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "csatv2": ("csatv2", 64, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128), "num_heads": (1, 2, 4, 8)}),
    "deit": ("deit_tiny_patch16_224", 32, {"img_size": 32, "depth": 4}),
    "densenet": ("densenet121", 64, {"block_config": (2, 2, 2, 2)}),
    "dla": ("dla46x_c", 64, {}),
    "dpn": ("dpn48b", 64, {"k_sec": (1, 1, 2, 1)}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", 224, {}),
    "efficientformer_v2": ("efficientformerv2_s0", 224, {}),
    "efficientnet": ("mobilenetv2_035", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 64, {"img_size": 64}),
    "eva": ("eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 4}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 64, {"img_size": 64}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_b", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", 64, {"img_size": 64, "stages": (1, 1, 2, 1), "embed_dim": 16}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128s", 64, {"img_size": 64}),
    "lowformer": ("lowformer_b0", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "maxxvit": ("test_coatnet", 64, {"img_size": 64}),
    "metaformer": ("poolformer_s12", 64, {}),
    "mlp_mixer": ("gmixer_12_224", 32, {"img_size": 32}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {"channel_multiplier": 0.25}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, {"depth": 4}),
    "nasnet": ("nasnetalarge", 64, {}),
    "nest": ("nest_tiny", 64, {"img_size": 64}),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("test_nfnet", 64, {}),
    "pit": ("pit_ti_224", 64, {"img_size": 64}),
    "pnasnet": ("pnasnet5large", 64, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnetx_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m1", 64, {}),
    "res2net": ("res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("test_resnet", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": ("sequencer2d_s", 32, {"img_size": 32, "layers": (1, 1, 1, 1)}),
    "shvit": ("shvit_s1", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "swin_transformer": (
        "swin_tiny_patch4_window7_224",
        64,
        {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1)},
    ),
    "swin_transformer_v2": (
        "swinv2_tiny_window8_256",
        64,
        {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1)},
    ),
    "swin_transformer_v2_cr": (
        "swinv2_cr_tiny_224",
        64,
        {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1)},
    ),
    "tiny_vit": ("tiny_vit_5m_224", 64, {}),
    "tresnet": ("tresnet_m", 64, {"layers": (1, 1, 2, 1)}),
    "vgg": ("vgg11", 64, {"mlp_ratio": 0.01}),
    "visformer": ("visformer_tiny", 64, {"img_size": 64}),
    "vision_transformer": ("test_vit3", 32, {"img_size": 32}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 128, {"img_size": 128, "depth": 4}),
    "vision_transformer_relpos": ("test_vit_relpos", 32, {"img_size": 32}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        32,
        {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3, "global_attn_indexes": (3,)},
    ),
    "vitamin": ("vitamin_small_224", 32, {"img_size": 32, "depth": 4}),
    "volo": ("volo_d1_224", 64, {"img_size": 64}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "xception": ("legacy_xception", 64, {}),
    "xception_aligned": ("xception41p", 64, {}),
}
# Without a residual branch, or with one that is not known to `insert_shift`.
WITHOUT_SHIFT = {
    "densenet",
    "efficientvim",
    "hgnet",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2",
    "nasnet",
    "pnasnet",
    "rdnet",
    "selecsls",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tiny_vit",
    "vgg",
    "vovnet",
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small nets on few pixels: threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def open_branches(net):
    """Layer scales near zero and weights made for 1000 epochs close residual branches and hide mistakes."""
    for parameter in net.parameters():
        if parameter.dim() > 1 and parameter[0].numel() > 1:
            parameter.mul_((2 / parameter[0].numel()) ** 0.5 / parameter.std().clamp(1e-6))
        elif parameter.abs().max() < 1e-3:
            parameter.uniform_(0.1, 0.3)


FEW = ("byobnet", "convnext", "deit", "efficientnet", "regnet", "resnet", "swin_transformer", "vision_transformer")


def walk(net, video, full):
    """Take every exit, leave one video behind at the first, and compare with the parallel pass."""
    stream = net.stream(video)
    for logits in full:
        found = stream.advance()
        scale = logits.std() + logits.abs().max()
        torch.testing.assert_close(found / scale, logits[stream.videos] / scale, atol=2e-4, rtol=0.0)
        stream.keep(stream.videos > 0)


@torch.no_grad()
@pytest.mark.parametrize("family", [f if f in FEW else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_family(scramble, family):
    name, side, arguments = FAMILIES[family]
    if family not in timm.list_modules():
        pytest.skip(f"timm {timm.__version__} has no {family}")
    assert name in timm.list_models(module=family)
    torch.manual_seed(0)
    net = UnifiedExitNet(name, num_classes=5, num_frames=4, shift="none", backbone_args=arguments).eval()
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0, **arguments).eval().to(memory_format=torch.channels_last)

    video = torch.randn(2, 4, 3, side, side)
    image = net.to_frames(video[:1, :1])
    features = image
    for segment in net.segments:
        features = segment(features)
    expected = whole.forward_features(image)
    torch.testing.assert_close(features, expected, rtol=0.0, atol=0.0)
    embedded = net.embed(len(net.segments), features)
    assert torch.equal(embedded, whole.forward_head(expected, pre_logits=True))

    open_branches(scramble(net))
    still = net(video)
    walk(net, video, still)
    if family in WITHOUT_SHIFT:
        with pytest.raises(ValueError, match="use shift='none'"):
            insert_shift(net.segments, "online", 8)
        return
    insert_shift(net.segments, "online", 8)
    shifted = net(video)
    walk(net, video, shifted)
    one, other = still.unbind(1)
    assert (shifted - still).abs().max() > 1e-2 * (one - other).abs().max()


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "xcit_nano_12_p8_224", "tnt_s_patch16_224"])
def test_the_rest_say_what_to_do(name):
    with pytest.raises(ValueError, match=f"{name} cannot be cut exactly .*04_custom_backbone"):
        TimmBackbone(name)


def test_the_docs_name_the_number_of_families():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"(\d+) timm families", text)] == [len(FAMILIES)]
    shifted = re.findall(r"online shift goes into the residual branches of (\d+)", " ".join(text.split()))
    assert [int(n) for n in shifted] == [len(FAMILIES) - len(WITHOUT_SHIFT)]
