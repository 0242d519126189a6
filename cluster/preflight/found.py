"""All that is known when the checks judge: the plan, the nodes, and what they answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.plan import Plan
from cluster.preflight.nodes import Node
from cluster.preflight.probe import Answer


@dataclass(frozen=True, kw_only=True)
class Found:
    plan: Plan
    nodes: tuple[Node, ...]
    answers: Mapping[str, Answer]
    """By id of the node, of those that answered."""
    own: Mapping[str, str]
    """Versions in the driver."""
    fingerprint: str | None
    """Of the data set as the driver reads it; None if it is not there yet."""
    gpus_in_use: int = 0
    """That Ray has given to actors, of this run or others."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Why a node gave no answer, by its id."""

    @property
    def answered(self) -> list[tuple[Node, Answer]]:
        return [(node, self.answers[node.id]) for node in self.nodes if node.id in self.answers]

    @property
    def hosts(self) -> list[tuple[Node, Answer]]:
        """Those that may come to have columns."""
        return [(node, answer) for node, answer in self.answered if node.replicas(self.plan) > 0]
