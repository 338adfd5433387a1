"""Published results of dynamic inference and of the baselines beside it, as data.

From the tables of the authors' slides to Wu et al., CVPR Workshops 2020. Their rows for UCF-101 and HMDB-51 are shifted
by one against the backbones; here they are as the text means them.
"""

from typing import Literal, NamedTuple

Dataset = Literal["kinetics400", "ucf101", "hmdb51", "ssv1", "ssv2"]


class Published(NamedTuple):
    """One row of a published table.

    Attributes:
        dataset: Where it was measured; validation for Something-Something.
        method: Name in the table.
        backbone: Backbone in the table.
        top1: Percent.
        gmacs: GMACs per video, averaged over videos where `dynamic`.
        dynamic: Whether videos exit early.
        top5: Percent, where published.
        params: Millions, where published.
    """

    dataset: Dataset
    method: str
    backbone: str
    top1: float
    gmacs: float
    dynamic: bool = False
    top5: float | None = None
    params: float | None = None


PUBLISHED: tuple[Published, ...] = (
    Published("kinetics400", "TSN 8f", "ResNet-50", 66.80, 33, params=24.3),
    Published("kinetics400", "TSN 16f", "ResNet-50", 67.80, 64, params=24.3),
    Published("kinetics400", "TSM 8f", "ResNet-50", 70.60, 33, params=24.3),
    Published("kinetics400", "TSM 16f", "ResNet-50", 72.50, 64, params=24.3),
    Published("kinetics400", "StNet", "ResNet-50", 69.85, 189.29, params=33.16),
    Published("kinetics400", "StNet", "ResNet-101", 71.38, 310.50, params=52.15),
    Published("kinetics400", "full inference", "MSDNet-38", 71.17, 52, params=62.31),
    Published("kinetics400", "dynamic inference", "MSDNet-38", 71.20, 26.5, dynamic=True, params=62.31),
    Published("kinetics400", "dynamic inference", "ResNet-50", 72.57, 35, dynamic=True, params=29.12),
    Published("kinetics400", "dynamic inference", "ResNet-101", 74.70, 66, dynamic=True, params=48.12),
    Published("ucf101", "TSN 8f", "ResNet-50", 91.5, 33),
    Published("ucf101", "TSN 16f", "ResNet-50", 91.4, 64),
    Published("ucf101", "TSM 8f", "ResNet-50", 94.0, 33),
    Published("ucf101", "TSM 16f", "ResNet-50", 94.5, 64),
    Published("ucf101", "StNet", "ResNet-50", 93.5, 53),
    Published("ucf101", "dynamic inference", "MSDNet-38", 94.2, 15.8, dynamic=True),
    Published("ucf101", "dynamic inference", "ResNet-50", 94.7, 18.5, dynamic=True),
    Published("ucf101", "dynamic inference", "ResNet-101", 95.3, 34.6, dynamic=True),
    Published("hmdb51", "TSN 8f", "ResNet-50", 63.2, 33),
    Published("hmdb51", "TSN 16f", "ResNet-50", 63.6, 64),
    Published("hmdb51", "TSM 8f", "ResNet-50", 70.3, 33),
    Published("hmdb51", "TSM 16f", "ResNet-50", 70.7, 64),
    Published("hmdb51", "dynamic inference", "MSDNet-38", 70.1, 29.2, dynamic=True),
    Published("hmdb51", "dynamic inference", "ResNet-50", 72.34, 34.4, dynamic=True),
    Published("hmdb51", "dynamic inference", "ResNet-101", 73.48, 69.1, dynamic=True),
    Published("ssv1", "TSN 8f", "ResNet-50", 19.7, 33, top5=46.6),
    Published("ssv1", "TSN 16f", "ResNet-50", 19.9, 65, top5=47.3),
    Published("ssv1", "TSM 8f", "ResNet-50", 43.4, 33, top5=73.2),
    Published("ssv1", "TSM 16f", "ResNet-50", 44.8, 65, top5=74.5),
    Published("ssv1", "dynamic inference", "ResNet-50", 45.2, 52.8, dynamic=True, top5=75.2),
    Published("ssv1", "dynamic inference", "MSDNet-38", 46.5, 38.4, dynamic=True, top5=75.6),
    Published("ssv2", "TSN 8f", "ResNet-50", 27.8, 33, top5=57.6),
    Published("ssv2", "TSN 16f", "ResNet-50", 30.0, 65, top5=60.5),
    Published("ssv2", "TSM 8f", "ResNet-50", 58.2, 33, top5=84.8),
    Published("ssv2", "TSM 16f", "ResNet-50", 58.7, 65, top5=84.8),
    Published("ssv2", "dynamic inference", "ResNet-50", 58.2, 48.0, dynamic=True, top5=85.2),
    Published("ssv2", "dynamic inference", "MSDNet-38", 60.0, 35.4, dynamic=True, top5=86.2),
)


def published(dataset: Dataset) -> list[Published]:
    """The published rows of a data set.

    Raises:
        ValueError: There are none of that name.

    Example:
        >>> [(row.backbone, row.top1, row.gmacs) for row in published("ucf101") if row.dynamic]
        [('MSDNet-38', 94.2, 15.8), ('ResNet-50', 94.7, 18.5), ('ResNet-101', 95.3, 34.6)]
    """
    rows = [row for row in PUBLISHED if row.dataset == dataset]
    if not rows:
        raise ValueError(
            f"no published results for {dataset!r}: use {', '.join(sorted({r.dataset for r in PUBLISHED}))}"
        )
    return rows
