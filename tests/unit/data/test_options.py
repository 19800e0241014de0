"""Options check themselves, and their texts have one source."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.data.options import HELP, Compute, NoiseOptions, OutputOptions, PassOptions, ReadOptions, documented
from fastrealign.data.workers import Workers
from fastrealign.methods import baseline_fits
from fastrealign.methods.fit_options import METHODS, FitOptions


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ReadOptions(bad_rows="drop"), "bad_rows='drop': expected one of error, skip, keep"),
        (lambda: ReadOptions(bad_shards="keep"), "bad_shards='keep': expected one of error, skip"),
        (lambda: Compute(max_memory=1), "max_memory=1: expected a whole number of at least 131072, in bytes"),
        (lambda: OutputOptions("int8"), "int8"),
        (lambda: FitOptions("re-align"), "did you mean 'realign'"),
        (lambda: FitOptions(3), "method=3: expected one of none"),
        (lambda: FitOptions(centroid="mean"), "centroid='mean': expected one of paper, exact"),
        (lambda: FitOptions("bca", centroid="exact"), "centroid= applies to ReAlign, not to the method bca"),
        (lambda: FitOptions("none", tol=0.1), "tol= applies to ReAlign, not to the method none"),
        (lambda: FitOptions(tol=0.1, one_pass=True), "choose one"),
        (lambda: FitOptions(tol=-1.0), "tol=-1.0: expected a number above 0"),
        (lambda: FitOptions(tol=0.1, confidence=1.0), "confidence=1.0: expected a number from 0.5 to below 1"),
        (lambda: FitOptions(seed=-1), "seed=-1: expected a whole number from 0 to 2^64 - 1"),
        (lambda: FitOptions("none", seed="3"), "seed='3': expected a whole number"),
        (lambda: FitOptions(confidence=True), "confidence=True: expected a number from 0.5 to below 1"),
        (lambda: FitOptions(one_pass="no"), "one_pass='no': expected True or False"),
        (lambda: OutputOptions(overwrite="false"), "overwrite='false': expected True or False"),
        (lambda: OutputOptions(resume=None), "resume=None: expected True or False"),
        (lambda: OutputOptions(verify=2), "verify=2: expected True or False"),
        (lambda: OutputOptions(fsync=np.zeros(2, bool)), "expected True or False"),
        (lambda: ReadOptions(column=5), "column=5: expected the name of a column"),
        (lambda: ReadOptions(target_column=b"x"), "target_column=b'x': expected the name of a column"),
        (lambda: Compute(devices="cpu"), "devices='cpu': expected a list"),
        (lambda: Compute(devices=0), "devices=0: expected a list"),
        (lambda: PassOptions(progress=True), "progress=True: expected an object of a subclass"),
        (lambda: PassOptions(progress=Progress), "expected an object of a subclass"),
        (lambda: NoiseOptions(seed=30.5), "seed=30.5: expected a whole number"),
        (lambda: NoiseOptions(seed=True), "seed=True: expected a whole number"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(InputError) as caught:
        make()
    assert says in str(caught.value)


def test_what_comes_of_them():
    assert Compute(3).workers == Workers.of(3)
    assert OutputOptions("fp16").dtype == np.float16
    assert OutputOptions(overwrite=np.True_, resume=0).overwrite is True
    assert FitOptions("ReAlign-Exact") == FitOptions(centroid="exact")
    assert FitOptions("C3", seed=5).to_json() == {"method": "c3", "seed": 5}
    assert json.dumps(FitOptions("C3", seed=np.int64(5)).to_json()) == json.dumps(FitOptions("c3", seed=5).to_json())
    assert FitOptions(tol=0.1).to_json() == {
        "centroid": "paper",
        "one_pass": None,
        "tol": 0.1,
        "confidence": 0.95,
        "seed": 0,
    }


def test_every_method_has_a_fit():
    assert (*baseline_fits._MAKERS, "realign", "realign-exact") == METHODS


def test_docstrings_take_the_texts():
    @documented(ReadOptions, FitOptions)
    def function(rows, *, bad_rows="error", seed=0):
        """Do it.

        Parameters
        ----------
        rows : array
        {ReadOptions}
        {FitOptions}
        """

    assert "\nbad_rows : str, default 'error'\n    Rows with NaN" in function.__doc__
    assert "seed : int, default 0\n    Seed of the sample" in function.__doc__
    assert "column" not in function.__doc__ and "{" not in function.__doc__
    assert {"column", "bad_rows", "threads", "dtype", "fsync"} < set(HELP)
