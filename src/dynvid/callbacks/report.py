"""Scalars, figure, table and files of top-1 against cost."""

import csv
import io
import os
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.table import Table

from dynvid import __version__, strict_json
from dynvid.calibration import OperatingPoint, Reject, operate
from dynvid.callbacks.loggers import log_picture
from dynvid.checkpoint import described, read_checkpoint
from dynvid.metrics import FlopsAccuracy, draw_legend, plot_curve
from dynvid.module import DynamicInferenceModule
from dynvid.multilabel import accuracy_word
from dynvid.outputs import Outputs
from dynvid.published import Dataset
from dynvid.recall import FIGURES, exit_figures, main_figures
from dynvid.report import write_report
from dynvid.text import printable
from dynvid.whole import write_whole


class FlopsAccuracyReport(pl.Callback):
    """Report top-1 against GMACs after each validation and test.

    Scalars per exit and the figure go to the loggers; `flops_accuracy.csv` and `flops_accuracy.png` to the log folder.
    A run of test or validate also leaves what every exit answered to every video, `outputs_test.parquet` or
    `outputs_val.parquet` (see `dynvid.outputs`), and the report made of it: `report.html`, `report.md`, `report.json`.

    Args:
        published: A data set of `dynvid.published` whose rows the figures show beside the curve.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[FlopsAccuracyReport()], logger=False)
    """

    def __init__(self, published: Dataset | None = None) -> None:
        self.published = published

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, and refresh the files."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the best checkpoint is, or the last where nothing was monitored, and what it promises."""
        callback = trainer.checkpoint_callback
        path = getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", "")
        if not path or not trainer.is_global_zero:
            return
        print(f"checkpoint: {printable(path)}")
        saved = described(read_checkpoint(path), path) if Path(path).is_file() else {}
        if saved.get("operating_point") is not None:
            point = OperatingPoint.from_plain(saved["operating_point"])
            print(f"operating point: {printable(point)}")
            if offered := point.offered():
                print(offered)
        if saved.get("reject") is not None:
            reject = Reject.from_plain(saved["reject"])
            print(f"answers: {printable(reject)}")
            if offered := reject.offered():
                print(offered)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, write the files and print the table."""
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DynamicInferenceModule)
        folder = trainer.log_dir or trainer.default_root_dir  # broadcasts: every rank has to ask
        if pl_module.curve is None or not trainer.is_global_zero:
            return
        summary = key_figures(pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(summary, stage), step=trainer.global_step)
        alone = trainer.state.fn != "fit"
        if folder and not getattr(trainer, "fast_dev_run", False):
            picture = self._draw(pl_module.curve, summary, stage)
            write_whole(Path(folder, "flops_accuracy.png"), picture)
            log_picture(trainer, f"{stage}/flops_accuracy", picture)
            write_curve(Path(folder, "flops_accuracy.csv"), pl_module, pl_module.curve)
            if alone:
                outputs = pl_module.outputs()
                assert outputs is not None
                self._write(replace(outputs, run=_about(trainer, pl_module)), summary, Path(folder))
        elif alone:
            print_summary(summary)

    def _draw(self, curve: FlopsAccuracy, summary: dict[str, Any], split: str) -> bytes:
        """The picture of the curve, as PNG."""
        word = accuracy_word("map" in summary["full"])
        figure, axes = plot_curve(curve, published=self.published, split=split, accuracy_is=word)
        cost, accuracy = summary["dynamic"]["gmacs"], 100 * summary["dynamic"]["accuracy"]
        axes.plot(cost, accuracy, "*", ms=14, color="#D55E00", label="operating point")
        draw_legend(axes)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        return drawn.getvalue()

    def _write(self, outputs: Outputs, summary: dict[str, Any], folder: Path) -> None:
        """Write the outputs and the report, and print what was promised, what happened, and where the report is."""
        table = folder / f"outputs_{outputs.split}.parquet"
        outputs.save(table)
        report = write_report(outputs, folder, published=self.published)
        print_summary(summary)
        print(f"outputs: {printable(table)}")
        print(f"picture: {printable(folder / 'flops_accuracy.png')}")
        for line in ("warning", "promised", "happened", "answered"):
            if report["headline"][line]:
                print(printable(report["headline"][line]))
        print(f"report: {printable(folder / 'report.html')}")


def key_figures(module: DynamicInferenceModule) -> dict[str, Any]:
    """Full inference, dynamic inference at the calibrated thresholds, and every exit, as plain data.

    In `fit` they are of the videos that choose checkpoints: whoever picks an epoch by them chooses too.

    Returns:
        `full` and `dynamic` (each `accuracy`, `macro_recall` and `gmacs` per video; where labels are sets also `map`,
        `f1` and `micro_f1`), `saved` (1 - dynamic / full GMACs), `videos`, and `exits` (`frames`, `depth`, `gmacs`,
        `accuracy`, `macro_recall` and so on, `share` of the videos that take it).
    """
    curve, net = module.curve, module.net
    assert curve is not None
    choosing = module.choosing()
    scores, correct, labels = curve.scores[:, choosing], curve.correct[:, choosing], curve.labels[choosing]
    accuracy, gmacs = correct.float().mean(1), curve.exit_gmacs.tolist()
    of_exits, of_taken = exit_figures(module.policy, curve.logits[:, choosing], labels)
    found = operate(scores, correct, gmacs, module.policy.thresholds.cpu()[None])
    views = gmacs[0] / net.gmacs[0]
    full, dynamic = views * net.full_gmacs, float(found.gmacs)
    return {
        "full": {"accuracy": float(accuracy[-1]), "gmacs": full} | of_exits[-1],
        "dynamic": {"accuracy": float(found.accuracy), "gmacs": dynamic} | of_taken,
        "saved": 1 - dynamic / full,
        "videos": scores.shape[1],
        "exits": [
            {
                **{"frames": e.frames, "depth": e.depth, "gmacs": g},
                **{"accuracy": float(a), "share": float(s)},
                **of_classes,
            }
            for e, g, a, s, of_classes in zip(net.route, gmacs, accuracy, found.share[0], of_exits, strict=True)
        ],
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table of exits and the two lines that matter."""
    shown = {"accuracy": accuracy_word("map" in summary["full"])} | main_figures(summary["full"])
    table = Table(
        title=f"{summary['videos']} videos",
        caption=f"{', '.join(shown.values())}: if every video left here; leave: the share that does",
    )
    for heading in ("exit", "frames", "depth", "GMACs", *shown.values(), "leave"):
        table.add_column(heading, justify="right")
    for k, e in enumerate(summary["exits"], 1):
        shares = (f"{100 * e[what]:.1f} %" for what in (*shown, "share"))
        table.add_row(str(k), str(e["frames"]), str(e["depth"]), f"{e['gmacs']:.4g}", *shares)
    Console().print(table)
    full, dynamic = summary["full"], summary["dynamic"]
    points = 100 * (dynamic["accuracy"] - full["accuracy"])
    print(f"full inference:    {_accuracy(full)} at {full['gmacs']:.4g} GMACs per video")
    print(
        f"dynamic inference: {_accuracy(dynamic)} at {dynamic['gmacs']:.4g} GMACs per video: "
        f"{100 * summary['saved']:z.1f} % saved, {points:+z.1f} points"
    )


def _accuracy(found: dict[str, float]) -> str:
    others = [f"{word} {100 * found[name]:.1f} %" for name, word in main_figures(found).items()]
    return f"{100 * found['accuracy']:.1f} % ({', '.join(others)})"


def write_curve(path: Path, module: DynamicInferenceModule, curve: FlopsAccuracy) -> None:
    """Write the points of the curve, the static exits and the calibrated point as CSV."""
    net = module.net
    calibrated = module.policy.thresholds.cpu()
    found = operate(curve.scores, curve.correct, curve.exit_gmacs.tolist(), calibrated[None])
    exits = range(len(net.route))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["kind", "gmacs", "accuracy", *(f"threshold_{n}x{d}" for n, d in net.route)])
    writer.writerow(["calibrated", float(found.gmacs), float(found.accuracy), *calibrated.tolist()])
    for k in exits:
        writer.writerow(["exit", float(curve.exit_gmacs[k]), float(curve.exit_accuracy[k]), *("" for _ in exits)])
    for gmacs, accuracy, thresholds in zip(curve.gmacs, curve.accuracy, curve.thresholds, strict=True):
        writer.writerow(["curve", float(gmacs), float(accuracy), *thresholds.tolist()])
    write_whole(path, text.getvalue().encode())


def _about(trainer: pl.Trainer, module: DynamicInferenceModule) -> dict[str, Any]:
    """What a reader of recorded outputs wants to know of the run, as plain data."""
    data = getattr(trainer, "datamodule", None)
    return {
        "checkpoint": printable(getattr(trainer, "ckpt_path", None) or ""),
        "data": type(data).__name__ if data else "loaders of its own",
        "root": printable(getattr(data, "root", "")),
        "seed": os.environ.get("PL_GLOBAL_SEED"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"dynvid": __version__} | {name: version(name) for name in ("torch", "pytorch-lightning", "timm")},
        "net": type(module.net).__name__,
        "frame_order": list(module.net.order),
        "sampling": module.sampling,
        "curve_thresholds": [[*map(strict_json.named, row)] for row in module.curve_thresholds.tolist()],
        "listing": module.listed,
    }


def _scalars(summary: dict[str, Any], stage: str) -> dict[str, float]:
    scalars = {f"{stage}/exit_{e['frames']}x{e['depth']}_accuracy": e["accuracy"] for e in summary["exits"]}
    scalars |= {f"{stage}/exit_{e['frames']}x{e['depth']}_share": e["share"] for e in summary["exits"]}
    for name in FIGURES.keys() & summary["full"].keys():
        scalars |= {f"{stage}/exit_{e['frames']}x{e['depth']}_{name}": e[name] for e in summary["exits"]}
        scalars[f"{stage}/dynamic_{name}"] = summary["dynamic"][name]
    scalars |= {f"{stage}/dynamic_accuracy": summary["dynamic"]["accuracy"], f"{stage}/saved": summary["saved"]}
    return scalars
