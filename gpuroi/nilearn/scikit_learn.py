"""What the estimators take from scikit-learn; where it is missing the error says which extra brings it."""

from __future__ import annotations

try:
    from joblib import Memory
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import InputTags
    from sklearn.utils.validation import check_array, check_is_fitted
except ImportError as missing:
    raise ImportError(
        f"the estimators of gpuroi.nilearn need scikit-learn ({missing}): pip install 'gpuroi[parcellate]'"
    ) from missing

__all__ = [
    "BaseEstimator",
    "ClassNamePrefixFeaturesOutMixin",
    "InputTags",
    "Memory",
    "TransformerMixin",
    "check_array",
    "check_is_fitted",
]
