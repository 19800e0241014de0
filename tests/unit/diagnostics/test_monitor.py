"""The monitor on streams of pairs whose biases, angles and gradients are chosen; its log, its callback, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.core.errors import BadRowsError, FastRealignError, InputError
from fastrealign.diagnostics import Frame, GapMonitor
from fastrealign.formats.saved_tensors import save_tensors
from fastrealign.methods.moments import Moments
from fastrealign.storage.append_log import FileLog, open_briefly

# Rows of each sign that have their residual along axes 2, 3 (of U = 0..3) and 6, 7 (of V = 4..7).
ROWS = {2: 40, 3: 10, 6: 8, 7: 2}


def pairs(basis, beta, gamma):
    """(text, image) of unit rows with m = beta + gamma exactly: half of it, plus and minus residuals at right angles to it."""
    half = (beta + gamma) / 2
    length = np.sqrt(1 - half @ half)
    residual = (
        np.concatenate([sign * np.tile(basis[:, k], (n, 1)) for k, n in ROWS.items() for sign in (1, -1)]) * length
    )
    return -half - residual, half + residual


def turned(basis, plane, angle, length):
    return length * (np.cos(angle) * basis[:, plane[0]] + np.sin(angle) * basis[:, plane[1]])


def rotation(a, b, angle):
    """Turns a towards b, two orthonormal vectors (d,), and leaves the rest."""
    both = np.stack([a, b])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.eye(len(a)) + both.T @ (turn - np.eye(2)) @ both


@pytest.fixture
def basis(orthonormal):
    return orthonormal(8, 8)


def test_biases_drifts_and_stabilities_are_those_chosen(basis):
    monitor = GapMonitor(frame=Frame(basis, 4, 0.9))
    angles = [(0.0, 0.0), (0.3, 0.01), (0.5, 0.03)]
    for step, (phi, psi) in enumerate(angles):
        text, image = pairs(basis, turned(basis, (0, 1), phi, 0.3), turned(basis, (4, 5), psi, 0.4))
        monitor.measure(step, text, image)
    for record, (phi, psi) in zip(monitor.records, angles, strict=True):
        assert (record.rows, record.rank, record.fixed) == (120, 4, True)
        assert (record.gap, record.beta, record.gamma) == pytest.approx((0.5, 0.3, 0.4))
        # Chords of circles.
        assert record.beta_drift == pytest.approx(2 * np.sin(phi / 2), abs=1e-12)
        assert record.gamma_drift == pytest.approx(2 * np.sin(psi / 2), abs=1e-12)
    first, second, third = monitor.records
    assert first.beta_stability is None and first.gamma_stability is None
    assert (second.beta_stability, third.beta_stability) == pytest.approx((np.cos(0.3), np.cos(0.2)))
    assert (second.gamma_stability, third.gamma_stability) == pytest.approx((np.cos(0.01), np.cos(0.02)))


def test_residuals_are_those_chosen(basis):
    text, image = pairs(basis, turned(basis, (0, 1), 0.0, 0.3), turned(basis, (4, 5), 0.7, 0.4))
    record = GapMonitor(frame=Frame(basis, 4, 0.9)).measure(0, text, image)
    # D - m is twice the residual of a row, whose square is 1 - |m|^2/4; axes share it as they share the rows.
    total = 4 * (1 - 0.25 / 4)
    assert record.residual_u == pytest.approx(total * 50 / 60) and record.residual_v == pytest.approx(total * 10 / 60)
    assert (record.kappa_u.value, record.kappa_u.kept) == (pytest.approx(40 / 10), 2)
    assert (record.kappa_v.value, record.kappa_v.kept) == (pytest.approx(8 / 2), 2)
    assert record.angle == pytest.approx(np.pi / 2)  # gamma lies in axes 4 and 5, v1 is axis 6
    assert record.coupling.norm == pytest.approx(0, abs=1e-9)  # no row has a residual in both
    assert record.energy == pytest.approx(50 / 60)
    assert record.gradient is None and record.leakage_bound is None


def test_any_rows_give_what_their_projections_give(spherical, orthonormal, rng):
    basis, rank = orthonormal(7, 7), 3
    text, image = spherical(300, 7), spherical(300, 7)
    frame = Frame(basis, rank, 0.9)
    record = GapMonitor(frame=frame).measure(5, text, image)
    difference, in_u, in_v = image - text, basis[:, :rank] @ basis[:, :rank].T, basis[:, rank:] @ basis[:, rank:].T
    m = difference.mean(axis=0)
    np.testing.assert_allclose(record.mean, m, atol=1e-12)
    assert (record.beta, record.gamma) == pytest.approx((np.linalg.norm(in_u @ m), np.linalg.norm(in_v @ m)))
    _, singular, axes = np.linalg.svd((difference - m) @ in_v)
    v1, gamma = axes[0], in_v @ m
    assert record.kappa_v.value == pytest.approx((singular[0] / singular[7 - rank - 1]) ** 2)
    assert np.cos(record.angle) == pytest.approx(abs(v1 @ gamma) / np.linalg.norm(gamma))


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.2, 1.1])
def test_the_frame_is_kept_while_the_rows_turn(basis, angle):
    beta, gamma = turned(basis, (2, 3), 0.4, 0.0), turned(basis, (4, 5), 0.0, 0.6)
    text, image = pairs(basis, beta, gamma)
    monitor = GapMonitor(energy=0.8, every=5)  # axes 2 and 3 hold 50 of 60 parts
    monitor.measure(0, text, image)
    assert monitor.frame.rank == 2
    np.testing.assert_allclose(np.abs(monitor.frame.U.T @ basis[:, 2:4]), np.eye(2), atol=1e-12)
    turn = rotation(basis[:, 3], basis[:, 4], angle)  # U's second axis towards gamma and gamma towards U
    record = monitor.measure(5, text @ turn.T, image @ turn.T)
    assert record.sin_theta == pytest.approx(np.sin(angle), abs=1e-12)
    assert record.rms_sin == pytest.approx(np.sin(angle) / np.sqrt(2), abs=1e-12)  # one of two directions turned
    assert (record.beta, record.gamma) == pytest.approx((0.6 * np.sin(angle), 0.6 * np.cos(angle)), abs=1e-12)
    assert record.gamma_drift == pytest.approx(1 - np.cos(angle), abs=1e-12)
    assert record.energy == pytest.approx((40 + 10 * np.cos(angle) ** 2) / 60)


def test_before_the_frame_is_fixed_each_record_is_in_its_own(basis, rng):
    text, image = pairs(basis, 0.3 * basis[:, 0], 0.4 * basis[:, 4])
    monitor = GapMonitor(frame_at=15, every=10, energy=0.8)
    for step in (0, 10, 20, 30):
        turn = rotation(basis[:, 3], basis[:, 7], 0.3 * step)
        monitor.measure(step, text @ turn.T, image @ turn.T)
    before, also, at, after = monitor.records
    assert [r.fixed for r in monitor.records] == [False, False, True, True]
    assert [r.sin_theta for r in (before, also, at)] == pytest.approx([0, 0, 0], abs=1e-12)
    assert after.sin_theta == pytest.approx(abs(np.sin(0.3 * 10)))
    assert before.gamma_drift is None and also.gamma_drift is None and at.gamma_drift == 0


def linear(image_gradient, text_gradient):
    """A loss with these gradients, whatever the rows are."""
    torch = pytest.importorskip("torch")
    ones, others = torch.tensor(image_gradient), torch.tensor(text_gradient)
    return lambda image, text: (image * ones).sum() + (text * others).sum()


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2])
def test_gradients_in_a_turned_subspace_leak_no_more_than_its_angle(basis, rng, angle):
    text, image = pairs(basis, 0.3 * basis[:, 0], 0.4 * basis[:, 4])
    turn = rotation(basis[:, 2], basis[:, 7], angle)
    inside = turn @ basis[:, [2, 3]]
    a, b = (rng.standard_normal((len(text), 2)) @ inside.T for _ in range(2))
    frame = Frame(basis[:, [2, 3, 0, 1, 4, 5, 6, 7]], 2, 0.9)
    record = GapMonitor(frame=frame, loss=linear(a, b)).measure(0, text, image)
    spread = record.gradient
    assert spread.leakage <= record.leakage_bound == record.sin_theta + record.coupling.norm + spread.outside
    assert spread.sin_theta == pytest.approx(np.sin(angle), abs=1e-9)
    assert (spread.concentration_image, spread.concentration_text) == (
        pytest.approx(D.vmf_concentration(a), rel=1e-3),
        pytest.approx(D.vmf_concentration(b), rel=1e-3),
    )
    assert spread.leakage <= spread.sin_theta + 1e-12
    along = GapMonitor(frame=frame, loss=linear(a @ inside[:, :1] * inside[:, 0], 0 * b)).measure(0, text, image)
    assert along.gradient.leakage == pytest.approx(np.sin(angle), abs=1e-9)
    nowhere = GapMonitor(frame=frame, loss=linear(a @ inside @ basis[:, [6, 7]].T, 0 * b)).measure(0, text, image)
    assert nowhere.gradient.leakage == pytest.approx(1)
    # U_t is that of the rows, axes 2 and 3, whatever the gradients do.
    assert along.gradient.outside == pytest.approx(along.gradient.leakage, abs=1e-12)


def test_what_lies_outside_of_the_present_subspace_is_separated_from_its_turn(basis, rng):
    text, image = pairs(basis, 0.3 * basis[:, 0], 0.4 * basis[:, 4])
    turn = rotation(basis[:, 3], basis[:, 7], 0.5)
    gradients = rng.standard_normal((len(text), 1)) * (turn @ basis[:, 3])  # along what axis 3 has become
    frame = Frame(basis[:, [2, 3, 0, 1, 4, 5, 6, 7]], 2, 0.9)
    found = GapMonitor(frame=frame, loss=linear(gradients, 0 * gradients)).measure(0, text @ turn.T, image @ turn.T)
    assert found.gradient.leakage == pytest.approx(np.sin(0.5)) and found.gradient.outside < 1e-9


def test_concentration_of_directions(rng):
    """Against SciPy's maximum likelihood on rows drawn from the distribution; lengths do not count."""
    of = pytest.importorskip("scipy.stats").vonmises_fisher
    for d, kappa in ((3, 5.0), (20, 4.0), (20, 60.0)):
        mean = np.eye(d)[0]
        rows = of(mean, kappa).rvs(3000, random_state=rng) * rng.uniform(0.1, 10, (3000, 1))
        expected = of.fit(rows / np.linalg.norm(rows, axis=1, keepdims=True))[1]
        found = D.vmf_concentration(np.concatenate([rows, np.zeros((500, d))]))
        assert found == pytest.approx(expected, rel=0.05) == pytest.approx(kappa, rel=0.2)
    assert D.vmf_concentration(rng.standard_normal((10_000, 16))) < 0.5
    assert D.vmf_concentration(np.tile([3.0, 4.0], (6, 1))) is None and D.vmf_concentration(np.zeros((6, 2))) is None


def test_correlations_with_the_gradients(basis, rng):
    text, image = pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4])
    n = len(text)
    signs = rng.permuted(np.tile(np.concatenate([np.ones(n // 2), -np.ones(n // 2)]), (4, 1)), axis=1).T
    scales = np.array([0.0, 0.0, np.sqrt(40), np.sqrt(10)])  # as the residual's 40 and 10 rows along axes 2 and 3
    same, swapped = (signs * s @ basis[:, :4].T for s in (scales, scales[[0, 1, 3, 2]]))
    frame = Frame(basis, 4, 0.9)
    found = GapMonitor(frame=frame, loss=linear(same, same)).measure(0, text, image).gradient
    assert found.diagonal_correlation == pytest.approx(1)
    other = GapMonitor(frame=frame, loss=linear(swapped, swapped)).measure(0, text, image).gradient
    # Variances 40, 10 against 10, 40 beside two zeros: the directions differ, the sorted eigenvalues do not.
    assert other.diagonal_correlation == pytest.approx(np.corrcoef([0, 0, 40, 10], [0, 0, 10, 40])[0, 1])
    assert other.eigen_correlation == pytest.approx(found.eigen_correlation)
    assert found.spectral_correlation is None  # two directions with a spread


def test_a_common_push_is_no_part_of_the_covariance(rng):
    a, b = rng.standard_normal((40, 3)), rng.standard_normal((40, 3))
    found = D.gradient_covariance(a + np.array([5, 0, 0]), b - np.array([0, 7, 0]))
    expected = np.cov(a, rowvar=False, bias=True) + np.cov(b, rowvar=False, bias=True)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-12)


def test_infonce_pushes_as_its_formula_says(spherical, rng):
    torch = pytest.importorskip("torch")
    n, batch, scale = 26, 8, torch.tensor(5.0, requires_grad=True)
    image, text = spherical(n, 5), spherical(n, 5)

    def loss(image, text):
        logits = scale * image @ text.T
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(image)))

    with torch.no_grad():  # as in an evaluation loop
        of_image, of_text = D.embedding_gradients(3 * image, torch.tensor(text), loss, batch=batch)
    assert of_image.shape == of_text.shape == (24, 5) and scale.grad is None
    for k in range(3):  # the last two pairs are left over
        here = slice(batch * k, batch * (k + 1))
        p = np.exp(5 * image[here] @ text[here].T)
        p /= p.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(of_image[here], 5 * (p - np.eye(batch)) @ text[here] / batch, atol=1e-12)
        np.testing.assert_allclose(of_text[here], 5 * (p - np.eye(batch)).T @ image[here] / batch, atol=1e-12)


def test_it_measures_when_it_is_due(basis):
    asked = []

    def embed():
        asked.append(True)
        return pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4])

    monitor = GapMonitor(embed, every=4)
    found = [monitor.step(step) for step in range(10)]
    assert [r.step for r in monitor.records] == [0, 4, 8] and len(asked) == 3
    assert [r is not None for r in found] == [step % 4 == 0 for step in range(10)]
    assert json.loads(json.dumps(monitor.to_json()))[2]["kappa_u"]["kept"] == monitor.records[2].kappa_u.kept


@pytest.fixture
def stream(basis):
    """stream(step): rows that turn with the steps."""

    def stream(step):
        text, image = pairs(basis, 0.3 * basis[:, 0], 0.4 * basis[:, 4])
        turn = rotation(basis[:, 3], basis[:, 4], 0.02 * step)
        return text @ turn.T, image @ turn.T

    return stream


def test_a_log_is_resumed_after_a_kill(stream, tmp_path):
    whole = GapMonitor(energy=0.8, frame_at=2)
    for step in range(6):
        whole.measure(step, *stream(step))
    log = tmp_path / "gap.jsonl"
    first = GapMonitor(energy=0.8, frame_at=2, log=log)
    for step in range(4):
        first.measure(step, *stream(step))
    lines = log.read_bytes()
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [0, 1, 2, 3]
    log.write_bytes(lines + lines.splitlines()[0][:100])  # killed while it wrote
    assert D.read_log(log) == first.records
    again = GapMonitor(energy=0.8, frame_at=2, log=log)
    assert again.records == first.records
    for step in (4, 5):
        again.measure(step, *stream(step))
    assert again.records == whole.records == D.read_log(log)
    assert len(log.read_bytes().splitlines()) == 6


def test_a_run_that_went_back_replaces_what_came_after(stream, tmp_path):
    log = tmp_path / "gap.jsonl"
    monitor = GapMonitor(energy=0.8, log=log)
    for step in range(4):
        monitor.measure(step, *stream(step))
    again = GapMonitor(energy=0.8, log=log)
    record = again.measure(2, *stream(7))
    assert [r.step for r in again.records] == [0, 1, 2] and D.read_log(log) == again.records
    assert record.sin_theta == pytest.approx(np.sin(0.14))  # still in the frame of step 0
    restarted = GapMonitor(energy=0.8, log=log)
    assert restarted.measure(0, *stream(3)).sin_theta == pytest.approx(0, abs=1e-12)  # another run, another frame
    assert [r.step for r in D.read_log(log)] == [0]


def test_logs_whose_names_have_a_dot_keep_their_own_frames(stream, tmp_path):
    logs = [tmp_path / name for name in ("gap-lr0.1", "gap-lr0.2", "gap-lr0")]
    monitors = [GapMonitor(energy=0.8, log=log) for log in logs]
    for i, monitor in enumerate(monitors):
        monitor.measure(0, *stream(20 * i))
    for log, monitor in zip(logs, monitors, strict=True):
        assert (tmp_path / f"{log.name}.frame.safetensors").exists()
        np.testing.assert_array_equal(GapMonitor(log=log).frame.basis, monitor.frame.basis)


def test_steps_counted_by_numpy(stream, tmp_path):
    log = tmp_path / "gap.jsonl"
    monitor = GapMonitor(lambda: stream(0), log=log, energy=0.8)
    monitor.step(np.int64(0))
    assert D.read_log(log) == monitor.records and type(monitor.records[0].step) is int


def test_trainers_callback(basis):
    pytest.importorskip("transformers")
    monitor = GapMonitor(lambda: pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4]), every=3)
    callback = D.trainer_callback(monitor)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    callback.on_train_begin(None, state, None, model=None)
    for state.global_step in range(1, 8):
        callback.on_step_end(None, state, None, model=None)
    assert [r.step for r in monitor.records] == [0, 3, 6]
    state.global_step, state.is_world_process_zero = 9, False
    callback.on_step_end(None, state, None)
    assert len(monitor.records) == 3


def test_probes_it_refuses(basis, spherical):
    text, image = pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4])
    monitor = GapMonitor()
    with pytest.raises(InputError, match=r"the monitor needs pairs.*probe images has 120 rows, probe texts 119"):
        monitor.measure(0, text[1:], image)
    with pytest.raises(InputError, match=r"a probe of 8 pairs 8 wide .* 9 at least"):
        monitor.measure(0, text[:8], image[:8])
    with pytest.raises(InputError, match="probe texts: rows are 7 wide, those of probe images 8"):
        monitor.measure(0, text[:, 1:], image)
    broken = image.copy()
    broken[17, 3] = np.nan
    with pytest.raises(BadRowsError, match="probe images: row 17"):
        monitor.measure(0, text, broken)
    with pytest.raises(InputError, match="no spread"):
        monitor.measure(0, np.tile(text[0], (20, 1)), np.tile(image[0], (20, 1)))
    with pytest.raises(InputError, match="texts and images are the same rows, or differ by one vector"):
        monitor.measure(0, text, text)
    assert not monitor.records
    monitor.measure(0, text, image)
    with pytest.raises(InputError, match="rows are 5 wide, the frame is 8"):
        monitor.measure(1, spherical(30, 5), spherical(30, 5))
    late = GapMonitor(frame_at=10)
    late.measure(0, text, image)
    with pytest.raises(InputError, match="rows are 5 wide, those at step 0 were 8"):
        late.measure(1, spherical(30, 5), spherical(30, 5))
    with pytest.raises(InputError, match="rows are 8 wide, the frame is 5"):
        GapMonitor(frame=Frame(np.eye(5), 2, 0.9)).measure(0, text, image)


def test_settings_it_refuses(basis):
    with pytest.raises(InputError, match="every=0"):
        GapMonitor(every=0)
    with pytest.raises(InputError, match=r"energy=1.0"):
        GapMonitor(energy=1.0)
    with pytest.raises(InputError, match="8 of 8 directions"):
        GapMonitor(frame=Frame(basis, 8, 1.0))
    with pytest.raises(InputError, match="without embed="):
        GapMonitor().step(0)
    for wrong in ({"embed": (1, 2)}, {"loss": 0.5}):
        with pytest.raises(InputError, match=r"(embed is a tuple|loss is a float), expected a function"):
            GapMonitor(**wrong)
    with pytest.raises(InputError, match=r"frame is an ndarray, expected a Frame"):
        GapMonitor(frame=basis)
    for spoiled in (basis * np.nan, 2 * basis, basis[:, :5]):
        with pytest.raises(InputError, match="basis of the frame is not orthonormal"):
            GapMonitor(frame=Frame(spoiled, 2, 0.9))
    for step in (1.5, -1, "3", None, True):
        for call in (GapMonitor(lambda: 1 / 0, every=1).step, lambda step: GapMonitor().measure(step, basis, basis)):
            with pytest.raises(InputError, match=r"step=.*: expected a whole number of at least 0"):
                call(step)
    with pytest.raises(InputError, match=r"\(text rows, image rows\)"):
        GapMonitor(lambda: np.zeros((4, 4))).step(0)


def test_losses_it_refuses(basis):
    torch = pytest.importorskip("torch")
    text, image = pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4])
    bad = {
        "rows": lambda image, text: image,
        "a number": lambda image, text: 1.0,
        "one side": lambda image, text: image.sum(),
        "detached": lambda image, text: (image.detach() @ text.detach().T).sum(),
    }
    for loss in bad.values():
        with pytest.raises(InputError, match="one number that depends on both"):
            GapMonitor(loss=loss).measure(0, text, image)
    with pytest.raises(InputError, match="batch of 121 pairs out of a probe of 120"):
        GapMonitor(loss=lambda image, text: torch.sum(image * text), batch=121).measure(0, text, image)


def test_a_log_with_any_bit_flipped_is_refused(stream, tmp_path, rng):
    log = tmp_path / "gap.jsonl"
    GapMonitor(log=log).measure(0, *stream(0))
    line = log.read_bytes()
    for at in rng.integers(0, len(line) - 1, 50):
        spoiled = bytearray(line)
        spoiled[at] ^= 1 << rng.integers(8)
        log.write_bytes(bytes(spoiled))
        with pytest.raises(InputError, match=r"gap.jsonl, line 1: damaged"):
            D.read_log(log)
    value = json.loads(line)
    del value["check"]
    log.write_text(json.dumps(value) + "\n")  # as it was written before there were checksums
    assert [record.step for record in D.read_log(log)] == [0]


def test_logs_it_refuses(stream, tmp_path):
    other = tmp_path / "notes.jsonl"
    other.write_text('{"step": 3}\n')
    for read in (D.read_log, lambda log: GapMonitor(log=log)):
        with pytest.raises(InputError, match=r"notes.jsonl, line 1: damaged, or no record of a gap monitor"):
            read(other)
    assert other.read_text() == '{"step": 3}\n'
    log = tmp_path / "gap.jsonl"
    GapMonitor(log=log).measure(0, *stream(0))
    frame = tmp_path / "gap.jsonl.frame.safetensors"
    for energy in (0.6, 0.95):  # the second frame has as many directions
        GapMonitor(energy=energy, log=tmp_path / f"{energy}.jsonl").measure(0, *stream(30))
        shutil.copy(tmp_path / f"{energy}.jsonl.frame.safetensors", frame)
        with pytest.raises(
            InputError, match=r"gap.jsonl.frame.safetensors: the records of .* are in another frame; choose another log"
        ):
            GapMonitor(log=log)
    frame.unlink()
    with pytest.raises(InputError, match=r"gap.jsonl.frame.safetensors: no such file"):
        GapMonitor(log=log)
    with pytest.raises(InputError, match=r"could not be written: there is no folder .*nowhere; make it"):
        GapMonitor(log=tmp_path / "nowhere" / "gap.jsonl")
    with pytest.raises(InputError, match="is a folder, expected a file for the log"):
        GapMonitor(log=tmp_path)
    for wrong in ("", 5, "memory://bucket/gap.jsonl"):
        with pytest.raises(InputError, match=r"log=.*: expected the path of a file on this machine"):
            GapMonitor(log=wrong)
    record = GapMonitor(energy=0.8, log=tmp_path / "third.jsonl").measure(0, *stream(0))
    tensors = {"basis": np.full((8, 8), np.nan)}
    about = {"kind": "frame", "rank": record.rank, "energy": record.energy}
    save_tensors(tmp_path / "third.jsonl.frame.safetensors", tensors, about)
    with pytest.raises(
        InputError, match=r"third.jsonl.frame.safetensors: no frame: its directions are not orthonormal"
    ):
        GapMonitor(log=tmp_path / "third.jsonl")


@pytest.mark.parametrize("name", ["gap.jsonl.frame.safetensors", "gap.jsonl.frame.new.safetensors"])
def test_a_saved_file_of_another_kind_is_not_replaced_by_a_frame(stream, tmp_path, name):
    saved = tmp_path / name
    Moments(8).save(saved)
    before = saved.read_bytes()
    with pytest.raises(InputError, match=r"frame.*safetensors: holds moments, expected frame"):
        GapMonitor(log=tmp_path / "gap.jsonl").measure(0, *stream(0))
    assert saved.read_bytes() == before


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_while_the_frame_is_fixed(stream, tmp_path, monkeypatch, earlier, written):
    """Before the line of its record is written, or after it; the first time, or in a run that went back to step 0."""
    log = tmp_path / "gap.jsonl"
    if earlier:
        before = GapMonitor(energy=0.8, log=log)
        for step in range(3):
            before.measure(step, *stream(step))
    monitor, append = GapMonitor(energy=0.8, log=log), FileLog.append

    def killed(self, line):
        if written:
            append(self, line)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FileLog, "append", killed)
        monitor.measure(0, *stream(9))
    again, whole = GapMonitor(energy=0.8, log=log), GapMonitor(energy=0.8)
    for step in range(3 if earlier and not written else int(written)):
        whole.measure(step, *stream(9 if written else step))
    assert again.records == whole.records
    assert not (tmp_path / "gap.jsonl.frame.new.safetensors").exists()
    for step in (3, 4):
        assert again.measure(step, *stream(step)) == whole.measure(step, *stream(step))
    resumed = GapMonitor(energy=0.8, log=log)
    assert resumed.records == whole.records
    np.testing.assert_array_equal(resumed.frame.basis, whole.frame.basis)


def test_the_frame_cannot_get_its_name(stream, tmp_path, monkeypatch):
    """The record is in the log by then: the monitor has it, too, and the next one ends what was begun."""
    log = tmp_path / "gap.jsonl"
    monitor = GapMonitor(energy=0.8, log=log)

    def refused(self, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(FastRealignError) as caught:
        patch.setattr(type(log), "replace", refused)
        monitor.measure(0, *stream(0))
    assert re.search(
        r"gap\.jsonl\.frame\.safetensors: could not be written: Permission denied; .*the log", str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert len(monitor.records) == 1 and monitor.records == D.read_log(log) and monitor.frame is not None
    monitor.measure(1, *stream(1))
    again, whole = GapMonitor(energy=0.8, log=log), GapMonitor(energy=0.8)
    for step in range(2):
        whole.measure(step, *stream(step))
    assert again.records == monitor.records == whole.records
    np.testing.assert_array_equal(again.frame.basis, whole.frame.basis)


def test_two_monitors_do_not_write_one_log(stream, tmp_path):
    """Of several processes one measures; a second one is told so before anything of the first is replaced."""
    log, frame = tmp_path / "gap.jsonl", tmp_path / "gap.jsonl.frame.safetensors"
    changed = r"gap.jsonl: has changed since this monitor wrote to it, .*; let one process measure"
    first, second = GapMonitor(energy=0.8, log=log), GapMonitor(energy=0.8, log=log)
    first.measure(3, *stream(0))
    before = log.read_bytes(), frame.read_bytes()
    with pytest.raises(FastRealignError, match=changed):
        second.measure(0, *stream(1))
    assert (log.read_bytes(), frame.read_bytes()) == before and not second.records and second.frame is None
    third = GapMonitor(energy=0.8, log=log)
    held, fixed = third.records, third.frame
    assert first.measure(4, *stream(2)).step == 4 and [record.step for record in D.read_log(log)] == [3, 4]
    before = log.read_bytes(), frame.read_bytes()
    with pytest.raises(FastRealignError, match=changed):
        third.measure(0, *stream(1))
    assert (log.read_bytes(), frame.read_bytes()) == before and len(held) == 1
    assert third.records == held and third.frame is fixed


def test_a_log_waits_for_a_process_that_holds_it_for_a_moment(stream, tmp_path):
    log = tmp_path / "gap.jsonl"
    GapMonitor(log=log).measure(0, *stream(0))
    opened: list[GapMonitor] = []
    opening = threading.Thread(target=lambda: opened.append(GapMonitor(log=log)), daemon=True)
    with open_briefly(log):
        opening.start()
        time.sleep(0.2)
        assert not opened
    opening.join(60)
    assert len(opened[0].records) == 1


def test_a_line_that_could_not_be_written_or_removed_is_cut_off_later(stream, tmp_path, monkeypatch):
    log = tmp_path / "gap.jsonl"
    monitor = GapMonitor(energy=0.8, log=log)
    monitor.measure(0, *stream(0))
    before, write = log.read_bytes(), os.write

    def full(fd, data):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[: len(data) // 2])

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(FastRealignError, match=r"gap.jsonl: could not be written: No space left on device"):
            monitor.measure(1, *stream(1))
    assert log.read_bytes() != before and log.read_bytes().startswith(before)
    monitor.measure(1, *stream(1))
    assert [record.step for record in monitor.records] == [0, 1] and D.read_log(log) == monitor.records


def test_a_log_that_cannot_be_opened(tmp_path):
    log = tmp_path / "gap.jsonl"
    log.symlink_to(tmp_path / "nowhere" / "gap.jsonl")
    with pytest.raises(FastRealignError, match=r"gap.jsonl: could not be written: .*; choose another log$"):
        GapMonitor(log=log)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk(stream, tmp_path):
    log = tmp_path / "gap.jsonl"
    log.symlink_to("/dev/full")
    monitor = GapMonitor(log=log)
    with pytest.raises(FastRealignError, match=r"gap.jsonl: could not be written: No space left on device"):
        monitor.measure(0, *stream(0))
    assert not monitor.records


def test_numbers_go_to_a_tracker(basis, tmp_path):
    seen = []
    monitor = GapMonitor(
        lambda: pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4]), every=3, log=tmp_path / "gap.jsonl"
    )
    monitor.report = seen.append
    for step in range(7):
        monitor.step(step)
    assert [values["gap/step"] for values in seen] == [0, 3, 6]
    first, last = seen[0], monitor.records[-1]
    assert (seen[-1]["gap/gap"], seen[-1]["gap/coupling/norm"]) == (last.gap, last.coupling.norm)
    assert "gap/beta_stability" not in first and "gap/fixed" not in first and "gap/mean" not in first
    assert all(type(value) in (int, float) for value in seen[-1].values())


def test_numbers_go_where_a_trainer_reports(basis, tmp_path):
    """Trainer.log hands them to the callbacks of its trackers, in place of which one that records stands here."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    seen = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append((state.global_step, logs))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            return {"loss": (self.weight * x).sum()}

    monitor = GapMonitor(lambda: pairs(basis, 0.2 * basis[:, 0], 0.2 * basis[:, 4]), every=2)
    how = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    data = [{"x": torch.ones(2)}] * 64
    trainer = transformers.Trainer(Model(), how, train_dataset=data, callbacks=[Tracker(), D.trainer_callback(monitor)])
    monitor.report = trainer.log
    trainer.train()
    gaps = [(step, logs["gap/step"], logs["gap/gap"]) for step, logs in seen if "gap/gap" in logs]
    assert gaps == [(r.step, r.step, r.gap) for r in monitor.records] and [step for step, *_ in gaps] == [0, 2, 4]
