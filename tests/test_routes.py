import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.routes import Exit, check_route, depth_route, frame_groups, input_route, unified_route

# Figure 2 of Wu et al., CVPRW 2020, panel by panel.
FIGURE_2 = {
    depth_route: [(8, 1), (8, 2), (8, 3), (8, 4), (8, 5)],
    input_route: [(1, 5), (2, 5), (4, 5), (8, 5)],
    unified_route: [(2, 1), (2, 2), (4, 3), (4, 4), (4, 5), (8, 5)],
}


@pytest.mark.parametrize("make", FIGURE_2)
def test_routes_of_figure_2(make):
    assert list(make(8, 5)) == FIGURE_2[make]


def test_resnet_default_has_exits_from_depth_2():
    assert list(unified_route(16, (2, 3, 4))) == [(4, 2), (8, 3), (8, 4), (16, 4)]


@given(st.integers(1, 64), st.integers(1, 6), st.sampled_from(list(FIGURE_2)))
def test_constructors_give_valid_routes(num_frames, depths, make):
    route = make(num_frames, depths)
    assert check_route(route, num_frames, depths) == route


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ([], "no exits"),
        ([(0, 1), (4, 2)], "frames between 1 and 4"),
        ([(5, 1), (4, 2)], "frames between 1 and 4"),
        ([(1, 3), (4, 2)], "depth between 1 and 2"),
        ([(4, 1), (2, 2), (4, 2)], "exit 2 (2, 2) after (4, 1) goes back"),
        ([(2, 2), (4, 1), (4, 2)], "exit 2 (4, 1) after (2, 2) goes back"),
        ([(2, 1), (2, 1), (4, 2)], "stands still"),
        ([(2, 1), (4, 1)], "last exit must be full inference, (4, 2)"),
        ([(2,), (4, 2)], "not a pair"),
        ([(2.0, 1), (4, 2)], "not a pair"),
    ],
)
def test_invalid_route_says_what_is_wrong(route, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_route(route, num_frames=4, num_depths=2)


def test_valid_hand_written_route_is_kept():
    assert check_route([[1, 1], [3, 1], [3, 2]], 3, 2) == (Exit(1, 1), Exit(3, 1), Exit(3, 2))


@pytest.mark.parametrize("depths", [0, [], (3, 2), (0, 1), (2, 2)])
def test_depths_must_ascend(depths):
    with pytest.raises(ValueError, match="depths"):
        depth_route(8, depths)


def test_thue_morse_split_of_the_paper():
    assert frame_groups(8, "thue_morse") == ((0, 3, 5, 6), (1, 2, 4, 7))
    first = {0, 3, 5, 6, 9, 10, 12, 15}
    assert set(frame_groups(16, "thue_morse")[0]) == first
    assert set(frame_groups(16, "thue_morse")[1]) == set(range(16)) - first


@given(st.integers(1, 64), st.sampled_from(["chronological", "thue_morse", "coarse_to_fine"]))
def test_groups_hold_each_frame_once_in_chronological_order(num_frames, scheme):
    groups = frame_groups(num_frames, scheme)
    assert sorted(t for group in groups for t in group) == list(range(num_frames))
    assert all(list(group) == sorted(group) and group for group in groups)


@given(st.integers(4, 64))
def test_thue_morse_halves_are_even_and_span_the_clip(num_frames):
    first, second = frame_groups(num_frames, "thue_morse")
    assert abs(len(first) - len(second)) <= 1
    for group in (first, second):
        assert max(b - a for a, b in itertools.pairwise(group)) <= 3
        assert group[0] <= 1
        assert group[-1] >= num_frames - 3


def test_unknown_order_and_empty_clip():
    with pytest.raises(ValueError, match="thue_morse"):
        frame_groups(8, "random")
    with pytest.raises(ValueError, match="at least one"):
        frame_groups(0, "chronological")
