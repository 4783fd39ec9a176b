// Draws the charts of the page, links their legends, and makes its tables sortable.
"use strict";

const { charts, config, formatLocale } = JSON.parse(document.getElementById("drawing").textContent);
const views = []; // every drawn view in which methods can be picked
const buttons = [...document.querySelectorAll(".methods button")];
let writer; // writes numbers as the charts do
let picked = new Set(); // names of the methods singled out; none: all are shown

// A method has one colour in all charts, so picking it in one legend picks it in all of them.
function pick(names) {
  if (names.size === picked.size && [...names].every((name) => picked.has(name))) return;
  picked = names;
  const rows = [...names].map((name) => ({ fields: [{ type: "E", field: "method" }], values: [name] }));
  for (const view of views) view.data("picked_store", rows).runAsync();
  for (const button of buttons) button.setAttribute("aria-pressed", names.has(button.dataset.method));
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    const names = new Set(picked);
    if (!names.delete(button.dataset.method)) names.add(button.dataset.method);
    pick(names);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") pick(new Set());
});

async function draw(element) {
  const { panels, datasets } = charts[element.dataset.chart];
  const places = element.querySelectorAll(".panel");
  for (const [index, panel] of panels.entries()) {
    const options = { mode: "vega-lite", config, formatLocale, actions: false, renderer: "svg", defaultStyle: false };
    const tooltip = { disableDefaultStyle: true, offsetX: 12, offsetY: 12 };
    const { view } = await vegaEmbed(places[index], { ...panel, datasets }, { ...options, tooltip });
    places[index].querySelector("svg").setAttribute("aria-hidden", "true"); // the chart's label speaks for it
    writer = view.locale();
    if (!JSON.stringify(panel).includes('"picked"')) continue;
    views.push(view);
    view.addDataListener("picked_store", (_, rows) => pick(new Set(rows.map((row) => row.values[0]))));
  }
}

const collator = new Intl.Collator("en", { numeric: true });

// The number at the start of a cell, or undefined: "98.47 ± 0.59 %", "− 0.12", "< 0.001", "1,024".
function leadingNumber(text) {
  const match = text.replace(/[\u202f\s,]/g, "").match(/^[<±]?([-\u2212]?\d+(\.\d+)?)/);
  return match ? Number(match[1].replace("\u2212", "-")) : undefined;
}

function sortValue(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "\u2013") return null; // unknown: last in either order
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return leadingNumber(text) ?? text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

function sort(table, column, way) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortValue(row.cells[column]), row]);
  const known = rows.filter(([value]) => value !== null).sort(([a], [b]) => way * compare(a, b));
  body.append(...[...known, ...rows.filter(([value]) => value === null)].map(([, row]) => row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      sort(table, column, way);
    });
  }
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The table of a chart's numbers is made when a reader first asks for it.
function fillNumbers(details) {
  const figure = details.closest("figure");
  const { columns, datasets } = charts[figure.querySelector(".chart").dataset.chart];
  const known = columns.filter(({ field }) => datasets.rows.some((row) => row[field] != null));
  const write = (value, format) => (value == null ? "\u2013" : format ? writer.format(format)(value) : value);
  const head = element("tr", {}, ...known.map(({ title }) => element("th", { scope: "col" }, title)));
  const rows = datasets.rows.map((row) => {
    const cells = known.map(({ field, format }, index) => {
      const cell = element(index ? "td" : "th", index ? {} : { scope: "row" }, write(row[field], format));
      if (format && row[field] != null) cell.dataset.value = row[field];
      return cell;
    });
    return element("tr", {}, ...cells);
  });
  const table = element("table", { className: "sortable" }, element("thead", {}, head), element("tbody", {}, ...rows));
  const scroll = element("div", { className: "scroll tall", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "The numbers of the chart above");
  details.append(scroll);
  makeSortable(table);
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
for (const details of document.querySelectorAll("details.numbers")) {
  details.addEventListener("toggle", () => fillNumbers(details), { once: true });
}
Promise.all([...document.querySelectorAll(".chart")].map(draw)).then(() => {
  document.documentElement.dataset.drawn = "true";
});
