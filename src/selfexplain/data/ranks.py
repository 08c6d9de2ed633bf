"""Which part of a global batch falls to which process."""

from selfexplain.errors import InputError


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """Give the part of `count` images that falls to `rank`; parts differ by at most one image.

    Example:
        >>> [rank_slice(7, rank, 3) for rank in range(3)]
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    share, rest = divmod(count, world_size)
    start = rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


def check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    """Raise InputError unless `rank` exists and each process can have as many images.

    Example:
        >>> check_ranks(batch_size=12, rank=2, world_size=3)
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise InputError(
            f"rank {rank} of world_size {world_size} does not exist; "
            "pass a rank from 0 to world_size - 1"
        )
    if batch_size % world_size:
        raise InputError(
            f"batch_size {batch_size} cannot be shared evenly by {world_size} processes; "
            f"pass a multiple of {world_size}"
        )
