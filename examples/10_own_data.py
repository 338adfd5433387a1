"""From a folder of your own videos to a served model: look, train, test, export, serve, ask.

python examples/10_own_data.py PATH_TO_ROOT [OPTION_OF_FIT ...]     (pip install 'dynvid[serve]')

PATH_TO_ROOT holds train/<class>/* and test/<class>/*. Each step is a command that you may type as well; it is printed.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

root, *options = sys.argv[1:]
data = ["--config", "folder.yaml", "--data.root", root]


def dynvid(*words):
    """Run a command to its end."""
    print(f"\n$ dynvid {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "dynvid", *words], check=True)


dynvid("check", *data)
dynvid("fit", *data, *options)
dynvid("test", *data, *options, "--ckpt_path", "best")
runs = sorted(Path("logs").rglob("checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
best = next(path for path in reversed(runs) if not path.name.startswith("last"))
dynvid("export", str(best), "model")

print("\n$ dynvid serve model --port 0", flush=True)
command = [sys.executable, "-m", "dynvid", "serve", "model", "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        said = next(line for line in server.stderr if "answers POST" in line)
        address = said.split()[-1]
        clip = next(path for path in sorted(Path(root, "test").rglob("*")) if path.is_file())
        with urlopen(address, clip.read_bytes(), timeout=60) as answer:
            found = json.load(answer)
        print(f"{clip}: {found['label']} ({found['probability']:.0%}), {found['saved']:.0%} of the GMACs saved")
    finally:
        server.terminate()
