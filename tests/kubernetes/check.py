"""Compares what the Helm chart renders with its defaults (standard input) with the kustomize base (the files named as
arguments): apart from labels and the checksum of the configuration they must be the same."""

import sys

import yaml

# What only one of them has, by design.
OWN = {"labels", "matchLabels", "checksum/config", "imagePullPolicy"}


def objects(texts):
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return {one["kind"]: one for one in found if one["kind"] not in ("Kustomization", "Namespace")}


def without_own(value, key=""):
    if isinstance(value, dict):
        # The base names its namespace; Helm takes it from the command line.
        skipped = OWN | ({"namespace"} if key == "metadata" else set())
        return {name: without_own(part, name) for name, part in value.items() if name not in skipped}
    if isinstance(value, list):
        return [without_own(part) for part in value]
    return value.replace("\n\n", "\n") if isinstance(value, str) else value


def differences(one, other, path):
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(set(one) | set(other)):
            yield from differences(one.get(name), other.get(name), f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other)):
            yield from differences(left, right, f"{path}[{index}]")
    elif one != other:
        yield f"{path}: {one!r} in the base, {other!r} in the chart"


base, chart = objects(open(path).read() for path in sys.argv[1:]), objects([sys.stdin.read()])
found = list(differences(without_own(base), without_own(chart), "")) if base.keys() == chart.keys() else [f"{set(base) ^ set(chart)}"]
sys.exit("\n".join(found) or None)
