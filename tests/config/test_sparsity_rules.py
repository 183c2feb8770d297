"""Presets, rules in short, and the rules of a scan: what they compose to, and how a mistake in them is told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.config.compose import compose_settings, settings_of
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import RuleSettings, TrialSettings
from nxm_sweep.trial.identity import identity_of

SCANNED = [{"match": "bert.encoder.layer.0.output.dense", "keep": 1, "group": 4}, {"match": "*.key", "dense": True}]


def identity(settings: TrialSettings) -> str:
    return identity_of(settings, data_digest="rows", model_digest="files")[0]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.json")


def write_scan(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "readings": [], "rules": SCANNED, **changes}))
    return path


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "group"), [(1, 4), (2, 4), (4, 8)])
def test_all_with_a_pattern_is_the_choice_of_that_pattern(keep: int, group: int) -> None:
    composed = compose_settings(["sparsity=all", f"sparsity.keep={keep}", f"sparsity.group={group}"]).sparsity
    assert composed == compose_settings([f"sparsity={keep}of{group}"]).sparsity
    assert composed.name == f"{keep}of{group}"
    assert composed.rules == [RuleSettings("layer*.[0-9]*.*", keep=keep, group=group)]


@pytest.mark.parametrize("preset", ["ffn_only", "attention_only"])
def test_a_preset_takes_a_pattern_and_its_name_says_so(preset: str) -> None:
    plain = compose_settings([f"sparsity={preset}"]).sparsity
    other = compose_settings([f"sparsity={preset}", "sparsity.keep=1", "sparsity.group=8"]).sparsity
    assert (plain.name, other.name) == (f"{preset}_2of4", f"{preset}_1of8")
    assert [(rule.keep, rule.group) for rule in plain.rules if not rule.dense] == [(2, 4)]
    assert [(rule.keep, rule.group) for rule in other.rules if not rule.dense] == [(1, 8)]
    assert [rule.match for rule in plain.rules] == [rule.match for rule in other.rules]


def test_2of4_keeps_the_identity_that_records_have() -> None:
    hashed = identity_of(compose_settings(["sparsity=2of4"]), data_digest="rows", model_digest="files")[1]["sparsity"]
    assert hashed == {"rules": [{"match": "layer*.[0-9]*.*", "keep": 2, "group": 4, "density": None, "dense": False}]}


# --- rules in short ---------------------------------------------------------------------------------------------------


def test_rules_in_short_come_after_the_presets_and_its_name_says_so() -> None:
    short = 'sparsity.also=["encoder.layer.[0-3].*: dense", "*.intermediate.*: 1 of 4", "*.key: 0.3 unstructured"]'
    found = compose_settings([short]).sparsity
    assert found.name == "2of4+rules"
    assert found.rules == [
        RuleSettings("layer*.[0-9]*.*", keep=2, group=4),
        RuleSettings("encoder.layer.[0-3].*", dense=True),
        RuleSettings("*.intermediate.*", keep=1, group=4),
        RuleSettings("*.key", density=0.3),
    ]


def test_rules_in_short_and_in_full_are_one_trial() -> None:
    full = "sparsity.rules=[{match:'layer*.[0-9]*.*',keep:2,group:4},{match:'*.key',dense:true}]"
    short = compose_settings(['sparsity.also=["*.key: dense"]'])
    assert identity(short) == identity(compose_settings([full]))
    assert identity(short) != identity(compose_settings([]))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("*.key", "which has not the form GLOB: PATTERN"),
        (": dense", "which has not the form GLOB: PATTERN"),
        ("*.key: sparse", "'sparse' names no pattern"),
        ("*.key: 5 of 4", "keep must lie between 1 and group = 4 but got 5"),
    ],
)
def test_a_rule_in_short_that_is_none_is_shown(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^sparsity\.also holds") as caught:
        compose_settings([f'sparsity.also=["{rule}"]'])
    assert message in caught.value.message
    assert "1 of 4" in caught.value.hint


# --- the rules of a scan ----------------------------------------------------------------------------------------------


def test_mixed_takes_the_rules_of_the_scan(scan: Path) -> None:
    found = compose_settings(["sparsity=mixed", f"sparsity.scan={scan}"]).sparsity
    assert (found.name, found.scan) == ("mixed", str(scan))
    assert found.rules == [
        RuleSettings("bert.encoder.layer.0.output.dense", keep=1, group=4),
        RuleSettings("*.key", dense=True),
    ]


def test_identity_depends_on_the_rules_of_the_scan_and_not_on_its_place(scan: Path, tmp_path: Path) -> None:
    elsewhere = write_scan(tmp_path / "moved.json", readings=[1], made_from={"trial": "x"})
    other = write_scan(tmp_path / "other.json", rules=SCANNED[:1])
    mixed = {
        path: identity(compose_settings(["sparsity=mixed", f"sparsity.scan={path}"])) for path in (scan, elsewhere)
    }
    assert len(set(mixed.values())) == 1
    assert identity(compose_settings(["sparsity=mixed", f"sparsity.scan={other}"])) not in mixed.values()


def test_settings_that_have_taken_in_a_scan_need_its_file_no_more(scan: Path) -> None:
    settings = compose_settings(["sparsity=mixed", f"sparsity.scan={scan}", 'sparsity.also=["*.value: dense"]'])
    scan.unlink()
    assert settings_of(json.loads(json.dumps(asdict(settings)))) == settings


def test_a_relative_scan_starts_where_the_sweep_was_started(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.root)
    mixed = ["sparsity=mixed", f"sparsity.scan={scan.name}"]
    assert len(compose_settings([*mixed, f"sweep.cwd={tmp_path}"]).sparsity.rules) == 2
    with pytest.raises(ConfigError, match=r"there is no scan scan\.json"):
        compose_settings(mixed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is no sensitivity scan"),
        ('{"schema": 1}', "is no sensitivity scan"),
        ('{"schema": 2, "readings": []}', "has schema 2 but this version reads up to 1"),
        ('{"schema": 1, "readings": []}', "holds no rules"),
        ('{"schema": 1, "readings": [], "rules": []}', "holds no rules"),
        ('{"schema": 1, "readings": [], "rules": [{"mtch": "x"}]}', "holds no rules"),
    ],
)
def test_a_file_that_is_no_scan_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        compose_settings(["sparsity=mixed", f"sparsity.scan={tmp_path}/bad.json"])
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_scanned_pattern_is_checked_as_any_other(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.json", rules=[{"match": "*", "keep": 5, "group": 4}])
    with pytest.raises(ConfigError, match=r"keep must lie between 1 and group = 4 but got 5"):
        compose_settings(["sparsity=mixed", f"sparsity.scan={path}"])


def test_mixed_without_a_scan_says_how_to_make_one() -> None:
    with pytest.raises(ConfigError, match=r"sparsity\.rules must hold at least one rule") as caught:
        compose_settings(["sparsity=mixed"])
    assert "python -m nxm_sweep.sensitivity" in caught.value.hint


def test_a_scan_beside_other_rules_is_refused(scan: Path) -> None:
    with pytest.raises(ConfigError, match=r"sparsity\.scan and sparsity\.rules both say what is pruned"):
        compose_settings([f"sparsity.scan={scan}"])
