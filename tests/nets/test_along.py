"""A net along another route: the same weights, and what a net built for that route would say."""

import pytest
import torch

from dynvid import ExitNet, UnifiedExitNet
from dynvid.costs import count_gmacs
from dynvid.errors import InputError

ROUTE = [(1, 2), (2, 2), (5, 3), (6, 4)]


def test_another_route_answers_as_a_net_that_was_built_for_it(scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=32)
    built = ExitNet("test_resnet", 5, 6, route=ROUTE, frame_order=net.frame_order, input_size=32).eval()
    built.load_state_dict(net.state_dict())
    other, video = net.along(ROUTE), torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
    route, before = net.route, net.gmacs
    with torch.no_grad():
        torch.testing.assert_close(other(video), built(video))
    assert other.gmacs == pytest.approx(count_gmacs(built))
    assert other.spec()["init_args"]["route"] == [list(e) for e in ROUTE]
    assert all(a is b for a, b in zip(other.parameters(), net.parameters(), strict=True))
    assert (net.route, net.gmacs) == (route, before)
    assert other.along([(6, 4)]).along(route)(video).shape == (4, 2, 5)  # heads that a route passes by are still there


def test_routes_that_do_not_fit_are_refused(scramble_net):
    net = scramble_net(UnifiedExitNet)
    with pytest.raises(InputError, match="no head at depth 1"):
        net.along([(1, 1), (6, 4)])
    with pytest.raises(InputError, match="the route ends at"):
        net.along([(1, 2)])
    with pytest.raises(InputError, match="each exit has its own head"):
        scramble_net(UnifiedExitNet, heads="exit").along(ROUTE)
    with pytest.raises(InputError, match="bidirectional shift looks at later frames"):
        scramble_net(ExitNet, shift="bidirectional").along([(1, 4), (6, 4)])
