"""
5. Pipelines, and what the score is worth
=========================================

The score of the chosen learning rate is a biased estimate: it was chosen because it was high, and its nets were trained
on fewer rows than the refitted one. Nested cross-validation estimates the score of the whole procedure, including the
search, on rows that it has never seen.
"""

# %%
# The net is the last step of a pipeline. The search finds the name of its learning rate, `neuralnetclassifier__lr`,
# automatically. The scaler is fitted once per fold, on training rows only.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier

X, y = load_breast_cancer(return_X_y=True)
net = NeuralNetClassifier(MLP, module__hidden=(16,), optimizer="adam", iterator_train__shuffle=True, random_state=0)
model = make_pipeline(StandardScaler(), net)
inner = StratifiedKFold(3, shuffle=True, random_state=0)
search = LRGridSearchCV(model, lr_range=(1e-4, 1.0), n_lrs=9, cv=inner, random_state=0)

# %%
# A search is an estimator, so scikit-learn can cross-validate it. This runs one search in each of five outer folds.
outer = StratifiedKFold(5, shuffle=True, random_state=1)
nested = cross_validate(search, X, y, cv=outer, return_estimator=True)
chosen = nested["estimator"]
inside = np.array([fitted.best_score_ for fitted in chosen])
outside = nested["test_score"]
print("parameter found:  ", chosen[0].lr_param_)
print("chosen lr:        ", ", ".join(f"{fitted.best_lr_:.3g}" for fitted in chosen))
print(f"best inner scores: {inside.mean():.3f} on average")
print(f"outer scores:      {outside.mean():.3f} on average, the ones to report")

# %%
# The five searches saw different rows. The left plot shows their LR curves, which agree that low learning rates are
# bad. The right plot shows the best inner score and the outer score of each search. With 114 rows in an outer fold, a
# single wrong prediction changes the score by 0.009, so only the mean is informative.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for fold, fitted in enumerate(chosen):
    curve = fitted.lr_curve_
    left.plot(curve.lr, curve.mean, marker="o", color=f"C{fold}", alpha=0.7, label=f"outer fold {fold + 1}")
    right.plot([0, 1], [inside[fold], outside[fold]], marker="o", color=f"C{fold}", alpha=0.7)
left.set(xscale="log", xlabel="learning rate", ylabel="accuracy, mean of 3 inner folds")
left.legend()
right.plot([0, 1], [inside.mean(), outside.mean()], marker="D", color="black", linewidth=2, label="mean")
right.set_xticks([0, 1], ["best inner score", "outer score"])
right.set(xlim=(-0.4, 1.4), ylabel="accuracy")
right.legend()
figure.savefig("plot_05_pipeline_and_nested_cv.png", dpi=120)
plt.show()
