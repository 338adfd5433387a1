import pickle

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from dynvid.data import decode_size, eval_transform, mixup, three_crop_transform, train_transform


def clip(height: int, width: int, frames: int = 4) -> torch.Tensor:
    """The same noise in every frame, so that frames treated alike stay alike."""
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    return image.expand(frames, -1, -1, -1).contiguous()


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (20, 30), (37, 37)])
@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_shape_and_dtype(make: "object", shape: tuple[int, int]) -> None:
    result = make(32)(clip(*shape))  # type: ignore[operator]
    assert result.shape == (4, 3, 32, 32)
    assert result.dtype == torch.uint8


def test_training_draws_once_per_clip() -> None:
    torch.manual_seed(0)
    transform, video = train_transform(32), clip(48, 64)
    results = [transform(video) for _ in range(8)]
    for result in results:
        assert torch.equal(result, result[:1].expand_as(result))
    assert any(not torch.equal(results[0], result) for result in results[1:])


@pytest.mark.parametrize("hflip", [True, False])
def test_hflip(hflip: bool) -> None:
    """A ramp that rises to the right falls to the right once mirrored."""
    torch.manual_seed(0)
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(2, 3, 48, 64)
    transform = train_transform(32, hflip=hflip)
    mirrored = [bool(result[0, 0, 0, 0] > result[0, 0, 0, -1]) for result in (transform(ramp) for _ in range(40))]
    assert any(mirrored) == hflip
    assert not all(mirrored)


def test_evaluation_is_resize_then_centre_crop() -> None:
    video = clip(96, 144)
    resized = F.resize(video, [64, 96], antialias=True)
    assert torch.equal(eval_transform(56)(video), resized[..., 4:60, 20:76])


def test_decoding_at_decode_size_leaves_nothing_to_resize() -> None:
    video = clip(64, 96)
    assert decode_size(56) == 64
    assert torch.equal(eval_transform(56)(video), video[..., 4:60, 20:76])


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (20, 50), (37, 37)])
def test_three_crops_see_everything(shape: tuple[int, int]) -> None:
    height, width = shape
    video = clip(height, width)
    crops = three_crop_transform(32)(video)
    assert crops.shape == (3, 4, 3, 32, 32)
    whole = F.resize(video, [32], antialias=True)
    assert torch.equal(crops[0], whole[..., :32, :32])
    assert torch.equal(crops[1], F.center_crop(whole, [32, 32]))
    assert torch.equal(crops[2], whole[..., -32:, -32:])


def test_transforms_travel_to_fresh_processes() -> None:
    for transform in (train_transform(32), eval_transform(32), three_crop_transform(32)):
        assert pickle.loads(pickle.dumps(transform))(clip(40, 60)).shape[-3:] == (3, 32, 32)


def test_mixup_mixes_clips_and_labels_with_one_share() -> None:
    """Clips of one grey value each: the value of a mixed clip tells what its label must be."""
    grey = torch.tensor([0, 50, 100, 200], dtype=torch.uint8)
    video = grey.view(4, 1, 1, 1, 1).expand(4, 2, 3, 8, 8)
    mixed, target = mixup(video, torch.arange(4), 4, alpha=1.0)
    assert (mixed.shape, mixed.dtype) == ((4, 2, 3, 8, 8), torch.uint8)
    assert torch.equal(mixed, mixed[:, :1, :1, :1, :1].expand_as(mixed))
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0].float(), target @ grey.float(), atol=0.51, rtol=0)
    torch.testing.assert_close(target.sum(1), torch.ones(4))
    assert len(set(target.diagonal().tolist()) - {1.0}) <= 1
    assert any(not torch.equal(mixup(video, torch.arange(4), 4, alpha=1.0)[0], video) for _ in range(5))
