"""The vocabulary of the demo tasks: groups of synonyms, of opposites, and of the grammatical forms of a word."""

from __future__ import annotations

Words = tuple[str, ...]
Table = tuple[Words, ...]


def _parse_table(text: str) -> Table:
    """Split ``text`` into one row per line and its comma-separated entries."""
    return tuple(tuple(entry.strip() for entry in line.split(",")) for line in text.strip().splitlines())


def _parse_opposites(text: str) -> tuple[tuple[Words, Words], ...]:
    """Split each line of ``text`` at its bar into two opposed groups of synonyms."""
    halves = (line.split("|") for line in text.strip().splitlines())
    return tuple((_parse_table(left)[0], _parse_table(right)[0]) for left, right in halves)


# --- paraphrase: a row has synonyms -----------------------------------------------------------------------------------
PEOPLE = _parse_table("""
doctor, physician
lawyer, attorney
teacher, instructor
policeman, cop
child, kid
boss, supervisor
soldier, trooper
student, pupil
""")
# Simple past and past participle are the same word, so one entry serves the active and the passive voice.
DEEDS = _parse_opposites("""
praised, commended | criticized, faulted
helped, assisted | hindered, obstructed
loved, adored | hated, despised
rewarded, compensated | punished, penalized
healed, cured | injured, wounded
""")
# Left: the giver is the subject, with "to". Right: the receiver is the subject, with "from".
TRANSFERS = _parse_opposites("""
sold | bought, purchased
lent, loaned | borrowed
handed, passed | received, got
leased | rented
""")
# Left: relation of the first person to the second. Right: the converse, of the second to the first.
RANKS = _parse_opposites("""
is taller than | is shorter than
is older than | is younger than
is richer than, is wealthier than | is poorer than
is faster than, is quicker than | is slower than
arrived before, came earlier than | arrived after, came later than
""")
ITEMS = _parse_table("""
pictures, images
cars, automobiles
coats, jackets
couches, sofas
bicycles, bikes
""")
COUNTS = _parse_table("""
two, a pair of, 2
three, 3
six, half a dozen, 6
seven, 7
twelve, a dozen, 12
twenty, a score of, 20
one hundred, a hundred, 100
""")
# --- similarity: a row is a family, its entries are synonyms split by a slash -----------------------------------------
ACTORS = _parse_table("""
man/guy, woman/lady, boy/lad, girl/young lady
dog/hound, cat/feline, horse/stallion, rabbit/bunny
doctor/physician, nurse/caregiver, surgeon/operating doctor
policeman/cop, soldier/trooper, guard/sentry
""")
# Verb phrase families: present participle, with the past participle after a colon.
ACTIONS = _parse_table("""
carrying:carried/bearing:borne, dragging:dragged/pulling:pulled, pushing:pushed/shoving:shoved
watching:watched/observing:observed, photographing:photographed/filming:filmed, ignoring:ignored/avoiding:avoided
cleaning:cleaned/washing:washed, painting:painted/coloring:colored, repairing:repaired/fixing:fixed
breaking:broken/smashing:smashed, burning:burned/torching:torched, cutting:cut/slicing:sliced
""")
OBJECTS = _parse_table("""
car/automobile, truck/lorry, bicycle/bike, boat/ship
picture/image, sculpture/statue, book/volume
couch/sofa, chair/seat, carpet/rug
stone/rock, log/piece of timber, bucket/pail
""")
SETTINGS = _parse_table("""
in the forest/in the woods, on the street/on the road, by the river/by the stream, on the beach/on the shore
in the morning/before noon, in the evening/at dusk, at night/after dark
in the fall/in autumn, in winter, in summer
""")
# --- acceptability: a row has the forms of one word -------------------------------------------------------------------
# singular, plural, reflexive of the singular
PERSONS = _parse_table("""
boy, boys, himself
girl, girls, herself
king, kings, himself
queen, queens, herself
monk, monks, himself
nun, nuns, herself
""")
# singular, plural
THINGS = _parse_table("""
letter, letters
apple, apples
box, boxes
knife, knives
picture, pictures
story, stories
cake, cakes
ticket, tickets
""")
# base, third person singular, past, past participle, present participle; all require an object
TRANSITIVES = _parse_table("""
take, takes, took, taken, taking
choose, chooses, chose, chosen, choosing
hide, hides, hid, hidden, hiding
steal, steals, stole, stolen, stealing
break, breaks, broke, broken, breaking
see, sees, saw, seen, seeing
""")
# as above; none takes an object
INTRANSITIVES = _parse_table("""
fall, falls, fell, fallen, falling
go, goes, went, gone, going
swim, swims, swam, swum, swimming
arrive, arrives, arrived, arrived, arriving
sleep, sleeps, slept, slept, sleeping
""")
# simple past; the object is another person or oneself
TREATMENTS: Words = ("praised", "hurt", "blamed", "admired", "washed", "defended", "amused", "introduced", "protected")
# plain, comparative
QUALITIES = _parse_table("""
old, older
small, smaller
large, larger
strange, stranger
clean, cleaner
cheap, cheaper
dark, darker
heavy, heavier
""")
LINKS: Words = ("near", "behind", "beside", "in front of", "next to", "opposite")
MANNERS: Words = ("quickly", "slowly", "carefully", "quietly", "secretly", "gladly")
