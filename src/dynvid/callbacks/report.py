"""Scalars, figure, table and files of top-1 against cost."""

import csv
import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.table import Table

from dynvid import strict_json
from dynvid.calibration import operate
from dynvid.metrics import FlopsAccuracy, draw_legend, plot_curve
from dynvid.module import DynamicInferenceModule
from dynvid.published import Dataset
from dynvid.text import printable
from dynvid.whole import write_whole


class FlopsAccuracyReport(pl.Callback):
    """Report top-1 against GMACs after each validation and test.

    Scalars per exit and the figure go to the logger; `flops_accuracy.csv` and `flops_accuracy.png` to the log folder.
    After a run of test or validate a table is printed too, and `report.json` written.

    Args:
        published: A data set of `dynvid.published` whose rows the figure shows beside the curve.

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
        """Say where the best checkpoint is, or the last where nothing was monitored."""
        saved = trainer.checkpoint_callback
        path = getattr(saved, "best_model_path", "") or getattr(saved, "last_model_path", "")
        if path and trainer.is_global_zero:
            print(f"checkpoint: {printable(path)}")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, write the files and print the table."""
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DynamicInferenceModule)
        folder = trainer.log_dir  # broadcasts: every rank has to ask
        if pl_module.curve is None or not trainer.is_global_zero:
            return
        summary = summarise(pl_module, pl_module.curve)
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(summary, stage), step=trainer.global_step)
        if folder is None or getattr(trainer, "fast_dev_run", False):
            if trainer.state.fn != "fit":
                print_summary(summary)
            return
        picture = Path(folder, "flops_accuracy.png")
        figure, axes = plot_curve(pl_module.curve, published=self.published)
        dynamic = summary["dynamic"]
        axes.plot(
            dynamic["gmacs"],
            100 * dynamic["accuracy"],
            "*",
            ms=14,
            color="tab:red",
            label="calibrated thresholds",
        )
        draw_legend(axes)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        write_whole(picture, drawn.getbuffer())
        write_curve(Path(folder, "flops_accuracy.csv"), pl_module, pl_module.curve)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"{stage}/flops_accuracy", figure, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"{stage}/flops_accuracy", [str(picture)], step=trainer.global_step)
        if trainer.state.fn != "fit":
            write_whole(Path(folder, "report.json"), (strict_json.dumps(summary, indent=2) + "\n").encode())
            print_summary(summary)
            print(f"report:  {printable(Path(folder, 'report.json'))}\npicture: {printable(picture)}")


def summarise(module: DynamicInferenceModule, curve: FlopsAccuracy) -> dict[str, Any]:
    """Full inference, dynamic inference at the calibrated thresholds, and every exit, as plain data.

    Returns:
        `full` and `dynamic` (each `accuracy` in [0, 1] and `gmacs` per video), `saved` (1 - dynamic / full GMACs)
        and `exits` (`frames`, `depth`, `gmacs`, `accuracy`, `share` of the videos that take it).
    """
    net, gmacs = module.net, curve.exit_gmacs.tolist()
    found = operate(curve.scores, curve.correct, gmacs, module.policy.thresholds.cpu()[None])
    views = gmacs[0] / net.gmacs[0]
    full, dynamic = views * net.full_gmacs, float(found.gmacs)
    return {
        "full": {"accuracy": float(curve.exit_accuracy[-1]), "gmacs": full},
        "dynamic": {"accuracy": float(found.accuracy), "gmacs": dynamic},
        "saved": 1 - dynamic / full,
        "videos": curve.scores.shape[1],
        "exits": [
            {"frames": e.frames, "depth": e.depth, "gmacs": g, "accuracy": float(a), "share": float(s)}
            for e, g, a, s in zip(net.route, gmacs, curve.exit_accuracy, found.share[0], strict=True)
        ],
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table of exits and the two lines that matter."""
    table = Table(
        title=f"{summary['videos']} videos",
        caption="top-1: if every video left here; leave: the share that does",
    )
    for heading in ("exit", "frames", "depth", "GMACs", "top-1", "leave"):
        table.add_column(heading, justify="right")
    for k, e in enumerate(summary["exits"], 1):
        shares = f"{100 * e['accuracy']:.1f} %", f"{100 * e['share']:.1f} %"
        table.add_row(str(k), str(e["frames"]), str(e["depth"]), f"{e['gmacs']:.4g}", *shares)
    Console().print(table)
    full, dynamic = summary["full"], summary["dynamic"]
    points = 100 * (dynamic["accuracy"] - full["accuracy"])
    print(f"full inference:    {100 * full['accuracy']:.1f} % at {full['gmacs']:.4g} GMACs per video")
    print(
        f"dynamic inference: {100 * dynamic['accuracy']:.1f} % at {dynamic['gmacs']:.4g} GMACs per video: "
        f"{100 * summary['saved']:z.1f} % saved, {points:+z.1f} points"
    )


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


def _scalars(summary: dict[str, Any], stage: str) -> dict[str, float]:
    scalars = {f"{stage}/exit_{e['frames']}x{e['depth']}_accuracy": e["accuracy"] for e in summary["exits"]}
    scalars |= {f"{stage}/exit_{e['frames']}x{e['depth']}_share": e["share"] for e in summary["exits"]}
    scalars |= {
        f"{stage}/dynamic_accuracy": summary["dynamic"]["accuracy"],
        f"{stage}/saved": summary["saved"],
    }
    return scalars
