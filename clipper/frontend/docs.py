"""An OpenAPI document as one HTML page that needs nothing else: no script, no file from
elsewhere. Its Content-Security-Policy allows nothing but its own style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from html import escape
from http import HTTPStatus
from importlib import resources
from string import Template
from typing import Any

import msgspec

Json = Mapping[str, Any]

METHODS = ("get", "post")
JSON_TYPE = "application/json"


@cache
def shell() -> Template:
    """The page around its contents."""
    text = resources.files("clipper.frontend").joinpath("docs.html").read_text("utf-8")
    return Template(text)


def content_security_policy(page: str) -> str:
    """A policy under which the page shows as meant, and nothing more is allowed."""
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def render_page(document: Json, base_url: str) -> bytes:
    """The page. Curl lines in it speak to `base_url`."""
    page = Page(document, base_url)
    info = document["info"]
    template = shell()
    return template.substitute(
        policy=escape(content_security_policy(template.template)),
        title=escape(info["title"]),
        version=escape(info["version"]),
        summary=escape(info["summary"]),
        about=prose(info["description"]),
        navigation=page.navigation(),
        routes=page.routes(),
        errors=page.errors(),
    ).encode()


class Page:
    """The parts of the page that follow from the document."""

    def __init__(self, document: Json, base_url: str) -> None:
        self._document = document
        self._base_url = base_url
        self._routes = [
            (path, method, item, item[method])
            for path, item in document["paths"].items()
            for method in METHODS
            if method in item
        ]

    def navigation(self) -> str:
        groups = []
        for tag in self._document["tags"]:
            links = [
                f'<li><a href="#{route["operationId"]}">{badge(method)} '
                f"<code>{escape(path)}</code></a></li>"
                for path, method, _, route in self._routes
                if tag["name"] in route["tags"]
            ]
            groups.append(f"<h2>{escape(tag['name'])}</h2><ul>{''.join(links)}</ul>")
        return "".join(groups)

    def routes(self) -> str:
        return "".join(self._route(*route) for route in self._routes)

    def errors(self) -> str:
        """A row for each code that any route may answer with."""
        rows = []
        for status, response in sorted(self._error_responses().items()):
            anchor = f' id="error-{status}"'
            retry = "yes" if "Retry-After" in response.get("headers", {}) else ""
            for code, example in response["content"][JSON_TYPE]["examples"].items():
                rows.append(
                    f"<tr{anchor}><td>{status}</td><td><code>{escape(code)}</code></td>"
                    f"<td>{escape(example['summary'])}</td><td>{retry}</td></tr>"
                )
                anchor = ""
        return "".join(rows)

    def _error_responses(self) -> dict[str, Json]:
        """By status; a response that routes share is the answer with an error."""
        return {
            status: self._resolve(response)
            for *_, route in self._routes
            for status, response in route["responses"].items()
            if "$ref" in response
        }

    # -- one route ----------------------------------------------------------------------

    def _route(self, path: str, method: str, item: Json, route: Json) -> str:
        places: dict[str, list[Json]] = {"path": [], "query": []}
        for parameter in (*item.get("parameters", ()), *route.get("parameters", ())):
            found = self._resolve(parameter)
            places[found["in"]].append(found)
        url = self._base_url + path
        for parameter in places["path"]:
            url = url.replace(f"{{{parameter['name']}}}", parameter["example"])
        text = "".join(
            [
                f"<h2>{badge(method)} <code>{escape(path)}</code></h2>",
                f"<h3>{escape(route['summary'])}</h3>",
                prose(route["description"]),
                *self._path(places["path"]),
                *self._body(route.get("requestBody"), places["query"]),
                *self._answers(route["responses"]),
            ]
        )
        samples = "".join(self._samples(method, url, route))
        return (
            f'<section id="{route["operationId"]}"><div class="text">{text}</div>'
            f'<div class="samples">{samples}</div></section>'
        )

    def _path(self, parameters: list[Json]) -> Iterator[str]:
        rows = [
            row(p["name"], self._kind(p["schema"]), p["description"]) for p in parameters
        ]
        if rows:
            yield f"<h4>Path</h4>{table(rows)}"

    def _body(self, body: Json | None, query: list[Json]) -> Iterator[str]:
        if body is None:
            return
        media = ", ".join(f"`{name}`" for name in body["content"])
        yield f"<h4>Body</h4>{prose(media)}{prose(body['description'])}"
        yield self._fields(self._most_general(body["content"][JSON_TYPE]["schema"]))
        if not query:
            return
        names = ", ".join(f"`{parameter['name']}`" for parameter in query)
        yield prose(f"As query parameters, for a body that is an array: {names}.")

    def _most_general(self, schema: Json) -> Json:
        """The struct that stands for a choice of them: the last, which takes the most."""
        schema = self._resolve(schema)
        while "properties" not in schema:
            schema = self._resolve(schema["allOf"][0]["anyOf"][-1])
        return schema

    def _answers(self, responses: Json) -> Iterator[str]:
        errors = [status for status, response in responses.items() if "$ref" in response]
        for status, response in responses.items():
            if status in errors:
                continue
            phrase = escape(HTTPStatus(int(status)).phrase)
            yield f"<h4>{status} {phrase}</h4>{prose(response['description'])}"
            structs: dict[str, Json] = {}
            self._gather(response["content"].get(JSON_TYPE, {}).get("schema"), structs)
            for title, struct in structs.items():
                yield f"<h5>{escape(title)}</h5>{self._fields(struct)}"
        links = " ".join(f'<a href="#error-{status}">{status}</a>' for status in errors)
        yield f'<h4>Errors</h4><p class="statuses">{links}</p>'

    def _gather(self, value: Any, structs: dict[str, Json]) -> None:
        """Collect the structs that a schema names, and those that these name, by title.
        Errors have a section of their own."""
        if isinstance(value, list):
            for item in value:
                self._gather(item, structs)
        elif isinstance(value, dict):
            if "$ref" in value:
                value = self._resolve(value)
                if value["title"] == "ErrorAnswer" or value["title"] in structs:
                    return
                structs[value["title"]] = value
            for item in value.values():
                self._gather(item, structs)

    # -- fields -------------------------------------------------------------------------

    def _fields(self, schema: Json) -> str:
        return table(
            row(name, self._kind(field), field.get("description", ""))
            for name, field in schema["properties"].items()
        )

    def _kind(self, schema: Json) -> str:
        """A schema in a few words."""
        if "$ref" in schema:
            return str(self._resolve(schema)["title"])
        if "anyOf" in schema:
            return " or ".join(self._kind(choice) for choice in schema["anyOf"])
        kind = schema.get("type", "any value")
        if kind == "array":
            return f"array of {self._kind(schema['items'])}"
        return str(kind)

    def _resolve(self, value: Json) -> Json:
        while "$ref" in value:
            path = value["$ref"].removeprefix("#/").split("/")
            value = self._document
            for name in path:
                value = value[name]
        return value

    # -- samples ------------------------------------------------------------------------

    def _samples(self, method: str, url: str, route: Json) -> Iterator[str]:
        content = route.get("requestBody", {}).get("content", {})
        for example in content.get(JSON_TYPE, {}).get("examples", {}).values():
            note = prose(example.get("description", ""))
            yield sample(example["summary"], curl(url, example["value"]), note)
        for extra in route.get("x-codeSamples", ()):
            yield sample(extra["label"], extra["source"])
        if method == "get":
            yield sample("Request", curl(url))
        for status, response in route["responses"].items():
            examples = response.get("content", {}).get(JSON_TYPE, {}).get("examples", {})
            for name, example in examples.items():
                yield sample(f"Answer {status}, {name}", pretty(example["value"]))


def curl(url: str, body: object = None) -> str:
    """A command line that sends the request."""
    if body is None:
        return f"curl {shlex.quote(url)}"
    text = msgspec.json.format(msgspec.json.encode(body), indent=0).decode()
    return (
        f"curl {shlex.quote(url)} \\\n  -H 'Content-Type: {JSON_TYPE}' \\\n"
        f"  -d {shlex.quote(text)}"
    )


def pretty(value: object) -> str:
    """JSON over several lines, with arrays of plain values on one."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return re.sub(r"\[\s+([^][{}]+?)\s+\]", lambda m: f"[{_one_line(m[1])}]", text)


def _one_line(text: str) -> str:
    return re.sub(r"\n\s*", " ", text)


# -- HTML --------------------------------------------------------------------------------


def sample(title: str, text: str, note: str = "") -> str:
    caption = f"<figcaption>{escape(title)}{note}</figcaption>"
    return f"<figure>{caption}<pre>{escape(text)}</pre></figure>"


def table(rows: Iterable[str]) -> str:
    return f'<table class="fields">{"".join(rows)}</table>'


def row(name: str, kind: str, description: str) -> str:
    return (
        f"<tr><th><code>{escape(name)}</code></th>"
        f"<td><span class=kind>{escape(kind)}</span> {inline(description)}</td></tr>"
    )


def badge(method: str) -> str:
    return f'<span class="method {method}">{method.upper()}</span>'


def prose(text: str) -> str:
    """Paragraphs, with code between backticks."""
    return "".join(f"<p>{inline(part)}</p>" for part in text.split("\n\n") if part)


def inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
