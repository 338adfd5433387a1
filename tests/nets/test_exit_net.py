"""The invariants that everything else stands on."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid import DepthExitNet, ExitNet, InputExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.nets import net_from_spec

FRAMES, DEPTHS, CLASSES = 6, 4, 5
# Absolute, on logits of order 1.
CLOSE = {"atol": 1e-5, "rtol": 0.0}


@st.composite
def routes(draw):
    cells = draw(st.lists(st.tuples(st.integers(1, FRAMES), st.integers(1, DEPTHS)), max_size=5))
    frames, depths = sorted(n for n, _ in cells), sorted(d for _, d in cells)
    return list(dict.fromkeys([*zip(frames, depths, strict=True), (FRAMES, DEPTHS)]))


def walk(net, video):
    stream = net.stream(video)
    with torch.no_grad():
        return torch.stack([stream.advance() for _ in net.route])


@settings(max_examples=150, deadline=None)
@given(
    route=routes(),
    order=st.sampled_from(["chronological", "thue_morse", "coarse_to_fine"]),
    shift=st.sampled_from(["online", "none"]),
    heads=st.sampled_from(["depth", "exit"]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_progressive_equals_full(scramble_net, route, order, shift, heads, batch, seed):
    torch.manual_seed(seed)
    net = scramble_net(ExitNet, route=route, frame_order=order, shift=shift, heads=heads)
    video = torch.randn(batch, FRAMES, 3, 32, 32)
    with torch.no_grad():
        full = net(video)
    assert full.abs().max() > 0.01
    torch.testing.assert_close(walk(net, video), full, **CLOSE)


@pytest.mark.parametrize(
    "name", ["regnetx_002", "mobilenetv2_035", "mobilenetv3_small_050", "efficientnet_b0", "test_convnext"]
)
@pytest.mark.parametrize("cls", [DepthExitNet, InputExitNet, UnifiedExitNet])
def test_progressive_equals_full_on_every_family(scramble, name, cls):
    net = scramble(cls(name, num_classes=CLASSES, num_frames=4))
    video = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        full = net(video)
    torch.testing.assert_close(walk(net, video) / full.std(), full / full.std(), **CLOSE)


@settings(max_examples=15, deadline=None)
@given(route=routes(), order=st.sampled_from(["chronological", "thue_morse"]), t=st.integers(0, FRAMES - 1))
def test_later_frames_never_change_earlier_exits(scramble_net, route, order, t):
    net = scramble_net(ExitNet, route=route, frame_order=order)
    video = torch.randn(1, FRAMES, 3, 32, 32)
    changed = video.clone()
    changed[:, net.order[t]] += 1
    with torch.no_grad():
        before, after = net(video), net(changed)
    for k, e in enumerate(net.route):
        if e.frames <= t:
            assert torch.equal(before[k], after[k])
        else:
            assert not torch.equal(before[k], after[k])


def test_nothing_crosses_a_group_boundary(scramble_net):
    """With a group of its own, the last frame of a clip gets the logits that it gets alone."""
    net = scramble_net(UnifiedExitNet)
    second = net.fresh.index(True, 1)  # the first frame of the second group
    from dynvid.nets.shift import Frames

    frames = net.to_frames(torch.randn(1, FRAMES, 3, 32, 32)[:, net.order])
    together, alone = frames, frames[second : second + 1]
    with torch.no_grad():
        for depth in range(1, DEPTHS + 1):
            together = net.run_segment(depth, together, Frames(net.fresh))
            alone = net.run_segment(depth, alone, Frames((True,)))
    torch.testing.assert_close(together[second : second + 1], alone, **CLOSE)
    assert not torch.allclose(together[second + 1], alone[0], atol=1e-3)


def test_interleaved_streams_and_threads_do_not_disturb_each_other(scramble_net):
    net = scramble_net(UnifiedExitNet)
    videos = [torch.randn(2, FRAMES, 3, 32, 32) for _ in range(2)]
    alone = [walk(net, video) for video in videos]
    streams = [net.stream(video) for video in videos]
    with torch.no_grad():
        taken = [[stream.advance() for stream in streams] for _ in net.route]
    for i in range(2):
        assert torch.equal(torch.stack([pair[i] for pair in taken]), alone[i])
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: walk(net, videos[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], alone[i]) for i in range(2))


@settings(max_examples=60, deadline=None)
@given(route=routes(), seed=st.integers(0, 999), order=st.sampled_from(["chronological", "thue_morse"]))
def test_batched_predictions_equal_single_ones_and_the_offline_choice(scramble_net, route, seed, order):
    torch.manual_seed(seed)
    net = scramble_net(ExitNet, route=route, frame_order=order)
    video = torch.randn(4, FRAMES, 3, 32, 32)
    with torch.no_grad():
        logits = net(video)
    policy = ThresholdPolicy(len(net.route))
    # Thresholds between the scores that occur, so that rounding decides nothing.
    scores = policy.score(logits).sort(dim=1).values
    policy.thresholds.copy_((scores[:, 1] + scores[:, 2]) / 2)
    found = net.predict(video, policy)
    assert torch.equal(found.exit, policy.choose(logits))
    chosen = logits[found.exit, torch.arange(4)]
    assert torch.equal(found.label, chosen.argmax(-1))
    torch.testing.assert_close(found.probability, chosen.softmax(-1).amax(-1), **CLOSE)
    for i in range(4):
        one = net.predict(video[i : i + 1], policy)
        assert (one.label.item(), one.exit.item()) == (found.label[i].item(), found.exit[i].item())


class PolicyOf(ThresholdPolicy):
    """Sends each video of a batch to the exit it is told; videos are told by their first pixel."""

    def __init__(self, exits_of):
        super().__init__(4)
        self.exits_of = exits_of

    def confident(self, position, logits):
        done = torch.tensor([e == position for e in self.exits_of])
        self.exits_of = [e for e in self.exits_of if e != position]
        return done


def test_modules_are_not_run_for_finished_videos(scramble_net):
    net = scramble_net(UnifiedExitNet)  # (1, 2) (3, 3) (3, 4) (6, 4)
    assert [tuple(e) for e in net.route] == [(1, 2), (3, 3), (3, 4), (6, 4)]
    images = [0] * DEPTHS
    for d, segment in enumerate(net.segments):
        segment.register_forward_hook(lambda _, args, out, d=d: images.__setitem__(d, images[d] + len(args[0])))
    heads = []
    for head in net.heads.values():
        head.register_forward_hook(lambda _, args, out: heads.append(len(args[0])))
    net.predict(torch.randn(5, FRAMES, 3, 32, 32), PolicyOf([0, 3, 1, 0, 2]))
    # Videos that leave at exits 0, 1, 2, 3 need 1, 3, 3, 6 frames of segments 1 and 2, and so on.
    assert images == [2 * 1 + 3 + 3 + 6, 2 * 1 + 3 + 3 + 6, 3 + 3 + 6, 3 + 6]
    assert heads == [5, 3, 2, 1]


def test_frames_are_read_only_when_an_exit_needs_them(scramble_net):
    net = scramble_net(UnifiedExitNet)
    video, read = torch.randn(3, FRAMES, 3, 32, 32), []

    def source(videos, frames):
        read.append((videos.tolist(), frames))
        return video[videos][:, frames]

    net.predict(source, PolicyOf([1, 0, 3]), batch=3)
    order = net.order
    assert read == [([0, 1, 2], order[:1]), ([0, 2], order[1:3]), ([2], order[3:])]


def test_full_inference_evaluates_the_last_head_only(scramble_net):
    net = scramble_net(UnifiedExitNet)
    video = torch.randn(2, FRAMES, 3, 32, 32)
    stream = net.stream(video, exits=[-1])
    with torch.no_grad():
        torch.testing.assert_close(stream.advance(), net(video)[-1], **CLOSE)
    assert stream.finished
    with pytest.raises(StopIteration):
        stream.advance()


def test_uint8_is_normalised_by_the_net(scramble_net):
    net = scramble_net(UnifiedExitNet)
    video = torch.randint(0, 256, (1, FRAMES, 3, 32, 32), dtype=torch.uint8)
    by_hand = (video / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    net.mean.copy_(torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
    net.std.copy_(torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(net(video), net(by_hand), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("resnet50", 29_124_848), ("resnet101", 48_116_976)])
def test_published_parameter_counts(name, count):
    net = UnifiedExitNet(name, num_classes=400, num_frames=16)
    assert sum(p.numel() for p in net.parameters()) == count
    assert [tuple(e) for e in net.route] == [(4, 2), (8, 3), (8, 4), (16, 4)]


def test_shift_count_of_the_resnets():
    shifts = [sum("Shift" in type(m).__name__ for m in ExitNet(name).modules()) for name in ("resnet50", "resnet101")]
    assert shifts == [16, 2 + 2 + 12 + 2]  # every block; every second one, as TSM


def test_one_head_per_exit():
    by_depth, by_exit = (UnifiedExitNet("test_resnet", num_classes=5, num_frames=8, heads=h) for h in ("depth", "exit"))
    assert (len(by_depth.heads), len(by_exit.heads)) == (3, 4)


def test_spec_rebuilds_the_net(scramble_net):
    net = scramble_net(InputExitNet, shift_div=4)
    again = net_from_spec(net.spec())
    again.load_state_dict(net.state_dict())
    video = torch.randn(1, FRAMES, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(video), net(video))
    assert type(again) is InputExitNet


def test_spec_of_an_unknown_class_is_not_imported():
    with pytest.raises(ValueError, match=r"os\.system"):
        net_from_spec({"class_path": "os.system", "init_args": {}})


@pytest.mark.parametrize(
    "arguments",
    [{"backbone": "hf-hub:someone/net"}, {"backbone_args": {"checkpoint_path": "x"}}, {"pretrained": "x"}],
)
def test_spec_that_would_fetch_weights_is_refused(arguments):
    spec = ExitNet("test_resnet", num_classes=5, num_frames=1).spec()
    spec["init_args"] |= arguments
    with pytest.raises(ValueError, match="it is refused"):
        net_from_spec(spec)


def test_a_net_around_an_own_backbone_says_that_it_cannot_describe_itself():
    from dynvid.nets.stages import TimmBackbone

    net = ExitNet(TimmBackbone("test_resnet"), num_classes=5, num_frames=2)
    with pytest.raises(ValueError, match=r"override spec\(\)"):
        net.spec()


def test_spec_is_plain_data():
    with pytest.raises(ValueError, match="plain data"):
        ExitNet("test_resnet", backbone_args={"act_layer": torch.nn.ReLU6})


def test_a_copy_is_independent(scramble_net):
    net = scramble_net(UnifiedExitNet)
    other = copy.deepcopy(net)
    video = torch.randn(1, FRAMES, 3, 32, 32)
    assert torch.equal(walk(other, video), walk(net, video))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"backbone": "resnet51"}, "no model 'resnet51'"),
        ({"route": [(4, 2)]}, "last exit must be full inference"),
        ({"shift": "bidirectional"}, "needs all frames"),
        ({"shift": "sideways"}, "unknown shift"),
        ({"frame_order": "random"}, "unknown frame order"),
        ({"backbone": "densenet121", "shift": "online"}, "no residual branch"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        UnifiedExitNet(**({"backbone": "test_resnet", "num_classes": 5, "num_frames": 8} | arguments))


def test_bad_calls_say_what_is_wrong(scramble_net):
    net = scramble_net(UnifiedExitNet)
    with pytest.raises(ValueError, match=r"takes \(B, 6, 3, H, W\)"):
        net(torch.zeros(1, 3, FRAMES, 32, 32))
    with pytest.raises(ValueError, match="2 thresholds, the route 4 exits"):
        net.predict(torch.zeros(1, FRAMES, 3, 32, 32), ThresholdPolicy(2))
    with pytest.raises(ValueError, match="give batch"):
        net.stream(lambda videos, frames: None)
    with pytest.raises(ValueError, match="a walk goes forward"):
        net.stream(torch.zeros(1, FRAMES, 3, 32, 32), exits=[-1, 0])
    with pytest.raises(RuntimeError, match="eval mode"):
        net.train().predict(torch.zeros(1, FRAMES, 3, 32, 32), ThresholdPolicy(4))


def test_training_reaches_every_parameter():
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=4)
    net(torch.randn(2, 4, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
