"""
14. Interrupted, and gone on with
=================================

A search that has a `storage` writes every candidate down as it ends. After Ctrl-C, a time limit, `kill -9` or a power
cut the same script goes on where it was, and ends with the results that an undisturbed search would have had.
"""

# %%
# The storage is one SQLite file, here in a folder that is removed at the end. Without `resume=True` a second search
# under a name that is taken would be an error: nothing is gone on with by accident.
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, EdgeOfRangeWarning, NeuralNetClassifier, OptunaSearchCV, plot_lr_curve

warnings.simplefilter("ignore", EdgeOfRangeWarning)  # the best of half a search is often the last that was tried
X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(MLP, module__hidden=(64,), optimizer="adam", max_epochs=5, iterator_train__shuffle=True)
folder = tempfile.TemporaryDirectory()
search = OptunaSearchCV(
    net,
    lr_range=(1e-5, 1.0),
    n_trials=16,
    n_points=1,  # one candidate after the other, so that there is something to interrupt
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
    n_seeds=2,
    random_state=0,
    storage=Path(folder.name) / "digits.db",
    study_name="digits",
    resume=True,
)


def count_finished(search):
    """Return how many candidates are through; one that the clock has cut short is among the others, without a score."""
    return int(np.isfinite(search.cv_results_["mean_test_score"]).sum())


# %%
# First somebody presses Ctrl-C when five candidates are through; a callback plays that part. The attributes of the
# search then tell of those five.
def press_ctrl_c(study, trial):
    if trial.number == 4:
        raise KeyboardInterrupt


sessions = []  # how many candidates were through after each
try:
    search.set_params(callbacks=[press_ctrl_c]).fit(X, y)
except KeyboardInterrupt:
    sessions.append(count_finished(search))
print(f"Ctrl-C: {sessions[0]} candidates")

# %%
# Then a queue gives it a quarter of a second, half a second, one second, and so on. Each time what is there is read,
# and the rest is trained for as long as there is time.
search.set_params(callbacks=None)
for seconds in 0.25 * 2 ** np.arange(10):
    search.set_params(timeout=seconds).fit(X, y)
    sessions.append(count_finished(search))
    print(f"{seconds:g} s: {sessions[-1]} candidates")
    if sessions[-1] == search.n_trials:
        break

# %%
# The same search undisturbed, and without a file.
whole = OptunaSearchCV(**{**search.get_params(deep=False), "storage": None, "study_name": None, "resume": False})
whole.set_params(timeout=None).fit(X, y)
same = [
    params == other for params, other in zip(search.cv_results_["params"], whole.cv_results_["params"], strict=True)
]
print(f"same candidates: {all(same)}, same scores: {np.array_equal(search.cell_scores_, whole.cell_scores_)}")
print(f"best lr {search.best_lr_:.4g} and {whole.best_lr_:.4g}")

# %%
# Other data or another space under the same name would be an error that names the difference. Left, what each session
# added; a cross is a score of the undisturbed search.
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
