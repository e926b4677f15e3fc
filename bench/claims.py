"""Claims by nodes of a share that may pause past their lease: does every unit have exactly one accepted result?

``python bench/claims.py collector DIR --units N`` keeps the ledger, and prints a JSON line at the end;
``python bench/claims.py worker DIR --node NAME`` claims and publishes, now and then late. On several hosts of a network file
system they are the proof of the protocol there (tests/integration/testbed/test_bed.py has few units).
``python bench/claims.py bed --units N``, as root, does it on the test bed: an NFS server, two clients, two workers on each.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import vidcloud.queue.ledger
from vidcloud.errors import LeaseLostError
from vidcloud.queue import records
from vidcloud.queue.directory import ShareDirectory, SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import this_process
from vidcloud.queue.worker import Worker


def collector(folder, units, lease):
    vidcloud.queue.ledger._LEASE_MAX_FACTOR = 1.0  # noqa: SLF001 - pauses shall be past it
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
            # As a machine that stops in the middle of publishing: no heartbeat, and then it goes on without looking.
            away.set()
            time.sleep(lease * rng.uniform(0.9, 1.5))  # about as long as its claim takes to be another's
            paused += 1
            made.check = lambda *_: None
        try:
            made.publish(claim)
            published += 1
        except (LeaseLostError, FileNotFoundError):
            made.release(claim)
        vars(made).pop("check", None)
        if away.is_set():
            made.beat()  # as its heartbeat, which was stopped, too, would have by now
            away.clear()
    stop.set()
    print(json.dumps({"node": node, "published": published, "paused": paused}), flush=True)


def on_bed(units, lease, pauses, cache):
    """Two clients of an NFS server, each with two workers; what the collector and the workers told."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from testbed import bed as testbed

    folder = "/srv/vidcloud/queue"
    run = (
        f"setpriv --reuid=vidcloud --regid=vidcloud --init-groups "
        f"env PYTHONPATH={Path(__file__).parents[1]} {sys.executable} {Path(__file__).resolve()}"
    )
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "hook").write_text("echo booted $HOST_NAME\n")
        with testbed.made(Path(made), Path(made) / "hook", cache=cache) as bed:

            def must(host, command):
                bed.when(lambda: bed.sh(host, command).code == 0)

            server, *clients = bed.launch(3)
            at = bed.hosts()
            must(server, "mkdir -p /srv/vidcloud; chown vidcloud: /srv/vidcloud; systemctl start nfs-server")
            for client in clients:
                must(server, f"exportfs -o rw,sync,root_squash {at[client]['address']}:/srv/vidcloud")
                where = f"{at[server]['address']}:/srv/vidcloud /srv/vidcloud"
                must(client, f"mkdir -p /srv/vidcloud; mount -t nfs -o hard {where}")
            must(server, f"setpriv --reuid=vidcloud --regid=vidcloud --init-groups mkdir {folder}")
            bed.sh(server, f"({run} collector {folder} --units {units} --lease {lease}) >/run/told 2>&1 &")
            must(server, f"ls {folder}/frontier")
            for n, client in enumerate(clients * 2):
                work = f"{run} worker {folder} --node {client}-{n} --pauses {pauses} --lease {lease} --seed {n}"
                bed.sh(client, f"({work}) >/run/told-{n} 2>&1 &")
            bed.when(lambda: bed.sh(server, "cat /run/told").out, timeout=units * 0.1 + 600)
            print(bed.sh(server, "cat /run/told").out, end="")
            for n, client in enumerate(clients * 2):
                bed.when(lambda c=client, n=n: bed.sh(c, f"cat /run/told-{n}").out)
                print(bed.sh(client, f"cat /run/told-{n}").out, end="")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["collector", "worker", "bed"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--node", default="worker-1")
    parser.add_argument("--pauses", type=float, default=0.002, help="share of claims with a pause past the lease")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--cache", type=float, default=0, help="seconds for which the bed's clients believe what they saw"
    )
    told = parser.parse_args()
    if told.role == "bed":
        on_bed(told.units, told.lease, told.pauses, told.cache)
    elif told.role == "collector":
        collector(told.folder, told.units, told.lease)
    else:
        worker(told.folder, told.node, told.lease, told.pauses, told.seed)


if __name__ == "__main__":
    main()
