"""Finding the application that the command line names, or saying in one line why not."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from graceful import demo
from graceful.application.loading import CannotLoad, is_asgi, load


class LoadTests(SynchronousTestCase):
    """Modules in the current directory."""

    def setUp(self) -> None:
        """Go to an empty directory; forget afterwards what was imported from it."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.here = Path(directory.name).resolve()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.here)
        self.patch(sys, "path", [entry for entry in sys.path if entry])
        self.patch(sys, "dont_write_bytecode", True)
        before = set(sys.modules)

        def forget() -> None:
            for name in set(sys.modules) - before:
                del sys.modules[name]

        self.addCleanup(forget)

    def write(self, name: str, text: str) -> None:
        """Write a module."""
        path = self.here / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def refused(self, name: str) -> str:
        """Why it cannot be loaded, which is one line."""
        text = str(self.assertRaises(CannotLoad, load, name))
        self.assertEqual(text.splitlines(), [text])
        return text

    def test_loads_named_callable(self) -> None:
        """`MODULE:CALLABLE` is that callable, also in a package and behind dots."""
        self.write("gl_one", "def site(e, s): pass\nclass A:\n    class B:\n        def c(e, s): pass\n")
        self.write("gl_package/__init__", "")
        self.write("gl_package/wsgi", "def application(e, s): pass\n")
        self.assertEqual(load("gl_one:site").__name__, "site")
        self.assertEqual(load("gl_one:A.B.c").__name__, "c")
        self.assertEqual(load("gl_package.wsgi:application").__module__, "gl_package.wsgi")

    def test_tries_default_names(self) -> None:
        """`MODULE` is its `application`, or else its `app`."""
        self.write("gl_both", "def app(e, s): pass\ndef application(e, s): pass\n")
        self.write("gl_app", "def app(e, s): pass\n")
        self.assertEqual((load("gl_both").__name__, load("gl_app").__name__), ("application", "app"))

    def test_none_is_the_demo(self) -> None:
        """Nothing is the built-in demo."""
        self.assertIs(load(None), demo.application)

    def test_loads_resource_tree(self) -> None:
        """A tree of resources will do as well."""
        self.write("gl_tree", "from twisted.web.resource import Resource\nroot = Resource()\n")
        self.assertIsInstance(load("gl_tree:root"), Resource)

    def test_looks_in_current_directory_once(self) -> None:
        """The current directory is looked into, before anything else and only once."""
        self.write("gl_one", "def app(e, s): pass\n")
        load("gl_one")
        load("gl_one")
        self.assertEqual((sys.path[0], sys.path.count(str(self.here))), (str(self.here), 1))

    def test_names_missing_module(self) -> None:
        """A module that does not exist is named."""
        for name in ("gl_nothing", "gl_nothing:app", "gl_nothing.wsgi:app"):
            self.assertIn("gl_nothing", self.refused(name))
        self.assertIn("cannot be imported: ModuleNotFoundError", self.refused("gl_nothing"))

    def test_refuses_empty_name(self) -> None:
        """A name without a module is no name."""
        self.assertIn("cannot be imported", self.refused(":app"))

    def test_names_missing_callable(self) -> None:
        """A module without the callable, or without any of the usual names, says what to write."""
        self.write("gl_empty", "x = 5\n")
        self.assertEqual(
            self.refused("gl_empty:site"), "gl_empty has no site: name the application as gl_empty:CALLABLE"
        )
        self.assertEqual(
            self.refused("gl_empty"), "gl_empty has no application or app: name the application as gl_empty:CALLABLE"
        )
        self.assertIn("has no x.y.z", self.refused("gl_empty:x.y.z"))

    def test_refuses_what_is_no_application(self) -> None:
        """An object that is no application is refused, and the error names its type."""
        self.write("gl_five", "app = 5\n")
        self.assertIn("gl_five:app is a int", self.refused("gl_five"))

    def test_a_factory_is_called(self) -> None:
        """`MODULE:FACTORY()` is what it returns; what it raises is said, with the place."""
        self.write(
            "gl_factory",
            "def make():\n    return lambda e, s: []\ndef fail():\n    1 / 0\ndef five():\n    return 5\n",
        )
        self.assertTrue(callable(load("gl_factory:make()")))
        refused = self.refused("gl_factory:fail()")
        self.assertIn("gl_factory:fail() cannot be made: ZeroDivisionError: division by zero", refused)
        self.assertIn("gl_factory.py, line 4", refused)
        self.assertIn("gl_factory:five() is a int", self.refused("gl_factory:five()"))

    def test_what_cannot_be_called_with_two_arguments_is_refused(self) -> None:
        """A factory without parentheses would answer nothing, so it is refused, with what to write."""
        self.write("gl_factory", "def make(): pass\ndef asgi(a, b, c): pass\ndef wide(*both, **more): pass\n")
        self.assertEqual(
            self.refused("gl_factory:make"),
            "gl_factory:make does not take the two arguments of a WSGI callable; if it makes the application, write "
            "gl_factory:make()",
        )
        error = self.assertRaises(CannotLoad, load, "gl_factory:asgi", "wsgi")
        self.assertTrue(str(error).endswith("of a WSGI callable"))
        self.assertTrue(callable(load("gl_factory:wide")))

    def test_an_asgi_application_is_told_from_a_wsgi_application(self) -> None:
        """A coroutine function is ASGI, as a function, a method or an object; so is what takes just three."""
        self.write(
            "gl_kinds",
            "import functools\n"
            "async def coroutine(scope, receive, send): pass\n"
            "class Object:\n    async def __call__(self, scope, receive, send): pass\n"
            "made = Object()\n"
            "part = functools.partial(coroutine)\n"
            "def three(scope, receive, send): return made(scope, receive, send)\n"
            "def wsgi(environ, start_response): pass\n"
            "def wide(*all): pass\n"
            "class Two:\n    def __init__(self, scope): pass\n",
        )
        for name in ("coroutine", "made", "part", "three"):
            self.assertTrue(is_asgi(load(f"gl_kinds:{name}")), name)
        for name in ("wsgi", "wide"):
            self.assertFalse(is_asgi(load(f"gl_kinds:{name}")), name)
        self.assertTrue(is_asgi(load("gl_kinds:wide", "asgi"), "asgi"))
        self.assertFalse(is_asgi(load("gl_kinds:wide", "wsgi"), "wsgi"))
        error = self.assertRaises(CannotLoad, load, "gl_kinds:Two", "asgi")
        self.assertIn("ASGI 2 is not served", str(error))

    def test_tells_why_and_where_the_import_fails(self) -> None:
        """A module that fails says why and where, and the error itself is the cause."""
        self.write("gl_bad", "import gl_worse\n")
        self.write("gl_worse", "\n\n1 / 0\n")
        error = self.assertRaises(CannotLoad, load, "gl_bad")
        self.assertEqual(
            str(error),
            f"gl_bad cannot be imported: ZeroDivisionError: division by zero ({self.here / 'gl_worse.py'}, line 3)",
        )
        self.assertIsInstance(error.__cause__, ZeroDivisionError)

    def test_tells_apart_missing_dependency(self) -> None:
        """A module that the application's own module misses is told from that one."""
        self.write("gl_bad", "import gl_missing\n")
        text = self.refused("gl_bad")
        self.assertIn("gl_bad cannot be imported", text)
        self.assertIn("gl_missing", text)
        self.assertIn("gl_bad.py, line 1", text)

    def test_tells_where_the_syntax_error_is(self) -> None:
        """A syntax error says where it is."""
        self.write("gl_syntax", "def app(:\n")
        text = self.refused("gl_syntax")
        self.assertIn("SyntaxError", text)
        self.assertIn("gl_syntax.py, line 1", text)

    def test_survives_sys_exit(self) -> None:
        """A module that ends the process does not end it."""
        self.write("gl_exit", "import sys\nsys.exit('no\\nmore')\n")
        self.assertIn("it called sys.exit('no\\nmore')", self.refused("gl_exit"))

    def test_tells_long_error_in_one_line(self) -> None:
        """An error of many lines is told in one."""
        self.write("gl_story", "raise ValueError('one\\n  two\\r\\nthree')\n")
        self.assertIn("ValueError: one two three", self.refused("gl_story"))
