"""What pyproject.toml cannot say: the packages that a search finds, plus one in somebody else's namespace.

`twistd` looks for plugins in every directory `twisted/plugins` on the path, so ours has to be put there,
beside Twisted's own.  Neither `twisted/` nor `twisted/plugins/` has an `__init__.py` here: with one, this
distribution would overwrite Twisted's.  For that reason no search finds the directory, and it is named.

A wheel is built in a temporary directory: `pip install .` leaves nothing in the checkout, where the next build would
pack again what has been deleted since.

With `GRACEFUL_COMPILE=1` a wheel is for one platform and one Python: the modules that every request goes through are
in it twice, as their sources and compiled by mypyc.  Python imports the compiled ones where they fit, and the sources
elsewhere.  Without that variable nothing is compiled, and no compiler is needed.  With `GRACEFUL_COMPILE=quick` the C
compiler does not optimize: for tests of what mypyc has made, in a third of the time.
"""

import gc
import os
import sys
from tempfile import TemporaryDirectory

from setuptools import Extension, find_packages, setup

# Where manual pages and the completions of shells are looked for, below the prefix.
shared = [
    "share/bash-completion/completions/graceful",
    "share/fish/vendor_completions.d/graceful.fish",
    "share/man/man1/graceful.1",
    "share/zsh/site-functions/_graceful",
]

#: What every request goes through, and the classes that inherit from it, since an interpreted class cannot inherit
#: from a compiled one.  They are one group: calls between them are calls in C.  What runs in the thread of an asyncio
#: loop is not here: a takedown looks at the frames of that thread (graceful/asgi/blocked_code.py), and compiled
#: functions have none.
HOT = """
    logs/access_lines logs/access_log threads/pool tls/session
    web/answer_framing web/body_stream web/carrier web/connection web/exchange web/field_kinds web/field_lines web/hub
    web/limits web/moved_exchange web/prefix_routes web/proxied_connection web/received_bodies web/receiver
    web/register web/request_parser web/request_rules web/response_headers web/send_buffer web/sending_half
    web/site web/tls_connection web/transport_connection web/unique_fields web/write_token
    wsgi/environ wsgi/filewrapper wsgi/resource wsgi/runner
""".split()


def compiled(place: str) -> list[Extension]:
    """Returns the extension modules, if they are wanted.

    :param place: where their C is written.
    """
    level = {"1": "2", "quick": "0"}.get(os.environ.get("GRACEFUL_COMPILE", ""))
    if level is None or "bdist_wheel" not in sys.argv:
        return []
    from mypyc.build import mypycify  # a requirement of this kind of build alone

    paths = [f"graceful/{name}.py" for name in HOT]
    extensions = mypycify(paths, opt_level=level, debug_level="0", group_name="graceful", target_dir=place)
    for extension in extensions:
        # To search the C for warnings takes longer than to compile it for tests.  The other two make calls direct:
        # those within the module, and those of Python's functions.
        extension.extra_compile_args = [*extension.extra_compile_args, "-w", "-fvisibility=hidden", "-fno-plt"]
    gc.freeze()  # else the collector would look through all of mypy's objects at the end, for seconds
    return extensions


with TemporaryDirectory(prefix="graceful-build-") as place:
    elsewhere = {"build": {"build_base": place}, "egg_info": {"egg_base": place}}
    setup(
        packages=[*find_packages(include=["graceful", "graceful.*"]), "twisted.plugins"],
        py_modules=["_graceful_app"],
        ext_modules=compiled(place),
        data_files=[(os.path.dirname(path), [path]) for path in shared],
        options={} if "sdist" in sys.argv else elsewhere,  # a source distribution has the list of what is in it
    )
