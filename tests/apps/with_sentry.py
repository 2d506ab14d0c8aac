"""The application of `deadlines`, with Sentry."""

import os

import sentry_sdk
from deadlines import application as application

sentry_sdk.init(os.environ["SENTRY"], default_integrations=False)
