"""How long it takes from a machine's boot hook to its first claim, on the test bed's hosts (`tests/testbed`); as root.

``python bench/boot.py --rounds 5``: a job on one collector and one processor that boot at the same time, then a second
processor that joins. A machine's own boot (firmware, kernel, systemd) comes before the hook, and is not in it.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from samples import sample
from testbed import bed as testbed

SLOW = (
    "import time\nfrom vidcloud.filter import YUV, frame_filter\n@frame_filter(formats=YUV)\n"
    "def slow(frame):\n    time.sleep(0.3)\n    return frame\n"
)


def measure(folder: Path) -> dict[str, float]:
    """Seconds from each processor's hook to its first claim: ``together`` with its collector, and ``later``."""
    with testbed.made(folder) as bed:
        (folder / "slow.py").write_text(SLOW)
        clip = sample("long-gop.mkv", folder)
        job = bed.start(
            "run", clip, "--filter", "./slow.py", "--chunk", 1, "--plane", "frames", "--codec", "ffv1", "-o", "o.mkv",
            "--job-id", "j", *bed.options,
        )  # fmt: skip
        hooks: dict[str, float] = {}
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.02):
                for name, host in bed.hosts().items():
                    if host["state"] == "running":
                        hooks.setdefault(name, time.time())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            lead = bed.when(lambda: [h for h in bed.running() if "becomes a collector" in bed.console(h)])[0]
            first = {}
            for known in (1, 2):
                if known == 2:
                    bed.user("scale", "j", "--nodes", 2)

                def claims(known: int = known) -> dict[str, float] | None:
                    files = Path(bed.hosts()[lead]["console"]).parent / "disk/vidcloud/jobs/j/claims"
                    found: dict[str, float] = {}
                    for path in files.rglob("*.lock"):
                        node = re.search(r'"node": ?"(i-[0-9a-f]+)"', path.read_text())
                        if node:
                            found.setdefault(node[1], time.time())
                    return found if len(found) >= known else None

                for node, when in bed.when(claims).items():
                    first.setdefault(node, when)
        finally:
            ended.set()
            watcher.join()
        job.kill()
        together, later = (first[n] - hooks[n] for n in sorted(first, key=lambda n: first[n]))
        return {"collector and processor together": together, "a processor that joins": later}


def main() -> None:
    """Print medians and extremes of some rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = []
    for _ in range(parser.parse_args().rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder)))
            print(json.dumps(rounds[-1]), flush=True)
    for name in rounds[0]:
        seconds = [r[name] for r in rounds]
        print(f"{name}: {statistics.median(seconds):.1f} s ({min(seconds):.1f}–{max(seconds):.1f})")


if __name__ == "__main__":
    main()
