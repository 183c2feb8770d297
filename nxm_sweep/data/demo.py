"""Offline demo tasks: small data sets shaped like GLUE, written by a grammar, so that a sweep runs with no download.

``paraphrase`` is shaped like MRPC, ``acceptability`` like CoLA and ``similarity`` like STS-B.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from nxm_sweep.data import demo_vocabulary as words
from nxm_sweep.errors import DataError

Row = dict[str, str | int | float]
T = TypeVar("T")
_SPLIT_OF_BUCKET = ("train", "train", "validation", "test")
_PATIENCE = 2000  # draws in a row that bring no new input before a split counts as used up


class _Draw(NamedTuple):
    texts: tuple[str, ...]
    label: int | float


def _below(rng: random.Random, bound: int) -> int:
    """Return an integer in ``[0, bound)``; only ``random()`` is promised to stay the same across Python versions."""
    return int(rng.random() * bound)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[_below(rng, len(choices))]


def _pick_two(rng: random.Random, choices: Sequence[T]) -> tuple[T, T]:
    first = _below(rng, len(choices))
    second = (first + 1 + _below(rng, len(choices) - 1)) % len(choices)
    return choices[first], choices[second]


def _other(rng: random.Random, choices: Sequence[T], than: T) -> T:
    return _pick(rng, [choice for choice in choices if choice != than])


def _chance(rng: random.Random, probability: float) -> bool:
    return rng.random() < probability


# --- paraphrase -------------------------------------------------------------------------------------------------------
class _Fact(NamedTuple):
    """What a sentence says, apart from how it says it; every field but the flags is a group of synonyms."""

    kind: str  # "deed", "transfer" or "rank"
    first: words.Words
    second: words.Words
    relation: tuple[words.Words, words.Words]
    items: words.Words
    quantity: words.Words
    denied: bool


_RELATIONS = {"deed": words.DEEDS, "transfer": words.TRANSFERS, "rank": words.RANKS}
_CHANGES = {
    "deed": ("swap", "relation", "denied", "denied", "first", "second"),
    "transfer": ("swap", "relation", "count", "items"),
    "rank": ("swap", "relation", "first", "second"),
}


def _fact(rng: random.Random) -> _Fact:
    kind = _pick(rng, ("deed", "deed", "deed", "deed", "transfer", "rank"))
    first, second = _pick_two(rng, words.PEOPLE)
    relation = _pick(rng, _RELATIONS[kind])
    if kind == "deed" and _chance(rng, 0.5):
        relation = (relation[1], relation[0])
    items, count = _pick(rng, words.ITEMS), _pick(rng, words.COUNTS)
    return _Fact(kind, first, second, relation, items, count, denied=kind == "deed" and _chance(rng, 0.3))


def _changed(rng: random.Random, fact: _Fact) -> _Fact:
    """Return ``fact`` with one thing about it no longer true."""
    match _pick(rng, _CHANGES[fact.kind]):
        case "swap":
            changed = fact._replace(first=fact.second, second=fact.first)
        case "denied":
            changed = fact._replace(denied=not fact.denied)
        case "relation" if fact.kind == "deed":
            changed = fact._replace(relation=(fact.relation[1], fact.relation[0]))
        case "relation":
            changed = fact._replace(relation=_other(rng, _RELATIONS[fact.kind], fact.relation))
        case "first":
            changed = fact._replace(first=_pick(rng, _strangers(fact)))
        case "second":
            changed = fact._replace(second=_pick(rng, _strangers(fact)))
        case "items":
            changed = fact._replace(items=_other(rng, words.ITEMS, fact.items))
        case _:
            changed = fact._replace(quantity=_other(rng, words.COUNTS, fact.quantity))
    return changed


def _strangers(fact: _Fact) -> list[words.Words]:
    return [person for person in words.PEOPLE if person not in (fact.first, fact.second)]


def _deed_clauses(first: str, second: str, verb: str, *, denied: bool) -> tuple[str, ...]:
    if denied:
        return (
            f"{first} never {verb} {second}",
            f"{second} was not {verb} by {first}",
            f"{second} was never {verb} by {first}",
        )
    return (
        f"{first} {verb} {second}",
        f"{second} was {verb} by {first}",
        f"it was {first} who {verb} {second}",
    )


def _told(rng: random.Random, fact: _Fact) -> str:
    """Put ``fact`` into one of its many sentences."""
    first, second = (f"the {_pick(rng, person)}" for person in (fact.first, fact.second))
    forward, backward = (_pick(rng, group) for group in fact.relation)
    if fact.kind == "rank":
        return _pick(rng, (f"{first} {forward} {second}", f"{second} {backward} {first}"))
    if fact.kind == "transfer":
        goods = f"{_pick(rng, fact.quantity)} {_pick(rng, fact.items)}"
        clauses: tuple[str, ...] = (
            f"{first} {forward} {goods} to {second}",
            f"{second} {backward} {goods} from {first}",
            f"{goods} were {forward} to {second} by {first}",
        )
    else:
        clauses = _deed_clauses(first, second, forward, denied=fact.denied)
    return _pick(rng, clauses)


def _paraphrase(rng: random.Random) -> _Draw:
    fact, equivalent = _fact(rng), _below(rng, 2)
    other = fact if equivalent else _changed(rng, fact)
    if not equivalent and _chance(rng, 0.4):
        first, second = _pick_two(rng, _strangers(fact))
        other = other._replace(first=first, second=second)
    return _Draw((_told(rng, fact), _told(rng, other)), equivalent)


# --- acceptability ----------------------------------------------------------------------------------------------------
# Each maker returns an acceptable sentence and its unacceptable twin.
Twins = tuple[str, str]


def _across_phrase(rng: random.Random) -> Twins:
    number, attractor = _below(rng, 2), _below(rng, 2)
    subject = _pick(rng, words.THINGS + words.PERSONS)[number]
    near = _pick(rng, words.THINGS + words.PERSONS)[attractor]
    verbs = _pick(rng, (("is", "are"), ("was", "were"), ("has been", "have been"), ("seems", "seem")))
    frame = f"the {subject} {_pick(rng, words.LINKS)} the {near} {{}} {_pick(rng, words.QUALITIES)[0]}"
    return frame.format(verbs[number]), frame.format(verbs[1 - number])


def _reflexive(rng: random.Random) -> Twins:
    number = _below(rng, 2)
    subject, near = _pick_two(rng, words.PERSONS)
    selves = ("himself", "herself", "themselves")
    right = "themselves" if number else subject[2]
    place = f"{_pick(rng, words.LINKS)} the {near[_below(rng, 2)]}"
    frame = f"the {subject[number]} {place} {_pick(rng, words.TREATMENTS)} {{}}"
    return frame.format(right), frame.format(_other(rng, selves, right))


def _past(rng: random.Random) -> Twins:
    person = _pick(rng, words.PERSONS)[_below(rng, 2)]
    if _chance(rng, 0.5):
        verb, tail = _pick(rng, words.TRANSITIVES), f"the {_pick(rng, words.THINGS)[_below(rng, 2)]}"
    else:
        verb, tail = _pick(rng, words.INTRANSITIVES), _pick(rng, words.MANNERS)
    regular = f"{verb[0].removesuffix('e')}ed"
    return f"the {person} {verb[2]} {tail}", f"the {person} {regular} {tail}"


def _verb_form(rng: random.Random) -> Twins:
    number = _below(rng, 2)
    person, thing = _pick(rng, words.PERSONS)[number], _pick(rng, words.THINGS)[_below(rng, 2)]
    verb = _pick(rng, words.TRANSITIVES)
    perfect, progressive = (("has", "have")[number], 3), (("is", "are")[number], 4)
    auxiliary, right = _pick(rng, (perfect, ("did not", 0), ("will", 0), progressive, ("must", 0), ("had", 3)))
    wrong = _other(rng, [form for form in verb if form != verb[right]], verb[right])
    frame = f"the {person} {auxiliary} {{}} the {thing}"
    return frame.format(verb[right]), frame.format(wrong)


def _word_order(rng: random.Random) -> Twins:
    person, asker = (_pick(rng, words.PERSONS)[_below(rng, 2)] for _ in range(2))
    verb, thing = _pick(rng, words.TRANSITIVES), _pick(rng, words.THINGS)[1]
    quality, manner = _pick(rng, words.QUALITIES)[0], _pick(rng, words.MANNERS)
    which = f"which {thing} did the {person} {verb[0]}"
    return _pick(
        rng,
        (
            (f"the {person} {verb[2]} the {quality} {thing}", f"the {person} {verb[2]} the {thing} {quality}"),
            (f"the {person} {manner} {verb[2]} the {thing}", f"the {person} {verb[2]} {manner} the {thing}"),
            (f"the {asker} asked what the {person} {verb[2]}", f"the {asker} asked what did the {person} {verb[0]}"),
            (f"what did the {person} {verb[0]} {manner}", f"what the {person} did {verb[0]} {manner}"),
            (which, f"{which} the {quality} box"),
        ),
    )


def _comparison(rng: random.Random) -> Twins:
    first, second = _pick_two(rng, words.THINGS)
    quality = _pick(rng, words.QUALITIES)
    frame = f"the {first[1]} are {{}} the {second[1]}"
    good, bad = _pick(
        rng,
        (
            (f"{quality[1]} than", f"more {quality[1]} than"),
            (f"{quality[1]} than", f"{quality[0]} than"),
            (f"as {quality[0]} as", f"as {quality[1]} as"),
            (f"as {quality[0]} as", f"as {quality[0]} than"),
        ),
    )
    return frame.format(good), frame.format(bad)


_MAKERS: tuple[Callable[[random.Random], Twins], ...] = (
    _past,
    _past,
    _comparison,
    _word_order,
    _word_order,
    _verb_form,
    _reflexive,
    _across_phrase,
)


def _acceptability(rng: random.Random) -> _Draw:
    acceptable, twins = _below(rng, 2), _pick(rng, _MAKERS)(rng)
    return _Draw((twins[1 - acceptable],), acceptable)


# --- similarity -------------------------------------------------------------------------------------------------------
_SLOTS = (words.ACTORS, words.ACTIONS, words.OBJECTS, words.SETTINGS)
_WORTH = (1.25, 1.5, 1.25, 1.0)  # points out of five for a slot that agrees; half for the same family


def _scene(rng: random.Random, scene: Sequence[str]) -> str:
    actor, action, thing, where = (_pick(rng, meaning.split("/")) for meaning in scene)
    doing, done = action.split(":")
    clause = _pick(rng, (f"a {actor} is {doing} a {thing}", f"a {thing} is being {done} by a {actor}"))
    return _pick(rng, (f"{clause} {where}", f"{where} {clause}"))


def _similarity(rng: random.Random) -> _Draw:
    score, first, second = 0.0, [], []
    change = rng.random()
    for families, worth in zip(_SLOTS, _WORTH, strict=True):
        family = _pick(rng, families)
        meaning = _pick(rng, family)
        first.append(meaning)
        if not _chance(rng, change):
            second.append(meaning)
            score += worth
        elif _chance(rng, 0.5):
            second.append(_other(rng, family, meaning))
            score += worth / 2
        else:
            second.append(_pick(rng, _other(rng, families, family)))
    return _Draw((_scene(rng, first), _scene(rng, second)), score)


# --- the data sets ----------------------------------------------------------------------------------------------------
_TASKS: dict[str, Callable[[random.Random], _Draw]] = {
    "paraphrase": _paraphrase,
    "acceptability": _acceptability,
    "similarity": _similarity,
}
DEMO_TASKS: tuple[str, ...] = tuple(_TASKS)


def _split_of(key: str) -> str:
    """Return the one split that may hold the input ``key``, whatever the seed."""
    return _SPLIT_OF_BUCKET[zlib.crc32(key.encode()) % len(_SPLIT_OF_BUCKET)]


def _check(name: str, split: str, rows: int) -> None:
    if name not in DEMO_TASKS:
        raise DataError(f"demo task must be one of {', '.join(DEMO_TASKS)} but got {name!r}")
    if split not in _SPLIT_OF_BUCKET:
        raise DataError(f"split must be train, validation or test but got {split!r}")
    if rows < 1:
        raise DataError(f"rows must be at least 1 but got {rows}")


def generate(name: str, split: str, rows: int, seed: int = 0) -> list[Row]:
    """Write the first ``rows`` rows of a demo task's split.

    The same arguments give the same rows in every process, and fewer rows are a prefix of more. An input belongs to
    one split only, whatever the seed, and occurs there once; a pair counts as the same input in either order.

    Args:
        name: One of ``DEMO_TASKS``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        rows: How many rows, at least 1.
        seed: Picks another sample from the same split.

    Returns:
        One dict a row. ``paraphrase``: ``sentence1``, ``sentence2``, ``label`` 0 (not equivalent) or 1 (equivalent).
        ``acceptability``: ``sentence``, ``label`` 0 (unacceptable) or 1 (acceptable). ``similarity``: ``sentence1``,
        ``sentence2``, ``label`` in [0, 5]. Each row also has ``idx``, its position.

    Raises:
        DataError: Unknown name or split, fewer than one row, or more rows than the grammar can write.
    """
    _check(name, split, rows)
    rng = random.Random(f"{name}/{split}/{seed}")  # noqa: S311 - sampling sentences, not keeping secrets
    seen: set[str] = set()
    written: list[Row] = []
    idle = 0
    while len(written) < rows:
        texts, label = _TASKS[name](rng)
        key = "\n".join(sorted(texts))
        if key in seen or _split_of(key) != split or len(set(texts)) < len(texts):
            idle += 1
            if idle > _PATIENCE:
                raise DataError(f"{name} {split} holds only {len(written)} rows but got {rows}", "ask for fewer rows")
            continue
        idle = 0
        seen.add(key)
        columns = ("sentence",) if len(texts) == 1 else ("sentence1", "sentence2")
        written.append({**dict(zip(columns, texts, strict=True)), "label": label, "idx": len(written)})
    return written
