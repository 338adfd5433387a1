"""Every kind of data set: with one, all are imported, so that a command line knows each by its short name."""

from dynvid.data.datamodule import VideoDataModule
from dynvid.data.folders import VideoFolderDataModule
from dynvid.data.hmdb51 import HMDB51DataModule
from dynvid.data.kinetics import KineticsDataModule
from dynvid.data.lists import VideoListDataModule
from dynvid.data.sharded import ShardDataModule
from dynvid.data.something import SomethingSomethingV1DataModule, SomethingSomethingV2DataModule
from dynvid.data.synthetic import SyntheticDataModule
from dynvid.data.ucf101 import UCF101DataModule

__all__ = [
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
]
