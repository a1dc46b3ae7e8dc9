"""Questions about times and small towns, answered from the facts in the prompt."""

from __future__ import annotations

import numpy as np

from simulation.families.wording import NAMES, TOWNS, between, claims, clock, counted, pick, pick_some
from simulation.world import Task

RIDES = ("bus", "ferry", "train", "mail coach", "tram", "night boat")
HOUSES = (
    "bakery",
    "library",
    "bath house",
    "post office",
    "museum",
    "clinic",
    "tea room",
    "town hall",
    "smithy",
    "market hall",
)
JOBS = ("ferryman", "baker", "teacher", "smith", "clockmaker", "beekeeper", "librarian", "doctor", "tailor")


def timetable(rng: np.random.Generator) -> Task:
    ride = pick(rng, RIDES)
    start, goal = pick_some(rng, TOWNS, 2)
    leaves, takes = between(rng, 72, 240) * 5, between(rng, 5, 38) * 5
    arrives = leaves + takes
    prompt = pick(
        rng,
        (
            f"The {ride} leaves {start} at {clock(leaves)} and takes {takes} minutes to {goal}. "
            "When does it arrive?",
            f"I take the {clock(leaves)} {ride} from {start} to {goal}. The trip lasts {takes} minutes. "
            "At what time am I there?",
        ),
    )
    slip = pick(rng, (5, 10, -10, -5))
    blunder = pick(rng, (60, -60, 40, 100))
    return Task(
        family="timetable",
        prompt=prompt,
        topic=f"the {ride} to {goal}",
        claims=claims(
            [("It arrives at {}.", f"The {ride} reaches {goal} at {{}}.", f"You are in {goal} at {{}}.")],
            right=[clock(arrives)],
            near=[clock(arrives + slip)],
            wrong=[clock(arrives + blunder)],
        ),
        steps=(
            f"{takes} minutes are {counted(takes // 60, 'hour')} and {takes % 60} minutes."
            if takes >= 60
            else f"The trip of {takes} minutes is shorter than an hour.",
            f"The count starts at {clock(leaves)}, {counted(60 - leaves % 60, 'minute')} before the hour.",
        ),
        specious=(
            f"A {ride} out of {start} tends to run to the full hour, so the minutes even out.",
            f"{goal} is on the way, and {takes} minutes pass quickly.",
        ),
        check=f"Counting {takes} minutes back from the arrival leads to {clock(leaves)} again.",
    )


def opening(rng: np.random.Generator) -> Task:
    town = pick(rng, TOWNS)
    houses = pick_some(rng, HOUSES, 3)
    first = between(rng, 12, 17)
    hours = [first * 30, (first + between(rng, 1, 3)) * 30, (first + between(rng, 4, 7)) * 30]
    told = list(zip(houses, hours, strict=True))
    rng.shuffle(told)
    listed = ", ".join(f"the {house} at {clock(hour)}" for house, hour in told[:2])
    prompt = pick(
        rng,
        (
            f"In {town} these open in the morning: {listed} and the {told[2][0]} at {clock(told[2][1])}. "
            "Which opens first, and how long before the last?",
            f"{town} opens {listed} and the {told[2][0]} at {clock(told[2][1])}. "
            "Which is the earliest, and how long until all are open?",
        ),
    )
    gap = hours[2] - hours[0]
    return Task(
        family="opening",
        prompt=prompt,
        topic=f"mornings in {town}",
        claims=claims(
            [
                ("The {} opens first.", "The earliest to open is the {}.", f"In {town} the {{}} is first."),
                (
                    "All are open {} minutes later.",
                    "The last one opens {} minutes after it.",
                    "The gap to the last is {} minutes.",
                ),
            ],
            right=[houses[0], gap],
            near=[houses[0], gap + pick(rng, (30, -30))],
            wrong=[houses[between(rng, 1, 2)], gap + pick(rng, (60, -60, 30))],
        ),
        steps=(
            f"The times in order are {clock(hours[0])}, {clock(hours[1])} and {clock(hours[2])}.",
            f"Only the first and the last of them count, and that last one is the {houses[2]}.",
        ),
        specious=(
            f"A {houses[1]} is the kind of place that people need early in the day.",
            f"In a town like {town} such things usually go by the order in which they are named.",
        ),
        check=f"None of the three opens before {clock(hours[0])} or after {clock(hours[2])}.",
    )


def almanac(rng: np.random.Generator) -> Task:
    town = pick(rng, TOWNS)
    people = pick_some(rng, NAMES, 3)
    jobs = pick_some(rng, JOBS, 3)
    facts = [f"{person} is the {job}" for person, job in zip(people, jobs, strict=True)]
    teacher, pupil = (int(i) for i in rng.permutation(3)[:2])
    other = 3 - teacher - pupil
    prompt = pick(
        rng,
        (
            f"In {town}, {facts[0]}, {facts[1]} and {facts[2]}. {people[pupil]} lives next door to "
            f"{people[teacher]}. What is the work of {people[pupil]}'s neighbour?",
            f"{facts[0]}, {facts[1]}, and {facts[2]} of {town}. {people[teacher]} shares a garden with "
            f"{people[pupil]}. What does the person who shares {people[pupil]}'s garden do?",
        ),
    )
    return Task(
        family="almanac",
        prompt=prompt,
        topic=f"the people of {town}",
        claims=claims(
            [("It is the {}.", "That person is the {}.", f"{people[pupil]} lives beside the {{}}.")],
            right=[jobs[teacher]],
            near=[jobs[pupil]],
            wrong=[jobs[other]],
        ),
        steps=(
            f"The person beside {people[pupil]} is {people[teacher]}.",
            f"So what counts is the work that {people[teacher]} does in {town}.",
        ),
        specious=(
            f"{people[other]} is named in the same breath, so the two must be neighbours.",
            f"In a place like {town} the {jobs[other]} lives close to everyone.",
        ),
        check=f"Neither {people[other]} nor {people[pupil]} fits the description, so nobody else is left.",
    )
