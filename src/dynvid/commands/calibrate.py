"""`dynvid calibrate`: another operating point for a trained checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dynvid.calibration import (
    ChosenBy,
    OperatingPoint,
    Reject,
    Target,
    check_max_error,
    counted,
    find_point,
    fit_temperatures,
    kept_apart,
    listing_of,
    measured,
    num_candidates,
    whole_curve,
)
from dynvid.checkpoint import is_calibrated, read_checkpoint
from dynvid.commands.parser import DataOfConfig, Parser
from dynvid.commands.source import NO_REJECT, Source, find_source, record
from dynvid.data import VideoDataModule
from dynvid.errors import InputError
from dynvid.module import DynamicInferenceModule
from dynvid.outputs import OUT_OF_FOLD, Outputs
from dynvid.policy import Score, ThresholdPolicy
from dynvid.profile import Profile, choose_profile
from dynvid.saving import WholeFiles
from dynvid.text import printable

DESCRIPTION = """\
Change the operating point of a trained checkpoint, in one pass over the validation split that `fit` calibrated on
(--config), over videos without labels (--videos), or from outputs recorded before (--outputs). Writes a new checkpoint.
"""


def run(arguments: list[str]) -> int:
    """Run the command; 0 if every video could be read, else 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    checkpoint = read_checkpoint(options.checkpoint)
    module = DynamicInferenceModule.load_from_checkpoint(options.checkpoint)
    target = _target(options)
    if options.max_error is not None:
        _check_max_error(options, module.chosen_by, is_calibrated(checkpoint))
    profile = _profile(options, module)
    if options.thresholds:
        _by_hand(options.thresholds, len(module.net.route))
    output = Path(options.output or _beside(options, target))
    table = output.with_suffix(".parquet")
    if table == output:
        raise InputError(f"--output {printable(output)}: a checkpoint, such as {printable(table.with_suffix('.ckpt'))}")
    promises = (target is not None and target.promises) or (options.max_error is not None and options.confidence)
    source, unreadable = find_source(options, parser, module, bool(promises)), 0
    for path in [output, *([table] if isinstance(source, Source) else [])]:
        if path.exists():
            raise InputError(f"{printable(path)}: exists already; name another file with --output")
    if isinstance(source, Source):
        outputs, left_out = record(module, source)
        unreadable = source.unreadable + left_out
        thresholds, curve, policy, point, reject = _calibrated(options, module, target, profile, outputs)
        outputs.under(policy, point, reject).save(table)
        print(f"outputs: {printable(table)} (calibrates again in seconds with --outputs)")
    else:
        thresholds, curve, policy, point, reject = _calibrated(options, module, target, profile, source)
    checkpoint["state_dict"] |= {"policy.thresholds": thresholds, "curve_thresholds": curve}
    checkpoint["dynvid"] |= {
        "score": policy.score_name,
        "temperatures": list(policy.temperatures),
        "calibrated": True,
        "operating_point": point.plain(),
        "reject": None if reject is None else reject.plain(),
    }
    WholeFiles().save_checkpoint(checkpoint, output)
    _say(module, thresholds, policy, point, profile)
    if reject is not None:
        print(f"answers: {printable(reject)}")
        if offered := reject.offered():
            print(offered)
    elif module.reject is not None and module.reject.threshold is not None:
        print("answers: no longer withheld, for that went by the old thresholds; give --max-error again")
    print(f"checkpoint: {printable(output)}")
    return int(unreadable > 0)


def _parser() -> Parser:
    """What the command takes."""
    parser = Parser(prog="dynvid calibrate", description=DESCRIPTION)
    parser.add_argument("checkpoint", help="A checkpoint of `dynvid fit`.")
    parser.add_argument(
        "-c", "--config", action=DataOfConfig, help="A YAML file or packaged config; its `data` is used."
    )
    parser.add_argument("--outputs", type=str | None, help="An outputs_val.parquet of `dynvid validate` or calibrate.")
    parser.add_argument("--videos", nargs="+", type=str, help="Video files or folders of them; labels are not needed.")
    # With underscores too, as the keys of configs and the other commands have them.
    parser.add_argument(
        "--max-drop", "--max_drop", type=float | None, help="Share of new videos that may be lost: 0.01."
    )
    parser.add_argument(
        "--max-disagreement",
        "--max_disagreement",
        type=float | None,
        help="Share that may be given another label than full inference gives.",
    )
    parser.add_argument("--budget", type=float | None, help="Mean GMACs per video; promises nothing.")
    parser.add_argument(
        "--budget-ms",
        "--budget_ms",
        type=float | None,
        help="Mean milliseconds per video, as `dynvid profile` stored them; promises nothing.",
    )
    parser.add_argument(
        "--cost",
        type=Literal["gmacs", "ms"] | None,
        help="What the first two save; ms goes by a stored profile (default: gmacs).",
    )
    parser.add_argument(
        "--profile", type=int | None, help="Number of the stored profile that milliseconds go by, from 1."
    )
    parser.add_argument(
        "--group",
        type=str | None,
        help="Regular expression; what it finds in a path of --videos names the recording that the clip was cut from.",
    )
    parser.add_argument("--thresholds", nargs="+", type=str, help="One per exit but the last, by hand; inf: it is off.")
    parser.add_argument(
        "--max-error",
        "--max_error",
        type=float | None,
        help="Share of wrong answers permitted among those given; the least sure are withheld. Beside the others, or "
        "alone, which leaves the thresholds as they are.",
    )
    parser.add_argument("--confidence", type=float | None, default=0.95, help="Of the promises; null for none.")
    parser.add_argument("--score", type=Score | None, help="How sure an exit is; that of the checkpoint by default.")
    parser.add_argument(
        "--temperature", type=bool | None, help="Fit a temperature per exit, or do without; as it is by default."
    )
    parser.add_argument("--output", type=str | None, help="The new checkpoint; beside the old one by default.")
    parser.add_argument(
        "--batch-size", "--batch_size", type=int, default=16, help="Videos per batch of --videos (default: 16)."
    )
    parser.add_argument(
        "--num-workers", "--num_workers", type=int, default=2, help="Decoding processes of --videos (default: 2)."
    )
    parser.add_subclass_arguments(VideoDataModule, "data", required=False)
    return parser


def _target(options: Any) -> Target | None:
    """What was asked for; None for thresholds by hand.

    Raises:
        InputError: Nothing was, or several things at once.
    """
    names = ("max_drop", "max_disagreement", "budget", "budget_ms")
    asked = {name: options[name] for name in names if options[name] is not None}
    sources = [name for name in ("config", "outputs", "videos") if options[name]]
    if options.thresholds and asked:
        raise InputError(f"--thresholds beside --{next(iter(asked)).replace('_', '-')}: give one of them")
    if len(sources) > 1:
        raise InputError(f"--{sources[0]} beside --{sources[1]}: give one of them")
    if options.thresholds:
        return None
    if len(asked) > 1 or (not asked and options.max_error is None):
        raise InputError(
            "calibrate needs one of --max-drop, --max-disagreement, --budget, --budget-ms and --thresholds, or "
            "--max-error"
        )
    if not sources:
        raise InputError("calibrate needs videos: --config with the data that fit validated on, --videos, or --outputs")
    if options.batch_size < 1 or options.num_workers < 0:
        raise InputError("--batch-size must be 1 or more, --num-workers 0 or more")
    if options.videos and "max_drop" in asked:
        raise InputError(
            "--max-drop needs labels, which --videos does not have: use --max-disagreement, which bounds it"
        )
    return Target(**asked, confidence=options.confidence) if asked else None


def _check_max_error(options: Any, chosen_by: ChosenBy | None, calibrated: bool) -> None:
    """Refuse what does not go with --max-error.

    Raises:
        InputError: It is out of its range; the net is of folds; there are no labels; or it is alone, and there is
            nothing to leave as it is.
    """
    check_max_error(options.max_error, options.confidence)
    if chosen_by == "folds":
        raise InputError(NO_REJECT)
    if options.videos:
        raise InputError("--max-error needs labels, which --videos does not have: use --config or --outputs")
    if not (options.config or options.outputs):
        raise InputError("--max-error needs videos: --config with the data that fit validated on, or --outputs")
    names = ("max_drop", "max_disagreement", "budget", "budget_ms", "thresholds")
    if all(options[name] is None for name in names):
        changed = [f"--{name}" for name in ("score", "temperature", "cost") if options[name] is not None]
        if changed:
            raise InputError(f"{changed[0]} changes what thresholds mean: ask for new ones, with --max-drop or another")
        if not calibrated:
            raise InputError(
                "--max-error alone leaves thresholds as they are, and this checkpoint has none: --max-drop"
            )


def _profile(options: Any, module: DynamicInferenceModule) -> Profile | None:
    """The profile that costs are counted by; None where they are GMACs.

    Raises:
        InputError: There is none, or several would do; or options that do not go together.
    """
    in_ms = options.budget_ms is not None or options.cost == "ms"
    if options.cost == "gmacs" and options.budget_ms is not None:
        raise InputError("--cost gmacs beside --budget-ms: give one of them")
    if options.cost == "ms" and (options.budget is not None or options.thresholds):
        raise InputError(f"--cost ms beside --{'thresholds' if options.thresholds else 'budget'}: give one of them")
    if options.profile is not None and not in_ms:
        raise InputError("--profile is for --budget-ms and --cost ms")
    return choose_profile(module.profiles, options.profile) if in_ms else None


def _beside(options: Any, target: Target | None) -> Path:
    """The name of the new checkpoint: that of the old one, with what was asked for."""
    asked = ["thresholds"] if options.thresholds else []
    asked += [f"{target.rule}-{target.value:g}"] if target is not None else []
    asked += [f"max_error-{options.max_error:g}"] if options.max_error is not None else []
    promises = options.max_error is not None or (target is not None and target.rule in ("max_drop", "max_disagreement"))
    if promises and options.confidence != 0.95:
        asked.append("no-promise" if options.confidence is None else f"{options.confidence:g}")
    asked += ["ms"] if options.cost == "ms" and options.budget_ms is None else []
    asked += [options.score] if options.score else []
    asked += ["temperature"] if options.temperature else []
    old = Path(options.checkpoint)
    return old.with_name("-".join([old.stem, *asked]) + ".ckpt")


def _calibrated(
    options: Any,
    module: DynamicInferenceModule,
    target: Target | None,
    profile: Profile | None,
    outputs: Outputs | None,
) -> tuple[Tensor, Tensor, ThresholdPolicy, OperatingPoint, Reject | None]:
    """Thresholds (K,), those of the curve (M, K), the policy, what is known of them, and which answers are withheld.

    Raises:
        InputError: The videos cannot promise what is asked for, or lack labels that it takes.
    """
    exits = len(module.net.route)
    temperatures: Sequence[float] | None = None if options.temperature is False else module.policy.temperatures
    chosen_by: ChosenBy = "nothing"
    if outputs is not None:
        outputs, temperatures, chosen_by = _calibrating(options, module, outputs)
    elif options.temperature:
        raise InputError("--temperature true needs videos with labels: --config, or --outputs")
    score = options.score or module.policy.score_name
    policy = ThresholdPolicy(exits, None, score, temperatures, module.multi_label)
    curve = torch.full((num_candidates(exits), exits), torch.inf)
    if outputs is None:
        thresholds = _by_hand(options.thresholds, exits)
        full = bool(thresholds[:-1].isposinf().all())
        policy.thresholds.copy_(thresholds)
        return thresholds, curve, policy, OperatingPoint("thresholds", full_inference=full), None
    outputs = outputs.under(policy, None)
    print(f"calibration: {counted(outputs.recordings)} of {printable(outputs.split)}")
    if target is None and not options.thresholds:
        kept = outputs.under(module.policy, module.point)
        thresholds, curve = module.policy.thresholds, module.curve_thresholds
        point = module.point or OperatingPoint("thresholds")
        return thresholds, curve, kept.policy, point, kept.rejected(options.max_error, options.confidence, chosen_by)
    lost = outputs.lost(with_labels=outputs.labelled and options.max_disagreement is None)
    curve = whole_curve(outputs.scores, ~lost, outputs.gmacs if profile is None else profile.milliseconds)
    if target is None:
        thresholds = _by_hand(options.thresholds, exits)
        point = OperatingPoint("thresholds", split=outputs.split, chosen_by=chosen_by)
        point = measured(point, thresholds, outputs.scores, lost, outputs.gmacs, outputs.recordings)
    else:
        thresholds, point = find_point(
            outputs.scores,
            lost,
            outputs.gmacs,
            target,
            outputs.recordings,
            outputs.split,
            chosen_by,
            outputs.full_gmacs,
            profile,
        )
    point = replace(point, listing=listing_of(outputs.paths), differing=outputs.differing(thresholds))
    policy.thresholds.copy_(thresholds)
    reject = None
    if options.max_error is not None:
        reject = outputs.under(policy, point).rejected(options.max_error, options.confidence, chosen_by)
    return thresholds, curve, policy, point, reject


def _calibrating(
    options: Any, module: DynamicInferenceModule, outputs: Outputs
) -> tuple[Outputs, Sequence[float] | None, ChosenBy]:
    """The videos that calibrate, the temperatures, and who chose the checkpoint: what is fitted goes by the others.

    Raises:
        InputError: They lack labels that are needed.
    """
    if not outputs.labelled and (options.temperature or options.max_drop is not None):
        asked = "--temperature true" if options.temperature else "--max-drop"
        raise InputError(f"{asked} needs labels, which these videos do not have; --max-disagreement does not")
    temperatures: Sequence[float] | None = None if options.temperature is False else module.policy.temperatures
    apart = kept_apart(outputs.recordings)
    if options.temperature:
        part = outputs.of(~apart)
        temperatures = fit_temperatures(part.logits, part.labels)
    chosen_by: ChosenBy = "nothing"
    if outputs.split == "val":
        chosen_by = module.chosen_by or "these"
    elif outputs.split == OUT_OF_FOLD:
        chosen_by = "folds"
    fitted = temperatures is not None and any(t != 1 for t in temperatures)
    if options.temperature or (outputs.split in ("val", OUT_OF_FOLD) and (chosen_by == "others" or fitted)):
        outputs = outputs.of(apart)
    return outputs, temperatures, chosen_by


def _by_hand(given: list[str], exits: int) -> Tensor:
    """Thresholds as they were given; the last exit needs none.

    Raises:
        InputError: They are not one number per exit.
    """
    try:
        levels = [float(word) for word in given]
    except ValueError as error:
        raise InputError(f"--thresholds {' '.join(given)}: numbers, or inf for an exit that is off") from error
    if len(levels) not in (exits - 1, exits) or any(map(math.isnan, levels)):
        numbers = f"{len(levels)} number{'s' if len(levels) > 1 else ''}"
        raise InputError(f"--thresholds has {numbers}: the net has {exits} exits, the last of which needs none")
    return torch.tensor([*levels[: exits - 1], -torch.inf])


def _say(
    module: DynamicInferenceModule,
    thresholds: Tensor,
    policy: ThresholdPolicy,
    point: OperatingPoint,
    profile: Profile | None,
) -> None:
    cells = zip(module.net.route, thresholds.tolist(), strict=True)
    shown = ", ".join(f"{n}x{d} {level:.4g}" for (n, d), level in cells if level > -math.inf)
    print(f"thresholds ({policy.score_name}): {shown}")
    if any(t != 1 for t in policy.temperatures):
        print(f"temperatures: {', '.join(f'{t:.3g}' for t in policy.temperatures)}")
    print(printable(point))
    if point.gmacs is not None:
        print(f"saved there: {100 * (1 - point.gmacs / module.net.full_gmacs):z.1f} % of the GMACs of full inference")
    if profile is not None and point.milliseconds is not None:
        share = 100 * (1 - point.milliseconds / profile.full.median)
        print(f"time there: {point.milliseconds:.4g} ms per video, {share:z.1f} % saved ({printable(profile)})")
    if offered := point.offered():
        print(offered)
