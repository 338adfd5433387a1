import pytest
import torch

from dynvid.metrics import FlopsAccuracyCurve
from dynvid.published import PUBLISHED, published

# The dynamic rows, typed from the corrected table of the method.
DYNAMIC = {
    "kinetics400": {("MSDNet-38", 71.20, 26.5), ("ResNet-50", 72.57, 35.0), ("ResNet-101", 74.70, 66.0)},
    "ucf101": {("MSDNet-38", 94.2, 15.8), ("ResNet-50", 94.7, 18.5), ("ResNet-101", 95.3, 34.6)},
    "hmdb51": {("MSDNet-38", 70.1, 29.2), ("ResNet-50", 72.34, 34.4), ("ResNet-101", 73.48, 69.1)},
    "ssv1": {("ResNet-50", 45.2, 52.8), ("MSDNet-38", 46.5, 38.4)},
    "ssv2": {("ResNet-50", 58.2, 48.0), ("MSDNet-38", 60.0, 35.4)},
}


@pytest.mark.parametrize("dataset", DYNAMIC)
def test_dynamic_rows(dataset):
    assert {(r.backbone, r.top1, r.gmacs) for r in published(dataset) if r.dynamic and not r.test} == DYNAMIC[dataset]


def test_rows_are_unique_and_in_percent():
    assert len(set(PUBLISHED)) == len(PUBLISHED)
    assert all(1 < row.top1 < 100 for row in PUBLISHED)
    assert {(r.top1, r.gmacs) for r in published("kinetics400") if r.method == "TSM"} == {(70.6, 33), (72.5, 64)}


def test_the_figure_shows_them_beside_the_curve():
    metric = FlopsAccuracyCurve([10.0, 40.0])
    metric.update(torch.randn(2, 8, 4), torch.randint(0, 4, (8,)), torch.arange(8))
    _, ax = metric.plot(published="ucf101")
    drawn = {tuple(xy) for line in ax.get_lines() for xy in line.get_xydata().tolist()}
    assert {(row.gmacs, row.top1) for row in published("ucf101")} <= drawn


def test_unknown_data_set_says_which_there_are():
    with pytest.raises(ValueError, match="kinetics400, ucf101"):
        published("jester")
