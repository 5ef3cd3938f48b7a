"""A layer around every call of a server, unary and streaming alike: one idea each, wrapped around the handlers once, at the start.

grpc's own interceptors build new handlers for every call; wrapping the handlers when they are registered costs nothing per call,
and it lets identity be checked before the request is even parsed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from carrel_chassis.rpc.call import Handler


class Layer(ABC):
    """One thing that is done around every call."""

    @abstractmethod
    def wrap(self, proceed: Handler) -> Handler:
        """The handler that does this layer's part around `proceed`. It lets every exception through that it does not know."""


def compose(layers: Sequence[Layer], innermost: Handler) -> Handler:
    """The innermost handler within all layers, the first of them outermost."""
    handler = innermost
    for layer in reversed(layers):
        handler = layer.wrap(handler)
    return handler
