"""`pytest --quick` (`make quick`): a part of the suite that says within a minute whether something is broken.

Of a test with many cases it runs at most MOST, which differ in as many values of its parameters (format, method, element type,
instruction set) as they can: a sample, which does not cover all of them. Of the scenarios it runs bad input, kills, signals and
ranks.
What takes long and stands alone is left out; the last line says what.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

# Below tests/, and why these are left out: they load large libraries, start servers, compile, draw, or
# repeat what they do many times.
LEFT_OUT = (
    "unit/bench/*",
    "unit/cli/demo/*",
    "unit/cuda/*",
    "unit/embed/*",
    "unit/gap_report/test_[mp]*.py",
    "unit/kernels/*",
    "unit/methods/test_certified.py",
    "unit/diagnostics/test_monitor.py",
    "unit/retrieval/stores/*",
    "unit/revision/*",
    "unit/storage/test_hub_models.py",
    "unit/storage/test_remote_lock.py",
    "contract/test_fuzz.py",
    "scenario/test_[!bikd]*.py",
    "scenario/test_bad_shards.py",
    "scenario/test_browser.py",
    "scenario/test_da*.py",
    "scenario/test_docs.py",
    "scenario/test_inputs_stay.py",
    "gpu/*",
)
# Single tests of the other files, each longer than half a second.
TOO_LONG = {
    "test_a_column_a_side_in_every_command",
    "test_a_compiled_module_looks_at_nothing",
    "test_a_difference_is_found",
    "test_a_drawing_is_replaced_only_when_asked",
    "test_a_file_of_blank_lines_takes_no_memory",
    "test_a_full_disk_in_a_later_shard_and_more_room",
    "test_a_full_disk_in_a_table",
    "test_a_full_disk_in_the_first_shard",
    "test_a_full_stderr_changes_no_exit_code",
    "test_a_full_stdout_is_one_line",
    "test_a_group_that_is_closed_after_a_message_waits_for_no_thread",
    "test_a_hold_excludes_others_and_leaves_no_lock",
    "test_a_journal_is_one_run_s",
    "test_a_kill_while_they_are_mapped",
    "test_a_long_step_is_never_silent",
    "test_a_million_rows_are_not_held",
    "test_a_million_rows_match_the_reference",
    "test_a_module_tells_once_of_images",
    "test_a_page_of_a_name_that_is_not_utf8",
    "test_a_page_with_json_and_the_advice_first",
    "test_a_reader_who_leaves_is_no_error",
    "test_a_report_is_replaced_only_when_asked",
    "test_a_restart_with_a_name_that_is_taken",
    "test_a_rise_that_may_be_chance_is_not_called_none",
    "test_a_run_elsewhere_writes_the_bytes_of_one_on_linux",
    "test_a_run_that_goes_on_is_not_called_unfinished",
    "test_a_second_build_compiles_nothing",
    "test_a_second_signal_does_not_break_the_clean_up",
    "test_a_small_target_does_not_hide_what_one_fit_leaves",
    "test_a_thousand_shards_need_few_open_files",
    "test_an_error_under_torchrun_is_said_once",
    "test_an_output_larger_than_the_cache_has_the_same_bits",
    "test_any_method_as_a_module",
    "test_any_source_chunking_and_threads_give_the_same_bits",
    "test_apply_is_ops_apply",
    "test_compiled_whole",
    "test_compiled_without_a_graph_break",
    "test_damage_raises_nothing_but_input_errors",
    "test_documents_of_one_modality",
    "test_embed_takes_a_required_option_and_its_rival",
    "test_every_failing_call_leaves_nothing",
    "test_every_public_name_has_a_type",
    "test_every_row_is_drawn_equally_often",
    "test_few_rows_that_differ",
    "test_files_tensors_and_chunks_give_what_arrays_give",
    "test_fish_completes",
    "test_ids_qrels_and_roles_of_files",
    "test_images_after_many_texts_are_found",
    "test_imports_go_down_the_layers",
    "test_it_needs_no_generator_of_the_device",
    "test_json_and_page",
    "test_json_pairs_of_their_own_domains_and_pngs",
    "test_killed_at_any_moment_a_mixed_corpus_resumes_to_the_same_bytes",
    "test_killed_at_any_step_and_resumed_it_ends_in_the_same_bytes",
    "test_killed_at_every_step_that_changes_the_disk",
    "test_killed_at_random_moments_every_format_ends_in_the_same_bytes",
    "test_killed_it_resumes",
    "test_labels_give_a_classifier",
    "test_labels_in_every_form",
    "test_many_ids",
    "test_many_shards",
    "test_mean_of_a_million_rows",
    "test_memory_does_not_follow_the_size_of_a_batch",
    "test_memory_does_not_follow_the_size_of_the_file",
    "test_memory_does_not_follow_the_size_of_the_files",
    "test_messages_between_processes",
    "test_methods_come_in_the_order_of_the_paper_on_the_shipped_embeddings",
    "test_no_angles",
    "test_no_function_takes_more_than_eight_parameters",
    "test_no_import_circles",
    "test_no_optional_library_is_needed",
    "test_no_secret_of_a_url_is_printed_or_written",
    "test_noise_when_forward_is_repeated_for_the_gradient",
    "test_null_embeddings_resumed",
    "test_only_these_rows_are_mapped",
    "test_operators_are_there_where_torch_is_imported_first",
    "test_options_are_spelt_by_one_module",
    "test_other_methods_and_roles",
    "test_output_in_ascii_lacks_signs_and_nothing_else",
    "test_overlap_of_a_sample",
    "test_own_modules_are_imported_at_the_top",
    "test_pairs_that_are_the_same",
    "test_pickles_that_would_take_all_memory_or_time",
    "test_plain_values",
    "test_plain_values_of_every_shape_pass",
    "test_pushed_and_loaded_again",
    "test_python_m_and_progress_on_a_terminal",
    "test_ranks_write_what_one_process_writes",
    "test_reduce_is_ops_reduce",
    "test_report_writes_the_page_and_prints_the_verdict",
    "test_rows_too_few_for_two_halves_are_said_to_be_fitted_and_measured",
    "test_seeds_of_64_bits_are_alike_everywhere",
    "test_several_files_of_roles",
    "test_sides_of_one_shape_have_little_divergence",
    "test_sides_with_more_rows_than_asked_for_are_drawn_and_that_is_said",
    "test_sources_at_urls_give_the_bytes_of_local_ones",
    "test_stopped_again_and_again_it_ends_in_the_same_bytes",
    "test_stopped_while_fitting_it_leaves_nothing",
    "test_streams_that_the_shell_closed",
    "test_tensors_without_values_of_their_own_are_refused_in_one_line",
    "test_the_answer_is_right_as_often_as_stated",
    "test_the_chain_gives_what_the_reference_gives",
    "test_the_command_on_the_ranks_of_torchrun",
    "test_the_commands_of_a_method_that_chooses_by_judgements_run",
    "test_the_commands_of_the_advice_run",
    "test_the_demo_says_what_to_do_next",
    "test_the_error_is_as_stated_and_small_beside_sampling",
    "test_the_error_is_that_of_repeated_sampling",
    "test_the_error_of_mixing_is_that_of_repeated_sampling",
    "test_the_error_of_the_pairwise_correlation",
    "test_the_errors_of_a_real_process",
    "test_the_kernels_are_vector_code",
    "test_the_largest_sums_do_not_overflow",
    "test_the_report_and_the_command",
    "test_the_same_bytes_for_any_number_of_threads",
    "test_the_same_bytes_for_every_kind_of_worker",
    "test_the_same_bytes_in_any_memory",
    "test_the_same_fit_in_any_memory",
    "test_the_stated_error_is_honest_over_many_samples",
    "test_the_vector_code_is_vector_code",
    "test_threads_chunks_and_the_order_of_shards_do_not_matter",
    "test_threads_do_not_matter",
    "test_threshold_holds_on_new_pairs",
    "test_to_a_store_and_back",
    "test_topology_has_scipys_densities",
    "test_torch_and_the_c_library",
    "test_two_conversions_into_one_place",
    "test_two_runs_at_once",
    "test_two_runs_on_one_output_are_distinguished",
    "test_what_an_earlier_version_aligned",
    "test_what_is_missing_is_named_with_the_way_to_get_it",
    "test_what_torch_checks_of_an_operator",
    "test_when_methods_that_choose_are_advised",
    "test_zsh_completes",
}
# Cases of one test, at most.
MOST = 2

_TESTS = Path(__file__).parents[1]
_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a sample of the suite, in less than a minute")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("quick") or not collection_path.is_relative_to(_TESTS):
        return None
    name = collection_path.relative_to(_TESTS).as_posix()
    return True if any(fnmatch(name, pattern) for pattern in LEFT_OUT) else None


def _spread(cases: list[pytest.Item]) -> list[pytest.Item]:
    """At most MOST cases of a test, each the first of those with the most values that no earlier one has."""
    left = {case: set(case.callspec.indices.items()) if hasattr(case, "callspec") else {None} for case in cases}
    spread: list[pytest.Item] = []
    while len(spread) < MOST and (case := max(left, key=lambda case: len(left[case]))) and left[case]:
        spread.append(case)
        seen = set(left[case])
        for values in left.values():
            values -= seen
    return spread


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("quick"):
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.originalname not in TOO_LONG:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = {item for of_one_test in cases.values() for item in _spread(of_one_test)}
    left_out = [item for item in items if item not in chosen]
    kept = [item for item in items if item in chosen]
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
    config.stash[_LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):  # each process of pytest-xdist collects all
        config.workeroutput["quick"] = len(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("quick", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("quick"):
        terminalreporter.write_line(
            f"quick: left out {config.stash.get(_LEFT_OUT, 0):,} further cases of these files, and all of"
            f" {', '.join(LEFT_OUT)} (tests/support/quick.py); `make test` runs everything"
        )
