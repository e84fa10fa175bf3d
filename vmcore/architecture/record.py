"""The record of one machine: its checked parameters, and its memory layout."""

from __future__ import annotations

from attrs import evolve, frozen

from vmcore.architecture.layout import Layout, LayoutRequest
from vmcore.architecture.parameters import Parameters
from vmcore.architecture.validate import check_banks, check_layout, check_numbers, validate
from vmcore.errors import ArchitectureError, LayoutError, VmcoreError, choices


@frozen(kw_only=True)
class Architecture(Parameters):
    """One machine, complete, checked and frozen. `vmcore.architecture` explains how to write one.

    The fields are those of `vmcore.architecture.parameters.Parameters`.
    """

    def __attrs_post_init__(self) -> None:
        validate(self)

    def lay_out(self, request: LayoutRequest) -> Layout:
        """Call the record's layout function and check its result.

        Raises:
            LayoutError: the platform is unknown, RAM is too small, or the ranges contradict each other.
        """
        if request.platform is not None and request.platform not in self.platforms:
            valid = choices(request.platform, self.platforms, "valid")
            raise LayoutError(f"{self.name}: unknown platform {request.platform!r}: {valid}")
        if request.platform is None and self.platforms:
            request = evolve(request, platform=self.platforms[0])
        layout = self._ask_layout(request)
        check_numbers(self, layout)
        check_layout(self, layout)
        check_banks(self, layout)
        return layout

    def _ask_layout(self, request: LayoutRequest) -> Layout:
        try:
            layout: object = self.layout(request)
        except ArchitectureError as error:  # a field of the Layout has the wrong type
            raise LayoutError(f"{self.name}: {error}") from error
        except VmcoreError:
            raise
        except Exception as error:  # code of a plugin ran, and it may raise anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise LayoutError(f"{self.name}: the layout function raised {cause}, expected a Layout") from error
        if not isinstance(layout, Layout):
            raise LayoutError(f"{self.name}: the layout function returned {layout!r}, expected a Layout")
        return layout
