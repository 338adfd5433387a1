"""Recorded outputs: what is written is what is read, and every number follows from the table alone."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.calibration import OperatingPoint, Reject
from dynvid.errors import InputError
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit

ROUTE = (Exit(2, 1), Exit(2, 2), Exit(4, 2))


def make(videos=7, classes=4, seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (videos,), generator=rng)
    policy = ThresholdPolicy(thresholds=[0.5, math.inf, -math.inf], score="margin", temperatures=[1.5, 1.0, 0.7])
    parts = {
        "logits": 3 * torch.randn(3, videos, classes, generator=rng),
        "labels": labels,
        "paths": [f"clip {n}.mp4" for n in range(videos)],
        "recordings": [f"r{n // 2}" for n in range(videos)],
        "route": ROUTE,
        "gmacs": (1.0, 2.0, 4.0),
        "full_gmacs": 3.9,
        "policy": policy,
        "point": OperatingPoint("max_drop", 0.1, 0.95, "val", 7, 4, lost=0.0, gmacs=2.0),
        "split": "test",
        "class_names": [f"class {c}" for c in range(classes)],
        "weights": "abc",
        "run": {"seed": 3, "frame_order": [0, 2, 1, 3]},
    }
    return Outputs(**parts | changes)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 20), st.integers(2, 9), st.integers(0, 99))
def test_what_is_written_is_read(tmp_path_factory, videos, classes, seed):
    file = tmp_path_factory.mktemp("outputs") / "outputs_test.parquet"
    outputs = make(videos, classes, seed)
    outputs.save(file)
    again = Outputs.read(file)
    for name in ("logits", "labels", "taken", "scores", "predicted", "correct"):
        assert torch.equal(getattr(again, name), getattr(outputs, name)), name
    for name in ("paths", "recordings", "route", "gmacs", "full_gmacs", "point", "split", "class_names", "run"):
        assert getattr(again, name) == getattr(outputs, name), name
    assert torch.equal(again.policy.thresholds, outputs.policy.thresholds)
    assert (again.policy.score_name, again.policy.temperatures) == ("margin", (1.5, 1.0, 0.7))


def test_the_columns_are_what_they_say(tmp_path):
    """From the logits alone, in numpy, by another road."""
    outputs = make(50)
    outputs.save(tmp_path / "o.parquet")
    table = pq.read_table(tmp_path / "o.parquet").to_pydict()
    temperatures, thresholds = (1.5, 1.0, 0.7), (0.5, math.inf, -math.inf)
    for n in range(50):
        taken = None
        for k, name in enumerate(("2x1", "2x2", "4x2")):
            logits = np.array(table[f"logits_{name}"][n], dtype=np.float64)
            p = np.exp(logits / temperatures[k])
            p = np.sort(p / p.sum())
            assert table[f"label_{name}"][n] == logits.argmax()
            assert table[f"probability_{name}"][n] == pytest.approx(p[-1], abs=1e-5)
            assert table[f"score_{name}"][n] == pytest.approx(p[-1] - p[-2], abs=1e-5)
            if taken is None and table[f"score_{name}"][n] >= thresholds[k]:
                taken = k
        assert table["exit"][n] == taken + 1
        assert table["gmacs"][n] == (1.0, 2.0, 4.0)[taken]
    assert table["recording"][3] == "r1"


def test_lost_with_and_without_labels():
    logits = torch.tensor([[[2.0, 0], [2, 0], [0, 2]], [[2.0, 0], [0, 2], [0, 2]], [[0.0, 2], [0, 2], [0, 2]]])
    outputs = make(3, 2, logits=logits, labels=torch.tensor([1, 1, 0]))
    assert outputs.lost(with_labels=True).tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert outputs.lost(with_labels=False).tolist() == [[True, True, False], [True, False, False], [False] * 3]
    wrong = make(3, 2, logits=logits, labels=torch.tensor([0, 0, 0]))
    assert not wrong.lost(with_labels=True).any()
    assert wrong.lost(with_labels=False).any()


def test_some_of_the_videos():
    outputs = make(6)
    part = outputs.of(torch.tensor([False, True, False, True, True, False]))
    assert part.paths == ["clip 1.mp4", "clip 3.mp4", "clip 4.mp4"]
    assert part.recordings == ["r0", "r1", "r2"]
    assert torch.equal(part.taken, outputs.taken[[1, 3, 4]])


def test_names_that_are_no_text_are_escaped(tmp_path):
    outputs = make(2, paths=["caf\udce9.mp4", "b.mp4"], recordings=["caf\udce9.mp4", "b.mp4"])
    outputs.save(tmp_path / "o.parquet")
    assert Outputs.read(tmp_path / "o.parquet").paths == ["caf\\udce9.mp4", "b.mp4"]


def test_unlabelled_videos_are_told(tmp_path):
    assert make().labelled
    assert not make(labels=torch.full((7,), -1)).labelled


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"\0" * 60 + b"PAR1"])
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    file = tmp_path / "broken.parquet"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.parquet: cannot be read"):
        Outputs.read(file)


def test_a_truncated_table_and_none_are_named(tmp_path):
    make().save(tmp_path / "o.parquet")
    whole = (tmp_path / "o.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.parquet: cannot be read"):
        Outputs.read(tmp_path / "half.parquet")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: no such file; `dynvid validate`"):
        Outputs.read(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    "change",
    [
        {"route": [[2, 1], [2, 2]]},
        {"route": [[4, 2], [2, 2], [4, 2]]},
        {"route": "x"},
        {"gmacs": [1.0]},
        {"score": "__import__"},
        {"thresholds": [0.1]},
        {"thresholds": ["x", 1, 2]},
        {"temperatures": [0, 1, 1]},
        {"class_names": ["one"]},
        {"point": {"rule": "max_drop"}},
        {"run": 5},
        {"weights": None, "gmacs": None},
        {"gmacs": [1.0, 2.0, float("inf")]},
        {"gmacs": [-1.0, 2.0, 3.0]},
        {"gmacs": [1.0, 3.0, 2.0]},
        {"full_gmacs": 0.0},
        {"full_gmacs": float("nan")},
        {"thresholds": ["nan", 1, 2]},
        {"class_names": [1, 2, 3, 4]},
        {"run": {"frame_order": [0.5]}},
        {"run": {"frame_order": "0"}},
    ],
)
def test_a_table_of_strangers_is_checked(tmp_path, change):
    make().save(tmp_path / "o.parquet")
    table = pq.read_table(tmp_path / "o.parquet")
    about = json.loads(table.schema.metadata[b"dynvid"]) | change
    pq.write_table(table.replace_schema_metadata({b"dynvid": json.dumps(about)}), tmp_path / "o.parquet")
    with pytest.raises(ValueError, match=r"o\.parquet: its parts do not fit together"):
        Outputs.read(tmp_path / "o.parquet")


@pytest.mark.parametrize("column", ["path", "label", "recording", "logits_2x2"])
def test_a_column_that_is_missing_or_of_another_type_is_an_error(tmp_path, column):
    make().save(tmp_path / "o.parquet")
    table = pq.read_table(tmp_path / "o.parquet")
    position = table.schema.get_field_index(column)
    pq.write_table(table.remove_column(position), tmp_path / "lacks.parquet")
    with pytest.raises(ValueError, match=r"lacks\.parquet"):
        Outputs.read(tmp_path / "lacks.parquet")
    other = table.set_column(position, column, pa.array([None] * len(table), pa.int64()))
    pq.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet"):
        Outputs.read(tmp_path / "other.parquet")


@pytest.mark.parametrize("label", [-5, 4])
def test_a_label_that_is_no_class_is_an_error(tmp_path, label):
    make(labels=torch.tensor([label, 0, 1, 2, 3, 0, -1])).save(tmp_path / "o.parquet")
    with pytest.raises(ValueError, match=r"o\.parquet: its parts do not fit together: a label is no class"):
        Outputs.read(tmp_path / "o.parquet")


def test_another_table_is_told_apart(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet: not written by dynvid"):
        Outputs.read(tmp_path / "other.parquet")


def of_sets(videos=9, classes=4, seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    policy = ThresholdPolicy(thresholds=[0.5, math.inf, -math.inf], score="margin", multi_label=True)
    labels = torch.randint(0, 2, (videos, classes), generator=rng)
    return make(videos, classes, seed, **{"labels": labels, "policy": policy, "run": {}} | changes)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
def test_sets_that_are_written_are_read(tmp_path_factory, videos, classes, seed):
    file = tmp_path_factory.mktemp("outputs") / "outputs_test.parquet"
    outputs = of_sets(videos, classes, seed)
    outputs.labels[videos // 2] = -1  # of one, nothing is known
    outputs.save(file)
    again = Outputs.read(file)
    assert again.multi_label
    assert not again.labelled
    for name in ("logits", "labels", "taken", "scores", "predicted", "correct", "probabilities"):
        assert torch.equal(getattr(again, name), getattr(outputs, name)), name
    table = pq.read_table(file).to_pydict()
    for n in range(videos):
        assert table["label_2x2"][n] == [c for c in range(classes) if outputs.logits[1, n, c] > 0]
        known = None if n == videos // 2 else [c for c in range(classes) if outputs.labels[n, c] == 1]
        assert table["label"][n] == known


def test_tables_of_sets_are_checked_and_older_versions_refuse_them(tmp_path):
    file = tmp_path / "o.parquet"
    of_sets(classes=4).save(file)
    table = pq.read_table(file)
    assert json.loads(table.schema.metadata[b"dynvid"])["version"] == 2
    beyond = pa.array([[7]] * len(table), pa.list_(pa.int64()))
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", beyond), file)
    with pytest.raises(ValueError, match="a label is no class"):
        Outputs.read(file)
    ints = pa.array([1] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", ints), file)
    with pytest.raises(ValueError, match="of type int64, not a list of classes"):
        Outputs.read(file)


def test_lost_sets_have_more_wrong_names_than_full_inference_by_hand():
    logits = torch.tensor([[[1.0, 1.0, -1.0]] * 4, [[1.0, -1.0, -1.0]] * 4, [[1.0, -1.0, 1.0]] * 4])
    labels = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
    outputs = of_sets(4, 3, logits=logits, labels=labels)
    # Wrong names of {0, 1}, {0} and {0, 2}, video by video.
    wrong = torch.tensor([[2, 0, 3, 1], [1, 1, 2, 0], [0, 2, 1, 1]])
    lost = [[True, False, True, False], [True, False, True, False], [False] * 4]
    assert outputs.lost(with_labels=True).tolist() == lost
    assert torch.equal(outputs.correct, wrong == 0)
    assert torch.equal(outputs.lost(with_labels=False), torch.tensor([[True], [True], [False]]).expand(3, 4))
    assert outputs.differing(torch.tensor([math.inf, math.inf, 0.0])) == 0
    assert outputs.differing(torch.tensor([-math.inf, 0.0, 0.0])) == 1


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 999))
def test_lost_is_one_definition_for_sets_of_one_name_and_for_single_labels(videos, classes, seed):
    single = make(videos, classes, seed)
    hot = torch.eye(classes, dtype=torch.long)
    sets = of_sets(videos, classes, logits=hot[single.predicted] - 0.5, labels=hot[single.labels])
    assert torch.equal(sets.predicted, hot[single.predicted].bool())
    for with_labels in (True, False):
        assert torch.equal(sets.lost(with_labels), single.lost(with_labels))
    assert torch.equal(sets.correct, single.correct)
    assert torch.equal(single.lost(with_labels=True), single.correct[-1] & ~single.correct)


def test_what_is_withheld_comes_back_and_older_tables_withhold_nothing(tmp_path):
    outputs = make(30, reject=Reject(0.1, 0.95, 0.6, "val", 50, 50, answered=0.5, error=0.05), background="class 1")
    outputs.save(tmp_path / "a.parquet")
    again = Outputs.read(tmp_path / "a.parquet")
    assert (again.reject, again.background) == (outputs.reject, "class 1")
    assert torch.equal(again.answered, outputs.answered)
    table = pq.read_table(tmp_path / "a.parquet")
    taken = table["exit"].to_numpy() - 1
    columns = np.stack([table[f"probability_{frames}x{depth}"].to_numpy() for frames, depth in ROUTE])
    assert table["answered"].to_pylist() == (columns[taken, np.arange(30)] >= np.float32(0.6)).tolist()
    assert 0 < sum(table["answered"].to_pylist()) < 30
    assert again.under(again.policy, None).answered.all()  # the threshold is of another policy
    about = json.loads(table.schema.metadata[b"dynvid"])
    for name in ("reject", "background"):
        del about[name]
    older = table.drop_columns(["answered"]).replace_schema_metadata({b"dynvid": json.dumps(about).encode()})
    pq.write_table(older, tmp_path / "b.parquet")
    assert Outputs.read(tmp_path / "b.parquet").answered.all()


def test_what_is_withheld_takes_labels():
    with pytest.raises(InputError, match="labels"):
        make(labels=torch.full((7,), -1)).rejected(0.1, 0.95)


@pytest.mark.parametrize("change", [{"background": "other"}, {"background": 3}, {"reject": {"threshold": 0.5}}])
def test_a_table_of_strangers_that_withholds_is_checked(tmp_path, change):
    make().save(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    about = json.loads(table.schema.metadata[b"dynvid"]) | change
    pq.write_table(table.replace_schema_metadata({b"dynvid": json.dumps(about).encode()}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=next(iter(change))):
        Outputs.read(tmp_path / "a.parquet")
