"""Airflow's login database gets the roles that pipelines name."""

from __future__ import annotations

import pytest
from airflow.providers.fab.auth_manager.models import Model, Role
from nightbid_airflow import roles
from nightbid_plugin import NightbidPlugin
from sqlalchemy import create_engine
from sqlalchemy.orm import Session


@pytest.fixture
def session():
    engine = create_engine("sqlite://")
    Model.metadata.create_all(engine)
    with Session(engine) as session:
        yield session


def test_missing_roles_are_created_once(session) -> None:
    assert roles.make_roles(["ads-ctr", "ads-cvr"], session) == ["ads-ctr", "ads-cvr"]
    assert roles.make_roles(["ads-ctr", "ads-cvr"], session) == []
    assert sorted(role.name for role in session.query(Role)) == ["ads-ctr", "ads-cvr"]
    assert roles in NightbidPlugin.listeners
