"""A recognizer saved is the model that it was loaded from, whatever was done to make it fast."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from dynvid import UnifiedExitNet
from dynvid.calibration import OperatingPoint, Reject
from dynvid.checkpoint import fingerprint, read_checkpoint
from dynvid.errors import InputError, MissingFileError
from dynvid.inference import Recognizer, prepare
from dynvid.inference.runtimes import Program
from dynvid.inference.saving import as_checkpoint
from dynvid.policy import ThresholdPolicy

POINT = OperatingPoint("max_drop", 0.01, 0.95, "val", 400, 400, lost=0.0025, gmacs=0.03)


@pytest.fixture(scope="module")
def net(scramble_net):
    return scramble_net(UnifiedExitNet, input_size=32)


@pytest.fixture
def checkpoint(net, tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save(as_checkpoint(net, ThresholdPolicy(thresholds=[0.5, 0.5, 0.5, 0.0]), list("abcde"), POINT), path)
    return path


@pytest.mark.parametrize(("precision", "optimize"), [("bfloat16", "default"), ("float32", "none")])
def test_what_is_saved_is_what_was_loaded_not_what_was_made_of_it(checkpoint, tmp_path, precision, optimize):
    Recognizer.load(checkpoint, precision=precision, optimize=optimize).save(tmp_path / "a")
    Recognizer.load(tmp_path / "a", precision=precision, optimize=optimize).save(tmp_path / "b")
    reference = read_checkpoint(checkpoint)
    for folder in ("a", "b"):
        found = read_checkpoint(tmp_path / folder)
        assert fingerprint(found["state_dict"]) == fingerprint(reference["state_dict"])
        assert found["dynvid"] == reference["dynvid"]
        assert Recognizer.load(tmp_path / folder).point == POINT


def test_thresholds_that_were_changed_by_hand_are_saved_without_the_promise(checkpoint, tmp_path):
    recognizer = Recognizer.load(checkpoint)
    recognizer.policy.thresholds[0] = 0.75
    recognizer.save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new")
    assert again.policy.thresholds[0] == 0.75
    assert str(again.point) == "no promise: thresholds were given by hand"


def test_names_that_were_changed_are_saved_and_the_promise_stays(checkpoint, tmp_path):
    recognizer = Recognizer.load(checkpoint)
    recognizer.class_names[0] = "other"
    recognizer.save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new")
    assert again.class_names == ["other", *"bcde"]
    assert again.point == POINT
    recognizer.class_names = ["too few"]
    with pytest.raises(InputError, match="class_names has 1 names, the net 5 classes"):
        recognizer.save(tmp_path / "other")


def warmer(recognizer):
    recognizer.policy.temperatures = (2.0, 1.0, 1.0, 1.0)


def by_margin(recognizer):
    recognizer.policy.take_score("margin")


def cheaper(recognizer):
    recognizer.preparation = recognizer.preparation._replace(sampling="cheap")


@pytest.mark.parametrize("change", [warmer, by_margin, cheaper])
def test_whatever_answers_depend_on_is_saved_as_it_is_now_without_the_promise(checkpoint, tmp_path, change):
    recognizer = Recognizer.load(checkpoint)
    change(recognizer)
    recognizer.save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new")
    assert again.policy.temperatures == recognizer.policy.temperatures
    assert again.policy.score_name == recognizer.policy.score_name
    assert again.preparation == recognizer.preparation
    assert str(again.point) == "no promise: thresholds were given by hand"


def test_a_point_that_belongs_to_new_thresholds_is_saved_with_them(checkpoint, tmp_path):
    recognizer = Recognizer.load(checkpoint)
    recognizer.policy.thresholds[0] = 0.75
    recognizer.point = replace(POINT, target=0.02)
    recognizer.save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new")
    assert again.policy.thresholds[0] == 0.75
    assert again.point == recognizer.point


def test_int8_thresholds_do_not_follow_what_was_changed_by_hand(checkpoint, tmp_path):
    Recognizer.load(checkpoint).save(tmp_path / "model")
    (tmp_path / "model" / "int8").mkdir()
    recognizer = Recognizer.load(tmp_path / "model")
    warmer(recognizer)
    with pytest.raises(InputError, match=r"model: temperatures changed by hand: its int8 graphs have .*--int8 VIDEOS"):
        recognizer.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_source_that_is_another_by_now_is_not_saved(checkpoint, tmp_path):
    recognizer = Recognizer.load(checkpoint)
    checkpoint.write_bytes(b"another")
    with pytest.raises(InputError, match=r"best.ckpt: is not what was loaded any more"):
        recognizer.save(tmp_path / "new")
    checkpoint.unlink()
    with pytest.raises(InputError, match=r"best.ckpt: is not what was loaded any more"):
        recognizer.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_net_in_hand_is_saved_and_a_prepared_one_is_refused(net, tmp_path):
    policy = ThresholdPolicy(thresholds=[0.5, 0.5, 0.5, 0.0])
    Recognizer(net, policy).save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new", precision="float32", optimize="none")
    video = torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.net(video), net(video))
    fast, _ = prepare(net, precision="float32")
    with pytest.raises(InputError, match=r"this net: .*save the net that it was made of"):
        Recognizer(fast, policy).save(tmp_path / "other")
    with pytest.raises(InputError, match="a program given by hand has no weights"):
        Recognizer(Program(net, [len] * 4), policy).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"runtime": "tensorrt"}, InputError, "runtime is 'tensorrt': use torch, onnx, openvino"),
        ({"runtime": "onnx", "precision": "bfloat16"}, InputError, "precision is 'bfloat16': onnx has float32"),
        ({"runtime": "onnx", "device": "cuda"}, InputError, "device cuda is for runtime torch"),
        ({"runtime": "openvino", "optimize": "compile"}, InputError, "optimize='compile' is for runtime torch"),
        ({"runtime": "onnx"}, MissingFileError, r"step_1.onnx: no such graph; `dynvid export .* --runtime onnx` makes"),
        ({"runtime": "openvino", "precision": "int8"}, InputError, "holds no int8 graphs; .* --int8 VIDEOS"),
        ({"precision": "int8"}, InputError, "precision is 'int8': use auto, float32, bfloat16"),
    ],
)
def test_runtimes_that_a_folder_is_not_fit_for_are_refused(checkpoint, tmp_path, options, kind, reason):
    Recognizer.load(checkpoint).save(tmp_path / "new")
    with pytest.raises(kind, match=reason):
        Recognizer.load(tmp_path / "new", **options)


def test_a_checkpoint_has_no_graphs(checkpoint):
    with pytest.raises(InputError, match=r"best.ckpt: has no graphs; `dynvid export .* --runtime onnx` makes some"):
        Recognizer.load(checkpoint, runtime="onnx")


@pytest.fixture
def with_graphs(checkpoint, tmp_path):
    """A folder with graphs; what they hold is nobody's business where they are only copied."""
    folder = tmp_path / "models--user--name" / "snapshots" / "abc"
    Recognizer.load(checkpoint).save(folder)
    for name in ("onnx", "openvino"):
        (folder / name).mkdir()
        for k in range(1, 5):
            for ending in [".onnx"] if name == "onnx" else [".xml", ".bin"]:
                (folder / name / f"step_{k}{ending}").write_text(f"{name} {k}{ending}")
    say_graphs_of(folder, fingerprint(read_checkpoint(folder)["state_dict"]))
    return folder


def say_graphs_of(folder, weights):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"graphs_of": weights}))


def test_graphs_are_taken_along_and_nothing_else(with_graphs, tmp_path):
    (with_graphs / "onnx" / "step_notes.txt").write_text("mine")
    (with_graphs / "onnx" / "step_5.onnx").write_text("of another net")
    blobs = with_graphs.parents[1] / "blobs"
    blobs.mkdir()
    shutil.move(with_graphs / "onnx" / "step_2.onnx", blobs / "def")
    (with_graphs / "onnx" / "step_2.onnx").symlink_to("../../../blobs/def")  # as the cache of the hub has them
    Recognizer.load(with_graphs).save(tmp_path / "new")
    assert sorted(os.listdir(tmp_path / "new" / "onnx")) == [f"step_{k}.onnx" for k in range(1, 5)]
    assert (tmp_path / "new" / "onnx" / "step_2.onnx").read_text() == "onnx 2.onnx"
    assert not (tmp_path / "new" / "onnx" / "step_2.onnx").is_symlink()
    assert len(os.listdir(tmp_path / "new" / "openvino")) == 8


@pytest.mark.parametrize("name", ["onnx/step_2.onnx", "openvino/step_1.bin", "openvino"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "blobs of no cache"])
def test_links_to_elsewhere_are_not_handed_on(with_graphs, tmp_path, name, kind):
    folder, secret = with_graphs, tmp_path / "secret"
    if kind == "blobs of no cache":
        folder, secret = tmp_path / "snapshots" / "model", tmp_path / "blobs"
        shutil.copytree(with_graphs, folder)
    path = folder / name
    shutil.move(path, secret)
    path.symlink_to(os.path.relpath(secret, path.parent) if kind == "relative" else secret)
    with pytest.raises(InputError, match=r"step_\d\.\w+: is a link to outside of the folder") as caught:
        Recognizer.load(folder).save(tmp_path / "new")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_graphs_that_are_not_whole_are_said(with_graphs, tmp_path):
    (with_graphs / "openvino" / "step_3.bin").unlink()
    with pytest.raises(MissingFileError, match=r"step_3.bin: no such file; the graphs are not whole"):
        Recognizer.load(with_graphs).save(tmp_path / "new")


@pytest.mark.parametrize("weights", ["other", None])
def test_graphs_of_other_weights_are_neither_run_nor_taken_along(with_graphs, tmp_path, weights):
    say_graphs_of(with_graphs, weights)
    said = rf"abc: its graphs are of other weights; `dynvid export {with_graphs} NEW_FOLDER` makes new ones"
    with pytest.raises(InputError, match=said):
        Recognizer.load(with_graphs, runtime="onnx")
    with pytest.raises(InputError, match=said):
        Recognizer.load(with_graphs).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", ["nothing", "names", "thresholds", "temperatures", "score", "sampling", "reject"])
def test_what_is_withheld_is_saved_for_the_answers_that_it_is_of(net, tmp_path, change):
    reject = Reject(0.05, 0.95, 0.75, "val", 400, 400, answered=0.9, error=0.02)
    policy = ThresholdPolicy(thresholds=[0.5, 0.5, 0.5, 0.0])
    path = tmp_path / "best.ckpt"
    torch.save(as_checkpoint(net, policy, list("abcde"), POINT, reject=reject, background="e"), path)
    recognizer = Recognizer.load(path)
    assert (recognizer.reject, recognizer.background) == (reject, "e")
    if change == "names":
        recognizer.class_names[0] = "other"
    elif change == "thresholds":
        recognizer.policy.thresholds[0] = 0.25
    elif change == "temperatures":
        recognizer.policy.temperatures = (2.0, 1.0, 1.0, 1.0)
    elif change == "score":
        recognizer.policy.take_score("margin")
    elif change == "sampling":
        recognizer.preparation = recognizer.preparation._replace(sampling="cheap")
    elif change == "reject":
        recognizer.reject = None
    recognizer.save(tmp_path / "new")
    again = Recognizer.load(tmp_path / "new")
    assert again.reject == (reject if change in ("nothing", "names") else None)
    assert again.background == "e"
    said = "at most 5 % of the answers given to new videos are wrong"
    assert (said in (tmp_path / "new" / "README.md").read_text()) == (again.reject is not None)


def test_checkpoints_of_before_withhold_nothing(net, tmp_path):
    content = as_checkpoint(net, ThresholdPolicy(thresholds=[0.5, 0.5, 0.5, 0.0]), list("abcde"), POINT)
    del content["dynvid"]["reject"], content["dynvid"]["background"]
    torch.save(content, tmp_path / "old.ckpt")
    recognizer = Recognizer.load(tmp_path / "old.ckpt")
    assert (recognizer.reject, recognizer.background) == (None, None)
    recognizer.save(tmp_path / "new")
    assert Recognizer.load(tmp_path / "new").reject is None
