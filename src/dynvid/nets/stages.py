"""A timm model cut into segments that can be run one after the other, with anything in between."""

import itertools
import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import timm
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from dynvid.errors import InputError
from dynvid.nets.activations import Activations
from dynvid.nets.description import said, shown
from dynvid.nets.head import GlobalPool, exit_head

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """What an ExitNet asks of a backbone; examples/04_custom_backbone.py writes one.

    Attributes:
        segments: Run in this order; each maps the activations of n frames to activations, tensors or lists of them
            whose first dimension is the frames. Each frame goes on its own: they meet in shifts only, and are run a few
            at a time.
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
    """A timm model, cut where its own `feature_info` ends a stage; a row of equal blocks is cut into quarters.

    torch.fx records what `forward_features` does with its stages, and the record is cut behind them. So the stem
    belongs to the first segment and everything after the last stage to the last one. Activations are what timm
    makes them: images (n, C, H, W) or (n, H, W, C), tokens (n, L, C), a list where a stage reads more than one.
    The cut is checked when it is made: the segments must give exactly timm's features and its embedding.

    Args:
        name: A timm model name.
        pretrained: True for timm's weights, or the path of a file with weights.
        **kwargs: Go to `timm.create_model`.

    Raises:
        ValueError: timm has no such model, or it cannot be cut exactly.

    Example:
        >>> [tuple(x.shape[1:]) for x in TimmBackbone("test_resnet").features(torch.zeros(1, 3, 64, 64))]
        [(32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2)]
    """

    def __init__(self, name: str, pretrained: bool | str = False, **kwargs: Any) -> None:
        super().__init__()
        model = _create(name, pretrained, kwargs).eval()
        config: dict[str, Any] = model.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        stages = _stages(model)
        try:
            *segments, pool = _cut(model, [info["module"] for info in stages])
            *activations, embedded = _run(model, [*segments, pool], kwargs.get("img_size"))
        except Exception as error:  # whatever the model's own code raises, what the user can do is the same
            raise InputError(
                f"{name} cannot be cut exactly into stages: use a model of another timm family, or bring your own "
                f"stages, as examples/04_custom_backbone.py does ({said(error)})"
            ) from error
        self.segments = nn.ModuleList(segments).train()
        # A plain list: a pool with parameters belongs to the net that embeds with it.
        self._pools = [*_pools(activations, stages, getattr(model, "num_prefix_tokens", 0)), pool.train()]
        self.channels = [*(info["num_chs"] for info in stages[:-1]), embedded.shape[1]]
        self.exit_depths = tuple(range(min(2, len(segments)), len(segments) + 1))

    def features(self, x: Tensor) -> list[Any]:
        """The activations after each segment, as timm gives them: (n, 3, H, W) -> [(n, C, H', W'), ...]."""
        return list(itertools.accumulate(self.segments, lambda y, segment: segment(y), initial=x))[1:]

    def embedding(self, depth: int) -> nn.Module:
        """At the last depth what timm's own classifier reads; before it, the mean over the image."""
        return self._pools[depth - 1]

    def head(self, depth: int, num_classes: int, dropout: float) -> nn.Module:
        """A linear layer at the end; before it, one hidden layer as wide as the last stage."""
        hidden = None if depth == len(self.segments) else self.channels[-1]
        return exit_head(self.channels[depth - 1], hidden, num_classes, dropout)


class StagePool(nn.Module):
    """Mean over the image of one of the activations of a stage.

    Args:
        index: Which one, where they are a list.
        tokens: Whether channels come last, (n, L, C) or (n, H, W, C), or it is (n, C, H, W).
        prefix: Class and register tokens at the front, which are no part of the image.
    """

    def __init__(self, index: int, tokens: bool, prefix: int) -> None:
        super().__init__()
        self.index, self.tokens, self.prefix = index, tokens, prefix
        self.pool = GlobalPool()

    def forward(self, x: Activations) -> Tensor:
        """Activations -> (n, C)."""
        y: Tensor = tree_leaves(x)[self.index]
        pooled: Tensor = y.flatten(1, -2)[:, self.prefix :].mean(1) if self.tokens else self.pool(y)
        return pooled


def _create(name: str, pretrained: bool | str, kwargs: dict[str, Any]) -> Any:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:5])
        raise InputError(f"timm has no model {shown(name)}" + (f": near it are {near}" if near else ""))
    if isinstance(pretrained, str):
        kwargs = kwargs | {"pretrained_cfg_overlay": {"file": pretrained}}
    model = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **kwargs)
    if isinstance(pretrained, str):
        # Timm passes over names that it does not know, and would leave the model as it was.
        given = [value for value in timm.models.load_state_dict(pretrained).values() if value.dim() > 1]
        matrices = [p for p in model.parameters() if p.dim() > 1]
        if not any(p.shape == value.shape and torch.equal(p, value.to(p)) for p in matrices for value in given):
            raise InputError(f"{pretrained}: holds no weights of {name}")
        if not all(p.isfinite().all() for p in model.parameters()):
            raise InputError(f"{pretrained}: holds weights that are not finite")
    return model


def _stages(model: Any) -> list[dict[str, Any]]:
    # The stem's half-resolution output ends no segment: an exit there would see edges only.
    stages = [info for info in getattr(model, "feature_info", []) if info["reduction"] > 2]
    if len(stages) > 4 and len({info["reduction"] for info in stages}) == 1:
        return [stages[-(-len(stages) * quarter // 4) - 1] for quarter in (1, 2, 3, 4)]
    return stages


class _Whole(nn.Module):
    """From the image to the features and what timm's classifier reads: this is recorded."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Activations, Tensor]:
        features = self.model.forward_features(x)
        return features, self.model.forward_head(features, pre_logits=True)


class _Recorder(fx.Tracer):
    """Opens only the modules that hold the end of a stage."""

    def __init__(self, ends: Sequence[str]) -> None:
        super().__init__(param_shapes_constant=True)
        self.ends = ends

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(end.startswith(f"{module_qualified_name}.") for end in self.ends)


def _cut(model: Any, stages: Sequence[str]) -> list[fx.GraphModule]:
    """Cut behind all stages but the last, and behind the features; the last piece embeds them."""
    whole = _Whole(model)
    ends = [f"model.{stage}" for stage in stages]
    *nodes, output = _Recorder(ends).trace(whole).nodes
    features, embedded = output.args[0]
    position = {node: i for i, node in enumerate([*nodes, output])}
    called = {node.target: i + 1 for node, i in position.items() if node.op == "call_module"}
    behind = max(position[node] + 1 for node in tree_leaves(features))
    cuts = [0, *sorted(called[end] for end in ends)[:-1], behind, len(nodes)]
    given = {behind: tree_leaves(features), len(nodes): [embedded]}

    inputs = [node for node in nodes if node.op == "placeholder"]
    varying = set(inputs)  # by frame; the rest, such as position embeddings, is made anew by each segment
    for node in nodes:
        if varying.intersection(node.all_input_nodes):
            varying.add(node)
    pieces = []
    for begin, end in itertools.pairwise(cuts):
        later = [n for n in nodes[:end] if n in varying and any(position[user] >= end for user in n.users)]
        outputs = given.get(end, later[::-1])  # what the stage gives comes first
        pieces.append(_piece(whole, [n for n in nodes[begin:end] if n in varying], inputs, outputs))
        inputs = outputs
    return pieces


def _piece(root: nn.Module, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]) -> fx.GraphModule:
    """A module that computes `nodes`; several inputs or outputs are a list."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    copies = {inputs[0]: x}
    if len(inputs) > 1:
        copies = {node: graph.call_function(operator.getitem, (x, i)) for i, node in enumerate(inputs)}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = graph.node_copy(node, copy)
        return copies[node]

    for node in nodes:
        copy(node)
    graph.output([copy(node) for node in outputs] if len(outputs) > 1 else copy(outputs[0]))
    parts = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            part = operator.attrgetter(node.target)(root)
            node.target = node.target.removeprefix("model.")
            parts[node.target] = part
    return fx.GraphModule(parts, graph)


@torch.no_grad()
def _run(model: Any, pieces: Sequence[nn.Module], size: Any) -> list[Any]:
    """What each piece gives for two small images; raises unless that is exactly what the model gives."""
    image, features = _features(model, size)
    found = list(itertools.accumulate(pieces, lambda x, piece: piece(x), initial=image))[1:]
    if not all(isinstance(x, Tensor) and len(x) == len(image) for x in tree_leaves(found)):
        raise InputError("what lies between its stages is not one tensor per frame")
    expected = tree_leaves((features, model.forward_head(features, pre_logits=True)))
    # On the meta device there is nothing to compare; the same model was checked when it was built with values.
    if not image.is_meta and not all(map(torch.equal, tree_leaves(found[-2:]), expected)):
        raise InputError("its stages do not give its features")
    return found


def _features(model: Any, size: Any) -> tuple[Tensor, Activations]:
    """Two images, 64 pixels wide unless the model's size is fixed, and their features."""
    like = next(model.parameters())
    sizes = [size] if size else [64, model.pretrained_cfg["input_size"][1:]]
    for height, width in [(side, side) if isinstance(side, int) else side for side in sizes]:
        image = torch.linspace(-1, 1, 6 * height * width, dtype=like.dtype, device=like.device)
        image = image.view(2, 3, height, width)
        with suppress(Exception):  # a layer that does not fit
            return image, model.forward_features(image)
    raise InputError(f"it takes no images of {' or '.join(map(str, sizes))} pixels")


def _pools(activations: list[Activations], stages: list[dict[str, Any]], prefix: int) -> list[StagePool]:
    """The mean over the image of the first activation of each stage but the last that has the stage's channels."""
    *shallow, features = [tree_leaves(x) for x in activations]
    channels = [info["num_chs"] for info in stages]
    images = all(any(y.shape[1] == c for y in x if y.dim() == 4) for x, c in zip(shallow, channels, strict=False))
    pools = []
    for x, c in zip(shallow, channels, strict=False):
        index = next(i for i, y in enumerate(x) if y.shape[1 if images else -1] == c)
        has_prefix = x[index].dim() == 3 and x[index].shape[1] == features[0].shape[1]
        pools.append(StagePool(index, not images, prefix if has_prefix else 0))
    return pools
