"""Schedules: the five fields that everybody writes, turned into the six that Kubeflow Pipelines reads.

Its first field is the second. It takes five fields too, and reads them one field off: `10 10 * * *` runs every hour
instead of once a day. And it knows Sunday as 0 only, and refuses nothing that can never come.
"""

import re

from sa2net.errors import ConfigError

FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"^(?:(\*|\?)|(\w+)(?:-(\w+))?)(?:/(\d+))?$")


def six_fields(expression: str) -> str:
    """A schedule as Kubeflow Pipelines wants it.

    Args:
        expression: Five fields (minute, hour, day of month, month, day of week), or six with the second in front.

    Returns:
        Six fields; the days of the week as numbers from 0 (Sunday) to 6.

    Raises:
        ConfigError: It is no schedule, or one that never comes.
    """
    fields = expression.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ConfigError(
            f"--cron {expression!r} is no schedule",
            evidence=f"{len(fields)} fields",
            action="Write minute, hour, day of month, month, day of week, such as '0 3 * * 1' for Mondays at 03:00.",
        )
    values = [_values(text, place, expression) for place, text in enumerate(fields)]
    if len(values[0]) > 1:
        raise ConfigError(
            f"--cron {expression!r} starts runs every few seconds",
            evidence=f"the first of six fields is the second: {fields[0]}",
            action="Write 0 there, or leave it out.",
        )
    days, months = values[3], values[4]
    every_weekday = fields[5] in ("*", "?")  # else a day counts that fits either field
    if every_weekday and all(min(days) > LONGEST_MONTH[month - 1] for month in months):
        raise ConfigError(
            f"--cron {expression!r} never comes",
            evidence=f"none of its months has a day {min(days)}",
            action="Choose another day or month.",
        )
    if not every_weekday:
        fields[5] = ",".join(str(day) for day in sorted({day % 7 for day in values[5]}))
    return " ".join(fields)


def _values(text: str, place: int, expression: str) -> list[int]:
    """The numbers that a field stands for."""
    found: list[int] = []
    for part in text.split(","):
        match = _PART.match(part)
        if not match:
            raise _wrong(part, place, expression)
        star, first, last, step = match.groups()
        low, high = RANGES[place]
        if place == 5 and star:
            high = 6
        if not star:
            low = _number(first, place, expression)
            high = _number(last, place, expression) if last else (high if step else low)
        if low > high or step == "0" or (star == "?" and place not in (3, 5)):
            raise _wrong(part, place, expression)
        found += range(low, high + 1, int(step or 1))
    return found


def _number(text: str, place: int, expression: str) -> int:
    names = {4: {name: at for at, name in enumerate(MONTHS, 1)}, 5: {name: at for at, name in enumerate(WEEKDAYS)}}
    low, high = RANGES[place]
    number = names.get(place, {}).get(text.lower(), int(text) if text.isascii() and text.isdigit() else -1)
    if not low <= number <= high:
        raise _wrong(text, place, expression)
    return number


def _wrong(part: str, place: int, expression: str) -> ConfigError:
    low, high = RANGES[place]
    return ConfigError(
        f"--cron {expression!r} is no schedule",
        evidence=f"{part!r} is no {FIELDS[place]}",
        action=f"A {FIELDS[place]} is a number from {low} to {high}, a list (1,2), a range (1-5), a step (*/5) or *.",
    )
