"""Graphs that ONNX Runtime runs answer as torch does, along every kind of route, on files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dynvid import DepthExitNet, InputExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.cli import main
from dynvid.errors import InputError
from dynvid.inference import Recognizer, parts_of
from dynvid.inference.runtimes import load_program

pytestmark = pytest.mark.extra
EXAMPLES = Path(__file__).parents[2] / "examples"
NETS = {
    "depth": (DepthExitNet, [(6, 2), (6, 4)], "online"),
    "input": (InputExitNet, [(1, 4), (6, 4)], "online"),
    "unified": (UnifiedExitNet, [(2, 2), (4, 3), (6, 4)], "online"),
    "no shift": (UnifiedExitNet, [(2, 2), (6, 4)], "none"),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write_noise):
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(10):
        write_noise(folder / f"{seed}.mp4", seed, frames=12, gop=250, most=25 * (seed + 1))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=NETS)
def model(request, scramble, clips, tmp_path_factory):
    """A net in torch, and the folder that it was exported to; thresholds let some clips leave at each exit."""
    torch.manual_seed(0)
    cls, route, shift = NETS[request.param]
    net = scramble(cls("test_resnet", num_classes=5, num_frames=6, input_size=32, route=route, shift=shift))
    passed = [found.trace for found in Recognizer(net).many(clips)]
    middle = [float(np.median([trace[k].probability for trace in passed])) for k in range(len(route) - 1)]
    recognizer = Recognizer(net, ThresholdPolicy(thresholds=[*middle, 0.0]), list("abcde"))
    folder = tmp_path_factory.mktemp("models") / "model"
    recognizer.save(folder, runtimes=["onnx"])
    return recognizer, folder


@pytest.mark.parametrize("batch_size", [1, 4])
def test_labels_and_exits_are_those_of_torch(model, clips, batch_size):
    recognizer, folder = model
    expected = list(recognizer.many(clips, batch_size))
    found = list(Recognizer.load(folder, runtime="onnx").many(clips, batch_size))
    assert len({one.exit for one in expected}) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.label, one.exit, one.gmacs) == (other.label, other.exit, other.gmacs)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_batches_of_any_size_go_on_with_whoever_is_left(model):
    recognizer, folder = model
    net = recognizer.net
    program = load_program(folder, net, "onnx", "float32", "default", "cpu")[0]
    for batch in (1, 2, 7):
        video = torch.randint(0, 256, (batch, 6, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            expected = net(video)
        stream = program.stream(video)
        for position in range(len(net.route)):
            torch.testing.assert_close(stream.advance(), expected[position, stream.videos], atol=1e-4, rtol=1e-3)
            if len(stream.videos) > 1:
                stream.keep(torch.arange(len(stream.videos)) % 3 != 1)
    assert stream.finished


def test_graphs_that_are_damaged_or_of_another_step_are_refused_in_one_line(model):
    recognizer, folder = model
    first, last = folder / "onnx" / "step_1.onnx", folder / "onnx" / f"step_{len(recognizer.net.route)}.onnx"
    whole = first.read_bytes()
    try:
        for content in (b"", whole[:1000], b"\0" * 1000, last.read_bytes()):
            first.write_bytes(content)
            with pytest.raises(InputError, match=r"step_1.onnx: ") as caught:
                Recognizer.load(folder, runtime="onnx")
            assert len(str(caught.value).splitlines()) == 1
    finally:
        first.write_bytes(whole)


def test_graphs_of_the_weights_that_were_replaced_are_refused_until_there_are_new_ones(scramble, tmp_path):
    nets = [DepthExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32, route=[(6, 4)]) for _ in "ab"]
    for net, name in zip(nets, "ab", strict=True):
        Recognizer(scramble(net)).save(tmp_path / name, runtimes=["onnx"])
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="a: its graphs are of other weights"):
        Recognizer.load(tmp_path / "a", runtime="onnx")
    Recognizer.load(tmp_path / "a").save(tmp_path / "c", runtimes=["onnx"])
    video = torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
    found = [Recognizer.load(tmp_path / name, runtime="onnx").net.stream(video).advance() for name in "cb"]
    torch.testing.assert_close(*found)


def written(path, dtype, values):
    """A graph that takes frames and gives these numbers, one row for each video."""
    import onnx
    from onnx import helper

    kind, batch = getattr(onnx.TensorProto, dtype), helper.make_tensor_value_info
    nodes = [
        helper.make_node("Shape", ["frames"], ["videos"], start=0, end=1),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("", onnx.TensorProto.INT64, [1], [1])),
        helper.make_node("Constant", [], ["row"], value=helper.make_tensor("", kind, [1, len(values)], values)),
        helper.make_node("Concat", ["videos", "one"], ["times"], axis=0),
        helper.make_node("Tile", ["row", "times"], ["logits"]),
    ]
    frames = batch("frames", onnx.TensorProto.UINT8, ["b", 6, 3, 32, 32])
    graph = helper.make_graph(nodes, "g", [frames], [batch("logits", kind, ["b", len(values)])])
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [("FLOAT", range(9), r"float32 \(2, 9\)"), ("FLOAT", [1.0], r"float32 \(2, 1\)"), ("INT32", range(5), "int32")],
)
def test_graphs_that_give_no_logits_of_this_net_are_named(scramble, clips, tmp_path, runtime, dtype, values, said):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    net = scramble(DepthExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32, route=[(6, 4)]))
    Recognizer(net).save(tmp_path / "model", runtimes=["onnx"])
    written(tmp_path / "model" / "onnx" / "step_1.onnx", dtype, values)
    recognizer = Recognizer.load(tmp_path / "model", runtime=runtime)
    with pytest.raises(InputError, match=rf"step_1.onnx: gives logits {said}.* not float32 \(2, 5\)") as caught:
        recognizer.net.stream(torch.zeros(2, 6, 3, 32, 32, dtype=torch.uint8)).advance()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("number", [b"\x08", b"\x88\x00", b"\x88\x80\x80\x80\x00"])  # 8, as protobuf may write it
def test_a_graph_that_names_other_files_is_refused(scramble, tmp_path, monkeypatch, runtime, number):
    import onnxruntime
    from onnx import TensorProto, helper

    if runtime == "openvino":
        pytest.importorskip("openvino")

    def field(kind, content):
        assert len(content) < 128
        return bytes([kind << 3 | 2, len(content)]) + content

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.arange(5, dtype=np.float32).tobytes())
    entry = b"\x0a" + number + b"location" + field(2, b"secret")
    tensor = b"\x08\x05\x10\x01" + field(8, b"w") + field(13, entry) + b"\x70\x01"
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5]).SerializeToString()
    graph = field(1, helper.make_node("Max", ["w"], ["y"]).SerializeToString()) + field(2, b"g") + field(5, tensor)
    model = b"\x08\x09" + field(8, helper.make_opsetid("", 17).SerializeToString()) + field(7, graph + field(12, value))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert session.run(None, {})[0].tolist() == [0, 1, 2, 3, 4]  # a runtime would read it
    net = scramble(DepthExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32, route=[(6, 4)]))
    Recognizer(net).save(tmp_path / "model", runtimes=["onnx"])
    (tmp_path / "model" / "onnx" / "step_1.onnx").write_bytes(model)
    with pytest.raises(InputError, match=r"step_1.onnx: names a file of weights beside it"):
        Recognizer.load(tmp_path / "model", runtime=runtime)


def test_another_format_of_the_runtime_is_refused(scramble, tmp_path):
    import onnxruntime

    net = scramble(DepthExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32, route=[(6, 4)]))
    Recognizer(net).save(tmp_path / "model", runtimes=["onnx"])
    path = tmp_path / "model" / "onnx" / "step_1.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "step.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    path.write_bytes((tmp_path / "step.ort").read_bytes())
    with pytest.raises(InputError, match=r"step_1.onnx: cannot be read by ONNX Runtime"):
        Recognizer.load(tmp_path / "model", runtime="onnx")


def test_the_command_writes_graphs_and_takes_them_along(model, tmp_path, capsys):
    _, folder = model
    with pytest.raises(SystemExit) as ended:
        main(["export", str(folder), str(tmp_path / "again")])
    assert ended.value.code == 0
    assert "weights, config and card: " in capsys.readouterr().out
    for graph in (folder / "onnx").iterdir():
        assert (tmp_path / "again" / "onnx" / graph.name).read_bytes() == graph.read_bytes()


@pytest.mark.parametrize("model", ["unified"], indirect=True)
def test_commands_label_with_graphs(model, clips, tmp_path, capsys):
    recognizer, folder = model
    expected = [(one.label, one.exit.frames, one.exit.depth) for one in recognizer.many(clips)]
    call = ["classify", str(folder), *map(str, clips), "--runtime", "onnx"]
    for options in (["--json"], ["--out", str(tmp_path / "results")]):
        with pytest.raises(SystemExit) as ended:
            main([*call, *options])
        assert ended.value.code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(row["label"], row["frames"], row["depth"]) for row in rows] == expected
    kept = {row["path"]: row for part in parts_of(tmp_path / "results") for row in pq.read_table(part).to_pylist()}
    assert [(kept[str(c)]["label"], kept[str(c)]["frames"], kept[str(c)]["depth"]) for c in clips] == expected
    with pytest.raises(SystemExit, match="1"):
        main([*call[:-1], "torch", "--out", str(tmp_path / "results")])  # other settings than those that began it
    assert "other settings: runtime onnx, now torch; take another folder" in capsys.readouterr().err


def test_example_08(tmp_path):
    call = [sys.executable, EXAMPLES / "08_onnx.py"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "labels and exits equal to torch's: 10 of 10" in done.stdout
    assert "model/onnx/step_2.onnx: " in done.stdout
