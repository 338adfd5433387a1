"""Videos to batches: readers, sampling, transforms and Lightning data modules."""

from dynvid.data.datamodule import VideoDataModule, VideoFolderDataModule, carve
from dynvid.data.dataset import Video, VideoDataset, collate
from dynvid.data.sampling import segment_indices
from dynvid.data.synthetic import SyntheticDataModule
from dynvid.data.transforms import decode_size, eval_transform, train_transform
from dynvid.data.ucf101 import UCF101DataModule
from dynvid.data.video import VIDEO_SUFFIXES, FrameFolder, VideoError, VideoReader, open_video

__all__ = [
    "VIDEO_SUFFIXES",
    "FrameFolder",
    "SyntheticDataModule",
    "UCF101DataModule",
    "Video",
    "VideoDataModule",
    "VideoDataset",
    "VideoError",
    "VideoFolderDataModule",
    "VideoReader",
    "carve",
    "collate",
    "decode_size",
    "eval_transform",
    "open_video",
    "segment_indices",
    "train_transform",
]
