"""Channels that are coupled and go together, and the network that is left without them."""

from prunus.channels.compact import compact, sizes_from_weights
from prunus.channels.groups import Group, Slice, alive, expand, groups, share_removed, sums

__all__ = ["Group", "Slice", "alive", "compact", "expand", "groups", "share_removed", "sizes_from_weights", "sums"]
