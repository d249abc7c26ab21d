"""The errors and warnings sklr raises; each message says what, the rule, the value given and the next step."""


class SklrError(Exception):
    """Base class of all errors that sklr raises itself."""


class EngineError(SklrError, ValueError):
    """The requested engine cannot train these candidates; the message lists the reasons."""


class AllDivergedError(SklrError, ValueError):
    """Every candidate of a search diverged or failed, so no learning rate can be selected."""


class NoScoreError(SklrError, ValueError):
    """No candidate of a search has a score: the scorer returned NaN for all of them, so none can be selected."""


class TrainingDiverged(SklrError):
    """Raised in the training loop to stop a diverged run; a search records it as a status and never propagates it.

    Parameters
    ----------
    step : int
        The optimizer step at which divergence was detected, counted from 0 over the whole training.
    loss : float
        The loss at that step.
    """

    def __init__(self, step: int, loss: float):
        super().__init__(step, loss)  # exceptions are unpickled from `args`, on the way from a worker for example
        self.step, self.loss = step, loss

    def __str__(self) -> str:
        return f"diverged at step {self.step}: loss {self.loss:.3g}"


class DivergedWarning(UserWarning):
    """Some runs of a search diverged; their candidates score `error_score` and rank last."""


class NoScoreWarning(UserWarning):
    """No candidate of a search with ``refit=False`` has a score, so none of its ``best_`` attributes is set."""


class TransferWarning(UserWarning):
    """A learning rate is extrapolated further than its transfer rule is known to hold."""


class OutOfMemoryWarning(UserWarning):
    """A stack of runs did not fit into memory and was split in half; the search continues, but slower."""


class StackFallbackWarning(UserWarning):
    """Stacked training raised an error, or a step could not be recorded; the search continues on a slower path."""


class EdgeOfRangeWarning(UserWarning):
    """The best learning rate is at an end of the searched range; a better one may lie outside it."""


class SettingsWarning(UserWarning):
    """A setting has no effect because another one overrides it, or the combination does not act as documented."""


class StorageError(SklrError):
    """The storage of a search cannot be opened, or was lost and did not come back; finished trials are kept."""


class StudyError(SklrError, ValueError):
    """The study of that name cannot be used for this search; the message names the differences."""


class StorageWarning(UserWarning):
    """A defect of a storage was found and repaired, such as a half-written last line."""


class LostWorkerWarning(UserWarning):
    """A worker process died during a search; the runs it was training are trained again."""
