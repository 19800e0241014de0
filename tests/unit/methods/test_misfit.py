"""Rows that an alignment does not fit: detected by the gap that is left of them, and never of few rows, or a part of them."""

from __future__ import annotations

import contextlib
import copy
import pickle
import warnings

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import FitWarning
from fastrealign.methods.baselines import METHODS, fit_baseline
from fastrealign.methods.input_checks import FirstRows
from fastrealign.methods.misfit import LeftGap

D = 12


@pytest.fixture
def sides(rng):
    """sides(n): texts and images with a gap, of the same two populations at every call."""
    centre = rng.standard_normal(D)
    centres = centre / np.linalg.norm(centre) * 2.0 * np.array([[1.0], [-0.8]])

    def sides(n):
        return [(centre + rng.standard_normal((n, D))).astype(np.float32) for centre in centres]

    return sides


@pytest.fixture
def fitted(sides):
    return fr.fit(*sides(4000))


def warned(call):
    """The FitWarnings of a call, as text."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FitWarning)
        call()
    return [str(one.message) for one in said if issubclass(one.category, FitWarning)]


def applied(fitted, rows, folder, **options):
    np.save(folder / "rows.npy", rows)
    return warned(lambda: fr.apply_files(fitted, folder / "rows.npy", folder / "out.npy", overwrite=True, **options))


def test_rows_of_its_kind_pass_however_few(sides, fitted, tmp_path):
    for n in (1, 2, 10, 100, 3000):
        for _ in range(5):
            assert applied(fitted, sides(n)[0], tmp_path) == []


def test_images_and_rows_aligned_before_are_reported(sides, fitted, tmp_path):
    text, image = sides(1000)
    for rows in (image, fitted(text)):
        (said,) = applied(fitted, rows, tmp_path)
        assert "`fastrealign check ALIGNMENT SOURCE`" in said and "\n" not in said
        left = np.linalg.norm(fitted(rows).astype(np.float64).mean(axis=0) - fitted.mean_target)
        assert (
            f"leaves a gap of {left:.3g} here ({fitted.gap_left:.2g} where it was fitted, {fitted.gap_before:.3g}"
            in said
        )


def test_the_advice_works(sides, fitted, tmp_path, capfd):
    """What apply warns of does not hold for check, and what holds is not warned of; on the command line alike."""
    fitted.save(tmp_path / "a.safetensors")
    for rows, code in zip(sides(1000), (0, 3), strict=True):
        np.save(tmp_path / "rows.npy", rows)
        paths = [str(tmp_path / name) for name in ("a.safetensors", "rows.npy")]
        assert main(["apply", *paths, "--out", str(tmp_path / "out.npy"), "--overwrite"]) == 0
        assert ("fastrealign: warning: " in capfd.readouterr().err) == (code == 3)
        assert main(["check", *paths]) == code
        capfd.readouterr()


def test_a_fit_on_few_rows_is_as_uncertain_as_the_rows(sides, tmp_path):
    """Its own sampling error is no misfit, of whatever number of rows it shows."""
    for _ in range(10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            few = fr.fit(*sides(20))
        assert applied(few, sides(3000)[0], tmp_path) == []


@pytest.mark.parametrize("options", [{"centroid": "exact"}, {"one_pass": True}, {"tol": 0.2}])
def test_other_fits(sides, tmp_path, options):
    found = fr.fit(*sides(4000), **options)
    text, image = sides(1000)
    assert applied(found, text, tmp_path) == [] and len(applied(found, image, tmp_path)) == 1


def test_an_alignment_brought_up_to_date_does_not_know_its_gap(sides, fitted, tmp_path):
    found = fr.update(fitted, sides(1000)[0])
    text, image = sides(1000)
    assert applied(found, text, tmp_path) == []
    (said,) = applied(found, image, tmp_path)
    assert "nan" not in said


def test_methods_that_leave_a_gap_by_nature_say_nothing(sides, tmp_path):
    text, image = sides(500)
    for name in METHODS:
        if not name.startswith("realign"):
            assert applied(fit_baseline(name, text, image), image, tmp_path) == []


def test_rows_kept_as_they_came_do_not_count(sides, fitted, tmp_path):
    rows = np.zeros((4000, D), np.float32)
    rows[:3] = sides(3)[1]
    for bad_rows in ("keep", "skip"):
        assert applied(fitted, rows, tmp_path, bad_rows=bad_rows) == []
    assert applied(fitted, rows[5:], tmp_path, bad_rows="keep") == []


def test_sorted_shards_are_reported_of_together(sides, fitted, tmp_path):
    """Each of them, and the last of a run that is resumed, has a mean of its own."""
    text, _ = sides(8000)
    ordered = text[np.argsort(text[:, 0])]
    source = corpus.npy_folder(tmp_path / "text", np.split(ordered, 8))
    assert len(applied(fitted, ordered[:1000], tmp_path)) == 1  # which it does not fit, indeed
    assert warned(lambda: fr.apply_files(fitted, source, tmp_path / "out")) == []
    assert warned(lambda: fr.apply_files(fitted, source, tmp_path / "out", resume=True)) == []


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_a_module_tells_once_of_images(torch, sides, fitted):
    text, image = (torch.from_numpy(rows) for rows in sides(2048))
    layer = fr.nn.ReAlign(fitted)
    assert warned(lambda: [layer(part) for part in text.split(64)]) == []
    assert layer._in_training.until  # it has seen enough for now
    layer = fr.nn.ReAlign(fitted)
    (said,) = warned(lambda: [layer(part.half()) for part in image.split(64)])
    assert "the first batches of nn.ReAlign, 512 rows" in said and "fastrealign check" in said
    assert warned(lambda: fr.nn.ReAlign(fitted)(image[:511])) == []


def test_a_module_checks_again_in_eval_mode(torch, sides, fitted):
    """However many rows it saw in training, and whatever it knows of its fit; but not text."""
    text, image = (torch.from_numpy(rows) for rows in sides(1024))
    layer, moving = fr.nn.ReAlign(fitted), fr.nn.ReAlign(fitted, every=1)
    for rows in text.split(512):
        moving.update(rows)
    loaded, unknown = fr.nn.ReAlign(dim=D), fr.nn.ReAlign(dim=D)
    loaded.load_state_dict(layer.state_dict())
    for one in (layer, moving, loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert warned(lambda one=one: one(text)) == []
        model = torch.nn.Sequential(one, torch.nn.Linear(D, 2))
        for _ in range(2):  # a switch each
            model.train()
            assert warned(lambda one=one: one(text[:100])) == []
            model.eval()
            (said,) = warned(lambda model=model: [model(part) for part in image.split(16)])
            assert "rows of nn.ReAlign in eval mode lie at the target already" in said
            assert "call the model on them without this layer" in said and "\n" not in said
            assert warned(lambda model=model: [model.eval()(image[:31]), model.train()]) == []
            assert warned(lambda model=model: model.eval()(text)) == []
    assert warned(lambda: unknown.eval()(image)) == []
    frozen = fr.nn.ReAlign(fitted).eval()  # in eval mode from the beginning
    assert warned(lambda: frozen(text)) == [] and len(warned(lambda: frozen.eval()(fitted(text)))) == 1


def test_a_loop_that_switches_at_every_step_pays_a_hundred_times(torch, sides, fitted, monkeypatch):
    looks, look = [], FirstRows.look
    monkeypatch.setattr(FirstRows, "look", lambda self, *given: looks.append(1) or look(self, *given))
    layer, text = fr.nn.ReAlign(fitted), torch.from_numpy(sides(64)[0])
    for _ in range(116):
        layer.train().eval()(text)
    assert len(looks) == 100
    for _ in range(1 + 32):  # from then on as a module that stays in eval mode
        layer.train().eval()(text)
    assert len(looks) == 101


@pytest.mark.parametrize("mode", ["training", "eval"])
def test_images_after_many_texts_are_found(torch, sides, fitted, mode):
    """By the time that as many images came as texts, in calls of one row and of more; and texts alone are no reason."""
    text, image = (torch.from_numpy(rows) for rows in sides(4096))
    for size in (1, 64):
        layer = fr.nn.ReAlign(fitted).train(mode == "training")
        assert warned(lambda layer=layer, size=size: [layer(part) for part in text.split(size)]) == []
        (said,) = warned(lambda layer=layer, size=size: [layer(part) for part in image.split(size)])
        assert f"rows of nn.ReAlign in {mode} mode lie at the target already" in said


@pytest.mark.parametrize("mode", ["training", "eval"])
def test_images_are_found_after_a_warning_of_nan(torch, sides, fitted, mode):
    text, image = (torch.from_numpy(rows) for rows in sides(2048))
    text[5] = torch.nan
    layer = fr.nn.ReAlign(fitted).train(mode == "training")
    (first,) = warned(lambda: [layer(part) for part in text.split(64)])
    (second,) = warned(lambda: [layer(part) for part in image.split(64)])
    assert "hold NaN or Inf" in first and "lie at the target already" in second


def test_rows_of_one_look_may_come_from_two_devices(torch, fitted):
    """Where a layer moves before there are enough, and of replicas of one layer."""
    from torch._subclasses import FakeTensorMode

    for measure in (None, LeftGap(fitted)):
        first = FirstRows("x", 512, measure)
        with FakeTensorMode():
            try:
                for device in ("cuda:0", "cuda:1", "cpu"):
                    assert not first.look(torch.ones(4, D, device=device), 4)
            except RuntimeError as error:
                if "driver version is insufficient" not in str(error):
                    raise
                pytest.skip("fake tensors of CUDA ask torch 2.6 for a driver")


def test_few_rows_after_each_switch_add_up(torch, sides, fitted):
    image = torch.from_numpy(sides(64)[1])
    layer = fr.nn.ReAlign(fitted)
    switches = [warned(lambda part=part: layer.train().eval()(part)) for part in image.split(16)]
    assert [len(said) for said in switches] == [0, 0, 0, 1]


def test_a_warning_names_the_callers_line(torch, sides, fitted):
    """Not a line of torch or scikit-learn, which call a module and an estimator."""
    text, image = sides(100)
    model = torch.nn.Sequential(fr.nn.ReAlign(fitted)).eval()
    calls = [lambda: model(torch.from_numpy(image)), lambda: fitted(image)]
    with contextlib.suppress(ImportError):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        whole = make_pipeline(fr.ReAlign(target=image), StandardScaler()).fit(text)
        calls.append(lambda: whole.transform(image))
    for call in calls:
        with pytest.warns(FitWarning) as said:
            call()
        assert [one.filename for one in said] == [__file__]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_module_tells_once_of_nan(torch, sides, fitted, value):
    text, _ = (torch.from_numpy(rows) for rows in sides(1024))
    text[5, 3] = text[7] = value
    text[9] = 0.0
    loaded = fr.nn.ReAlign(dim=D)
    loaded.load_state_dict(fr.nn.ReAlign(fitted).state_dict())
    layers = [fr.nn.ReAlign(fitted), loaded, fr.nn.as_module(fit_baseline("mean-shift", *sides(100)))]
    for layer in layers:
        (said,) = warned(lambda layer=layer: [layer(part) for part in text.split(64)])
        assert f"the first batches of nn.{type(layer).__name__}: 2 of 512 rows hold NaN or Inf" in said
    kept = text[text.isfinite().all(-1)]
    assert warned(lambda: [fr.nn.ReAlign(fitted)(part) for part in kept.split(64)]) == []
    (said,) = warned(lambda: fr.nn.ReAlign(fitted).eval()(text.view(64, 16, D)))
    assert "in eval mode: 2 of 1,024 rows hold NaN or Inf" in said


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_on_images_or_aligned_rows_is_reported(sides, fitted):
    text, image = sides(5000)
    aligned = fitted(text)
    for rows in (image, aligned, image[:64], image.astype(np.float16), np.asfortranarray(image), image[::2]):
        (said,) = warned(lambda rows=rows: fitted(rows))
        assert "the rows of this call lie at the target already" in said and "\n" not in said
    assert len(warned(lambda: fitted(image, noise=0.5))) == 1
    assert len(warned(lambda: fitted(image.copy(), out=image.copy()))) == 1
    assert warned(lambda: [fitted(text), fitted(text[:64]), fitted(image[:63]), fitted(image[0])]) == []
    topic = text[np.argsort(text[:, 0])]
    assert warned(lambda: [fitted(topic[lo : lo + 64]) for lo in range(0, 5000, 500)]) == []
    text[::2] = 0.0
    assert warned(lambda: fitted(text, bad_rows="keep")) == []


def test_a_call_on_images_in_other_arrays(torch, sides, fitted):
    image = sides(100)[1]
    for rows in (torch.from_numpy(image), torch.from_numpy(image).bfloat16(), image.tolist()):
        assert len(warned(lambda rows=rows: fitted(rows))) == 1


def test_small_calls_are_checked_a_hundred_times(sides, fitted):
    text, image = sides(65536)
    for _ in range(100):
        fitted(text[:64])
    assert warned(lambda: fitted(image[:64])) == []
    assert len(warned(lambda: fitted(image))) == 1


def test_calls_without_a_gap_say_nothing(sides):
    text, image = sides(1000)
    same = fr.fit(text, text.copy()[::-1] + np.float32(1e-3))
    assert warned(lambda: [same(text), same(image)]) == []


def test_tokens_of_one_text_are_one_item(torch, sides, fitted):
    """Whose mean is that of one text."""
    layer = fr.nn.ReAlign(fitted)
    assert warned(lambda: layer(torch.from_numpy(sides(1000)[1]).reshape(10, 100, D))) == []
    assert layer._in_training.first is not None


def test_looking_changes_nothing_else(torch, sides, fitted):
    rows = torch.from_numpy(sides(600)[0]).requires_grad_()
    layer, blind = fr.nn.ReAlign(fitted), fr.nn.ReAlign(fitted)
    blind._in_training.until = 9
    results = []
    for one in (layer, blind):
        out = one(rows)
        (gradient,) = torch.autograd.grad(out.pow(3).sum(), rows)
        results.append((out.detach(), gradient))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert list(layer.state_dict()) == list(blind.state_dict()) and not list(layer.parameters())


def test_a_compiled_module_looks_at_nothing(torch, sides, fitted):
    image = torch.from_numpy(sides(600)[1])
    layer = fr.nn.ReAlign(fitted)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert warned(lambda: compiled(image)) == [] and layer._in_training.first is not None
    torch.testing.assert_close(compiled(image), layer(image.clone()))
    exported = torch.export.export(fr.nn.ReAlign(fitted), (image,)).module()
    torch.testing.assert_close(exported(image), layer(image))


def test_tensors_without_values_are_not_looked_at(torch, sides, fitted):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        fr.nn.ReAlign(fitted)(torch.ones(600, D))
    traced = torch.jit.trace(fr.nn.ReAlign(fitted), torch.from_numpy(sides(600)[0]))
    assert "fastrealign::apply" in str(traced.graph) and "square" not in str(traced.graph)


def test_modes_of_torch_may_change_between_batches(torch, sides, fitted):
    layer, image = fr.nn.ReAlign(fitted), torch.from_numpy(sides(600)[1])
    with torch.inference_mode():
        layer(image[:300])
    assert len(warned(lambda: layer(image[300:].clone().requires_grad_()))) == 1


def test_copies_and_other_states_are_not_looked_at(torch, sides, fitted, tmp_path):
    """What they were fitted on is not known any more."""
    image = torch.from_numpy(sides(600)[1])
    loaded, moving = fr.nn.ReAlign(fitted), fr.nn.ReAlign(fitted)
    loaded.load_state_dict(fr.nn.ReAlign(fitted).state_dict())
    moving.update(image)
    for layer in (loaded, moving, copy.deepcopy(fr.nn.ReAlign(fitted)), fr.nn.ReAlign(dim=D)):
        assert warned(lambda layer=layer: layer(image)) == []


def test_rows_without_a_direction_do_not_count(torch, sides, fitted):
    text, image = (torch.from_numpy(rows) for rows in sides(600))
    text[::2], image[::3] = 0.0, torch.nan
    assert warned(lambda: fr.nn.ReAlign(fitted)(text)) == []
    misfit, not_finite = sorted(warned(lambda: fr.nn.ReAlign(fitted)(image)))
    assert "leaves a gap" in misfit and "171 of 512 rows hold NaN" in not_finite


def test_no_rows_with_a_direction(torch, fitted):
    assert warned(lambda: FirstRows("x", 512, LeftGap(fitted)).look(torch.zeros(600, D), 600)) == []
