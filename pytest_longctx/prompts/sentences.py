"""
English-like sentences without end, from a seed: plain statements that contradict nothing and hold no digits.

About 10^14 different sentences, so ten million tokens (some 600,000 sentences) hold two equal ones once in a thousand runs,
and never a repeated page.
"""

from collections.abc import Iterator

import numpy as np

_QUALITIES = """
old young tall quiet careful patient cheerful distant gentle honest clever tired famous humble restless silent
stern curious graceful modest proud brave weary sleepy nervous generous stubborn loyal grumpy playful solemn lucky
""".split()
_PEOPLE = """
baker sailor teacher painter farmer doctor miller weaver potter singer gardener carpenter fisherman printer clerk
shepherd blacksmith librarian surveyor tailor ferryman postman glazier cobbler brewer mason hunter pilot judge nurse
writer mapmaker beekeeper watchmaker merchant traveller neighbour stranger captain cook
""".split()
_MANNERS = """
slowly quietly often rarely gladly carefully suddenly finally secretly openly twice nearly proudly simply calmly
eagerly briefly kindly firmly almost
""".split()
_DEEDS = """
carried found sold repaired described painted borrowed forgot remembered opened measured counted hid noticed
returned admired cleaned copied ordered wrapped lifted moved kept showed
""".split()
_LOOKS = """
wooden copper narrow broken heavy painted hollow folded polished dusty crooked striped rusty silver woven round
carved faded plain bright leather velvet empty square
""".split()
_THINGS = """
chair basket window ladder kettle lamp saddle mirror drawer wheel bottle hammer blanket compass bucket anchor
clock ribbon candle barrel violin button shelf carpet letter coin whistle umbrella feather spoon needle rope
""".split()
_WHERE = """
near|behind|beside|above|below|outside|not far from|opposite|in front of|at the back of
""".strip().split("|")
_PLACES = """
harbour market station chapel orchard bridge tavern library stable quarry meadow courtyard lighthouse workshop
garden cellar tower mill school river forest well gate theatre
""".split()
_WHEN = """
before dawn|after the storm|in late summer|on a market day|during the long winter|at noon|when the bells rang|
after supper|while it rained|at the end of the week|in the first frost|as the tide went out|long ago|that evening|
without a word|for the second time|when nobody looked|to everyone's surprise|as usual|once more
""".replace("\n", "").split("|")

_SENTENCES = 4096


def _table(pattern: str, *columns: list[str]) -> np.ndarray:
    """Every combination of *columns* in *pattern*, so that one lookup gives several words."""
    phrases = [""]
    for column in columns:
        phrases = [f"{phrase}|{word}" for phrase in phrases for word in column]
    return np.array([pattern.format(*phrase.split("|")[1:]) for phrase in phrases], dtype=object)


_PHRASES = (
    _table("The {} {} ", _QUALITIES, _PEOPLE),
    _table("{} {} ", _MANNERS, _DEEDS),
    _table("the {} {} ", _LOOKS, _THINGS),
    _table("{} the {} ", _WHERE, _PLACES),
    _table("{}. ", _WHEN),
)


def endless(seed: int) -> Iterator[str]:
    """Sentences in pieces of about 300 kB, for ever; each ends with a full stop and a space."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = [table.size for table in _PHRASES]
    while True:
        rows = rng.integers(0, sizes, size=(_SENTENCES, len(sizes)))
        slots = np.empty(rows.shape, dtype=object)
        for column, table in enumerate(_PHRASES):
            slots[:, column] = table[rows[:, column]]
        yield "".join(slots.ravel().tolist())
