"""
15. Several processes
=====================

`n_jobs` spreads a search over the cores of a machine. With a `storage`, several scripts on one or many machines can
work on the same search. Neither changes any score, and if a process dies, only the work it was doing is lost.
"""

# %%
# To show which process does what, the scorer also returns its process id and the time; only the accuracy is used to
# choose the learning rate. The scorer is defined in a separate file, because two scripts use it for the same search
# below, and a search can only be continued with the same scorer.
import importlib
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier

folder = tempfile.TemporaryDirectory()
path = Path(folder.name)
(path / "scorers.py").write_text("""
import os, time

def score(net, X, y):
    return {"accuracy": net.score(X, y), "process": os.getpid(), "time": time.time()}
""")

X, y = load_digits(return_X_y=True)
X, y = X[:900] / 16, y[:900]
net = NeuralNetClassifier(MLP, module__hidden=(32,), optimizer="adam", max_epochs=5, iterator_train__shuffle=True)
search = LRGridSearchCV(
    net,
    lr_range=(1e-4, 0.4),
    n_lrs=6,
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
    refit="accuracy",
    engine="sequential",  # to have separate runs to distribute; a net this small would be faster as one stack
    random_state=0,
)


def runs(search, what):
    """Return one of the scores of all runs, shape (n_candidates, n_folds)."""
    return np.stack([search.cv_results_[f"split{fold}_test_{what}"] for fold in range(3)], axis=1)


# %%
# `n_jobs` works as in scikit-learn: joblib's backend provides the workers. The default is loky, which starts processes.
# `parallel_config` selects another backend, such as those that Dask and Ray register, whose workers may be on other
# machines. Stacks are distributed, too: a large one is divided into one stack per worker.
sys.path.insert(0, str(path))  # worker processes import the scorer, too
search.set_params(scoring=importlib.import_module("scorers").score)
accuracies, spread = {}, {}
for n_jobs in (1, 2):
    start = time.time()
    with parallel_config(backend="loky"):
        search.set_params(n_jobs=n_jobs).fit(X, y)
    accuracies[n_jobs] = runs(search, "accuracy")
    spread[n_jobs] = runs(search, "process"), runs(search, "time") - start
    n_processes = len(np.unique(runs(search, "process")))
    print(f"n_jobs={n_jobs}: {n_processes} processes, best lr {search.best_lr_:.3g}")
one_by_one = accuracies[1]
print("same scores:", np.array_equal(accuracies[2], one_by_one))

# %%
# Now two processes with one storage; usually this is the same script started twice. If the storage were the URL of a
# database server, such as `postgresql+psycopg://user@host/lr`, they would share the candidates, on any number of
# machines. A SQLite file needs no server, but only one process can use it at a time: the second one gets an error. The
# first process is killed while it trains its third candidate, and another process continues the search.
search.set_params(n_jobs=1, storage=path / "digits.db", study_name="shared", resume=True, verbose=2)
(path / "search.pkl").write_bytes(pickle.dumps((search, X, y)))
(path / "worker.py").write_text("""
import pickle

with open("search.pkl", "rb") as file:
    search, X, y = pickle.load(file)
search.fit(X, y)
""")


def start_one(name):
    with open(path / name, "w") as out:
        return subprocess.Popen([sys.executable, "worker.py"], cwd=path, stdout=out, stderr=subprocess.PIPE, text=True)


def count_runs(name):
    return (path / name).read_text().count("END")


workers = {name: start_one(name) for name in ("one.txt", "two.txt")}
while all(worker.poll() is None for worker in workers.values()):
    time.sleep(0.02)
second = next(name for name, worker in workers.items() if worker.poll() is not None)
message = workers.pop(second).communicate()[1].splitlines()[-1]
(victim,) = workers
print(message.replace(str(workers[victim].pid), "..."))
while count_runs(victim) < 7:
    if workers[victim].poll() is not None:
        raise RuntimeError("the worker has failed")
    time.sleep(0.02)
workers[victim].kill()
workers[victim].communicate()
killed = time.time()
workers["another.txt"] = start_one("another.txt")
workers["another.txt"].communicate()

# %%
# Another search with the same study name finds all candidates in the file and trains none.
search.set_params(verbose=0).fit(X, y)
print("same scores:", np.array_equal(runs(search, "accuracy"), one_by_one))
for name, worker in workers.items():
    fate = "killed" if name == victim else "lived"
    print(f"{(runs(search, 'process') == worker.pid).sum()} of {one_by_one.size} runs by the process that {fate}")

# %%
# Every dot is a run, at the time when it was scored, with one colour per process. The left plot shows the search with
# `n_jobs=2`, the right plot the two scripts.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
lrs = np.repeat(search.cv_results_["param_lr"].astype(float), 3)


def draw(ax, processes, seconds, names):
    for process, name in names.items():
        mine = processes.ravel() == process
        ax.plot(seconds.ravel()[mine], lrs[mine], "o", alpha=0.7, label=name)
    ax.set(yscale="log", xlabel="seconds", ylabel="learning rate")


processes, seconds = spread[2]
draw(left, processes, seconds - seconds.min(), {p: f"worker {i}" for i, p in enumerate(np.unique(processes), start=1)})
ended = runs(search, "time")
names = {workers[victim].pid: "killed", **{w.pid: "lived" for name, w in workers.items() if name != victim}}
draw(right, runs(search, "process"), ended - ended.min(), names)
right.axvline(killed - ended.min(), color="red", linestyle="--", label="kill")
for ax, title in (left, "n_jobs=2"), (right, "one storage, one process after the other"):
    ax.set_title(title)
    ax.legend(loc="lower right")
figure.savefig("plot_15_several_processes.png", dpi=120)
folder.cleanup()
plt.show()
