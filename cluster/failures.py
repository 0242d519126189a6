"""What went wrong in an actor, in words."""

from configs.errors import UserError, is_user_error, last_raised, nature_of

FOR_MEMORY = (
    "Ray ended its process, because its node had hardly any memory left; `--plan` says what a run needs, and with smaller "
    "train.batch_size, cluster.data_workers and cluster.window_batches it needs less"
)


class RunFailed(Exception):  # noqa: N818 - it says what happened, not which error
    """A run that could not go on: the message names the cause and what to do. Entry points exit with code 1."""


class NoRoomError(UserError):
    """Actors could not be placed, or did not come up, in time."""


def root_cause(error: BaseException) -> BaseException:
    """The exception that was raised first, inside the actor (or the actor that it called, and so on)."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def lost_another(error: BaseException) -> bool:
    """Whether an actor failed only because another one was gone: a connection that broke, a call that got no answer."""
    from ray.exceptions import RayError
    from torch.distributed import DistError

    cause = root_cause(error)
    said = str(cause).lower()
    return isinstance(cause, RayError | DistError) or any(word in said for word in ("gloo", "nccl", "connection"))


def is_wrong_input(error: BaseException) -> bool:
    """Whether a lasting UserError is behind it, also one that a constructor raised, of which Ray tells the text alone."""
    from ray.exceptions import ActorDiedError

    cause = root_cause(error)
    if isinstance(cause, UserError):
        return nature_of(cause) == "wrong"
    return isinstance(cause, ActorDiedError) and is_user_error(str(cause))


def explain(error: BaseException) -> str:
    """One line that says what happened, without the layers that the error came through."""
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

    cause = root_cause(error)
    if isinstance(cause, OutOfMemoryError):
        return FOR_MEMORY
    if isinstance(cause, UserError | FloatingPointError | OSError):
        return str(cause)
    if isinstance(cause, ActorDiedError | RayActorError):
        return last_raised(str(cause))  # an actor whose constructor raised: Ray's message has the traceback
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no message'}"
