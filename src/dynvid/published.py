"""The tables of Wu et al., CVPRW 2020, as data: what to draw one's own curve beside."""

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from dynvid.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Dataset = Literal["kinetics400", "ucf101", "hmdb51", "ssv1", "ssv2"]


class Published(NamedTuple):
    """A row of the paper's tables. What a table does not say is None, or empty.

    Attributes:
        dataset: `kinetics400`, `ucf101`, `hmdb51`, `ssv1` or `ssv2` (Something-Something).
        method: Name; `Dynamic` is the paper's own, `Full` its net with the last exit only.
        backbone: Name.
        input: Frames, or frames x channels x height x width, and x clips if there are several.
        top1: Accuracy in %.
        top5: Accuracy in %.
        gmacs: GMACs per video (the paper's "FLOPs"), all clips; for dynamic inference the mean over videos.
        params: Parameters in millions.
        pretrain: Data set that the backbone was trained on before.
        test: Whether the accuracy is on the organisers' test set (`ssv2`), not on validation videos.
    """

    dataset: Dataset
    method: str
    backbone: str
    input: str
    top1: float
    top5: float | None = None
    gmacs: float | None = None
    params: float | None = None
    pretrain: str = ""
    test: bool = False

    @property
    def name(self) -> str:
        """What a figure calls it: method, backbone, and frames and clips where it is static."""
        frames, _, clips = self.input.partition(" x ")
        frames = "" if self.dynamic else frames.partition("x")[0]
        size = (f" {frames}f" if frames.isdigit() else "") + (f" x {clips}" if clips else "")
        return f"{self.method} {self.backbone.partition(' + ')[0]}".rstrip() + size

    @property
    def dynamic(self) -> bool:
        """Whether videos leave at different exits."""
        return self.method == "Dynamic"


_OURS = "16x3x224x224"

# method, backbone, input, top-1, GMACs, parameters (M)
_KINETICS400: tuple[tuple[str, str, str, float, float, float | None], ...] = (
    ("I3D", "3D BN-Inception", "Allx3x256x256", 70.24, 544.44, 12.7),
    ("S3D", "3D BN-Inception", "Allx3x224x224", 72.20, 518.6, 8.8),
    ("ARTNet with TSN", "3D ResNet-18", "16x3x112x112 x 250", 69.2, 5925, 35.2),
    ("MF-Net", "", "16x3x224x224", 65.00, 11.1, 8.0),
    ("MF-Net", "", "16x3x224x224 x 50", 72.80, 555, 8.0),
    ("ECO", "BN-Inception + 3D ResNet-18", "16x3x224x224", 69.00, 64, 47.5),
    ("R(2+1)D RGB", "ResNet-34", "32x3x112x112 x 10", 72.00, 1524, 63.8),
    ("Nonlocal-I3D", "ResNet-50", "128x3x224x224", 67.30, 145.7, 35.33),
    ("Nonlocal-I3D", "ResNet-50", "128x3x224x224 x 30", 76.50, 4371, 35.33),
    ("TSN", "BN-Inception", "25x3x112x112 x 10", 69.1, 500, 10.7),
    ("TSN", "ResNet-50", "8x3x224x224", 66.80, 33, 24.3),
    ("TSN", "ResNet-50", "16x3x224x224", 67.80, 64, 24.3),
    ("TSM", "ResNet-50", "8x3x224x224", 70.60, 33, 24.3),
    ("TSM", "ResNet-50", "16x3x224x224", 72.50, 64, 24.3),
    ("StNet", "ResNet-50", "25x15x256x256", 69.85, 189.29, 33.16),
    ("StNet", "ResNet-101", "25x15x256x256", 71.38, 310.50, 52.15),
    ("Full", "MSDNet-38", _OURS, 71.17, 52, 62.31),
    ("Dynamic", "MSDNet-38", _OURS, 71.20, 26.5, 62.31),
    ("Dynamic", "ResNet-50", _OURS, 72.57, 35, 29.12),
    ("Dynamic", "ResNet-101", _OURS, 74.70, 66, 48.12),
)

# method, backbone, input, GMACs, top-1 on UCF-101, top-1 on HMDB-51
_UCF101_HMDB51: tuple[tuple[str, str, str, float, float | None, float | None], ...] = (
    ("ARTNet with TSN", "3D ResNet-18", "", 5925, 94.3, 70.9),
    ("ECO", "BN-Inception + 3D ResNet-18", "", 64, 92.8, 68.5),
    ("I3D RGB", "3D Inception-v1", "", 544, 95.1, 74.3),
    ("TSN RGB", "BN-Inception", "", 500, 91.1, None),
    ("TSN", "ResNet-50", "8", 33, 91.5, 63.2),
    ("TSN", "ResNet-50", "16", 64, 91.4, 63.6),
    ("TSM", "ResNet-50", "8", 33, 94.0, 70.3),
    ("TSM", "ResNet-50", "16", 64, 94.5, 70.7),
    ("StNet", "ResNet-50", "", 53, 93.5, None),
    ("Dynamic", "MSDNet-38", _OURS, 15.8, 94.2, None),
    ("Dynamic", "MSDNet-38", _OURS, 29.2, None, 70.1),
    ("Dynamic", "ResNet-50", _OURS, 18.5, 94.7, None),
    ("Dynamic", "ResNet-50", _OURS, 34.4, None, 72.34),
    ("Dynamic", "ResNet-101", _OURS, 34.6, 95.3, None),
    ("Dynamic", "ResNet-101", _OURS, 69.1, None, 73.48),
)

_SOMETHING = (
    Published("ssv1", "ECO", "BN-Inception + 3D ResNet-18", "16", 41.4, None, 64, None, "Kinetics"),
    Published("ssv1", "ECO EN Lite", "BN-Inception + 3D ResNet-18", "", 46.4, None, 267, None, "Kinetics"),
    Published("ssv1", "I3D", "3D ResNet-50", "", 41.6, 72.2, 306, None, "Kinetics"),
    Published("ssv1", "Non-local I3D + GCN", "3D ResNet-50", "", 46.1, 76.8, 606, None, "Kinetics"),
    Published("ssv1", "TSN", "ResNet-50", "8", 19.7, 46.6, 33, None, "Kinetics"),
    Published("ssv2", "TSN", "ResNet-50", "8", 27.8, 57.6, 33, None, "Kinetics"),
    Published("ssv1", "TSN", "ResNet-50", "16", 19.9, 47.3, 65, None, "Kinetics"),
    Published("ssv2", "TSN", "ResNet-50", "16", 30.0, 60.5, 65, None, "Kinetics"),
    Published("ssv1", "TRN Multiscale", "BN-Inception", "", 34.4, None, 33, None, "ImageNet"),
    Published("ssv2", "TRN Multiscale", "BN-Inception", "", 48.8, 77.6, 33, None, "ImageNet"),
    Published("ssv2", "TRN Multiscale", "BN-Inception", "", 50.9, 79.3, 33, None, "ImageNet", test=True),
    Published("ssv1", "TRN Two-Stream", "BN-Inception", "", 42.0, None, None, None, "ImageNet"),
    Published("ssv2", "TRN Two-Stream", "BN-Inception", "", 55.5, 83.1, None, None, "ImageNet"),
    Published("ssv2", "TRN Two-Stream", "BN-Inception", "", 56.2, 83.2, None, None, "ImageNet", test=True),
    Published("ssv1", "TSM", "ResNet-50", "8", 43.4, 73.2, 33, None, "Kinetics"),
    Published("ssv2", "TSM", "ResNet-50", "8", 58.2, 84.8, 33, None, "Kinetics"),
    Published("ssv1", "TSM", "ResNet-50", "16", 44.8, 74.5, 65, None, "Kinetics"),
    Published("ssv2", "TSM", "ResNet-50", "16", 58.7, 84.8, 65, None, "Kinetics"),
    Published("ssv2", "TSM", "ResNet-50", "16", 59.9, 85.9, 65, None, "Kinetics", test=True),
    Published("ssv1", "Dynamic", "ResNet-50", _OURS, 45.2, 75.2, 52.8, None, "ImageNet"),
    Published("ssv2", "Dynamic", "ResNet-50", _OURS, 58.2, 85.2, 48.0, None, "ImageNet"),
    Published("ssv1", "Dynamic", "MSDNet-38", _OURS, 46.5, 75.6, 38.4, None, "ImageNet"),
    Published("ssv2", "Dynamic", "MSDNet-38", _OURS, 60.0, 86.2, 35.4, None, "ImageNet"),
    Published("ssv2", "Dynamic", "MSDNet-38", _OURS, 60.1, 86.6, 35.4, None, "ImageNet", test=True),
)

PUBLISHED: tuple[Published, ...] = (
    *(Published("kinetics400", m, b, i, top1, None, gmacs, p) for m, b, i, top1, gmacs, p in _KINETICS400),
    *(Published("ucf101", m, b, i, ucf, None, gmacs) for m, b, i, gmacs, ucf, _ in _UCF101_HMDB51 if ucf),
    *(Published("hmdb51", m, b, i, hmdb, None, gmacs) for m, b, i, gmacs, _, hmdb in _UCF101_HMDB51 if hmdb),
    *_SOMETHING,
)


def published(dataset: str) -> list[Published]:
    """The rows of one data set, in the order of the paper's tables.

    Raises:
        ValueError: The paper has no results on it.

    Example:
        >>> best = max(published("kinetics400"), key=lambda row: row.dynamic * row.top1)
        >>> best.backbone, best.top1, best.gmacs
        ('ResNet-101', 74.7, 66)
    """
    if dataset not in get_args(Dataset):
        raise InputError(f"no published results on {dataset!r}: use {', '.join(get_args(Dataset))}")
    return [row for row in PUBLISHED if row.dataset == dataset]


def draw_published(ax: "Axes", dataset: str) -> None:
    """Draw top-1 (%) against GMACs per video of the paper's rows for one data set, as numbers with their names.

    Rows without a cost and rows on a test set are left out. The axis of costs becomes logarithmic where the costs,
    those already drawn included, span more than a factor of ten.

    Args:
        ax: Axes with GMACs to the right and top-1 in % upwards; the names are the labels of its legend.
        dataset: As for `published`.

    Raises:
        ValueError: The paper has no results on it.
    """
    rows = [(row, row.gmacs) for row in published(dataset) if row.gmacs is not None and not row.test]
    for number, (row, gmacs) in enumerate(sorted(rows, key=lambda found: found[1]), 1):
        (point,) = ax.plot(gmacs, row.top1, color="tab:red" if row.dynamic else "black", label=row.name, zorder=3)
        point.set(marker=f"${number}$", markersize=5 if number < 10 else 8, markeredgewidth=0, linestyle="none")
    if ax.dataLim.x1 > 10 * ax.dataLim.minposx:
        ax.set_xscale("log")
