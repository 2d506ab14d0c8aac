"""Whether an exception would be raised in a thread while it enters a `with` block, where it leaves a lock locked.

CPython raises an exception of another thread only at checkpoints, most of which are calls.  In 3.14, and in no
version before or after it, entering a `with` block is one: the lock is acquired, the exception is raised, and the
block that would release the lock has not begun.  The bytecode tells whether that would happen: the next checkpoint of
a thread is the end of the call that it is in, or the first one on its way from there.
"""

from __future__ import annotations

import ctypes
import dis
import threading
from collections.abc import Iterator
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import Any, Final

#: Two code units: the method is looked up, and called.
_SPECIAL: Final = dis.opmap.get("LOAD_SPECIAL", -1)
_CALL: Final = dis.opmap.get("CALL", -1)
#: Where the way out of a function leads to its caller, and where it ends.
_RETURNS: Final = frozenset(("RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE", "RETURN_GENERATOR"))
_RAISES: Final = frozenset(("RAISE_VARARGS", "RERAISE"))
#: Further instructions that look for an exception, beside every one whose name begins with CALL.
_CHECKPOINTS: Final = frozenset(("RESUME", "JUMP_BACKWARD"))
#: Calls of some builtins that CPython has replaced in place, once it knows them, by instructions that do not look.
_NO_CHECKPOINTS: Final = frozenset(
    number
    for name, number in getattr(dis, "_specialized_opmap", {}).items()
    if name in ("CALL_LEN", "CALL_ISINSTANCE", "CALL_LIST_APPEND", "CALL_TYPE_1")
)
_ALWAYS: Final = frozenset(("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"))
#: Functions that return into each other without a checkpoint; of more it is unclear where they lead.
_DEEPEST: Final = 20


class _Unclear(Exception):
    """The bytecode does not tell where the next checkpoint is: it raises an exception before that."""


class _Probe(BaseException):
    """Raised where this interpreter looks for an exception as it enters a `with` block."""


def entering_is_a_checkpoint() -> bool:
    """Returns whether this interpreter raises an exception of another thread while it enters a `with` block.

    Tried out, since an interpreter can be mended: a context manager in C sets an exception as it is entered.
    """
    set_exception: Any = ctypes.PyDLL(None)["PyThreadState_SetAsyncExc"]
    set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
    enter = partial(set_exception, threading.get_ident(), ctypes.py_object(_Probe))
    is_inside = False

    class Manager:
        """Entered without a function of Python."""

        __enter__ = staticmethod(enter)

        def __exit__(self, *error: object) -> None:
            """Do nothing."""

    try:
        with Manager():
            is_inside = True
        for _ in range(2):  # a checkpoint at the latest
            pass
    except _Probe:
        pass
    return not is_inside


@lru_cache(maxsize=1024)
def _instructions(code: CodeType) -> dict[int, tuple[dis.Instruction, int]]:
    """Return the instructions of a function by their offsets, each with the offset behind it."""
    found = list(dis.get_instructions(code))
    ends = [one.offset for one in found[1:]] + [len(code.co_code)]
    return {one.offset: (one, end) for one, end in zip(found, ends, strict=True)}


def _enters(code: CodeType, offset: int) -> bool:
    """Whether an instruction is the call that enters a `with` block."""
    raw = code.co_code
    return offset >= 2 and raw[offset] == _CALL and raw[offset - 2] == _SPECIAL


def _is_call(code: CodeType, offset: int) -> bool:
    known = _instructions(code).get(offset)
    return known is not None and known[0].opname.startswith("CALL") and "INTRINSIC" not in known[0].opname


def _successors(instruction: dis.Instruction, end: int) -> list[int]:
    """Return the offsets to which an instruction leads, within its function.

    :param end: the offset behind it.
    """
    if instruction.opcode not in dis.hasjrel and instruction.opcode not in dis.hasjabs:
        return [end]
    target: int = instruction.argval
    return [target] if instruction.opname in _ALWAYS else [end, target]


def _next_checkpoints(code: CodeType, offset: int) -> Iterator[int | None]:
    """Iterate over the checkpoints that can come next in a function; None stands for one after its end.

    :param offset: of the instruction in which the thread is.
    """
    instructions, seen = _instructions(code), set()
    adaptive: bytes = getattr(code, "_co_code_adaptive", code.co_code)
    left = _successors(*instructions[offset]) if offset in instructions else []
    if offset in instructions and instructions[offset][0].opname in _RETURNS:
        yield None
        return
    while left:
        offset = left.pop()
        if offset in seen or offset not in instructions:
            continue
        seen.add(offset)
        instruction, end = instructions[offset]
        name = instruction.opname
        if name in _RETURNS:
            yield None
        elif name in _CHECKPOINTS or (_is_call(code, offset) and adaptive[offset] not in _NO_CHECKPOINTS):
            yield offset
        elif name in _RAISES:
            raise _Unclear
        else:
            left += _successors(instruction, end)


def is_entering(frame: FrameType, asleep: bool) -> bool:
    """Whether a thread may meet an exception, which is raised now, while it enters a `with` block.

    A thread that does not run is in a call of C, at whose end it looks for an exception.  Or it has just passed a
    checkpoint, where another thread got the interpreter's lock; then it looks at the next one.

    :param frame: the innermost one of the thread.
    :param asleep: the thread has not run for a while, so if it is at a call, it is in it.
    """
    if _SPECIAL < 0:  # before 3.14, one instruction enters a block, without a call
        return False
    code, offset = frame.f_code, frame.f_lasti
    if _enters(code, offset):
        return True
    if asleep and _is_call(code, offset):
        return False
    try:
        return _will_enter(frame)
    except _Unclear:
        return True


def _will_enter(frame: FrameType) -> bool:
    """Whether the first checkpoint on the way of a thread may be the call that enters a `with` block.

    :raises _Unclear: that cannot be told.
    """
    place: FrameType | None = frame
    for _ in range(_DEEPEST):
        if place is None:
            return False
        checkpoints = set(_next_checkpoints(place.f_code, place.f_lasti))
        if any(offset is not None and _enters(place.f_code, offset) for offset in checkpoints):
            return True
        if None not in checkpoints:
            return False
        place = place.f_back
        if place is not None and _enters(place.f_code, place.f_lasti):
            return True
    raise _Unclear


#: Whether an exception can be raised there at all.
UNSAFE: Final = entering_is_a_checkpoint()
