"""A serial run of the media layer: decode, encode into parts, mux, and what came in and out."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vidcloud.media.containers import check_container
from vidcloud.media.encode import EncodeSettings, check_settings
from vidcloud.media.mux import mux
from vidcloud.media.settings import fit_settings

sys.path.insert(0, str(Path(__file__).parent))
from media_tools import Remade, encode_frames, read


@pytest.fixture
def remake(tmp_path: Path) -> Callable[..., Remade]:
    """``remake(source, "out.mp4", settings)`` is a job without filters on one machine."""

    def run(source: Path, name: str, settings: EncodeSettings, *, min_frames: int = 8) -> Remade:
        video = read(source)
        output = tmp_path / name
        settings = fit_settings(settings, {".avi": "avi"}.get(output.suffix, ""))
        resolved = check_settings(settings, video.info)
        notes = check_container(output, resolved.codec, video.info, source)
        folder = tmp_path / f"parts-{name}"
        folder.mkdir()
        parts = list(encode_frames(video, settings, folder, min_frames=min_frames))
        return Remade(video, parts, output, mux(parts, source, video.info, output), notes)

    return run
