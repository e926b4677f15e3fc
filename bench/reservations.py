"""Do reservations exclude? 20 processes want machines of a real cobblerd, round after round.

``python bench/reservations.py --rounds 200 [--serve]``: each round, 20 reservers ask for one of 4 machines at the same
moment; four must win, each another machine, and all four come back. ``--without`` leaves the lock out, to show that the
check finds what it looks for.
"""

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cobblerd import Cobblerd

from vidcloud.errors import VidcloudError
from vidcloud.metal.cobbler import Cobbler
from vidcloud.metal.reservations import LockedReservations, Request
from vidcloud.metal.serve import RemoteReservations, Server

RESERVERS, MACHINES = 20, 4


class Unlocked(LockedReservations):
    """What would be without the lock."""

    def _locked(self):
        return contextlib.nullcontext()


def connect(url):
    return Cobbler(url, "cobbler", lambda: "cobbler")


def reserver(n, how, url, folder, server, barrier, results, rounds):
    folder.mkdir(exist_ok=True)
    kind = Unlocked if how == "without" else LockedReservations
    mine = RemoteReservations(server, "t" * 20) if server else kind(connect(url), folder, f"user{n}")
    for _ in range(rounds):
        barrier.wait()
        with contextlib.suppress(VidcloudError):
            results.put((f"user{n}", mine.reserve(Request(f"user{n}", count=1))[0].name))
        barrier.wait()  # all have asked
        barrier.wait()  # the winners are noted, all is free again


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--without", action="store_true")
    asked = parser.parse_args()
    how = "serve" if asked.serve else "without" if asked.without else "lock"
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        daemon = Cobblerd(Path(folder) / "cobbler")
        stack.callback(daemon.stop)
        daemon.start()
        daemon.furnish({f"node{n}": (f"10.0.0.{n}", "bench") for n in range(1, MACHINES + 1)})
        owned, server = LockedReservations(connect(daemon.url), Path(folder) / "state", "bench"), ""
        if asked.serve:
            service = stack.enter_context(Server(("127.0.0.1", 0), owned, {"t" * 20: "*"}))
            threading.Thread(target=service.serve_forever, daemon=True).start()
            stack.callback(service.shutdown)
            server = f"http://127.0.0.1:{service.server_port}"
        barrier, results = context.Barrier(RESERVERS + 1), context.Queue()
        arguments = (how, daemon.url, Path(folder) / "state", server, barrier, results, asked.rounds)
        processes = [context.Process(target=reserver, args=(n, *arguments), daemon=True) for n in range(RESERVERS)]
        for process in processes:
            process.start()
        twice = lost = 0
        began = time.monotonic()
        for n in range(asked.rounds):
            barrier.wait(120)
            barrier.wait(120)
            time.sleep(0.05)  # the queue's feeders
            won = []
            while not results.empty():
                won.append(results.get())
            names = [name for _, name in won]
            held = {s.name: s.get("user") for s in connect(daemon.url).systems()}
            twice += len(names) - len(set(names))
            lost += MACHINES - len(set(names))  # 20 asked for 4: all must be given
            lost += sum(held[name] not in {user for user, of in won if of == name} for name in held)
            for name, user in held.items():
                if user:
                    owned.release([name], user)
            if n == 0:
                began = time.monotonic()
            barrier.wait(120)
        took = time.monotonic() - began
        told = {"how": how, "rounds": asked.rounds, "reservers": RESERVERS, "machines": MACHINES}
        print(
            json.dumps(
                {**told, "given_twice": twice, "lost": lost, "s_a_round": round(took / max(1, asked.rounds - 1), 2)}
            )
        )
        for process in processes:
            process.join(10)


if __name__ == "__main__":
    main()
