"""Every cell answers what the net answers there along any route, and every route costs the sum of its cells."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import ExitNet, UnifiedExitNet

FRAMES, DEPTHS = 6, (1, 2, 3, 4)
CLOSE = {"atol": 1e-5, "rtol": 0.0}  # absolute, on logits of order 1


@st.composite
def routes(draw, depths):
    cells = draw(st.lists(st.tuples(st.integers(1, FRAMES), st.sampled_from(depths)), max_size=5))
    frames, ascending = sorted(n for n, _ in cells), sorted(d for _, d in cells)
    return list(dict.fromkeys([*zip(frames, ascending, strict=True), (FRAMES, depths[-1])]))


@st.composite
def depths_and_route(draw):
    """Depths that have a head, the last among them, and a route over some of these."""
    depths = (*sorted(draw(st.sets(st.sampled_from(DEPTHS[:-1])))), DEPTHS[-1])
    return depths, draw(routes(depths))


def along(net, route):
    """A net with the same weights and another route, built anew."""
    arguments = net.spec()["init_args"] | {"route": route}
    other = ExitNet(**arguments).eval()
    weights = net.state_dict()
    other.load_state_dict({name: weights[name] for name in other.state_dict()})
    return other


@settings(max_examples=60, deadline=None)
@given(
    found=depths_and_route(),
    order=st.sampled_from(["chronological", "thue_morse", "coarse_to_fine"]),
    shift=st.sampled_from(["online", "none"]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@pytest.mark.slow
def test_cells_are_what_any_route_answers(scramble_net, found, order, shift, batch, seed):
    depths, route = found
    torch.manual_seed(seed)
    net = scramble_net(ExitNet, route=[(FRAMES, d) for d in depths], frame_order=order, shift=shift)
    other = along(net, route)
    video = torch.randn(batch, FRAMES, 3, 32, 32)
    with torch.no_grad():
        cells = net.cells(video)
        stream, full = other.stream(video), other(video)
        walked = [stream.advance() for _ in route]
    assert cells.shape == (FRAMES, len(depths), batch, 5)
    assert cells.abs().max() > 0.01
    assert net.head_depths == depths
    for k, (n, d) in enumerate(route):
        cell = cells[n - 1, depths.index(d)]
        torch.testing.assert_close(cell, full[k], **CLOSE)
        torch.testing.assert_close(cell, walked[k], **CLOSE)


def test_no_two_cells_answer_the_same(scramble_net):
    """Else the test before could not tell them apart."""
    net = scramble_net(UnifiedExitNet)
    with torch.no_grad():
        cells = net.cells(torch.randn(1, FRAMES, 3, 32, 32)).flatten(0, 1).flatten(1)
    apart = torch.cdist(cells, cells) + torch.eye(len(cells))
    assert apart.min() > 10 * CLOSE["atol"]


@cache
def net_along(name, route, order="chronological"):
    backbone_args = {"img_size": 32, "depth": 4} if name == "test_vit3" else {}  # its embedding has products
    arguments = {"num_classes": 5, "num_frames": FRAMES, "input_size": 32, "backbone_args": backbone_args}
    return ExitNet(name, route=route, frame_order=order, **arguments)


@settings(max_examples=12, deadline=None)
@given(route=routes(DEPTHS[1:]).map(tuple), order=st.sampled_from(["chronological", "thue_morse"]))
@pytest.mark.parametrize("name", ["test_resnet", "test_vit3"])
@pytest.mark.slow
def test_costs_of_cells_add_up_to_those_of_any_route(name, route, order):
    costs = net_along(name, tuple((FRAMES, d) for d in DEPTHS[1:])).cell_costs
    assert costs.of(route) == pytest.approx(net_along(name, route, order).gmacs, rel=1e-9)


def test_full_inference_costs_what_one_exit_costs():
    net = net_along("test_resnet", ((2, 2), (FRAMES, 4)))
    assert net.cell_costs.of([(FRAMES, 4)])[0] == pytest.approx(net.full_gmacs, rel=1e-9)


@pytest.mark.slow
def test_msdnet_embeds_at_a_price():
    """Its heads are convolutions on every frame: method.md's table, in millions per frame of 224 x 224."""
    net = ExitNet("msdnet38", num_classes=400, num_frames=2, shift="none", route=[(2, d) for d in range(1, 6)])
    costs = net.cell_costs
    between = [b - a for a, b in zip((0.0, *costs.segments), costs.segments, strict=False)]
    assert [1000 * x for x in between] == pytest.approx([551.7, 744.4, 778.4, 632.8, 113.8], abs=0.1)
    heads = [e + h for e, h in zip(costs.embeddings, costs.heads, strict=True)]
    assert [1000 * x for x in heads] == pytest.approx([60.0, 74.0, 66.8, 50.4, 171.9], abs=0.1)


def test_what_has_no_cells_says_so(scramble_net):
    video = torch.zeros(1, FRAMES, 3, 32, 32)
    with pytest.raises(ValueError, match="own head"):
        scramble_net(UnifiedExitNet, heads="exit").cells(video)
    with pytest.raises(ValueError, match="own head"):
        scramble_net(UnifiedExitNet, heads="exit").cell_costs  # noqa: B018
    with pytest.raises(ValueError, match="only full inference"):
        scramble_net(ExitNet, shift="bidirectional").cells(video)
    with pytest.raises(RuntimeError, match="eval mode"):
        scramble_net(UnifiedExitNet).train().cells(video)
    with pytest.raises(ValueError, match=r"takes \(B, 6, 3, H, W\)"):
        scramble_net(UnifiedExitNet).cells(video[:, :2])


def test_one_frame_alone_may_look_ahead():
    net = ExitNet("test_resnet", num_classes=5, num_frames=1, shift="bidirectional").eval()
    video = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.cells(video)[0], net(video))
