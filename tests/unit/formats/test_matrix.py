"""matrix.py: rows of any strides read by position as NumPy would see them; rows moved within an output file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrealign.formats import matrix
from fastrealign.formats.matrix import CarryingWriter, MatrixShard


class Plain(MatrixShard):
    """Elements of int32 size from a byte of a file on."""

    format = "plain"

    def __init__(self, path, offset, rows, dim, strides):
        super().__init__(path, path.name)
        self._offset, self.rows, self.dim, self._strides = offset, rows, dim, strides
        self.dtype = np.dtype(np.float32)

    def writer(self, *_):
        raise NotImplementedError


sizes = st.integers(1, 40)
strides = st.integers(0, 50)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(sizes, st.integers(1, 150), strides, strides, st.integers(0, 9), st.data())
def test_any_strides(tmp_path, monkeypatch, rows, dim, row, column, offset, data):
    monkeypatch.setattr(matrix, "_SPAN_BYTES", data.draw(st.sampled_from([1, 300, 1 << 20])))
    span = (rows - 1) * row + (dim - 1) * column + 1
    values = np.arange(span, dtype=np.float32)
    (tmp_path / "x").write_bytes(bytes(offset) + values.tobytes())
    expected = np.lib.stride_tricks.as_strided(values, (rows, dim), (row * 4, column * 4))
    shard = Plain(tmp_path / "x", offset, rows, dim, (row, column))
    lo = data.draw(st.integers(0, rows))
    hi = data.draw(st.integers(lo, rows))
    scratch = np.empty(rows * dim * 4, np.uint8)
    assert np.array_equal(shard.read(lo, hi, scratch), expected[lo:hi])
    assert np.array_equal(np.concatenate([part.copy() for part in shard.chunks(7)]), expected)


class Headed(CarryingWriter):
    """Rows behind a header whose size depends on how many there are."""

    def __init__(self, path, dim, rows, header):
        super().__init__(path, np.dtype(np.float32), dim, rows)
        self._header = header
        self._offset = header(rows)

    def _finish(self):
        self.mask = self._mask()
        self._move(self._header(self._kept))
        self._file.pwrite(b"h" * self._offset, 0)
        self._file.truncate(self._offset + self._kept * self._row_bytes)


@pytest.mark.parametrize("move_bytes", [1, 16, 100, 8 << 20])
@pytest.mark.parametrize("kept", [0, 1, 13, 30])
def test_rows_move_to_the_front_when_others_are_dropped(tmp_path, monkeypatch, move_bytes, kept):
    monkeypatch.setattr(matrix, "_MOVE_BYTES", move_bytes)
    x = np.random.default_rng(1).standard_normal((30, 5)).astype(np.float32)
    mask = np.zeros(30, bool)
    mask[np.random.default_rng(2).permutation(30)[:kept]] = True
    with Headed(tmp_path / "y", 5, 30, lambda rows: 3 + rows) as writer:
        for lo in range(0, 30, 7):
            part = mask[lo : lo + 7]
            writer.write(x[lo : lo + 7][part], None if part.all() else part)
        writer.commit()
    assert (tmp_path / "y").read_bytes() == b"h" * (3 + kept) + x[mask].tobytes()
    assert (writer.mask is None) == (kept == 30)
    assert kept == 30 or np.array_equal(writer.mask, mask)


def test_rows_never_move_backwards_into_what_follows(tmp_path):
    with Headed(tmp_path / "y", 5, 2, lambda rows: 9 - rows) as writer:
        writer.write(np.ones((1, 5), np.float32), np.array([True, False]))
        with pytest.raises(ValueError, match="cannot move from byte 7 to 8"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []
