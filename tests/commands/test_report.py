"""`dynvid report`: from recorded outputs to files, and what is wrong in one line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dynvid.cli import main
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit


def record(path, split="test", **more):
    logits = torch.zeros(2, 4, 3)
    logits[0, :2, 1] = 3.0
    logits[1, :, 1] = 3.0
    about = {
        "logits": logits,
        "labels": torch.tensor([1, 1, 1, 0]),
        "paths": [f"{n}.mp4" for n in range(4)],
        "recordings": [f"{n}.mp4" for n in range(4)],
        "route": (Exit(1, 1), Exit(2, 1)),
        "gmacs": (1.0, 3.0),
        "full_gmacs": 2.5,
        "policy": ThresholdPolicy(thresholds=[0.8, 0.0]),
        "point": None,
        "split": split,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    Outputs(**about | more).save(path)
    return path


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["report", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return caught.value.code, lines[0]


def report(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["report", *map(str, arguments)])
    assert caught.value.code == 0


def test_a_run_has_its_report_beside_it(tmp_path, capsys):
    record(tmp_path / "outputs_test.parquet")
    report(tmp_path)
    assert {path.name for path in tmp_path.glob("report.*")} == {"report.html", "report.md", "report.json"}
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["dynamic"] == {"accuracy": 0.75, "gmacs": 2.0, "macro_recall": 0.5}
    printed = capsys.readouterr().out
    assert "20.0 % of full inference's cost saved" in printed
    assert printed.endswith(f"report:  {tmp_path / 'report.html'}\n")


def test_the_test_comes_before_validation(tmp_path):
    record(tmp_path / "outputs_val.parquet", "val")
    report(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["split"] == "val"
    record(tmp_path / "outputs_test.parquet")
    report(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["split"] == "test"


def test_a_file_and_another_folder(tmp_path):
    report(record(tmp_path / "mine.parquet"), "--output", tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "report.html").is_file()
    assert not (tmp_path / "report.html").exists()


def test_the_curve_is_that_of_the_run(tmp_path):
    record(tmp_path / "outputs_test.parquet", run={"curve_thresholds": [[0.5, "-inf"], ["inf", "-inf"]]})
    report(tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["curve"]
    assert [(p["gmacs"], p["accuracy"]) for p in found] == [(2.0, 0.75), (3.0, 0.75)]
    assert found[1]["thresholds"] == ["inf", "-inf"]


def test_nothing_recorded_is_one_line_with_the_fix(tmp_path, capsys):
    code, line = fails(capsys, tmp_path)
    assert (code, line) == (
        1,
        f"dynvid: error: {tmp_path}: no outputs_test.parquet and no outputs_val.parquet in it; `dynvid test` writes "
        "the first",
    )
    assert fails(capsys, tmp_path / "gone")[1] == f"dynvid: error: {tmp_path / 'gone'}: no such file or folder"


def test_a_file_that_is_none_is_one_line(tmp_path, capsys):
    path = tmp_path / "outputs_test.parquet"
    path.write_text("no table")
    assert fails(capsys, tmp_path)[1].startswith(f"dynvid: error: {path}: cannot be read")
    pq.write_table(pa.table({"a": [1]}), path)
    assert "not written by dynvid, or by another version" in fails(capsys, tmp_path)[1]
    record(path, run={"curve_thresholds": [[0.5]]})
    assert fails(capsys, tmp_path)[1].startswith(f"dynvid: error: {path}: curve_thresholds: ")
    assert not (tmp_path / "report.json").exists()


def test_what_cannot_be_written_is_one_line(tmp_path, capsys):
    record(tmp_path / "outputs_test.parquet")
    (tmp_path / "file").write_text("")
    line = fails(capsys, tmp_path, "--output", tmp_path / "file")[1]
    assert line.startswith(f"dynvid: error: {tmp_path / 'file' / 'report.html'}: cannot be written")


def test_arguments_that_are_missing_or_unknown(tmp_path, capsys):
    assert fails(capsys)[0] == 2
    assert "run" in fails(capsys)[1]
    assert fails(capsys, tmp_path, "--outptu", "x")[0] == 2


def test_the_usage_names_it(capsys):
    main(["--help"])
    assert "dynvid report RUN" in capsys.readouterr().out
