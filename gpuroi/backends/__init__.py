"""Where arrays live and which library works on them."""

from __future__ import annotations

from gpuroi.backends.base import Array, Backend, Moments
from gpuroi.backends.select import backend_of, get_backend, get_backends, parse_device

__all__ = ["Array", "Backend", "Moments", "backend_of", "get_backend", "get_backends", "parse_device"]
