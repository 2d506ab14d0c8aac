"""`graceful deploy`: the instances of a site, one after the other, replaced by their next version."""


class DeployError(Exception):
    """Something cannot be done.  Its text is one line for the operator."""
