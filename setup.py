"""What pyproject.toml cannot say: the packages that a search finds, plus one in somebody else's namespace.

`twistd` looks for plugins in every directory `twisted/plugins` on the path, so ours has to be put there,
beside Twisted's own.  Neither `twisted/` nor `twisted/plugins/` has an `__init__.py` here: with one, this
distribution would overwrite Twisted's.  For that reason no search finds the directory, and it is named.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["graceful", "graceful.*"]), "twisted.plugins"], py_modules=["_graceful_app"])
