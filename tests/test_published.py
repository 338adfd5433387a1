import re
from pathlib import Path

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


# Typed from the slides: data set, method, backbone, input, top-1, top-5, GMACs, parameters (M), pretrain, test set.
SAMPLE = [
    ("kinetics400", "ARTNet with TSN", "3D ResNet-18", "16x3x112x112 x 250", 69.2, None, 5925, 35.2, "", False),
    ("kinetics400", "StNet", "ResNet-101", "25x15x256x256", 71.38, None, 310.5, 52.15, "", False),
    ("kinetics400", "Full", "MSDNet-38", "16x3x224x224", 71.17, None, 52, 62.31, "", False),
    ("kinetics400", "Dynamic", "ResNet-101", "16x3x224x224", 74.7, None, 66, 48.12, "", False),
    ("ucf101", "StNet", "ResNet-50", "", 93.5, None, 53, None, "", False),
    ("hmdb51", "TSM", "ResNet-50", "16", 70.7, None, 64, None, "", False),
    ("ssv1", "Non-local I3D + GCN", "3D ResNet-50", "", 46.1, 76.8, 606, None, "Kinetics", False),
    ("ssv2", "TSN", "ResNet-50", "16", 30.0, 60.5, 65, None, "Kinetics", False),
    ("ssv2", "TRN Two-Stream", "BN-Inception", "", 56.2, 83.2, None, None, "ImageNet", True),
    ("ssv2", "Dynamic", "MSDNet-38", "16x3x224x224", 60.1, 86.6, 35.4, None, "ImageNet", True),
]


def test_sampled_rows_are_as_in_the_slides():
    assert set(SAMPLE) <= {tuple(row) for row in PUBLISHED}
    counts = {dataset: len(published(dataset)) for dataset in DYNAMIC}
    assert counts == {"kinetics400": 20, "ucf101": 12, "hmdb51": 10, "ssv1": 12, "ssv2": 12}


@pytest.mark.parametrize("dataset", DYNAMIC)
def test_the_figure_numbers_and_names_every_row(dataset, tmp_path):
    metric = FlopsAccuracyCurve([10.0, 40.0])
    metric.update(torch.randn(2, 8, 4), torch.randint(0, 4, (8,)), torch.arange(8))
    figure, ax = metric.plot(published=dataset)
    figure.savefig(tmp_path / "curve.png")
    rows = sorted((row for row in published(dataset) if row.gmacs and not row.test), key=lambda row: row.gmacs)
    named = [text.get_text() for text in ax.get_legend().get_texts()][2:]  # behind the two of the curve
    assert named == [row.name for row in rows]
    markers = [line.get_marker() for line in ax.get_lines()][2:]
    assert markers == [f"${number}$" for number in range(1, len(rows) + 1)]
    seen = ax.get_window_extent().expanded(1.001, 1.001)
    assert all(seen.contains(*ax.transData.transform((row.gmacs, row.top1))) for row in rows)
    assert ax.get_legend().get_window_extent().x1 <= figure.bbox.x1


def test_what_the_configs_say_of_the_paper_is_in_its_tables():
    rows = {(row.top1, row.gmacs) for row in PUBLISHED}
    for config in ("k400", "ucf101", "hmdb51", "ssv1", "ssv2", "msdnet", "resnet101", "tsn", "tsm"):
        text = (Path(__file__).parents[1] / f"configs/{config}.yaml").read_text().replace("\n# ", " ")
        said = {(float(top1), float(gmacs)) for top1, gmacs in re.findall(r"([\d.]+) % at ([\d.]+\d)", text)}
        assert said, config
        assert said <= rows, config


def test_unknown_data_set_says_which_there_are():
    with pytest.raises(ValueError, match="kinetics400, ucf101"):
        published("jester")
