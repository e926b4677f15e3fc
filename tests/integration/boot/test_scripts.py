"""The boot hook and the role scripts as they are, under /bin/sh, on a machine whose system commands are stubs.

The metadata service and the server of bundles are real HTTP servers on loopback; stubs write down what they are asked.
"""

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from servers import certificate

from vidcloud import boot
from vidcloud import job as jobs
from vidcloud.job import JobSpec
from vidcloud.sites import HomeSite

SCRIPTS = boot.local_path_of_scripts()


class Machine:
    """A folder that looks like a machine to the scripts, and what happened there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.served: dict[str, bytes] = {"/latest/meta-data/instance-id": b"i-007"}
        self.broken = 0
        self.busy: dict[str, int] = {}
        self.tokens = True
        self.booted: subprocess.Popen[str] | None = None
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls.touch()
        for name in (
            "poweroff",
            "shutdown",
            "hostname",
            "exportfs",
            "systemctl",
            "mount",
            "umount",
            "chown",
            "mountpoint",
        ):
            self.stub(name)
        # It goes on until it is told to end; what it was to do is in what it was given.
        ends = f"trap 'echo stunnel ends >>{self.calls}; exit 0' TERM; while :; do sleep 0.05; done"
        self.stub("stunnel", f'cat "$1" >>{self.calls}\n{ends}')
        self.key, self.alone = "", False
        self.stub("mountpoint", "exit 1")
        self.stub("setpriv", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
        self.stub("python", self.role())
        self.share = folder / "srv"
        self.job = jobs.create(
            folder / "launcher",
            JobSpec(id="j", created=0.0, input="s3://b/i", output="s3://b/o", filters=(), encode={}),
        )
        (self.job.plugins / "12.py").write_text("# mine")

    def stub(self, name: str, then: str = "") -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{then}\n')
        path.chmod(0o755)

    def role(self, then: str = "") -> str:
        """A role that shows what it got, and does something."""
        told = f'printf "<%s>" "$@" >>{self.calls}; echo " reads $AWS_DEFAULT_REGION" >>{self.calls}; {then}'
        return f'case "$*" in *zipfile*) exit 0 ;; esac\n{told}'

    def said(self) -> str:
        return self.calls.read_text()

    def when(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < deadline, f"never came: {text!r}\n{self.said()}"
            time.sleep(0.02)

    def environment(self, port: int) -> dict[str, str]:
        return {
            "PATH": str(self.bin) if self.alone else f"{self.bin}:{os.environ['PATH']}",
            "VIDCLOUD_METADATA": f"http://127.0.0.1:{port}",
            "VIDCLOUD_RUN": str(self.folder / "run"),
            "VIDCLOUD_BOOT_LOG": str(self.folder / "boot.log"),
            "VIDCLOUD_CONSOLE": str(self.folder / "console"),
            "VIDCLOUD_PYTHON": str(self.bin / "python"),
            "VIDCLOUD_SHARE_ROOT": str(self.share),
            "VIDCLOUD_PATIENCE": "0.05",
            "VIDCLOUD_ETC": str(self.folder / "etc"),
            "VIDCLOUD_DMI": str(self.folder / "dmi"),
            "VIDCLOUD_NFS_CONF": str(self.folder / "nfs.conf"),
        }

    @contextlib.contextmanager
    def serving(self):
        machine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self):
                if not machine.tokens:
                    self.send_error(405)
                    return
                self.answer(b"token" if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else None)

            def do_GET(self):
                told = self.headers["X-aws-ec2-metadata-token"]
                if self.path.startswith("/latest/") and told != ("token" if machine.tokens else None):
                    self.send_error(401)
                    return
                if machine.busy.get(self.path):
                    machine.busy[self.path] -= 1
                    if machine.busy[self.path] % 2:
                        self.send_error(503)
                    else:
                        self.close_connection = True  # without an answer
                    return
                if self.path.startswith("/bundle") and machine.broken:
                    machine.broken -= 1
                    self.send_error(503)
                    return
                self.answer(machine.served.get(self.path.partition("?")[0]))

            def answer(self, body):
                self.send_response(404 if body is None else 200)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def bundle(self) -> str:
        target = self.folder / "bundle.tar"
        pin = boot.make_bundle(self.job.root, target, key=self.key)
        self.served["/bundle.tar"] = target.read_bytes()
        return pin

    def line(self, port: int, *words: str, pin: str | None = None, script: str = "processor") -> str:
        """Of a bundle that is served."""
        made = self.bundle()
        server = f"http://127.0.0.1:{port}/bundle.tar?X-Amz-Signature=hush#sha256={pin or made}"
        return boot.UserData(script, server, words).compose()

    def start(self, port: int, *words: str, hook: Path = SCRIPTS / "rc.local", **others: str) -> subprocess.Popen[str]:
        """Boot with a line."""
        self.served["/latest/user-data"] = self.line(port, *words, **others).encode()
        self.booted = subprocess.Popen(
            ["/bin/sh", str(hook)], env=self.environment(port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        return self.booted

    def leave(self) -> None:
        if self.booted and self.booted.poll() is None:
            os.killpg(self.booted.pid, signal.SIGKILL)

    def boot(self, *words: str, **kwargs) -> str:
        with self.serving() as port:
            child = self.start(port, *words, **kwargs)
            out, _ = child.communicate(timeout=60)
        return out + (self.folder / "console").read_text()


PROCESSOR = ("--job", "j", "--node", "{instance}", "--collector", "10.0.0.5")
COLLECTOR = ("--job", "j", "--node", "{instance}", "--home", "s3://b/homes/j")


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    # What a mount would bring.
    made.stub("mount", f"mkdir -p {made.share}/jobs/j; touch {made.share}/jobs/j/spec.json")
    yield made
    made.leave()


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


def test_another_bundle_is_refused(machine):
    told = machine.boot(*PROCESSOR, pin="0" * 64)
    assert "not the one that was pinned: this machine goes off" in told
    assert machine.said() == "poweroff \n"
    assert "hush" not in told


def test_a_server_that_is_busy_is_asked_again(machine):
    machine.broken = 2
    assert "becomes a processor" in machine.boot(*PROCESSOR)


@pytest.mark.parametrize("path", ["/latest/meta-data/instance-id", "/latest/user-data"])
def test_a_metadata_service_that_is_busy_is_asked_again(machine, path):
    """Not to have been told is not to have been told nothing: the machine would idle for ever."""
    machine.busy[path] = 3
    assert "i-007 becomes a processor" in machine.boot(*PROCESSOR)


def test_a_bundle_that_never_comes(machine):
    machine.broken = 1000
    told = machine.boot(*PROCESSOR)
    assert "can't fetch the bundle from http://127.0.0.1:" in told
    assert "hush" not in told
    assert machine.said() == "poweroff \n"


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


def test_arguments_survive_the_shell(machine):
    odd = "VIDCLOUD_X=a 'b' \"c\" $HOME `date` \\ *"
    machine.stub("python", machine.role(f'printf "%s\\n" "$VIDCLOUD_X" >>{machine.calls}'))
    machine.boot(*PROCESSOR, "--env", odd)
    assert odd.removeprefix("VIDCLOUD_X=") in machine.said().splitlines()


@pytest.mark.parametrize("user_data", [b"", b"#!/bin/sh\necho [ x ]\n", b"#cloud-config\n", b"hello world", b"a b [ c"])
def test_a_machine_with_other_user_data_is_left_alone(machine, user_data):
    machine.served["/latest/user-data"] = user_data
    with machine.serving() as port:
        done = subprocess.run(
            ["/bin/sh", str(SCRIPTS / "rc.local")], env=machine.environment(port), timeout=60, check=False
        )
    assert done.returncode == 0
    assert machine.said() == ""


def test_an_unknown_or_strange_script(machine):
    assert "has no script mayor" in machine.boot(*PROCESSOR, script="mayor")
    line = f"../../bin/sh http://127.0.0.1/x.tar#sha256={'0' * 64} [ x ]"
    machine.served["/latest/user-data"] = line.encode()
    with machine.serving() as port:
        subprocess.run(["/bin/sh", str(SCRIPTS / "rc.local")], env=machine.environment(port), timeout=60, check=False)
    assert "is no name of a script" in (machine.folder / "console").read_text()


def test_an_unpinned_bundle(machine):
    machine.served["/latest/user-data"] = b"processor http://127.0.0.1/bundle.tar [ --job j ]"
    with machine.serving() as port:
        subprocess.run(["/bin/sh", str(SCRIPTS / "rc.local")], env=machine.environment(port), timeout=60, check=False)
    assert "not pinned" in (machine.folder / "console").read_text()
    assert machine.said() == "poweroff \n"


def boot_untold(machine, port):
    done = subprocess.run(
        ["/bin/sh", str(SCRIPTS / "rc.local")], env=machine.environment(port), timeout=60, check=False
    )
    assert done.returncode == 0
    return machine.said()


def test_no_metadata_service_at_all(machine):
    """A machine of somebody's own, which must not go off."""
    with machine.serving() as port:
        pass
    (machine.folder / "dmi").mkdir()
    (machine.folder / "dmi/sys_vendor").write_text("QEMU\n")
    (machine.folder / "dmi/product_uuid").write_text("00ec2000-0000-0000-0000-000000000000\n")
    assert boot_untold(machine, port) == ""


@pytest.mark.parametrize(("file", "text"), [("sys_vendor", "Amazon EC2\n"), ("product_uuid", "EC2E1916-9099\n")])
def test_a_machine_of_a_cloud_that_can_not_know_its_line_does_not_idle(machine, file, text):
    """A machine that EC2 made, without its network: an hour is left to who looks after it."""
    with machine.serving() as port:
        pass
    (machine.folder / "dmi").mkdir()
    (machine.folder / "dmi" / file).write_text(text)
    assert boot_untold(machine, port) == "shutdown -h +60\n"
    assert "unless you say: shutdown -c" in (machine.folder / "console").read_text()


@pytest.mark.parametrize("path", ["/latest/meta-data/instance-id", "/latest/user-data", "token"])
def test_a_service_that_answers_but_never_tells(machine, path):
    """Somebody has put a service there, so this is no machine of somebody's own. Without tokens: unless it is expected."""
    machine.tokens = path != "token"
    machine.busy[path] = 1000
    with machine.serving() as port:
        assert boot_untold(machine, port) == "shutdown -h +60\n"


def test_a_machine_that_was_installed_for_its_line_needs_no_metadata_service(machine):
    """The line and the name that an installer wrote; neither is the role's to see."""
    machine.stub("python", machine.role(f'echo "line ${{VIDCLOUD_USER_DATA-unset}}" >>{machine.calls}'))
    pin = machine.bundle()
    with machine.serving() as port:
        del machine.served["/latest/meta-data/instance-id"]
        server = f"http://127.0.0.1:{port}/bundle.tar?X-Amz-Signature=hush#sha256={pin}"
        line = boot.UserData("processor", server, (*PROCESSOR, "--env", 'VIDCLOUD_X=it\'s "$HOME"')).compose()
        etc = machine.folder / "etc"
        etc.mkdir()
        quoted = line.replace("'", "'\\''")
        (etc / "environment").write_text("VIDCLOUD_SITE=here\n")
        (etc / "user-data.env").write_text(f"VIDCLOUD_USER_DATA='{quoted}'\nVIDCLOUD_INSTANCE='rack1'\n")
        env = machine.environment(port) | {"VIDCLOUD_ETC": str(etc)}
        subprocess.run(["/bin/sh", str(SCRIPTS / "rc.local")], env=env, timeout=60, check=False)
    assert "rack1 becomes a processor" in (machine.folder / "console").read_text()
    assert "<--node><rack1>" in machine.said()
    assert "line unset" in machine.said()
    assert machine.said().splitlines()[-1] == "poweroff "


def test_a_machine_that_was_told_its_line_but_not_its_name_goes_off(machine):
    with machine.serving() as port:
        pass
    env = {**machine.environment(port), "VIDCLOUD_USER_DATA": "processor http://127.0.0.1/x [ ]"}
    subprocess.run(["/bin/sh", str(SCRIPTS / "rc.local")], env=env, timeout=60, check=False)
    assert machine.said() == "poweroff \n"


def bare(machine, port, *words, **others):
    """User-data for an image that knows nothing of us, whose absolute paths are the test's; what it installs is stubs."""
    machine.stub("apt-get")
    machine.stub("useradd")
    machine.stub("id", "exit 1")
    pip = f"printf '#!/bin/sh\\necho \"pip $*\" >>{machine.calls}\\n' >$3/bin/pip; chmod +x $3/bin/pip"
    machine.stub("python3", f'mkdir -p "$3/bin"; {pip}')
    (machine.folder / "etc").mkdir()
    text = boot.as_shell_script(machine.line(port, *words), **others)
    for path in ("/opt/vidcloud", "/etc/nfs.conf.d"):
        assert path in text
        text = text.replace(path, str(machine.folder / path[1:]))
    script = machine.folder / "user-data"
    script.write_text(text)
    return script


@pytest.mark.parametrize("tokens", [True, False])
def test_an_unmodified_image_becomes_a_processor(machine, tokens):
    """The `#!/bin/sh` user-data, from nothing to the role; also where the metadata service has version 1 alone."""
    machine.tokens = tokens
    with machine.serving() as port:
        script = bare(machine, port, *PROCESSOR, "--lifetime", "100", imdsv1=not tokens)
        conf = machine.folder / "etc/nfs.conf.d/vidcloud.conf"
        machine.stub("apt-get", f"cat {conf} >>{machine.calls}")
        child = machine.start(port, *PROCESSOR, hook=script)
        out, _ = child.communicate(timeout=60)
    calls = machine.said().splitlines()
    assert calls[:4] == ["shutdown -h +60", "apt-get update -q", "[nfsd]", "vers3=n"], "the timer comes first"
    assert calls[4].startswith("apt-get install -yq --no-install-recommends python3-venv nfs-kernel-server"), out
    assert calls[5:7] == ["[nfsd]", "vers3=n"], "the server starts when it is installed, and must be told before"
    assert calls[7].startswith("id vidcloud")
    assert calls[8].startswith("useradd --system --uid 4100 ")
    assert calls[9] == f"python3 -m venv {machine.folder}/opt/vidcloud"
    assert calls[10].startswith("pip install -q av<19,")
    assert calls[11:13] == ["shutdown -h +2", "hostname i-007"]
    assert any(c.startswith("<-P><-m><vidcloud><processor>") for c in calls)
    assert calls[-1] == "poweroff "


def test_an_unmodified_image_that_can_not_install_goes_off(machine):
    """After some tries; regression: it tried for ever, with no timer set."""
    with machine.serving() as port:
        script = bare(machine, port, *PROCESSOR)
        machine.stub("apt-get", "exit 100")
        child = machine.start(port, *PROCESSOR, hook=script)
        out, _ = child.communicate(timeout=60)
    calls = machine.said().splitlines()
    assert calls == ["shutdown -h +60", *["apt-get update -q"] * 30, "poweroff "]
    assert "can't install what a role needs: this machine goes off" in out


def test_an_unmodified_image_waits_for_the_network(machine):
    with machine.serving() as port:
        script = bare(machine, port, *PROCESSOR)
        machine.stub("apt-get", f'[ "$(grep -c "^apt-get update" {machine.calls})" -gt 2 ]')
        machine.start(port, *PROCESSOR, hook=script).communicate(timeout=60)
    assert any(c.startswith("<-P><-m><vidcloud><processor>") for c in machine.said().splitlines())


def test_a_machine_without_a_timer_does_not_begin(machine):
    machine.stub("shutdown", "exit 1")
    with machine.serving() as port:
        machine.start(port, *PROCESSOR, hook=bare(machine, port, *PROCESSOR)).communicate(timeout=60)
    assert machine.said() == "shutdown -h +60\npoweroff \n"


def test_the_shell_script_is_clean(tmp_path):
    (tmp_path / "user-data").write_text(boot.as_shell_script("collector https://x [ ]"))
    done = subprocess.run(
        ["shellcheck", "--severity=warning", tmp_path / "user-data"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


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


def test_scripts_are_clean():
    done = subprocess.run(
        ["shellcheck", "-x", "--severity=warning", "images/ssh-access", *(f"userdata/{n}" for n in ("rc.local", "host.sh", "collector", "processor"))],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_line_names_a_file_server_of_the_sites_own(machine, tmp_path):
    """A launcher puts the bundle into the folder that a real `vidcloud serve` shows; the hook fetches it there, by https."""
    cert, key = certificate(tmp_path)
    shown = tmp_path / "shown"
    shown.mkdir()
    argv = [
        sys.executable,
        "-P",
        "-m",
        "vidcloud",
        "serve",
        shown,
        "--listen",
        "127.0.0.1:0",
        "--cert",
        cert,
        "--key",
        key,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            where = server.stdout.readline().strip().replace("127.0.0.1", "localhost")
            home = f"file://{tmp_path}/homes/j"
            options = {"file_server": f"{where}/", "file_folder": str(shown)}
            machine.job.write_site({"cloud": "paper", "options": options, "home": home})
            cloud = types.SimpleNamespace(
                encrypts=True, lifetime_s=100, environment={}, describe_instances=list, home=home
            )
            site = HomeSite(home, cloud, machine.job)
            site.prepare(lambda *_: None)
            (bundle,) = shown.iterdir()
            line = site.user_data("collector")
            assert HomeSite(home, cloud, None).user_data("collector") == line, "a launcher elsewhere names it, too"
            assert boot.UserData.parse(line).server == f"{where}/{bundle.name}#sha256={bundle.stem}"
            assert bundle.stat().st_mode & 0o777 == 0o640
            assert not (tmp_path / "homes/j/bundle.tar").exists(), "the key goes nowhere else"
            with machine.serving() as port:
                machine.served["/latest/user-data"] = line.encode()
                env = machine.environment(port) | {"CURL_CA_BUNDLE": str(cert)}
                hook = ["/bin/sh", str(SCRIPTS / "rc.local")]
                subprocess.run(hook, env=env, capture_output=True, timeout=60, check=False)
        finally:
            server.kill()
    assert f"<--home><{home}>" in machine.said(), (machine.folder / "boot.log").read_text()
    site.sweep()
    assert list(shown.iterdir()) == []
    actions = [(n["action"], n.get("where", "")) for n in site.notes()]
    assert actions[:2] == [("started", ""), ("stored", f"{where}/{bundle.name}")]
    assert actions[-1][0] == "removed"
