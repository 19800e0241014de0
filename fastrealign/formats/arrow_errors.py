"""Errors of pyarrow and Lance, turned into ones that name the file, the row and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.libraries import pa
from fastrealign.core.text import one_line
from fastrealign.storage.files import reading
from fastrealign.storage.paths import AnyPath


@contextmanager
def decoding(path: AnyPath, kind: str, rows_read: int = 0) -> Iterator[None]:
    """Turn what a library raises about a damaged or unreadable file into an InputError."""
    with reading(path):
        try:
            yield
        except FastRealignError:
            raise
        except BaseException as error:  # damage shows in any way, down to text that is not UTF-8
            panic = type(error).__name__ == "PanicException"  # Rust's, not an Exception
            if (isinstance(error, OSError) and error.errno is not None) or not (isinstance(error, Exception) or panic):
                raise
            if shortage(error) is not None:
                raise
            if isinstance(error, NotImplementedError):  # of Arrow: the file is as it should be
                raise InputError(
                    f"{path}: this version of pyarrow cannot read all of it ({one_line(error)}); it is not damaged: upgrade "
                    f"pyarrow, or save it without the feature named there"
                ) from error
            where = f" from row {rows_read} on" if rows_read else ""
            raise InputError(f"{path}: is not a readable {kind}{where} ({one_line(error)}); make it again") from error


def decoded(stream: Iterator[pa.RecordBatch], path: AnyPath, kind: str, done: int = 0) -> Iterator[pa.RecordBatch]:
    """The batches of a stream; an error names the row from which on it cannot be read. done: number of rows before it."""
    while True:
        with decoding(path, kind, done):
            batch = next(stream, None)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


@contextmanager
def writing_columns(path: AnyPath, schema: pa.Schema, kind: str) -> Iterator[None]:
    """Turn what Arrow refuses to write into an InputError that names the column of `schema`."""
    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        text = str(error)
        named = [field for field in schema if str(field.type) in text or f"'{field.name}'" in text]
        field = max(named, key=lambda field: len(str(field.type)), default=None)
        what = "a column" if field is None else f"column {field.name!r} ({one_line(field.type)})"
        raise InputError(
            f"{path}: {kind} does not hold {what}: {one_line(error)}; leave it out, or choose another format"
        ) from error
