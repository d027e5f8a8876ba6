"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const rows = JSON.parse(document.getElementById("rows").textContent);
const root = document.documentElement;

function shade() {
  const style = getComputedStyle(root);
  const text = style.getPropertyValue("--text").trim();
  const line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  return { font: { color: text }, xaxis: axis, yaxis: axis };
}

// The legend is below the axes; its number of lines depends on the page width.
function legendRoom(plot, width) {
  const names = plot.data.filter((trace) => trace.showlegend !== false && trace.name).map((trace) => trace.name);
  if (names.length < 2) return 0;
  let lines = 1, used = 0;
  for (const name of names) {
    const entry = 60 + 7.5 * name.length;
    if (used && used + entry > width) { lines += 1; used = 0; }
    used += entry;
  }
  return 22 * lines + 8;
}

function layoutOf(plot, place) {
  const colours = shade();
  const room = legendRoom(plot, place.clientWidth);
  const base = matchMedia("(max-width: 600px)").matches ? 320 : 400;
  place.style.height = `${base + room}px`;
  const margin = { ...plot.layout.margin, b: 55 + room };
  const layout = { ...plot.layout, font: colours.font, autosize: true, margin };
  for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...plot.layout[axis], ...colours[axis], automargin: true };
  return layout;
}

function draw(place) {
  const plot = plots[Number(place.dataset.plot)];
  plot.layout = layoutOf(plot, place);
  place.dataset.drawn = "yes";
  return Plotly.react(place, plot.data, plot.layout, { responsive: true, displaylogo: false });
}

// A figure is drawn when it comes near the viewport, so that a page with many figures opens at once.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll(".plot").forEach((place) => watcher.observe(place));

for (const controls of document.querySelectorAll(".controls")) {
  const number = controls.dataset.for;
  controls.addEventListener("change", () => {
    const chosen = (kind) => controls.querySelector(`input[name="${kind}-${number}"]:checked`).value;
    const plot = plots[Number(number)];
    const xs = plot.choices[`${chosen("way")}-${chosen("scope")}`];
    plot.data.forEach((trace, index) => { trace.x = xs[index]; });
    const words = { total: "", up: ", up", down: ", down", all: "all clients", client: "one client" };
    const title = { text: `bytes of ${words[chosen("scope")]}${words[chosen("way")]}, MB` };
    plot.layout.xaxis = { ...plot.layout.xaxis, type: chosen("axis"), autorange: true, title };
    draw(document.querySelector(`.plot[data-plot="${number}"]`));
  });
}

// All figures are drawn before printing, or saving as PDF.
const drawAll = () => document.querySelectorAll('.plot:not([data-drawn="yes"])').forEach(draw);
addEventListener("beforeprint", drawAll);
matchMedia("print").addEventListener("change", (change) => { if (change.matches) drawAll(); });

// A question mark explains its column: as a tooltip, and for a finger or the keyboard as text below the table.
for (const button of document.querySelectorAll(".why")) {
  button.addEventListener("click", () => {
    const wide = button.closest(".wide");
    const said = wide.nextElementSibling?.classList.contains("said") ? wide.nextElementSibling : document.createElement("p");
    said.className = "note said";
    said.setAttribute("aria-live", "polite");
    said.textContent = `${button.parentElement.firstChild.textContent.trim()}: ${button.title}`;
    wide.after(said);
  });
}

// Every table can be copied as Markdown or CSV.
function cellsOf(table) {
  const text = (cell) => [...cell.childNodes].filter((node) => !node.classList?.contains("why"))
    .map((node) => node.textContent).join("").trim().replace(/\s+/g, " ");
  return [...table.rows].map((row) => [...row.cells].map(text));
}
const FORMS = {
  Markdown: (rows) => {
    const line = (cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
    return [line(rows[0]), line(rows[0].map(() => "---")), ...rows.slice(1).map(line)].join("\n") + "\n";
  },
  CSV: (rows) => rows.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")).join("\r\n") + "\r\n",
};
for (const table of document.querySelectorAll(".wide > table:not(#answers)")) {
  if (!table.tHead) continue;
  const place = document.createElement("div");
  for (const [name, form] of Object.entries(FORMS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = `copy as ${name}`;
    button.addEventListener("click", async () => {
      const content = form(cellsOf(table));
      try { await navigator.clipboard.writeText(content); } catch { copyOld(content); }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = `copy as ${name}`; }, 1500);
    });
    place.append(button);
  }
  table.closest(".wide").after(place);
}
// A page opened from a file may not have the clipboard's interface.
function copyOld(content) {
  const area = document.createElement("textarea");
  area.value = content;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(dark));
  document.querySelectorAll('.plot[data-drawn="yes"]').forEach(draw);
}
document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);

const search = document.getElementById("search");
if (search) {
  const body = document.querySelector("#answers tbody");
  const page = 50;
  let shown = page;
  const fields = ["run", "user", "query", "stage", "gold", "prediction"];
  const texts = rows.map((row) => fields.map((field) => String(row[field])).join("\n").toLowerCase());
  function list() {
    const wanted = search.value.toLowerCase();
    const hits = rows.filter((_, index) => texts[index].includes(wanted));
    body.replaceChildren(...hits.slice(0, shown).map((row) => {
      const line = document.createElement("tr");
      for (const field of fields) {
        const cell = document.createElement("td");
        cell.textContent = row[field];
        line.append(cell);
      }
      return line;
    }));
    document.getElementById("found").textContent = `${hits.length} of ${rows.length}`;
    document.getElementById("more").hidden = hits.length <= shown;
  }
  search.addEventListener("input", () => { shown = page; list(); });
  document.getElementById("more").addEventListener("click", () => { shown += 10 * page; list(); });
  list();
}
