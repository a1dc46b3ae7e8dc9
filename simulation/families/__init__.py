"""The families of tasks: a function from random numbers to one Task each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from simulation.families.held_out import ages, thanks, walk, weekday
from simulation.families.numbers import bargain, change, conversion, recipe, sharing
from simulation.families.places import almanac, opening, timetable
from simulation.families.words import advice, alphabet, letters
from simulation.world import Task

Family = Callable[[np.random.Generator], Task]

IN_DISTRIBUTION: Mapping[str, Family] = {
    "change": change,
    "sharing": sharing,
    "conversion": conversion,
    "recipe": recipe,
    "bargain": bargain,
    "timetable": timetable,
    "opening": opening,
    "almanac": almanac,
    "alphabet": alphabet,
    "letters": letters,
    "advice": advice,
}
OUT_OF_DISTRIBUTION: Mapping[str, Family] = {
    "weekday": weekday,
    "walk": walk,
    "ages": ages,
    "thanks": thanks,
}
