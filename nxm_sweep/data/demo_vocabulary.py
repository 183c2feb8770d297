"""The vocabulary of the demo tasks: groups of words that mean the same, stand opposed, or share a grammatical form."""

from __future__ import annotations

Words = tuple[str, ...]
Table = tuple[Words, ...]


def _table(text: str) -> Table:
    """Split ``text`` into one row a line and one entry a comma."""
    return tuple(tuple(entry.strip() for entry in line.split(",")) for line in text.strip().splitlines())


def _opposites(text: str) -> tuple[tuple[Words, Words], ...]:
    """Split each line of ``text`` at its bar into two groups of synonyms that stand opposed."""
    halves = (line.split("|") for line in text.strip().splitlines())
    return tuple((_table(left)[0], _table(right)[0]) for left, right in halves)


# --- paraphrase: a row holds synonyms ---------------------------------------------------------------------------------
PEOPLE = _table("""
doctor, physician
lawyer, attorney
teacher, instructor
policeman, cop
child, kid
boss, supervisor
soldier, trooper
student, pupil
""")
# Simple past and past participle are the same word, so that one entry serves the active and the passive voice.
DEEDS = _opposites("""
praised, commended | criticized, faulted
helped, assisted | hindered, obstructed
loved, adored | hated, despised
rewarded, compensated | punished, penalized
healed, cured | injured, wounded
""")
# Left: the giver is the subject, with "to". Right: the receiver is the subject, with "from".
TRANSFERS = _opposites("""
sold | bought, purchased
lent, loaned | borrowed
handed, passed | received, got
leased | rented
""")
# Left: said of the first person about the second. Right: the converse, said of the second about the first.
RANKS = _opposites("""
is taller than | is shorter than
is older than | is younger than
is richer than, is wealthier than | is poorer than
is faster than, is quicker than | is slower than
arrived before, came earlier than | arrived after, came later than
""")
ITEMS = _table("""
pictures, images
cars, automobiles
coats, jackets
couches, sofas
bicycles, bikes
""")
COUNTS = _table("""
two, a pair of, 2
three, 3
six, half a dozen, 6
seven, 7
twelve, a dozen, 12
twenty, a score of, 20
one hundred, a hundred, 100
""")
# --- similarity: a row is a family, its entries are synonyms split by a slash -----------------------------------------
ACTORS = _table("""
man/guy, woman/lady, boy/lad, girl/young lady
dog/hound, cat/feline, horse/stallion, rabbit/bunny
doctor/physician, nurse/caregiver, surgeon/operating doctor
policeman/cop, soldier/trooper, guard/sentry
""")
# Verb phrase families: present participle, with the past participle after a colon.
ACTIONS = _table("""
carrying:carried/bearing:borne, dragging:dragged/pulling:pulled, pushing:pushed/shoving:shoved
watching:watched/observing:observed, photographing:photographed/filming:filmed, ignoring:ignored/avoiding:avoided
cleaning:cleaned/washing:washed, painting:painted/coloring:colored, repairing:repaired/fixing:fixed
breaking:broken/smashing:smashed, burning:burned/torching:torched, cutting:cut/slicing:sliced
""")
OBJECTS = _table("""
car/automobile, truck/lorry, bicycle/bike, boat/ship
picture/image, sculpture/statue, book/volume
couch/sofa, chair/seat, carpet/rug
stone/rock, log/piece of timber, bucket/pail
""")
SETTINGS = _table("""
in the forest/in the woods, on the street/on the road, by the river/by the stream, on the beach/on the shore
in the morning/before noon, in the evening/at dusk, at night/after dark
in the fall/in autumn, in winter, in summer
""")
# --- acceptability: a row holds the forms of one word -----------------------------------------------------------------
# singular, plural, reflexive of the singular
PERSONS = _table("""
boy, boys, himself
girl, girls, herself
king, kings, himself
queen, queens, herself
monk, monks, himself
nun, nuns, herself
""")
# singular, plural
THINGS = _table("""
letter, letters
apple, apples
box, boxes
knife, knives
picture, pictures
story, stories
cake, cakes
ticket, tickets
""")
# base, third person singular, past, past participle, present participle; every one needs an object
TRANSITIVES = _table("""
take, takes, took, taken, taking
choose, chooses, chose, chosen, choosing
hide, hides, hid, hidden, hiding
steal, steals, stole, stolen, stealing
break, breaks, broke, broken, breaking
see, sees, saw, seen, seeing
""")
# as above; none can take an object
INTRANSITIVES = _table("""
fall, falls, fell, fallen, falling
go, goes, went, gone, going
swim, swims, swam, swum, swimming
arrive, arrives, arrived, arrived, arriving
sleep, sleeps, slept, slept, sleeping
""")
# simple past, used of one person towards another or towards oneself
TREATMENTS: Words = ("praised", "hurt", "blamed", "admired", "washed", "defended", "amused", "introduced", "protected")
# plain, comparative
QUALITIES = _table("""
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
