"""Modules, losses, batches and scorers that are not as usual: trained as one by one, or refused beforehand."""

import itertools
import logging
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skorch.helper import SliceDict
from test_agreement import LRS, Double, X, Y, assert_agree, both, classifier, experiment
from torch import nn
from torch.nn import functional as F

from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.kernels import module_call
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.purity.untouched import Untouched

SMALL = partial(classifier, module__hidden=(8,))


def made(build, forward):
    """A class of modules in float64, by what they have and what they do."""

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            build(self)
            self.double()

        def forward(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

    return Made


def two_layers(m):
    m.a, m.b = nn.Linear(6, 8), nn.Linear(8, 3)


class OwnWeights(nn.Module):
    """That divides by the weights of the classes, as PyTorch's own does, but does not say so."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction, self.weight = reduction, torch.tensor([1.0, 2.0, 5.0]).double()

    def forward(self, output, target):
        return F.cross_entropy(output, target, weight=self.weight, reduction=self.reduction)


def test_what_a_custom_mean_divides_by_is_its_own_affair():
    order = np.argsort(Y, kind="stable")  # the first rows are of one class
    assert_agree(*both(SMALL(criterion=OwnWeights), X=X[order], y=Y[order]))


@pytest.mark.slow
def test_a_batch_of_rows_that_weigh_nothing():
    weight = np.ones(len(X))
    weight[::2] = weight[1:60:4] = 0
    stacked, alone = both(SMALL(batch_size=2), fit_params={"sample_weight": weight})
    assert_agree(stacked, alone)
    assert {outcome.status for row in stacked for outcome in row} == {"ok"}


def test_a_batch_of_nothing_but_ignored_classes():
    weight = np.full(len(X), 2.0)
    net = SMALL(batch_size=2, criterion__ignore_index=1)
    stacked, alone = both(net, y=np.where(np.arange(len(Y)) % 2, 1, Y), fit_params={"sample_weight": weight})
    assert_agree(stacked, alone)
    assert {outcome.status for row in stacked for outcome in row} == {"diverged"}  # as in PyTorch, whose mean is NaN


def stepping(m, x):
    m.steps += m.training
    return m.b(torch.relu(m.a(x))) * (1 if m.steps < 7 else 2)


def keeping(m, x):
    m.h = torch.relu(m.a(x))
    return m.b(m.h)


def with_counter(m):
    two_layers(m)
    m.steps = 0


def test_a_module_that_counts_its_steps_is_trained_by_itself():
    (reason,) = StackedEngine().unsupported(experiment(classifier(made(with_counter, stepping))), LRS)
    assert "changes its attribute 'steps' each time it is called" in reason


def test_a_module_may_keep_what_it_computes():
    assert_agree(*both(classifier(made(two_layers, keeping))))


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0

    def move(self):
        self.n += 1
        return self.n


SOURCES = {
    "count": lambda: partial(next, itertools.count()),
    "Random": lambda: random.Random(0).random,
    "Generator": lambda: np.random.default_rng(0).random,
    "slots": lambda: Slotted().move,
    "closure": lambda: (lambda seen: lambda: seen.append(1))([]),
    "lambda": lambda: (lambda source: lambda: source.random())(random.Random(0)),
    "torch.Generator": lambda: partial(torch.rand, 1, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_whatever_moves_on_is_seen(source):
    module = SimpleNamespace(source=source(), tensor=torch.zeros(2))
    untouched = Untouched(module)
    assert untouched.holds()
    module.tensor.add_(1)
    assert untouched.holds()
    module.source()
    assert not untouched.holds()


def test_what_is_made_anew_and_equal_is_no_change():
    module = SimpleNamespace(
        shape=torch.Size([2, 1000]), kept=[torch.zeros(1)], mean=0.5 + 1000, log=logging.getLogger("x")
    )
    untouched = Untouched(module)
    module.shape, module.mean = torch.Size([2, 1000]), 1000 + 0.5
    assert untouched.holds()
    module.kept = [torch.zeros(1)]
    assert (untouched.holds(), untouched.holds(strict=False)) == (False, True)
    module.kept.append(1)
    assert not untouched.holds(strict=False)


def noting(m, x):
    m.shape, m.kept, m.mean = x.shape, {"h": x.detach()}, 1000.5
    codes = m.codes(x[:, 0].long())
    return m.b(torch.relu(m.a(x[:, 1:]))) + codes


def with_codes(m):
    m.a, m.b, m.codes = nn.Linear(5, 8), nn.Linear(8, 3), nn.Embedding(3, 3)


def test_codes_among_the_numbers_and_notes_of_the_last_batch():
    rows = X.copy()
    rows[:, 0] = np.arange(len(X)) % 3
    assert_agree(*both(classifier(made(with_codes, noting)), X=rows))


@pytest.mark.parametrize("n_rows", [40, 41, 61])
def test_a_module_may_drop_the_axis_of_a_single_row(n_rows, monkeypatch):
    monkeypatch.setattr(module_call, "ROWS", 20)
    stack = ModelStack(
        [made(lambda m: setattr(m, "a", nn.Linear(6, 1)), lambda m, x: (m.a(x).exp().squeeze(), m.a.weight[0]))()], 3,
        lambda output, target: (output[0] - target).square().mean(), torch.optim.SGD, {},
        example=(torch.rand(4, 6).double(), torch.rand(4).double()),
    )  # fmt: skip
    x = torch.rand(1, n_rows, 6).double()
    found, beside = module_call.in_blocks(stack.outputs, PackRows([CellRows.all_of(x[0])]))
    assert (found.shape, beside.shape) == ((3, 1, n_rows), (3, 1, 6))
    torch.testing.assert_close(found[0, 0], stack.module(x[0])[0])


def test_what_nobody_can_tell_is_no_change_unless_asked_strictly():
    untouched = Untouched(SimpleNamespace(unknown=(i for i in range(3))))
    assert (untouched.holds(), untouched.holds(strict=False)) == (False, True)


SEEN = []


@pytest.mark.slow
def test_a_module_with_a_large_vocabulary_or_a_watcher_is_no_less_stackable():
    def with_words(m):
        two_layers(m)
        m.words = {str(i): i for i in range(30_000)}
        m.a.register_forward_hook(lambda module, inputs, output: SEEN.append(len(output)))

    def forward(m, x):
        return m.b(torch.relu(m.a(x - x.mean(0) if m.training else x)))

    assert_agree(*both(classifier(made(with_words, forward))))


def rarely(m, x):
    if m.training and m.draw() < 0.2:
        x = x / 2
    return m.b(torch.relu(m.a(x)))


def with_generator(m):
    two_layers(m)
    m.draw = np.random.default_rng(1).random


def test_nor_is_one_with_a_generator_of_its_own_stacked():
    (reason,) = StackedEngine().unsupported(experiment(classifier(made(with_generator, rarely), max_epochs=6)), LRS)
    assert "changes its attribute 'draw' each time it is called" in reason


def test_a_sampler_draws_from_the_nets_own_stream():
    sampler = torch.utils.data.WeightedRandomSampler(np.linspace(0.1, 1, 60), 50)
    net = SMALL(iterator_train__sampler=sampler, iterator_train__shuffle=False, random_state=0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert_agree(*both(net))
    assert torch.equal(before, torch.random.get_rng_state())


def test_inputs_of_another_dtype_are_cast_for_scores_too():
    double = partial(made, lambda m: setattr(m, "a", nn.Linear(6, 3)))
    assert_agree(*both(classifier(double(lambda m, x: m.a(x))), X=torch.from_numpy(X).float()))
    named = classifier(made(lambda m: setattr(m, "a", nn.Linear(3, 3)), lambda m, left, right: m.a(left) + m.a(right)))
    halves = SliceDict(left=X[:, :3].astype("float32"), right=X[:, 3:])
    assert_agree(*both(named, X=halves))


class Penalised(nn.Module):
    def forward(self, output, target):
        return F.cross_entropy(output[0], target) + output[1]


def test_a_number_beside_the_outputs():
    module = made(two_layers, lambda m, x: (m.b(torch.relu(m.a(x))), m.a(x).square().mean()))
    assert_agree(*both(classifier(module, criterion=Penalised), scoring="accuracy"))


def frozen(m):
    two_layers(m)
    m.a.requires_grad_(False)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_frozen_layers_stay_as_they_are(optimizer):
    net = classifier(made(frozen, lambda m, x: m.b(torch.relu(m.a(x)))), optimizer=optimizer)
    stacked, alone = both(net, LRS[1:])
    assert_agree(stacked, alone)
    ours, theirs = (outcomes[0][0].estimator.partial_fit(X, Y) for outcomes in (stacked, alone))
    torch.testing.assert_close(ours.module_.b.weight, theirs.module_.b.weight, rtol=1e-9, atol=0)
    assert torch.equal(ours.module_.a.weight, theirs.module_.a.weight)


def norm_of_gradients(module):
    return sum(float(p.grad.norm()) for p in module.parameters())


class GradientScorer:
    def __call__(self, net, X, y):
        return norm_of_gradients(net.module_)


class Inheriting(GradientScorer):
    pass


def gradient_score(net, X, y, name="a"):
    return float(getattr(net.module_, name).weight.grad.norm())


LOOKING = {
    "function": gradient_score,
    "partial": partial(gradient_score, name="b"),
    "object": Inheriting(),
    "method": GradientScorer().__call__,
    "beside another": {"accuracy": "accuracy", "norm": gradient_score},
}


@pytest.mark.parametrize("scoring", LOOKING.values(), ids=LOOKING)
def test_a_scorer_that_reads_gradients_is_given_them(scoring):
    net = classifier(made(two_layers, lambda m, x: m.b(torch.relu(m.a(x)))))
    (reason,) = StackedEngine().unsupported(experiment(net, scoring=scoring), LRS)
    assert "the scorer reads .grad" in reason


@pytest.mark.one_fast
@pytest.mark.parametrize(
    "look",
    [
        lambda net: len(net.history_),
        lambda net: net.history_[-1]["train_loss"],
        lambda net: net.optimizer_.param_groups[0]["lr"],
    ],
    ids=["epochs", "loss", "lr"],
)
def test_scorers_may_look_at_the_training(look):
    assert_agree(*both(SMALL(schedule="cosine"), scoring=lambda net, X, y: float(look(net)), return_train_score=True))


def centred(m, x):
    return m.b(torch.relu(m.a(x - x.mean(0) if m.training else x)))


def test_a_batch_mean_is_found_where_the_first_rows_are_alike():
    rows = X.copy()
    rows[:20] = 0
    assert_agree(*both(classifier(made(two_layers, centred)), X=rows))


class Whole(nn.Module):
    reduction = "mean"

    def forward(self, output, target):
        return F.cross_entropy(output, target, reduction=self.reduction) + output.mean(0).square().sum()


class Counting(nn.CrossEntropyLoss):
    n = 0

    def forward(self, output, target):
        self.n += 1
        return super().forward(output, target) * self.n


def doubled(items):
    X, y = torch.utils.data.default_collate(items)
    return 2 * X, y


REFUSED = {
    "collating": (SMALL(iterator_train__collate_fn=doubled), {}, "iterator_train__collate_fn is not"),
    "validating": (SMALL(iterator_valid__collate_fn=doubled), {}, "iterator_valid__collate_fn is not"),
    "weights": (SMALL(criterion=Whole), {"fit_params": {"sample_weight": np.ones(101)}}, "takes no sample_weight"),
    "one row": (SMALL(partial(Double, batch_norm=True), batch_size=2), {}, "cannot be trained on a batch of 1 rows"),
    "no batch": (SMALL(batch_size=500, iterator_train__drop_last=True), {}, "there is no batch to train on"),
    "no epoch": (SMALL(max_epochs=0), {}, "there is no batch to train on"),
    "warmup": (SMALL(warmup_epochs=3), {}, "warmup_epochs must be less than max_epochs"),
    "horizon": (SMALL(schedule_epochs=0), {}, "schedule_epochs must be"),
    "counted losses": (SMALL(criterion=Counting), {}, "it or its criterion changes its attribute"),
}


@pytest.mark.parametrize(("net", "given", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_go_wrong_on_the_way_is_a_reason_before(net, given, words):
    reasons = StackedEngine().unsupported(experiment(net, **given), LRS)
    assert any(words in reason for reason in reasons), reasons
