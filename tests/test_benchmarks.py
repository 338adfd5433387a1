"""The ablation resumes where it stopped; runs themselves are replaced by made-up reports."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("runs", "ablation"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import ablation

    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    return ablation


def made_up(arguments):
    """A run whose figures depend on its arguments; one exit for the static nets."""
    seed = int(arguments[arguments.index("--seed_everything") + 1])
    static = "tsn.yaml" in arguments or "tsm.yaml" in arguments
    cost = 4.0 if static else 1.0 + seed
    report = {"full": {"accuracy": 0.9, "gmacs": 4.0}, "dynamic": {"accuracy": 0.85 + 0.01 * seed, "gmacs": cost}}
    points = [(4.0, 0.9)] if static else [(1.0, 0.7), (4.0, 0.9)]
    curve = [{"kind": kind, "gmacs": g, "accuracy": a} for kind in ("exit", "curve") for g, a in points]
    return report, curve


def test_the_ablation_resumes_and_summarises(ablation, tmp_path, monkeypatch, capsys):
    ran = []

    def fit_and_test(arguments, threads):
        if len(ran) == 7:
            raise KeyboardInterrupt
        ran.append(arguments)
        return ablation.Run(1.0, *made_up(arguments))

    monkeypatch.setattr(ablation, "fit_and_test", fit_and_test)
    monkeypatch.setattr(
        sys, "argv", ["ablation.py", "--name", "x", "--config", "a.yaml", "--seeds", "2", "--data.k", "1"]
    )
    with pytest.raises(KeyboardInterrupt):
        ablation.main()
    assert len(ran) == 7
    before = list(ran)
    with (tmp_path / "ablation_x.csv").open() as file:
        assert next(file) == "# --config a.yaml --data.k 1\n"
        assert len({(row["scheme"], row["shift"], row["seed"]) for row in csv.DictReader(file)}) == 7

    ran.clear()
    monkeypatch.setattr(ablation, "fit_and_test", lambda a, t: ran.append(a) or ablation.Run(1.0, *made_up(a)))
    ablation.main()
    assert len(ran) == 20 - 7
    assert not [arguments for arguments in ran if arguments in before]
    assert all(
        arguments[:2] == ["--config", "a.yaml"] and arguments[-4:-1] == ["--data.k", "1", "--seed_everything"]
        for arguments in ran
    )
    for overlay in ("noshift.yaml", "online.yaml"):
        assert sum(overlay in arguments for arguments in before + ran) == 4 * 2

    table = (tmp_path / "ablation_x.md").read_text().splitlines()
    assert len(table) == 2 + 10
    assert "| TSN | none | 2 | 90.0 % (90.0 to 90.0) | | | |" in table
    row = "| unified | online | 2 | 90.0 % (90.0 to 90.0) | 85.5 % (85.0 to 86.0) | -4.5 (-5.0 to -4.0) | "
    assert row + "62.5 % (50.0 to 75.0) |" in table
    assert (tmp_path / "ablation_x.png").read_bytes()[:4] == b"\x89PNG"
    assert table[-1] in capsys.readouterr().out


def test_results_of_other_arguments_are_refused(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "fit_and_test", lambda a, t: ablation.Run(1.0, *made_up(a)))
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--name", "x", "--config", "/here/a.yaml", "--seeds", "1"])
    ablation.main()
    before = (tmp_path / "ablation_x.csv").read_text()
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--name", "x", "--config", "/there/b.yaml", "--seeds", "2"])
    with pytest.raises(
        SystemExit, match=r"ablation_x.csv holds runs with '--config a.yaml', not with '--config b.yaml'"
    ):
        ablation.main()
    assert (tmp_path / "ablation_x.csv").read_text() == before


def test_a_terminated_benchmark_takes_its_run_along(tmp_path):
    program = tmp_path / "dynvid"
    program.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/pid'\nexec sleep 600\n")
    program.chmod(0o755)
    code = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import runs
runs.DYNVID = {str(program)!r}
runs.stop_children_on_sigterm()
runs.fit_and_test([])
"""
    benchmark = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert benchmark.poll() is None
        time.sleep(0.05)
    benchmark.terminate()
    assert benchmark.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_arguments_are_kept_without_folders(ablation):
    import runs

    words = ["--config", "a.yaml", "--data.root=/x/clips", "--data.root", "../y/clips", "--x", '{"b": "c/d"}', "a b"]
    kept = """--config a.yaml --data.root=clips --data.root clips --x '{"b": "c/d"}' 'a b'"""
    assert runs.shown(words) == kept
