"""What can be set: each setting with its default and its check, and the table of options that sets it."""
