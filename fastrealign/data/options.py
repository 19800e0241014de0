"""The user's options, as dataclasses that validate themselves: one class a subject, one help text an option.

Public functions build these from their keywords and pass them on. The command's help takes the text of an option from `HELP`,
docstrings through `documented`. The options of a fit are in methods/fit_options.py.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fastrealign.core import checks
from fastrealign.core.errors import InputError
from fastrealign.core.optional import Lazy
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import brief

if TYPE_CHECKING:
    from fastrealign.core import dtypes
    from fastrealign.data import workers as worker_threads
    from fastrealign.data.workers import Workers
else:  # the texts are read by `--help`, which needs none of these
    dtypes = Lazy("fastrealign.core.dtypes")
    worker_threads = Lazy("fastrealign.data.workers")

BAD_ROWS = ("error", "skip", "keep")
BAD_SHARDS = ("error", "skip")

# Longer noise leaves nothing of a row.
_LONGEST = 1e6

_F = TypeVar("_F", bound=Callable[..., Any])
_WIDTH = 96


def option(default: object, help: str) -> Any:
    """A field of an options class, with its text."""
    return field(default=default, metadata={"help": help})


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """InputError for a value that is not one of the choices."""
    if value not in choices:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(choices)}")


def check_progress(progress: object) -> None:
    """InputError for what has not the methods of a Progress, such as True."""
    if not callable(getattr(progress, "running", None)) or isinstance(progress, type):
        raise InputError(
            f"progress={brief(progress)}: expected an object of a subclass of fastrealign.core.progress.Progress; leave it out "
            "to show nothing"
        )


@dataclass(frozen=True)
class ReadOptions:
    """What is read of each side, and what happens to rows and shards that cannot be used."""

    column: str | None = option(
        None,
        "parquet column, pickle key or tensor that holds the embeddings of the source, where that is ambiguous; the target's "
        "files are read by the same name if they have it",
    )
    target_column: str | None = option(
        None,
        "the same for the target; in one file, text_... belongs to the source, image_..., img_... and visual_... to the target",
    )
    bad_rows: str = option(
        "error",
        "rows with NaN, Inf or only zeros: error stops and names the first, skip leaves them out, keep writes them "
        "unmapped, where rows are written; statistics never include them",
    )
    bad_shards: str = option(
        "error",
        "shards that cannot be read: error stops, skip leaves them out and lists them in the report and the manifest",
    )

    def __post_init__(self) -> None:
        for name in ("column", "target_column"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"{name}={brief(value)}: expected the name of a column, as text")
        check_choice("bad_rows", self.bad_rows, BAD_ROWS)
        check_choice("bad_shards", self.bad_shards, BAD_SHARDS)


@dataclass(frozen=True)
class Compute:
    """What computes: CPU threads, GPUs, memory; `workers` follows from these."""

    threads: int | None = option(None, "CPU threads; by default one per core")
    devices: Sequence[int | str] | None = option(
        None,
        "GPUs to compute on, by their numbers, or torch device names, each fed by four CPU threads if their number is not "
        "given; by default the CPU computes",
    )
    max_memory: int | None = option(
        None,
        "bytes that all buffers together may take; decoding a format needs more",
    )
    workers: Workers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", worker_threads.Workers.of(self.threads, self.devices, self.max_memory))


@dataclass(frozen=True)
class OutputOptions:
    """What is written, and what happens to an earlier run in the output folder. `dtype`: None, or an ElementType, which
    becomes the NumPy dtype."""

    dtype: Any = option(  # noqa: RUF009 (`option` is dataclasses.field)
        None,
        "element type of the output: float32, float16, bfloat16 or float64; by default that of each shard, for 16-bit pickles "
        "float32, as the reference script writes them",
    )
    overwrite: bool = option(False, "replace an earlier run in the output folder; other files stay")
    resume: bool = option(False, "resume an unfinished run in the output folder; the result is the same bytes")
    verify: bool = option(
        False,
        "record a checksum of every byte read and written and, with resume, compare them; by default size, time of change, and "
        "the first and last bytes",
    )
    fsync: bool = option(True, "wait until the disk has everything; without it a power cut may cost the output")

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", None if self.dtype is None else dtypes.as_dtype(self.dtype))
        for name in ("overwrite", "resume", "verify", "fsync"):
            object.__setattr__(self, name, checks.flag(name, getattr(self, name)))


@dataclass(frozen=True)
class NoiseOptions:
    """Noise that is added to the mapped rows (methods/noisy.py). True where there is some."""

    noise: float = option(
        0.0,
        "length of the Gaussian noise added to every mapped row, which is then normalised again; 1 is the length of a row; "
        "c3 has noise of its own, of length 0.5, which this replaces",
    )
    seed: int = option(
        0,
        "seed of this noise: a row's noise depends on it and on the number of the row; c3's own has the seed of its fit",
    )

    def __post_init__(self) -> None:
        which = f"from 0 to {_LONGEST:g}, a length; 1 is as long as a row"
        noise = checks.number("noise", self.noise, lambda noise: 0.0 <= noise <= _LONGEST, which)
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "seed", checks.seed(self.seed))

    def __bool__(self) -> bool:
        return self.noise > 0.0

    def __str__(self) -> str:
        return f"of length {self.noise:.6g} (seed {self.seed})"

    def sigma(self, d: int) -> float:
        """The standard deviation of a coordinate, of rows of width d."""
        return self.noise / math.sqrt(d)

    def to_json(self) -> dict[str, Any]:
        """As a job specification and the configuration of a run record it: nothing where there is none."""
        return {"noise": self.noise, "seed": self.seed} if self else {}


NO_NOISE = NoiseOptions()


def noise_options(noise: float, seed: int) -> NoiseOptions:
    """NoiseOptions of these, without a check of the defaults, which would be felt where single rows are mapped."""
    default = type(noise) is float and type(seed) is int and noise == 0.0 and seed == 0
    return NO_NOISE if default else NoiseOptions(noise, seed)


@dataclass(frozen=True)
class PassOptions:
    """How a pass over rows runs: what happens to bad rows, what computes, and where progress is shown."""

    bad_rows: str = "error"
    workers: Workers = field(default_factory=lambda: worker_threads.Workers.of())
    progress: Progress = SILENT

    def __post_init__(self) -> None:
        check_choice("bad_rows", self.bad_rows, BAD_ROWS)
        check_progress(self.progress)

    @property
    def later(self) -> PassOptions:
        """For further passes over the same rows: their bad rows were reported, and are left out silently."""
        return self if self.bad_rows == "error" else replace(self, bad_rows="skip")


def texts(*groups: type) -> dict[str, str]:
    """The text of each option of these classes, by its name."""
    return {option.name: option.metadata["help"] for group in groups for option in _options(group)}


def documented(*groups: type) -> Callable[[_F], _F]:
    """Fill in "{Name}" in a docstring: the parameters of the function that are options of the class of this name."""

    def fill(function: _F) -> _F:
        if function.__doc__ is not None:
            doc, names = inspect.cleandoc(function.__doc__), set(inspect.signature(function).parameters)
            for group in groups:
                entries = [_entry(option) for option in _options(group) if option.name in names]
                names -= {option.name for option in _options(group)}  # what two classes have is described once
                doc = doc.replace(f"{{{group.__name__}}}", "\n".join(entries))
            function.__doc__ = doc
        return function

    return fill


def _options(group: type) -> list[Field[Any]]:
    return [one for one in fields(group) if "help" in one.metadata]


def _entry(option: Field[Any]) -> str:
    """A parameter in NumPy style."""
    text = option.metadata["help"]
    filled = textwrap.fill(f"{text[0].upper()}{text[1:]}.", _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{option.name} : {option.type}, default {option.default!r}\n{filled}"


HELP = texts(ReadOptions, Compute, OutputOptions, NoiseOptions)
