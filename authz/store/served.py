"""Reads what stages serve from a store, or from an edit of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from authz.core.resources import Api, ApiStage, Deployment, Stage
from authz.core.stored import Item, StoredDeployment, StoredStage, stage_id


class Source(Protocol):
    async def get(self, kind: str, item_id: str, /) -> Item | None: ...


async def served_by(source: Source, api_id: str, stage_name: str) -> Deployment | None:
    """Return the deployment that a stage serves; None without the stage or its deployment."""
    stage = await source.get("stage", stage_id(api_id, stage_name))
    if not isinstance(stage, StoredStage):
        return None
    deployment = await source.get("deployment", f"{api_id}/{stage.deployment_id}")
    return deployment.snapshot if isinstance(deployment, StoredDeployment) else None


async def served_apis(source: Source, stages: Iterable[ApiStage]) -> tuple[Api, ...]:
    """Return these stages with the deployments that they serve, each stage in its API."""
    found: dict[str, list[Stage]] = {}
    for covered in stages:
        served = await served_by(source, covered.api_id, covered.stage)
        found.setdefault(covered.api_id, []).append(Stage(covered.stage, deployment=served))
    return tuple(Api(api_id, stages=tuple(several)) for api_id, several in found.items())
