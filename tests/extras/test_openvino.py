"""Graphs that OpenVINO runs answer as torch does; in int8 they have thresholds, and a promise, of their own."""

import json

import numpy as np
import pytest
import torch

from dynvid import DepthExitNet, InputExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.calibration import OperatingPoint
from dynvid.checkpoint import read_checkpoint
from dynvid.cli import main
from dynvid.errors import InputError
from dynvid.inference import Recognizer
from dynvid.inference.runtimes import load_program

pytestmark = pytest.mark.extra
NETS = {
    "depth": (DepthExitNet, [(6, 2), (6, 4)], "online"),
    "input": (InputExitNet, [(1, 4), (6, 4)], "none"),
    "unified": (UnifiedExitNet, [(2, 2), (6, 4)], "online"),
}
POINT = OperatingPoint("max_drop", 0.01, 0.95, "val", 400, 400, lost=0.0025, gmacs=0.03)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_noise):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(24):
        write_noise(folder / f"{seed}.mp4", seed, frames=12, gop=250, most=10 * (seed + 1))
    return sorted(folder.iterdir())


def made(scramble, clips, name, folder):
    torch.manual_seed(0)
    cls, route, shift = NETS[name]
    net = scramble(cls("test_resnet", num_classes=5, num_frames=6, input_size=32, route=route, shift=shift))
    passed = [found.trace for found in Recognizer(net).many(clips)]
    middle = [float(np.median([trace[k].probability for trace in passed])) for k in range(len(route) - 1)]
    policy = ThresholdPolicy(thresholds=[*middle, 0.0], temperatures=[1.0] * (len(route) - 1) + [2.0])
    recognizer = Recognizer(net, policy, list("abcde"), point=POINT)
    recognizer.save(folder, runtimes=["openvino"])
    return recognizer


@pytest.mark.parametrize("name", NETS)
def test_labels_and_exits_are_those_of_torch_with_whoever_is_left(scramble, clips, tmp_path, name):
    recognizer = made(scramble, clips, name, tmp_path / "model")
    expected = list(recognizer.many(clips, 4))
    found = list(Recognizer.load(tmp_path / "model", runtime="openvino").many(clips, 4))
    assert len({one.exit for one in expected}) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.exit, one.gmacs) == (other.label, other.exit, other.gmacs)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
    net = recognizer.net
    program = load_program(tmp_path / "model", net, "openvino", "float32", "default", "cpu")[0]
    for batch in (1, 7):
        video = torch.randint(0, 256, (batch, 6, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            expected = net(video)
        stream = program.stream(video)
        for position in range(len(net.route)):
            torch.testing.assert_close(stream.advance(), expected[position, stream.videos], atol=1e-4, rtol=1e-3)
            if len(stream.videos) > 1:
                stream.keep(torch.arange(len(stream.videos)) % 3 != 1)


def test_int8_has_a_promise_of_its_own_and_never_that_of_float32(scramble, clips, tmp_path, capsys):
    made(scramble, clips, "unified", tmp_path / "model")
    call = ["export", str(tmp_path / "model"), str(tmp_path / "new"), "--int8", str(clips[0].parent)]
    for options in (["--max-disagreement", "0.25"], ["--max-disagreement", "0.01"]):
        with pytest.raises(SystemExit) as ended:
            main([*call[:2], f"{call[2]}{options[1]}", *call[3:], *options])
        assert ended.value.code == 0
    assert "% of labels the same, logits differ by" in capsys.readouterr().out
    few = Recognizer.load(tmp_path / "new0.01", runtime="openvino", precision="int8")
    assert few.point.full_inference  # so few videos promise nothing
    assert few.policy.thresholds.tolist() == [float("inf"), float("-inf")]
    int8 = Recognizer.load(tmp_path / "new0.25", runtime="openvino", precision="int8")
    assert (int8.point.rule, int8.point.target, int8.recipe.precision) == ("max_disagreement", 0.25, "int8")
    assert int8.policy.temperatures == (1.0, 2.0)
    assert Recognizer.load(tmp_path / "new0.25", runtime="openvino").point == POINT
    assert Recognizer.load(tmp_path / "new0.25").point == POINT
    graphs = json.loads((tmp_path / "new0.25" / "config.json").read_text())["int8"]
    found = list(int8.many(clips, 8))
    expected = list(Recognizer.load(tmp_path / "new0.25").many(clips, 8))
    pairs = zip(found, expected, strict=True)
    differences = [abs(one.trace[0].probability - other.trace[0].probability) for one, other in pairs]
    assert 0 < max(differences) < 0.3  # it is int8 that was run, of the same net
    # What float32 and int8 say of the same clips is counted on the clips that calibrated.
    assert graphs["videos"] < len(clips)
    assert read_checkpoint(tmp_path / "new0.25")["dynvid"]["operating_point"]["target"] == 0.01
    int8.save(tmp_path / "again")
    for precision, like in (("int8", int8), ("float32", Recognizer.load(tmp_path / "new0.25"))):
        again = Recognizer.load(tmp_path / "again", runtime="openvino", precision=precision)
        assert torch.equal(again.policy.thresholds, like.policy.thresholds)
        assert again.point == like.point
    int8.policy.thresholds[0] = 0.75
    with pytest.raises(InputError, match=r"new0.25: thresholds changed by hand: its int8 graphs"):
        int8.save(tmp_path / "changed")


def test_graphs_that_are_damaged_are_refused_in_one_line(scramble, clips, tmp_path):
    made(scramble, clips, "depth", tmp_path / "model")
    for name in ("step_1.xml", "step_1.bin"):
        path = tmp_path / "model" / "openvino" / name
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"step_1.xml: ") as caught:
                Recognizer.load(tmp_path / "model", runtime="openvino")
            assert len(str(caught.value).splitlines()) == 1
        path.write_bytes(whole)
    (tmp_path / "model" / "openvino" / "step_2.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"step_2.xml: no such graph; `dynvid export .* --runtime openvino`"):
        Recognizer.load(tmp_path / "model", runtime="openvino")
