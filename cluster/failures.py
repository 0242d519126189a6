"""What went wrong in an actor, in words."""

from configs.errors import UserError, last_raised


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


def explain(error: BaseException) -> str:
    """One line that says what happened, without the layers that the error came through."""
    from ray.exceptions import ActorDiedError, RayActorError

    cause = root_cause(error)
    if isinstance(cause, UserError | FloatingPointError | OSError):
        return str(cause)
    if isinstance(cause, ActorDiedError | RayActorError):
        return last_raised(str(cause))  # an actor whose constructor raised: Ray's message has the traceback
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no message'}"
