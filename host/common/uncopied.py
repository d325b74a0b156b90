"""What lies in the host's options while a sampler runs, and stays itself when other packs copy them."""

from __future__ import annotations

from typing import NoReturn


class Uncopied:
    """A copy of it is itself.

    Some packs deep-copy the options of a call before they change them (pre-CFG nodes do); such a copy would otherwise
    take the run, the guider and every network with it.
    """

    def __copy__(self) -> Uncopied:
        return self

    def __deepcopy__(self, memo: dict) -> Uncopied:
        return self

    def __reduce_ex__(self, protocol) -> NoReturn:
        raise TypeError(
            "The options of a sampler that runs with guidance components hold the run itself, which cannot be pickled "
            "(written to a file, or sent to another process). Remove the components from this MODEL, or the node that "
            "does so."
        )
