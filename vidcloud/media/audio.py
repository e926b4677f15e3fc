"""Hashes of a file's audio packets, to show that they came through untouched."""

from pathlib import Path
from typing import Any

import xxhash

from vidcloud.media.files import open_input
from vidcloud.media.probe import codec_name


def audio_hashes(path: Path | str) -> list[dict[str, Any]]:
    """What the audio streams of a file hold, without decoding.

    AAC in MPEG-TS carries ADTS headers, in MP4 it does not: they are left out, for the sound is the same.

    Returns:
        For each audio stream: ``index`` in the file, ``codec``, ``packets``, ``bytes``, ``xxh3_128`` of all payloads
        one after the other, ``start_s`` and ``end_s`` (first and last timestamp in seconds, None without packets).

    Raises:
        InputError: not a media file.
    """
    with open_input(path) as container:
        streams = list(container.streams.audio)
        found = {
            s.index: {
                "index": s.index,
                "codec": codec_name(s),
                "packets": 0,
                "bytes": 0,
                "start_s": None,
                "end_s": None,
            }
            for s in streams
        }
        digests = {s.index: xxhash.xxh3_128() for s in streams}
        for packet in container.demux(streams) if streams else ():
            if not packet.size:
                continue
            record: dict[str, Any] = found[packet.stream_index]
            payload = bytes(packet)
            if record["codec"] == "aac":
                payload = payload[_adts_header(payload) :]
            record["packets"] += 1
            record["bytes"] += len(payload)
            digests[packet.stream_index].update(payload)
            if packet.pts is not None:
                at = round(float(packet.pts * packet.time_base), 6)
                record["start_s"] = at if record["start_s"] is None else record["start_s"]
                record["end_s"] = at
        return [{**found[i], "xxh3_128": digests[i].hexdigest()} for i in found]


def _adts_header(payload: bytes) -> int:
    """Length of the ADTS header, 0 where there is none: AAC's own packets don't begin with its sync word."""
    if len(payload) < 7 or payload[0] != 0xFF or payload[1] & 0xF6 != 0xF0:
        return 0
    return 7 if payload[1] & 1 else 9  # with a checksum
