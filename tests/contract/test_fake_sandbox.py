"""Boxes in memory keep what a sandbox promises of boxes, files, snapshots and single commands.

Its commands are answered by a small shell of the tests, so that the contract prepares and looks at files as in any
other box. What is named below is about real processes, real memory and real networks: there is none of it here. What
boxes in memory do in its place is in tests/testing/test_fake_sandbox.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from contract.small_shell import shell

from boxflow.testing import FakeSandbox, SandboxContract

NEEDS_PROGRAMS = [
    "a_box_reaches_the_hosts_that_are_allowed_and_no_others",
    "a_box_without_network_reaches_nothing",
    "a_clone_can_be_changed_looked_at_and_committed",
    "a_command_ends_when_its_process_does_whatever_it_left_running",
    "a_directory_that_keeps_turning_into_a_link_leads_nowhere",
    "a_download_that_is_cut_short_leaves_no_part_of_a_file",
    "a_file_of_100_mb_is_copied_both_ways_with_flat_memory",
    "a_killing_whose_caller_is_cancelled_is_carried_out",
    "a_large_file_of_a_folder_is_copied_both_ways_with_flat_memory",
    "a_line_may_have_any_length",
    "a_part_of_a_large_file_is_read_without_the_rest",
    "a_paused_box_is_deleted_with_what_stands_still_in_it",
    "a_paused_box_stands_still_and_goes_on",
    "a_process_can_be_talked_with_until_its_input_is_closed",
    "a_process_goes_on_when_its_handle_and_its_sandbox_are_gone",
    "a_process_knows_its_box_and_finds_places_of_its_own",
    "a_process_of_a_paused_box_can_be_killed",
    "a_process_sees_that_its_terminal_has_a_new_size",
    "a_process_waits_while_nobody_reads_and_loses_nothing",
    "a_process_without_a_terminal_has_none",
    "a_program_that_is_not_there_is_an_error",
    "a_program_that_may_not_be_run_is_an_error",
    "a_running_process_goes_on_beside_a_snapshot",
    "a_server_in_the_box_is_reached_by_its_url",
    "a_signal_reaches_the_process_itself",
    "a_signal_shows_in_the_exit_code_as_in_a_shell",
    "a_start_that_is_cancelled_leaves_no_process",
    "a_terminal_has_the_size_that_was_asked_for",
    "a_thousand_entries_are_listed",
    "a_timeout_ends_the_whole_tree_and_keeps_what_was_written",
    "a_tree_is_found_by_its_name_when_its_first_process_is_gone",
    "a_tree_that_grows_while_it_is_killed_is_killed_whole",
    "a_user_of_the_box_is_served_or_refused",
    "an_end_of_input_at_the_keyboard_is_one",
    "an_endless_output_is_ended_by_the_timeout_and_keeps_its_head_and_its_tail",
    "an_interrupt_at_the_keyboard_ends_the_process",
    "an_isolated_box_sees_no_process_of_the_machine_nor_of_another_box",
    "an_upload_that_is_cancelled_leaves_no_part_of_a_file",
    "another_sandbox_ends_a_process_by_its_name",
    "another_user_is_served_or_refused",
    "both_streams_flow_at_once",
    "boxes_that_are_made_at_once_are_boxes_of_their_own",
    "cancelling_a_command_ends_the_whole_tree",
    "commands_beside_each_other_do_not_mix_their_output",
    "commands_run_beside_each_other",
    "delete_ends_what_runs_in_the_box",
    "disk_is_limited_and_the_box_survives",
    "each_box_has_its_own_url",
    "each_stream_has_a_bound_of_its_own",
    "ending_one_command_spares_the_others",
    "hundreds_of_megabytes_take_no_memory",
    "input_larger_than_any_buffer_takes_no_memory",
    "kill_ends_the_tree_of_a_process_with_a_terminal",
    "kill_returns_when_nothing_of_the_tree_is_left",
    "killing_twice_at_once_is_no_error",
    "long_arguments_arrive_whole",
    "memory_is_limited_and_the_box_survives",
    "names_of_one_box_end_nothing_in_another",
    "processes_are_limited_and_the_box_can_still_be_ended",
    "ten_thousand_files_are_copied_both_ways",
    "the_usual_programs_are_there",
    "too_much_output_keeps_its_head_and_its_tail",
    "what_a_dead_box_s_process_was_is_not_another_s_of_the_same_name",
    "what_is_sent_belongs_to_the_box_s_user",
    "what_runs_in_the_background_goes_on_after_its_command",
    "where_nothing_listens_a_request_fails_and_does_not_hang",
    "a_box_made_from_a_snapshot_has_the_files_and_their_permissions",
]


class TestFakeSandbox(SandboxContract):
    made: ClassVar[dict[Path, FakeSandbox]] = {}

    def make_sandbox(self, directory: Path) -> FakeSandbox:
        """That of the directory: what it keeps is in memory, and found by whoever asks for it there."""
        if directory not in self.made:
            self.made.clear()
            self.made[directory] = FakeSandbox()
            self.made[directory].on("*", shell)
        return self.made[directory]


for name in NEEDS_PROGRAMS:
    # A name that the contract does not have any more is an error here.
    assert callable(getattr(SandboxContract, f"test_{name}"))
    setattr(TestFakeSandbox, f"test_{name}", cast(Any, None))
