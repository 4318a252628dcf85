"""Who samples whom: the graph of a catalogue, as JSON and GraphML."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from spolia.encoding import write_whole
from spolia.errors import ParameterError
from spolia.recording import one_line
from spolia.samples import SampleMatch, Samples

KEYS = {
    "probability": "double",
    "semitones": "double",
    "tempo_ratio": "double",
    "transformation": "string",
    "part": "string",
    "occurrences": "int",
    "coverage": "double",
}
KINDS = (".json", ".graphml")


def check_graph_name(path: Path) -> None:
    """Raise ParameterError for a name that says no format."""
    if path.suffix.lower() not in KINDS:
        raise ParameterError(f"{path} is no name for a graph; let it end with .json or .graphml")


def write_graph(path: Path, answers: Sequence[Samples]) -> None:
    """Write a node for every track and an edge from each to what it samples, with what was done."""
    check_graph_name(path)
    text = as_json(answers) if path.suffix.lower() == ".json" else as_graphml(answers)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def as_json(answers: Sequence[Samples]) -> str:
    """Return {"nodes": [{"id", "name"}], "links": [{"source", "target", …}]}."""
    nodes = [{"id": path, "name": name} for path, name in _nodes(answers).items()]
    links = [
        {"source": _id(answer), "target": match.recording.path, **_facts(match)}
        for answer in answers
        for match in answer.found
    ]
    return json.dumps({"nodes": nodes, "links": links}, ensure_ascii=False, indent=1) + "\n"


def as_graphml(answers: Sequence[Samples]) -> str:
    """Return the same as GraphML, which graph programs read."""
    root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    for name, kind in {"name": "string", **KEYS}.items():
        of = "node" if name == "name" else "edge"
        ElementTree.SubElement(
            root, "key", {"id": name, "for": of, "attr.name": name, "attr.type": kind}
        )
    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    for path, name in _nodes(answers).items():
        node = ElementTree.SubElement(graph, "node", id=one_line(path))
        ElementTree.SubElement(node, "data", key="name").text = one_line(name)
    for answer in answers:
        for match in answer.found:
            ends = {"source": _id(answer), "target": match.recording.path}
            edge = ElementTree.SubElement(
                graph, "edge", {end: one_line(path) for end, path in ends.items()}
            )
            for key, value in _facts(match).items():
                if value is not None:
                    ElementTree.SubElement(edge, "data", key=key).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _nodes(answers: Sequence[Samples]) -> dict[str, str]:
    nodes = {_id(answer): Path(answer.query).name for answer in answers}
    for answer in answers:
        nodes |= {match.recording.path: match.recording.name for match in answer.found}
    return nodes


def _id(answer: Samples) -> str:
    """Return what names a track: its path, as a library would hold it."""
    return os.path.abspath(answer.query) if Path(answer.query).exists() else answer.query


def _facts(match: SampleMatch) -> dict[str, str | float | int | None]:
    return {
        "probability": round(match.probability, 4),
        "semitones": round(match.semitones, 2),
        "tempo_ratio": round(match.tempo_ratio, 4),
        "transformation": match.transformation,
        "part": match.part,
        "occurrences": len(match.occurrences),
        "coverage": round(match.coverage, 3),
    }
