"""The videos that `dynvid calibrate` goes by: recorded before, or to be answered now."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from dynvid.commands.parser import Parser
from dynvid.commands.recordings import name_recordings
from dynvid.commands.search import search
from dynvid.data import Video, VideoDataset, collate, decode_size, eval_transform
from dynvid.data.files import short
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule, fingerprint, listing
from dynvid.multilabel import multi_hot
from dynvid.outputs import OUT_OF_FOLD, Outputs, recordings_of
from dynvid.text import printable

# Its scores are not those of the nets that answered, and it has seen every video with a label.
NO_REJECT = "--max-error: a net of `fit --folds` can have no reject threshold; fit without --folds"


class Source(NamedTuple):
    """Videos that are still to be answered.

    Attributes:
        loader: Batches of them.
        videos: All of them.
        split: What they are called.
        unreadable: How many could not be found or opened before.
    """

    loader: DataLoader[Any]
    videos: Sequence[Video]
    split: str
    unreadable: int = 0


def find_source(
    options: Any, parser: Parser, module: DynamicInferenceModule, promises: bool
) -> Source | Outputs | None:
    """The videos that calibrate, or what was recorded of them; None where there are none.

    Raises:
        InputError: They are not of this net, of a test split, or have chosen the checkpoint.
    """
    if options.outputs:
        path = Path(options.outputs)
        outputs = Outputs.read(path / "outputs_val.parquet" if path.is_dir() else path)
        if outputs.weights != fingerprint(module.state_dict()):
            raise InputError(f"{printable(path)}: recorded with other weights than {options.checkpoint} holds")
        if outputs.run.get("sampling", "center") != module.sampling:
            raise InputError(f"{printable(path)}: recorded with other frames than the checkpoint is evaluated on")
        if outputs.split == OUT_OF_FOLD and options.max_error is not None:
            raise InputError(NO_REJECT)
        if outputs.split == "test":
            raise InputError(f"{printable(path)}: thresholds are never chosen on test data; use validation's")
        if outputs.split == "val":
            _refuse_others(module, options, promises, str(outputs.run.get("listing", "")))
        return outputs
    if options.videos:
        found, _ = search(options.videos)
        for each in found:
            if each.error:
                print(f"dynvid: {printable(each.error)}", file=sys.stderr)
        paths = [str(each.path) for each in found if not each.error]
        if not paths:
            raise InputError(f"{printable(options.videos[0])}: nothing to calibrate on")
        size, name = module.net.input_size, printable(short(", ".join(options.videos)))
        videos = [
            Video(path, -1, group) for path, group in zip(paths, name_recordings(paths, options.group), strict=True)
        ]
        dataset = VideoDataset(
            videos,
            module.net.num_frames,
            eval_transform(size),
            short_side=decode_size(size),
            on_error="skip",
            sampling=module.sampling,
        )
        loader = DataLoader(dataset, options.batch_size, num_workers=options.num_workers, collate_fn=collate)
        return Source(loader, videos, f"videos: {name}", len(found) - len(paths))
    if options.config:
        data, net = parser.instantiate(options).data, module.net
        for name, own, its in (
            ("num_frames", net.num_frames, data.num_frames),
            ("size", net.input_size, data.size),
            ("sampling", module.sampling, data.sampling),
            ("multi_label", module.multi_label, data.multi_label),
        ):
            if own != its:
                raise InputError(f"data.{name}={its}: the checkpoint's net takes {own}")
        data.prepare_data()
        data.setup("validate")
        if module.class_names and data.class_names != module.class_names:
            raise InputError("the data has other classes than the checkpoint knows")
        loader = data.val_dataloader()
        _refuse_others(module, options, promises, listing(loader))
        return Source(loader, loader.dataset.videos, "val")
    return None


@torch.inference_mode()
def record(module: DynamicInferenceModule, source: Source) -> tuple[Outputs, int]:
    """Run the net over a loader, all exits in one pass; what cannot be read is named, left out and counted."""
    module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    logits, index, left_out = [], [], 0
    for batch in track(source.loader, "calibrating", disable=not sys.stderr.isatty(), console=Console(stderr=True)):
        for reason in batch["skipped"].values():
            print(f"dynvid: {printable(reason)}", file=sys.stderr)
        left_out += len(batch["skipped"])
        logits.append(module.net(batch["video"]).float().cpu())
        index.append(batch["index"])
    module.cpu()
    chosen = [source.videos[row] for row in torch.cat(index).tolist()]
    paths, labels = [video.path for video in chosen], [video.label for video in chosen]
    outputs = Outputs(
        logits=torch.cat(logits, dim=1),
        labels=multi_hot(labels, module.net.num_classes) if module.multi_label else torch.tensor(labels),
        paths=paths,
        recordings=recordings_of(paths, [video.group for video in chosen]),
        route=module.net.route,
        gmacs=module.net.gmacs,
        full_gmacs=module.net.full_gmacs,
        policy=module.policy,
        point=module.point,
        split=source.split,
        class_names=module.class_names,
        weights=fingerprint(module.state_dict()),
        run={
            "frame_order": list(module.net.order),
            "sampling": module.sampling,
            "listing": listing(source.loader),
        },
        profiles=module.profiles,
        background=module.background,
    )
    return outputs, left_out


def _refuse_others(module: DynamicInferenceModule, options: Any, promises: bool, listed: str) -> None:
    """Only the videos that `fit` validated on, less those that chose, can promise anything as a validation split.

    Raises:
        InputError: A promise is asked for of others, or of those that chose the checkpoint.
    """
    if module.chosen_by == "folds":
        raise InputError(
            "this net was trained on the validation videos too, by `fit --folds`, so they tell nothing of new ones: "
            f"take others (--videos), or --outputs outputs_{OUT_OF_FOLD}.parquet, which lies beside its checkpoint"
        )
    if not promises:
        return
    others = "" if options.max_error is not None else "take others (--videos), "  # which have no labels
    ways = f"{others}fit again with the promise, or take --confidence null, which promises nothing"
    if module.chosen_by in (None, "these"):
        raise InputError(
            f"the validation videos chose this checkpoint, or may have, so they cannot promise anything: {ways}"
        )
    if module.listing and listed and module.listing != listed:
        raise InputError(
            "these are not the validation videos of `fit`, which may have trained on some: give the arguments of "
            f"`data` that it had, such as val_fraction, seed and exclude; or {ways}"
        )
