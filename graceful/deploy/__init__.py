"""`graceful deploy`: replaces the instances of a site by their next version, one after the other."""


class DeployError(Exception):
    """A deploy cannot go on.  The text is one line for the operator."""
