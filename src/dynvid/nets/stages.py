"""A timm model cut into segments that can be run one after the other, with anything in between."""

import itertools
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dynvid.nets.head import GlobalPool, exit_head

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Where forward_features ends and timm's own classifier begins, in the order of registration.
CLASSIFIER = {"global_pool", "head", "fc", "classifier", "head_drop", "norm_head", "last_linear"}


class Backbone(nn.Module):
    """What an ExitNet asks of a backbone.

    Attributes:
        segments: Run in this order; each maps the activations of n frames to activations, tensors or lists of them
            whose first dimension is the frames.
        exit_depths: The depths that carry an exit by default, ascending, the last one included.
        mean, std: What images are normalised with, RGB in 0..1.
    """

    segments: nn.ModuleList
    exit_depths: tuple[int, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def embedding(self, depth: int) -> nn.Module:
        """A module that maps the activations at `depth` to one vector per frame, (n, channels)."""
        raise NotImplementedError

    def head(self, depth: int, num_classes: int, dropout: float) -> nn.Module:
        """A module that maps the mean embedding at `depth`, (B, channels), to logits (B, num_classes)."""
        raise NotImplementedError


class TimmBackbone(Backbone):
    """A timm model, cut where its own `feature_info` ends a stage.

    The stem belongs to the first segment and everything that `forward_features` does after the last stage to the
    last one. The cut is checked when it is made: the segments must give exactly timm's features.

    Args:
        name: A timm model name.
        pretrained: True for timm's weights, or the path of a file with weights.
        **kwargs: Go to `timm.create_model`.

    Raises:
        ValueError: timm has no such model, or it is no chain of stages.

    Example:
        >>> [tuple(x.shape[1:]) for x in TimmBackbone("test_resnet").features(torch.zeros(1, 3, 64, 64))]
        [(32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2)]
    """

    def __init__(self, name: str, pretrained: bool | str = False, **kwargs: Any) -> None:
        super().__init__()
        model = _create(name, pretrained, kwargs)
        config: dict[str, Any] = model.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.segments = _cut(name, model)
        self.channels = [info["num_chs"] for info in _stages(model)]
        self.channels[-1] = model.num_features
        self.exit_depths = tuple(range(min(2, len(self.segments)), len(self.segments) + 1))

    def features(self, x: Tensor) -> list[Tensor]:
        """The activations after each segment, as timm gives them: (n, 3, H, W) -> [(n, C, H', W'), ...]."""
        return list(itertools.accumulate(self.segments, lambda y, segment: segment(y), initial=x))[1:]

    def embedding(self, depth: int) -> nn.Module:
        """Global average pooling."""
        return GlobalPool()

    def head(self, depth: int, num_classes: int, dropout: float) -> nn.Module:
        """A linear layer at the end; before it, one hidden layer as wide as the last stage."""
        hidden = None if depth == len(self.segments) else self.channels[-1]
        return exit_head(self.channels[depth - 1], hidden, num_classes, dropout)


def _create(name: str, pretrained: bool | str, kwargs: dict[str, Any]) -> Any:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5])
        raise ValueError(f"timm has no model {name!r}" + (f": near it are {near}" if near else ""))
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise FileNotFoundError(f"{pretrained}: no such file of pretrained weights")
        kwargs = kwargs | {"pretrained_cfg_overlay": {"file": pretrained}}
    return timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **kwargs)


def _stages(model: Any) -> list[dict[str, Any]]:
    # The stem's half-resolution output ends no segment: an exit there would see edges only.
    return [info for info in getattr(model, "feature_info", []) if info["reduction"] > 2]


def _cut(name: str, model: Any) -> nn.ModuleList:
    ends = [info["module"] for info in _stages(model)]
    segments: list[nn.Sequential] = [nn.Sequential()]
    for path, layer in _chain(model, ends):
        segments[-1].add_module(path.replace(".", "_"), layer)
        if path in ends[:-1]:
            segments.append(nn.Sequential())
    cut = nn.ModuleList(segments)
    if not ends or len(segments) != len(ends) or not _same(model, nn.Sequential(*segments)):
        raise ValueError(
            f"{name} is not a chain of stages that can be cut exactly: use a ResNet, RegNet, MobileNetV2/V3, "
            "EfficientNet or ConvNeXt of timm"
        )
    return cut


def _chain(model: nn.Module, ends: list[str]) -> list[tuple[str, nn.Module]]:
    """The layers of `forward_features` in order; containers that hold several stages are opened."""
    layers: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if name in CLASSIFIER:
            break
        if any(end.startswith(f"{name}.") for end in ends):
            layers += [(f"{name}.{inner}", layer) for inner, layer in child.named_children()]
        else:
            layers.append((name, child))
    return layers


@torch.no_grad()
def _same(model: Any, segments: nn.Module) -> bool:
    """Whether the segments compute the model's features, tried on one small image."""
    parameter = next(model.parameters())
    if parameter.is_meta:
        return True  # nothing to compare; the same model was checked when it was built with values
    was_training = model.training
    model.eval()
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    size = model.pretrained_cfg["input_size"] if fixed else (3, 64, 64)
    image = torch.linspace(-1, 1, 3 * size[1] * size[2], dtype=parameter.dtype).reshape(1, 3, *size[1:])
    try:
        expected, found = model.forward_features(image), segments(image)
        return bool(torch.equal(expected, found))
    except (RuntimeError, TypeError, NotImplementedError, AttributeError):
        return False
    finally:
        model.train(was_training)
