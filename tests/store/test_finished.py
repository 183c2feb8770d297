"""Finding a finished trial by its identity, the beginning of it, or its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nxm_sweep.errors import RecordError
from nxm_sweep.store.records import find_trial, saved_model

IDENTITIES = ("0a1b2c3d4e5f6071", "0a1bffffffffffff", "ffff000000000000")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for identity in IDENTITIES:
        folder = tmp_path / "trials" / identity
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    (tmp_path / "trials" / "0c00000000000000").mkdir()  # it runs
    return tmp_path


def refusal(action: Callable[[], object]) -> RecordError:
    with pytest.raises(RecordError) as caught:
        action()
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("identity", IDENTITIES)
def test_identity_unique_prefix_and_folder_mean_the_same_trial(outputs: Path, identity: str) -> None:
    folder = outputs / "trials" / identity
    assert find_trial(outputs, identity) == folder
    assert find_trial(outputs, identity[:5]) == folder
    assert find_trial(Path("elsewhere"), str(folder)) == folder


def test_a_trial_that_has_no_record_yet_does_not_make_a_prefix_ambiguous(outputs: Path) -> None:
    (outputs / "trials" / "ffff111111111111").mkdir()
    assert find_trial(outputs, "ffff").name == IDENTITIES[2]


def test_a_prefix_of_several_trials_is_refused_with_their_names(outputs: Path) -> None:
    error = refusal(lambda: find_trial(outputs, "0a1b"))
    assert error.message.startswith("2 trials under")
    assert all(name in error.hint for name in IDENTITIES[:2])


def test_a_prefix_of_very_many_trials_names_a_few(outputs: Path) -> None:
    for number in range(1000):
        folder = outputs / "trials" / f"e{number:015}"
        folder.mkdir()
        (folder / "result.json").touch()
    error = refusal(lambda: find_trial(outputs, "e"))
    assert error.hint.endswith("and 995 more")


@pytest.mark.parametrize("trial", ["0c", "0d", "", "trials", "no/such/folder", "../x", "*"])
def test_what_is_no_finished_trial_is_refused(outputs: Path, trial: str) -> None:
    refusal(lambda: find_trial(outputs, trial))


def test_the_reason_tells_a_running_trial_from_none(outputs: Path) -> None:
    assert "0c00000000000000 has no record" in refusal(lambda: find_trial(outputs, "0c")).message
    assert "begins with '0d'" in refusal(lambda: find_trial(outputs, "0d")).message
    assert "no finished trial" in refusal(lambda: find_trial(outputs / "none", "0a1b2")).message


def test_a_trial_without_its_model_says_how_to_save_it(outputs: Path) -> None:
    folder = outputs / "trials" / IDENTITIES[0]
    assert "save_model=true force=true" in refusal(lambda: saved_model(folder)).hint
    (folder / "model").mkdir()
    refusal(lambda: saved_model(folder))
    (folder / "model" / "config.json").write_text("{}")
    assert saved_model(folder) == folder / "model"
