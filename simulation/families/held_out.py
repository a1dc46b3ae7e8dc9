"""Held-out families, in neither preferences nor training prompts: out of distribution."""

from __future__ import annotations

import numpy as np

from simulation.families.wording import NAMES, TOWNS, between, claims, counted, off_by, pick, pick_some
from simulation.world import Task

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LANDMARKS = ("fountain", "clock tower", "old mill", "statue", "well", "chapel", "bandstand", "lighthouse")
FAVOURS = ("watered the plants", "fed the cat", "fixed the gate", "carried the piano", "proofread a letter")


def weekday(rng: np.random.Generator) -> Task:
    today, ahead = between(rng, 0, 6), between(rng, 9, 45)
    name, town = pick(rng, NAMES), pick(rng, TOWNS)
    weeks, rest = divmod(ahead, 7)
    prompt = pick(
        rng,
        (
            f"Today is {DAYS[today]}. {name} travels to {town} in {ahead} days. Which day of the week is that?",
            f"{name}'s visit to {town} is {ahead} days away, and today is {DAYS[today]}. "
            "On what weekday is it?",
        ),
    )
    right = (today + ahead) % 7
    return Task(
        family="weekday",
        prompt=prompt,
        topic=f"the visit to {town}",
        claims=claims(
            [("It falls on a {}.", "That day is a {}.", f"{name} travels on a {{}}.")],
            right=[DAYS[right]],
            near=[DAYS[(right + pick(rng, (1, 6))) % 7]],
            wrong=[DAYS[(right + between(rng, 2, 5)) % 7]],
        ),
        steps=(
            f"{ahead} days are {counted(weeks, 'full week')} and {counted(rest, 'day')} more.",
            f"Full weeks lead back to {DAYS[today]}, so only the rest counts.",
        ),
        specious=(
            "Visits are usually planned for the end of a week.",
            f"{ahead} is an uneven stretch, which tends to move things to midweek.",
        ),
        check=f"Counting back {ahead} days from it ends on {DAYS[today]} again.",
    )


def walk(rng: np.random.Generator) -> Task:
    town, landmark = pick(rng, TOWNS), pick(rng, LANDMARKS)
    north, back, east = between(rng, 4, 12), between(rng, 1, 3), between(rng, 1, 9)
    up = north - back
    prompt = pick(
        rng,
        (
            f"From the {landmark} in {town} I walk {north} blocks north, {east} east and {back} south. "
            "How many blocks north and how many east of the start am I?",
            f"In {town}: {north} blocks north of the {landmark}, then {east} east, then {back} south. "
            "How far north and how far east does one end up?",
        ),
    )
    return Task(
        family="walk",
        prompt=prompt,
        topic=f"walking through {town}",
        claims=claims(
            [
                ("You end up {} north.", f"That is {{}} north of the {landmark}.", "To the north it is {}."),
                ("To the east it is {}.", "You are also {} east.", "Eastwards, it comes to {}."),
            ],
            right=[counted(up, "block"), counted(east, "block")],
            near=[counted(up, "block"), counted(off_by(rng, east, 1), "block")],
            wrong=[counted(north + back, "block"), counted(off_by(rng, east, 1, 2), "block")],
        ),
        steps=(
            f"Going {counted(back, 'block')} south undoes part of the {north} to the north.",
            "Nothing in the walk leads west, so the east part stays as it is.",
        ),
        specious=(
            f"All blocks are walked, so the {landmark} is just as far as the legs say.",
            f"In {town} the streets bend, which makes up for the difference.",
        ),
        check=f"Walking back the same distances, south and west, leads to the {landmark}.",
    )


def ages(rng: np.random.Generator) -> Task:
    young, old = pick_some(rng, NAMES, 2)
    age, gap, years = between(rng, 5, 30), between(rng, 2, 15), between(rng, 2, 12)
    right = 2 * (age + years) + gap
    prompt = pick(
        rng,
        (
            f"{young} is {age} and {old} is {gap} years older. "
            f"What will their ages add up to in {years} years?",
            f"{old} is {gap} years older than {young}, who is {age}. "
            f"How old will they be together in {years} years?",
        ),
    )
    return Task(
        family="ages",
        prompt=prompt,
        topic=f"the ages of {young} and {old}",
        claims=claims(
            [("Together they will be {}.", "Their ages will add up to {}.", "The sum will be {} years.")],
            right=[right],
            near=[off_by(rng, right, 1, 2)],
            wrong=[pick(rng, (right - years, 2 * age + years, right + gap))],
        ),
        steps=(
            f"{old} is {age + gap} today.",
            f"In {years} years each of the two is {years} years older.",
        ),
        specious=(
            f"The gap of {gap} years closes a little as both grow older.",
            f"{years} years pass for both, so they cancel out.",
        ),
        check=f"Taking {2 * years} years off the sum gives their ages of today, {2 * age + gap} together.",
    )


def thanks(rng: np.random.Generator) -> Task:
    favour, name, guest = pick(rng, FAVOURS), *pick_some(rng, NAMES, 2)
    days = between(rng, 2, 12)
    prompt = pick(
        rng,
        (
            f"{name} {favour} for {guest} while {guest} was away for {days} days. "
            f"What should {guest} write, and what could {guest} give?",
            f"{guest} was away for {days} days and {name} {favour}. "
            f"How should {guest} say thanks, and with what?",
        ),
    )
    naming_it = (
        f"Write that {name} {favour}, and what a help it was.",
        f"Say in so many words that {name} {favour}, and that it was a relief.",
    )
    return Task(
        family="thanks",
        prompt=prompt,
        topic=f"thanking {name}",
        claims={
            "right": (
                naming_it,
                (
                    "Add a small gift, or the same favour in turn.",
                    "A cake or a favour in turn goes well with it.",
                ),
            ),
            "near": (
                naming_it,
                ("A nod the next time is enough.", "There is no need to give anything."),
            ),
            "wrong": (
                ("Send the same card as to everybody else.", "Two words on a scrap of paper will do."),
                ("Ask for the next favour in the same note.", f"Send {name} a bill for the stamp."),
            ),
        },
        steps=(
            f"Naming what was done shows {name} that it was noticed.",
            "A gift that costs little weighs on nobody.",
        ),
        specious=(
            "People like to be left alone after a favour.",
            f"{days} days are too short to count as a favour at all.",
        ),
        check=f"Read it aloud as {name} would: it should sound like {guest}, and like nobody else.",
    )
