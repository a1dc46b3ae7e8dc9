"""Questions about quantities: change, sharing, units, recipes, prices."""

from __future__ import annotations

import numpy as np

from simulation.families.wording import NAMES, between, claims, counted, off_by, pick
from simulation.world import Task

GOODS = (
    "notebooks",
    "candles",
    "mugs",
    "lanterns",
    "brushes",
    "baskets",
    "pencils",
    "ribbons",
    "kites",
    "jars of honey",
    "seed packets",
    "postcards",
    "buttons",
    "spoons",
    "bars of soap",
    "maps",
)
CROPS = ("apples", "pears", "eggs", "plums", "bulbs", "bricks", "tiles", "walnuts", "onions", "figs")
HOLDERS = ("crate", "basket", "shelf", "box", "cart", "tray")
UNITS = (
    ("kilograms", "grams", 1000, "flour"),
    ("metres", "centimetres", 100, "rope"),
    ("litres", "millilitres", 1000, "milk"),
    ("hours", "minutes", 60, "practice"),
    ("kilometres", "metres", 1000, "fence"),
    ("weeks", "days", 7, "holiday"),
)
DISHES = ("soup", "porridge", "pancakes", "curry", "stew", "dumplings", "risotto", "crumble", "chutney")
STAPLES = ("flour", "rice", "oats", "lentils", "barley", "sugar")
SHOPS = ("Hartley's", "the Corner Store", "Moss & Son", "the Mill Shop", "Quill's", "Juniper Market")


def change(rng: np.random.Generator) -> Task:
    name, goods = pick(rng, NAMES), pick(rng, GOODS)
    count, price = between(rng, 2, 9), between(rng, 2, 11)
    total = count * price
    note = pick(rng, [n for n in (20, 50, 100) if n > total])
    prompt = pick(
        rng,
        (
            f"{name} buys {count} {goods} at {price} coins each and pays with {note} coins. "
            "How much change is due?",
            f"{goods.capitalize()} cost {price} coins each. {name} takes {count} and hands over {note} "
            "coins. What is the change?",
            f"How many coins does {name} get back from {note} after buying {count} {goods} for {price} "
            "coins each?",
        ),
    )
    return Task(
        family="change",
        prompt=prompt,
        topic=f"the price of {goods}",
        claims=claims(
            [
                (
                    f"{name} gets {{}} coins back.",
                    "The change is {} coins.",
                    "That leaves {} coins in change.",
                    "The shopkeeper should return {} coins.",
                )
            ],
            right=[note - total],
            near=[off_by(rng, note - total, 1, 2)],
            wrong=[off_by(rng, note - total, price + 2, 7, 13)],
        ),
        steps=(
            f"{count} {goods} at {price} coins each come to {total} coins.",
            f"The change is what remains of {note} coins once {total} coins are paid.",
        ),
        specious=(
            f"{price} coins is close to a round number, so the {goods} hardly matter next to {note} coins.",
            f"With {count} {goods} in the bag, about half of the money is usually spent.",
        ),
        check=f"As a check, {total} coins and the change together make {note} coins again.",
    )


def sharing(rng: np.random.Generator) -> Task:
    crop, holder = pick(rng, CROPS), pick(rng, HOLDERS)
    holders, each = between(rng, 3, 9), between(rng, 4, 15)
    left = between(rng, 1, holders - 1)
    total = holders * each + left
    plural = "shelves" if holder == "shelf" else f"{holder}es" if holder == "box" else f"{holder}s"
    prompt = pick(
        rng,
        (
            f"{total} {crop} are shared equally among {holders} {plural}. "
            f"How many go in each {holder}, and how many are left over?",
            f"I have {total} {crop} and {holders} {plural}. "
            f"If every {holder} holds the same number, how many is that, and how many remain?",
        ),
    )
    wrong_each = off_by(rng, each, 2, 3, 4)
    return Task(
        family="sharing",
        prompt=prompt,
        topic=f"sharing out {crop}",
        claims=claims(
            [
                (
                    f"Each {holder} holds {{}} {crop}.",
                    f"Put {{}} {crop} in every {holder}.",
                    f"Every {holder} gets {{}} {crop}.",
                ),
                ("{} are left over.", f"The number of {crop} that remain is {{}}.", "The remainder is {}."),
            ],
            right=[each, left],
            near=[each, off_by(rng, left, 1, 2)],
            wrong=[wrong_each, off_by(rng, left, 1, 3)],
        ),
        steps=(
            f"Dividing {total} by {holders} gives the share of one {holder}.",
            f"{holders} equal shares use up {total - left} of the {total} {crop}.",
        ),
        specious=(
            f"Since {total} is a large number, each {holder} must be nearly full.",
            f"{total} and {holders} end in different digits, which settles the remainder.",
        ),
        check=f"To check: {holders} times the share, plus what is left, makes {total}.",
    )


def conversion(rng: np.random.Generator) -> Task:
    large, small, factor, stuff = pick(rng, UNITS)
    amount = between(rng, 3, 19) / (2 if factor % 2 == 0 else 1)
    right = round(amount * factor)
    shown = f"{amount:g}"
    name = pick(rng, NAMES)
    prompt = pick(
        rng,
        (
            f"{name} has {shown} {large} of {stuff}. How many {small} is that?",
            f"How many {small} are there in {shown} {large} of {stuff}? {name} needs it for a list.",
            f"Please convert {shown} {large} of {stuff} to {small} for {name}.",
        ),
    )
    return Task(
        family="conversion",
        prompt=prompt,
        topic=f"{large} and {small}",
        claims=claims(
            [
                (
                    f"{shown} {large} is {{}} {small}.",
                    f"That makes {{}} {small}.",
                    f"{name} has {{}} {small} of {stuff}.",
                )
            ],
            right=[right],
            near=[off_by(rng, right, factor // 2, max(factor // 10, 2))],
            wrong=[pick(rng, (right * 10, right * 4, max(right // 10, 1) + 1))],
        ),
        steps=(
            f"One {large[:-1]} is {factor} {small}.",
            f"So multiply {shown} by {factor}.",
        ),
        specious=(
            f"{large.capitalize()} are the bigger unit, so the number has to get smaller.",
            f"The usual rule for {stuff} is to move the point and round it off.",
        ),
        check=f"Going back, dividing the result by {factor} gives {shown} again.",
    )


def recipe(rng: np.random.Generator) -> Task:
    dish, staple = pick(rng, DISHES), pick(rng, STAPLES)
    people, factor = between(rng, 2, 6), between(rng, 2, 5)
    grams = between(rng, 4, 24) * 10 * people
    guests = people * factor
    right = grams * factor
    prompt = pick(
        rng,
        (
            f"A {dish} recipe for {people} people uses {grams} grams of {staple}. "
            f"How much {staple} do {guests} people need?",
            f"My {dish} takes {grams} grams of {staple} and serves {people}. "
            f"How many grams for {guests} guests?",
        ),
    )
    return Task(
        family="recipe",
        prompt=prompt,
        topic=f"cooking {dish}",
        claims=claims(
            [
                (
                    f"You need {{}} grams of {staple}.",
                    f"Use {{}} grams of {staple} for {guests} people.",
                    "The amount is {} grams.",
                )
            ],
            right=[right],
            near=[off_by(rng, right, grams // people, 20)],
            wrong=[pick(rng, (right + grams, max(right - grams, 10), grams + guests * 10))],
        ),
        steps=(
            f"{guests} people are {factor} times as many as {people}.",
            f"One person's share is {grams // people} grams of {staple}.",
        ),
        specious=(
            f"{dish.capitalize()} thickens as it cooks, so the {staple} grows with the pot.",
            f"A handful of {staple} for every extra guest is what most cooks would add.",
        ),
        check=f"Dividing the amount by {guests} gives {grams // people} grams a person, as in the recipe.",
    )


def bargain(rng: np.random.Generator) -> Task:
    goods = pick(rng, GOODS)
    first, second = (SHOPS[int(i)] for i in rng.permutation(len(SHOPS))[:2])
    count_a, count_b = between(rng, 3, 9), between(rng, 3, 9)
    unit_a = between(rng, 2, 9)
    unit_b = unit_a + between(rng, 1, 4)
    if rng.random() < 0.5:
        unit_a, unit_b = unit_b, unit_a
    cheap, dear = (first, second) if unit_a < unit_b else (second, first)
    gap = abs(unit_a - unit_b)
    prompt = pick(
        rng,
        (
            f"{first} sells {count_a} {goods} for {count_a * unit_a} coins; {second} sells {count_b} for "
            f"{count_b * unit_b}. Which is cheaper apiece, and by how much?",
            f"Where are {goods} cheaper apiece, and by how much: {count_a} for {count_a * unit_a} coins at "
            f"{first}, or {count_b} for {count_b * unit_b} at {second}?",
        ),
    )
    return Task(
        family="bargain",
        prompt=prompt,
        topic=f"shopping for {goods}",
        claims=claims(
            [
                ("Buy them at {}.", "The better price is at {}.", "Apiece, it is cheaper at {}."),
                ("The difference is {} apiece.", "You save {} on each one.", "It comes to {} less for each."),
            ],
            right=[cheap, counted(gap, "coin")],
            near=[cheap, counted(off_by(rng, gap, 1, 2), "coin")],
            wrong=[dear, counted(off_by(rng, gap, 1, 2), "coin")],
        ),
        steps=(
            f"At {first} one costs {count_a * unit_a} divided by {count_a}, which is {unit_a} coins.",
            f"At {second} one costs {count_b * unit_b} divided by {count_b}, which is {unit_b} coins.",
        ),
        specious=(
            "A larger pack is nearly always the better buy, whatever it costs.",
            f"{dear[0].upper()}{dear[1:]} has a name for {goods}, and a good name usually means a fair price.",
        ),
        check=f"To check: {count_a} times {unit_a} and {count_b} times {unit_b} give back both pack prices.",
    )
