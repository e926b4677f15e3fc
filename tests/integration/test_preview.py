"""Contact sheets: the right moments, with the neighbours that filters need, and nothing half-written."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vidcloud import preview
from vidcloud.chain import Stage
from vidcloud.cli.filters import filters
from vidcloud.errors import InputError, UsageError
from vidcloud.filter import YUV, YUV16, Filter, Halo, frame_filter
from vidcloud.media.decode import decode
from vidcloud.media.probe import probe
from vidcloud.preview import Sheet, _moment

SOUGHT = [
    "cfr.mp4",
    "bframes.mp4",
    "open-gop.mp4",
    "long-gop.mkv",
    "ntsc.mp4",
    "vfr.mp4",
    "vfr.mkv",
    "10bit.mp4",
    "cfr.ts",
    "mpeg2.ts",
    "mpeg4.avi",
    "late-start.mp4",
    "late-start.mkv",
    "edit-list.mp4",
    "one.mp4",
    "odd-420.mkv",
]


@frame_filter(formats=("bgr24",))
def blue(frame):
    """All blue."""
    return np.full_like(frame, (255, 0, 0))


@pytest.mark.parametrize("name", SOUGHT)
def test_a_moment_is_the_frame_shown_then_with_its_neighbours(samples, name):
    video = samples(name)
    info = probe(video)
    everything = [(float((f.pts - info.start_pts) * info.time_base), f.flat.copy()) for f in decode(video, info)]
    last = len(everything) - 1
    for want in {0, 1, last // 2, last - 1, last} & set(range(last + 1)):
        moment = _moment(video, info, everything[want][0] + 0.002, Halo(3, 2))
        near = everything[max(0, want - 3) : want + 3]
        assert moment.at == min(want, 3)
        assert moment.times == pytest.approx([t for t, _ in near], abs=1e-3)
        assert all(np.array_equal(a, b) for a, (_, b) in zip(moment.frames, near, strict=True))


def test_a_filter_gets_its_window(samples):
    seen: list[Any] = []

    @dataclass
    class Spy(Filter):
        formats: ClassVar = (*YUV, *YUV16)

        @property
        def halo(self):
            return Halo(2, 1)

        def apply(self, window, out, at):
            seen.append((at.frame, [f.y.copy() for f in window]))
            for plane, want in zip(window[2], out, strict=True):
                want[...] = plane

    video = samples("cfr.mp4")
    Sheet(video, [10.5 / 25], 1, [Stage("spy", Spy())], 96)
    ((frame, window),) = seen
    shown = [f.flat[: 96 * 64].reshape(64, 96).copy() for f in decode(video, probe(video))]
    assert frame == 10
    assert all(np.array_equal(a, b) for a, b in zip(window, shown[8:12], strict=True))


def test_a_sheet_has_a_row_as_it_is_and_a_row_a_filter(samples):
    sheet = Sheet(samples("cfr.mp4"), [], 3, [Stage("blue", blue())], 96)
    picture = np.asarray(sheet.image())
    assert len(sheet.times) == 3
    assert sheet.times == sorted(set(sheet.times))
    pure_blue = (picture == (0, 0, 255)).all(axis=2)
    assert pure_blue.sum() == 3 * 96 * 64
    assert not pure_blue[: picture.shape[0] // 2].any()


def test_a_moment_late_in_a_video_is_sought(samples, monkeypatch):
    """A preview of a long video does not decode it from its start."""
    decoded = []
    real = preview._frames_from

    def counted(*args):
        for item in real(*args):
            decoded.append(item[0])
            yield item

    monkeypatch.setattr(preview, "_frames_from", counted)
    video = samples("open-gop.mp4")  # 50 frames, a keyframe every 10
    _moment(video, probe(video), 44.5 / 25, Halo(1, 1))
    assert len(decoded) <= 20
    assert min(decoded) > 0.5


def test_a_turned_video_is_shown_upright(samples):
    @frame_filter(formats=("bgr24",))
    def top_blue(frame):
        marked = np.zeros_like(frame)
        marked[: len(frame) // 2] = (255, 0, 0)
        return marked

    info = probe(samples("rotated.mp4"))
    sheet = Sheet(samples("rotated.mp4"), [0.0], 1, [Stage("top", top_blue())], 64)
    (thumb,) = sheet._rows[1][1]
    assert thumb.size == (64, round(64 * info.width / info.height))
    blue_columns = (np.asarray(thumb)[..., 2] > 128).all(axis=0)
    left, right = blue_columns[:24].all(), blue_columns[-24:].all()
    assert (left, right) == {90: (True, False), 270: (False, True)}[info.rotation % 360]


def test_the_command_writes_a_png_and_replaces_only_when_told(samples, tmp_path):
    (tmp_path / "blue.py").write_text(
        "import numpy as np\nfrom vidcloud.filter import frame_filter\n\n"
        "@frame_filter()\ndef blue(frame):\n    return np.full_like(frame, (255, 0, 0))\n"
    )
    args = ["preview", str(samples("cfr.mp4")), "--filter", f"{tmp_path}/blue.py", "-o", f"{tmp_path}/sheet.png"]
    result = CliRunner().invoke(filters, [*args, "--at", "0.1", "--at", "0.5", "--width", "64"], catch_exceptions=False)
    assert result.output == f"{tmp_path}/sheet.png: 1 filters at 0.08 s, 0.48 s\n"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 2 * 64 + 3 * 6
    with pytest.raises(UsageError, match="give --force"):
        CliRunner().invoke(filters, args, catch_exceptions=False)
    CliRunner().invoke(filters, [*args, "--force", "--frames", "1"], catch_exceptions=False)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 320 + 2 * 6
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["blue.py", "sheet.png"]


def test_what_can_not_be_shown_is_one_line(samples, tmp_path):
    with pytest.raises(UsageError, match="has no frame at 99 s: it ends at"):
        Sheet(samples("cfr.mp4"), [99.0], 1, [], 64)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError):
        Sheet(tmp_path / "text.mp4", [], 1, [], 64)
    with pytest.raises(UsageError, match="no folder"):
        Sheet(samples("cfr.mp4"), [], 1, [], 64).write(tmp_path / "nowhere" / "sheet.png")
