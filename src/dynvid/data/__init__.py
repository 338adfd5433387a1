"""Videos to batches: readers, sampling, transforms and Lightning data modules."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynvid.data.check import check_data, check_videos
    from dynvid.data.datamodule import carve
    from dynvid.data.dataset import Video, VideoDataset, collate
    from dynvid.data.kinds import (
        HMDB51DataModule,
        KineticsDataModule,
        ShardDataModule,
        SomethingSomethingV1DataModule,
        SomethingSomethingV2DataModule,
        SyntheticDataModule,
        UCF101DataModule,
        VideoDataModule,
        VideoFolderDataModule,
        VideoListDataModule,
    )
    from dynvid.data.packing import index_shards, pack
    from dynvid.data.sampling import cheap_indices, clip_indices, segment_indices
    from dynvid.data.transforms import decode_size, eval_transform, mixup, three_crop_transform, train_transform
    from dynvid.data.video import VIDEO_SUFFIXES, Clip, FrameFolder, VideoReader, open_video
    from dynvid.errors import VideoError
else:
    from dynvid.lazy import lazily

    __getattr__, __dir__ = lazily(
        __name__,
        {
            "dynvid.data.check": ["check_data", "check_videos"],
            "dynvid.data.datamodule": ["carve"],
            "dynvid.data.dataset": ["Video", "VideoDataset", "collate"],
            "dynvid.data.kinds": [
                "HMDB51DataModule",
                "KineticsDataModule",
                "ShardDataModule",
                "SomethingSomethingV1DataModule",
                "SomethingSomethingV2DataModule",
                "SyntheticDataModule",
                "UCF101DataModule",
                "VideoDataModule",
                "VideoFolderDataModule",
                "VideoListDataModule",
            ],
            "dynvid.data.packing": ["index_shards", "pack"],
            "dynvid.data.sampling": ["cheap_indices", "clip_indices", "segment_indices"],
            "dynvid.data.transforms": [
                "decode_size",
                "eval_transform",
                "mixup",
                "three_crop_transform",
                "train_transform",
            ],
            "dynvid.data.video": ["VIDEO_SUFFIXES", "Clip", "FrameFolder", "VideoReader", "open_video"],
            "dynvid.errors": ["VideoError"],
        },
    )

__all__ = [
    "VIDEO_SUFFIXES",
    "Clip",
    "FrameFolder",
    "HMDB51DataModule",
    "KineticsDataModule",
    "ShardDataModule",
    "SomethingSomethingV1DataModule",
    "SomethingSomethingV2DataModule",
    "SyntheticDataModule",
    "UCF101DataModule",
    "Video",
    "VideoDataModule",
    "VideoDataset",
    "VideoError",
    "VideoFolderDataModule",
    "VideoListDataModule",
    "VideoReader",
    "carve",
    "cheap_indices",
    "check_data",
    "check_videos",
    "clip_indices",
    "collate",
    "decode_size",
    "eval_transform",
    "index_shards",
    "mixup",
    "open_video",
    "pack",
    "segment_indices",
    "three_crop_transform",
    "train_transform",
]
