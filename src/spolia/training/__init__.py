"""Training of the networks. Needs the extra ``spolia[train]``."""
