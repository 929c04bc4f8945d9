"""The README's Python does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_readme_shows_the_library() -> None:
    """There is a first look, and a strategy of one's own."""
    assert len(BLOCKS) == 2
    assert "Breakers(RedisStore.from_url(" in BLOCKS[0]
    assert "def trips(self, counts: Counts) -> bool" in BLOCKS[1]


@pytest.mark.parametrize(("block", "says"), [(0, "roles of ada\n"), (1, "")])
def test_a_block_runs_as_it_stands(redis_url: str, block: int, says: str) -> None:
    """A block, with the address of the server at hand, runs and prints what its comments promise."""
    code = BLOCKS[block].replace("redis://localhost:6379", redis_url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == says
