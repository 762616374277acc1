"""The verbs that steer mepd, its endpoints and its programs."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mepd.errors import ConfigError, ControlError
from mepd.master.asking import Caller, Verb, flag, needed
from mepd.master.later import Later
from mepd.master.liveconfig import LiveConfig
from mepd.master.loop import Loop
from mepd.master.programs import Program
from mepd.master.stopping import Stopper
from mepd.master.table import UepTable
from mepd.model import ProgramState

log = logging.getLogger(__name__)

_LOOK = 0.05
_KILLED_MAX = 10.0
_RELOAD_MAX = 15.0
_FAILED = (ProgramState.BACKOFF, ProgramState.FATAL, ProgramState.EXITED)


class Commander(Protocol):
    """What steering needs of the master."""

    loop: Loop
    config: LiveConfig
    table: UepTable
    stopper: Stopper

    def reload(self, done: Callable[[dict[str, Any]], None]) -> None: ...

    def shutdown(self, signum: int) -> None: ...


class Steering:
    """Answers come when what was asked for has happened, or has not in time."""

    def __init__(self, commander: Commander) -> None:
        self._c = commander

    def table(self) -> dict[str, Verb]:
        name = ("name",)
        return {
            "drain": Verb(self._drain, name, restricted=True),
            "start": Verb(self._start, ("name", "directory", "named"), restricted=True),
            "stop": Verb(self._stop, name, restricted=True),
            "restart": Verb(self._restart, name, restricted=True),
            "reload": Verb(self._reload, ("dry_run",), restricted=True),
            "shutdown": Verb(self._shutdown, restricted=True),
        }

    # --- the whole of mepd ------------------------------------------------------------
    def _reload(self, caller: Caller, args: dict[str, Any]) -> Any:
        later = Later()
        if flag(args, "dry_run"):
            self._c.config.preview(later.resolve)
        else:
            log.info("reload asked for %s", caller.reason)
            self._c.reload(later.resolve)
        text = "the files are still being checked; see mepctl status for config-watcher"
        late = ControlError(text, os.EX_TEMPFAIL)
        self._c.loop.call_later(_RELOAD_MAX, lambda: later.refuse(late))
        return later

    def _shutdown(self, caller: Caller, _args: dict[str, Any]) -> Any:
        log.info("shutdown asked for %s", caller.reason)
        self._c.shutdown(signal.SIGTERM)
        return {}

    # --- endpoints and programs -------------------------------------------------------
    def _find(self, word: str) -> tuple[str, Program | None]:
        """(endpoint's name, None), or (program's name, it). Raises ControlError."""
        kind, colon, name = word.partition(":")
        if not colon or kind not in ("endpoint", "program"):
            kind, name = "", word
        program = self._c.config.programs.find(name) if kind != "endpoint" else None
        is_endpoint = kind != "program" and self._c.config.knows(name)
        if program is not None and is_endpoint:
            raise ControlError(
                f"{name} is an endpoint and a program; say endpoint:{name} or program:{name}",
                os.EX_USAGE,
            )
        if program is None and not is_endpoint:
            raise ControlError(
                f"no endpoint or program is called {word[:80]!r}; see mepctl status",
                os.EX_UNAVAILABLE,
            )
        return name, program

    def _find_served(self, word: str) -> tuple[str, Program | None]:
        name, program = self._find(word)
        if program is None and name not in self._c.config.endpoints:
            raise ControlError(f"endpoint {name} is not served", os.EX_UNAVAILABLE)
        return name, program

    def _drain(self, caller: Caller, args: dict[str, Any]) -> Any:
        name, program = self._find_served(needed(args, "name"))
        if program is not None:
            raise ControlError(f"program {name} takes no requests: stop it", os.EX_USAGE)
        log.info("drain of endpoint %s asked for %s", name, caller.reason)
        self._c.config.hold(name)
        return self._endpoint(name)

    def _stop(self, caller: Caller, args: dict[str, Any]) -> Any:
        name, program = self._find_served(needed(args, "name"))
        if program is not None:
            return self._stop_program(program, self._program)
        return self._stop_endpoint(name, caller, lambda: self._endpoint(name))

    def _restart(self, caller: Caller, args: dict[str, Any]) -> Any:
        name, program = self._find_served(needed(args, "name"))
        if program is not None:
            return self._stop_program(program, self._start_program)

        def begin() -> Any:
            self._resume(name)
            return self._endpoint(name)

        return self._stop_endpoint(name, caller, begin)

    def _start(self, _caller: Caller, args: dict[str, Any]) -> Any:
        word = needed(args, "name")
        directory = Path(args["directory"]) if isinstance(args.get("directory"), str) else None
        named = flag(args, "named")
        try:
            name, program = self._find(word)
        except ControlError:
            if directory is None or ":" in word:
                raise
            name, program, named = word, None, True
        if program is not None:
            return self._start_program(program)
        self._start_endpoint(name, directory if named else None)
        return self._endpoint(name)

    def _start_endpoint(self, name: str, directory: Path | None) -> None:
        endpoint = self._c.config.endpoints.get(name)
        if endpoint is not None and not endpoint.draining:
            raise ControlError(f"endpoint {name} is served already", os.EX_UNAVAILABLE)
        if directory is None:
            self._resume(name)
            return
        if not directory.is_absolute():
            raise ControlError("start needs an absolute directory", os.EX_USAGE)
        try:
            self._c.config.start_endpoint(name, directory)
        except (ConfigError, OSError) as e:
            raise ControlError(str(e), os.EX_CONFIG) from None

    def _resume(self, name: str) -> None:
        try:
            self._c.config.resume(name)
        except (ConfigError, OSError) as e:
            raise ControlError(str(e), os.EX_CONFIG) from None

    def _endpoint(self, name: str) -> dict[str, Any]:
        endpoint = self._c.config.endpoints[name]
        return {"name": name, "kind": "endpoint", "state": endpoint.state}

    def _stop_endpoint(self, name: str, caller: Caller, then: Callable[[], Any]) -> Later:
        self._c.config.hold(name)
        for u in self._c.table:
            if u.endpoint == name:
                self._c.stopper.stop(u, f"endpoint {name} is stopped {caller.reason}")

        def over() -> bool:
            return not any(u.endpoint == name for u in self._c.table)

        patience = self._c.stopper.stopwaitsecs + _KILLED_MAX
        late = f"endpoint {name} still has user endpoints; see mepctl list --endpoint {name}"
        return self._when(over, then, patience, late)

    # --- programs ---------------------------------------------------------------------
    def _program(self, program: Program) -> dict[str, Any]:
        return {"name": program.section.name, "kind": "program", "state": program.state.value}

    def _start_program(self, program: Program) -> Any:
        name = program.section.name
        if program.process is not None:
            raise ControlError(f"program {name} is {program.state.value}", os.EX_UNAVAILABLE)
        if not self._c.config.programs.may_start(program):
            text = f"program {name} is not started: it was changed meanwhile, or mepd stops"
            raise ControlError(text, os.EX_UNAVAILABLE)
        program.start_anew()

        def then() -> Any:
            if program.state is ProgramState.RUNNING:
                return self._program(program)
            why = program.description
            raise ControlError(f"program {name} does not start: {why}", os.EX_UNAVAILABLE)

        def over() -> bool:
            return program.state is ProgramState.RUNNING or program.state in _FAILED

        patience = program.section.startsecs + _KILLED_MAX
        return self._when(over, then, patience, f"program {name} is {program.state.value}")

    def _stop_program(self, program: Program, then: Callable[[Program], Any]) -> Later:
        name = program.section.name
        log.info("program %s is stopped on request", name)
        program.stop()
        patience = program.section.stopwaitsecs + _KILLED_MAX

        def over() -> bool:
            return program.process is None and program.state is ProgramState.STOPPED

        return self._when(over, lambda: then(program), patience, f"program {name} does not end")

    def _when(
        self, over: Callable[[], bool], then: Callable[[], Any], patience: float, late: str
    ) -> Later:
        """The answer of ``then``, once ``over`` holds; ``late`` after ``patience`` seconds."""
        later = Later()
        deadline = self._c.loop.clock() + patience

        def look() -> None:
            if over():
                self._pass_on(later, then)
            elif self._c.loop.clock() >= deadline:
                later.refuse(ControlError(late, os.EX_TEMPFAIL))
            else:
                self._c.loop.call_later(_LOOK, look)

        look()
        return later

    def _pass_on(self, later: Later, then: Callable[[], Any]) -> None:
        try:
            result = then()
        except ControlError as e:
            later.refuse(e)
            return
        if isinstance(result, Later):
            result.then(later.resolve)
        else:
            later.resolve(result)
