"""Every kind of rows, wherever rows enter: taken as what it holds, given back as what it was, or refused in one line."""

from __future__ import annotations

import array
import contextlib
import itertools
import subprocess
import sys
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics
from fastrealign.core import reference
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.tensors import is_tensor
from fastrealign.methods import baselines

N, D = 30, 8


@pytest.fixture
def sides(rng):
    return tuple((rng.standard_normal((n, D)) + shift).astype("f4") for n, shift in ((N, 1.0), (40, -1.0)))


@pytest.fixture
def alignment(sides):
    return fr.fit(*sides)


def expected(alignment, rows):
    return reference.row_map(rows, alignment.s, alignment.b, alignment.c)


# --- kinds ------------------------------------------------------------------------------------------------------------


class Space:
    """An array library that fastrealign does not know: it speaks DLPack and names its namespace."""

    class Array:
        def __init__(self, x):
            self.x, self.shape = x, x.shape

        def __dlpack__(self, **options):
            return self.x.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

        def __array_namespace__(self):
            return Space

    @staticmethod
    def asarray(x):
        return Space.Array(x)


class HasArray:
    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


def subclass():
    import torch

    class Mine(torch.Tensor):
        """From outside torch, as fastai's and torchvision's."""

    return Mine


def arrow(x, kind):
    import pyarrow as pa

    flat = pa.array(x.reshape(-1))
    lists = pa.array(x.tolist(), pa.list_(pa.float32()))
    return {
        "list": lambda: lists,
        "large list": lambda: lists.cast(pa.large_list(pa.float32())),
        "fixed list": lambda: pa.FixedSizeListArray.from_arrays(flat, D),
        "tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(x),
        "column": lambda: pa.chunked_array([lists[:7], lists[7:7], lists[7:]]),
        "slice": lambda: pa.concat_arrays([lists, lists])[len(x) :],
    }[kind]()


def pandas(x, kind):
    import pandas as pd

    if kind == "frame":
        return pd.DataFrame(x, index=range(100, 100 + len(x)), columns=list("abcdefgh"))
    if kind == "nullable frame":
        return pd.DataFrame(x).astype("Float32")
    if kind == "arrow series":
        import pyarrow as pa

        return pd.Series(x.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float32())))
    return pd.Series(list(x), index=range(100, 100 + len(x)), name="e")


def column(x, layout):
    import datasets

    made = datasets.Dataset.from_dict({"n": range(len(x)), "e": x.tolist()}).with_format(layout)["e"]
    if type(made).__name__ != "Column":
        pytest.skip("a column of this release of datasets is a list or a tensor, which other cases test")
    return made


def lib(name):
    return pytest.importorskip(name)


# What it is called: (how it is made of float32 rows, the kind that comes back, what makes an array of that)
KINDS = {
    "array": (lambda x: x, np.ndarray, np.asarray),
    "masked array that masks nothing": (lambda x: np.ma.array(x), np.ndarray, np.asarray),
    "__array__": (HasArray, np.ndarray, np.asarray),
    "memoryview": (memoryview, np.ndarray, np.asarray),
    "array of arrays": (lambda x: pandas(x, "").to_numpy(), np.ndarray, np.asarray),
    "array API": (Space.Array, Space.Array, lambda r: r.x),
    "list of arrays": (list, list, np.stack),
    "tuple of arrays": (tuple, tuple, np.stack),
    "list of lists": (lambda x: x.tolist(), list, np.array),
    "tensor": (lambda x: lib("torch").from_numpy(x), "torch.Tensor", np.asarray),
    "list of tensors": (lambda x: list(lib("torch").from_numpy(x)), list, np.stack),
    "Series": (lambda x: pandas(x, "series"), "pandas.Series", np.stack),
    "Series of Arrow lists": (lambda x: pandas(x, "arrow series"), "pandas.Series", np.stack),
    "DataFrame": (lambda x: pandas(x, "frame"), "pandas.DataFrame", np.asarray),
    "DataFrame of nullable columns": (lambda x: pandas(x, "nullable frame"), "pandas.DataFrame", np.asarray),
    **{
        f"Arrow {kind}": (lambda x, kind=kind: arrow(x, kind), np.ndarray, np.asarray)
        for kind in ("list", "large list", "fixed list", "tensor", "column", "slice")
    },
    "Hugging Face column": (lambda x: column(x, None), np.ndarray, np.asarray),
    "Hugging Face column of tensors": (lambda x: column(x, "torch"), np.ndarray, np.asarray),
    "JAX": (lambda x: lib("jax.numpy").asarray(x), "jax.Array", np.asarray),
    "strict array API": (lambda x: lib("array_api_strict").asarray(x), "array_api_strict.Array", np.asarray),
    "polars lists": (lambda x: lib("polars").Series("e", x.tolist()), "polars.Series", lambda r: np.array(r.to_list())),
    "polars arrays": (lambda x: lib("polars").Series("e", x), "polars.Series", lambda r: r.to_numpy()),
    "polars DataFrame": (lambda x: lib("polars").DataFrame(x), "polars.DataFrame", lambda r: r.to_numpy()),
    "dask": (lambda x: lib("dask.array").from_array(x, chunks=7), np.ndarray, np.asarray),
}
NEEDS = {"Series": "pandas", "DataFrame": "pandas", "Arrow": "pyarrow", "Hugging": "datasets", "array of": "pandas"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_everywhere(sides, alignment, kind):
    for word, library in NEEDS.items():
        if word in kind:
            lib(library)
    make, back, seen = KINDS[kind]
    text, images = sides
    given, right = make(text), expected(alignment, text)
    result = alignment(given)
    if isinstance(back, str):
        library, _, name = back.partition(".")
        assert type(result).__module__.partition(".")[0] in (library, "jaxlib") and name in str(type(result).__mro__)
    else:
        assert type(result) is back
    np.testing.assert_allclose(seen(result), right, atol=1e-6)
    assert fr.fit(given, images).fingerprint == fr.fit(text, make(images)).fingerprint == alignment.fingerprint
    assert fr.Moments(D).update(given) == fr.Moments(D).update(text)
    c3 = baselines.fit_baseline("c3", given, images)
    np.testing.assert_allclose(seen(c3(given)), c3(text), atol=1e-6)
    assert diagnostics.gap(images, given) == diagnostics.gap(images, text)
    if not any(word in kind for word in ("of lists", "Hugging", "polars lists", "of Arrow")):  # seen as float64
        assert np.asarray(seen(result)).dtype == np.float32


def test_what_comes_back_keeps_its_index_and_what_was_missing(sides, alignment):
    pd, pa = lib("pandas"), lib("pyarrow")
    text, right = sides[0], alignment(sides[0])
    for kind in ("frame", "series"):
        given = pandas(text, kind)
        assert alignment(given).index.equals(given.index)
    assert list(alignment(pandas(text, "frame")).columns) == list("abcdefgh")
    holes = {3: None, 7: None}
    rows = [holes.get(i, row) for i, row in enumerate(text)]
    lists = [None if row is None else row.tolist() for row in rows]
    there = [i for i in range(N) if i not in holes]
    for given in (
        pd.Series(rows, index=range(100, 100 + N)),
        pd.Series(lists, dtype=pd.ArrowDtype(pa.list_(pa.float32())), index=range(100, 100 + N)),
        pa.array(lists, pa.list_(pa.float32())),
        pa.array(lists, pa.list_(pa.float32(), D)),
        rows,
    ):
        with pytest.raises(BadRowsError, match="row 3 is missing"):
            alignment(given)
        with pytest.raises(BadRowsError, match="row 3 is missing"):
            fr.Moments(D).update(given)
        with pytest.raises(BadRowsError, match=r"source: row 3 \(which is missing\)"):
            fr.fit(given, sides[1])
        left = alignment(given, bad_rows="skip")
        np.testing.assert_array_equal(np.stack(left), right[there])
        if isinstance(given, pd.Series):
            assert list(left.index) == [100 + i for i in there]
        kept = list(alignment(given, bad_rows="keep"))
        np.testing.assert_array_equal(np.stack([kept[i] for i in there]), right[there])
        assert all(np.all(pd.isna(kept[i])) for i in holes)
        assert fr.fit(given, sides[1], bad_rows="skip").count_source == N - 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_element_types(sides, alignment, dtype):
    torch = lib("torch")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    rows = sides[0].astype(kind)
    right = alignment(rows)
    assert alignment(list(rows))[0].dtype == kind
    np.testing.assert_array_equal(np.stack(alignment(list(rows))), right)
    tensor = torch.from_numpy(rows.astype("f4")).to(getattr(torch, dtype))
    found = alignment(list(tensor))
    assert found[0].dtype == tensor.dtype
    np.testing.assert_array_equal(torch.stack(found).double().numpy(), right.astype("f8"))
    if dtype == "bfloat16":
        jax = lib("jax.numpy")  # whose DLPack NumPy does not take
        np.testing.assert_array_equal(np.asarray(alignment(jax.asarray(rows))), right)


def test_one_vector(sides, alignment):
    text, right = sides[0], alignment(sides[0])[0]
    torch = lib("torch")
    pd = lib("pandas")
    for x, kind in (
        (text[0], np.ndarray),
        (text[0].tolist(), list),
        (tuple(text[0].tolist()), tuple),
        (torch.from_numpy(text[0]), torch.Tensor),
        (torch.from_numpy(text[0]).as_subclass(subclass()), torch.Tensor),
        (pd.Series(text[0], index=list("abcdefgh")), pd.Series),
        (pd.DataFrame(text).iloc[0], pd.Series),
        (array.array("f", text[0]), np.ndarray),
        (Space.Array(text[0]), Space.Array),
    ):
        result = alignment(x)
        assert isinstance(result, kind)
        np.testing.assert_allclose(result.x if isinstance(result, Space.Array) else result, right, atol=2e-7)
    out = np.empty(D, np.float32)
    assert alignment(text[0], out=out) is out and np.array_equal(out, right)
    shift = baselines.fit_baseline("mean-shift", *sides)
    np.testing.assert_array_equal(shift(text[0]), shift(text[:1])[0])
    with pytest.raises(BadRowsError, match="row 0 is all zeros"):
        alignment(np.zeros(D))
    assert not alignment(np.zeros(D), bad_rows="keep").any()
    for call in (lambda: fr.fit(text[0], sides[1]), lambda: fr.Moments(D).update(text[0])):
        with pytest.raises(InputError, match=r"shape \(8,\), expected two dimensions .*x\[None, :\]"):
            call()


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_subclasses_take_the_road_of_tensors(sides, alignment):
    torch = lib("torch")
    text, images = sides
    kind = subclass()
    negated = torch.complex(torch.zeros(N, D), torch.from_numpy(text)).conj().imag
    assert negated.is_neg()
    right = alignment(-text)
    for x in (negated, negated.as_subclass(kind)):
        found = alignment(x)
        assert type(found) is type(x) and not found.is_neg()
        np.testing.assert_array_equal(found.numpy(), right)
        assert fr.fit(x, images).fingerprint == fr.fit(-text, images).fingerprint
        assert fr.Moments(D).update(x) == fr.Moments(D).update(-text)
        np.testing.assert_array_equal(np.stack(alignment(list(x))), right)
        assert diagnostics.gap(images, x) == diagnostics.gap(images, -text)
        assert np.array_equal(np.stack(list(alignment(x, bad_rows="skip"))), right)
    assert type(alignment(list(torch.from_numpy(text).as_subclass(kind)))[0]) is kind
    with pytest.raises(InputError, match="does not record gradients"):
        alignment(torch.from_numpy(text).requires_grad_().as_subclass(kind))
    with pytest.raises(InputError, match="row 0 requires a gradient"):
        alignment(list(torch.from_numpy(text).requires_grad_()))
    for out, says in (
        (torch.empty(N, D).requires_grad_(), "requires a gradient"),
        (negated.clone().as_subclass(kind), None),
        (torch.complex(torch.zeros(N, D), torch.zeros(N, D)).conj().imag, "negated view"),
    ):
        if says:
            with pytest.raises(InputError, match=says):
                alignment(text, out=out)
        else:
            assert alignment(text, out=out) is out
            np.testing.assert_array_equal(out.numpy(), alignment(text))


def test_a_subclass_that_gives_plain_tensors_gets_plain_tensors(sides, alignment):
    torch = lib("torch")

    class Wary(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

    class Refusing(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise ArithmeticError("of its own")

    for kind in (Wary, Refusing):
        x = torch.Tensor._make_subclass(kind, torch.from_numpy(sides[0]))
        with torch._C.DisableTorchFunctionSubclass():
            found = alignment(x)
        np.testing.assert_array_equal(found, alignment(sides[0]))
    assert type(alignment(torch.nn.Parameter(torch.from_numpy(sides[0]), requires_grad=False))) is torch.Tensor


def test_tensors_without_values_of_their_own_are_refused_in_one_line(sides, alignment):
    torch = lib("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = torch.from_numpy(sides[0])
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
    masked = torch.masked.masked_tensor(x, torch.ones(N, D).bool())
    cases = [
        (torch.nested.nested_tensor([x[:10], x[10:]]), "nested", "torch.cat(x.unbind())"),
        (torch.nested.nested_tensor(list(x)), "nested", "torch.stack(x.unbind())"),
        (torch.nested.nested_tensor([x[:10], x[10:]], layout=torch.jagged), "nested", "torch.cat(x.unbind())"),
        (fake, "FakeTensor", None),
        (masked, "MaskedTensor", None),
        (x.to_sparse(), "sparse", "x.to_dense()"),
        (torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantized", "x.dequantize()"),
        (torch.empty(N, D, device="meta"), "meta", None),
    ]
    for given, says, advice in cases:
        for call in (
            lambda x: alignment(x),
            lambda x: fr.fit(x, sides[1]),
            lambda x: fr.Moments(D).update(x),
            lambda x: fr.fit([x, x], sides[1]),
        ):
            with pytest.raises(InputError, match=says) as caught:
                call(given)
            assert "\n" not in str(caught.value)
        if advice:
            assert advice in str(caught.value)
            assert alignment(eval(advice, {"x": given, "torch": torch})).shape == (N, D)
    seen = []

    def inside(rows):
        with pytest.raises(InputError, match=r"torch\.func"):
            alignment(rows)
        seen.append(rows)
        return rows

    torch.func.vmap(inside)(x[None])
    assert seen


# --- masks, protocols that drop or lie --------------------------------------------------------------------------------


def test_a_mask_is_never_ignored(sides, alignment):
    text, images = sides
    masked = np.ma.array(text, mask=False)
    masked[3, 2] = np.ma.masked

    class Interface:
        def __init__(self):
            self.__array_interface__ = {**text.__array_interface__, "mask": np.eye(N, D)}

    given = [masked, list(masked), HasArray(masked), Interface()]
    with contextlib.suppress(pytest.skip.Exception):
        given.append(lib("dask.array").from_array(masked, chunks=7, asarray=False))
    calls = [
        lambda x: alignment(x),
        lambda x: fr.fit(x, images),
        lambda x: fr.fit(images, x),
        lambda x: fr.fit([text, x], images),
        lambda x: fr.fit(iter([x]), images),
        lambda x: fr.Moments(D).update(x),
        lambda x: diagnostics.gap(images, x),
        lambda x: diagnostics.covariance(x),
        lambda x: baselines.fit_baseline("anchor", x, images),
        lambda x: fr.check(alignment, x, images),
    ]
    if find_spec("sklearn") is not None:
        fitted = fr.ReAlign(target=images).fit(text)
        calls += [fitted.transform, fr.ReAlign(target=images).fit, lambda x: fr.ReAlign(target=x).fit(text)]
    for x, call in itertools.product(given, calls):
        with pytest.raises(InputError, match=r"mask|arrays of one dimension"):
            call(x)
    with pytest.raises(InputError, match="mask"):
        alignment(text, out=masked)
    with pytest.raises(InputError, match="mask"):
        diagnostics.shape(text, masked[:4])


def test_exports_that_raise_or_lie(sides, alignment):
    class Raises(Space.Array):
        def __dlpack__(self, **options):
            raise KeyError("of its own\n\x1b[31m")

    class NoDevice(Space.Array):
        def __dlpack_device__(self):
            raise RuntimeError("no device")

    class Lies(Space.Array):
        def __init__(self, x):
            super().__init__(x)
            self.shape = (3, D)

    class Broken:
        @property
        def __array_interface__(self):
            return {"shape": (3, D), "typestr": "<f4", "version": 3}

    class NoRows:
        def __array__(self, dtype=None, copy=None):
            raise OSError("gone")

    for x in (Raises(sides[0]), NoDevice(sides[0]), Lies(sides[0]), Broken(), NoRows()):
        for call in (alignment, lambda x: fr.fit(x, sides[1]), fr.Moments(D).update, lambda x: fr.fit([x], sides[1])):
            with pytest.raises(InputError) as caught:
                call(x)
            assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_without_torch(sides, alignment):
    """Arrays of other libraries take no torch: its import is blocked."""
    program = f"""
import sys
sys.modules["torch"] = None
import numpy as np, fastrealign as fr
class Only:
    def __init__(self, x): self.x = x
    def __dlpack__(self, **o): return self.x.__dlpack__(**o)
    def __dlpack_device__(self): return self.x.__dlpack_device__()
class Spaced(Only):
    def __array_namespace__(self):
        class space:
            asarray = Spaced
        return space
rng = np.random.default_rng(5)
text, images = rng.standard_normal((2, 60, {D}))
a = fr.fit(Spaced(text), Only(images))
assert a.fingerprint == fr.fit(text, images).fingerprint
assert type(a(Only(text))) is np.ndarray and np.array_equal(a(Only(text)), a(text))
assert type(a(Spaced(text))) is Spaced and np.array_equal(a(Spaced(text)).x, a(text))
fr.Moments({D}).update(Only(text))
try:
    fr.nn
except fr.InputError as error:
    assert str(error) == "fastrealign.nn needs torch: pip install 'fastrealign[torch]'"
class Gpu(Only):
    def __dlpack_device__(self): return 2, 0
try:
    a(Gpu(text))
except fr.InputError as error:
    assert "\\n" not in str(error), error
try:
    import jax.numpy as jnp
except ImportError:
    sys.exit()
x = jnp.asarray(text.astype("f4"))
assert type(a(x)) is type(x) and np.array_equal(np.asarray(a(x)), a(text.astype("f4")))
assert a(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what holds rows elsewhere ----------------------------------------------------------------------------------------


def followed(message, x):
    """What the advice in a message makes of x."""
    advice = message[message.index("x.") :].split()[0] if "x." in message else "x['e']"
    return eval(advice, {"x": x})


def test_tables_and_sparse_matrices_name_the_next_step(sides, alignment):
    pd, pa, sparse, datasets = (lib(name) for name in ("pandas", "pyarrow", "scipy.sparse", "datasets"))
    text = sides[0]
    lists = text.tolist()
    for x, says in (
        ({"e": text, "n": 1}, "a dict with 'e', 'n'"),
        (pa.table({"e": lists, "n": [1] * N}), "a Table with 'e', 'n'"),
        (datasets.Dataset.from_dict({"e": lists}), "a Dataset with 'e'"),
        (pd.DataFrame({"e": list(text), "n": 1}), "column 'e' holds object"),
        (sparse.csr_matrix(text), "sparse"),
        (sparse.coo_array(text), "sparse"),
    ):
        for call in (alignment, lambda x: fr.fit(x, sides[1]), fr.Moments(D).update):
            with pytest.raises(InputError, match=says) as caught:
                call(x)
        assert "astype" not in str(caught.value)
        step = x["e"] if "x[...]" in str(caught.value) else followed(str(caught.value), x)
        np.testing.assert_allclose(np.stack(alignment(step)), alignment(text), atol=2e-7)


def test_the_advice_to_convert_works(sides, alignment):
    torch, pa = lib("torch"), lib("pyarrow")
    whole = np.rint(8 * sides[0]).astype(np.int64)
    right = alignment(whole.astype("f4"))
    for x in (
        whole,
        whole.astype(object),
        torch.from_numpy(whole),
        memoryview(whole),
        HasArray(whole),
        whole.astype("g"),
    ):
        with pytest.raises(InputError, match=r"element type .*; convert with ") as caught:
            alignment(x)
        how = str(caught.value).rpartition("convert with ")[2]
        made = eval(f"x{how}" if how.startswith(".") else how, {"x": x, "numpy": np})
        np.testing.assert_array_equal(np.asarray(alignment(made)), right)
    with pytest.raises(InputError, match="convert with ") as caught:
        alignment(pa.array(whole.tolist()))
    made = eval("x" + str(caught.value).rpartition("convert with ")[2], {"x": pa.array(whole.tolist()), "pyarrow": pa})
    np.testing.assert_array_equal(alignment(made), right)
    if find_spec("torch") is not None:
        import torch

        for x in (torch.from_numpy(whole).to(torch.complex64), torch.from_numpy(whole).to(torch.complex64).conj()):
            with pytest.raises(InputError, match=r"element type (torch\.)?complex64, expected"):
                alignment(x)
    for x in (whole.astype(complex), np.full((N, D), "a", object), whole.astype("U4"), whole.astype("M8[s]")):
        with pytest.raises(InputError, match="element type") as caught:
            alignment(x)
        assert "convert" not in str(caught.value)


def test_how_to_take_rows_out_of_structured_arrays(sides, alignment):
    from numpy.lib import recfunctions

    text = sides[0]
    record = np.zeros(len(text), [("id", "i8"), ("emb", text.dtype, text.shape[1:])])
    record["emb"] = text
    for x in (record, recfunctions.unstructured_to_structured(text)):
        with pytest.raises(InputError, match=r"element type .*; pass ") as caught:
            alignment(x)
        made = eval(str(caught.value).rpartition("; pass ")[2], {"x": x, "numpy": np})
        np.testing.assert_array_equal(alignment(made), alignment(text))


def test_lists_that_are_no_rows(sides, alignment):
    text = sides[0]
    for x, says in (
        ([text[0], text[1][:5]], "row 1 is 5 wide, row 0 8"),
        ([[1.0, 2.0], [1.0]], "row 1 is 1 wide, row 0 2"),
        ([None, text[0], text[1][:5]], "row 2 is 5 wide, row 1 8"),
        ([text, text], r"row 0 of a list has shape \(30, 8\), .*numpy.concatenate"),
        ([text[0], "x"], "holds a str"),
        ([{"e": text[0]}], "holds a dict"),
        ([None, None], "all of them missing"),
        ("text", "a str, expected rows"),
        (None, ": None, expected rows"),
        ((row for row in text), "a generator, expected rows"),
    ):
        with pytest.raises(InputError, match=says):
            alignment(x)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_what_a_dataloader_gives(sides):
    torch = lib("torch")
    text, images = sides
    right = fr.fit(text, images)
    rows = torch.from_numpy(text)

    def load(dataset):
        return torch.utils.data.DataLoader(dataset, batch_size=8)

    taken = (
        load(rows),
        load(torch.utils.data.TensorDataset(rows)),
        load(torch.utils.data.TensorDataset(rows, torch.arange(N))),
        load([{"e": row, "n": i, "s": "text"} for i, row in enumerate(rows)]),
        [rows[:9], rows[9:].as_subclass(subclass())],
        [text[:9].tolist(), text[9:].tolist()],
    )
    for chunks in taken:
        found = fr.fit(chunks, images)
        np.testing.assert_allclose(found.b, right.b, atol=1e-12)
        np.testing.assert_allclose(found.c, right.c, atol=1e-9)
        assert found.sampling is None
    two = load(torch.utils.data.TensorDataset(rows, rows + 1))
    with pytest.raises(InputError, match=r"source, chunk 0: a \w+ with 0, 1, .*batch\[0\] for batch in") as caught:
        fr.fit(two, images)
    found = fr.fit(
        eval(str(caught.value).rpartition("for example ")[2].replace("...", "given"), {"given": two}), images
    )
    assert found.fingerprint == right.fingerprint
    named = load([{"e": row, "box": row[:4]} for row in rows])
    with pytest.raises(InputError, match=r"a dict with 'e', 'box', .*batch\['e'\]"):
        fr.fit(named, images)
    with pytest.raises(InputError, match=r"a dict with 'e', 'box'"):  # the only matrix left is not the embeddings
        fr.fit(load([{"e": row[None], "box": row[:4]} for row in rows]), images)
    # Lists of numbers become columns: eight rows of eight numbers look like their transpose.
    with pytest.raises(InputError, match="8 arrays of one dimension"):
        fr.fit(load(text.tolist()), images)
    with pytest.raises(InputError, match="chunk 1: None"):
        fr.fit([text, None], images)


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def test_the_estimator_takes_them_too(sides):
    lib("sklearn")
    torch, pa = lib("torch"), lib("pyarrow")
    text, images = sides
    right = fr.ReAlign(target=images).fit(text)
    negated = torch.complex(torch.zeros(N, D), torch.from_numpy(-text)).conj().imag.as_subclass(subclass())
    for x in (
        negated,
        torch.from_numpy(text).requires_grad_(),
        list(text),
        pa.array(text.tolist(), pa.list_(pa.float32())),
        pandas(text, "series"),
        pandas(text, "").to_numpy(),
        Space.Array(text),
    ):
        found = fr.ReAlign(target=images).fit(x)
        assert found.alignment_.fingerprint == right.alignment_.fingerprint
        np.testing.assert_array_equal(found.transform(x), right.transform(text))
        assert fr.ReAlign(target=x).fit(images).alignment_.fingerprint == fr.fit(images, text).fingerprint


def test_is_tensor_imports_nothing():
    program = "import sys, numpy, fastrealign as fr; from fastrealign.core.tensors import is_tensor\n"
    program += "fr.fit(numpy.eye(4), 1 + numpy.eye(4)); assert not is_tensor(3); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
    assert not is_tensor(np.eye(3))
