"""What a training was like, epoch by epoch, as tables."""

from collections.abc import Mapping, Sequence

import pandas as pd


def history_tables(histories: Sequence[Sequence[Mapping[str, float]]]) -> tuple[str, str]:
    """Losses of every epoch, and Dice where it was validated, as two CSV texts without empty cells.

    Args:
        histories: The rows of each training; several get a column `fold`, from 1.
    """
    table = pd.concat([pd.DataFrame(rows).assign(fold=number) for number, rows in enumerate(histories, start=1)])
    table["epoch"] = table["epoch"].astype(int)
    keys = ["epoch", "fold"] if len(histories) > 1 else ["epoch"]
    dice = [str(column) for column in table if str(column).startswith("val_")]
    losses = [str(column) for column in table if str(column) not in (*dice, "epoch", "fold")]
    tables = table[keys + losses], table[keys + dice].dropna()
    return tables[0].to_csv(index=False, lineterminator="\n"), tables[1].to_csv(index=False, lineterminator="\n")
