"""Steps as functions of tensors: walked one after the other they are the stream, whatever the route and the videos."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import DepthExitNet, ExitNet, InputExitNet, UnifiedExitNet
from dynvid.errors import InputError, ModeError
from dynvid.inference import Recognizer, export_program
from dynvid.inference.export import export_graphs
from dynvid.inference.runtimes import Program
from dynvid.nets.shift import _joined, _shift
from dynvid.policy import ThresholdPolicy


@st.composite
def cases(draw):
    kind = draw(st.sampled_from([DepthExitNet, InputExitNet, UnifiedExitNet, ExitNet]))
    shift = draw(st.sampled_from(["online", "none"]))
    order = draw(st.sampled_from(["chronological", "thue_morse", "coarse_to_fine"]))
    cells = draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), max_size=3))
    route = [(6, 4)]
    for cell in sorted(cells, reverse=True):
        if cell != route[0] and cell[0] <= route[0][0] and cell[1] <= route[0][1]:
            route.insert(0, cell)
    kept = draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4))
    return kind, shift, order, route, kept


@settings(max_examples=12, deadline=None)
@given(cases())
def test_steps_walked_one_after_the_other_are_the_stream(scramble_net, steps_of, case):
    kind, shift, order, route, kept = case
    net = scramble_net(kind, shift=shift, frame_order=order, route=route, input_size=32)
    video = torch.randint(0, 256, (3, 6, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = net(video)
        stream = Program(net, steps_of(net)).stream(video)
        for position, alive in enumerate(kept[: len(net.route)]):
            torch.testing.assert_close(stream.advance(), expected[position, stream.videos], atol=1e-5, rtol=1e-4)
            alive = torch.tensor(alive)[stream.videos]
            if stream.finished or not alive.any():
                break
            stream.keep(alive)


@given(st.data())
def test_the_shift_of_graphs_is_the_shift(data):
    count, batch, channels = (data.draw(st.integers(1, most)) for most in (5, 3, 6))
    fold = data.draw(st.integers(0, channels // 2))
    moves = data.draw(st.sampled_from([((0, fold, 1),), ((0, fold, -1), (fold, fold, 1))]))
    fresh = tuple(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    x = torch.randn(count * batch, channels, 2, 2)
    goes_on = moves[0][2] == 1 and data.draw(st.booleans())
    first = torch.randn(batch, fold, 2, 2) if goes_on else None
    fresh = fresh if goes_on else (True, *fresh[1:])
    assert torch.equal(_joined(x, first, fresh, 1, moves), _shift(x, first, fresh, 1, moves))


def test_a_program_of_torch_takes_any_number_of_videos(scramble_net):
    net = scramble_net(UnifiedExitNet, route=[(2, 2), (6, 4)], input_size=32)
    programs = [export_program(net, position).module() for position in range(2)]
    for batch in (1, 2, 5):
        video = torch.randint(0, 256, (batch, 6, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            expected = net(video)
            first, *state = programs[0](video[:, net.order[:2]])
            last, *rest = programs[1](video[:, net.order[2:]], *state)
        torch.testing.assert_close(torch.stack([first, last]), expected, atol=1e-5, rtol=1e-4)
        assert rest == []


def test_graphs_hold_no_slice_that_is_written_into(scramble_net):
    net = scramble_net(InputExitNet, route=[(6, 4)], input_size=32)
    called = {str(node.target) for node in export_program(net, 0).graph.nodes if node.op == "call_function"}
    assert "aten.cat.default" in called
    assert not [name for name in called if "scatter" in name or "copy" in name]


def test_what_cannot_be_exported_is_said(scramble_net, tmp_path):
    net = scramble_net(UnifiedExitNet, input_size=32)
    with pytest.raises(InputError, match="runtime is 'tensorrt': use onnx or openvino"):
        export_graphs(net, tmp_path, "tensorrt")
    with pytest.raises(ModeError, match="exported in eval mode"):
        export_program(UnifiedExitNet("test_resnet", num_classes=5, num_frames=4, input_size=32), 0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pool_takes_a_program_for_a_net(scramble_net, tmp_path, batch_size, steps_of):
    from PIL import Image

    net = scramble_net(UnifiedExitNet, input_size=32)
    folders = []
    for clip in range(9):
        folders.append(tmp_path / f"clip_{clip}")
        folders[-1].mkdir()
        for frame in range(7):
            noise = torch.randint(0, 40 + 20 * clip, (40, 40, 3), dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(folders[-1] / f"{frame}.png")
    plain = Recognizer(net)
    scores = sorted(passed.probability for found in plain.many(folders) for passed in found.trace[:-1])
    policy = ThresholdPolicy(thresholds=[scores[len(scores) * 3 // 4]] * 3 + [0.0])  # some leave everywhere
    expected = list(Recognizer(net, policy).many(folders, batch_size))
    found = list(Recognizer(Program(net, steps_of(net)), policy).many(folders, batch_size))
    assert len({one.exit for one in expected}) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.exit, one.gmacs, one.path) == (other.label, other.exit, other.gmacs, other.path)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_a_program_refuses_what_its_graphs_would(scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=32)
    program = Program(net, [len] * 4)
    with pytest.raises(InputError, match=r"video is torch.float32 .*takes uint8"):
        program.stream(torch.zeros(1, 6, 3, 32, 32))
    with pytest.raises(InputError, match="3 graphs for 4 exits"):
        Program(net, [len] * 3)
    with pytest.raises(InputError, match="give batch"):
        program.stream(lambda rows, frames: rows)
    walks = [program.stream(torch.zeros(1, 6, 3, 32, 32, dtype=torch.uint8)) for _ in range(2)]
    walks[0].position = 1
    with pytest.raises(InputError, match="stand at the same exit"):
        walks[0].join(walks, lambda rows, frames: rows)
