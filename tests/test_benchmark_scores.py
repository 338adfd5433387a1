"""The comparison of scores, on made-up outputs of made-up nets."""

import sys
from pathlib import Path

import pytest
import torch

from dynvid.calibration import kept_apart, thresholds_for_risk
from dynvid.outputs import Outputs
from dynvid.policy import ThresholdPolicy
from dynvid.routes import Exit

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROUTE = (Exit(1, 1), Exit(2, 1), Exit(2, 2))
GMACS, FULL = (1.0, 2.0, 4.5), 4.0


@pytest.fixture
def scores(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("runs", "scores"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import scores

    monkeypatch.setattr(scores, "RESULTS", tmp_path)
    return scores


def made_up(seed, videos, split, weights="net", per_recording=1):
    """Outputs whose exits know more and more, and are several times as sure as they should be."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (videos,), generator=generator)
    logits = torch.randn(3, videos, 5, generator=generator)
    logits[:, torch.arange(videos), labels] += torch.tensor([2.0, 3.0, 4.0])[:, None]
    paths = [f"{split}/{n}.mp4" for n in range(videos)]
    return Outputs(
        logits=15 * logits,
        labels=labels,
        paths=paths,
        recordings=[f"{split}/{n // per_recording}" for n in range(videos)],
        route=ROUTE,
        gmacs=GMACS,
        full_gmacs=FULL,
        policy=ThresholdPolicy(3),
        point=None,
        split=split,
        weights=weights,
    )


def run(scores, monkeypatch, pairs):
    monkeypatch.setattr(sys, "argv", ["scores.py", "--name", "x", *(w for p in pairs for w in ("--pair", *p))])
    scores.main()


def saved_files(tmp_path, *outputs):
    files = [str(tmp_path / f"{n}.parquet") for n in range(len(outputs))]
    for file, one in zip(files, outputs, strict=True):
        one.save(file)
    return files


def test_one_table_of_all_nets(scores, tmp_path, monkeypatch, capsys):
    files = saved_files(
        tmp_path, made_up(0, 900, "val"), made_up(1, 400, "test"), made_up(2, 900, "val"), made_up(3, 400, "test")
    )
    run(scores, monkeypatch, [files[:2], files[2:]])
    text = (tmp_path / "x.md").read_text()
    assert text in capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    names = ("max_probability", "margin", "negative_entropy", "patience")
    assert [tuple(row[:2]) for row in rows] == [(name, t) for name in names for t in ("1", "fitted")]
    assert all(len(row) == 2 + 2 * 3 for row in rows)
    assert text.startswith("2 nets;")
    # The first line, from the definitions.
    saved, lost = [], []
    for n in (0, 2):
        val, test = Outputs.read(files[n]), Outputs.read(files[n + 1])
        rest = val.of(kept_apart(val.recordings))
        assert 500 < len(rest.paths) < 700
        probability, wrong = rest.logits.softmax(-1).amax(-1), rest.logits.argmax(-1) != rest.labels
        thresholds = thresholds_for_risk(probability, wrong & ~wrong[-1], GMACS, 0.05)
        spent, losses = 0.0, 0
        for video in range(400):
            k = 0
            while k < 2 and test.logits[k, video].softmax(-1).max() < thresholds[k]:
                k += 1
            spent += GMACS[k]
            right = [test.logits[j, video].argmax() == test.labels[video] for j in (k, 2)]
            losses += int(right[1] and not right[0])
        saved.append(100 * (1 - spent / 400 / FULL))
        lost.append(100 * losses / 400)
    for cell, values in ((rows[0][5], saved), (rows[0][7], lost)):
        low, high = sorted(values)
        assert cell == f"{(low + high) / 2:.1f} % ({low:.1f} to {high:.1f})"
    assert rows[0][3] == "+0.0 (+0.0 to +0.0)"


def test_temperatures_are_fitted_on_the_other_videos_and_make_probabilities_true(scores):
    val, test = made_up(0, 900, "val", per_recording=3), made_up(1, 2000, "test")
    found = scores.compare(val, test)
    assert found.errors["fitted"] < 0.03 < 0.06 < found.errors["1"]
    apart = kept_apart(val.recordings)
    assert 0 < int(apart.sum()) < 900
    val.labels[apart] = (val.labels[apart] + 1) % 5
    assert scores.compare(val, test).fitted == found.fitted
    val.labels[~apart] = (val.labels[~apart] + 1) % 5
    assert scores.compare(val, test).fitted != found.fitted


def test_what_cannot_be_promised_costs_the_heads_on_the_way(scores):
    """60 calibrating videos cannot promise 1 %: full inference past all exits is dearer than full inference."""
    found = scores.compare(made_up(0, 90, "val"), made_up(1, 50, "test")).results
    none = [result for (_, drop), result in found.items() if drop == 0.01]
    assert len(none) == 8
    assert set(none) == {(1 - 4.5 / 4.0, 0.0)}
    row = scores.table([scores.compare(made_up(0, 90, "val"), made_up(1, 50, "test"))]).splitlines()[-1]
    assert "| -12.5 % (-12.5 to -12.5) | +0.0 (+0.0 to +0.0) | 0.0 % (0.0 to 0.0) |" in row


def test_unfit_pairs_are_refused(scores, tmp_path, monkeypatch):
    unknown = made_up(3, 90, "test")
    unknown.labels[0] = -1
    files = saved_files(tmp_path, made_up(0, 90, "val"), made_up(1, 50, "test", weights="other"), unknown)
    with pytest.raises(SystemExit, match="not of the same net"):
        run(scores, monkeypatch, [[files[0], files[1]]])
    with pytest.raises(SystemExit, match="videos without a label"):
        run(scores, monkeypatch, [[files[0], files[2]]])
    with pytest.raises(SystemExit, match="1 recordings cannot be divided"):
        run(scores, monkeypatch, [saved_files(tmp_path, made_up(2, 1, "val"), made_up(1, 50, "test"))])
    assert not (tmp_path / "x.md").exists()
