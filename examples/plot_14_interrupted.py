"""
14. Interrupted and continued
=============================

A search with a `storage` saves every candidate as soon as it is finished. After Ctrl-C, a time limit, `kill -9` or a
power cut, the same script continues where it stopped, and ends with the same results as an uninterrupted search.
"""

# %%
# The storage is a SQLite file, here in a temporary folder. Without `resume=True`, a second search with the same study
# name would be an error, so that no search is continued by accident.
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, EdgeOfRangeWarning, NeuralNetClassifier, OptunaSearchCV, plot_lr_curve

warnings.simplefilter("ignore", EdgeOfRangeWarning)  # halfway through a search the best lr is often at an edge
X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(MLP, module__hidden=(64,), optimizer="adam", max_epochs=5, iterator_train__shuffle=True)
folder = tempfile.TemporaryDirectory()
search = OptunaSearchCV(
    net,
    lr_range=(1e-5, 1.0),
    n_trials=16,
    n_points=1,  # propose one candidate at a time, so that the search can be interrupted between them
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
    n_seeds=2,
    random_state=0,
    storage=Path(folder.name) / "digits.db",
    study_name="digits",
    resume=True,
)


def count_finished(search):
    """Return the number of finished candidates; one that the time limit stopped has no score and is not counted."""
    return int(np.isfinite(search.cv_results_["mean_test_score"]).sum())


# %%
# First we interrupt the search with Ctrl-C after five candidates, simulated by a callback. The attributes of the search
# then describe these five candidates.
def press_ctrl_c(study, trial):
    if trial.number == 4:
        raise KeyboardInterrupt


sessions = []  # number of finished candidates after each session
try:
    search.set_params(callbacks=[press_ctrl_c]).fit(X, y)
except KeyboardInterrupt:
    sessions.append(count_finished(search))
print(f"Ctrl-C: {sessions[0]} candidates")

# %%
# Then the search gets a time limit of a quarter of a second, half a second, one second, and so on. Each time it reads
# the finished candidates from the storage and trains others until the time is up.
search.set_params(callbacks=None)
for seconds in 0.25 * 2 ** np.arange(10):
    search.set_params(timeout=seconds).fit(X, y)
    sessions.append(count_finished(search))
    print(f"{seconds:g} s: {sessions[-1]} candidates")
    if sessions[-1] == search.n_trials:
        break

# %%
# The same search without interruptions and without a storage.
whole = OptunaSearchCV(**{**search.get_params(deep=False), "storage": None, "study_name": None, "resume": False})
whole.set_params(timeout=None).fit(X, y)
same = [
    params == other for params, other in zip(search.cv_results_["params"], whole.cv_results_["params"], strict=True)
]
print(f"same candidates: {all(same)}, same scores: {np.array_equal(search.cell_scores_, whole.cell_scores_)}")
print(f"best lr {search.best_lr_:.4g} and {whole.best_lr_:.4g}")

# %%
# With other data or another search space, resuming under the same name would be an error that names the difference. The
# left plot shows what each session added; crosses are the scores of the undisturbed search.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
lrs, scores = search.cv_results_["param_lr"].astype(float), search.cv_results_["mean_test_score"]
starts = [0, *sessions[:-1]]
names = ["until Ctrl-C", *(f"session {number}" for number in range(2, len(sessions) + 1))]
for name, start, end in zip(names, starts, sessions, strict=True):
    if end > start:
        left.plot(np.arange(start, end) + 1, scores[start:end], "o", markersize=9, label=name)
left.plot(np.arange(len(scores)) + 1, whole.cv_results_["mean_test_score"], "kx", markersize=5, label="undisturbed")
left.set(xlabel="candidate, in the order of proposal", ylabel="accuracy, mean over cells")
left.legend()
plot_lr_curve(search, ax=right)
figure.savefig("plot_14_interrupted.png", dpi=120)
folder.cleanup()
plt.show()
