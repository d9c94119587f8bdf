"""The model's linear layer under the name by which programs have imported it from here: it is torch's own.

Earlier versions had one with a product of its own; adapters, quantisers and pruning want the plain one.
"""

from torch import nn

Linear = nn.Linear
"""Kept so that such programs go on; the model itself says `nn.Linear`."""
