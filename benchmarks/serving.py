"""The server under rising load, on the loopback: waits, throughput, how full its steps are, and whether any is lost.

    OMP_NUM_THREADS=1 python benchmarks/serving.py CHECKPOINT VIDEO_OR_FOLDER ... > benchmarks/results/serving.md

Each client sends the next request when the last is answered. Two servers take turns: one computes up to eight videos
together, one computes each alone. Processor time of a server is compared with what the second one takes for a single
client in the same round, one by one. Answers are compared with those of the recognizer, label and exit.
"""

import argparse
import http.client
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from datetime import date

import torch

from dynvid.commands.search import search
from dynvid.inference import Recognizer
from dynvid.inference.machine import machine

CLIENTS = (1, 2, 4, 8, 16)


class Server:
    """`dynvid serve` in a process of its own."""

    def __init__(self, checkpoint, batch_size):
        command = [sys.executable, "-c", "from dynvid.cli import main; main()", "serve", checkpoint, "--port", "0"]
        command += ["--precision", "float32", "--batch-size", str(batch_size)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = self.process.stderr.readline()
        self.port = int(re.search(r":(\d+)/predict", said)[1])

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, body)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def steps(self):
        """Videos in steps, and steps, so far."""
        page = self.ask("GET", "/metrics").decode()
        return [float(re.search(rf"^dynvid_step_videos_{part} (.*)$", page, re.M)[1]) for part in ("sum", "count")]

    def seconds(self):
        """Processor time so far (Linux)."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def load(self, clients, bodies, requests):
        """Milliseconds of each answer, all answers, and seconds in all."""
        turn, answers, waits = iter(range(requests)), [None] * requests, [math.nan] * requests
        lock = threading.Lock()

        def client():
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            while True:
                with lock:
                    number = next(turn, None)
                if number is None:
                    break
                began = time.perf_counter()
                connection.request("POST", "/predict", bodies[number % len(bodies)])
                answer = connection.getresponse()
                answers[number] = answer.status, json.loads(answer.read())
                waits[number] = 1000 * (time.perf_counter() - began)
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return waits, answers, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--requests", type=int, default=160, help="Of each measurement.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recognizer = Recognizer.load(options.checkpoint, precision="float32")
    paths = [found.path for found in search(options.videos)[0]]
    bodies = [path.read_bytes() for path in paths]
    expected = [(found.label, tuple(found.exit)) for found in map(recognizer, paths)]
    servers = {8: Server(options.checkpoint, 8), 1: Server(options.checkpoint, 1)}
    found = {(size, clients): [] for size in servers for clients in CLIENTS}
    lost = wrong = sent = 0
    for server in servers.values():
        server.load(4, bodies, 32)  # warms up
    for number in range(options.rounds):
        for clients in CLIENTS:
            for size, server in servers.items() if number % 2 == 0 else reversed(servers.items()):
                before, spent = server.steps(), server.seconds()
                waits, answers, seconds = server.load(clients, bodies, options.requests)
                videos, steps = (b - a for a, b in zip(before, server.steps(), strict=True))
                each = 1000 * (server.seconds() - spent) / options.requests
                found[size, clients].append((sorted(waits), options.requests / seconds, each, videos / steps))
                sent += len(answers)
                lost += sum(status != 200 for status, _ in answers)
                for place, (status, answer) in enumerate(answers):
                    said = status == 200 and (answer["label"], (answer["exit"]["frames"], answer["exit"]["depth"]))
                    wrong += status == 200 and said != expected[place % len(paths)]
    for server in servers.values():
        server.process.terminate()
        assert server.process.wait(60) == 0
    name = machine(torch.device("cpu"))["processor"]["name"]
    print(f"{date.today()}, {name}, {os.cpu_count()} cores, torch {torch.__version__}, float32,", end=" ")
    print(f"{options.rounds} rounds of {options.requests} requests, {len(paths)} videos of", end=" ")
    print(f"{statistics.median(map(len, bodies)) / 1000:.0f} kB (median).")
    print(f"\n{sent} requests, {lost} not answered, {wrong} answered otherwise than by the recognizer.\n")
    print("| computed | clients | p50 ms | p99 ms | videos/s | processor ms | of one by one | videos of a step |")
    print("|---|---|---|---|---|---|---|---|")
    for (size, clients), rounds in found.items():
        cells = [[waits[math.ceil(q * len(waits)) - 1] for waits, *_ in rounds] for q in (0.5, 0.99)]
        cells += [[one[1] for one in rounds], [one[2] for one in rounds]]
        cells += [
            [one[2] / alone[2] for one, alone in zip(rounds, found[1, 1], strict=True)],
            [one[3] for one in rounds],
        ]
        kinds = (".0f", ".0f", ".1f", ".1f", ".2f", ".2f")
        shown = [spread(values, kind) for values, kind in zip(cells, kinds, strict=True)]
        print(f"| {'up to 8 together' if size > 1 else 'each alone'} | {clients} | {' | '.join(shown)} |")


def spread(values, kind):
    return f"{statistics.median(values):{kind}} ({min(values):{kind}} to {max(values):{kind}})"


if __name__ == "__main__":
    main()
