"""What a Twisted user's own tests look like: trial and pytest-twisted, with treq against a server that is redeployed."""
