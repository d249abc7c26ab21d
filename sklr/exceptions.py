"""The errors and warnings sklr raises; each message says what, the rule, the value given and the next step."""


class SklrError(Exception):
    """Base class of every error sklr raises on purpose."""


class EngineError(SklrError, ValueError):
    """The engine asked for cannot train these candidates; the message lists the reasons."""


class AllDivergedError(SklrError, ValueError):
    """Every candidate of a search diverged or failed, so there is no learning rate to choose."""


class NoScoreError(SklrError, ValueError):
    """No candidate of a search has a score: the scorer returned NaN for all of them, so there is none to choose."""


class TrainingDiverged(SklrError):
    """Raised inside a training to end it at once; a search turns it into a status and never lets it out.

    Parameters
    ----------
    step : int
        The optimizer step, counted from 0 over the whole training, at which it was found.
    loss : float
        That loss.
    """

    def __init__(self, step: int, loss: float):
        super().__init__(step, loss)  # both positional, so that it survives pickling to and from a worker
        self.step, self.loss = step, loss

    def __str__(self) -> str:
        return f"diverged at step {self.step}: loss {self.loss:.3g}"


class DivergedWarning(UserWarning):
    """Some runs of a search diverged; their candidates score `error_score` and rank last."""


class NoScoreWarning(UserWarning):
    """No candidate of a search with ``refit=False`` has a score, so none of its ``best_`` attributes is set."""


class TransferWarning(UserWarning):
    """A learning rate is carried further than its rule is known to hold."""


class OutOfMemoryWarning(UserWarning):
    """A stack of runs did not fit into memory and was halved; the search goes on, slower."""


class StackFallbackWarning(UserWarning):
    """Training in a stack raised an error, or a step could not be recorded; the search goes on another way, slower."""


class EdgeOfRangeWarning(UserWarning):
    """The best learning rate lies at an end of the range that was searched; a better one may lie beyond."""


class SettingsWarning(UserWarning):
    """A setting has no effect, as another overrides it, or does not act as it says beside another."""


class StorageError(SklrError):
    """The storage of a search cannot be opened, or went away and did not come back; what has finished is kept."""


class StudyError(SklrError, ValueError):
    """A study of that name cannot be used for this search; the message names what differs."""


class StorageWarning(UserWarning):
    """Something was wrong with a storage and has been put right, such as a half-written last line."""


class LostWorkerWarning(UserWarning):
    """A worker process died in mid-search; what it was training is trained again."""
