"""What the estimators take from scikit-learn; where it is missing the error says which extra brings it."""

from __future__ import annotations

from gpuroi.parcels.scikit_learn import need_scikit_learn

need_scikit_learn("An estimator of gpuroi.nilearn")  # before the imports below, which say less

from joblib import Memory  # noqa: E402
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.utils import InputTags  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted  # noqa: E402

__all__ = [
    "BaseEstimator",
    "ClassNamePrefixFeaturesOutMixin",
    "InputTags",
    "Memory",
    "TransformerMixin",
    "check_array",
    "check_is_fitted",
]
