"""TensorBoard: event files in `DIR/tensorboard/<cell>`, written by the package `tensorboard` itself, without torch or TensorFlow."""

from __future__ import annotations

import html
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Wanted
from .base import OpenRun, TrackedRun, Tracker


class TensorBoard(Tracker):
    """A folder of event files a cell; one that goes on gets another file there, which TensorBoard reads as one run."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        super().__init__(wanted, folder)
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.protos = (event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2)
        self.writer = EventFileWriter

    @property
    def destination(self) -> str:
        return "tensorboard"

    @property
    def where(self) -> str:
        return f"tensorboard (tensorboard --logdir {self.folder}/tensorboard)"

    def start(self, run: TrackedRun) -> TensorBoardRun:
        place = self.folder / "tensorboard" / run.id
        if not run.resume:
            shutil.rmtree(place, ignore_errors=True)
        return TensorBoardRun(self, place, run)


class TensorBoardRun(OpenRun):
    """The event files of a cell."""

    def __init__(self, tracker: TensorBoard, place: Path, run: TrackedRun) -> None:
        self._event, self._summary, self._tensor, self._shape, self._types = tracker.protos
        self._writer = tracker.writer(str(place))
        if not run.resume:
            about = {"name": run.name, "group": run.group, "job_type": run.job_type, "tags": ", ".join(run.tags), "id": run.id}
            self._text("run", _markdown(["", ""], list(about.items())))
            self._text("settings", _markdown(["setting", "value"], list(run.config.items())))

    def log(self, values: Mapping[str, float], step_name: str, step: int) -> None:
        self._add([self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()], step)

    def table(self, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._text(name, _markdown(heads, rows))

    def figure(self, name: str, png: bytes) -> None:
        width, height = struct.unpack(">II", png[16:24])
        image = self._summary.Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._add([self._summary.Summary.Value(tag=name, image=image)], 0)

    def summary(self, values: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self._add([self._summary.Summary.Value(tag=f"summary/{name}", simple_value=value) for name, value in numbers.items()], 0)
        self._text("summary", _markdown(["", ""], list(values.items())))

    def finish(self, status: str) -> None:
        self._text("status", status)
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        kind = self._summary.SummaryMetadata(plugin_data=self._summary.SummaryMetadata.PluginData(plugin_name="text"))
        shape = self._shape.TensorShapeProto(dim=[self._shape.TensorShapeProto.Dim(size=1)])
        tensor = self._tensor.TensorProto(dtype=self._types.DT_STRING, tensor_shape=shape, string_val=[text.encode()])
        self._add([self._summary.Summary.Value(tag=f"{tag}/text_summary", metadata=kind, tensor=tensor)], 0)

    def _add(self, values: list[Any], step: int) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, summary=self._summary.Summary(value=values)))
        self._writer.flush()


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [heads, ["---"] * len(heads), *rows])


def _cell(value: Any) -> str:
    return "" if value is None else html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|")
