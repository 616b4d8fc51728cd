// Sorting, and the way from each cell to its record.
const collator = new Intl.Collator("en", { numeric: true });
const MISSING = ["", "\u2013"];

function startTables() {
  for (const figure of document.querySelectorAll("figure.table")) {
    startSorting(figure.querySelector("table"));
    startCells(figure.querySelector("table"));
  }
}

function startSorting(table) {
  const bodies = [...table.tBodies];
  const declared = bodies.map((body) => [...body.rows]);
  const rows = declared.flat().filter((row) => !row.classList.contains("group"));
  const heads = [...table.tHead.rows[0].cells];
  const flat = make("tbody", {});
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    // The best comes first; the third click gives the declared order back.
    const order = head.dataset.better === "up" ? ["descending", "ascending"] : ["ascending", "descending"];
    const next = ["none", ...order, "none"][["none", ...order].indexOf(head.getAttribute("aria-sort")) + 1];
    for (const other of heads) other.setAttribute("aria-sort", other === head ? next : "none");
    if (next === "none") {
      flat.remove();
      bodies.forEach((body, index) => body.replaceChildren(...declared[index]));
      table.append(...bodies);
      return;
    }
    for (const body of bodies) body.remove();
    flat.replaceChildren(...sorted(rows, column, next === "descending" ? -1 : 1));
    table.append(flat);
  }));
}

// By number where the column has any, else by text; what is missing stays last in either direction.
function sorted(rows, column, sign) {
  const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
  const keyed = rows.map((row) => {
    const cell = row.cells[column], text = cell.textContent.trim();
    const missing = numeric ? cell.dataset.value === undefined : MISSING.includes(text);
    return { row, missing, key: numeric ? Number(cell.dataset.value) : text };
  });
  const compare = numeric ? (a, b) => a.key - b.key : (a, b) => collator.compare(a.key, b.key);
  const there = keyed.filter((entry) => !entry.missing).sort((a, b) => sign * compare(a, b));
  return [...there, ...keyed.filter((entry) => entry.missing)].map((entry) => entry.row);
}

// Each table has one stop for Tab among its cells; the arrow keys go on from there.
function startCells(table) {
  const cells = [...table.querySelectorAll("[data-record]")];
  for (const cell of cells) {
    cell.tabIndex = cell === cells[0] ? 0 : -1;
    addTip(cell, () => cellTip(table, cell));
  }
  table.addEventListener("focusin", (event) => {
    if (!cells.includes(event.target)) return;
    for (const cell of cells) cell.tabIndex = cell === event.target ? 0 : -1;
  });
  table.addEventListener("keydown", (event) => {
    if (!cells.includes(event.target) || !event.key.startsWith("Arrow")) return;
    const next = neighbour(table, event.target, event.key);
    event.preventDefault();
    if (next) next.focus();
  });
}

function neighbour(table, cell, key) {
  const vertical = key === "ArrowUp" || key === "ArrowDown";
  const line = vertical
    ? [...table.tBodies].flatMap((body) => [...body.rows]).map((row) => row.cells[cell.cellIndex])
    : [...cell.parentElement.cells];
  const back = key === "ArrowUp" || key === "ArrowLeft";
  const rest = back ? line.slice(0, line.indexOf(cell)).reverse() : line.slice(line.indexOf(cell) + 1);
  return rest.find((found) => found && found.dataset.record);
}

function cellTip(table, cell) {
  const heading = table.tHead.rows[0].cells[cell.cellIndex].textContent.replace(/[\u2191\u2193]/g, "").trim();
  const title = `${cell.parentElement.cells[0].firstChild?.textContent ?? ""}, ${heading}`;
  const others = (cell.dataset.others || "").split(" ").filter(Boolean);
  return recordTip(title, cell.dataset.record, [cell.dataset.key], others, others.length ? cell.dataset.value || "" : "");
}
