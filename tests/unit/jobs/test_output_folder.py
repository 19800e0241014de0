"""What a run may write to, what it resumes, and what it never touches."""

from __future__ import annotations

import errno
import os
import re
import threading

import corpus
import numpy as np
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.formats import open_source
from fastrealign.formats.manifest import JOURNAL
from fastrealign.jobs import align_jobs
from fastrealign.jobs.journal import Journal
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.methods.alignment import Alignment
from fastrealign.storage import append_log, system
from fastrealign.storage.append_log import check_not_held
from fastrealign.storage.records import sealed


def refused(call, *pieces: str) -> str:
    with pytest.raises(fr.InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for piece in pieces:
        assert piece in message, message
    return message


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path, shards=5)


@pytest.fixture
def unfinished(tmp_path, sides):
    """An output whose run was stopped after two of five shards."""
    out = tmp_path / "out"
    with pytest.raises(
        fr.FastRealignError, match=r"the disk is full; 2 of 5 shards are complete, resume with resume=True"
    ):
        fr.align(*sides, out, threads=1, progress=StopAfter(2 * 60))
    return out


def test_the_output_of_an_unfinished_run_is_no_input(unfinished):
    said = refused(
        lambda: open_source(unfinished, side="source"),
        f"{unfinished}: holds an unfinished run, so rows are missing; repeat its command with resume=True",
    )
    pattern = said.rpartition(" with ")[2]
    assert len(open_source(pattern, side="source").shards) == 2
    side = unfinished / "text_emb"  # of a clip-retrieval folder
    side.mkdir()
    (unfinished / "part_0.npy").rename(side / "text_emb_0.npy")
    with pytest.raises(InputError, match=f"{unfinished}: holds an unfinished run"):
        open_source(side, side="source")
    (unfinished / JOURNAL).unlink()
    assert len(open_source(side, side="source").shards) == 1


def test_an_unfinished_run_says_so_and_holds_no_halves(unfinished):
    # The alignment is there for the run to resume with; what has no manifest is not complete.
    assert sorted(corpus.tree(unfinished)) == [JOURNAL, "alignment.safetensors", "part_0.npy", "part_1.npy"]


def test_resume_ends_in_the_same_bytes(tmp_path, sides, unfinished):
    fr.align(*sides, tmp_path / "whole")
    first = (unfinished / "part_0.npy").stat().st_mtime_ns
    report = fr.align(*sides, unfinished, resume=True)
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")
    assert (unfinished / "part_0.npy").stat().st_mtime_ns == first
    assert (report.shards, report.shards_before, report.rows_now) == (5, 2, 180)
    assert "2 of 5 shards were complete before" in str(report)


def test_resume_may_stop_and_resume_again(tmp_path, sides, unfinished):
    fr.align(*sides, tmp_path / "whole")
    with pytest.raises(fr.FastRealignError, match="4 of 5 shards"):
        fr.align(*sides, unfinished, threads=1, resume=True, progress=StopAfter(2 * 60))
    fr.align(*sides, unfinished, resume=True)
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


def test_resume_does_not_fit_again(sides, unfinished):
    phases = []

    class Phases(Progress):
        def start(self, phase, rows, nbytes):
            phases.append(phase)

    fr.align(*sides, unfinished, resume=True, progress=Phases())
    assert phases == ["aligning"]


def test_resume_fits_again_where_the_alignment_is_lost(tmp_path, sides, unfinished):
    fr.align(*sides, tmp_path / "whole")
    (unfinished / "alignment.safetensors").unlink()
    fr.align(*sides, unfinished, resume=True)
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


def test_resume_makes_damaged_shards_again(tmp_path, sides, unfinished):
    fr.align(*sides, tmp_path / "whole")
    (unfinished / "part_1.npy").write_bytes(b"cut short")
    fr.align(*sides, unfinished, resume=True)
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


def test_a_resume_that_is_stopped_after_damage_was_found_resumes_too(tmp_path, sides, unfinished):
    fr.align(*sides, tmp_path / "whole")
    (unfinished / "part_1.npy").unlink()
    with pytest.raises(fr.FastRealignError):
        fr.align(*sides, unfinished, threads=1, resume=True, progress=StopAfter(70))
    fr.align(*sides, unfinished, resume=True)
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


def test_resume_takes_away_temporaries_of_a_killed_run_and_nothing_else(tmp_path, sides, unfinished):
    (unfinished / ".part_3.npy.123.tmp").write_bytes(b"half")
    (unfinished / ".mine.txt.123.tmp").write_bytes(b"mine")
    fr.align(*sides, unfinished, resume=True)
    fr.align(*sides, tmp_path / "whole")
    assert corpus.tree(unfinished) == {**corpus.tree(tmp_path / "whole"), ".mine.txt.123.tmp": b"mine"}


def test_a_journal_cut_off_in_a_line_loses_only_that_line(tmp_path, sides, unfinished):
    journal = unfinished / JOURNAL
    os.truncate(journal, journal.stat().st_size - 10)
    with pytest.warns(UserWarning, match=r"fastrealign-run\.jsonl: 1 damaged line; 2 of the shards .* are done again"):
        assert fr.align(*sides, unfinished, resume=True).shards_before == 0
    fr.align(*sides, tmp_path / "whole")
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "change, named",
    [
        ({"dtype": "float16"}, "dtype was the default, now it is float16"),
        ({"centroid": "exact"}, "centroid was paper, now it is exact"),
    ],
)
def test_resume_names_a_changed_option(sides, unfinished, change, named):
    before = corpus.tree(unfinished)
    refused(lambda: fr.align(*sides, unfinished, resume=True, **change), named, "overwrite=True")
    assert corpus.tree(unfinished) == before


def test_resume_may_treat_bad_rows_another_way_if_there_were_none(sides, unfinished):
    assert fr.align(*sides, unfinished, resume=True, bad_rows="skip").shards_before == 2


@pytest.mark.parametrize("side", [0, 1])
def test_resume_names_a_changed_input(sides, unfinished, side):
    path = sides[side] / "part_4.npy"
    np.save(path, np.load(path) + 1)
    refused(lambda: fr.align(*sides, unfinished, resume=True), ("source", "target")[side], "part_4.npy was changed")


def test_a_touched_input_counts_as_changed(sides, unfinished):
    os.utime(sides[0] / "part_4.npy", ns=(1, 1))
    refused(lambda: fr.align(*sides, unfinished, resume=True), "the source part_4.npy was changed")


def test_resume_names_inputs_that_came_or_went(sides, unfinished):
    path = sides[0] / "part_4.npy"
    path.rename(sides[0] / "part_5.npy")
    refused(lambda: fr.align(*sides, unfinished, resume=True), "the source part_4.npy is gone")
    (sides[0] / "part_5.npy").rename(path)
    np.save(sides[0] / "part_6.npy", np.load(path))
    refused(lambda: fr.align(*sides, unfinished, resume=True), "the source part_6.npy was not there")


def test_resume_names_the_other_command(sides, unfinished):
    alignment = fr.load(unfinished / "alignment.safetensors")
    refused(lambda: fr.apply_files(alignment, sides[0], unfinished, resume=True), "it was made by align, not by apply")


def test_an_apply_resumes_after_a_shard_that_was_not_yet_done_was_repaired(tmp_path, sides):
    text, image = sides
    alignment = fr.fit(text, image)
    good = (text / "part_3.npy").read_bytes()
    bad = np.load(text / "part_3.npy")
    bad[7] = np.nan
    np.save(text / "part_3.npy", bad)
    with pytest.raises(fr.BadRowsError, match=r"part_3\.npy: row 7 has a NaN or Inf.*3 of 5 shards are complete"):
        fr.apply_files(alignment, text, tmp_path / "out", threads=1)
    (text / "part_3.npy").write_bytes(good)
    assert fr.apply_files(alignment, text, tmp_path / "out", resume=True).shards_before == 3
    fr.apply_files(alignment, text, tmp_path / "whole")
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")


def test_an_apply_does_not_resume_with_another_alignment_or_a_changed_finished_shard(tmp_path, sides):
    text, image = sides
    alignment, other = fr.fit(text, image), fr.fit(text, image, centroid="exact")
    with pytest.raises(fr.FastRealignError, match="2 of 5"):
        fr.apply_files(alignment, text, tmp_path / "out", threads=1, progress=StopAfter(120))
    refused(lambda: fr.apply_files(other, text, tmp_path / "out", resume=True), "the alignment is another one")
    np.save(text / "part_0.npy", np.load(text / "part_0.npy") + 1)
    refused(lambda: fr.apply_files(alignment, text, tmp_path / "out", resume=True), "part_0.npy was changed")


def test_resume_with_a_target_in_memory_compares_the_fit(tmp_path, sides):
    text, image = sides[0], corpus.loaded(sides[1])
    with pytest.raises(fr.FastRealignError, match="2 of 5"):
        fr.align(text, image, tmp_path / "out", threads=1, progress=StopAfter(120))
    refused(lambda: fr.align(text, image[1:], tmp_path / "out", resume=True), "used another alignment")
    fr.align(text, image, tmp_path / "out", resume=True)
    fr.align(text, image, tmp_path / "whole")
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")


def test_a_failure_before_the_first_shard_leaves_nothing(tmp_path, sides):
    with pytest.raises(fr.FastRealignError, match=r"^the disk is full$"):
        fr.align(*sides, tmp_path / "new" / "out", progress=StopAfter(0))
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(fr.FastRealignError):
        fr.align(*sides, tmp_path / "empty", progress=StopAfter(0))
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_interrupt_tells_what_is_complete(tmp_path, sides):
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; 2 of 5 shards are complete, resume with resume=True"):
        fr.align(*sides, tmp_path / "out", threads=1, progress=StopAfter(120, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; nothing was written$"):
        fr.align(*sides, tmp_path / "other", progress=StopAfter(0, KeyboardInterrupt()))
    assert not (tmp_path / "other").exists()


def test_a_run_killed_between_the_manifest_and_the_end_is_complete(tmp_path, sides, monkeypatch):
    monkeypatch.setattr(Journal, "remove", lambda self: self.close())
    fr.align(*sides, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out" / JOURNAL).exists()
    assert fr.align(*sides, tmp_path / "out", resume=True).nothing_to_do
    fr.align(*sides, tmp_path / "whole")
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")


def test_a_complete_run_has_nothing_to_do(tmp_path, sides):
    fr.align(*sides, tmp_path / "out")
    before = corpus.tree(tmp_path / "out")
    report = fr.align(*sides, tmp_path / "out", resume=True)
    assert report.nothing_to_do and report.rows_now == 0 and report.gap_left > 0
    assert str(report).startswith("nothing to do:")
    assert corpus.tree(tmp_path / "out") == before


def test_a_complete_run_that_is_another_or_was_changed_is_named(tmp_path, sides):
    out = tmp_path / "out"
    fr.align(*sides, out)
    before = corpus.tree(out)
    refused(lambda: fr.align(*sides, out, resume=True, dtype="float64"), "is another one: dtype was", "overwrite=True")
    (out / "part_2.npy").write_bytes(b"mine now")
    refused(
        lambda: fr.align(*sides, out, resume=True),
        "part_2.npy was changed since the run was complete; move it away, and restart with overwrite=True",
    )
    assert corpus.tree(out) == {**before, "part_2.npy": b"mine now"}


@pytest.mark.parametrize("name", ["part_2.npy", "alignment.safetensors"])
def test_a_complete_run_of_which_a_file_is_missing(tmp_path, sides, name):
    out = tmp_path / "out"
    fr.align(*sides, out)
    (out / name).rename(tmp_path / name)
    said = refused(lambda: fr.align(*sides, out, resume=True))
    assert said == f"{out}: {name} is missing: put it back, or restart with overwrite=True"
    (tmp_path / name).rename(out / name)
    assert fr.align(*sides, out, resume=True).nothing_to_do


def test_output_that_is_there_is_not_written_to_unasked(tmp_path, sides, unfinished):
    refused(lambda: fr.align(*sides, unfinished), "unfinished run (2 shards complete)", "resume=True", "overwrite=True")
    fr.align(*sides, tmp_path / "done")
    refused(lambda: fr.align(*sides, tmp_path / "done"), "not empty", "resume=True", "overwrite=True")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    refused(lambda: fr.align(*sides, tmp_path / "other"), "not empty", "notes.txt")
    refused(lambda: fr.align(*sides, tmp_path / "other", resume=True), "notes.txt", "no run to resume")
    refused(lambda: fr.align(*sides, tmp_path / "other", overwrite=True), "notes.txt", "does not remove")
    refused(lambda: fr.align(*sides, tmp_path / "other" / "notes.txt"), "is a file")
    refused(lambda: fr.align(*sides, tmp_path / "x", resume=True, overwrite=True), "choose one")
    assert corpus.tree(tmp_path / "other") == {"notes.txt": b"mine"}


def test_overwrite_replaces_a_complete_run_and_its_shards_that_are_no_more(tmp_path, sides):
    text, image = sides
    fr.align(text, image, tmp_path / "out")
    (text / "part_4.npy").unlink()
    fr.align(text, image, tmp_path / "out", overwrite=True, dtype="float16")
    fr.align(text, image, tmp_path / "whole", dtype="float16")
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")
    assert "part_4.npy" not in corpus.tree(tmp_path / "out")


def test_overwrite_replaces_an_unfinished_run(tmp_path, sides, unfinished):
    (unfinished / ".part_3.npy.123.tmp").write_bytes(b"half")
    fr.align(*sides, unfinished, overwrite=True, centroid="exact")
    fr.align(*sides, tmp_path / "whole", centroid="exact")
    assert corpus.tree(unfinished) == corpus.tree(tmp_path / "whole")


@pytest.mark.parametrize("state", ["complete", "unfinished"])
def test_overwrite_stops_at_what_is_not_its_own(tmp_path, sides, unfinished, state):
    out = unfinished
    if state == "complete":
        fr.align(*sides, out, resume=True)
    (out / "notes.txt").write_text("mine")
    before = corpus.tree(out)
    refused(lambda: fr.align(*sides, out, overwrite=True), "notes.txt", "does not remove")
    (out / "notes.txt").unlink()
    (out / "part_1.npy").write_bytes(b"mine now")
    refused(lambda: fr.align(*sides, out, overwrite=True), "part_1.npy was changed since it was written")
    del before["notes.txt"]
    assert corpus.tree(out) == {**before, "part_1.npy": b"mine now"}


@pytest.mark.parametrize("state", ["nothing", "complete", "unfinished"])
def test_overwrite_keeps_an_alignment_that_is_not_of_the_run_there(tmp_path, sides, unfinished, state):
    out = unfinished if state == "unfinished" else tmp_path / "o"
    if state == "complete":
        fr.align(*sides, out)
    fr.fit(*sides, centroid="exact").save(out / "alignment.safetensors")
    before = corpus.tree(out)
    refused(
        lambda: fr.align(*sides, out, overwrite=True),
        "holds alignment.safetensors",
        "which the run with this output did not write; move it away",
    )
    assert corpus.tree(out) == before
    (out / "alignment.safetensors").unlink()
    fr.align(*sides, out, overwrite=True)


def killed(out, sides, monkeypatch, where, name, **options):
    """A run in a fork that ends, as by a kill, where it would call this."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(where, name, lambda *_, **__: os._exit(9))
        try:
            fr.align(*sides, out, threads=1, **options)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_an_alignment_saved_where_a_run_was_killed_in_its_fit_is_kept(tmp_path, sides, monkeypatch, how):
    """Such a run has noted its job specification and no alignment, for it has saved none."""
    out = tmp_path / "out"
    killed(out, sides, monkeypatch, align_jobs, "fit_sources")
    fr.fit(*sides, centroid="exact").save(out / "alignment.safetensors")
    mine = (out / "alignment.safetensors").read_bytes()
    refused(lambda: fr.align(*sides, out, **how), "which the run with this output did not write; move it away")
    assert (out / "alignment.safetensors").read_bytes() == mine


@pytest.mark.parametrize("where", [(align_jobs, "fit_sources"), (Alignment, "save")])
@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_a_run_killed_around_its_fit_goes_on_where_it_replaced_another(tmp_path, sides, monkeypatch, where, how):
    out = tmp_path / "out"
    fr.align(*sides, out)
    killed(out, sides, monkeypatch, *where, centroid="exact", overwrite=True)
    fr.align(*sides, out, centroid="exact", **how)
    fr.align(*sides, tmp_path / "whole", centroid="exact")
    assert corpus.tree(out) == corpus.tree(tmp_path / "whole")


def test_overwrite_keeps_a_folder_named_like_the_alignment(tmp_path, sides):
    (tmp_path / "o" / "alignment.safetensors").mkdir(parents=True)
    refused(lambda: fr.align(*sides, tmp_path / "o", overwrite=True), "holds alignment.safetensors", "move it")


def test_a_complete_run_without_its_alignment_is_named(tmp_path, sides):
    fr.align(*sides, tmp_path / "o")
    (tmp_path / "o" / "alignment.safetensors").unlink()
    refused(lambda: fr.align(*sides, tmp_path / "o", resume=True), "alignment.safetensors is missing", "overwrite=True")
    fr.align(*sides, tmp_path / "o", overwrite=True)


def test_names_beside_a_single_file_that_are_taken(tmp_path, sides):
    """A file of the user's that has one of the names is kept, and the advice is another name, not an empty folder."""
    source, out = sides[0] / "part_0.npy", tmp_path / "z.npy"
    for name in ("z.npy", "z.npy.alignment.safetensors"):
        (tmp_path / name).write_text("mine")
        for how in ({}, {"overwrite": True}, {"resume": True}):
            message = refused(lambda how=how: fr.align(source, sides[1], out, **how), name, "choose another name")
            assert "folder" not in message
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_an_overwrite_that_fails_in_the_fit_leaves_the_earlier_run(tmp_path, sides):
    out = tmp_path / "out"
    fr.align(*sides, out)
    before = corpus.tree(out)
    bad = np.load(sides[0] / "part_2.npy")
    bad[0] = 0
    np.save(sides[0] / "part_2.npy", bad)
    with pytest.raises(fr.BadRowsError):
        fr.align(*sides, out, overwrite=True)
    assert corpus.tree(out) == before


def test_a_manifest_of_somebody_else_is_left_alone(tmp_path, sides):
    (tmp_path / "out").mkdir()
    for text in ('{"name": "an app"}', "not json", "[1]", '{"fastrealign": "9", "format": 99}'):
        (tmp_path / "out" / "manifest.json").write_text(text)
        message = refused(lambda: fr.align(*sides, tmp_path / "out", overwrite=True), "manifest.json")
        assert ("newer" in message) == ("99" in text)
        assert corpus.tree(tmp_path / "out") == {"manifest.json": text.encode()}


def test_a_manifest_cannot_make_overwrite_reach_out_of_its_folder(tmp_path, sides):
    out = tmp_path / "out"
    fr.align(*sides, out)
    _, head, rest = (out / "manifest.json").read_bytes().replace(b'"part_0.npy"', b'"../mine.npy"').partition(b"\n")
    (out / "manifest.json").write_bytes(sealed(b"{" + head + rest))
    (tmp_path / "mine.npy").write_bytes(b"mine")
    refused(lambda: fr.align(*sides, out, overwrite=True), "expected names of files within a folder")
    assert (tmp_path / "mine.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_that_slips_in_before_the_lock_is_left_alone(tmp_path, sides, monkeypatch, ended):
    out = tmp_path / "out"
    opened = Journal.__init__

    def slip_in(journal, path, fsync=True):
        monkeypatch.undo()
        progress = StopAfter(10**9 if ended else 60)
        try:
            fr.align(*sides, out, threads=1, progress=progress)
        except fr.FastRealignError:
            assert not ended
        opened(journal, path, fsync)

    monkeypatch.setattr(Journal, "__init__", slip_in)
    refused(lambda: fr.align(*sides, out), "another fastrealign has just been writing there")
    assert fr.align(*sides, out, resume=True).shards_before == (5 if ended else 1)


def test_a_run_that_ends_while_another_one_looks_at_its_folder(sides, unfinished, monkeypatch):
    """Its journal was there a moment ago."""

    def peek(path):
        monkeypatch.undo()
        assert fr.align(*sides, unfinished, resume=True).shards_before > 0
        return Journal.peek(path)

    monkeypatch.setattr(Journal, "peek", peek)
    refused(lambda: fr.align(*sides, unfinished), "another fastrealign has just been writing there")


def test_an_overwrite_of_an_unfinished_run_that_fails_at_once_leaves_nothing(tmp_path, sides, unfinished):
    with pytest.raises(fr.FastRealignError):
        fr.align(*sides, unfinished, overwrite=True, progress=StopAfter(0))
    assert corpus.tree(unfinished) == {}


def test_a_run_that_goes_on_is_not_called_unfinished(sides, unfinished):
    """--resume and --overwrite, which the message about an unfinished run advises, are refused while another writes."""
    before = corpus.tree(unfinished)
    with OutputFolder(unfinished, unfinished / JOURNAL):
        for how in ({}, {"resume": True}, {"overwrite": True}):
            refused(
                lambda how=how: fr.align(*sides, unfinished, **how), "another fastrealign is writing there; wait for it"
            )
    refused(lambda: fr.align(*sides, unfinished), "unfinished run (2 shards complete)")
    assert corpus.tree(unfinished) == before


def test_looking_whether_a_run_goes_on_disturbs_neither_another_look_nor_a_run(unfinished):
    """Two that looked at a time each took the other for a run that writes there."""
    with (unfinished / JOURNAL).open("rb") as file:
        system.lock(file.fileno(), shared=True)  # another one that looks
        if system.SHARED_LOCKS:
            check_not_held(unfinished / JOURNAL)
        timer = threading.Timer(0.05, file.close)
        timer.start()
        Journal(unfinished / JOURNAL).close()
        timer.join()


def test_a_journal_that_cannot_be_opened_is_not_held(unfinished, monkeypatch):
    def opened(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(append_log, "Descriptor", opened)
    check_not_held(unfinished / JOURNAL)


def test_two_runs_on_one_output_are_distinguished(tmp_path, sides, unfinished):
    held = Journal(unfinished / JOURNAL)
    for options in ({"resume": True}, {"overwrite": True}):
        refused(lambda options=options: fr.align(*sides, unfinished, **options), "another fastrealign is writing there")
    held.close()
    fr.align(*sides, unfinished, resume=True)


def test_two_shards_of_one_metadata_file(tmp_path, sides):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    _, image = sides
    alignment = fr.fit(corpus.rows(60, 1), image)
    flat, root = tmp_path / "flat", tmp_path / "root"
    for path in (
        flat / "a_0.npy",
        flat / "b_0.npy",
        root / "text_emb" / "text_emb_0.npy",
        root / "img_emb" / "img_emb_0.npy",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, corpus.rows(60, 1))
    (root / "metadata").mkdir()
    for folder in (flat, root / "metadata"):
        pq.write_table(pa.table({"id": range(60)}), folder / "metadata_0.parquet")
    for source, first, second, name in (
        (flat, "a_0.npy", "b_0.npy", "metadata_0.parquet"),
        ([root / "text_emb", root / "img_emb"], "text_emb_0.npy", "img_emb_0.npy", "metadata/metadata_0.parquet"),
        ([flat / "a_0.npy", flat / "metadata_0.parquet"], "a_0.npy", "metadata_0.parquet", "metadata_0.parquet"),
    ):
        if name in second:
            corpus.parquet_file(flat / name, corpus.rows(60, 3))
        refused(
            lambda source=source: fr.apply_files(alignment, source, tmp_path / "out"),
            "its metadata would be",
            name,
            first,
            second,
            "move the others to another folder" if source == flat else "rename one of the two, or run them apart",
        )
        assert not (tmp_path / "out").exists()
    fr.apply_files(alignment, root / "text_emb", tmp_path / "out")
    assert sorted(corpus.tree(tmp_path / "out"))[-2:] == ["metadata/metadata_0.parquet", "text_emb_0.npy"]


@pytest.mark.parametrize("inside", ["", "aligned", "deep/aligned", "../link/aligned"])
def test_an_output_inside_an_input_is_refused(tmp_path, sides, inside):
    text, image = sides
    (tmp_path / "link").symlink_to(text)
    before = corpus.tree(tmp_path)
    for overwrite in (False, True):
        refused(
            lambda overwrite=overwrite: fr.align(text, image, text / inside, overwrite=overwrite),
            "lies inside the input",
        )
    with pytest.warns(fr.FitWarning, match="look swapped"):
        refused(lambda: fr.align(image, text, text / inside), "lies inside the input")
    with pytest.warns(fr.FitWarning, match="in the source and in the target"):
        refused(lambda: fr.align([text, image / "part_0.npy"], image, text / inside), "lies inside the input")
    assert corpus.tree(tmp_path) == before


def test_an_input_inside_the_output_is_refused(tmp_path, sides):
    text, image = sides
    for out in (tmp_path, tmp_path / "text"):
        refused(lambda out=out: fr.align(text / "part_0.npy", image, out, overwrite=True), "lies inside the output")
        refused(lambda out=out: fr.align(str(text / "*.npy"), image, out), "lies inside the output")


def test_a_file_is_not_written_over_itself_or_another(tmp_path, sides):
    source, image = sides[0] / "part_0.npy", sides[1]
    before = corpus.tree(tmp_path)
    for overwrite in (False, True):
        refused(lambda overwrite=overwrite: fr.align(source, image, source, overwrite=overwrite), "is the input itself")
        refused(
            lambda overwrite=overwrite: fr.align(source, image, sides[0] / "part_1.npy", overwrite=overwrite),
            "part_1.npy",
        )
    assert corpus.tree(tmp_path) == before


def test_a_file_name_for_the_output_must_fit_the_source(tmp_path, sides):
    text, image = sides
    refused(lambda: fr.align(text, image, tmp_path / "out.npy"), "has 5 shards; name a folder")
    refused(lambda: fr.align(text / "part_0.npy", image, tmp_path / "out.pkl"), "keeps the format of the input", ".npy")


def test_a_glob_beside_the_output_is_fine(tmp_path, sides):
    fr.align(str(sides[0] / "*.npy"), sides[1], sides[0] / "aligned")
    assert len(list((sides[0] / "aligned").glob("*.npy"))) == 5


def test_an_output_folder_that_cannot_be_made(tmp_path, sides):
    (tmp_path / "file").write_text("")
    with pytest.raises(fr.FastRealignError, match=re.escape(f"{tmp_path}/file/out")):
        fr.align(*sides, tmp_path / "file" / "out")


# --- every byte ------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path):
    """Two shards and a target, so long that head and tail leave out the middle."""
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(2000, i, dim=32) for i in range(2)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(2000, 9, dim=32)])
    return text, image


def change_the_middle(path):
    """One bit of one value, with size, ends and time of change as they were."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_sees_what_head_and_tail_do_not_show(tmp_path, big):
    text, image = big
    out = tmp_path / "out"
    fr.align(text, image, out, verify=True)
    assert fr.align(text, image, out, verify=True, resume=True).nothing_to_do
    change_the_middle(text / "part_1.npy")
    assert fr.align(text, image, out, resume=True).nothing_to_do
    with pytest.raises(InputError, match=r"the source part_1\.npy was changed"):
        fr.align(text, image, out, verify=True, resume=True)
    change_the_middle(text / "part_1.npy")
    change_the_middle(image / "part_0.npy")
    with pytest.raises(InputError, match=r"the target part_0\.npy was changed"):
        fr.align(text, image, out, verify=True, resume=True)
    change_the_middle(image / "part_0.npy")
    change_the_middle(out / "part_0.npy")
    assert fr.align(text, image, out, resume=True).nothing_to_do
    with pytest.raises(InputError, match=r"part_0\.npy was changed since the run"):
        fr.align(text, image, out, verify=True, resume=True)


def test_verified_inputs_may_have_been_copied(tmp_path, big):
    """The same bytes with another time of change are the same input."""
    text, image = big
    fr.align(text, image, tmp_path / "out", verify=True)
    os.utime(text / "part_0.npy", ns=(1, 1))  # as after a clock that went backwards
    with pytest.raises(InputError, match=r"the source part_0\.npy was changed"):
        fr.align(text, image, tmp_path / "out", resume=True)
    assert fr.align(text, image, tmp_path / "out", resume=True, verify=True).nothing_to_do


def test_verify_needs_what_the_first_run_noted(tmp_path, big):
    fr.align(*big, tmp_path / "out")
    with pytest.raises(InputError, match=r"noted no checksum of every byte of the source part_0\.npy"):
        fr.align(*big, tmp_path / "out", resume=True, verify=True)


@pytest.mark.parametrize("fsync", [False, True])  # committed by the thread that wrote it, or by one of a pool
@pytest.mark.parametrize("how", ["grows", "is touched", "goes"])
def test_a_shard_that_changes_while_it_is_read(tmp_path, big, how, fsync):
    text, image = big
    path = text / "part_1.npy"

    class Change(Progress):
        def start(self, phase, rows, nbytes):
            if phase == "aligning":
                if how == "grows":
                    with path.open("ab") as file:
                        file.write(b"more")
                elif how == "is touched":
                    os.utime(path, ns=(5, 5))
                else:
                    path.unlink()

    with pytest.raises(InputError, match=r"part_1\.npy: (changed while it was read|no such file)"):
        fr.align(text, image, tmp_path / "out", progress=Change(), threads=1, fsync=fsync)
    assert not (tmp_path / "out" / "part_1.npy").exists()


# --- the hold by itself ----------------------------------------------------------------------------------------------


class Note(OutputFolder):
    """Writes one file; an error removes it."""

    def __init__(self, root, check=None):
        super().__init__(root, root / ".lock")
        self._check = check

    def check(self):
        if self._check:
            raise self._check

    def begin(self):
        (self.root / "note").write_text("half")

    def roll_back(self):
        (self.root / "note").unlink()


def test_a_hold_excludes_others_and_leaves_no_lock(tmp_path):
    with Note(tmp_path / "new" / "out") as held:
        with pytest.raises(InputError, match="another fastrealign is writing there"):
            Note(held.root).__enter__()
        (held.root / "note").write_text("whole")
    assert corpus.tree(tmp_path / "new") == {"out/note": b"whole"}


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_an_error_rolls_back_and_removes_the_folders_that_were_made(tmp_path, error):
    with pytest.raises(type(error)), Note(tmp_path / "new" / "out"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_touches_nothing(tmp_path):
    with pytest.raises(InputError, match=r"^no$"), Note(tmp_path / "new", InputError("no")):
        raise AssertionError("not to be reached")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_holds_the_journal_of_a_run_stays(tmp_path):
    (tmp_path / ".lock").write_text("a line\n")
    with Note(tmp_path):
        pass
    assert corpus.tree(tmp_path) == {".lock": b"a line\n", "note": b"half"}
