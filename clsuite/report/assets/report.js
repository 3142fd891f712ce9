"use strict";
// Draws figures when they come near the view, sorts, searches and exports tables, opens details. No request leaves the folder.
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const data = (figure) => figure._data || (figure._data = JSON.parse(figure.querySelector(".data").textContent));
  const drawn = new Set();
  // Plotly would offer to upload a chart: nothing here leaves the folder.
  const options = (name) => ({
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", toImageButtonOptions: { filename: name },
    modeBarButtonsToRemove: ["sendChartToCloud", "sendDataToCloud", "toImage", "select2d", "lasso2d"],
  });

  function themed(layout) {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), size: 13 },
      margin: { l: 60, r: 20, t: 20, b: 50 }, hoverlabel: { namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") }, legend: { orientation: "h", y: -0.2 }, ...structuredClone(layout),
    };
    for (const key of Object.keys(made)) if (/^[xy]axis\d*$/.test(key)) made[key] = { ...axis, ...made[key] };
    made.xaxis = { ...axis, ...made.xaxis };
    made.yaxis = { ...axis, ...made.yaxis };
    return made;
  }

  function draw(figure) {
    const { name, traces, layout } = data(figure);
    return Plotly.react(figure.querySelector(".plot"), structuredClone(traces), themed(layout), options(name)).then(() => {
      drawn.add(figure);
      figure.dataset.drawn = "yes";
    });
  }

  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const csv = (heads, rows) => [heads, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";

  function numbers(figure, button) {
    const old = figure.querySelector(".numbers");
    button.setAttribute("aria-expanded", String(!old));
    if (old) return old.remove();
    const { heads, rows } = data(figure);
    const box = document.createElement("div");
    box.className = "numbers scroll";
    box.tabIndex = 0;
    const table = box.appendChild(document.createElement("table"));
    const line = (into, cells, tag) => {
      const row = into.insertRow();
      for (const cell of cells) row.appendChild(document.createElement(tag)).textContent = cell === null ? "-" : cell;
    };
    line(table.createTHead(), heads, "th");
    const body = table.createTBody();
    rows.forEach((row) => line(body, row, "td"));
    figure.appendChild(box);
  }

  function exported(button) {
    const kind = button.dataset.export, figure = button.closest(".figure"), holder = button.closest(".table");
    if (figure) {
      const { name, heads, rows } = data(figure);
      if (kind === "csv") return save(`${name}.csv`, "text/csv", csv(heads, rows));
      if (kind === "numbers") return numbers(figure, button);
      return draw(figure).then(() => Plotly.downloadImage(figure.querySelector(".plot"), { format: kind, filename: name, width: 1200, height: 700, scale: 2 }));
    }
    const heads = [...holder.querySelectorAll("thead th")].map((th) => th.textContent);
    const rows = [...holder.querySelectorAll("tbody tr:not([hidden])")].map((tr) => [...tr.cells].map((td) => td.dataset.v));
    return save(`${holder.id}.csv`, "text/csv", csv(heads, rows));
  }

  function sorted(th) {
    const table = th.closest("table"), column = th.cellIndex, body = table.tBodies[0];
    const direction = th.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", direction);
    const rows = [...body.rows].map((row) => [row.cells[column].dataset.v, row]);
    const numeric = rows.every(([v]) => v === "" || !Number.isNaN(Number(v)));
    const sign = direction === "ascending" ? 1 : -1;
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
    });
    body.append(...rows.map(([, row]) => row));
  }

  function narrowed(input) {
    const holder = input.closest(".table"), words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of holder.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    holder.querySelector(".count").textContent = words.length ? `${shown} rows` : "";
  }

  // Details of a run lie in data/NAME.js and are loaded by a script element: pages opened from disk may not fetch.
  const waiting = {};
  window.clsuiteDetails = (name, value) => (waiting[name] ? waiting[name](value) : null);

  function element(tag, text, into) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (into) into.appendChild(made);
    return made;
  }

  function list(pairs, into) {
    const made = element("dl", undefined, into);
    for (const [key, value] of pairs) {
      element("dt", key, made);
      element("dd", value === null ? "-" : typeof value === "object" ? JSON.stringify(value) : String(value), made);
    }
  }

  function show(value) {
    const dialog = document.getElementById("details"), body = dialog.querySelector(".body");
    body.replaceChildren();
    element("h2", value.title, body);
    const plots = [];
    for (const part of value.parts) {
      if (part.heading) element("h3", part.heading, body);
      if (part.pairs) list(part.pairs, body);
      if (part.lines) element("pre", part.lines.join("\n"), body);
      if (part.command) element("code", part.command, element("p", undefined, body));
      if (part.figure) plots.push([element("div", undefined, body), part.figure]);
    }
    dialog.showModal();
    for (const [plot, figure] of plots) {
      plot.style.height = "340px";
      Plotly.newPlot(plot, figure.traces, themed(figure.layout), options(value.title));
    }
    dialog.dataset.shown = value.title;
  }

  function details(link) {
    const [name, key] = link.getAttribute("href").slice("#details:".length).split("/");
    const open = (values) => show(values[key]);
    if (waiting[name] && waiting[name].values) return open(waiting[name].values);
    waiting[name] = (values) => {
      waiting[name].values = values;
      open(values);
    };
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => show({ title: "The details are not there", parts: [{ lines: [`data/${name}.js is missing beside this page`] }] });
    document.head.appendChild(script);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#details:"]');
    if (link) {
      event.preventDefault();
      return details(link);
    }
    const button = event.target.closest("button");
    if (!button) return undefined;
    if (button.dataset.export) return exported(button);
    const th = button.closest("th");
    return th ? sorted(th) : undefined;
  });
  document.addEventListener("input", (event) => event.target.matches("input[type=search]") && narrowed(event.target));

  const figures = [...document.querySelectorAll(".figure")];
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watch.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  figures.forEach((figure) => watch.observe(figure));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...drawn].forEach(draw));
  window.addEventListener("beforeprint", () => figures.filter((figure) => !drawn.has(figure)).forEach(draw));
  window.clsuiteDrawAll = () => Promise.all(figures.map(draw));
})();
