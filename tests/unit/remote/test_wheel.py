"""The wheel that nodes get is the program that runs here."""

import hashlib
import subprocess
import sys
import zipfile

from vidcloud import wheel


def test_the_same_bytes_twice(tmp_path):
    one = hashlib.sha256(wheel.build(tmp_path).read_bytes()).hexdigest()
    assert hashlib.sha256(wheel.build(tmp_path).read_bytes()).hexdigest() == one


def test_it_runs_where_nothing_of_ours_is(tmp_path):
    made = wheel.build(tmp_path)
    assert not [n for n in zipfile.ZipFile(made).namelist() if "__pycache__" in n]
    target = tmp_path / "site"
    zipfile.ZipFile(made).extractall(target)
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'vidcloud' not in p]; "
        f"sys.path.insert(0, {str(target)!r}); sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in str(f)]; "
        "import vidcloud, vidcloud.metal.ec2.door, vidcloud.plugins as p; assert vidcloud.__file__.startswith(sys.path[0]); "
        "r = p.resolve('neon:radius=3'); print(type(r.stage).__module__, r.stage.__class__.__module__)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (target / "vidcloud/userdata/processor").exists()
    assert (target / "vidcloud/filters/neon.py").exists()
