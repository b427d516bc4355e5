"""Ctrl-C where it would do harm.

Extension modules crash when it meets them while they are imported, and a pool of threads that it meets while it starts
one never learns of it, so that the process does not end.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


@contextmanager
def interrupts_at_safe_places() -> Iterator[None]:
    """Let Ctrl-C wait for the end of an import or a thread's start that it meets; a KeyboardInterrupt as ever then.

    Changes nothing outside the main thread, nor where Ctrl-C is ignored or handled by someone else.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    around = _unsafe(sys._getframe())

    def interrupt(number: int, frame: FrameType | None) -> None:
        met = _unsafe(frame)
        if met is None or met is around:
            signal.default_int_handler(number, frame)
        else:
            _interrupt_after(met)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _unsafe(frame: FrameType | None) -> FrameType | None:
    """The outermost of the calls under way that have to come to their end; None where there is none."""
    frames = [caller for caller, _ in traceback.walk_stack(frame) if _has_to_end(caller.f_code)]
    return frames[-1] if frames else None


def _has_to_end(code: CodeType) -> bool:
    return code.co_filename == "<frozen importlib._bootstrap>" or code.co_qualname == "ThreadPoolExecutor.submit"


def _interrupt_after(call: FrameType) -> None:
    """Raise KeyboardInterrupt as soon as the frame ``call`` is left."""
    former = sys.getprofile()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if frame is call and event == "return":
            sys.setprofile(former)
            raise KeyboardInterrupt

    sys.setprofile(look)
