"""Where settings come from, and what is refused."""

import sys
from pathlib import Path

import pytest

from vidcloud.errors import UsageError
from vidcloud.metal.config import load, secret
from vidcloud.metal.serve import read_tokens


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_environment_wins_over_the_file(tmp_path):
    file = write(tmp_path / "metal.toml", 'url = "https://one/cobbler_api"\nuser = "ann"\ntimeout_s = 7\n')
    config = load(file, {"VIDCLOUD_METAL_URL": "https://two/cobbler_api", "VIDCLOUD_METAL_POWER_TRIES": "5"})
    assert (config.url, config.user, config.timeout_s, config.power_tries) == ("https://two/cobbler_api", "ann", 7.0, 5)
    assert load(None, {"VIDCLOUD_METAL_CONFIG": str(file)}).url == "https://one/cobbler_api"
    assert load(None, {"XDG_CONFIG_HOME": str(tmp_path)}).url == "http://127.0.0.1/cobbler_api", "no file is no fault"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('password = "x"', "a password does not stand here"),
        ('token = "x"', "a token does not stand here"),
        ('adress = "x"', "unknown key 'adress'"),
        ("timeout_s = 0", "timeout_s = 0"),
        ("timeout_s = true", "timeout_s = True"),
        ('power_tries = "many"', "power_tries"),
        ("url = 3", "url = 3"),
        ('url = "http://cobbler.example/cobbler_api"', "plain http"),
        ('server = "http://cobbler.example"', "plain http"),
        ('url = "https://ann:secret@cobbler.example/"', "does not stand in a URL"),
        ('url = "cobbler.example"', "must be https://"),
        ('user = "x y"', "is no user"),
        ('password_command = "echo x"', "list of strings"),
        ("=", "metal.toml"),
    ],
)
def test_what_a_file_must_not_say(tmp_path, text, told):
    with pytest.raises(UsageError, match=told) as error:
        load(write(tmp_path / "metal.toml", text), {})
    assert "secret" not in str(error.value)


def test_a_file_that_is_named_must_exist(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "none.toml", {})


def test_passwords_come_from_a_file_a_command_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("VIDCLOUD_METAL_PASSWORD", raising=False)
    url = 'url = "https://c/"\n'
    password = write(tmp_path / "p", "from file\n")
    by_file = load(write(tmp_path / "a", f'{url}password_file = "{password}"'), {})
    assert by_file.password() == "from file"
    command = f'{url}password_command = ["{sys.executable}", "-c", "print(chr(36) + chr(39))"]'
    assert load(write(tmp_path / "b", command), {}).password() == "$'"
    with pytest.raises(UsageError, match="no password for Cobbler"):
        load(write(tmp_path / "c", url), {}).password()
    with pytest.raises(UsageError, match="password_command false"):
        load(write(tmp_path / "d", f'{url}password_command = ["false"]'), {}).password()
    monkeypatch.setenv("VIDCLOUD_METAL_PASSWORD", "from environment")
    assert by_file.password() == "from environment"


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="others may read it"):
        secret(write(tmp_path / "p", "x", 0o644))
    with pytest.raises(UsageError, match="empty"):
        secret(write(tmp_path / "q", "\n"))
    with pytest.raises(UsageError, match="No such file"):
        secret(tmp_path / "none")


def test_tokens(tmp_path):
    text = f"# comment\nann {'a' * 16}\n\n* {'b' * 16} # all\n"
    assert read_tokens(write(tmp_path / "t", text)) == {"a" * 16: "ann", "b" * 16: "*"}
    for wrong in ("ann", "ann short", f"ann {'a' * 16}\nbob {'a' * 16}", "# nobody"):
        with pytest.raises(UsageError):
            read_tokens(write(tmp_path / "t", wrong))
