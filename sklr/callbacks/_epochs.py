"""What a net's history says of the epochs it has been through."""

from __future__ import annotations

from typing import Any


def finished_epochs(net: Any) -> list[dict[str, Any]]:
    """Return the rows of a net's history whose training pass was completed; an interrupted epoch is left out."""
    return [row for row in net.history if "train_batch_count" in row]
