"""The command line: each command is a file of `dynvid.commands`, imported when it is called."""

import os
import re
import signal
import sys
from difflib import get_close_matches

import dynvid
from dynvid.errors import DynvidError, InputError
from dynvid.packaged import config_files
from dynvid.text import printable

USAGE = """\
usage: dynvid COMMAND ...

  fit       train and calibrate          dynvid fit --config quickstart.yaml
  validate  evaluate on the validation split
  test      accuracy and GMACs, full and dynamic
                                         dynvid test --config quickstart.yaml --ckpt_path best
  report    write the report of a run again, from its recorded outputs
                                         dynvid report RUN
  predict   write predictions.csv        dynvid predict --config quickstart.yaml --ckpt_path best
  calibrate another operating point for a checkpoint
                                         dynvid calibrate CHECKPOINT --config quickstart.yaml --max-drop 0.02
  profile   parameters, GMACs and milliseconds of each exit
                                         dynvid profile CHECKPOINT VIDEO_OR_FOLDER ...
  check     decode every video, list the unreadable
                                         dynvid check --config ucf101.yaml --data.root PATH
  pack      write a data set into shards  dynvid pack OUT --config folder.yaml --data.root PATH
  classify  label video files            dynvid classify MODEL VIDEO_OR_FOLDER ...
  live      label a camera, a stream or a file as it comes
                                         dynvid live MODEL SOURCE
  timeline  what happens when in a long video
                                         dynvid timeline MODEL VIDEO
  serve     answer over HTTP             dynvid serve MODEL
  demo      a page to try a model on     dynvid demo MODEL
  export    a folder to hand on, with graphs for other runtimes
                                         dynvid export CHECKPOINT FOLDER
  benchmark full against dynamic inference, in time
                                         dynvid benchmark MODEL VIDEO_OR_FOLDER ...

A MODEL is a checkpoint, a folder that `dynvid export` wrote, or the name of one on the Hugging Face hub.

Ready configs: {configs}
`dynvid COMMAND --help` shows the arguments of a command."""


def main(args: list[str] | None = None) -> None:
    """Run one command; what is wrong with the input is said in one line, with a non-zero exit code.

    Args:
        args: Arguments, `sys.argv[1:]` by default.

    Raises:
        SystemExit: 1 where the input is at fault, 2 where the arguments are, 130 where it was interrupted.
    """
    try:
        code = _run(args)
        sys.stdout.flush()  # here, where it is no error that nobody reads any more
    except KeyboardInterrupt:
        print("dynvid: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(1)
        said = _on_purpose(error)
        if said is None:
            raise
        print(f"dynvid: error: {_one_line(said)}", file=sys.stderr)
        sys.exit(1)
    if code is not None:
        sys.exit(code)


def _run(args: list[str] | None) -> int | None:
    """Run a command; its exit code, where it has one."""
    command, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(sorted(config_files()))))
    elif command == "--version":
        print(dynvid.__version__)
    elif command == "classify":
        from dynvid.commands.classify import run as classify

        return classify(rest)
    elif command == "live":
        from dynvid.commands.live import run as live

        return live(rest)
    elif command == "timeline":
        from dynvid.commands.timeline import run as timeline

        return timeline(rest)
    elif command == "serve":
        from dynvid.commands.serve import run as serve

        return serve(rest)
    elif command == "demo":
        from dynvid.commands.demo import run as demo

        return demo(rest)
    elif command == "export":
        from dynvid.commands.export import run as export

        return export(rest)
    elif command == "benchmark":
        from dynvid.commands.benchmark import run as benchmark

        return benchmark(rest)
    elif command == "calibrate":
        from dynvid.commands.calibrate import run as calibrate

        return calibrate(rest)
    elif command == "profile":
        from dynvid.commands.profile import run as profile

        return profile(rest)
    elif command == "report":
        from dynvid.commands.report import run as report

        return report(rest)
    elif command == "check":
        from dynvid.commands.check import run as check

        return check(rest)
    elif command == "pack":
        from dynvid.commands.pack import run as pack

        return pack(rest)
    elif command == "fit":
        from dynvid.commands.fit import run as fit

        fit(args)
    elif command in ("validate", "test", "predict"):
        from dynvid.commands.train import run as train

        train(args)
    else:
        near = get_close_matches(command, re.findall(r"^  (\w+) ", USAGE, re.MULTILINE), 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"there is no command {command!r}; {meant}`dynvid --help` lists them")
    return None


def _on_purpose(error: Exception) -> Exception | None:
    """The error that was raised on purpose, or by the operating system on a path; None where there is a bug."""
    # jsonargparse wraps what a data module says about its arguments.
    return next((e for e in (error, error.__cause__) if isinstance(e, DynvidError | OSError)), None)


def _one_line(error: Exception) -> str:
    """Its message; a loader process hands on its whole traceback in one, and there it is what stands at the end."""
    text = str(error).strip() or type(error).__name__
    text = text.rpartition(f"\n{type(error).__module__}.{type(error).__qualname__}: ")[2]
    cause = str(error.__cause__ or "")  # other libraries lay theirs out in lines; in our own, a line break is a name's
    return printable(text.replace(cause, " ".join(cause.split())) if cause else text)


def _nobody_reads() -> bool:
    """Whether standard output leads to a process that has ended, as in `| head`; then nothing more is written to it."""
    try:
        print(flush=True)  # something must be written to see it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
