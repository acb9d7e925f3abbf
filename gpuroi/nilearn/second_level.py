"""nilearn's non_parametric_inference: a group analysis of images with permutation p-values."""

from __future__ import annotations

import warnings
from typing import Any

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.argument_checks import check_types, n_threads_of, seed_of
from gpuroi.nilearn.permutation_maps import MapOptions, permutation_maps

__all__ = ["non_parametric_inference"]


def non_parametric_inference(
    second_level_input: Any,
    confounds: Any = None,
    design_matrix: Any = None,
    second_level_contrast: Any = None,
    first_level_contrast: Any = None,
    mask: Any = None,
    smoothing_fwhm: float | None = None,
    model_intercept: bool = True,
    n_perm: int = 10000,
    two_sided_test: bool = False,
    random_state: Any = None,
    n_jobs: int = 1,
    verbose: int = 0,
    threshold: float | None = None,
    tfce: bool = False,
) -> Any:
    """Test a contrast of a group's images, with familywise permutation p-values.

    A drop-in for `nilearn.glm.second_level.non_parametric_inference` 0.14.1, computed by
    `gpuroi.inference.permutation_test` (Freedman and Lane's scheme).

    Parameters
    ----------
    second_level_input : list of images or paths, 4-D image, DataFrame, Series, list of FirstLevelModel, SurfaceImage
        One map a subject. A DataFrame has columns `subject_label`, `map_name`, `effects_map_path` and is sorted by
        subject; `first_level_contrast` chooses its rows by `map_name`.
    confounds : DataFrame, optional
        With a column `subject_label`: the design, with an intercept, where `design_matrix` is None and the input
        names its subjects.
    design_matrix : DataFrame, or path to a .tsv or .csv file
        One row a map, in their order.
    second_level_contrast : str or array, shape (n_columns,), optional
        A column's name, an expression of names, or weights. Not needed for one column.
    first_level_contrast : optional
        For a DataFrame or FirstLevelModels: which map.
    mask : image, path or masker, optional
        On the grid of the images. A masker is cloned and does the reading, smoothing included. By default the voxels
        that differ from the background, as NiftiMasker finds them.
    smoothing_fwhm : float, optional
        mm.
    model_intercept : bool, default True
        Add an intercept unless the design spans one.
    n_perm : int, default 10000
        Rearrangements beside the identity.
    two_sided_test : bool, default False
        Large values of either sign count; positive and negative clusters are apart.
    random_state : int, RandomState or None
        Seed, or what to draw it from.
    n_jobs : int, default 1
        Threads; -1 for all processors. Results do not depend on it.
    verbose : int, default 0
        Print progress.
    threshold : float, optional
        Cluster-forming p-value. Not for surfaces, as in nilearn.
    tfce : bool, default False
        Threshold-free cluster enhancement. Not for surfaces, as in nilearn.

    Returns
    -------
    image or dict of str to image
        -log10 of the familywise p of t. With `tfce` or `threshold` a dictionary: `t`, `logp_max_t`; `tfce`,
        `logp_max_tfce`; `size` (voxels, int32), `logp_max_size`, `mass`, `logp_max_mass`. Nifti1Image of float64, 0
        outside the mask; SurfaceImage for surfaces.

    Raises
    ------
    TypeError
        Inputs of another kind.
    UsageError
        A threshold that is no p-value; n_perm below 1; `n_jobs` of 0.
    DataError
        Broken images, a contrast that is none or cannot be estimated, as many regressors as images, NaN in the
        design; another number of rows than of maps.
    GridError
        Images or a mask on different grids: nothing is resampled.

    Notes
    -----
    What differs from nilearn 0.14.1, beside what the Notes of `permuted_ols` say:

    * The contrast is that of the linear model: the design is split into the effect that it tests and the nuisance.
      nilearn regresses on `X @ c` and drops every column with a weight. With three groups and [1, -0.5, -0.5] that
      leaves no group means in the model, and t is not that of the contrast.
    * Signs are flipped where `X @ c` is constant (the mean is tested) and observations are permuted otherwise.
    * `model_intercept` adds nothing to a design that spans the constant, such as one column for each group: with it
      the mean of one group could not be estimated.
    * `confounds` are used, where there is no `design_matrix`; where there is, they are not, with a warning.
    * A masker without smoothing takes `smoothing_fwhm`; nilearn ignores it. Mask and images on different grids are an
      error; nilearn resamples the images.
    * Voxels with NaN or infinity in an image have t and p of NaN; nilearn sets the values to 0 and tests them. Where
      images are smoothed they are 0 here too.
    * `size` is an image of int32; FSL and SPM cannot read nilearn's int64.

    References
    ----------
    .. [1] Winkler AM et al. (2014). Permutation inference for the general linear model. NeuroImage 92, 381-397.
       doi:10.1016/j.neuroimage.2014.01.060

    Examples
    --------
    >>> import nibabel, numpy, pandas
    >>> values = numpy.random.default_rng(0).standard_normal((12, 4, 4, 4))
    >>> images = [nibabel.Nifti1Image(v, numpy.eye(4)) for v in values + 2]
    >>> design = pandas.DataFrame({"intercept": numpy.ones(12)})
    >>> mask = nibabel.Nifti1Image(numpy.ones((4, 4, 4), "uint8"), numpy.eye(4))
    >>> out = non_parametric_inference(images, design_matrix=design, mask=mask, n_perm=500, random_state=1)
    >>> out.shape, bool(out.get_fdata().max() < 2.7)
    ((4, 4, 4), True)
    """
    check_types(
        n_jobs=n_jobs, n_perm=n_perm, random_state=random_state, smoothing_fwhm=smoothing_fwhm, tfce=tfce,
        threshold=threshold, two_sided_test=two_sided_test, verbose=verbose,
    )  # fmt: skip
    from gpuroi.nilearn import second_level_design as designs
    from gpuroi.nilearn.group_maps import read_group_maps
    from gpuroi.nilearn.niimg import is_surface
    from gpuroi.nilearn.second_level_input import group_input

    n_threads = n_threads_of(n_jobs)
    designs.check_design_type(design_matrix)
    group = group_input(second_level_input, has_design=design_matrix is not None, has_confounds=confounds is not None)
    designs.check_confounds(confounds)
    design = _design(design_matrix, confounds, group.labels)
    contrast = designs.contrast_vector(second_level_contrast, [str(c) for c in design.columns])
    maps = group.maps(first_level_contrast)
    if is_surface(maps[0]) and (tfce or threshold is not None):
        tfce, threshold = False, None
        _warn_of_surfaces()
    if n_perm < 1:
        raise UsageError(f"n_perm is {n_perm}", "ask for one or more; for t alone use permuted_ols(..., n_perm=0)")
    hypothesis = designs.tested(design, contrast, model_intercept=model_intercept)
    found = read_group_maps(group, maps, mask, smoothing_fwhm)
    if len(found.data) != len(design):
        raise DataError(
            "'design_matrix' does not match the number of maps considered. "
            f"{len(design)} rows in design matrix do not match with {len(found.data)} maps.",
            "give one row for each map, in the same order",
        )
    options = MapOptions(
        n_perm=int(n_perm),
        two_sided=bool(two_sided_test),
        seed=seed_of(random_state),
        n_threads=n_threads,
        verbose=int(verbose) - 1,
        domain=found.domain,
        threshold=threshold,
        tfce=bool(tfce),
    )
    out = permutation_maps(found.data, [hypothesis], options)
    if not tfce and threshold is None:
        return found.to_image(out["logp_max_t"][0])
    return {name: found.to_image(values[0]) for name, values in out.items() if not name.startswith("h0_")}


def _design(design_matrix: Any, confounds: Any, labels: list[str] | None) -> Any:
    from gpuroi.nilearn.second_level_design import design_of_confounds, read_design

    if design_matrix is None:
        if labels is None and confounds is not None:
            raise DataError(
                "confounds are given by subject, but second_level_input names no subjects",
                "pass design_matrix, or a DataFrame with the column subject_label",
            )
        if labels is None:
            raise DataError("second_level_input requires a design matrix to be provided", "pass design_matrix=")
        return design_of_confounds(labels, confounds)
    if confounds is not None:
        warnings.warn(
            "confounds are not used: design_matrix is the whole design. Add them to it as columns.",
            UserWarning,
            stacklevel=3,
        )
    return read_design(design_matrix)


def _warn_of_surfaces() -> None:
    from nilearn.exceptions import NotImplementedWarning  # surface images are nilearn's own

    warnings.warn(
        "Cluster level inference not yet implemented for surface data.\nSetting tfce=False and threshold=None.",
        NotImplementedWarning,
        stacklevel=3,
    )
