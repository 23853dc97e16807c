"""A weighted mean of the logits of several architectures: stacking, Wolpert 1992."""

from __future__ import annotations

from typing import Any

from nightbid.errors import ConfigError
from nightbid.models.registry import architecture, find


@architecture
def ensemble(
    *,
    members: tuple[str, ...] = ("dcn_v2", "gradient_boosted_trees"),
    parameters: dict[str, dict[str, Any]] = {},  # noqa: B006 (a default to show, never changed)
) -> dict[str, dict[str, Any]]:
    """Select the members; training fits their weights on validation rows.

    Args:
        members: Names of registered architectures, each at most once.
        parameters: Member → its hyperparameters.

    Returns:
        Member → its hyperparameters, including defaults.
    """
    if len(members) < 2 or len(set(members)) < len(members):
        raise ConfigError(
            f"the members are {', '.join(members) or 'none'}",
            where="model.parameters.members",
            hint="name two or more architectures, each once",
        )
    for name in parameters:
        if name not in members:
            raise ConfigError(
                f"{name!r} is not a member",
                where="model.parameters.parameters",
                hint=f"members: {', '.join(members)}",
            )
    checked = {}
    for name in members:
        member = find(name)
        if member.engine == "ensemble" or member.multi_task:
            raise ConfigError(
                f"{name} cannot be a member of an ensemble",
                where="model.parameters.members",
                hint="use architectures with one label",
            )
        checked[name] = member.parameters(parameters.get(name, {}))
    return checked
