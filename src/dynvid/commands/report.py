"""`dynvid report`: the report of a run again, from its recorded outputs alone."""

from pathlib import Path

from dynvid.commands.arguments import Arguments
from dynvid.errors import InputError, MissingFileError
from dynvid.text import printable

RECORDED = ("outputs_test.parquet", "outputs_val.parquet")  # the first that is there


def run(arguments: list[str]) -> int:
    """Run the command; 0 if the report is written."""
    parser = Arguments("report", "Write report.html, report.md and report.json from recorded outputs.")
    parser.add_argument("run", help="The folder of a run of `dynvid test` or `validate`, or outputs that it recorded.")
    parser.add_argument("--output", help="Folder for the report (default: beside the outputs).")
    options = parser.parse_args(arguments)
    report(options.run, options.output)
    return 0


def report(run: str | Path, output: str | Path | None = None) -> None:
    """Write the report of recorded outputs, and print what matters most.

    Args:
        run: The folder of a run, or the outputs that it recorded.
        output: Where the report goes; beside the outputs by default.

    Raises:
        FileNotFoundError: There are no recorded outputs.
        ValueError: They cannot be read, or cannot be reported.
    """
    from dynvid.outputs import Outputs
    from dynvid.report import render_report

    path = find_outputs(Path(run))
    outputs = Outputs.read(path)
    try:
        made = render_report(outputs)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    folder = path.parent if output is None else Path(output)
    made.write(folder)
    for line in made.summary["headline"].values():
        if line is not None:
            print(printable(line))
    print(f"report:  {printable(folder / 'report.html')}")


def find_outputs(run: Path) -> Path:
    """The recorded outputs of a run: those of the test, else those of the validation split.

    Raises:
        FileNotFoundError: There are none.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise MissingFileError(f"{run}: no such file or folder")
    found = [run / name for name in RECORDED if (run / name).is_file()]
    if not found:
        raise MissingFileError(f"{run}: no {' and no '.join(RECORDED)} in it; `dynvid test` writes the first")
    return found[0]
