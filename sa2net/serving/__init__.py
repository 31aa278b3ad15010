"""The registered model as a server: what it accepts, what it answers, and how a version is checked before."""
