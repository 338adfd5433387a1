"""The comparison of routes resumes where it stopped, and its figures are those of a case that is solved by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURE, FOUND = [[1, 2], [2, 2]], [[1, 1], [2, 2]]


@pytest.fixture
def routes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("runs", "routes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import routes

    monkeypatch.setattr(routes, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(routes, "stop_children_on_sigterm", lambda: None)
    return routes


def fit(command, environment):
    """Writes the route that was asked for where a checkpoint would lie."""
    route = command[command.index("--model.net.route") + 1] if "--model.net.route" in command else json.dumps(FIGURE)
    folder = Path(command[command.index("--trainer.default_root_dir") + 1], "version_0")
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_text(route)


def record(checkpoint, clips, seed, workers):
    """Every cell is right and sure of every clip, so leaving at the cheapest one loses nothing."""
    labels = torch.arange(900) % 2
    logits = 9.0 * torch.nn.functional.one_hot(labels, 2).expand(2, 2, 900, 2)
    costs = {"depths": (1, 2), "segments": (1.0, 3.0), "embeddings": (0.0, 0.0), "heads": (0.0, 0.0)}
    part = {"logits": logits, "labels": labels, "names": [f"{n}.mp4" for n in range(900)]}
    return {"route": json.loads(checkpoint.read_text()), "costs": costs, "val": part, "test": part}


def test_training_resumes_and_the_report_says_what_each_route_saves(routes, tmp_path, monkeypatch, capsys):
    fitted = []

    def interrupted(command, environment):
        if len(fitted) == 3:
            raise KeyboardInterrupt
        fitted.append(command)
        fit(command, environment)

    monkeypatch.setattr(routes, "call", interrupted)
    monkeypatch.setattr(routes, "record", record)
    monkeypatch.setattr(sys, "argv", ["routes.py", "train", str(tmp_path), "--seeds", "2"])
    with pytest.raises(KeyboardInterrupt):
        routes.main()
    assert len(fitted) == 3
    routes.call = lambda command, environment: fitted.append(command) or fit(command, environment)
    routes.main()
    asked = [("--model.net.route" in command, command[command.index("--seed_everything") + 1]) for command in fitted]
    assert asked == [(False, "0"), (True, "0"), (False, "1"), (True, "1")]
    assert all(
        command[command.index("--data.seed") + 1] == command[command.index("--seed_everything") + 1]
        for command in fitted
    )

    monkeypatch.setattr(sys, "argv", ["routes.py", "report", str(tmp_path), "--seeds", "2"])
    routes.main()
    rows = json.loads((tmp_path / "results" / "routes.json").read_text())["seeds"]
    for row in rows:
        assert row["found"] == row["best_known"] == FOUND
        for arm in (*routes.ARMS, *routes.KNOWN):
            cost = 3.0 if arm.startswith("Figure") else 1.0  # of 2 frames x 3
            assert row[arm]["saved"] == pytest.approx(1 - cost / 6)
            assert (row[arm]["lost"], row[arm]["full_accuracy"], row[arm]["accuracy"]) == (0.0, 1.0, 1.0)
    table = (tmp_path / "results" / "routes.md").read_text()
    assert "| found, trained anew | 83.3 (83.3 to 83.3) % | +33.3 (+33.3 to +33.3) | 0.0 (0.0 to 0.0) % |" in table
    assert "| 1 | (1,1) (2,2) | 83.3 % | 50.0 % | 83.3 % | 83.3 % | 83.3 % |" in table
    assert table in capsys.readouterr().out


def test_a_net_of_another_route_than_the_one_found_is_refused(routes, tmp_path, monkeypatch):
    monkeypatch.setattr(routes, "call", fit)
    monkeypatch.setattr(routes, "record", record)
    routes.train(tmp_path, 0, threads=1)
    anew = tmp_path / "seed-0" / "found.pt"
    torch.save(torch.load(anew) | {"route": [[2, 1], [2, 2]]}, anew)
    with pytest.raises(SystemExit, match=r"seed-0: .* are of another route than \(1,1\) \(2,2\): remove them"):
        routes.compare(tmp_path / "seed-0")
