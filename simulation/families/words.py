"""Questions about words, and requests for advice with known key points."""

from __future__ import annotations

import numpy as np

from simulation.families.wording import NAMES, between, claims, pick, pick_some
from simulation.world import Task

WORDS = (
    "anchor",
    "apron",
    "barrel",
    "basil",
    "bridge",
    "candle",
    "canvas",
    "cedar",
    "copper",
    "dagger",
    "daisy",
    "ember",
    "engine",
    "fabric",
    "feather",
    "garden",
    "ginger",
    "hammer",
    "harbour",
    "island",
    "ivory",
    "jacket",
    "kettle",
    "ladder",
    "lantern",
    "marble",
    "meadow",
    "needle",
    "orchard",
    "paddle",
    "pepper",
    "quarry",
    "ribbon",
    "saddle",
    "silver",
    "timber",
    "tunnel",
    "velvet",
    "walnut",
    "window",
)
MISHAPS = (
    ("scratched the bicycle", "bicycle", "a new coat of paint"),
    ("broke a rung of the ladder", "ladder", "the repair"),
    ("lost the key to the shed", "key", "a new lock"),
    ("spilled ink on the book", "book", "another copy"),
    ("tore the tent", "tent", "a proper patch"),
    ("cracked the baking dish", "dish", "a new one"),
    ("bent the garden fork", "fork", "a replacement"),
    ("burned a hole in the blanket", "blanket", "the mending"),
    ("flattened the football", "football", "a new ball"),
    ("chipped the teapot", "teapot", "one like it"),
)
LENDERS = ("neighbour", "aunt", "flatmate", "colleague", "cousin", "landlord", "teacher", "friend")


def alphabet(rng: np.random.Generator) -> Task:
    words = pick_some(rng, WORDS, 4)
    ordered = sorted(words)
    last = rng.random() < 0.5
    asked, spot = ("last", -1) if last else ("first", 0)
    near, wrong = (ordered[-2], ordered[0]) if last else (ordered[1], ordered[-1])
    name = pick(rng, NAMES)
    prompt = pick(
        rng,
        (
            f"Which of these words comes {asked} in the alphabet: {', '.join(words)}?",
            f"{name} sorts four cards by the alphabet: {', '.join(words)}. Which card is {asked}?",
        ),
    )
    return Task(
        family="alphabet",
        prompt=prompt,
        topic="the order of these words",
        claims=claims(
            [
                (
                    f"The {asked} one is “{{}}”.",
                    f"“{{}}” comes {asked}.",
                    f"The word that comes {asked} is “{{}}”.",
                )
            ],
            right=[ordered[spot]],
            near=[near],
            wrong=[wrong],
        ),
        steps=(
            f"Going by initials, the words begin with {', '.join(w[0].upper() for w in words)}.",
            "Where two begin alike, the second letter decides, and so on."
            if len({w[0] for w in words}) < 4
            else "All four initials differ, so the first letter decides.",
        ),
        specious=(
            f"“{wrong.capitalize()}” feels like a word from that end of a dictionary.",
            "Longer words usually stand behind the shorter ones, which narrows it down.",
        ),
        check=f"Writing the list out in order puts “{ordered[1]}” and “{ordered[2]}” in the middle.",
    )


def letters(rng: np.random.Generator) -> Task:
    word = pick(rng, WORDS)
    other = pick(rng, [w for w in WORDS if w != word])
    right = len(word) + len(other)
    name = pick(rng, NAMES)
    prompt = pick(
        rng,
        (
            f"How many letters do “{word}” and “{other}” have together?",
            f"{name} paints the words “{word}” and “{other}” on a sign. How many letters is that in all?",
        ),
    )
    return Task(
        family="letters",
        prompt=prompt,
        topic=f"counting the letters of “{word}”",
        claims=claims(
            [("Together they have {} letters.", "That is {} letters in all.", "The count is {} letters.")],
            right=[right],
            near=[right + pick(rng, (1, -1))],
            wrong=[right + pick(rng, (3, -3, 4))],
        ),
        steps=(
            f"“{word}” has {len(word)} letters.",
            f"“{other}” has {len(other)} letters.",
        ),
        specious=(
            "Words of that kind mostly have the same length, give or take.",
            f"Spoken aloud, “{other}” is short, so it adds only a little.",
        ),
        check=f"Spelling out {'-'.join(word.upper())} and {'-'.join(other.upper())} gives the same count.",
    )


def advice(rng: np.random.Generator) -> Task:
    mishap, thing, remedy = pick(rng, MISHAPS)
    lender, name = pick(rng, LENDERS), pick(rng, NAMES)
    days = between(rng, 2, 9)
    prompt = pick(
        rng,
        (
            f"I {mishap} that my {lender} {name} lent me {days} days ago. "
            "What should I say, and what should I do?",
            f"My {lender} {name} wants the {thing} back in {days} days, and I {mishap}. "
            "What do I say, and what do I do about it?",
        ),
    )
    own_up = (
        f"Tell {name} today, say plainly that it was you, and apologise.",
        f"Go to {name} now, own up to it, and say that you are sorry.",
        f"Say to {name}, before anything else, what you did and that you regret it.",
    )
    return Task(
        family="advice",
        prompt=prompt,
        topic=f"the {thing}",
        claims={
            "right": (
                own_up,
                (f"Offer to pay for {remedy}.", f"Then arrange for {remedy} at your own cost."),
            ),
            "near": (
                own_up,
                (f"Ask {name} to forget about the {thing}.", f"Leave the rest to {name}."),
            ),
            "wrong": (
                (
                    f"Say that the {thing} was like that when it came.",
                    f"Tell {name} that somebody else had the {thing}.",
                ),
                (f"Leave it at the door while {name} is out.", "Wait until nobody thinks of it any more."),
            ),
        },
        steps=(
            f"{name} will notice the {thing} anyway, and it is better heard from you.",
            f"An apology counts for more when it comes with something done about the {thing}.",
        ),
        specious=(
            f"A {lender} hardly ever looks at a {thing} twice.",
            "Such things sort themselves out when nobody brings them up.",
        ),
        check=f"Imagine that {name} had done this to your own {thing}: that is what you would hope for.",
    )
