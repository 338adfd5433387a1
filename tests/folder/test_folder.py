"""A model's folder gives the checkpoint that it was made of; a hostile one is refused in one line that names a file."""

import copy
import json
import os
import random
import struct

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dynvid import UnifiedExitNet
from dynvid.calibration import OperatingPoint
from dynvid.checkpoint import described, is_calibrated, net_from_checkpoint, policy_from_checkpoint, read_checkpoint
from dynvid.errors import DynvidError
from dynvid.folder import Card, Int8, model_card, read_folder, read_int8
from dynvid.folder.files import _named, _numbers
from dynvid.inference.saving import as_checkpoint, save_model
from dynvid.policy import ThresholdPolicy

POINT = OperatingPoint("max_drop", 0.01, 0.95, "val", 400, 400, lost=0.0025, gmacs=0.03)
NAMES = ["a", "b|<b>", "c_d", "é", "\udce9"]
INF = float("inf")


@pytest.fixture(scope="module")
def checkpoint(scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=32)
    policy = ThresholdPolicy(thresholds=[0.9, INF, 0.7, -INF], score="margin", temperatures=[1.5, 1.0, 2.0, 1.0])
    made = as_checkpoint(net, policy, NAMES, POINT, sampling="cheap")
    made["state_dict"]["curve_thresholds"][3] = torch.tensor([0.25, 1 / 3, INF, -INF])
    return made


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "whole"
    save_model(folder, checkpoint, "this net")
    return folder


@pytest.fixture
def mine(whole, tmp_path):
    """A copy, to be changed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(folder, edit):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(edit(config) or config))


def refused(folder):
    with pytest.raises(DynvidError) as caught:
        net_from_checkpoint(read_checkpoint(folder), folder)
    message = str(caught.value)
    assert str(folder) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


def test_a_folder_gives_the_checkpoint_that_it_was_made_of(checkpoint, whole):
    found = read_checkpoint(whole)
    assert found["dynvid"] == json.loads(json.dumps(checkpoint["dynvid"]))
    assert found["state_dict"].keys() == checkpoint["state_dict"].keys()
    for name, value in checkpoint["state_dict"].items():
        assert found["state_dict"][name].dtype == value.dtype
        assert torch.equal(found["state_dict"][name], value), name
    assert described(found)["class_names"] == NAMES
    assert is_calibrated(found)
    policy = policy_from_checkpoint(found)
    assert policy.thresholds.tolist() == pytest.approx([0.9, INF, 0.7, -INF])
    assert (policy.score_name, policy.temperatures) == ("margin", (1.5, 1.0, 2.0, 1.0))
    assert sorted(path.name for path in whole.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_its_parts_are_what_other_tools_read(checkpoint, whole):
    config = json.loads((whole / "config.json").read_text(), parse_constant=pytest.fail)
    assert config["frames"]["order"] == list(net_from_checkpoint(checkpoint, "x").order)
    weights = load_file(whole / "model.safetensors")
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=6, input_size=32)
    net.load_state_dict(weights)  # by the net's own names
    _, front, body = (whole / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["library_name"] == "dynvid"
    assert about["pipeline_tag"] == "video-classification"
    assert str(POINT) in body
    assert "b\\|&lt;b&gt;" in body
    for cell, cost in zip(net.route, checkpoint["dynvid"]["gmacs"], strict=False):
        assert f"| {cell.frames} | {cell.depth} | {cost:.4g} |" in body


numbers = st.floats(width=32, allow_nan=False)


@given(st.lists(numbers, min_size=1) | st.lists(st.tuples(numbers, numbers), min_size=1))
def test_numbers_come_back_to_the_bit(given):
    tensor = torch.tensor(given, dtype=torch.float32)
    assert torch.equal(_numbers(json.loads(json.dumps(_named(tensor.tolist()), allow_nan=False))), tensor)


def without(key):
    return lambda config: config.pop(key) and None


def with_(key, value):
    return lambda config: config.__setitem__(key, value)


def inside(key, value):
    return lambda config: config["dynvid"].__setitem__(key, value)


def argument(key, value):
    return lambda config: config["dynvid"]["net"]["init_args"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda config: [config], "not written by dynvid"),
        (without("dynvid"), "not written by dynvid"),
        (with_("format", 2), "format is 2, this dynvid reads 1: update it"),
        (with_("dynvid", []), "its 'dynvid' entry lacks"),
        (without("thresholds"), "thresholds are not numbers"),
        (with_("thresholds", [0.5, 0.5]), "policy.thresholds must be float"),
        (with_("thresholds", ["inf", "nan", 0.5, 0.5]), "thresholds are not numbers"),
        (with_("thresholds", [1e39, 0.5, 0.5, 0.5]), "thresholds are not numbers"),
        (with_("thresholds", [10**400, 0.5, 0.5, 0.5]), "thresholds are not numbers"),
        (with_("thresholds", [True, 0.5, 0.5, 0.5]), "thresholds are not numbers"),
        (with_("curve_thresholds", [[0.5], [0.5, 0.5]]), "curve_thresholds are not numbers"),
        (with_("curve_thresholds", []), "curve_thresholds must be float"),
        (inside("score", "best"), "score is 'best'"),
        (inside("class_names", ["a"]), "class_names has 1 names"),
        (inside("gmacs", [1, 2]), "gmacs are"),
        (inside("operating_point", {"rule": "max_drop"}), "operating_point has other parts"),
        (argument("num_classes", 10**9), "num_classes=1000000000: give"),
        (argument("backbone", "hf-hub:someone/something"), "names weights to fetch"),
        (argument("pretrained", True), "names weights to fetch"),
        (argument("num_frames", 10**40), "a number that is not finite, or far too large"),
    ],
)
def test_a_hostile_config_is_refused_in_one_line(mine, edit, reason):
    change(mine, edit)
    assert reason in refused(mine)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000, b'{"dynvid": NaN}', b"1" * 10_000, b"null"]
)
def test_a_config_that_is_no_json_is_refused_in_one_line(mine, content):
    (mine / "config.json").write_bytes(content)
    assert "config.json: " in refused(mine)


def test_a_huge_config_is_not_read(mine):
    with (mine / "config.json").open("wb") as file:
        file.truncate(2**40)  # of holes
    assert "config.json: has more than" in refused(mine)


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        struct.pack("<Q", 2**62) + b"{}",
        header(a={"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}),
        header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
        header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}),
        header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"\0" * 4,
        header(a={"dtype": "NO", "shape": [1], "data_offsets": [0, 4]}) + b"\0" * 4,
    ],
)
def test_a_hostile_file_of_weights_is_refused_in_one_line(mine, content):
    (mine / "model.safetensors").write_bytes(content)
    assert "model.safetensors: is no safetensors file" in refused(mine)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda state: state.pop("mean"), "1 missing: mean"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda state: state.update(mean=torch.zeros(4, 1, 1)), "1 of another shape: mean"),
        (
            lambda state: state.update(mean=torch.full((3, 1, 1), torch.nan)),
            "net.mean: holds values that are not finite",
        ),
        (lambda state: state.update(mean=torch.zeros(3, 1, 1, dtype=torch.int64)), "1 of another type: mean"),
        (lambda state: state.update(mean=torch.zeros(3, 1, 1).to(torch.float8_e5m2)), "mean: is of type"),
        (lambda state: state.clear(), "missing"),
    ],
)
def test_weights_of_another_net_are_refused_in_one_line(mine, edit, reason):
    state = load_file(mine / "model.safetensors")
    state = {name: value.clone() for name, value in state.items()}
    edit(state)
    save_file(state, mine / "model.safetensors")
    assert reason in refused(mine)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_that_are_cut_or_changed_anywhere_are_read_or_refused(mine, name):
    whole, generator = (mine / name).read_bytes(), random.Random(0)
    said = []
    for _ in range(40):
        at = generator.randrange(min(len(whole), 6000))
        changed = whole[:at] if generator.random() < 0.5 else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        (mine / name).write_bytes(changed)
        try:
            net_from_checkpoint(read_checkpoint(mine), mine)
        except DynvidError as error:
            said.append(str(error))
    assert len(said) > 20  # all that were cut, at least
    assert all(str(mine) in message and len(message.splitlines()) == 1 for message in said)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["missing", "folder", "link to nowhere", "pipe", "device"])
def test_what_is_no_file_is_refused_in_one_line(mine, name, kind):
    (mine / name).unlink()
    if kind == "folder":
        (mine / name).mkdir()
    elif kind == "link to nowhere":
        (mine / name).symlink_to(mine / "nowhere")
    elif kind == "pipe":
        os.mkfifo(mine / name)
    elif kind == "device":
        (mine / name).symlink_to("/dev/zero")
    assert name in refused(mine)


def test_links_to_files_are_followed_as_the_cache_of_the_hub_has_them(whole, tmp_path):
    (tmp_path / "linked").mkdir()
    for path in whole.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    assert read_folder(tmp_path / "linked")["dynvid"] == read_folder(whole)["dynvid"]


BUDGET = OperatingPoint("budget", 0.02, split="x", videos=3, lost=0.0, gmacs=0.02)
INT8 = Int8([0.5, INF, 0.25, -INF], BUDGET, 3, [1.0] * 4, [0.5] * 4)


def test_what_is_known_of_int8_comes_back(checkpoint, tmp_path):
    from dynvid.inference.saving import Int8Graphs

    save_model(tmp_path / "new", checkpoint, "x", int8=Int8Graphs(INT8, lambda folder: None))
    assert read_int8(tmp_path / "new", 4) == INT8
    assert policy_from_checkpoint(read_checkpoint(tmp_path / "new")).thresholds[0] == pytest.approx(0.9)
    card = (tmp_path / "new" / "README.md").read_text()
    assert str(INT8.point) in card
    assert str(POINT) in card
    for exits, edit in [(3, lambda c: None), (4, lambda c: c["int8"].pop("point") and None), (4, with_("int8", [1]))]:
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes((tmp_path / "new" / "config.json").read_bytes())
        change(folder, edit)
        with pytest.raises(DynvidError, match=r"^\S+config.json: int8: .*$"):
            read_int8(folder, exits)


def test_a_folder_without_int8_says_how_to_get_it(whole):
    with pytest.raises(DynvidError, match=r"holds no int8 graphs; `dynvid export .* --int8 VIDEOS` adds them"):
        read_int8(whole, 4)


def test_the_card_has_the_figures_of_a_report_and_refuses_what_is_none(checkpoint):
    net = net_from_checkpoint(checkpoint, "x")
    row = {"accuracy": 0.75, "interval": [0.7, 0.8], "gmacs": 0.5}
    report = {
        "measure": "accuracy",
        "full": {"accuracy": 0.9, "gmacs": 2.0},
        "dynamic": {"accuracy": 0.875, "gmacs": 1.0},
        "videos": 1200,
        "split": "test",
        "run": {"data": "X_Y"},
        "intervals": {"full": [0.85, 0.95], "dynamic": [0.8, 0.9]},
        "exits": [row],
        "headline": {"happened": "Kept.", "saved": "50 %"},
    }
    card = model_card(checkpoint, net, Card(report))
    assert "On 1,200 videos of test, X\\_Y" in card
    assert "| dynamic inference | 87.5 % (80.0 to 90.0) | 1 |" in card
    assert "| all at exit 1 | 75.0 % (70.0 to 80.0) | 0.5 |" in card
    for name in report:
        other = copy.deepcopy(report)
        other[name] = 7
        if name in ("videos", "split"):
            continue
        with pytest.raises(DynvidError, match="the report has other parts than one of dynvid"):
            model_card(checkpoint, net, Card(other))
    for number in (INF, float("nan")):
        with pytest.raises(DynvidError, match="the report has other parts than one of dynvid"):
            model_card(checkpoint, net, Card(report | {"videos": number}))


@pytest.mark.parametrize(
    ("graphs", "said"),
    [
        ([], ""),
        (["int8"], ""),
        (["onnx"], "takes `onnx` and `openvino` too"),
        (["openvino", "int8"], "takes `openvino` too"),
    ],
)
def test_the_card_offers_the_runtimes_that_the_folder_has_graphs_for(checkpoint, graphs, said):
    card = model_card(checkpoint, net_from_checkpoint(checkpoint, "x"), Card(None, graphs))
    assert said in card
    assert ('`Recognizer.load("FOLDER", runtime=...)`' in card) == bool(said)
