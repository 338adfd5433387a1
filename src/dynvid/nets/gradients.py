"""What training does to gradients and statistics on their way through a net; the values stay as they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from dynvid.nets.activations import Activations


def balance_exits(seen: Activations, x: Activations, here: int, ahead: int) -> tuple[Activations, Activations]:
    """Gradient equilibrium: let the exits at a depth weigh as much as each of those that lie deeper.

    Args:
        seen: What the exits at this depth embed.
        x: What goes on to the next segment.
        here: Exits at this depth.
        ahead: Exits at this depth and deeper.

    Returns:
        The same two; the first hands back 1 / ahead of its gradient, the second (ahead - here) / ahead.
    """
    return scale_gradient(seen, 1 / ahead), scale_gradient(x, 1 - here / ahead)


def scale_gradient(x: Activations, factor: float) -> Activations:
    """The same activations, whose gradient is multiplied by `factor` on its way back."""

    def scaled(y: Tensor) -> Tensor:
        y = y.view_as(y)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
        return y

    same: Activations = tree_map(scaled, x)
    return same


def computed_again(segment: nn.Module, run: Callable[[], Activations]) -> Activations:
    """Gradient checkpointing: what `run` gives, computed again on the way back rather than kept.

    Args:
        segment: The module that `run` runs.
        run: Computes; its result must not depend on when it is called.
    """
    contexts = lambda: (nullcontext(), still_statistics(segment))  # noqa: E731
    again: Activations = checkpoint(run, use_reentrant=False, context_fn=contexts)
    return again


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
