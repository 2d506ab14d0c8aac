"""Where the running interpreter raises an exception of another thread: what the takedown's argument rests on.

An exception that another thread has set is raised at the interpreter's next *checkpoint*.  The server's code has none
between "I have left the application" and the call that clears the exception.  Here that is read from the bytecode of
the interpreter that runs the tests; then exceptions are made pending, without a checkpoint, at just these places.
"""

from __future__ import annotations

import ctypes
import dis
import itertools
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.deadlines import Takedown
from graceful.threads.async_exc import AsyncExc
from graceful.web import exchange as exchange_module
from graceful.web.exchange import Exchange
from graceful.wsgi import runner as runner_module
from graceful.wsgi.environ import ConnectionEnviron
from graceful.wsgi.runner import Runner

#: Instructions that CPython 3.10 to 3.15 executes without a checkpoint.  One that is not here needs a look at the
#: interpreter's source, `Python/bytecodes.c`: does it look at the eval breaker?
PLAIN = frozenset(
    """
    BUILD_TUPLE CACHE CHECK_EXC_MATCH COPY DUP_TOP EXTENDED_ARG IS_OP JUMP_IF_NOT_EXC_MATCH KW_NAMES LOAD_ATTR
    LOAD_COMMON_CONSTANT LOAD_CONST LOAD_DEREF LOAD_FAST LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW
    LOAD_FAST_CHECK LOAD_FAST_LOAD_FAST LOAD_GLOBAL LOAD_METHOD LOAD_SMALL_INT NOP NOT_TAKEN
    POP_JUMP_FORWARD_IF_FALSE POP_JUMP_FORWARD_IF_NONE POP_JUMP_IF_FALSE POP_JUMP_IF_NONE POP_TOP PRECALL
    PUSH_EXC_INFO PUSH_NULL ROT_FOUR ROT_THREE ROT_TWO SETUP_FINALLY STORE_ATTR STORE_DEREF STORE_FAST
    STORE_FAST_LOAD_FAST STORE_FAST_STORE_FAST SWAP UNPACK_SEQUENCE
    """.split()
)
CALLS = frozenset(("CALL", "CALL_FUNCTION", "CALL_METHOD"))
CLEARS = frozenset(("clear_pending", "set_exception"))
call = operator.methodcaller("__call__")
#: The exchange is ended because the runner itself has failed, outside of the application; or it is just being made.
ELSEWHERE = frozenset(("give_up", "__init__"))


def codes(module: ModuleType) -> Iterator[CodeType]:
    """Iterate over all code of a module."""
    with open(str(module.__file__)) as file:
        left = [compile(file.read(), str(module.__file__), "exec")]
    while left:
        code = left.pop()
        yield code
        left += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def leavings(code: CodeType) -> Iterator[tuple[list[dis.Instruction], int]]:
    """Iterate over the places where code says that it has left the application: the instructions, and an index."""
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opname == "STORE_ATTR" and instruction.argval == "in_application":
            before = [one for one in instructions[:index] if one.opname not in ("CACHE", "EXTENDED_ARG")][-4:]
            if any(one.argrepr == "False" for one in before):
                yield instructions, index


def until_call(instructions: list[dis.Instruction], index: int) -> tuple[list[str], str]:
    """The instructions from an index to the next call, and the first global on the way: what it calls."""
    passed, function = [], ""
    for instruction in instructions[index:]:
        if instruction.opname in CALLS:
            break
        passed.append(instruction.opname)
        if instruction.opname == "LOAD_GLOBAL" and not function:
            function = instruction.argval
    return passed, function


def raises_again(instructions: list[dis.Instruction]) -> bool:
    """Whether the first thing that instructions do is to raise the exception that is being handled."""
    first = next(one for one in instructions if one.opname not in ("CACHE", "EXTENDED_ARG"))
    return first.opname == "RAISE_VARARGS" and first.arg == 0


class BytecodeTests(SynchronousTestCase):
    """What is read from the bytecode."""

    def test_no_checkpoint_between_leaving_the_application_and_clearing_the_exception(self) -> None:
        """From `in_application = False` the next checkpoint is the call that clears, if there is a takedown."""
        found = []
        for module in (runner_module, exchange_module):
            for code in codes(module):
                for instructions, index in leavings(code):
                    if code.co_name in ELSEWHERE:
                        continue
                    if instructions[index + 1 :] and raises_again(instructions[index + 1 :]):
                        continue
                    passed, function = until_call(instructions, index)
                    self.assertEqual(set(passed) - PLAIN, set(), f"{code.co_name}, CPython {sys.version}")
                    self.assertIn(function, CLEARS, code.co_name)
                    found.append(code.co_name)
        self.assertEqual(
            sorted(found),
            ["__call__", "__call__", "_close", "_close", "_send", "_send", "_start_response", "push"],
        )

    def test_no_checkpoint_between_an_exception_and_leaving_the_application(self) -> None:
        """A handler says that the application was left before a second exception can be raised in it."""
        handlers = 0
        for code in codes(runner_module):
            for instructions, index in leavings(code):
                before = instructions[:index]
                begins = [
                    number
                    for number, one in enumerate(before)
                    if one.opname == "LOAD_GLOBAL" and one.argval == "BaseException"
                ]
                if begins:
                    passed = {one.opname for one in before[begins[-1] :]}
                    self.assertEqual(passed - PLAIN, set(), f"{code.co_name}, CPython {sys.version}")
                    handlers += 1
        self.assertEqual(handlers, 4)

    def test_no_checkpoint_between_the_look_at_a_thread_and_the_exception(self) -> None:
        """No other thread runs between the takedown's look whether the thread is inside, and its shot."""
        code = AsyncExc.inject.__code__
        instructions = list(dis.get_instructions(code))
        looks = [
            index
            for index, one in enumerate(instructions)
            if one.opname == "LOAD_ATTR" and one.argval == "in_application"
        ]
        self.assertEqual(len(looks), 1)
        passed, function = until_call(instructions, looks[0])
        jumps = {"JUMP_IF_FALSE_OR_POP", "TO_BOOL"}  # of a bool, and not taken
        self.assertEqual(set(passed) - PLAIN - jumps, set(), sys.version)
        self.assertEqual(function, "set_exception")

    def test_no_attribute_on_the_way_runs_code(self) -> None:
        """The attributes that are read between those steps are slots, so that reading them is one step."""
        for holder, name in (
            (Exchange, "in_application"),
            (Exchange, "takedown"),
            (AsyncExc, "lock"),
            (AsyncExc, "thread"),
        ):
            self.assertIsInstance(getattr(holder, name), MemberDescriptorType)


def shot(target: AsyncExc) -> Callable[[], AsyncExc]:
    """A function in C alone: it sets Takedown in this thread, returns the target, and has no checkpoint."""
    function = ctypes.PyDLL(None)["PyThreadState_SetAsyncExc"]
    function.argtypes = (ctypes.c_ulong, ctypes.py_object)
    function.restype = {1: target}.__getitem__  # type: ignore[assignment]
    return partial(function, target.thread, ctypes.py_object(Takedown))


def no_takedown() -> Callable[[], None]:
    """A function in C alone, which returns None."""
    return partial({}.get, None)  # type: ignore[arg-type]


def make_exchange(application: Callable[..., Any], reads: list[Callable[[], Any]], target: AsyncExc) -> Exchange:
    """An exchange whose `takedown` is what the functions return, one at each read; after them, the target."""
    script = itertools.chain(map(call, reads), itertools.repeat(target))
    read = partial(next, script)  # it is called with the exchange, which it returns once the script has ended: never

    class Scripted(Exchange):
        """Its `takedown` is read without a checkpoint."""

        __slots__ = ("releases",)
        takedown = property(read, lambda self, value: None)  # type: ignore[assignment]

        def release(self) -> None:
            self.releases += 1

    connection: Any = SimpleNamespace(
        site=SimpleNamespace(draining=False, hand_over=None, tail_keep="\r\n", tail_close="\r\n"),
        peer="",
        port=0,
        server=("", 80),
        scheme="http",
        memo=ConnectionEnviron({"wsgi.url_scheme": "http"}),
        trusted=False,
        write_token=SimpleNamespace(closed=False, current=None),
        send=lambda *ignored: None,
    )
    exchange = Scripted(connection)
    exchange.releases = 0
    connection.write_token.current = exchange
    exchange.id = 1
    exchange.handler = SimpleNamespace(application=application)
    return exchange


def at_once(environ: Any, start_response: Any) -> list[bytes]:
    """It answers at once; its reads are: in `start_response`, behind the application."""
    start_response("200 OK", [])
    return [b"x"]


def fails(environ: Any, start_response: Any) -> list[bytes]:
    """It fails; its only legal read is in the handler."""
    raise BrokenPipeError


def pieces(environ: Any, start_response: Any) -> Iterator[bytes]:
    """It begins an answer and fails; reads: behind the application, in `start_response`, the piece, the handler."""
    start_response("200 OK", [])
    yield b"x"
    raise BrokenPipeError


def ends_in_both(trap: Any) -> None:
    """What a wait does that a takedown ends: it raises an error of its own while the exception is pending."""
    error = BrokenPipeError()
    trap.takedown  # noqa: B018
    raise error


class Closing:
    """An answer whose `close` fails."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])

    def close(self) -> None:
        """Fail."""
        raise BrokenPipeError


def closes(environ: Any, start_response: Any) -> Closing:
    """Reads: `start_response`, behind the application, the piece, the end of the pieces, the handler of `close`."""
    start_response("200 OK", [])
    return Closing()


class PendingTests(SynchronousTestCase):
    """Exceptions that are pending just when the thread leaves the application."""

    def serve(self, application: Callable[..., Any], *shots: int) -> None:
        """Serve an exchange, with an exception set just before each of some reads of `takedown`."""
        target = AsyncExc(threading.get_ident())
        first = min(shots)
        reads: list[Callable[[], Any]] = [no_takedown()] * first + [
            shot(target) if number in shots else partial({1: target}.get, 1)
            for number in range(first, max(shots) + 1)
        ]
        exchange = make_exchange(application, reads, target)
        what = f"{application.__name__}, set before reads {shots}"
        try:
            Runner()(exchange)
            for _ in range(10):
                len("server")
        except Takedown as error:
            held = target.lock.locked()
            raise AssertionError(f"raised in the server; the lock is {'' if held else 'not '}held: {what}") from error
        self.assertEqual(self.flushLoggedErrors(), [], "what the takedown has ended in is no failure")
        self.assertFalse(target.lock.locked(), what)
        self.assertEqual(exchange.releases, 1, what)  # type: ignore[attr-defined]
        self.assertFalse(exchange.in_application, what)

    def test_an_exception_that_is_pending_on_the_way_out_is_not_raised_in_the_server(self) -> None:
        """It is raised where that does no harm, or cleared; and no lock is left locked."""
        for shots in ((0,), (1,), (1, 2)):
            self.serve(at_once, *shots)

    def test_an_exception_that_is_pending_in_the_handler_is_cleared(self) -> None:
        """The wait that the takedown has ended raises an error of its own: both come together."""
        self.serve(fails, 0)
        for shots in ((0,), (1,), (2,), (3,), (0, 1), (2, 3)):
            self.serve(pieces, *shots)

    def test_an_exception_that_is_pending_when_close_fails_is_cleared(self) -> None:
        """The same in `close`."""
        for shots in ((0,), (1,), (2,), (3,), (4,)):
            self.serve(closes, *shots)

    def test_an_exception_that_comes_with_an_error_does_not_pass_the_handler(self) -> None:
        """The handler's beginning is a checkpoint of CPython 3.10."""
        target = AsyncExc(threading.get_ident())
        traps = [
            type("Trap", (), {"takedown": property(partial(next, map(call, [shot(target)])))})() for _ in range(3)
        ]

        class Both:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"x"])

            def close(self) -> None:
                ends_in_both(traps[0])

        def before(environ: Any, start_response: Any) -> list[bytes]:
            ends_in_both(traps[1])
            return []

        def between(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"x"
            ends_in_both(traps[2])

        def behind(environ: Any, start_response: Any) -> Both:
            start_response("200 OK", [])
            return Both()

        for application in (before, between, behind):
            exchange = make_exchange(application, [], target)
            Runner()(exchange)
            len("server")
            self.assertFalse(target.lock.locked())
            self.assertEqual((exchange.releases, exchange.in_application), (1, False))  # type: ignore[attr-defined]

    def test_the_shot_of_these_tests_is_met_at_the_next_checkpoint(self) -> None:
        """The exception is met, and not before."""
        target = AsyncExc(threading.get_ident())
        read = partial(next, map(call, [shot(target)]))
        holder: Any = type("Holder", (), {"takedown": property(read)})()
        seen = None
        try:
            seen = holder.takedown
            len("checkpoint")
        except Takedown:
            self.assertIs(seen, target)
        else:
            self.fail("not raised")
