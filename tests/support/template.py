"""emr/stack.yaml with parameters -> the resources that it creates, with functions computed and policies to evaluate.

Names and ids that AWS would choose are made up in the right form, so that the ARNs of statements can be compared with
those of calls.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_network
from typing import Any

from cfnlint.decode import cfn_yaml

from conftest import ROOT

FILE = ROOT / "emr/stack.yaml"
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "raft-spark",
    "AWS::NoValue": None,
}
HERE = "us-east-1:123456789012"
APPLICATION = f"arn:aws:emr-serverless:{HERE}:/applications/00fabc123def4567"
NAMES = {  # the value of Ref if it is not the logical name
    "Bucket": "bucket",
    "Application": "00fabc123def4567",
    "JobLogs": "/aws/emr-serverless/raft-spark",
    "Alarms": f"arn:aws:sns:{HERE}:Alarms",
    "Refresh": f"arn:aws:states:{HERE}:stateMachine:raft-spark-refresh",
}
ATTRIBUTES = {
    "Bucket.Arn": "arn:aws:s3:::bucket",
    "Application.Arn": APPLICATION,
    "JobLogs.Arn": f"arn:aws:logs:{HERE}:log-group:/aws/emr-serverless/raft-spark:*",
}


BUCKET = "arn:aws:s3:::bucket"
CATALOG, DATABASE, TABLE = (
    f"arn:aws:glue:{HERE}:{name}" for name in ("catalog", "database/raft_spark", "table/raft_spark/base")
)
ENDPOINT = f"arn:aws:sagemaker:{HERE}:endpoint/llama-3-1-8b"
MODEL = "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0"
SECRET = f"arn:aws:secretsmanager:{HERE}:secret:teacher-AbCdEf"
WORKSPACE = f"arn:aws:aps:{HERE}:workspace/ws-1"
JOB = f"arn:aws:bedrock:{HERE}:model-invocation-job/abcdef123456"
GROUP = f"arn:aws:logs:{HERE}:log-group:/aws/emr-serverless/raft-spark"
RUN = f"{APPLICATION}/jobruns/00fxyz987"
BATCH_ROLE, JOB_ROLE = (f"arn:aws:iam::123456789012:role/{name}" for name in ("BatchRole", "JobRole"))
TEACHERS = {
    "sagemaker": {"SageMakerArns": ENDPOINT},
    "bedrock": {"BedrockArns": MODEL},
    "bedrock-batch": {"BedrockArns": MODEL},
    "other": {},
}


class Template:
    """The template with its parameters applied."""

    def __init__(self, **parameters: Any) -> None:
        self.raw: dict[str, Any] = _file()
        defaults = {name: declared.get("Default", "") for name, declared in self.raw["Parameters"].items()}
        self._values = {name: self._typed(name, value) for name, value in (defaults | parameters).items()}
        made = {name: found for name, found in self.raw["Resources"].items() if self._is_made(found)}
        self.resources: dict[str, Any] = {name: self.computed(found) for name, found in made.items()}

    def properties(self, name: str) -> dict[str, Any]:
        return self.resources[name]["Properties"]

    def outputs(self) -> dict[str, str]:
        made = {name: found for name, found in self.raw["Outputs"].items() if self._is_made(found)}
        return {name: self.computed(found["Value"]) for name, found in made.items()}

    def statements(self, role: str) -> dict[str, dict[str, Any]]:
        """Return the statements of a role, or of a policy, by Sid."""
        documents = [policy["PolicyDocument"] for policy in self.properties(role).get("Policies", [])]
        documents += [self.properties(role)["PolicyDocument"]] if "PolicyDocument" in self.properties(role) else []
        for other in self.resources.values():
            if other["Type"] == "AWS::IAM::RolePolicy" and other["Properties"]["RoleName"] == role:
                documents.append(other["Properties"]["PolicyDocument"])
        found = [statement for document in documents for statement in document["Statement"]]
        assert len({statement["Sid"] for statement in found}) == len(found)
        return {statement["Sid"]: statement for statement in found}

    def refusals(self) -> list[str]:
        """Return why CloudFormation refuses the parameters: those that their pattern refuses, and the rules that do not hold."""
        patterns = {
            name: re.compile(declared["AllowedPattern"])
            for name, declared in self.raw["Parameters"].items()
            if "AllowedPattern" in declared
        }
        found = [
            name
            for name, pattern in patterns.items()
            for value in (self._values[name] if isinstance(self._values[name], list) else [self._values[name]])
            if not pattern.search(value)
        ]
        rules = [rule for rule in self.raw["Rules"].values() if self._holds(rule["RuleCondition"])]
        assertions = [assertion for rule in rules for assertion in rule["Assertions"]]
        return found + [each["AssertDescription"] for each in assertions if not self._holds(each["Assert"])]

    def computed(self, node: Any) -> Any:
        if isinstance(node, list):
            return [part for part in map(self.computed, node) if part is not None]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, given), *_ = node.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name.removeprefix("Fn::"), given)
        computed = {name: self.computed(part) for name, part in node.items()}
        return {name: part for name, part in computed.items() if part is not None}

    def _function(self, name: str, given: Any) -> Any:  # noqa: C901, PLR0911 - a function a line
        match name, given:
            case "Ref", str(what):
                return self._reference(what)
            case "GetAtt", [what, attribute]:
                return self._attribute(f"{what}.{attribute}")
            case "Sub", str(text):
                return re.sub(r"\$\{([^}]+)\}", lambda found: str(self._substituted(found[1])), text)
            case "Sub", [text, dict(values)]:
                for key, value in values.items():
                    text = text.replace(f"${{{key}}}", self.computed(value))
                return self._function("Sub", text)
            case "If", [condition, yes, no]:
                return self.computed(yes if self._holds({"Condition": condition}) else no)
            case "Select", [index, values]:
                return self.computed(values)[int(index)]
            case "Join", [separator, values]:
                return separator.join(self.computed(values))
            case "GetAZs", _:
                return ["us-east-1a", "us-east-1b"]
            case "Cidr", [block, count, bits]:
                networks = ip_network(self.computed(block)).subnets(new_prefix=32 - int(bits))
                return [str(next(networks)) for _ in range(int(count))]
        raise AssertionError(name)

    def _substituted(self, what: str) -> Any:
        return self._attribute(what) if "." in what else self._reference(what)

    def _reference(self, what: str) -> Any:
        if what in PSEUDO:
            return PSEUDO[what]
        if what in self._values:
            return self._values[what]
        assert self._is_made(self.raw["Resources"][what]), f"{what} is not made"
        return NAMES.get(what, what)

    def _attribute(self, what: str) -> str:
        logical = what.partition(".")[0]
        found = self.raw["Resources"][logical]
        assert self._is_made(found), f"{logical} is not made"
        if found["Type"] == "AWS::IAM::Role":
            return f"arn:aws:iam::123456789012:role/{logical}"
        return ATTRIBUTES.get(what, what)

    def _typed(self, name: str, value: Any) -> Any:
        is_list = self.raw["Parameters"][name]["Type"] == "CommaDelimitedList"
        return value.split(",") if is_list and isinstance(value, str) else value

    def _is_made(self, found: Mapping[str, Any]) -> bool:
        return "Condition" not in found or self._holds({"Condition": found["Condition"]})

    def _holds(self, node: Any) -> bool:
        (name, given), *_ = node.items()
        match name:
            case "Condition":
                return self._holds(self.raw["Conditions"][given])
            case "Fn::Equals":
                left, right = map(self.computed, given)
                return str(left) == str(right)
            case "Fn::Not":
                return not self._holds(given[0])
            case "Fn::And":
                return all(map(self._holds, given))
            case "Fn::Or":
                return any(map(self._holds, given))
            case "Fn::EachMemberEquals":
                return all(value == given[1] for value in self.computed(given[0]))
        raise AssertionError(name)


def of(teacher: str, **parameters: object) -> Template:
    """Return the template with every option enabled, for a kind of teacher."""
    more = {
        "SecretArn": SECRET,
        "PrometheusWorkspaceArn": WORKSPACE,
        "CatalogDatabase": "raft_spark",
        "Schedule": "rate(7 days)",
        "AlarmEmail": "a@b.c",
    }
    money = {"MaximumDollars": 20, "MonthlyBudget": 500}
    return Template(**{"Teacher": teacher} | TEACHERS[teacher] | more | money | parameters)


@functools.cache
def _file() -> dict[str, Any]:
    return cfn_yaml.load(str(FILE))


@dataclass(frozen=True)
class Need:
    """An action on a resource that a call needs, and the context keys of its request."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


GLUE = {  # what each call of Iceberg's GlueCatalog needs; test_iceberg.py compares the names with the calls made
    "GetDatabase": [Need("glue:GetDatabase", CATALOG), Need("glue:GetDatabase", DATABASE)],
    **{
        name: [Need(f"glue:{name}", CATALOG), Need(f"glue:{name}", DATABASE), Need(f"glue:{name}", TABLE)]
        for name in ("GetTable", "CreateTable", "UpdateTable")
    },
}


def is_allowed(statements: Sequence[Mapping[str, Any]], need: Need) -> bool:
    return any(_allows(statement, need) for statement in statements)


def without(statements: Mapping[str, Mapping[str, Any]], sid: str, action: str = "") -> list[Mapping[str, Any]]:
    """Return the statements without one of them, or without one action of it."""
    rest = [statement for name, statement in statements.items() if name != sid]
    left = [other for other in listed(statements[sid]["Action"]) if other != action]
    return [*rest, {**statements[sid], "Action": left}] if action and left else rest


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _allows(statement: Mapping[str, Any], need: Need) -> bool:
    assert statement["Effect"] == "Allow"
    return (
        any(fnmatchcase(need.action.lower(), action.lower()) for action in listed(statement["Action"]))
        and any(fnmatchcase(need.resource, resource) for resource in listed(statement["Resource"]))
        and all(_holds(statement.get("Condition", {}), need.context))
    )


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> Iterator[bool]:
    for operator, asked in conditions.items():
        assert operator in {"StringEquals", "ArnEquals", "StringLike", "StringLikeIfExists"}
        for key, patterns in asked.items():
            if key not in context:
                yield operator.endswith("IfExists")
            elif operator in {"StringEquals", "ArnEquals"}:
                yield context[key] in listed(patterns)
            else:
                yield any(fnmatchcase(context[key], pattern) for pattern in listed(patterns))
