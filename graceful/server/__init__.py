"""One instance, put together: the engine that serves, what a stop does to it, and the Twisted service around both.

This is the one folder that knows all the others below it.
"""
