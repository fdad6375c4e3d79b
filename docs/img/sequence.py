#!/usr/bin/env python3
"""Draws a sequence diagram as SVG from a text: sequence.py FILE.seq writes FILE.svg beside it; --check only compares.

connect.seq explains the format. Needs nothing but Python 3. The picture has a background of its own, so that it is legible
on dark pages, too.
"""

import re
import sys
from html import escape
from pathlib import Path

GAP, MARGIN, TOP, STEP, HEADING = 268, 110, 112, 50, 32
KINDS = {"control": ("#57606a", 1.5, ""), "plain": ("#bc4c00", 4, "9 5"), "tls": ("#1a7f37", 4, "")}


class Picture:
    def __init__(self):
        self.title, self.actors, self.parts, self.y, self.step = "", {}, [], TOP, 0

    def x(self, key: str) -> int:
        return MARGIN + GAP * list(self.actors).index(key)

    def text(self, x: float, y: float, text: str, style: str = "text", anchor: str = "middle"):
        self.parts.append(f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>')

    def number(self, x: float, y: float):
        self.step += 1
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="11" fill="#24292f"/>')
        self.parts.append(f'<text class="number" x="{x:g}" y="{y + 4:g}" text-anchor="middle">{self.step}</text>')

    def heading(self, text: str):
        right = self.x(list(self.actors)[-1]) + MARGIN - 20
        self.y += 8
        self.parts.append(f'<rect x="20" y="{self.y - 6}" width="{right - 20}" height="22" rx="4" fill="#ddf4ff"/>')
        self.text(30, self.y + 10, text, "heading", "start")
        self.y += HEADING

    def message(self, source: str, arrow: str, target: str, kind: str, text: str, files: str):
        colour, width, dashes = KINDS[kind]
        start, end = self.x(source), self.x(target)
        inward = 1 if end > start else -1
        y = self.y + 22
        head = f' marker-end="url(#{kind})"' + (f' marker-start="url(#{kind})"' if arrow == "<->" else "")
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(
            f'<path d="M{start + 13 * inward} {y} H{end - 3 * inward}" stroke="{colour}" stroke-width="{width}" fill="none"'
            f"{dash}{head}/>"
        )
        self.label((start + end) / 2, y, text, files)
        self.number(start, y)
        self.y += STEP

    def own(self, key: str, text: str, files: str):
        y = self.y + 22
        self.parts.append(f'<rect x="{self.x(key) - 122}" y="{y - 22}" width="244" height="44" rx="6" fill="#fff8c5" stroke="#9a6700"/>')
        self.label(self.x(key) + 4, y + 2, text, files)
        self.number(self.x(key) - 122, y)
        self.y += STEP + 6

    def label(self, x: float, y: float, text: str, files: str):
        self.text(x, y - 7, text)
        if files:
            self.text(x, y + 16, files, "files")

    def svg(self) -> str:
        width, height = MARGIN * 2 + GAP * (len(self.actors) - 1), self.y + 16
        columns = []
        for key, (name, second) in self.actors.items():
            x = self.x(key)
            columns.append(f'<path d="M{x} 96 V{height - 12}" stroke="#8c959f" stroke-dasharray="3 4"/>')
            columns.append(f'<rect x="{x - 82}" y="46" width="164" height="50" rx="6" fill="#f6f8fa" stroke="#24292f"/>')
            columns.append(f'<text class="name" x="{x}" y="67" text-anchor="middle">{escape(name)}</text>')
            columns.append(f'<text class="files" x="{x}" y="86" text-anchor="middle">{escape(second)}</text>')
        markers = "".join(
            f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="{18 / (width + 1.5):g}" '
            f'markerHeight="{18 / (width + 1.5):g}" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 Z" fill="{colour}"/></marker>'
            for kind, (colour, width, _dashes) in KINDS.items()
        )
        style = (
            "text{fill:#24292f;font-size:13px}.title{font-size:16px;font-weight:600}.name{font-weight:600;font-size:14px}"
            ".heading{font-weight:600;fill:#0550ae}.files{fill:#57606a;font-size:11px}.number{fill:#fff;font-size:11px}"
        )
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            "font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">",
            f"<title>{escape(self.title)}</title><style>{style}</style><defs>{markers}</defs>",
            f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="10" fill="#fff" stroke="#8c959f"/>',
            f'<text class="title" x="20" y="28">{escape(self.title)}</text>', *columns, *self.parts, "</svg>\n",
        ])


def draw(text: str) -> str:
    picture = Picture()
    for line in filter(None, (line.strip() for line in text.splitlines() if not line.startswith("#"))):
        head, _, files = (part.strip() for part in line.partition("|"))
        if found := re.fullmatch(r"title (.*)", head):
            picture.title = found[1]
        elif found := re.fullmatch(r"actor (\w+) +(.*)", head):
            picture.actors[found[1]] = (found[2], files)
        elif found := re.fullmatch(r"== (.*)", head):
            picture.heading(found[1])
        elif found := re.fullmatch(r"(\w+) (->|<->) (\w+) (\w+) +(.*)", head):
            picture.message(*found.groups(), files)
        elif found := re.fullmatch(r"(\w+) : (.*)", head):
            picture.own(*found.groups(), files)
        else:
            sys.exit(f"what is this? {line}")
    return picture.svg()


check = "--check" in sys.argv
for name in (argument for argument in sys.argv[1:] if argument != "--check"):
    target = Path(name).with_suffix(".svg")
    svg = draw(Path(name).read_text())
    if not check:
        target.write_text(svg)
    elif not target.exists() or target.read_text() != svg:
        sys.exit(f"{target} is stale; run docs/img/sequence.py {name}")
