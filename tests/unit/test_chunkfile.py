"""Chunk files: what is written is read, and what is damaged is told."""

import dataclasses

import numpy as np
import pytest

from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk, read_header, write_chunk
from vidcloud.errors import ShareError


@pytest.fixture
def chunk(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 7 * 5 * 3), dtype=np.uint8)
    header = ChunkHeader("bgr24", 7, 5, 9, 10, 11, (100, 200, 350), (100, 150, 0), ("a", "b", "c"), ("note",))
    path = tmp_path / "chunk"
    write_chunk(path, header, frames)
    return path, header, frames


def test_round_trip(chunk):
    path, header, frames = chunk
    got_header, got = read_chunk(path)
    assert got_header == read_header(path) == header
    assert got.dtype == np.uint8
    assert np.array_equal(got, frames)
    assert not got.flags.writeable


def test_deep_samples_keep_their_type(tmp_path):
    frames = np.arange(2 * 24, dtype=np.uint16).reshape(2, 24) * 1000
    header = ChunkHeader("yuv420p10", 4, 4, 0, 0, 2, (0, 1), (1, 1))
    write_chunk(tmp_path / "c", header, frames)
    assert np.array_equal(read_chunk(tmp_path / "c")[1], frames)


def test_a_mapped_chunk_may_be_removed(chunk):
    path, _, frames = chunk
    _, got = read_chunk(path)
    path.unlink()
    assert np.array_equal(got, frames)


def test_cut_short(chunk):
    path, _, _ = chunk
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShareError, match="cut short"):
        read_chunk(path)


@pytest.mark.parametrize("content", [b"", b"something else", bytes(5000), b"vidcloud chunk 1 5000\n{}"])
def test_not_a_chunk(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ShareError):
        read_chunk(tmp_path / "x")


def test_a_hash_sees_one_bit(chunk):
    _, _, frames = chunk
    before = frame_hash(frames[0])
    frames[0, 3] ^= 1
    assert frame_hash(frames[0]) != before
    assert dataclasses.is_dataclass(ChunkHeader)
