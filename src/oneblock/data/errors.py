"""The error of a reader whose optional package is not installed."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """A reader needs a package that the base installation does not bring."""

    def __init__(self, package: str, extra: str = "images") -> None:
        """Name the missing ``package`` as ``pip`` knows it, and the ``extra`` of oneblock that brings it."""
        super().__init__(f"needs the package {package}; install it with: pip install 'oneblock[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        # the default would hand the finished message to __init__ when a worker process sends the error back
        return type(self), (self.package, self.extra)
