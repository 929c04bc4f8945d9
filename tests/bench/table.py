"""A table that can be printed and written to a page."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import rich.box
import rich.console
import rich.table

from tests.bench.bounds import Bound, figure


@dataclass(slots=True)
class Table:
    """Texts in rows and columns; the first column is words, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, name: str, *cells: str | float | None) -> None:
        """Add a row; None is something that does not exist."""
        self.rows.append((name, *(_text(cell) for cell in cells)))

    def show(self) -> None:
        """Print it."""
        table = rich.table.Table(title=self.title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        for column in self.columns:
            words = column == self.columns[0]
            table.add_column(column, justify="left" if words else "right", no_wrap=words)
        for row in self.rows:
            table.add_row(*row)
        rich.console.Console(width=max(160, rich.console.Console().width)).print(table)

    def markdown(self) -> str:
        """Write it."""
        rule = ("---", *("---:" for _ in self.columns[1:]))
        return "\n".join(_line(cells) for cells in (self.columns, rule, *self.rows))


def of_bounds(bounds: Iterable[Bound]) -> Table:
    """List what was promised and what was found."""
    table = Table("Bounds", ("what was promised", "measured", "bound", "unit", "holds"))
    for bound in bounds:
        table.add(bound.what, bound.measured, bound.limit, bound.unit, "yes" if bound.holds else "NO")
    return table


def _text(cell: str | float | None) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else figure(cell)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
