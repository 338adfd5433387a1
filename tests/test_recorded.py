"""Tables made from recorded outputs: against counts by hand, and against rates that are known."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROUTE = (Exit(2, 1), Exit(4, 1))


@pytest.fixture(autouse=True)
def benchmarks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("runs", "ablation", "real_nets", "ablation_recorded", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import runs

    monkeypatch.setattr(runs, "RESULTS", tmp_path)


def outputs(first, labels=None, split="test", recordings=None, route=ROUTE):
    """Two classes and two exits; `first` says how much the first exit prefers class 1; the last always says class 1."""
    first = torch.as_tensor(first)
    videos = len(first)
    logits = torch.stack([torch.stack([-first / 2, first / 2], dim=1), torch.tensor([[-2.0, 2.0]]).repeat(videos, 1)])
    paths = [f"{split}/{n}.mp4" for n in range(videos)]
    return Outputs(
        logits=logits[-len(route) :],
        labels=torch.ones(videos, dtype=torch.int64) if labels is None else torch.as_tensor(labels),
        paths=paths,
        recordings=recordings or paths,
        route=route,
        gmacs=(1.0, 4.0)[-len(route) :],
        full_gmacs=4.0,
        policy=ThresholdPolicy(num_exits=len(route)),
        point=None,
        split=split,
    )


def kept(folder, val, test, seeds=2):
    for seed in range(seeds):
        (folder / str(seed)).mkdir(parents=True)
        val.save(folder / str(seed) / "outputs_val.parquet")
        test.save(folder / str(seed) / "outputs_test.parquet")


def test_an_exit_that_is_never_wrong_is_used_and_breaks_nothing(tmp_path, monkeypatch):
    import real_nets

    sure = torch.full((600,), 3.0)
    kept(tmp_path / "runs/quickstart_online", outputs(sure, split="val"), outputs(sure[:300]))
    monkeypatch.setattr(sys, "argv", ["real_nets.py", str(tmp_path / "runs"), "--draws", "3"])
    real_nets.main()
    (net,) = json.loads((tmp_path / "real_nets.json").read_text())["nets"].values()
    calibrating = net["calibration_videos"]
    assert (calibrating, net["test_videos"], net["full"]) == (394, 300, [1.0, 1.0])  # about two thirds of 600
    assert [(row["risk"], row["labels"]) for row in net["rows"]] == [(r, w) for w in (1, 0) for r in (0.01, 0.02, 0.05)]
    for row in net["rows"]:
        assert row["saved"] == row["resplit_saved"] == row["old_saved"] == [0.75, 0.75]
        assert row["broken"] == [False, False]
        assert row["resplit_broken"] == row["old_broken"] == row["lost"] == row["change"] == [0, 0]
    text = (tmp_path / "real_nets.md").read_text()
    assert "2 seeds: 394 videos calibrate, 300 videos test; full inference 100.0 % (100.0 to 100.0)" in text
    assert (
        "| 1 % | yes | clip | 100.0 % (100.0 to 100.0) [100.0 to 100.0] | +0.0 (+0.0 to +0.0) [+0.0 to +0.0] " in text
    )


def test_a_test_split_that_is_worse_breaks_the_promise_by_as_much_as_it_is(tmp_path):
    import real_nets

    net = real_nets.NETS["msdnet/unified_none"]
    wrong = torch.full((200,), 3.0)
    wrong[:30] = -3.0  # as sure, and wrong; the label is what full inference says in all but one case
    labels = [0, *[1] * 199]
    run = real_nets.Run(outputs(torch.full((400,), 3.0), split="val"), outputs(wrong, labels))
    first, _, _, second, *_ = real_nets.rows(net, [run], draws=2)
    assert (first["labels"], second["labels"]) == (True, False)
    assert first["lost"] == pytest.approx([29 / 200])
    assert first["change"] == pytest.approx([(1 - 29) / 200])  # one is won
    assert first["broken"] == [True]
    assert second["lost"] == pytest.approx([30 / 200])
    assert first["dynamic_interval"][0] < 1 - 29 / 200 < first["dynamic_interval"][1]


@pytest.mark.slow
def test_clips_of_one_recording_break_promises_made_by_clip(tmp_path):
    import real_nets

    bad = torch.rand(60, generator=torch.manual_seed(0)) < 0.05  # recordings of ten clips that fail together
    first = torch.where(bad, -3.0, 3.0).repeat_interleave(10)
    pool = outputs(first, recordings=[f"r{n // 10}" for n in range(600)])
    found = real_nets.resplit(pool, calibrating=40, risks=(0.05,), labels=True, draws=400)
    assert int(bad.sum()) == 4
    # The first exit is equally sure of all clips, so that a rule uses it for all or for none. By recording, 5 % cannot
    # be promised with fewer than 59. By clip, 400 can with up to 12 lost: with up to one bad recording of the 40 drawn.
    # The old rule permits 20 lost, two bad ones. Then 2 of 20 recordings or more are left, and that is above 5 %.
    assert found["recording", 0.05] == (0, 0)
    assert found["clip", 0.05].broken == pytest.approx(found["clip", 0.05].saved / 0.75)
    assert found["clip", 0.05].broken == pytest.approx(0.103, abs=0.05)  # hypergeometric; three errors
    assert found["old", 0.05].broken == pytest.approx(0.407, abs=0.08)


def test_the_table_of_the_ablation_is_made_from_recorded_outputs(tmp_path, monkeypatch):
    import ablation_recorded

    sure = torch.full((400,), 3.0)
    wrong = sure[:200].clone()
    wrong[:5] = -3.0
    kept(tmp_path / "runs/unified_online", outputs(sure, split="val"), outputs(wrong))
    kept(tmp_path / "runs/TSN_none", *(outputs(sure, split=split, route=(Exit(4, 1),)) for split in ("val", "test")))
    monkeypatch.setattr(sys, "argv", ["ablation_recorded.py", "--name", "x", str(tmp_path / "runs")])
    ablation_recorded.main()
    text = (tmp_path / "ablation_x.md").read_text().splitlines()
    tsn, unified = text[-2:]
    assert tsn.startswith("| TSN | none | 2 |  | 100.0 % (100.0 to 100.0) |")
    assert tsn.count("|") == unified.count("|") == text[-3].count("|")
    used = "-2.5 (-2.5 to -2.5) | 75.0 % (75.0 to 75.0)"
    assert unified.startswith(f"| unified | online | 2 | 25 % | 100.0 % (100.0 to 100.0) | {used} | {used} | {used} |")
    assert unified.endswith("| 2, 2 |")  # 2.5 % are lost where 1 % and 2 % were promised
    runs = json.loads((tmp_path / "ablation_x.json").read_text())
    assert {run["scheme"] for run in runs} == {"TSN", "unified"}
    assert (tmp_path / "ablation_x.png").read_bytes()[:4] == b"\x89PNG"


def test_equal_accuracy_is_the_cheapest_that_loses_nothing_on_balance():
    import ablation_recorded

    first = torch.tensor([3.0, 3.0, 2.0, -1.0, 0.5])  # the fourth is wrong
    found = ablation_recorded.equal_on_test(outputs(first))
    assert (found["accuracy"], found["gmacs"]) == (1.0, pytest.approx((3 * 1 + 2 * 4) / 5))


def test_runs_are_recorded_once_and_failures_are_named(tmp_path, monkeypatch, capsys):
    import record

    program = tmp_path / "run.py"
    program.write_text("""
import pathlib, sys
folder, *arguments = sys.argv[1:]
print("what it said")
if "3" in arguments[-1:]:
    sys.exit(7)
pathlib.Path(folder).mkdir()
pathlib.Path(folder, "arguments").write_text(repr(arguments))
""")
    monkeypatch.setattr(record, "RUN", str(program))
    nets = tmp_path / "nets.yaml"
    nets.write_text("one: --config a.yaml --data.root $THERE --data.seed {seed}\nother: --config b.yaml\n")
    monkeypatch.setenv("THERE", "/some/where")
    out = tmp_path / "out"
    argv = ["record.py", str(nets), str(out), "--only", "o*e", "--jobs", "2", "--data.k", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match=r"failed, 1 of 5: one with seed 3 \(.*out/one/3.log\)"):
        record.main()
    assert sorted(path.name for path in (out / "one").iterdir()) == ["0", "1", "2", "3.log", "4", "arguments.txt"]
    assert (out / "one/3.log").read_text() == "what it said\n"
    said = (out / "one/2/arguments").read_text()
    as_given = "--config a.yaml --data.root /some/where --data.seed 2 --data.k 1 --seed_everything 2"
    assert said == str(as_given.split())

    program.write_text(program.read_text().replace('"3"', '"9"'))
    before = (out / "one/2/arguments").stat().st_mtime_ns
    record.main()
    assert capsys.readouterr().out.splitlines()[-1:] == ["one, seed 3: recorded"]
    assert (out / "one/2/arguments").stat().st_mtime_ns == before
    assert not (out / "one/3.log").exists()

    nets.write_text("one: --config c.yaml\n")
    with pytest.raises(SystemExit, match=r"holds runs with '--config a\.yaml"):
        record.main()


def test_the_nets_are_named_alike_everywhere(tmp_path):
    import ablation
    import real_nets
    import yaml

    nets = yaml.safe_load((BENCHMARKS / "nets.yaml").read_text())
    assert set(real_nets.NETS) <= set(nets)
    assert {name.removeprefix("msdnet/") for name in nets if "/" in name} == {f"{a}_{b}" for a, b in ablation.ROWS}
    for (scheme, shift), overlays in ablation.ROWS.items():
        assert shlex.split(nets[f"msdnet/{scheme}_{shift}"])[4:] == [w for name in overlays for w in ("--config", name)]


def test_evaluation_is_given_no_calibration():
    from runs import without_calibration

    words = shlex.split(
        "--config a.yaml --calibration.budget 0.4 --calibration.max_drop=null --calibration c.yaml --x 1"
    )
    assert without_calibration(words) == ["--config", "a.yaml", "--x", "1"]


@pytest.mark.slow
def test_one_run_leaves_its_outputs_and_nothing_else(tmp_path):
    arguments = shlex.split(
        "--config quickstart.yaml --trainer.max_epochs 1 --trainer.accelerator cpu --trainer.limit_train_batches 2 "
        "--model.lr_scheduler.init_args.T_max 1 --data.clips_per_class 4 --data.size 32 --data.num_workers 0 "
        "--calibration.max_drop 0.02"
    )
    command = [sys.executable, str(BENCHMARKS / "fit_validate_test.py"), str(tmp_path / "kept/0"), *arguments]
    subprocess.run([*command, "--data.root", str(tmp_path / "clips")], check=True, cwd=tmp_path, env=os.environ)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["0"]
    files = sorted(path.name for path in (tmp_path / "kept/0").iterdir())
    assert files == ["outputs_test.parquet", "outputs_val.parquet", "report.json"]
    val, test = (Outputs.read(tmp_path / f"kept/0/outputs_{split}.parquet") for split in ("val", "test"))
    assert (val.split, test.split, len(val.labels), len(test.labels)) == ("val", "test", 20, 20)
    assert not set(val.paths) & set(test.paths)
