"""Names that other people's code imports stay where they are."""

import importlib

import pytest

PUBLIC = {
    "dynvid": "DepthExitNet Exit ExitNet InputExitNet Prediction Stream ThresholdPolicy UnifiedExitNet depth_route "
    "frame_groups input_route unified_route __version__",
    "dynvid.calibration": "Frontier Operation candidate_thresholds frontier num_candidates operate "
    "thresholds_for_budget thresholds_for_drop thresholds_for_risk videos_needed smallest_risk whole_curve Target "
    "OperatingPoint find_point kept_apart fit_temperatures calibration_error share_interval mean_interval best_route",
    "dynvid.callbacks": "Calibration EpochLine FlopsAccuracyReport NetLine PredictionWriter TrainingCheckpoint",
    "dynvid.checkpoint": "net_from_checkpoint read_checkpoint",
    "dynvid.cli": "main",
    "dynvid.commands": "classify classify_video",
    "dynvid.costs": "count_gmacs",
    "dynvid.data": "FrameFolder HMDB51DataModule KineticsDataModule SomethingSomethingV1DataModule "
    "SomethingSomethingV2DataModule SyntheticDataModule UCF101DataModule VIDEO_SUFFIXES Video VideoDataModule "
    "VideoDataset VideoError VideoFolderDataModule VideoListDataModule VideoReader carve check_data check_videos "
    "clip_indices collate decode_size eval_transform mixup open_video segment_indices three_crop_transform "
    "train_transform",
    "dynvid.data.video": "IMAGE_SUFFIXES VIDEO_SUFFIXES FrameFolder VideoError VideoReader is_frame is_video "
    "open_video",
    "dynvid.errors": "DamagedVideoError DynvidError FrameIndexError InputError MissingFileError ModeError VideoError",
    "dynvid.losses": "ExitLoss",
    "dynvid.metrics": "FlopsAccuracy FlopsAccuracyCurve draw_legend plot_curve",
    "dynvid.module": "DynamicInferenceModule read_checkpoint",
    "dynvid.nets": "Backbone DepthExitNet ExitNet InputExitNet MSDNet Prediction Stream UnifiedExitNet "
    "load_msdnet_checkpoint load_tsm_checkpoint net_from_spec",
    "dynvid.nets.msdnet": "from_original_keys load_msdnet_checkpoint msdnet38",
    "dynvid.nets.pretrained": "load_weights read_weights",
    "dynvid.nets.tsm": "from_tsm_keys load_tsm_checkpoint",
    "dynvid.outputs": "Outputs",
    "dynvid.policy": "SCORES SCORE_NAMES patience ThresholdPolicy choose_exits margin max_probability negative_entropy",
    "dynvid.published": "draw_published",
    "dynvid.report": "render_report summarise write_report",
    "dynvid.routes": "Exit check_route depth_route frame_groups input_route unified_route",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module):
    found = importlib.import_module(module)
    assert not [name for name in PUBLIC[module].split() if not hasattr(found, name)]
