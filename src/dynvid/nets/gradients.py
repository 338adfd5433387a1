"""What training does to gradients and statistics on their way through a net."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


def scale_gradient(x: Any, factor: float) -> Any:
    """The same activations, a tensor or lists of them, whose gradient is multiplied by `factor` on its way back."""

    def scaled(y: Tensor) -> Tensor:
        y = y.view_as(y)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
        return y

    return tree_map(scaled, x)


@contextmanager
def still_statistics(segment: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm as they are: computing again must not count a batch twice."""
    norms = [m for m in segment.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
