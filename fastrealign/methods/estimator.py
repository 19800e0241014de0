"""ReAlign on scikit-learn's conventions: the constructor only stores, `fit` learns, `transform` maps.

scikit-learn is optional (`pip install 'fastrealign[sklearn]'`), so this module is imported when `fastrealign.ReAlign`
is asked for. scikit-learn passes `y` along a pipeline for labels; the embeddings to align to are a `target` of the
constructor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.core import arrays
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count
from fastrealign.data.options import NoiseOptions, check_choice
from fastrealign.data.row_source import RowsLike
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.fit_options import CENTROIDS
from fastrealign.methods.fitting import fit
from fastrealign.methods.moments import Moments

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise InputError(
        f"fastrealign.ReAlign needs scikit-learn 1.6 or newer ({error}); pip install 'fastrealign[sklearn]'"
    ) from None

# Element types that are kept; all others (integers, lists, bfloat16) are converted to the first one.
_DTYPES = (np.float64, np.float32, np.float16)


class ReAlign(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Moves rows of one modality (text) to where those of another lie (images): ReAlign of arXiv 2602.07026.

    Parameters
    ----------
    target : array, path or chunks, optional
        The embeddings to move to: whatever `fastrealign.fit` takes. By default the rows given to `fit` are their own target,
        so nothing moves and `transform` only makes unit rows. `clone` and pickling copy an array; a path stays a path.
    centroid : str, default "paper"
        "paper" translates once, as published; "exact" leaves no gap.
    bad_rows : str, default "keep"
        Rows of zeros, which have no direction: "keep" (as sklearn.preprocessing.Normalizer does) leaves them out of the
        statistics and passes them on unchanged; "error" raises BadRowsError, which names the first. NaN and Inf in X are
        always refused.
    threads : int, optional
        CPU threads; by default one per core.
    noise : float, default 0.0
        Length of random noise that `transform` adds to the aligned rows before they are projected again, for models that train
        on text and run on images; 1 is as long as a row. Each row gets that of its number in X.
    seed : int, default 0
        Of the noise.

    Attributes
    ----------
    alignment_ : Alignment
    n_features_in_ : int
    feature_names_in_ : array of str

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> texts, images = rng.standard_normal((100, 8)) + 1.0, rng.standard_normal((100, 8)) - 1.0
    >>> fr.ReAlign(target=images).fit(texts).transform(texts).shape
    (100, 8)
    """

    def __init__(
        self,
        target: RowsLike | None = None,
        *,
        centroid: str = "paper",
        bad_rows: str = "keep",
        threads: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.centroid = centroid
        self.bad_rows = bad_rows
        self.threads = threads
        self.noise = noise
        self.seed = seed

    @classmethod
    def from_alignment(cls, alignment: Alignment) -> ReAlign:
        """A fitted estimator from an alignment.

        Fitting it, or a pipeline with it, fits it again, without a target; `sklearn.frozen.FrozenEstimator` prevents
        that.
        """
        estimator = cls(centroid=alignment.centroid)
        estimator.alignment_ = alignment
        estimator.n_features_in_ = alignment.dim
        return estimator

    @computes
    def fit(self, X: RowsLike, y: object = None) -> ReAlign:
        """Learn the map.

        Parameters
        ----------
        X : array (n, d)
            At least two rows.
        y
            Ignored.

        Returns
        -------
        ReAlign
            Itself.

        Raises
        ------
        ValueError
            For NaN or Inf; InputError, which is one, as `fastrealign.fit` does, and for a y that looks like a target.
        """
        self._check_parameters()
        X = validate_data(self, _seen(X), dtype=_DTYPES, ensure_min_samples=2)
        if self.target is None:
            shape: tuple[int, ...] = np.shape(y) if isinstance(y, list) else getattr(y, "shape", ())
            if len(shape) == 2 and shape[1] == X.shape[1]:
                raise InputError(f"y has shape {shape}, like a target; pass that as ReAlign(target=...)")
            self.alignment_ = self._in_place(X)
            return self
        self._check_target_names()
        self.alignment_ = Alignment.of(
            fit(X, self.target, centroid=self.centroid, bad_rows=self.bad_rows, threads=self.threads)
        )
        return self

    @computes
    def transform(self, X: object) -> np.ndarray:
        """Align rows.

        Parameters
        ----------
        X : array (n, d)

        Returns
        -------
        array (n, d)
            Unit rows in the element type of X, or float64 for types that are not float16, float32 or float64.
        """
        check_is_fitted(self)
        self._check_parameters()
        X = validate_data(self, _seen(X), reset=False, dtype=_DTYPES)
        return self.alignment_(X, bad_rows=self.bad_rows, threads=self.threads, noise=self.noise, seed=self.seed)

    def _check_parameters(self) -> None:
        check_choice("centroid", self.centroid, CENTROIDS)
        NoiseOptions(self.noise, self.seed)
        if self.bad_rows not in ("error", "keep"):
            raise InputError(
                f"bad_rows={self.bad_rows!r}: expected 'error' or 'keep'; transform returns as many rows as it is given"
            )

    def _check_target_names(self) -> None:
        """Columns of X and of the target, where both have names, are to be the same, in one order."""
        names = getattr(self.target, "columns", None)
        mine = getattr(self, "feature_names_in_", None)
        if names is None or mine is None or not all(isinstance(name, str) for name in names):
            return
        if list(names) != list(mine):
            at = next(
                (i for i, (a, b) in enumerate(zip(names, mine, strict=False)) if a != b), min(len(names), len(mine))
            )
            raise InputError(
                f"the columns of the target are not those of X: they differ from column {at} on; put them in one order"
            )

    def _in_place(self, X: np.ndarray) -> Alignment:
        """The alignment of X to itself. Its s = sqrt(T/T) is 1 even where T is zero, as for rows of one direction."""
        moments = Moments(X.shape[1])
        moments.update(X, bad_rows="skip" if self.bad_rows == "keep" else "error", threads=self.threads)
        if moments.count == 0:
            raise InputError(f"{count(len(X), 'row', 'have')} only zeros; are these embeddings?")
        nothing = np.zeros(moments.dim)
        return Alignment(
            s=1.0,
            b=nothing,
            c=nothing,
            mean_source=moments.mean,
            mean_target=moments.mean,
            trace_source=moments.trace,
            trace_target=moments.trace,
            count_source=moments.count,
            count_target=moments.count,
            gap_before=0.0,
            gap_left=0.0,
            centroid=self.centroid,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags


def _seen(X: Any) -> Any:
    """X for scikit-learn's validation, which drops masks and knows neither lists of rows nor tensors of every kind.

    Frames keep their names; sparse matrices, and arrays of odd shapes and types, are for it to refuse.
    """
    if type(X) is np.ndarray and (X.dtype.kind != "O" or X.ndim != 1):
        return X
    frame = hasattr(X, "columns") and (hasattr(X, "iloc") or hasattr(X, "get_column"))
    if X is None or isinstance(X, str) or hasattr(X, "toarray") or frame:
        return X
    if isinstance(X, (list, tuple)) and not arrays.holds_rows(X):
        return X
    rows = arrays.as_rows_of(X, "X")
    return X if rows.ndim == 1 and isinstance(X, (list, tuple)) else rows
