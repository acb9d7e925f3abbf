"""A backend is whatever supplies the whole contract; what the ops need of it is tested in a file for each op."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from rig.checking import host

import gpuroi
import gpuroi.ops
from gpuroi.backends import backend_of, get_backend, parse_device
from gpuroi.backends.base import Backend
from gpuroi.backends.memory import map_chunks
from gpuroi.backends.probe import CudaDevice, CudaStatus
from gpuroi.errors import BackendError, DeviceError, UsageError


def test_every_field_is_supplied(backend):
    for field in dataclasses.fields(Backend):
        assert getattr(backend, field.name) is not None, field.name
    assert issubclass(backend.out_of_memory, MemoryError)
    assert backend.free_bytes() > 0
    parse_device(backend.device)


def test_arrays_go_in_and_come_back(backend):
    for order in "CF":
        data = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
        there = backend.asarray(data)
        assert backend.owns(there)
        assert backend_of(there).device == backend.device
        back = backend.to_numpy(there)
        assert isinstance(back, np.ndarray)
        np.testing.assert_array_equal(back, data)


def test_every_op_has_a_file_and_a_test():
    """An op that is forgotten somewhere is found here."""
    modules = {m.name for m in pkgutil.iter_modules(gpuroi.ops.__path__)} - {"tails", "volumes"}
    tests = {p.stem.removeprefix("test_") for p in Path(__file__).parent.glob("test_*.py")}
    assert modules <= tests
    for name in gpuroi.ops.__all__:
        assert getattr(gpuroi, name) is getattr(gpuroi.ops, name)
        assert "Examples" in inspect.getdoc(getattr(gpuroi.ops, name)) or inspect.isclass(getattr(gpuroi.ops, name))


@pytest.mark.parametrize(
    "work",
    [
        lambda x, m: gpuroi.threshold(x, 1.0, cluster_threshold=3, mask=m),
        lambda x, m: gpuroi.threshold(x, "90%", mask=m),
        lambda x, m: gpuroi.percentile_cutoff(x, "75%", two_sided=False, mask=m),
        lambda x, m: gpuroi.smooth(x, 5.0, 2.0),
        lambda x, m: gpuroi.smooth(x, 5.0, 2.0, mask=m),
        lambda x, m: gpuroi.ttest_1samp(x).log10p,
        lambda x, m: gpuroi.ttest_ind(x[:2], x[2:], equal_var=False).pvalue,
        lambda x, m: gpuroi.f_oneway(x[:2], x[2:]).statistic,
        lambda x, m: gpuroi.binary_dilation(x > 1, 26, 2, m),
        lambda x, m: gpuroi.binary_fill_holes(x > -0.5),
        lambda x, m: gpuroi.label(x > 0.5, 18)[0],
        lambda x, m: gpuroi.label_means(x, m.astype(np.int32) + 1, [1, 2]),
    ],
)
def test_the_same_numbers_as_on_the_cpu(backend, work):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((5, 9, 10, 11)).astype(np.float32)
    mask = rng.random((9, 10, 11)) < 0.8
    want = work(data, mask)
    got = work(backend.asarray(data), backend.asarray(mask))
    assert backend.owns(got)
    assert got.dtype == want.dtype
    if want.dtype.kind == "f":
        np.testing.assert_allclose(host(got), want, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(host(got), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_device_in_device_out_with_no_wait(backend, device_meter, dtype):
    """What stays on the device costs no transfer and no synchronisation."""
    rng = np.random.default_rng(1)
    data = backend.asarray(rng.standard_normal((3, 6, 7, 8)).astype(dtype))
    mask = backend.asarray(rng.random((6, 7, 8)) < 0.8)
    labels = backend.asarray(rng.integers(0, 3, (6, 7, 8)))
    device_meter.reset()
    gpuroi.threshold(data, 1.0, cluster_threshold=2, mask=mask)
    gpuroi.threshold(data, "95%")
    gpuroi.label(data > 0.5, 26)
    gpuroi.binary_erosion(data > -1, 18, 3, mask)
    gpuroi.binary_fill_holes(data > -0.5)
    gpuroi.smooth(data, 4.0, 2.0, mask=mask)
    waits = device_meter.syncs
    small = device_meter.h2d_bytes
    gpuroi.label_means(data, labels, [1, 2])
    if backend.name != "cpu":
        assert waits == 0
        assert device_meter.d2h_bytes == 0
        assert small < 64 * 1024  # offsets and weights only


def test_mixed_arrays_are_refused(standin_cupy):
    on_device = standin_cupy.asarray(np.ones((3, 3, 3), np.float32))
    on_host = np.ones((3, 3, 3), bool)
    with pytest.raises(BackendError, match="mixed"):
        gpuroi.threshold(on_device, 1.0, mask=on_host)
    with pytest.raises(BackendError, match="mixed"):
        gpuroi.ttest_ind(on_host, on_device)
    with standin_cupy.cuda.Device(1):
        elsewhere = standin_cupy.asarray(on_host)
    with pytest.raises(BackendError, match="different devices"):
        gpuroi.threshold(on_device, 1.0, mask=elsewhere)


def test_images_are_refused_where_arrays_are_expected():
    import nibabel as nib

    with pytest.raises(BackendError, match="Nifti1Image"):
        gpuroi.smooth(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), 4.0)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UsageError, match="device"):
        get_backend(name)


def test_devices_by_name_and_environment(standin_cupy, monkeypatch):
    found = tuple(CudaDevice(f"card {i}", "9.0", 1 << 30, None) for i in range(2))
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: CudaStatus(usable=True, devices=found))
    assert get_backend("cuda").device == "cuda:0"
    assert get_backend("cuda:1").device == "cuda:1"
    assert get_backend("auto").name == "cuda"
    with pytest.raises(DeviceError, match="cuda:7"):
        get_backend("cuda:7")
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    assert get_backend("auto").name == "cpu"
    assert get_backend("cuda").name == "cuda"


def test_chunks_are_halved_until_they_fit(standin_cupy, device_meter):
    from gpuroi.backends.cuda import cuda_backend

    backend = cuda_backend(0)
    sizes = []

    def work(part):
        sizes.append(part.stop - part.start)
        big = standin_cupy.zeros((part.stop - part.start) * 150, np.uint8)  # more than was said
        return [part.start + i for i in range(len(big) // 150)]

    device_meter.reset(limit_bytes=10_000)
    got = map_chunks(work, 100, 40, backend=backend, share=1.0)
    assert [i for part in got for i in part] == list(range(100))
    assert sizes[0] == 100
    assert max(sizes[1:]) < 100


def test_one_item_that_does_not_fit_is_an_error():
    def work(part):
        raise MemoryError

    with pytest.raises(MemoryError):
        map_chunks(work, 3, 1, backend=get_backend("cpu"))


@pytest.mark.parametrize("limit", [1, 10, 65, 1000, None])
def test_results_do_not_depend_on_the_split(backend, limit):
    data = np.random.default_rng(2).standard_normal((10, 6, 6, 6)).astype(np.float32)
    whole = host(gpuroi.smooth(backend.asarray(data), 5.0, 2.0))
    parts = map_chunks(
        lambda part: backend.to_numpy(gpuroi.smooth(backend.asarray(data[part]), 5.0, 2.0)),
        10,
        10,
        backend=backend,
        limit=limit,
    )
    np.testing.assert_array_equal(np.concatenate(parts), whole)
