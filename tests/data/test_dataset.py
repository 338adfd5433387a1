from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dynvid.data import (
    Video,
    VideoDataset,
    VideoError,
    collate,
    decode_size,
    eval_transform,
    three_crop_transform,
    train_transform,
)

from .conftest import WriteVideo, decode_all


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> list[Video]:
    folder = tmp_path_factory.mktemp("clips")
    return [Video(str(write_video(folder / f"{i}.mp4", frames=20, seed=i)), label=i % 2) for i in range(4)]


@pytest.fixture
def broken(clips: list[Video], tmp_path: Path) -> list[Video]:
    """The clips, with an unreadable one in second place."""
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nonsense")
    return [clips[0], Video(str(path), 1), *clips[1:]]


def unchanged(video: torch.Tensor) -> torch.Tensor:
    return video


def test_evaluation_takes_the_centre_frames(clips: list[Video]) -> None:
    item = VideoDataset(clips, num_frames=4, transform=unchanged)[2]
    assert isinstance(item, dict)
    reference = decode_all(clips[2].path)
    expected = np.stack([reference[i] for i in (2, 7, 12, 17)])
    assert np.array_equal(item["video"].permute(0, 2, 3, 1).numpy(), expected)
    assert (item["label"], item["index"], item["path"]) == (0, 2, clips[2].path)


@pytest.mark.parametrize("num_clips", [1, 2])
def test_cheap_frames_are_key_frames_where_segments_have_one(
    tmp_path: Path, write_video: WriteVideo, num_clips: int
) -> None:
    path = write_video(tmp_path / "a.mp4", options={"g": "10", "bf": "2", "sc_threshold": "0"})
    dataset = VideoDataset([Video(str(path), 0)], 4 // num_clips, unchanged, clips=num_clips, sampling="cheap")
    item, reference = dataset[0], decode_all(path)
    assert isinstance(item, dict)
    expected = [0, 10, 20, 30] if num_clips == 1 else [0, 20, 10, 30]
    assert np.array_equal(item["video"].reshape(4, 3, 48, 64).permute(0, 2, 3, 1), [reference[i] for i in expected])
    with pytest.raises(ValueError, match="sampling='middle': there is 'center' and 'cheap'"):
        VideoDataset([], 2, unchanged, sampling="middle")


def test_short_side_applies_while_decoding(clips: list[Video]) -> None:
    item = VideoDataset(clips, num_frames=2, transform=unchanged, short_side=24)[0]
    assert isinstance(item, dict)
    assert item["video"].shape == (2, 3, 24, 32)


def test_views_are_crops_of_clips(clips: list[Video]) -> None:
    dataset = VideoDataset(clips, 2, three_crop_transform(48), clips=2)
    item = dataset[1]
    assert isinstance(item, dict)
    assert item["video"].shape == (6, 2, 3, 48, 48)
    reference = torch.from_numpy(np.stack(decode_all(clips[1].path))).permute(0, 3, 1, 2)  # 48 x 64
    for crop, left in enumerate((0, 8, 16)):
        for clip, frames in enumerate(([2, 12], [7, 17])):
            assert torch.equal(item["video"][2 * crop + clip], reference[frames, :, :, left : left + 48])


def test_one_view_has_no_view_axis(clips: list[Video]) -> None:
    item = VideoDataset(clips, 2, eval_transform(32), clips=1)[0]
    assert isinstance(item, dict)
    assert item["video"].shape == (2, 3, 32, 32)


def test_batch(clips: list[Video]) -> None:
    dataset = VideoDataset(clips, 3, eval_transform(32), short_side=decode_size(32))
    batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=collate)))
    assert batch["video"].shape == (4, 3, 3, 32, 32)
    assert batch["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [0, 1, 0, 1]
    assert batch["label"].dtype == batch["index"].dtype == torch.int64
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert batch["path"] == [video.path for video in clips]
    assert batch["skipped"] == {}


def epochs(dataset: VideoDataset, workers: int, count: int = 2) -> Iterator[torch.Tensor]:
    torch.manual_seed(7)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=workers)
    for _ in range(count):
        yield next(iter(loader))["video"]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_draws_anew_each_epoch_and_repeats_under_a_seed(clips: list[Video], workers: int) -> None:
    dataset = VideoDataset(clips, 3, train_transform(32), train=True)
    first, second = epochs(dataset, workers)
    again, _ = epochs(dataset, workers)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_raise(broken: list[Video]) -> None:
    with pytest.raises(VideoError, match=r"broken\.mp4: cannot open"):
        VideoDataset(broken, 2, unchanged)[1]


def test_skip(broken: list[Video]) -> None:
    dataset = VideoDataset(broken, 2, unchanged, on_error="skip")
    batch = next(iter(DataLoader(dataset, batch_size=5, collate_fn=collate)))
    assert batch["index"].tolist() == [0, 2, 3, 4]
    assert batch["video"].shape[0] == 4
    assert list(batch["skipped"]) == [broken[1].path]
    assert "cannot open" in batch["skipped"][broken[1].path]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_unreadable_videos_raises(broken: list[Video], workers: int) -> None:
    dataset = VideoDataset([broken[1]], 2, unchanged, on_error="skip")
    with pytest.raises(VideoError, match=r"no video of this batch could be read: .*broken\.mp4: cannot open"):
        next(iter(DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=workers)))
