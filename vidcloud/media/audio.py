"""Hashes of a file's audio packets, to show that they came through untouched."""

from pathlib import Path
from typing import Any

import xxhash

from vidcloud.media.files import open_input
from vidcloud.media.probe import codec_name


def audio_hashes(path: Path | str) -> list[dict[str, Any]]:
    """What the audio streams of a file hold, without decoding.

    Payloads can differ between containers although the sound is the same: AAC in MPEG-TS carries ADTS headers, in
    MP4 it does not.

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
            record["packets"] += 1
            record["bytes"] += packet.size
            digests[packet.stream_index].update(bytes(packet))
            if packet.pts is not None:
                at = round(float(packet.pts * packet.time_base), 6)
                record["start_s"] = at if record["start_s"] is None else record["start_s"]
                record["end_s"] = at
        return [{**found[i], "xxh3_128": digests[i].hexdigest()} for i in found]
