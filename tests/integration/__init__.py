"""What a Twisted user's own tests look like: trial, pytest-twisted and treq, and a server that is redeployed."""
