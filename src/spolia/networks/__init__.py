"""Networks in PyTorch: tensors in, tensors out. Needs the extra ``spolia[train]``."""
