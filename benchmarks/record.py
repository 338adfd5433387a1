"""Train nets with several seeds, several runs side by side, and keep what they answered to validation and test.

    python benchmarks/record.py benchmarks/nets.yaml runs --only 'quickstart*' --jobs 2

The first file names the nets: NAME: the arguments of `dynvid fit`, as in a shell, where {seed} is the seed. Arguments
after the known ones are added to all. What the runs answered is kept in runs/NAME/SEED (see fit_validate_test.py), and
what is there is not run again; tables are made from it. A run that fails leaves its output in runs/NAME/SEED.log.
"""

import argparse
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import yaml
from runs import call, require_same, shown, stop_children_on_sigterm, write

RUN = str(Path(__file__).with_name("fit_validate_test.py"))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("nets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="may hold *")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each if more than one")
    parser.add_argument("--keep-checkpoint", action="store_true", help="as checkpoint.ckpt, beside the answers")
    options, extra = parser.parse_known_args()
    stop_children_on_sigterm()

    nets: dict[str, str] = yaml.safe_load(options.nets.read_text())
    chosen = [name for name in nets if any(fnmatch(name, wanted) for wanted in options.only)]
    if not chosen:
        sys.exit(f"{options.nets} names no such net; it names {', '.join(nets)}")
    arguments = {name: [*map(os.path.expandvars, shlex.split(nets[name])), *extra] for name in chosen}
    for name in chosen:
        note = options.out / name / "arguments.txt"
        now = shown(arguments[name])
        require_same(note, note.read_text().rstrip("\n") if note.exists() else now, now)
        write(note, f"{now}\n")

    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if options.jobs > 1 else {})
    failed = []

    def run(net: str, seed: int) -> None:
        folder = options.out / net / str(seed)
        of_seed = [word.replace("{seed}", str(seed)) for word in arguments[net]]
        own = [*of_seed, "--seed_everything", str(seed), *(["--keep-checkpoint"] if options.keep_checkpoint else [])]
        log = folder.with_suffix(".log")
        try:
            with log.open("wb") as output:
                call([sys.executable, RUN, str(folder), *own], environment, output)
        except SystemExit:
            failed.append(f"{net} with seed {seed} ({log})")
        else:
            log.unlink()
            print(f"{net}, seed {seed}: recorded", flush=True)

    wanted = [(net, seed) for seed in range(options.seeds) for net in chosen]
    missing = [(net, seed) for net, seed in wanted if not (options.out / net / str(seed)).exists()]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: run(*job), missing))
    if failed:
        sys.exit(f"failed, {len(failed)} of {len(missing)}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
