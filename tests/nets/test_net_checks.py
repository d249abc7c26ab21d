"""scikit-learn's own checks of an estimator, all of them, for the three nets with MLP."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklr.modules import MLP
from sklr.nets import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor

pytestmark = pytest.mark.slow

NETS = (NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor)
IN_FLOAT64 = {  # they ask for agreement to 1e-7, for which float32 has no room
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_methods_subset_invariance",
    "check_methods_sample_order_invariance",
}


def checks_of(net):
    """Yield every check with the net that is to pass it."""
    for dtype in (torch.float32, torch.float64):
        module = functools.partial(MLP, dtype=torch.float64) if dtype == torch.float64 else MLP
        for estimator, check in estimator_checks_generator(net(module, optimizer="adam", lr=0.02, max_epochs=20)):
            name = getattr(check, "func", check).__name__
            if (name in IN_FLOAT64) == (dtype == torch.float64):
                yield pytest.param(estimator, check, id=f"{net.__name__}-{name}-{dtype}")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(("estimator", "check"), [case for net in NETS for case in checks_of(net)])
def test_every_check_passes(estimator, check):
    check(estimator)


def test_the_check_of_array_api_runs_and_passes():
    # SciPy reads the variable when it is imported, so this takes a process of its own
    code = (
        "from sklearn.utils.estimator_checks import check_array_api_input as check\n"
        "from sklr.modules import MLP\n"
        "from sklr.nets import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor\n"
        "for net in (NeuralNetClassifier, NeuralNetBinaryClassifier, NeuralNetRegressor):\n"
        "    check(net.__name__, net(MLP), array_namespace='numpy', expect_only_array_outputs=False)\n"
        "    print('passed')\n"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["passed"] * 3, done.stderr
