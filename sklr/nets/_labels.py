"""Label encoding, shared by the two classifiers: labels of any type become class indices, and predictions labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets

from sklr._utils.validation import check_labels, must_be
from sklr._utils.warnings import warn
from sklr.nets import _data as data
from sklr.nets._base import BaseNet

_COLUMN = (  # scikit-learn's message, but issued by sklr so that it points at the user's line
    "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples, ), for "
    "example using ravel()."
)


class LabelNet(BaseNet):
    """A net that trains on the indices of labels in `classes_`, and predicts the labels."""

    _two_columns = True
    _label_dtype: Any = np.int64  # dtype of multilabel targets
    _encoded = False  # whether the datasets hold indices into `classes_` and not the user's labels

    def _check_targets(self, y: Any, reset: bool, classes: Any = None) -> np.ndarray:
        check_labels(y)
        y = check_array(y, ensure_2d=False, allow_nd=True, dtype=None, input_name="y", estimator=self)
        self._check_kind(y, classes)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y.ravel()
            warn(_COLUMN, DataConversionWarning)
        if y.ndim > 1:  # multilabel, or class probabilities: passed to the criterion as they are
            self._encoded, self._label_dtype = False, y.dtype
            self.classes_inferred_ = np.arange(y.shape[1])  # as in scikit-learn's multilabel classifiers
            return y
        check_classification_targets(y)
        codes = self._encode(y, self._learn_classes(y, reset, classes))
        self._encoded = codes is not None
        return y if codes is None else codes

    def _check_kind(self, y: np.ndarray, classes: Any) -> None:
        """Raise a ValueError for targets that this type of net cannot learn."""

    def _learn_classes(self, y: np.ndarray, reset: bool, classes: Any) -> np.ndarray:
        if self._given_classes() is not None:
            return np.asarray(self._given_classes())
        if reset or not hasattr(self, "classes_inferred_"):
            found = np.unique(y if classes is None else classes)
            if len(found) < 2:
                raise ValueError(_one_class(found[0]))
            self.classes_inferred_ = found
        return self.classes_inferred_

    def _encode(self, y: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
        if not len(classes):
            return None
        codes = data.class_codes(y, classes)
        if codes is None and (self._given_classes() is None or y.dtype.kind not in "iu"):
            unknown = np.setdiff1d(y, classes).tolist()
            advice = "Pass all labels as `classes` to the first partial_fit."
            raise ValueError(must_be("y", f"of the known classes {classes.tolist()}", unknown, advice))
        return codes  # None if `classes` only names the integers in y, as skorch allows

    def _given_classes(self) -> Any:
        return None

    def _forget_targets(self) -> None:
        self._encoded = False
        self.__dict__.pop("classes_inferred_", None)

    def _check_weights(self, y: Any, weights: np.ndarray) -> None:
        if self._encoded and self._given_classes() is None and len(left := np.unique(y[weights > 0])) == 1:
            label = self.classes_inferred_[left[0]]
            raise ValueError(f"{_one_class(label)} The others have a sample_weight of 0.")

    def _decode(self, numbers: np.ndarray) -> np.ndarray:
        return self.classes_[numbers] if self._encoded and not self._by_number else numbers

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba`, shape (n_samples, n_classes); -inf where the probability is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


def _one_class(label: Any) -> str:
    return (
        "This classifier needs samples of at least two classes in the data, but the data contains only one class: "
        f"{np.asarray(label).tolist()!r}."
    )
