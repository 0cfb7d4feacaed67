"""Custom domain names and their base paths through boto3: what tools that make DNS records and certificates read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from tests.integration.test_control_restapis import Client, bare, refused
from tests.support.control import REGION, Control, boto, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

TARGET = "envoy.example.net"
WITHOUT = "no-domain-target.invalid"


@pytest.fixture
def client(control: Control) -> Client:
    return Client(control)


@pytest.fixture
def targeted(shared_redis: RedisServer, account: str) -> Iterator[Client]:
    """A control plane that knows the host for DNS records."""
    with running(shared_redis.url, account, domain_target=TARGET) as control:
        yield Client(control)


def test_a_regional_domain_names_the_host_for_its_record(targeted: Client) -> None:
    domain = {"domainName": "api.example.org"}
    targeted.create_domain_name(**domain, endpointConfiguration={"types": ["REGIONAL"]}, regionalCertificateArn="arn")
    read = targeted.get_domain_name(**domain)
    assert (read["regionalDomainName"], bool(read["regionalHostedZoneId"])) == (TARGET, True)
    assert read["domainNameArn"] == (
        f"arn:aws:apigateway:{REGION}:{targeted.control.account}:/domainnames/api.example.org"
    )
    assert not {"distributionDomainName", "distributionHostedZoneId", "certificateUploadDate"} & read.keys()
    listed = targeted.get_domain_names()["items"]
    assert listed == [bare(read)]


def test_an_edge_domain_names_the_host_for_its_record(targeted: Client) -> None:
    domain = {"domainName": "api.example.org"}
    made = targeted.create_domain_name(**domain, certificateArn="arn")
    read = bare(targeted.get_domain_name(**domain))
    assert (read["distributionDomainName"], bool(read["distributionHostedZoneId"])) == (TARGET, True)
    assert read["certificateUploadDate"] == made["certificateUploadDate"]
    assert not {"regionalDomainName", "regionalHostedZoneId"} & read.keys()


def test_without_a_target_a_record_resolves_nowhere(client: Client) -> None:
    made = client.create_domain_name(domainName="a.example", endpointConfiguration={"types": ["REGIONAL"]})
    assert made["regionalDomainName"] == WITHOUT
    warned = made["ResponseMetadata"]["HTTPHeaders"]["x-authz-warning"]
    assert warned == f"regionalDomainName is {WITHOUT}: start authz control with --domain-target"


def test_a_target_that_is_no_host_name_is_refused() -> None:
    for target in ("https://a.example", "A.example", "a b", "a.example:443"):
        told = CliRunner().invoke(cli, ["control", "--domain-target", target])
        assert told.exit_code == 2
        assert "host name" in told.output


def test_a_listing_goes_on_after_the_mapping_without_a_base_path(client: Client) -> None:
    domain = {"domainName": "a.example"}
    client.create_domain_name(**domain)
    for base_path in ("(none)", "orders", "shop"):
        client.create_base_path_mapping(**domain, basePath=base_path, restApiId=client.api)
    pages = client.get_paginator("get_base_path_mappings").paginate(**domain, PaginationConfig={"PageSize": 1})
    assert [[one["basePath"] for one in page["items"]] for page in pages] == [["(none)"], ["orders"], ["shop"]]


@pytest.mark.parametrize("version", [{}, {"truststoreVersion": "1"}])
def test_mutual_tls_ends_with_its_truststore(client: Client, version: dict[str, str]) -> None:
    domain = {"domainName": "a.example"}
    truststore = {"truststoreUri": "s3://bucket/key", **version}
    made = client.create_domain_name(**domain, mutualTlsAuthentication=truststore)
    assert made["mutualTlsAuthentication"] == truststore
    patch = ("replace", "/mutualTlsAuthentication/truststoreUri", "")
    assert "mutualTlsAuthentication" not in client.patch("update_domain_name", patch, **domain)
    assert "mutualTlsAuthentication" not in client.get_domain_name(**domain)


def test_a_truststore_is_patched(client: Client) -> None:
    domain = {"domainName": "a.example"}
    client.create_domain_name(**domain)
    at = "/mutualTlsAuthentication"
    both = (("replace", f"{at}/truststoreUri", "s3://b/k"), ("replace", f"{at}/truststoreVersion", "2"))
    changed = client.patch("update_domain_name", *both, **domain)
    assert changed["mutualTlsAuthentication"] == {"truststoreUri": "s3://b/k", "truststoreVersion": "2"}
    changed = client.patch("update_domain_name", ("replace", f"{at}/truststoreVersion", ""), **domain)
    assert changed["mutualTlsAuthentication"] == {"truststoreUri": "s3://b/k"}


MEMBERS = ("certificateName", "certificateArn", "regionalCertificateName", "regionalCertificateArn", "securityPolicy")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_of_a_domain_goes_by_an_empty_text(client: Client, name: str) -> None:
    domain = {"domainName": "a.example"}
    assert name not in client.create_domain_name(**domain, **{name: ""})
    assert client.patch("update_domain_name", ("replace", f"/{name}", "x"), **domain)[name] == "x"
    assert name not in client.patch("update_domain_name", ("replace", f"/{name}", ""), **domain)


def test_a_name_is_shown_as_it_was_written_and_found_without_case(client: Client) -> None:
    made = client.create_domain_name(domainName="API.Example.com", tags={"k": "v"})
    assert made["domainName"] == "API.Example.com"
    for spelled in ("API.Example.com", "api.example.com", "api.EXAMPLE.com"):
        assert client.get_domain_name(domainName=spelled)["domainName"] == "API.Example.com"
        arn = f"arn:aws:apigateway:{REGION}::/domainnames/{spelled}"
        assert client.get_tags(resourceArn=arn)["tags"] == {"k": "v"}
    again = refused(client.create_domain_name, domainName="api.example.com")
    assert again == (400, "BadRequestException", "The domain name you provided already exists.")
    stage = client.stage()
    mapping: dict[str, Any] = {"basePath": "v1", "restApiId": client.api, "stage": stage["stageName"]}
    client.create_base_path_mapping(domainName="API.Example.com", **mapping)
    assert bare(client.get_base_path_mapping(domainName="api.example.com", basePath="v1")) == mapping
    client.delete_domain_name(domainName="api.example.COM")
    assert refused(client.get_domain_name, domainName="API.Example.com")[0] == 404


def test_a_domain_goes_with_its_base_paths(client: Client) -> None:
    stage, domain = client.stage(), {"domainName": "a.example"}
    client.create_domain_name(**domain)
    client.create_base_path_mapping(**domain, restApiId=client.api, stage=stage["stageName"])
    client.delete_domain_name(**domain)
    assert refused(client.get_base_path_mapping, **domain, basePath="(none)")[0] == 404
    client.delete_stage(**stage)


def test_a_base_path_with_empty_members_is_the_domain_itself(client: Client) -> None:
    domain = {"domainName": "a.example"}
    client.create_domain_name(**domain)
    made = client.create_base_path_mapping(**domain, restApiId=client.api, basePath="", stage="")
    assert bare(made) == {"basePath": "(none)", "restApiId": client.api}
    for patch in (("replace", "/stage", ""), ("replace", "/basePath", "")):
        changed = client.patch("update_base_path_mapping", patch, **domain, basePath="(none)")
        assert bare(changed) == bare(made)


def test_a_reader_sees_domains(client: Client) -> None:
    client.create_domain_name(domainName="a.example")
    assert boto(client.control.as_reader()).get_domain_name(domainName="a.example")["domainName"] == "a.example"
