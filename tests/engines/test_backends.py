"""Trainings spread over Dask's and Ray's workers are the trainings of one process, by either engine."""

import contextlib
import os
import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier

pytestmark = pytest.mark.slow

X, Y = make_classification(n_samples=90, n_features=6, n_informative=4, random_state=0)


@contextlib.contextmanager
def dask():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        yield


@contextlib.contextmanager
def ray():
    import ray
    from ray.util.joblib import register_ray

    # 15 by default: beside other tests its workers would hardly ever run
    os.environ.update(RAY_worker_niceness="0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    register_ray()
    try:
        with joblib.parallel_config("ray"):
            yield
    finally:
        ray.shutdown()


def search(engine, n_jobs):
    net = NeuralNetClassifier(MLP, max_epochs=3, batch_size=16, iterator_train__shuffle=True, random_state=0)
    return LRGridSearchCV(net, lrs=[0.01, 0.1, 0.3, 1e30], cv=3, engine=engine, n_jobs=n_jobs, random_state=0)


@pytest.mark.filterwarnings("ignore")  # both packages warn of their own affairs when they start and stop
@pytest.mark.parametrize("workers", [dask, ray], ids=["dask", "ray"])
def test_both_engines_give_the_scores_of_one_process(workers):
    with workers():
        for engine in ("sequential", "stacked"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alone = search(engine, None).fit(X, Y)
                spread = search(engine, 2).fit(X, Y)
            assert spread.engine_ == engine
            np.testing.assert_array_equal(spread.cell_scores_, alone.cell_scores_)
            assert list(spread.cv_results_["status"]) == list(alone.cv_results_["status"])
            assert spread.best_lr_ == alone.best_lr_
