"""report.json for strict parsers."""

import json
from types import SimpleNamespace

import torch

from dynvid import UnifiedExitNet
from dynvid.callbacks import FlopsAccuracyReport
from dynvid.module import DynamicInferenceModule


def refuse(token):
    raise ValueError(f"{token} is no JSON")


def test_a_figure_that_is_no_number_is_null(tmp_path, capsys):
    module = DynamicInferenceModule(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4))
    module.test_curve.update(torch.randn(4, 3, 5), torch.arange(3), torch.arange(3))
    module.curve = module.test_curve.compute()
    module.curve.exit_accuracy *= torch.nan
    folder = tmp_path / "log\x1b[2J"
    trainer = SimpleNamespace(log_dir=str(folder), is_global_zero=True, loggers=[], global_step=0)
    trainer.state = SimpleNamespace(fn="test")
    FlopsAccuracyReport().on_test_end(trainer, module)
    report = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert report["full"]["accuracy"] is None
    assert report["videos"] == 3
    assert "\x1b" not in capsys.readouterr().out
