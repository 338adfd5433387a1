"""Videos to batches: readers, sampling, transforms and Lightning data modules."""

from dynvid.data.check import check_data, check_videos
from dynvid.data.datamodule import VideoDataModule, carve
from dynvid.data.dataset import Video, VideoDataset, collate
from dynvid.data.folders import VideoFolderDataModule
from dynvid.data.hmdb51 import HMDB51DataModule
from dynvid.data.kinetics import KineticsDataModule
from dynvid.data.lists import VideoListDataModule
from dynvid.data.sampling import clip_indices, segment_indices
from dynvid.data.something import SomethingSomethingV1DataModule, SomethingSomethingV2DataModule
from dynvid.data.synthetic import SyntheticDataModule
from dynvid.data.transforms import decode_size, eval_transform, mixup, three_crop_transform, train_transform
from dynvid.data.ucf101 import UCF101DataModule
from dynvid.data.video import VIDEO_SUFFIXES, FrameFolder, VideoReader, open_video
from dynvid.errors import VideoError

__all__ = [
    "VIDEO_SUFFIXES",
    "FrameFolder",
    "HMDB51DataModule",
    "KineticsDataModule",
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
    "check_data",
    "check_videos",
    "clip_indices",
    "collate",
    "decode_size",
    "eval_transform",
    "mixup",
    "open_video",
    "segment_indices",
    "three_crop_transform",
    "train_transform",
]
