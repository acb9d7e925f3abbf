"""Images: NIfTI headers field by field, gzip streams, pairs and other formats; nibabel is asked what it reads."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import nibabel
import numpy as np

from gpuroi.errors import DataError, GpuroiError
from gpuroi.images import open_image
from gpuroi.images.read import read_labels

from .judge import Case, Target, WrongAnswerError
from .mutate import damaged_bytes

__all__ = ["TARGETS", "image_case"]

_INF, _NAN = math.inf, math.nan
_FLOATS = (0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 352.0, 1e-30, 1e-45, 1e30, 3.4e38, _INF, -_INF, _NAN)
_AXES = (0, 1, 2, 3, 5, 7, 8, -1, -5, 255, 32767, -32768)
_LONG_AXES = (*_AXES, 2**31, 2**40, 2**62, -(2**63))
_CODES = (0, 1, 2, 3, 4, 5, 6, -1, 100, 32767)
_TYPES = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280, 1, 0, 32, 128, 1536, 1792, 2304, 255, 999, -4)
_REAL_TYPES = _TYPES[:10]
_OFFSETS = (0, 1, -1, 100, 348, 352, 352.5, 353, 368, 400, 544, 540, 1e4, 1e9, 1e30, _NAN, _INF, -_INF, 2.0**62)
_MAGIC = (b"n+1", b"ni1", b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n", b"", b"n+9", b"xyz", b"n+2")
_VECTORS = {
    "quatern_b": 1, "quatern_c": 1, "quatern_d": 1, "qoffset_x": 1, "qoffset_y": 1, "qoffset_z": 1,
    "srow_x": 4, "srow_y": 4, "srow_z": 4, "scl_slope": 1, "scl_inter": 1, "pixdim": 8, "toffset": 1, "cal_max": 1,
}  # fmt: skip

STRICTER = (
    r"holds? NaN or infinity",
    r"cannot be inverted",
    r"voxel size .* none may be zero",
    r"no affine can be made",
    r"complex numbers",
    r"RGB colours",
    r"type |values of type",
    r"split the image",
    r"axes .*expected three",
    r"every axis must be 1 or more",
    r"affine is in space",
    r"voxel size .* none may be infinite",
    r"voxels begin at byte",
    r"magic bytes",
    r"header of a \.hdr/\.img pair",
    r"not a NIfTI file",
    r"compressed data are damaged",
    r"compressed data end in the middle",
    r"promises",
    r"cannot hold that many",
)
"""What we refuse and nibabel may read: places in space that are none, values that are no real numbers, headers that
contradict themselves, streams whose checksum is wrong."""


def image_case(path: Path, name: str | None = None) -> Case:
    """Return the case of one file: what we read from it against what nibabel reads from it."""

    def read() -> tuple[Any, np.ndarray[Any, Any]]:
        image = open_image(path)
        values = image.read(dtype=np.float64)
        with contextlib.suppress(GpuroiError):  # most images are no atlas
            read_labels(image)
        return image, values

    return Case(
        read,
        lambda answer: _compare(path, answer),
        path.name if name is None else name,
        lambda answer: int(answer[1].nbytes),
    )


def nifti_bytes(random: Random, *, pair: bool = False, changes: int | None = None) -> tuple[bytes, bytes]:
    """Return the header and the voxels of a NIfTI image with up to four fields that are hostile."""
    version = random.choice((1, 1, 1, 2))
    header_class: Any = (nibabel.Nifti1Header, nibabel.Nifti2Header)[version - 1]
    header = header_class(endianness=random.choice("<<>"))
    shape = [random.choice((1, 2, 3, 4)) for _ in range(random.choice((3, 3, 3, 4, 4, 5, 2, 1)))]
    header.set_data_shape(shape)
    header.set_data_dtype(random.choice(_REAL_TYPES[:9]))
    header.set_sform(np.diag([2.0, 2.0, 3.0, 1.0]), code=random.choice((0, 1, 2, 4)))
    header.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=random.choice((0, 1)))
    header["magic"] = header.pair_magic if pair else header.single_magic
    extension = _extension(random)
    header["vox_offset"] = 0 if pair else header.single_vox_offset + len(extension)
    block = header.structarr.copy()
    with np.errstate(all="ignore"):
        for _ in range(random.choice((0, 1, 1, 1, 2, 3)) if changes is None else changes):
            _change_field(random, block)
    n_bytes = max(0, min(4096, _promised(header_class, block)))
    head = block.tobytes() + bytes([bool(extension), 0, 0, 0]) + extension
    return head, random.randbytes(n_bytes) if random.random() < 0.8 else bytes(n_bytes)


def _change_field(random: Random, block: Any) -> None:
    name = random.choice(
        ("dim", "dim", "datatype", "bitpix", "vox_offset", "magic", "sizeof_hdr", "qform_code", "sform_code",
         "xyzt_units", "pixdim", "pixdim", "scl_slope", "scl_inter", *_VECTORS)
    )  # fmt: skip
    is_long = block["dim"].dtype.itemsize == 8
    if name == "dim":
        block["dim"][random.randrange(8)] = random.choice(_LONG_AXES if is_long else _AXES)
    elif name in _VECTORS:
        place = random.randrange(_VECTORS[name])
        field = block[name]
        field[place if field.ndim else ()] = random.choice(_FLOATS)
    else:
        value = {
            "datatype": _TYPES,
            "bitpix": (0, 1, 8, 16, 32, 64, 128, -1),
            "vox_offset": _OFFSETS,
            "magic": _MAGIC,
            "sizeof_hdr": (348, 540, 0, -1, 349, 1543569408),
            "xyzt_units": (0, 1, 2, 3, 10, 18, 26, 34, 255),
        }.get(name, _CODES)
        block[name] = _fitting(random.choice(value), block[name].dtype)


def _fitting(value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu" and isinstance(value, float):
        value = int(value) if math.isfinite(value) else -1
    if dtype.kind in "iu":
        limits = np.iinfo(dtype.newbyteorder("="))
        return min(max(value, limits.min), limits.max)
    return value


def _promised(header_class: Any, block: Any) -> int:
    try:
        header = header_class(block.tobytes(), endianness=block.dtype["dim"].base.byteorder.replace("=", "<"))
        return math.prod(int(n) for n in header.get_data_shape()) * header.get_data_dtype().itemsize
    except Exception:  # a header that is none promises nothing
        return 120


def _extension(random: Random) -> bytes:
    """Return a chain of extensions: none, a sound one, or one that does not end where it should."""
    if random.random() < 0.7:
        return b""
    order = random.choice("<>")
    parts = []
    for _ in range(random.choice((1, 1, 2, 30))):
        size = random.choice((16, 16, 32, 0, 1, 8, -16, 17, 2**31 - 1, -(2**31)))
        parts.append(struct.pack(f"{order}ii", size, random.choice((0, 4, 6, 99))) + random.randbytes(8))
    return b"".join(parts)


def _nifti(random: Random, folder: Path) -> Case:
    raw = b"".join(nifti_bytes(random))
    if random.random() < 0.3:
        raw = damaged_bytes(random, raw)
    path = folder / random.choice(("x.nii", "x.nii", "x.nii", "x.nii.gz", "x.NII"))
    as_named = random.random() < 0.9
    path.write_bytes(gzip.compress(raw, 1) if (path.suffix.lower() == ".gz") == as_named else raw)
    return image_case(path)


def _gzip(random: Random, folder: Path) -> Case:
    raw = b"".join(nifti_bytes(random, changes=random.choice((0, 0, 1))))
    packed = _packed(random, raw)
    if random.random() < 0.4:
        packed = damaged_bytes(random, packed)
    path = folder / "x.nii.gz"
    path.write_bytes(packed)
    return image_case(path)


def _packed(random: Random, raw: bytes) -> bytes:
    """Return a gzip file that is sound, or sound in an unusual way, or whose trailer lies."""
    level = random.choice((0, 1, 6, 9))
    match random.randrange(9):
        case 0 | 1:
            return gzip.compress(raw, level)
        case 2:  # several members, also empty ones
            cuts = sorted(random.randrange(len(raw) + 1) for _ in range(random.randint(1, 5)))
            pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
            return b"".join(gzip.compress(piece, level) for piece in pieces)
        case 3:
            return gzip.compress(raw, level) + random.choice(
                (bytes(512), b"\x1f", b"\x1f\x8b", b"junk", b"\x1f\x8b\x08")
            )
        case 4:  # every optional field of a member's header
            flags = random.randrange(256)
            fields = b"".join(
                part
                for bit, part in ((4, b"\x04\x00abcd"), (8, b"name\0"), (16, b"comment\0"), (2, b"\0\0"))
                if flags & bit
            )
            body = gzip.compress(raw, level)
            return body[:3] + bytes([flags]) + body[4:10] + fields + body[10:]
        case 5:  # the trailer lies about length or checksum
            at = random.choice((-8, -4))
            body = bytearray(gzip.compress(raw, level))
            body[at : at + 4 or None] = random.choice((bytes(4), b"\xff" * 4, random.randbytes(4)))
            return bytes(body)
        case 6:  # a bomb behind an honest beginning
            return _bomb(raw, random.choice((1, 1, 4, 8)))
        case 7:
            return gzip.compress(raw, level)[: random.randrange(60) - 61]
        case _:
            return gzip.compress(gzip.compress(raw, level), level)


def _bomb(raw: bytes, megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(raw)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join([*parts, packer.flush()])


def _pair(random: Random, folder: Path) -> Case:
    if random.random() < 0.4:
        head, voxels = _analyze(random)
    else:
        head, voxels = nifti_bytes(random, pair=True)
    if random.random() < 0.3:
        head = damaged_bytes(random, head)
    if random.random() < 0.1:
        voxels = damaged_bytes(random, voxels)
    (folder / "x.hdr").write_bytes(head)
    if random.random() < 0.95:
        (folder / "x.img").write_bytes(voxels)
    return image_case(folder / random.choice(("x.hdr", "x.img")), "x.")


def _analyze(random: Random) -> tuple[bytes, bytes]:
    header_class = random.choice(
        (nibabel.AnalyzeHeader, nibabel.spm99analyze.Spm99AnalyzeHeader, nibabel.spm2analyze.Spm2AnalyzeHeader)
    )
    header = header_class(endianness=random.choice("<>"))
    header.set_data_shape([random.choice((1, 2, 3)) for _ in range(3)])
    header.set_data_dtype(random.choice((2, 4, 8, 16, 64)))
    header.set_zooms((2.0, 2.0, 3.0))
    block = header.structarr.copy()
    for _ in range(random.choice((0, 1, 1, 2))):
        name = random.choice(("dim", "pixdim", "datatype", "bitpix", "vox_offset", "sizeof_hdr", *_OF_SPM))
        if name not in block.dtype.names:
            continue
        field = block[name]
        values = {"dim": _AXES, "datatype": _TYPES, "origin": _AXES, "sizeof_hdr": (348, 0, 540), "bitpix": (0, 8, 64)}
        value = _fitting(random.choice(values.get(name, _FLOATS)), field.dtype)
        field[random.randrange(field.size) if field.ndim else ()] = value
    return block.tobytes(), random.randbytes(max(0, min(4096, _promised(header_class, block))))


_OF_SPM = ("scl_slope", "scl_inter", "origin")


@cache
def _seeds() -> dict[str, bytes]:
    """Files of the formats that nibabel reads for us."""
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    mgh = nibabel.MGHImage(values, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes()
    return {"x.mgh": mgh, "x.mgz": gzip.compress(mgh, 1, mtime=0), "x+orig.HEAD": _afni(), "x.mnc": _minc()}


def _afni() -> bytes:
    lines = {
        ("integer", "DATASET_RANK"): "3 1 0 0 0 0 0 0",
        ("integer", "DATASET_DIMENSIONS"): "3 4 5 0 0",
        ("integer", "BRICK_TYPES"): "1",
        ("integer", "ORIENT_SPECIFIC"): "0 3 4",
        ("integer", "SCENE_DATA"): "0 11 0",
        ("float", "ORIGIN"): "0 0 0",
        ("float", "DELTA"): "2 2 3",
        ("float", "BRICK_FLOAT_FACS"): "0",
        ("float", "IJK_TO_DICOM_REAL"): "-2 0 0 0 0 -2 0 0 0 0 3 0",
        ("string", "BYTEORDER_STRING"): "'LSB_FIRST~",
        ("string", "TYPESTRING"): "'3DIM_HEAD_ANAT~",
        ("string", "LABEL_1"): "'zyxt~",
    }
    parts = [
        f"type = {kind}-attribute\nname = {name}\ncount = {_count(kind, text)}\n {text}\n"
        for (kind, name), text in lines.items()
    ]
    return "\n".join(["", *parts]).encode()


def _count(kind: str, text: str) -> int:
    return len(text) - 1 if kind == "string" else len(text.split())


def _minc() -> bytes:
    """Return a MINC1 file, which is NetCDF."""
    from scipy.io import netcdf_file

    buffer = io.BytesIO()
    file = netcdf_file(buffer, "w")
    for name, length in (("zspace", 3), ("yspace", 4), ("xspace", 5)):
        file.createDimension(name, length)
        variable = file.createVariable(name, "i4", ())
        variable.step, variable.start = 2.0, 0.0
        variable.direction_cosines = np.array([name == "xspace", name == "yspace", name == "zspace"], float)
        variable.spacing = b"regular__"
    image = file.createVariable("image", "i2", ("zspace", "yspace", "xspace"))
    image.signtype, image.valid_range = b"signed__", np.array([-32768.0, 32767.0])
    image[:] = np.arange(60, dtype="i2").reshape(3, 4, 5)
    for name, value in (("image-min", 0.0), ("image-max", 59.0)):
        file.createVariable(name, "f8", ())[...] = value
    file.flush()
    return buffer.getvalue()


def _other(random: Random, folder: Path) -> Case:
    name = random.choice(list(_seeds()))
    raw = _seeds()[name]
    raw = damaged_bytes(random, raw) if random.random() < 0.95 else raw
    (folder / name).write_bytes(raw)
    if name.endswith(".HEAD"):
        voxels = np.arange(60, dtype="<i2").tobytes()
        (folder / "x+orig.BRIK").write_bytes(damaged_bytes(random, voxels) if random.random() < 0.1 else voxels)
    return image_case(folder / name, "x")


def _compare(path: Path, answer: Any) -> str:
    """Hold our answer against nibabel's."""
    if isinstance(answer, DataError):
        return _refused(path, answer)
    image, ours = answer
    _check_whole(image, ours)
    theirs = _nibabels(path)
    if theirs is None or _has_no_offset(image):
        return "unchecked"
    values, affine = theirs
    if values.size != ours.size:
        raise WrongAnswerError(f"shape {ours.shape}, nibabel reads {values.shape}")
    expected = values.reshape(*image.shape, -1, order="F").transpose(3, 0, 1, 2)
    if not np.allclose(image.affine, affine, rtol=1e-6, atol=1e-9):
        raise WrongAnswerError(f"affine {image.affine.tolist()}, nibabel reads {affine.tolist()}")
    with np.errstate(all="ignore"):
        if not np.allclose(ours, expected, rtol=1e-6, atol=0, equal_nan=True):
            raise WrongAnswerError(f"values {ours.ravel()[:4]}, nibabel reads {expected.ravel()[:4]}")
    return "agrees"


def _has_no_offset(image: Any) -> bool:
    """True where a single NIfTI file says that its voxels begin at byte 0: nibabel takes the header for voxels."""
    header = image.header
    return isinstance(header, nibabel.Nifti1Header) and header.is_single and header["vox_offset"] == 0


def _refused(path: Path, refusal: DataError) -> str:
    if not any(re.search(pattern, refusal.message, re.DOTALL) for pattern in STRICTER) and _nibabels(path) is not None:
        raise WrongAnswerError(f"nibabel reads it, we say: {refusal.message}")
    return "refused" if _nibabels(path) is None else "stricter"


def _check_whole(image: Any, ours: np.ndarray[Any, Any]) -> None:
    if ours.shape != (image.n_volumes, *image.shape) or not np.isfinite(image.affine).all():
        raise WrongAnswerError(f"an array of {ours.shape} from {image}")
    if abs(np.linalg.det(image.affine)) == 0 or not (image.tr_s is None or image.tr_s > 0):
        raise WrongAnswerError(f"affine {image.affine.tolist()}, {image.tr_s} s")


def _nibabels(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Return the values and the affine that nibabel reads, None if it does not."""
    try:
        with np.errstate(all="ignore"):
            image = nibabel.load(path)
            if math.prod(int(n) for n in image.shape) > 1_000_000:
                return None
            return np.asarray(image.get_fdata(dtype=np.float64)), np.asarray(image.affine)
    except Exception:  # what it raises depends on the format and on the field
        return None


TARGETS = (
    Target("nifti", _nifti, 14),
    Target("gzip", _gzip, 8),
    Target("pairs", _pair, 7),
    Target("other-formats", _other, 4),
)
