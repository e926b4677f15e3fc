"""Chunk files: what is written is read, and what is damaged is told."""

import dataclasses

import numpy as np
import pytest

from vidcloud.chunkfile import ChunkHeader, frame_hash, read_chunk, read_header, write_chunk
from vidcloud.errors import ShareError
from vidcloud.pixels import pixel_format


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


DAMAGED = r"damaged|cut short"
FORMATS = ["bgr24", "gray", "yuv420p", "yuv444p10", "gray16", "yuv422p12", "rgb48"]


@pytest.fixture
def packed(tmp_path):
    frames = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, -1)
    header = ChunkHeader("gray", 64, 64, 9, 10, 11, (100, 200, 350), (100, 150, 0), ("a", "b", "c"))
    path = tmp_path / "packed"
    cost = write_chunk(path, header, frames, "blosc2")
    return path, header, frames, cost


def test_packed_is_told_in_the_header_and_smaller(packed):
    path, header, frames, cost = packed
    told = read_header(path)
    assert (told.stored, len(told.sizes), told.payload) == ("blosc2", 3, cost.stored_bytes)
    assert dataclasses.replace(told, stored="raw", sizes=(), sums=()) == header
    assert cost.raw_bytes == frames.nbytes > cost.stored_bytes
    assert path.stat().st_size % 4096 == cost.stored_bytes % 4096
    assert not read_chunk(path)[1].flags.writeable


@pytest.mark.parametrize("stored", ["raw", "blosc2"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 5), (64, 36)])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back(tmp_path, name, size, count, stored):
    fmt = pixel_format(name)
    samples = fmt.samples(*size)
    frames = np.random.default_rng(0).integers(0, np.iinfo(fmt.dtype).max, (count, samples), fmt.dtype, endpoint=True)
    times = tuple(range(count))
    header = ChunkHeader(name, *size, 0, 0, count, times, times)
    write_chunk(tmp_path / "c", header, frames, stored)
    told, got = read_chunk(tmp_path / "c")
    assert told.stored == stored
    assert (got.shape, got.dtype) == (frames.shape, frames.dtype)
    assert np.array_equal(got, frames)


def test_a_list_of_frames_is_packed_as_an_array_is(packed, tmp_path):
    path, header, frames, _ = packed
    write_chunk(tmp_path / "list", header, list(frames), "blosc2")
    assert (tmp_path / "list").read_bytes() == path.read_bytes()


def test_every_damaged_byte_of_a_packed_payload_is_seen(packed):
    path, _, _, cost = packed
    whole = path.read_bytes()
    for at in range(len(whole) - cost.stored_bytes, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        with pytest.raises(ShareError, match=DAMAGED):
            read_chunk(path)


@pytest.mark.parametrize("lost", [1, 100, 4096])
def test_a_packed_payload_cut_short(packed, lost):
    path, _, _, _ = packed
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ShareError, match=DAMAGED):
        read_chunk(path)


@pytest.mark.parametrize(
    ("was", "now"),
    [(b'"stored":"blosc2"', b'"stored":"blosc9"'), (b'"sums":["', b'"sums":[],"x":["'), (b'"width":64', b'"width":65')],
)
def test_a_header_that_does_not_fit_its_payload(packed, was, now):
    path, _, _, _ = packed
    whole = path.read_bytes()
    assert was in whole
    first, _, rest = whole.partition(b"\n")
    length = int(first.split()[-1]) + len(now) - len(was)
    body = rest.replace(was, now, 1)
    start = len(whole) - packed[3].stored_bytes
    head = b"vidcloud chunk 1 %d\n" % length + body[:length]
    path.write_bytes(head + bytes(start - len(head)) + whole[start:])
    with pytest.raises(ShareError):
        read_chunk(path)


def test_a_hash_sees_one_bit(chunk):
    _, _, frames = chunk
    before = frame_hash(frames[0])
    frames[0, 3] ^= 1
    assert frame_hash(frames[0]) != before
    assert dataclasses.is_dataclass(ChunkHeader)
