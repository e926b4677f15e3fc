"""The role scripts as they are, under /bin/sh: mounts and exports, the tunnel, watchers, and the machine's end."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from machines import COLLECTOR, PROCESSOR, SCRIPTS


def test_a_line_makes_a_processor_and_then_the_machine_goes(machine):
    told = machine.boot(*PROCESSOR, "--lifetime", "100", "--env", "AWS_DEFAULT_REGION=mars-1")
    calls = machine.said().splitlines()
    assert calls[:2] == ["shutdown -h +2", "hostname i-007"]
    assert calls[2].startswith("mountpoint")
    assert calls[3].startswith("mount -t nfs -o vers=4.2,proto=tcp,hard,")
    assert calls[3].endswith(f"10.0.0.5:{machine.share} {machine.share}")
    role = f"<-P><-m><vidcloud><processor><--job><{machine.share}/jobs/j><--node><i-007><--log> reads mars-1"
    assert role in calls
    assert calls[-1] == "poweroff "
    assert "i-007 becomes a processor" in told


def test_no_watcher_outlives_its_role(machine):
    """Regression: one that begins as its role ends may not hear a TERM, and kept its machine on."""
    deaf = "deaf() { trap '' TERM; while :; do sleep 0.05; done; }"
    lines = f". {SCRIPTS / 'host.sh'}; {deaf}; beside deaf sleep 0.2; echo left"
    shell = ["/bin/sh", "-euc", lines]
    done = subprocess.run(shell, env=machine.environment(0), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "left\n", "the pipe is closed only when all have ended"


def test_a_collector_has_the_job_and_exports_to_its_nodes_alone(machine):
    """Regression: the prototype exported to a whole /24, with no_root_squash, insecure, async."""
    hosts = machine.share / "jobs/j/hosts"
    machine.stub("python", machine.role(f"while [ ! -e {machine.folder}/finish ]; do sleep 0.05; done"))
    with machine.serving() as port:
        child = machine.start(port, *COLLECTOR, script="collector")
        machine.when("<collector>")
        hosts.write_text("10.0.0.7\n$(touch /tmp/never)\n10.0.0.8\n")
        machine.when("10.0.0.8:")
        hosts.write_text("10.0.0.8\n10.0.0.9\n")
        machine.when("-u 10.0.0.7:")
        machine.when("10.0.0.9:")
        (machine.folder / "finish").touch()
        child.communicate(timeout=60)
    assert (machine.share / "jobs/j/plugins/12.py").read_text() == "# mine"
    exports = [c for c in machine.said().splitlines() if c.startswith("exportfs")]
    told = "exportfs -o rw,sync,root_squash,no_subtree_check,fsid=1"
    assert exports[:4] == [
        *(f"{told} 10.0.0.{n}:{machine.share}" for n in (7, 8, 9)), f"exportfs -u 10.0.0.7:{machine.share}",
    ]  # fmt: skip
    assert exports[4:] == ["exportfs -ua"]
    assert machine.said().splitlines()[-1] == "poweroff "
    assert "<--home><s3://b/homes/j>" in machine.said()


def test_a_collector_waits_for_nodes_that_leave(machine):
    """Whoever has the share mounted must hear that the job has ended."""
    beat = machine.share / "jobs/j/workers/i-1.beat"
    machine.stub("python", machine.role(f"mkdir -p {beat.parent}; touch {beat}"))
    with machine.serving() as port:
        child = machine.start(port, *COLLECTOR, script="collector")
        machine.when("<collector>")
        time.sleep(0.5)  # nothing tells that something does not happen
        assert "exportfs -ua" not in machine.said()
        beat.unlink()
        child.communicate(timeout=60)
    assert "exportfs -ua" in machine.said()


def test_a_collector_waits_for_the_others_when_one_leaves_while_it_looks(machine):
    """Regression: a name that was gone when it was listed counted for all; then the share hung in those that were left."""
    workers = machine.share / "jobs/j/workers"
    machine.stub("python", machine.role(f"mkdir -p {workers}; touch {workers}/i-1.beat {workers}/i-2.beat"))
    machine.stub("ls", f'rm -f {workers}/i-1.beat; exec /bin/ls "$@"')
    with machine.serving() as port:
        child = machine.start(port, *COLLECTOR, script="collector")
        machine.when("<collector>")
        time.sleep(0.5)  # nothing tells that something does not happen
        assert "exportfs -ua" not in machine.said()
        (workers / "i-1.beat").unlink(missing_ok=True)
        (workers / "i-2.beat").unlink()
        child.communicate(timeout=60)
    assert "exportfs -ua" in machine.said()


def test_a_processor_with_a_key_mounts_through_its_tunnel(machine):
    machine.key = "ab" * 32
    look = f'stat -c \'psk %a\' "$VIDCLOUD_BUNDLE/tunnel.psk" >>{machine.calls}; ls "$VIDCLOUD_RUN" >>{machine.calls}'
    machine.stub("python", machine.role(look))
    told = machine.boot(*PROCESSOR)
    calls = machine.said().splitlines()
    assert {"client = yes", "accept = 127.0.0.1:20049", "connect = 10.0.0.5:20049"} <= set(calls)
    assert {"sslVersion = TLSv1.2", "ciphers = ECDHE-PSK-CHACHA20-POLY1305"} <= set(calls)
    (mount,) = [c for c in calls if c.startswith("mount ")]
    assert mount.endswith(f",port=20049 127.0.0.1:{machine.share} {machine.share}")
    assert "psk 600" in calls
    assert "bundle" in calls
    assert "bundle.tar" not in calls, "it is there for anybody to read"
    machine.when("stunnel ends")
    assert calls.index(f"umount {machine.share}") < calls.index("poweroff ")
    assert machine.key not in told + machine.said()


def test_a_collector_with_a_key_exports_to_its_tunnel_alone(machine):
    machine.key = "ab" * 32
    beat = machine.share / "jobs/j/workers/i-1.beat"
    finish = machine.folder / "finish"
    waits = f"while [ ! -e {finish} ]; do sleep 0.05; done; echo role ends >>{machine.calls}"
    waits = f"mkdir -p {beat.parent}; touch {beat}; {waits}"
    machine.stub("python", machine.role(waits))
    with machine.serving() as port:
        child = machine.start(port, *COLLECTOR, script="collector")
        machine.when("PSKsecrets")
        machine.when("<collector>")
        (machine.share / "jobs/j/hosts").write_text("10.0.0.7\n")
        time.sleep(2)  # nothing tells that something does not happen: an export to that address
        finish.touch()
        machine.when("role ends")
        time.sleep(0.5)  # neither does it tell this
        assert "stunnel ends" not in machine.said(), "nodes must hear by it that the job has ended"
        beat.unlink()
        child.communicate(timeout=60)
    machine.when("stunnel ends")
    calls = machine.said().splitlines()
    assert (machine.folder / "nfs.conf").read_text() == "[nfsd]\nhost=127.0.0.1\n"
    assert [c for c in calls if c.startswith(("exportfs", "systemctl"))] == [
        "systemctl restart nfs-server",
        f"exportfs -o rw,sync,root_squash,no_subtree_check,fsid=1,insecure 127.0.0.1:{machine.share}",
        "exportfs -ua",
    ]
    assert {"accept = 20049", "connect = 127.0.0.1:2049"} <= set(calls)
    assert "client = yes" not in calls


def test_a_tunnel_that_breaks_is_opened_again(machine):
    machine.key = "ab" * 32
    machine.stub("stunnel", "exit 1")
    role = f"while [ $(grep -c '^stunnel ' {machine.calls}) -lt 3 ]; do sleep 0.05; done; echo three >>{machine.calls}"
    machine.stub("python", machine.role(role))
    machine.boot(*PROCESSOR)
    assert "three" in machine.said().splitlines()


@pytest.mark.parametrize(("script", "words"), [("processor", PROCESSOR), ("collector", COLLECTOR)])
def test_an_image_without_stunnel_says_so_and_goes_off(machine, script, words):
    machine.key = "ab" * 32
    (machine.bin / "stunnel").unlink()
    # What is here may have one.
    for folder in os.environ["PATH"].split(":"):
        for tool in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if tool.name != "stunnel" and not (machine.bin / tool.name).exists():
                (machine.bin / tool.name).symlink_to(tool)
    machine.alone = True
    told = machine.boot(*words, script=script)
    assert told.splitlines()[-2].endswith("vidcloud: this image has no stunnel, which encrypt = true needs")
    assert machine.said().splitlines()[-1] == "poweroff "
    assert f"<{script}>" not in machine.said()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--job", "../x", "--node", "n"), "bad job"),
        (("--job", "j", "--node", "a b"), "bad node"),
        (("--job", "j", "--node", "n", "--collector", "$(reboot)"), "bad --collector"),
        (("--job", "j", "--node", "n", "--env", "LD_PRELOAD=x"), "LD_PRELOAD: this setting is not for nodes"),
        (("--job", "j", "--node", "n", "--what", "x"), "unknown argument --what"),
        (("--job", "j", "--node", "n", "--lifetime"), "--lifetime has no value"),
        (("--job", "j", "--node", "n", "--lifetime", "1;x", "--collector", "::1"), "bad time"),
    ],
)
def test_bad_arguments_end_the_machine(machine, words, told):
    assert told in machine.boot(*words)
    assert machine.said().splitlines()[-1] == "poweroff "
    assert "<processor>" not in machine.said()


DRAINS = "trap 'echo drained >>CALLS; exit 0' TERM; while :; do sleep 0.05; done"


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    "path", ["/latest/meta-data/spot/instance-action", "/latest/meta-data/events/recommendations/rebalance"]
)
def test_a_notice_of_the_clouds_drains_the_role(machine, path, tokens):
    """Also where the metadata service has version 1 alone, and the image says so."""
    machine.tokens = tokens
    if not tokens:
        (machine.folder / "etc").mkdir()
        (machine.folder / "etc/environment").write_text("VIDCLOUD_IMDSV1=1\n")
    machine.stub("python", machine.role(DRAINS.replace("CALLS", str(machine.calls))))
    with machine.serving() as port:
        child = machine.start(port, *PROCESSOR)
        machine.when("<processor>")
        assert "drained" not in machine.said()
        machine.served[path] = b'{"action": "terminate"}'
        child.communicate(timeout=60)
    assert machine.said().splitlines()[-3:] == ["drained", f"umount {machine.share}", "poweroff "]


def test_a_launcher_that_wants_fewer_nodes_drains_the_role(machine):
    machine.stub("python", machine.role(DRAINS.replace("CALLS", str(machine.calls))))
    with machine.serving() as port:
        child = machine.start(port, *PROCESSOR)
        machine.when("<processor>")
        (machine.share / "jobs/j/drain").write_text("i-00\ni-0070\ni-007\n")
        child.communicate(timeout=60)
    assert "drained" in machine.said()
    assert "asked to drain: i-007 leaves" in (machine.folder / "console").read_text()


def test_a_share_that_never_comes_ends_the_machine(machine):
    machine.stub("mount", "echo refused >&2; exit 32")
    told = machine.boot(*PROCESSOR, "--dead-man", "2")
    assert "no share at 10.0.0.5 for 2 s: refused" in told
    assert machine.said().splitlines()[-1] == "poweroff "


def test_a_share_that_falls_silent_ends_a_role_that_hangs_in_it(machine):
    machine.stub("python", machine.role("while :; do sleep 0.05; done"))
    with machine.serving() as port:
        child = machine.start(port, *PROCESSOR, "--dead-man", "10")
        machine.when("<processor>")
        (machine.share / "jobs/j/spec.json").unlink()
        child.communicate(timeout=60)
    assert "the share is silent for 10 s: i-007 gives up" in (machine.folder / "console").read_text()
