"""The finished epochs in a net's history, and the error for an epoch without batches."""

from __future__ import annotations

from typing import Any

from skorch.dataset import get_len


def finished_epochs(net: Any) -> list[dict[str, Any]]:
    """Return the rows of a net's history whose training pass was completed; an interrupted epoch is excluded."""
    return [row for row in net.history if "train_batch_count" in row]


def no_batches(net: Any, epoch: int, batches: Any) -> ValueError:
    """Return the error for an epoch without training batches; `epoch` counts from 1."""
    how = [f"batch_size={getattr(batches, 'batch_size', None) or net.batch_size}"]
    how += ["drop_last=True"] if getattr(batches, "drop_last", False) else []
    how += [
        f"the {part.replace('_', ' ')} {type(getattr(batches, part)).__name__}"
        for part in ("sampler", "batch_sampler")
        if f"iterator_train__{part}" in net.get_params(deep=False)
    ]
    found = f"none in epoch {epoch} from {_n_rows(batches)} with {', '.join(how)}"
    advice = "Use a smaller batch_size or more rows, or check the sampler."
    return ValueError(f"The training data must make at least one batch in every epoch, got {found}. {advice}")


def _n_rows(batches: Any) -> str:
    try:
        return f"{get_len(batches.dataset)} rows"
    except (AttributeError, TypeError):  # a custom iterator, or a dataset without a length
        return "the data"
