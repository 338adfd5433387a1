"""Ask a server for labels, exit by exit: the standard library is all it takes.

dynvid serve CHECKPOINT
python examples/09_client.py http://127.0.0.1:8000 VIDEO ...
"""

import json
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

server, *videos = sys.argv[1:]


def answers(path, tries=5):
    """What each exit says of a video, as it comes, and in the end the answer."""
    with open(path, "rb") as file:
        data = file.read()
    request = Request(f"{server}/predict?deadline_ms=5000", data, {"Accept": "text/event-stream"})
    try:
        with urlopen(request, timeout=60) as stream:
            event = ""
            for line in stream:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)
    except HTTPError as error:
        if error.code != 503 or tries == 1:  # 503: it has enough to do, and says when to come again
            raise
        time.sleep(float(error.headers["Retry-After"]))
        yield from answers(path, tries - 1)


for path in videos:
    try:
        for event, said in answers(path):
            if event == "exit":
                frames, depth = said["exit"]["frames"], said["exit"]["depth"]
                print(f"  {frames} frames, depth {depth}: {said['label']!r}, {said['probability']:.0%}")
            elif event == "answer":
                found = f"{said['label']!r}, {said['probability']:.0%}"
                print(f"{path}: {found}, {said['saved']:.0%} of the GMACs saved, {said['milliseconds']:.0f} ms")
            else:
                print(f"{path}: {said['error']}")
    except HTTPError as error:
        print(f"{path}: {error.code}, {json.load(error)['error']}")
