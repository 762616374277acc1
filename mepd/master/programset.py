"""The programs of mepd.conf, as they are and as they should be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from mepd.config.settings import ProgramSection
from mepd.master.programs import Program, start_order

log = logging.getLogger(__name__)


class ProgramSet:
    """Brings the running programs to what is wanted, touching none that is right.

    ``programs`` also holds those that are about to end.
    """

    def __init__(
        self, make: Callable[[ProgramSection], Program], wanted: Iterable[ProgramSection]
    ) -> None:
        self._make = make
        self._wanted = {s.name: s for s in wanted}
        self._closed = False
        self.programs = [make(section) for section in self._wanted.values()]

    def start(self) -> None:
        """Start what starts by itself, lowest priority first."""
        for program in start_order(self.programs):
            if program.section.autostart:
                program.start()

    def find(self, name: str) -> Program | None:
        """The program of this name that is as it should be, not one that makes room."""
        for program in self.programs:
            if program.section.name == name and program.section == self._wanted.get(name):
                return program
        return None

    def may_start(self, program: Program) -> bool:
        """Not one that was replaced or removed meanwhile, and none once all is to end."""
        return not self._closed and self.find(program.section.name) is program

    def close(self) -> None:
        """From now on nothing is started any more."""
        self._closed = True

    def change(self, wanted: Iterable[ProgramSection]) -> None:
        """New ones start, others stop; one that changed stops and starts as it is now."""
        self._wanted = {s.name: s for s in wanted}
        for program in list(self.programs):
            if self._wanted.get(program.section.name) != program.section:
                self._end(program)
        present = {p.section.name for p in self.programs}
        self._begin([s for s in self._wanted.values() if s.name not in present])

    def _end(self, program: Program) -> None:
        log.info("program %s stops: its configuration changed", program.section.name)
        program.when_stopped = lambda: self._ended(program)
        program.stop()

    def _ended(self, program: Program) -> None:
        if program in self.programs:
            self.programs.remove(program)
        section = self._wanted.get(program.section.name)
        if section is not None:
            self._begin([section])

    def _begin(self, sections: list[ProgramSection]) -> None:
        if self._closed:
            return
        begun = [self._make(section) for section in sections]
        self.programs += begun
        for program in start_order(begun):
            if program.section.autostart:
                program.start()
