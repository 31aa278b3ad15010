"""The story that `make story` tells goes as it should."""

from pathlib import Path

import pytest
import story


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_story_of_a_champion(tmp_path: Path):
    lines: list[str] = []
    try:
        story.tell(tmp_path, lines.append)
    except AssertionError as error:
        raise AssertionError("\n".join(lines[-60:])) from error
    assert sum(line.startswith("$ sa2net") for line in lines) > 15
