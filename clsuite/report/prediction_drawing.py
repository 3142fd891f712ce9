"""Predicted and measured curves as SVG, PNG, or a page with both drawing and tables. A drawing is a list of plain marks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..prediction.study import Judged, Ranked, Study

FORMS = (".svg", ".html", ".png")
WIDTH, HEIGHT, ACROSS = 400, 270, 3
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 46, 34
INK, GREY, BLUE, BAND, ORANGE = "#222222", "#888888", "#1f5fa8", "#d3e2f3", "#c8651b"

STYLE = (
    "body{font-family:sans-serif;margin:2em;color:#222}svg{max-width:100%;height:auto}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}"
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """`kind`: line, area, dots or text at `points`, in pixels from the top left; `anchor` start, middle or end."""

    kind: str
    points: list[Point]
    colour: str
    text: str = ""
    anchor: str = "start"
    dashed: bool = False
    width: float = 1.0


def check_form(out: Path) -> None:
    """Refuse, before anything is computed, a file that could not be written."""
    if out.suffix.lower() not in FORMS:
        raise UsageError(f"--out = '{out}' is not valid: expected a name that ends in {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if not out.parent.is_dir():
        raise UsageError(f"--out = '{out}' is not valid: '{out.parent}' is not a folder")


def write_drawing(study: Study, out: Path, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]]) -> None:
    """Write the drawing in the form that the file's name asks for; `tables` (title, head, rows) stand on a page below it."""
    marks, size = draw(study)
    if out.suffix.lower() == ".png":
        to_png(marks, size).save(out, format="PNG")
    elif out.suffix.lower() == ".svg":
        out.write_text(to_svg(marks, size), encoding="utf-8")
    else:
        out.write_text(_page(study, to_svg(marks, size), tables), encoding="utf-8")


def draw(study: Study) -> tuple[list[Mark], tuple[int, int]]:
    """A panel for every curve, held-out ones first, and one for the candidates."""
    panels = [j for j in study.curves if not j.fitted] + [j for j in study.curves if j.fitted]
    count = len(panels) + bool(study.candidates)
    across = min(ACROSS, count)
    size = (across * WIDTH, -(-count // across) * HEIGHT + 24)
    marks = []
    for k, judged in enumerate(panels):
        marks += _curve(judged, (k % across * WIDTH, k // across * HEIGHT))
    if study.candidates:
        k = count - 1
        marks += _ranking(study.candidates, (k % across * WIDTH, k // across * HEIGHT))
    y = size[1] - 10.0
    marks += _legend([("dots", GREY, "measured"), ("line", BLUE, f"{study.fit.law.title}, 95 % interval"), ("dash", ORANGE, "without annealing")], y)
    return marks, size


def _curve(judged: Judged, corner: Point) -> list[Mark]:
    curve = judged.curve
    shown = slice(len(curve) // 33, None)  # the steep beginning would flatten all the rest
    steps, measured, predicted, baseline = curve.steps[shown].astype(float), curve.losses[shown], judged.prediction.losses[shown], judged.baseline.losses[shown]
    low, high = float(min(measured.min(), predicted.min())), float(max(measured.max(), predicted.max()))
    frame = _Frame(corner, (0.0, float(steps[-1])), (low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-9))
    error = float(np.mean(np.abs(judged.prediction.losses - curve.losses)))
    kind = "fitted" if judged.fitted else "held out"
    band = [*frame.points(steps, judged.prediction.low[shown]), *frame.points(steps, judged.prediction.high[shown])[::-1]]
    return [
        *frame.axes(f"{curve.name} ({kind})", f"mean absolute error {error:.4f}, n = {len(curve)}"),
        Mark("area", band, BAND),
        Mark("dots", frame.points(steps, measured), GREY),
        Mark("line", frame.points(steps, baseline), ORANGE, dashed=True),
        Mark("line", frame.points(steps, predicted), BLUE, width=1.6),
    ]


def _ranking(ranked: Sequence[Ranked], corner: Point) -> list[Mark]:
    ends = [float(v) for r in ranked for v in (r.prediction.low[-1], r.prediction.high[-1], r.baseline.losses[-1])]
    room = 0.05 * (max(ends) - min(ends)) + 1e-9
    frame = _Frame(corner, (min(ends) - room, max(ends) + room), (0.0, 1.0))
    marks = frame.axes("candidates, best first", "predicted final loss, 95 % interval", vertical=False)
    for k, one in enumerate(ranked):
        y = 1 - (k + 0.75) / (len(ranked) + 0.5)
        low, high = frame.at(float(one.prediction.low[-1]), y), frame.at(float(one.prediction.high[-1]), y)
        marks.append(Mark("line", [low, high], BLUE, width=2.0))
        marks.append(Mark("dots", [frame.at(float(one.prediction.losses[-1]), y)], BLUE, width=3.0))
        marks.append(Mark("dots", [frame.at(float(one.baseline.losses[-1]), y)], ORANGE, width=3.0))
        marks.append(Mark("text", [(corner[0] + LEFT + 4, low[1] - 6)], INK, one.candidate.text[:52]))
    return marks


class _Frame:
    """The inside of a panel, and where values lie in it; what lies outside is drawn at its border."""

    def __init__(self, corner: Point, across: Point, up: Point):
        self.corner, self.across, self.up = corner, across, up

    def at(self, x: float, y: float) -> Point:
        return self.points(np.array([x]), np.array([y]))[0]

    def points(self, x: np.ndarray, y: np.ndarray) -> list[Point]:
        a = np.clip((x - self.across[0]) / (self.across[1] - self.across[0]), 0, 1)
        b = np.clip((y - self.up[0]) / (self.up[1] - self.up[0]), 0, 1)
        px = self.corner[0] + LEFT + a * (WIDTH - LEFT - RIGHT)
        py = self.corner[1] + HEIGHT - BOTTOM - b * (HEIGHT - TOP - BOTTOM)
        return list(zip(px.round(1).tolist(), py.round(1).tolist(), strict=True))

    def axes(self, title: str, below: str, vertical: bool = True) -> list[Mark]:
        (x0, x1), (y0, y1) = self.across, self.up
        corners = [self.at(x0, y1), self.at(x0, y0), self.at(x1, y0)]
        left, top = self.corner[0] + LEFT, self.corner[1]
        marks = [Mark("text", [(left, top + 18)], INK, title[:56]), Mark("text", [(left, top + 34)], GREY, below), Mark("line", corners, INK)]
        for share in (0.0, 0.5, 1.0):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            px, py = self.at(x, y0)
            marks.append(Mark("text", [(px, py + 16)], INK, f"{x:,.0f}" if vertical else f"{x:.3f}", "end" if share == 1 else "middle"))
            if vertical:
                px, py = self.at(x0, y)
                marks.append(Mark("text", [(px - 6, py + 4)], INK, f"{y:.3f}", "end"))
        return marks


def _legend(entries: Sequence[tuple[str, str, str]], y: float) -> list[Mark]:
    marks, x = [], float(LEFT)
    for kind, colour, text in entries:
        stroke = [(x, y - 4), (x + 24, y - 4)]
        marks.append(Mark("dots", stroke, colour) if kind == "dots" else Mark("line", stroke, colour, dashed=kind == "dash", width=1.6))
        marks.append(Mark("text", [(x + 30, y)], INK, text))
        x += 44 + 6.6 * len(text)
    return marks


def to_svg(marks: Sequence[Mark], size: tuple[int, int]) -> str:
    """The marks as one SVG element."""
    w, h = size
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" font-family="sans-serif" font-size="11">'
    lines = [head, f'<rect width="{w}" height="{h}" fill="#ffffff"/>']
    for mark in marks:
        path = " ".join(f"{x:g},{y:g}" for x, y in mark.points)
        if mark.kind == "line":
            dash = ' stroke-dasharray="5 3"' if mark.dashed else ""
            lines.append(f'<polyline points="{path}" fill="none" stroke="{mark.colour}" stroke-width="{mark.width:g}"{dash}/>')
        elif mark.kind == "area":
            lines.append(f'<polygon points="{path}" fill="{mark.colour}"/>')
        elif mark.kind == "dots":
            dots = "".join(f"M{x:g} {y:g}h0" for x, y in mark.points)
            lines.append(f'<path d="{dots}" fill="none" stroke="{mark.colour}" stroke-width="{2 * mark.width + 1:g}" stroke-linecap="round"/>')
        else:
            (x, y), words = mark.points[0], html.escape(mark.text)
            lines.append(f'<text x="{x:g}" y="{y:g}" fill="{mark.colour}" text-anchor="{mark.anchor}">{words}</text>')
    return "\n".join([*lines, "</svg>"])


def to_png(marks: Sequence[Mark], size: tuple[int, int]) -> Any:
    """The marks as a Pillow image."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", size, "#ffffff")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    for mark in marks:
        if mark.kind == "line":
            pairs = list(zip(mark.points, mark.points[1:], strict=False))
            for a, b in pairs[:: 2 if mark.dashed and len(pairs) > 3 else 1]:
                pen.line([a, b], fill=mark.colour, width=max(1, round(mark.width)))
        elif mark.kind == "area":
            pen.polygon(mark.points, fill=mark.colour)
        elif mark.kind == "dots":
            for x, y in mark.points:
                pen.ellipse([x - mark.width, y - mark.width, x + mark.width, y + mark.width], fill=mark.colour)
        else:
            x, y = mark.points[0]
            shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.anchor] * pen.textlength(mark.text, font=font)
            pen.text((x - shift, y - 10), mark.text, fill=mark.colour, font=font)
    return image


def _page(study: Study, svg: str, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]]) -> str:
    """A page that needs nothing but itself."""
    title = html.escape(f"{study.fit.law.title}: prediction against measurement")
    parts = [f"<h1>{title}</h1>", f"<p>{html.escape(study.fit.law.formula)}, {html.escape(study.fit.law.source)}</p>", svg]
    for name, head, rows in tables:
        cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
        parts.append(f"<h2>{html.escape(name)}</h2><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>")
    head = f'<head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
    return f'<!doctype html>\n<html lang="en">{head}<body>\n' + "\n".join(parts) + "\n</body></html>\n"
