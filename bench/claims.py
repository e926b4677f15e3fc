"""Claims by nodes of a share that may pause past their lease: does every unit have exactly one accepted result?

``python bench/claims.py collector DIR --units N`` keeps the ledger, and prints a JSON line at the end;
``python bench/claims.py worker DIR --node NAME`` claims and publishes, now and then late. On several hosts of a network file
system they are the proof of the protocol there (tests/integration/testbed/test_bed.py has few units).
"""

import argparse
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path

from vidcloud.errors import LeaseLostError
from vidcloud.queue import records
from vidcloud.queue.directory import ShareDirectory, SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import this_process
from vidcloud.queue.worker import Worker


def collector(folder, units, lease):
    share = ShareDirectory(folder)
    ledger = Ledger(share, SystemClock(), this_process("collector"), lease_s=lease, stall_s=3600, max_deaths=10**9)
    ledger.open()
    accepted, late, wrong, began, retired = Counter(), 0, 0, time.monotonic(), 0
    (folder / "ready").touch()
    while not ledger.complete:
        while ledger.offered < min(units, ledger.first + 200):
            share.path(records.ready_name(ledger.offered)).write_bytes(b"input")
            ledger.offer(ledger.offered)
        if ledger.offered == units and not ledger.closed:
            ledger.close(units)
        for result in ledger.poll():
            unit, epoch, _ = result.path.read_text().split()
            wrong += (int(unit), int(epoch)) != (result.unit, result.epoch)
            if result.accepted:
                accepted[result.unit] += 1
            else:
                late += 1
                result.path.unlink(missing_ok=True)
        while retired < ledger.first:
            ledger.retire(retired)
            retired += 1
        time.sleep(0.002)
    ledger.end("done")
    twice = sum(n != 1 for n in accepted.values())
    told = {"units": units, "accepted": len(accepted), "twice": twice, "wrong": wrong, "late": late}
    print(
        json.dumps({**told, "takeovers": ledger.takeovers, "seconds": round(time.monotonic() - began, 1)}), flush=True
    )


def worker(folder, node, lease, pauses, seed):
    made = Worker(ShareDirectory(folder), SystemClock(), this_process(node), lease_s=lease)
    rng, away, stop = random.Random(seed), threading.Event(), threading.Event()

    def beat():
        while not stop.wait(made.beat_interval_s):
            if not away.is_set():
                made.beat()

    threading.Thread(target=beat, daemon=True).start()
    published = paused = 0
    while True:
        claim = made.claim()
        if claim is None:
            if made.told.ended:
                break
            time.sleep(made.pause_s())
            continue
        made.private(claim).write_text(f"{claim.unit} {claim.epoch} {node}")
        if rng.random() < pauses:
            # As a stopped machine: no heartbeat, and then it goes on to publish without looking.
            away.set()
            time.sleep(lease * 1.5)
            paused += 1
        try:
            made.publish(claim)
            published += 1
        except (LeaseLostError, FileNotFoundError):
            made.release(claim)
        if away.is_set():
            made.beat()  # as its heartbeat, which was stopped, too, would have by now
            away.clear()
    stop.set()
    print(json.dumps({"node": node, "published": published, "paused": paused}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["collector", "worker"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--node", default="worker-1")
    parser.add_argument("--pauses", type=float, default=0.002, help="share of claims with a pause past the lease")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    if told.role == "collector":
        collector(told.folder, told.units, told.lease)
    else:
        worker(told.folder, told.node, told.lease, told.pauses, told.seed)


if __name__ == "__main__":
    main()
