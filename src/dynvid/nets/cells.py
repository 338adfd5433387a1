"""All cells of the grid that can carry an exit, whether or not the route passes them."""

from dynvid.costs import CellCosts, counting
from dynvid.nets.activations import Activations
from dynvid.nets.grid import Grid
from dynvid.nets.shift import Frames


def count_cells(net: Grid, depths: tuple[int, ...]) -> CellCosts:
    """What the cells at these depths cost, counted on one frame on its way through all segments.

    Raises:
        ValueError: The net takes no videos of its input size.
    """
    segments, embeddings, heads = [], [], []
    with counting(net, net.input_size) as (shadow, video, so_far):
        x: Activations = shadow.to_frames(video[:, :1])
        passed = 0.0
        for depth in range(1, len(shadow.segments) + 1):
            before = so_far()
            x = shadow.run_segment(depth, x, Frames((True,)))
            passed += so_far() - before
            if depth in depths:
                before = so_far()
                embedded = shadow.embed(depth, x)
                between = so_far()
                shadow.heads[str(depth)](embedded)
                segments.append(passed)
                embeddings.append(between - before)
                heads.append(so_far() - between)
    return CellCosts(depths, tuple(segments), tuple(embeddings), tuple(heads))
