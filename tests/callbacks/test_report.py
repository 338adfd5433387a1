"""report.json for strict parsers, and figures for readers."""

import json
from types import SimpleNamespace

import torch

from dynvid import UnifiedExitNet
from dynvid.callbacks import EpochLine, FlopsAccuracyReport
from dynvid.module import DynamicInferenceModule


def refuse(token):
    raise ValueError(f"{token} is no JSON")


def run_of(fn, **more):
    """As much of a trainer as the callbacks ask for."""
    about = {"is_global_zero": True, "loggers": [], "global_step": 0, "log_dir": None, "default_root_dir": None} | more
    return SimpleNamespace(state=SimpleNamespace(fn=fn), **about)


def test_a_hair_more_than_full_inference_is_no_saving_below_zero(capsys):
    """Every video takes the last exit and pays for the heads on the way."""
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    assert 0 > 1 - module.net.gmacs[-1] / module.net.full_gmacs > -0.0005
    module.test_curve.update(torch.randn(4, 3, 5), torch.arange(3), torch.arange(3))
    module.curve = module.test_curve.compute()
    FlopsAccuracyReport().on_test_end(run_of("test"), module)
    line = EpochLine()
    training = run_of("fit", sanity_checking=False, max_epochs=1, current_epoch=0, progress_bar_callback=None)
    line.on_validation_end(training, module)
    line.on_train_epoch_end(training, module)
    line.on_train_end(training, module)
    printed = capsys.readouterr().out
    assert printed.count(" 0.0 % saved") == 2
    assert "0.0 % saved, +0.0 points" in printed
    assert "-0.0" not in printed


def test_a_figure_that_is_no_number_is_null(tmp_path, capsys):
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    module.test_curve.update(torch.randn(4, 3, 5), torch.arange(3), torch.arange(3))
    module.curve = module.test_curve.compute()
    module.curve.logits *= torch.nan
    folder = tmp_path / "log\x1b[2J"
    FlopsAccuracyReport().on_test_end(run_of("test", log_dir=str(folder)), module)
    report = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert report["wrong"][0]["probability"] is None
    assert report["videos"] == 3
    assert "\x1b" not in capsys.readouterr().out
