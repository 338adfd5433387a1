#!/usr/bin/env bash
# Everything that needs a GPU, on one, in under eight minutes: bash benchmarks/gpu.sh [OUT.json]
# A part that runs over its time or fails is named in the result; the others stand. PYTHON names the interpreter.
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu.json}
python=${PYTHON:-python3}
total=${TOTAL_SECONDS:-460}
device=${DEVICE:-cuda}
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"

# part NAME SECONDS COMMAND...: its JSON, or why there is none
part() {
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  ((limit > total - SECONDS)) && limit=$((total - SECONDS))
  if ((limit < 10)); then
    echo "no time was left" > "$parts/$name.why"
  else
    timeout -k 5 "$limit" "$@" > "$parts/$name.json" 2> "$parts/$name.err"
    local code=$?
    if ((code == 124 || code == 137)); then
      echo "stopped after $limit s" > "$parts/$name.why"
    elif ((code)); then
      { echo "exit code $code: "; tail -n 1 "$parts/$name.err"; } | tr -d '\n' > "$parts/$name.why"
    fi
  fi
  echo "$name: $(cat "$parts/$name.why" 2> /dev/null || echo measured), $((SECONDS - began)) s" >&2
}

benchmark() {
  local name=$1 limit=$2
  shift 2
  part "$name" "$limit" "$python" -c 'from dynvid.cli import main; main()' benchmark --backbone resnet50 \
    --device "$device" --repeats 5 --seconds 8 --json "$@"
}

depth="--route depth --forced-exits"
unified="--route unified --forced-exits"
benchmark depth_60_20_15_5 60 $depth 60,20,15,5 --batch-size 1 8 64
benchmark unified_60_20_15_5 60 $unified 60,20,15,5 --batch-size 1 8 64
benchmark depth_25x4 60 $depth 25,25,25,25 --batch-size 1 8 64
benchmark unified_25x4 60 $unified 25,25,25,25 --batch-size 1 8 64
# Each alone, as the largest tensors have more than 2 ** 31 elements.
benchmark depth_60_20_15_5_batch_256 50 $depth 60,20,15,5 --batch-size 256
benchmark unified_60_20_15_5_batch_256 50 $unified 60,20,15,5 --batch-size 256
benchmark unified_against_plain_tsm 50 $unified 60,20,15,5 --batch-size 8 64 --against tsm
benchmark depth_60_20_15_5_float32 50 $depth 60,20,15,5 --batch-size 8 64 --precision float32
part shift 45 "$python" benchmarks/gpu_shift.py --device "$device"
benchmark depth_nobody_exits 40 $depth 0,0,0,100 --batch-size 8 64
benchmark depth_25x4_batch_256 40 $depth 25,25,25,25 --batch-size 256
benchmark unified_25x4_batch_256 40 $unified 25,25,25,25 --batch-size 256
benchmark depth_60_20_15_5_compiled 120 $depth 60,20,15,5 --batch-size 8 --optimize compile

"$python" - "$parts" "$out" "$SECONDS" << 'END'
import datetime, json, pathlib, sys

parts, out, seconds = sys.argv[1:]
found = {}
for path in sorted(pathlib.Path(parts).glob("*.*"), key=lambda path: path.stat().st_mtime):
    if path.suffix == ".why":
        found[path.stem] = {"skipped": path.read_text().strip()}
    elif path.suffix == ".json" and path.read_text().strip():
        found[path.stem] = json.loads(path.read_text().splitlines()[-1])
measured = next((one for one in found.values() if "device" in one), {})
same = {key: measured.get(key) for key in ("device", "versions", "processor")}
for one in found.values():
    for key in same:
        one.pop(key, None)
head = {"date": datetime.date.today().isoformat(), "seconds": int(seconds), **same}
lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
lines = f'{json.dumps(head)[:-1]},\n "parts": {{\n{lines}\n }}}}\n'
json.loads(lines)
pathlib.Path(out).write_text(lines)
END
echo "wrote $out" >&2
