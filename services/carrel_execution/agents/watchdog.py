"""Sees that the loop has stopped turning, finds the agent that keeps it, and stops that agent; when it cannot, it stops the process.

A thread looks whether the loop turns. It raises AgentStuck inside of the agent's code, which ends the run. An agent that swallows it, or
is not in Python code that could raise, has a second time as long; then the run is ended over a connection of the thread's own, the other
runs are given back, and the process exits. Code that keeps the interpreter itself keeps this thread too: for that there is a limit of
CPU time between two turns of the loop, after which the kernel ends the process and leaves word where it was.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import inspect
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from opentelemetry import metrics

from carrel.agent import Agent, AgentClass, FunctionAgent
from carrel_chassis.logs import get_logger
from carrel_execution.agents.in_loop import AgentStuck, LoopAgent, agent_of

EXIT_CODE = 70
"""Of a process that had to end because of an agent (EX_SOFTWARE)."""
_LOOKS = 8
"""In the time that a loop may stand."""
_LAST_SECONDS = 3.0
_ATOMIC_SECONDS = 10.0

LastResort = Callable[[str, str], Awaitable[None]]
"""Ends the run of this id as dead of this cause, in a loop of its own, and sees to the others of the process."""


class Watchdog:
    """Watches the loop of the thread that starts it, from `start` to `stop`."""

    def __init__(
        self,
        seconds: float,
        hopeless_seconds: float,
        *,
        isolate: Callable[[str], None],
        last_resort: LastResort,
        word_left_in: TextIO,
    ) -> None:
        """`hopeless_seconds` is when the process ends also for a loop that no agent keeps: its leases are lost by then.

        `isolate` is told the name of each agent that kept the loop; `word_left_in` takes the kernel's word, and is open till `stop`.
        """
        self._seconds = seconds
        self._hopeless_seconds = hopeless_seconds
        self._interval = seconds / _LOOKS
        self._isolate = isolate
        self._last_resort = last_resort
        self._word_left_in = word_left_in
        self._turns = 0
        self._stopped = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat: asyncio.TimerHandle | None = None
        self._stuck = metrics.get_meter("carrel").create_counter("carrel.agent.stuck")

    def start(self) -> None:
        """Call it in the loop that is to be watched."""
        faulthandler.register(signal.SIGPROF, self._word_left_in, all_threads=True, chain=True)
        self._turn(asyncio.get_running_loop())
        self._thread.start()

    def stop(self) -> None:
        """The loop may stand as long as it likes from now on."""
        self._stopped.set()
        if self._beat is not None:
            self._beat.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        faulthandler.unregister(signal.SIGPROF)
        self._thread.join()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turns += 1
        # CPU time, not the clock: a process that is paused, or gets no CPU, is not at fault.
        signal.setitimer(signal.ITIMER_PROF, 3 * self._seconds)
        self._beat = loop.call_later(self._interval, self._turn, loop)

    def _watch(self) -> None:
        turns, stood, last, raised = -1, 0.0, time.monotonic(), False
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            late, last = now - last > 2 * self._interval, now
            if self._turns != turns:
                turns, stood, raised = self._turns, 0.0, False
                continue
            if late:  # the whole process was paused, or got no CPU: that time is not the agent's
                continue
            stood += self._interval
            if stood >= 2 * self._seconds:
                self._end_process(hopeless=stood >= self._hopeless_seconds)
            elif stood >= self._seconds and not raised:
                raised = self._stop_agent()

    def _stop_agent(self) -> bool:
        """Raises AgentStuck in the agent's code; false when that is not what runs at this moment."""
        # Between the look and the raise the watched thread must not go on, or the exception would meet somebody else.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_ATOMIC_SECONDS)
        try:
            found = self._found()
            if found is None:
                return False
            agent, at = found
            agent.blocked = self._cause(at)
            thread = ctypes.c_ulong(self._watched)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(AgentStuck))
        finally:
            sys.setswitchinterval(interval)
        self._isolate(agent.name)
        self._stuck.add(1, {"gen_ai.agent.name": agent.name})
        get_logger().error("agent.stuck", agent=agent.name, run_id=agent.run_id, cause=agent.blocked)
        return True

    def _end_process(self, *, hopeless: bool) -> None:
        """Ends it when an agent is at fault, or when there is nothing to lose any more."""
        found = self._found()
        if found is None and not hopeless:
            return
        stack = "".join(traceback.format_stack(sys._current_frames().get(self._watched)))
        if found is None:
            get_logger().critical("loop.stuck", stack=stack)
        else:
            agent, at = found
            get_logger().critical("agent.stuck_for_good", agent=agent.name, run_id=agent.run_id, stack=stack)
            try:
                asyncio.run(asyncio.wait_for(self._last_resort(agent.run_id, self._cause(at)), _LAST_SECONDS))
            except Exception:
                get_logger().exception("agent.stuck_and_not_ended", run_id=agent.run_id)
        os._exit(EXIT_CODE)

    def _found(self) -> tuple[LoopAgent, FrameType] | None:
        frame = sys._current_frames().get(self._watched)
        return None if frame is None else agent_of(frame)

    def _cause(self, at: FrameType) -> str:
        place = f"{Path(at.f_code.co_filename).name}:{at.f_lineno}"
        return f"The agent blocked the event loop for {self._seconds:g} s at {place}."


def agents_named_in(word: str, classes: Iterable[type[Agent]]) -> set[str]:
    """The agents in whose code the process was when the kernel ended it, by the stack that it has left."""
    places = {(file, int(line)) for file, line in re.findall(r'File "([^"]+)", line (\d+)', word)}
    files = {file for file, _ in places}
    return {
        agent_class.name
        for agent_class in classes
        if any(
            file == place and line in lines for file, lines in _written_in(agent_class, files) for place, line in places
        )
    }


def _written_in(agent_class: type[Agent], files: set[str]) -> Iterator[tuple[str, range]]:
    """Where the class, and what it inherits from other agents, is written, as far as that is in these files."""
    for each in agent_class.__mro__:
        # The SDK's own lines are on the stack of every agent.
        if not isinstance(each, AgentClass) or each.__module__.partition(".")[0] == "carrel":
            continue
        written = each.function if issubclass(each, FunctionAgent) else each
        with suppress(OSError, TypeError):  # its source is not there
            if (file := inspect.getfile(written)) in files:  # to find the lines of a class is slow
                lines, first = inspect.getsourcelines(written)
                yield file, range(first, first + len(lines))
