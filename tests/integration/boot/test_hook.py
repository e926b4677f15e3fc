"""The boot hook as it is, under /bin/sh: what it makes of user-data and bundles, and when a machine goes off or is left alone."""

import subprocess
import sys
import types
from pathlib import Path

import pytest
from machines import PROCESSOR, SCRIPTS
from programs import installed
from servers import certificate

from vidcloud import boot
from vidcloud.sites import HomeSite


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
        [installed("shellcheck"), "--severity=warning", tmp_path / "user-data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_scripts_are_clean():
    done = subprocess.run(
        [installed("shellcheck"), "-x", "--severity=warning", "images/ssh-access", *(f"userdata/{n}" for n in ("rc.local", "host.sh", "collector", "processor"))],
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
